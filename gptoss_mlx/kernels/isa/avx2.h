// Vectors of 8 floats for AVX2 with FMA and F16C. See simd.h for what each name promises.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace gptoss::GPTOSS_ISA {

using F = __m256;
constexpr int kLanes = 8;
constexpr int kRowBlock = 2;
constexpr int kTileRows = 1;
constexpr int kTileCols = 3;

inline F zero() { return _mm256_setzero_ps(); }
inline F set1(float x) { return _mm256_set1_ps(x); }
inline F load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, F x) { _mm256_storeu_ps(p, x); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F add(F a, F b) { return _mm256_add_ps(a, b); }
inline F sub(F a, F b) { return _mm256_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
inline F div(F a, F b) { return _mm256_div_ps(a, b); }
inline F min(F a, F b) { return _mm256_min_ps(a, b); }
inline F max(F a, F b) { return _mm256_max_ps(a, b); }
inline F abs(F a) { return _mm256_andnot_ps(set1(-0.0f), a); }
inline F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F scale2(F x, F n) {  // in two steps, so that results below the normal range come out as well
    const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    const __m256i rest = _mm256_sub_epi32(whole, half), bias = _mm256_set1_epi32(127);
    const F first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    const F second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return mul(mul(x, first), second);
}
inline float sum(F x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
inline F sums(const F* x) {  // halves of two vectors change places and are added, until each lane holds a sum
    F a[4], b[2];
    for (int i = 0; i < 4; ++i) {
        const F moved = _mm256_blend_ps(x[2 * i], x[2 * i + 1], 0x55);
        a[i] = add(_mm256_blend_ps(x[2 * i], x[2 * i + 1], 0xaa), _mm256_permute_ps(moved, 0xb1));
    }
    for (int i = 0; i < 2; ++i) {
        const F moved = _mm256_blend_ps(a[2 * i], a[2 * i + 1], 0x33);
        b[i] = add(_mm256_blend_ps(a[2 * i], a[2 * i + 1], 0xcc), _mm256_permute_ps(moved, 0x4e));
    }
    const F moved = _mm256_blend_ps(b[0], b[1], 0x0f);
    return add(_mm256_blend_ps(b[0], b[1], 0xf0), _mm256_permute2f128_ps(moved, moved, 0x01));
}
inline float largest(F x) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

inline __m128i load_half(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m256i load_bytes(const uint8_t* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline F load_bf16(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_half(p)), 16));
}
inline F load_f16(const uint16_t* p) { return _mm256_cvtph_ps(load_half(p)); }
inline void store_bf16(uint16_t* p, F x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    rounded = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), nan), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}
inline void store_f16(uint16_t* p, F x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
inline F load_u8(const uint8_t* p) { return _mm256_cvtepi32_ps(load_bytes(p)); }
inline F load_exponents(const uint8_t* p) {
    return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_slli_epi32(load_bytes(p), 23), _mm256_set1_epi32(0x00400000)));
}

constexpr int kNibbleOrder[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

inline __m256i spread_nibbles(const uint8_t* p) {  // the bits above the low four are not cleared
    int32_t word;
    std::memcpy(&word, p, 4);
    return _mm256_srlv_epi32(_mm256_set1_epi32(word), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
}
inline F load_nibbles(const uint8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_and_si256(spread_nibbles(p), _mm256_set1_epi32(15)));
}
inline void load_fp4(const uint8_t* p, F* out) {  // three bits choose the magnitude, the fourth is the sign
    const F magnitudes = _mm256_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6);
    for (int i = 0; i < 2; ++i) {
        const __m256i codes = spread_nibbles(p + 4 * i);
        const F sign = _mm256_and_ps(_mm256_castsi256_ps(_mm256_slli_epi32(codes, 28)), set1(-0.0f));
        out[i] = _mm256_xor_ps(_mm256_permutevar8x32_ps(magnitudes, codes), sign);
    }
}
inline void load_u4(const uint8_t* p, F* out) {
    for (int i = 0; i < 2; ++i) out[i] = load_nibbles(p + 4 * i);
}
inline void load_u6(const uint8_t* p, F* out) {
    for (int i = 0; i < 2; ++i) {  // 8 values in 6 bytes
        uint16_t high;
        uint32_t low;
        std::memcpy(&low, p + 6 * i, 4);
        std::memcpy(&high, p + 6 * i + 4, 2);
        const int first = int(low & 0xffffff), second = int(low >> 24 | uint32_t(high) << 8);
        const __m256i words = _mm256_setr_epi32(first, first, first, first, second, second, second, second);
        const __m256i codes = _mm256_srlv_epi32(words, _mm256_setr_epi32(0, 6, 12, 18, 0, 6, 12, 18));
        out[i] = _mm256_cvtepi32_ps(_mm256_and_si256(codes, _mm256_set1_epi32(63)));
    }
}
inline void load_fp8(const uint8_t* p, F* out) {
    for (int i = 0; i < 2; ++i) {
        const __m256i bytes = load_bytes(p + 8 * i);
        const __m256i magnitude = _mm256_slli_epi32(_mm256_and_si256(bytes, _mm256_set1_epi32(0x7f)), 20);
        const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(bytes, _mm256_set1_epi32(0x80)), 24);
        const F value = mul(_mm256_castsi256_ps(magnitude), set1(0x1p120f));
        out[i] = _mm256_or_ps(value, _mm256_castsi256_ps(sign));
    }
}

using I = __m256i;
constexpr int kIntRows = 4;

inline I int_zero() { return _mm256_setzero_si256(); }
inline I int_load(const int16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline I int_pair(const int16_t* p) {
    int32_t pair;
    std::memcpy(&pair, p, 4);
    return _mm256_set1_epi32(pair);
}
inline I int_dot(I sums, I a, I b) { return _mm256_add_epi32(sums, _mm256_madd_epi16(a, b)); }
inline F int_to_float(I x) { return _mm256_cvtepi32_ps(x); }
inline void store_i16(int16_t* p, F x) {
    const __m256i whole = _mm256_cvtps_epi32(x);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(whole, whole), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}
inline void transpose_codes(const int8_t* const* rows, int16_t* const* quarters, int64_t stride) {
    for (int part = 0; part < 2; ++part) {  // 8 dwords at a time
        __m256i r[8], t[8];
        for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[i] + 32 * part));
        for (int i = 0; i < 8; i += 2) {
            t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
            t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
        }
        for (int i = 0; i < 8; i += 4) {
            r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
            r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
            r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
            r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
        }
        for (int i = 0; i < 4; ++i) {
            t[i] = _mm256_permute2x128_si256(r[i], r[4 + i], 0x20);
            t[4 + i] = _mm256_permute2x128_si256(r[i], r[4 + i], 0x31);
        }
        for (int i = 0; i < 8; ++i) {
            int16_t* to = quarters[2 * part + i / 4] + 2 * (i % 4) * stride;
            const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(t[i], 8), 8), odd = _mm256_srai_epi16(t[i], 8);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), even);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + stride), odd);
        }
    }
}
inline void nibbles_to_codes(const uint8_t* p, const int8_t* table, int8_t* out) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i mask = _mm256_set1_epi8(15);
    const __m256i values = _mm256_broadcastsi128_si256(load_half(table));
    const __m256i low = _mm256_shuffle_epi8(values, _mm256_and_si256(bytes, mask));
    const __m256i high = _mm256_shuffle_epi8(values, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32), high);
}

}  // namespace gptoss::GPTOSS_ISA
