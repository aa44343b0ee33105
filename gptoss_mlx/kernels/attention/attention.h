// Attention with one learned sink per query head, over cached keys and values as they lie in memory.
#pragma once

#include "common/arrays.h"

namespace gptoss {

// queries (B, H, T, D); keys and values (B, K, S, D) in float32, float16 or bfloat16, read through their strides;
// sinks (H) -> (B, T, H * D) in float32. Query t stands at key S - T + t and sees itself and what comes before, if
// window > 0 the last `window` of these. The keys are those from number `first` on, a multiple of kFirstStep: a query's
// result is the same to the bit whatever lies before its window in the arrays, if their first key is numbered truly.
mx::array attend(const mx::array& queries, const mx::array& keys, const mx::array& values, const mx::array& sinks,
                 float scale, int window, int64_t first = 0, mx::StreamOrDevice s = {});

// The same over codes: keys and values are three arrays each, codes of 8 or 4 bits (B, K, S, D * bits / 32) in uint32,
// and a scale and a bias in float16 for every kGroup of them (B, K, S, D / kGroup), as mx::quantize gives them.
mx::array attend_codes(const mx::array& queries, const std::vector<mx::array>& keys,
                       const std::vector<mx::array>& values, const mx::array& sinks, float scale, int window,
                       mx::StreamOrDevice s = {});

}  // namespace gptoss
