// RMSNorm of one row. Compiled once per instruction set.
#pragma once

#include "isa/simd.h"

namespace gptoss::GPTOSS_ISA {

// out = x / sqrt(mean(x^2) + eps) * weight
inline void norm_row(const float* x, const float* weight, int64_t count, float eps, float* out) {
    F squares[4] = {zero(), zero(), zero(), zero()};
    int64_t i = 0;
    for (; i + 4 * kLanes <= count; i += 4 * kLanes)
        for (int v = 0; v < 4; ++v) {
            const F part = load(x + i + v * kLanes);
            squares[v] = fma(part, part, squares[v]);
        }
    float total = sum(add(add(squares[0], squares[1]), add(squares[2], squares[3])));
    for (; i < count; ++i) total += x[i] * x[i];
    const float factor = 1.0f / __builtin_sqrtf(total / float(count) + eps);
    for (i = 0; i + kLanes <= count; i += kLanes) store(out + i, mul(mul(load(x + i), set1(factor)), load(weight + i)));
    for (; i < count; ++i) out[i] = x[i] * factor * weight[i];
}

}  // namespace gptoss::GPTOSS_ISA
