// Keys or values appended to a buffer that has room for more.
#pragma once

#include "common/arrays.h"

namespace gptoss {

// Write `fresh` (B, K, T, D) to the positions [start, start + T) of `buffer` (B, K, room, D) in place, and return the
// buffer as a new array that shares the memory.
//
// MLX's arrays are values, and this one changes under `buffer`. That is sound if every position of a buffer is written
// at most once and nobody looks at a position through an array that is older than its write; gptoss_mlx/cache.py, the
// only caller, keeps both promises. Under them the order of evaluation is right as well: whoever reads position p
// depends on the array that wrote it, and a later write touches other memory.
mx::array append(const mx::array& buffer, const mx::array& fresh, int start, mx::StreamOrDevice s = {});

}  // namespace gptoss
