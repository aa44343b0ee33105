// The mixture of experts: the router's choice, and the chosen experts' gated feed-forward networks in one operation.
#pragma once

#include <utility>

#include "common/arrays.h"
#include "product/rows.h"

namespace gptoss {

// The k largest of each row of logits (..., E), the first of equals first, and their softmax:
// indices (..., k) in uint32 and shares (..., k) in float32.
std::pair<mx::array, mx::array> route(const mx::array& logits, int k, mx::StreamOrDevice s = {});

// sum over j of shares[..., j] * expert chosen[..., j] of x, where an expert is down(swiglu(gate(x), up(x))).
// x (..., hidden); chosen (..., k) integers; shares (..., k) -> (..., hidden) in float32.
mx::array experts(const mx::array& x, const mx::array& chosen, const mx::array& shares, const Weight& gate,
                  const Weight& up, const Weight& down, float limit, float alpha, Precision precision,
                  mx::StreamOrDevice s = {});

}  // namespace gptoss
