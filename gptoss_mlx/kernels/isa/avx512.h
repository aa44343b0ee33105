// Vectors of 16 floats for AVX-512 (F, BW, VL, DQ, VNNI). See simd.h for what each name promises.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace gptoss::GPTOSS_ISA {

using F = __m512;
constexpr int kLanes = 16;
constexpr int kRowBlock = 4;  // rows of x per pass over a row of codes
constexpr int kTileRows = 2;  // of weights, and
constexpr int kTileCols = 3;  // of x, that a float tile keeps in registers

inline F zero() { return _mm512_setzero_ps(); }
inline F set1(float x) { return _mm512_set1_ps(x); }
inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F abs(F a) { return _mm512_abs_ps(a); }
inline F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F scale2(F x, F n) { return _mm512_scalef_ps(x, n); }
inline float sum(F x) { return _mm512_reduce_add_ps(x); }
inline F sums(const F* x) {  // halves of two vectors are interleaved and added, until each lane holds a sum
    F a[8], b[4];
    for (int i = 0; i < 8; ++i) {
        const F first = x[4 * (i % 4) + i / 4], second = x[4 * (i % 4) + i / 4 + 2];
        a[i] = add(_mm512_unpacklo_ps(first, second), _mm512_unpackhi_ps(first, second));
    }
    for (int i = 0; i < 4; ++i) b[i] = add(_mm512_unpacklo_ps(a[i], a[i + 4]), _mm512_unpackhi_ps(a[i], a[i + 4]));
    const F c = add(_mm512_shuffle_f32x4(b[0], b[1], 0x88), _mm512_shuffle_f32x4(b[0], b[1], 0xdd));
    const F d = add(_mm512_shuffle_f32x4(b[2], b[3], 0x88), _mm512_shuffle_f32x4(b[2], b[3], 0xdd));
    return add(_mm512_shuffle_f32x4(c, d, 0x88), _mm512_shuffle_f32x4(c, d, 0xdd));
}
inline float largest(F x) { return _mm512_reduce_max_ps(x); }

inline F load_bf16(const uint16_t* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline F load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store_bf16(uint16_t* p, F x) {  // to nearest, ties to even; NaN stays NaN
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}
inline void store_f16(uint16_t* p, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
inline F load_u8(const uint8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline F load_exponents(const uint8_t* p) {  // 2^(byte - 127); 2^-127 is half the smallest normal number
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_slli_epi32(bytes, 23), _mm512_set1_epi32(0x00400000)));
}

// Nibbles: lane i takes nibble i / 2 of word i % 2, so that one 64-bit broadcast and one shift spread them.
constexpr int kNibbleOrder[16] = {0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15};

inline __m512i spread_nibbles(const uint8_t* p) {  // the low four bits of each lane count, the others are not cleared
    int64_t words;
    std::memcpy(&words, p, 8);
    const __m512i shifts = _mm512_setr_epi32(0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28);
    return _mm512_srlv_epi32(_mm512_set1_epi64(words), shifts);
}
inline void load_fp4(const uint8_t* p, F* out) {
    const F values = _mm512_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6);
    out[0] = _mm512_permutexvar_ps(spread_nibbles(p), values);
}
inline void load_u4(const uint8_t* p, F* out) {
    const F values = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    out[0] = _mm512_permutexvar_ps(spread_nibbles(p), values);
}
inline F load_nibbles(const uint8_t* p) {
    int32_t words[2];
    std::memcpy(words, p, 8);
    const __m512i both = _mm512_mask_set1_epi32(_mm512_set1_epi32(words[0]), 0xff00, words[1]);
    const __m512i shifts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    const F values = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_permutexvar_ps(_mm512_srlv_epi32(both, shifts), values);
}
inline void load_u6(const uint8_t* p, F* out) {  // 16 values in 12 bytes, lowest bits first
    int64_t low;
    int32_t high;
    std::memcpy(&low, p, 8);
    std::memcpy(&high, p + 8, 4);
    const __m128i bytes = _mm_insert_epi32(_mm_cvtsi64_si128(low), high, 2);
    const __m128i from = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
    const __m128i words = _mm_shuffle_epi8(bytes, from);  // four 24-bit words of four values each
    const __m512i spread = _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3),
                                                    _mm512_castsi128_si512(words));
    const __m512i shifts = _mm512_setr_epi32(0, 6, 12, 18, 0, 6, 12, 18, 0, 6, 12, 18, 0, 6, 12, 18);
    out[0] = _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srlv_epi32(spread, shifts), _mm512_set1_epi32(63)));
}
inline void load_fp8(const uint8_t* p, F* out) {  // e4m3: shifted to float's place, the exponent's bias put right
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m512i magnitude = _mm512_slli_epi32(_mm512_and_si512(bytes, _mm512_set1_epi32(0x7f)), 20);
    const __m512i sign = _mm512_slli_epi32(_mm512_and_si512(bytes, _mm512_set1_epi32(0x80)), 24);
    const F value = _mm512_mul_ps(_mm512_castsi512_ps(magnitude), set1(0x1p120f));
    out[0] = _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(value), sign));
}

// Integer tiles: pairs of 16-bit numbers, 16 sums of 32 bits.
using I = __m512i;
constexpr int kIntRows = 8;  // rows of x per tile

inline I int_zero() { return _mm512_setzero_si512(); }
inline I int_load(const int16_t* p) { return _mm512_loadu_si512(p); }
inline I int_pair(const int16_t* p) {
    int32_t pair;
    std::memcpy(&pair, p, 4);
    return _mm512_set1_epi32(pair);
}
inline I int_dot(I sums, I a, I b) {  // by hand: compilers copy the sums before and after each of these
    asm("vpdpwssd %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
    return sums;
}
inline F int_to_float(I x) { return _mm512_cvtepi32_ps(x); }

// 16 values to 16-bit numbers by rounding, none out of range.
inline void store_i16(int16_t* p, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(x)));
}

// kLanes rows of 64 one-byte codes -> pairs for int_dot, [dword][row][2], two pairs per dword of codes: its bytes 0
// and 2, then its bytes 1 and 3, `stride` apart. Four dwords each go to one of the four destinations.
inline void transpose_codes(const int8_t* const* rows, int16_t* const* quarters, int64_t stride) {
    __m512i r[16], t[16];
    for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(rows[i]);
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {  // r[4g + i]: rows 4g to 4g + 3, dwords i, 4 + i, 8 + i, 12 + i in its 128-bit parts
        const __m512i a = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88), b = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        const __m512i c = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        const __m512i d = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
        t[i] = _mm512_shuffle_i32x4(a, c, 0x88);
        t[8 + i] = _mm512_shuffle_i32x4(a, c, 0xdd);
        t[4 + i] = _mm512_shuffle_i32x4(b, d, 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
    for (int i = 0; i < 16; ++i) {
        int16_t* to = quarters[i / 4] + 2 * (i % 4) * stride;
        _mm512_storeu_si512(to, _mm512_srai_epi16(_mm512_slli_epi16(t[i], 8), 8));
        _mm512_storeu_si512(to + stride, _mm512_srai_epi16(t[i], 8));
    }
}

// 64 nibbles (32 bytes) to codes through a table: the even ones first, then the odd ones.
inline void nibbles_to_codes(const uint8_t* p, const int8_t* table, int8_t* out) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i mask = _mm256_set1_epi8(15);
    const __m256i values = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
    const __m256i low = _mm256_shuffle_epi8(values, _mm256_and_si256(bytes, mask));
    const __m256i high = _mm256_shuffle_epi8(values, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32), high);
}

}  // namespace gptoss::GPTOSS_ISA
