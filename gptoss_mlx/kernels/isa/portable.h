// Vectors of 4 floats in the compiler's own vector extension, for every processor. See simd.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace gptoss::GPTOSS_ISA {

typedef float F __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
constexpr int kLanes = 4;
constexpr int kRowBlock = 2;
constexpr int kTileRows = 1;
constexpr int kTileCols = 2;

inline F zero() { return F{0, 0, 0, 0}; }
inline F set1(float x) { return F{x, x, x, x}; }
inline F load(const float* p) {
    F x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
inline void store(float* p, F x) { std::memcpy(p, &x, sizeof x); }
inline F fma(F a, F b, F c) { return a * b + c; }
inline F add(F a, F b) { return a + b; }
inline F sub(F a, F b) { return a - b; }
inline F mul(F a, F b) { return a * b; }
inline F div(F a, F b) { return a / b; }
inline F min(F a, F b) { return a < b ? a : b; }
inline F max(F a, F b) { return a > b ? a : b; }
inline F abs(F a) { return a < 0 ? -a : a; }
inline F round(F a) {  // adding and taking away 1.5 * 2^23 leaves a whole number; enough for |a| < 2^22
    const F big = set1(12582912.0f);
    volatile float steps[4];
    for (int i = 0; i < 4; ++i) steps[i] = a[i] + big[i];
    return F{steps[0] - big[0], steps[1] - big[1], steps[2] - big[2], steps[3] - big[3]};
}
inline F scale2(F x, F n) {
    return F{std::ldexp(x[0], int(n[0])), std::ldexp(x[1], int(n[1])), std::ldexp(x[2], int(n[2])),
             std::ldexp(x[3], int(n[3]))};
}
inline float sum(F x) { return (x[0] + x[2]) + (x[1] + x[3]); }
inline F sums(const F* x) { return F{sum(x[0]), sum(x[1]), sum(x[2]), sum(x[3])}; }
inline float largest(F x) {
    const float a = x[0] > x[1] ? x[0] : x[1], b = x[2] > x[3] ? x[2] : x[3];
    return a > b ? a : b;
}

inline float from_bits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
inline uint32_t to_bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
inline float from_f16(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000) << 16, magnitude = uint32_t(half & 0x7fff) << 13;
    if ((half & 0x7c00) == 0x7c00) return from_bits(sign | 0x7f800000 | (magnitude & 0x7fffff));
    return from_bits(sign | to_bits(from_bits(magnitude) * 0x1p112f));
}
inline uint16_t to_f16(float x) {
    const uint32_t bits = to_bits(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00);
    if (magnitude >= 0x47800000) return uint16_t(sign | 0x7c00);
    if (magnitude < 0x38800000) {  // below the normal halves: the unit in the last place is 2^-24
        const float whole = from_bits(magnitude) * 0x1p24f;
        return uint16_t(sign | uint32_t(std::nearbyint(whole)));
    }
    return uint16_t(sign | ((magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000) >> 13));
}
inline F load_bf16(const uint16_t* p) {
    return F{from_bits(uint32_t(p[0]) << 16), from_bits(uint32_t(p[1]) << 16), from_bits(uint32_t(p[2]) << 16),
             from_bits(uint32_t(p[3]) << 16)};
}
inline F load_f16(const uint16_t* p) { return F{from_f16(p[0]), from_f16(p[1]), from_f16(p[2]), from_f16(p[3])}; }
inline void store_bf16(uint16_t* p, F x) {
    for (int i = 0; i < 4; ++i) {
        const uint32_t bits = to_bits(x[i]);
        const bool nan = (bits & 0x7fffffff) > 0x7f800000;
        p[i] = nan ? 0x7fc0 : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}
inline void store_f16(uint16_t* p, F x) {
    for (int i = 0; i < 4; ++i) p[i] = to_f16(x[i]);
}
inline F load_u8(const uint8_t* p) { return F{float(p[0]), float(p[1]), float(p[2]), float(p[3])}; }
inline F load_exponents(const uint8_t* p) {
    F x;
    for (int i = 0; i < 4; ++i) x[i] = from_bits(p[i] == 0 ? 0x00400000 : uint32_t(p[i]) << 23);
    return x;
}

constexpr int kNibbleOrder[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

inline F load_nibbles(const uint8_t* p) {
    return F{float(p[0] & 15), float(p[0] >> 4), float(p[1] & 15), float(p[1] >> 4)};
}
inline void load_fp4(const uint8_t* p, F* out) {
    static constexpr float values[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    for (int i = 0; i < 16; ++i) out[i / 4][i % 4] = values[p[i / 2] >> (4 * (i % 2)) & 15];
}
inline void load_u4(const uint8_t* p, F* out) {
    for (int i = 0; i < 4; ++i) out[i] = load_nibbles(p + 2 * i);
}
inline void load_u6(const uint8_t* p, F* out) {
    for (int i = 0; i < 4; ++i) {
        const uint32_t word = p[3 * i] | uint32_t(p[3 * i + 1]) << 8 | uint32_t(p[3 * i + 2]) << 16;
        for (int j = 0; j < 4; ++j) out[i][j] = float(word >> (6 * j) & 63);
    }
}
inline void load_fp8(const uint8_t* p, F* out) {
    for (int i = 0; i < 16; ++i) {
        const float magnitude = from_bits(uint32_t(p[i] & 0x7f) << 20) * 0x1p120f;
        out[i / 4][i % 4] = p[i] & 0x80 ? -magnitude : magnitude;
    }
}

constexpr int kIntRows = 4;

inline I int_zero() { return I{0, 0, 0, 0}; }
struct Pairs {
    int16_t value[8];
};
inline Pairs int_load(const int16_t* p) {
    Pairs x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
inline Pairs int_pair(const int16_t* p) { return Pairs{{p[0], p[1], p[0], p[1], p[0], p[1], p[0], p[1]}}; }
inline I int_dot(I sums, Pairs a, Pairs b) {
    for (int i = 0; i < 4; ++i) sums[i] += a.value[2 * i] * b.value[2 * i] + a.value[2 * i + 1] * b.value[2 * i + 1];
    return sums;
}
inline F int_to_float(I x) { return F{float(x[0]), float(x[1]), float(x[2]), float(x[3])}; }
inline void store_i16(int16_t* p, F x) {
    for (int i = 0; i < 4; ++i) p[i] = int16_t(std::nearbyint(x[i]));
}
inline void transpose_codes(const int8_t* const* rows, int16_t* const* quarters, int64_t stride) {
    for (int dword = 0; dword < 16; ++dword)
        for (int row = 0; row < kLanes; ++row) {
            const int8_t* codes = rows[row] + 4 * dword;
            int16_t* even = quarters[dword / 4] + 2 * (dword % 4) * stride + 2 * row;
            int16_t* odd = even + stride;
            even[0] = codes[0], even[1] = codes[2], odd[0] = codes[1], odd[1] = codes[3];
        }
}
inline void nibbles_to_codes(const uint8_t* p, const int8_t* table, int8_t* out) {
    for (int i = 0; i < 32; ++i) {
        out[i] = table[p[i] & 15];
        out[32 + i] = table[p[i] >> 4];
    }
}

}  // namespace gptoss::GPTOSS_ISA
