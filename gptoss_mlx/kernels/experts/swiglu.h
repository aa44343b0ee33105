// gpt-oss's clamped SwiGLU over rows. Compiled once per instruction set.
#pragma once

#include "isa/simd.h"

namespace gptoss::GPTOSS_ISA {

inline F swiglu(F gate, F up, F limit, F alpha) {
    const F capped = min(limit, gate);  // the second of two numbers comes out where one is NaN
    const F shifted = add(max(sub(zero(), limit), min(limit, up)), set1(1.0f));
    const F sigmoid = div(set1(1.0f), add(set1(1.0f), exp(sub(zero(), mul(alpha, capped)))));
    return mul(mul(capped, sigmoid), shifted);
}

inline void swiglu_row(float* gate, const float* up, int64_t count, float limit, float alpha) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes)
        store(gate + i, swiglu(load(gate + i), load(up + i), set1(limit), set1(alpha)));
    if (i < count) {
        alignas(64) float left[kLanes] = {}, right[kLanes] = {};
        std::memcpy(left, gate + i, (count - i) * 4);
        std::memcpy(right, up + i, (count - i) * 4);
        store(left, swiglu(load(left), load(right), set1(limit), set1(alpha)));
        std::memcpy(gate + i, left, (count - i) * 4);
    }
}

}  // namespace gptoss::GPTOSS_ISA
