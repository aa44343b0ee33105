// A projection cut into heads, turned by position and cast, in one pass.
#pragma once

#include <optional>

#include "common/arrays.h"

namespace gptoss {

// x (B, T, n * width) -> (B, n, T, width) in `dtype` (float32, float16 or bfloat16). With cos and sin (T, width / 2)
// in float32, the pairs (i, i + width / 2) are turned by their angles. float16 saturates at 65504.
mx::array heads(const mx::array& x, int width, const std::optional<mx::array>& cos, const std::optional<mx::array>& sin,
                mx::Dtype dtype, mx::StreamOrDevice s = {});

}  // namespace gptoss
