// One head's vector: turned by its position or as it is, written as any number. Compiled once per instruction set.
#pragma once

#include "isa/simd.h"

namespace gptoss::GPTOSS_ISA {

// float16 ends at 65504: what lies beyond stays there instead of becoming infinite. Not-a-number stays what it is.
inline void put(Number number, void* out, int64_t i, F x) {
    if (number == Number::kFloat32) store(static_cast<float*>(out) + i, x);
    if (number == Number::kBFloat16) store_bf16(static_cast<uint16_t*>(out) + i, x);
    if (number == Number::kFloat16)
        store_f16(static_cast<uint16_t*>(out) + i, max(set1(-65504.0f), min(set1(65504.0f), x)));
}

// The same for fewer than kLanes numbers.
inline void put_rest(Number number, void* out, int64_t i, int64_t count, const float* x) {
    alignas(64) uint8_t buffer[kLanes * 4];
    const int64_t bytes = number == Number::kFloat32 ? 4 : 2;
    put(number, buffer, 0, load(x));
    std::memcpy(static_cast<uint8_t*>(out) + i * bytes, buffer, count * bytes);
}

// out[i] = x[i] for i < count
inline void convert_row(const float* x, int64_t count, Number number, void* out) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) put(number, out, i, load(x + i));
    if (i < count) {
        alignas(64) float rest[kLanes] = {};
        std::memcpy(rest, x + i, (count - i) * sizeof(float));
        put_rest(number, out, i, count - i, rest);
    }
}

// Turn the pairs (i, i + half) of x by the angles whose cosines and sines are given.
inline void turn_row(const float* x, const float* cos, const float* sin, int64_t half, Number number, void* out) {
    int64_t i = 0;
    for (; i + kLanes <= half; i += kLanes) {
        const F first = load(x + i), second = load(x + half + i), c = load(cos + i), s = load(sin + i);
        put(number, out, i, sub(mul(first, c), mul(second, s)));
        put(number, out, half + i, add(mul(second, c), mul(first, s)));
    }
    if (i < half) {
        alignas(64) float first[kLanes] = {}, second[kLanes] = {};
        for (int64_t j = i; j < half; ++j) {
            first[j - i] = x[j] * cos[j] - x[half + j] * sin[j];
            second[j - i] = x[half + j] * cos[j] + x[j] * sin[j];
        }
        put_rest(number, out, i, half - i, first);
        put_rest(number, out, half + i, half - i, second);
    }
}

}  // namespace gptoss::GPTOSS_ISA
