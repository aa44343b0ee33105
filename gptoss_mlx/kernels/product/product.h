// x @ W^T + bias for a packed or plain matrix W.
#pragma once

#include "common/arrays.h"
#include "product/rows.h"

namespace gptoss {

// x (..., cols) in any float dtype -> (..., rows) in float32.
mx::array product(const mx::array& x, const Weight& weight, Precision precision, mx::StreamOrDevice s = {});

}  // namespace gptoss
