// How activations are rounded to whole numbers, for both of the integer forms of products.
#pragma once

#include "isa/simd.h"

namespace gptoss::GPTOSS_ISA {

// What one step of a row's whole numbers is worth: its largest magnitude / top. At least the smallest normal number,
// whose inverse is finite, and NaN if the row holds a NaN or an infinity: these must not become numbers, so that such
// a row's results are all NaN.
inline float rounding_step(const float* x, int64_t count, float top_value = 32512.0f) {
    F high = zero(), spoilt = zero();
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        const F some = load(x + i);
        high = max(high, abs(some));
        spoilt = fma(some, zero(), spoilt);  // 0 if all are finite
    }
    float top = largest(high), rest = sum(spoilt);
    for (; i < count; ++i) {
        const float magnitude = x[i] < 0 ? -x[i] : x[i];
        top = top < magnitude ? magnitude : top;
        rest += x[i] * 0.0f;
    }
    const float step = top / top_value;
    return (step < 0x1p-126f ? 0x1p-126f : step) + rest;
}

}  // namespace gptoss::GPTOSS_ISA
