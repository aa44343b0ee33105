// x @ W^T + bias for a packed or plain matrix W.
#pragma once

#include "common/arrays.h"

namespace gptoss {

// x (..., cols) in any float dtype -> (..., rows) in float32. `rounded` allows the integer product, which rounds
// activations to 16 bits, where it is faster; else everything is float32.
mx::array product(const mx::array& x, const Weight& weight, bool rounded, mx::StreamOrDevice s = {});

// The same for rows that lie in memory; x (count, cols), y (count, matrix.rows).
void run_product(const Matrix& matrix, const float* x, int64_t count, float* y, bool rounded);

}  // namespace gptoss
