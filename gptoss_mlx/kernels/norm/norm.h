// RMSNorm over the last axis.
#pragma once

#include "common/arrays.h"

namespace gptoss {

// x (..., N) in any float dtype, weight (N) -> x / sqrt(mean(x^2) + eps) * weight in float32.
mx::array rms_norm(const mx::array& x, const mx::array& weight, float eps, mx::StreamOrDevice s = {});

}  // namespace gptoss
