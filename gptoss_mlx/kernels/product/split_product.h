// Matrix products of few rows in integers, for AVX-512 with its dot product of bytes. Activations are rounded to 24
// bits, which is as good as float32, and split into bytes, so that three byte products give what one of 24 bits would:
// x = 65536 * high + 256 * middle + low. Codes stay as they lie in memory, rows are read one after the other, and a
// vector's lanes run along a row; sums over a vector's lane are exact in 32 bits.
//
// Codes are unsigned here (MXFP4: twice the value plus 12). What that adds to a sum is taken off again through the
// sums of activations over each group. A result does not depend on the number of rows.
#pragma once

#include "product/float_product.h"
#include "product/rounding.h"

namespace gptoss::GPTOSS_ISA {

constexpr int kSplitPad = 128;     // codes of the longest vector
constexpr int64_t kAhead = 12288;  // bytes

inline bool has_split(Format format, int group) { return has_integer(format, group); }

// A rounded row in memory: scale, then its sum over each group (zeros follow, so that whole vectors may be read),
// then the high, the middle and the low bytes.
struct Split {
    float scale;
    const float* sums;
    const int8_t* bytes[3];
};

inline int64_t split_head(int64_t cols, int group) { return 64 + padded(cols / group, kLanes) * 4; }
inline int64_t split_bytes(int64_t cols, int group) { return split_head(cols, group) + 3 * padded(cols, kSplitPad); }

inline Split split_at(const uint8_t* p, int64_t cols, int group) {
    const auto* floats = reinterpret_cast<const float*>(p);
    const auto* high = reinterpret_cast<const int8_t*>(p + split_head(cols, group));
    const int64_t step = padded(cols, kSplitPad);
    return {floats[0], floats + 16, {high, high + step, high + 2 * step}};
}

// 64 whole numbers to their bytes, each of which is signed and carries into the next.
inline void split_values(const __m512i* values, int8_t* high, int64_t step) {
    for (int i = 0; i < 4; ++i) {
        const __m512i half = _mm512_set1_epi32(128);
        const __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(values[i], half), 8);
        const __m512i top = _mm512_srai_epi32(_mm512_add_epi32(upper, half), 8);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(high + 16 * i), _mm512_cvtepi32_epi8(top));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(high + step + 16 * i), _mm512_cvtepi32_epi8(upper));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(high + 2 * step + 16 * i), _mm512_cvtepi32_epi8(values[i]));
    }
}

inline void split_row(Format format, int group, const float* x, int64_t cols, uint8_t* out) {
    const float scale = rounding_step(x, cols, 8355000.0f);  // so that the high byte stays within 127
    const F inverse = set1(1.0f / scale);
    auto* floats = reinterpret_cast<float*>(out);
    auto* high = reinterpret_cast<int8_t*>(out + split_head(cols, group));
    const bool finite = scale == scale;
    std::memset(out, 0, finite ? split_head(cols, group) : split_bytes(cols, group));
    floats[0] = scale;
    if (!finite) return;
    const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
    for (int64_t start = 0; start < cols; start += kSplitPad) {
        alignas(64) float values[kSplitPad] = {};
        const int64_t count = cols - start < kSplitPad ? cols - start : kSplitPad;
        std::memcpy(values, x + start, count * 4);
        __m512i whole[8], ordered[8];
        for (int i = 0; i < 8; ++i) whole[i] = _mm512_cvtps_epi32(mul(load(values + 16 * i), inverse));
        for (int half = 0; half < count; half += 32) {
            const __m512i both = _mm512_add_epi32(whole[half / 16], whole[half / 16 + 1]);
            floats[16 + (start + half) / group] += float(_mm512_reduce_add_epi32(both));
        }
        for (int i = 0; i < 8; ++i)  // nibble formats take even values first, as their codes unpack
            ordered[i] = has_nibbles(format)
                             ? _mm512_permutex2var_epi32(whole[2 * i % 8], i < 4 ? evens : odds, whole[2 * i % 8 + 1])
                             : whole[i];
        split_values(ordered, high + start, padded(cols, kSplitPad));
        split_values(ordered + 4, high + start + 64, padded(cols, kSplitPad));
    }
}

// sum + products of 4 bytes each, by hand: compilers copy the sums before and after.
inline __m512i byte_dot(__m512i sum, __m512i codes, __m512i x) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(x));
    return sum;
}

// A row is taken in spans of 16 groups, whose scales fill one vector, and these in vectors of codes: 64 bytes that
// hold 128 nibbles or 64 codes of a byte. `lanes` tells which scale each of a vector's 16 sums belongs to.
template <Format format, int group>
struct Span {
    static constexpr bool kNibbles = format != Format::kAffine8;
    static constexpr int kCodes = kNibbles ? 128 : 64;  // of a vector
    static constexpr int kSpan = 16 * group;
    static constexpr int kVectorsOfSpan = kSpan / kCodes;

    alignas(64) int32_t lanes[kVectorsOfSpan][16];

    constexpr Span() : lanes{} {
        for (int v = 0; v < kVectorsOfSpan; ++v)
            for (int lane = 0; lane < 16; ++lane) lanes[v][lane] = (v * kCodes + lane * kCodes / 16) / group;
    }
};

template <Format format, int group>
inline constexpr Span<format, group> kSpanOf{};

inline F masked_numbers(Number number, const uint8_t* p, int64_t i, __mmask16 mask) {
    if (number == Number::kFloat32) return _mm512_maskz_loadu_ps(mask, p + 4 * i);
    const __m256i halves = _mm256_maskz_loadu_epi16(mask, p + 2 * i);
    if (number == Number::kFloat16) return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

// Scales of 16 groups, fewer where the mask says so, and what their codes' offset is worth per unit of activation.
template <Format format>
inline void span_scales(const Matrix& matrix, int64_t first, __mmask16 mask, F& scales, F& offsets) {
    if constexpr (format == Format::kMxfp4) {
        const __m512i bytes = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, matrix.scales + first));
        const __m512i bits = _mm512_max_epi32(_mm512_slli_epi32(bytes, 23), _mm512_set1_epi32(0x00400000));
        scales = mul(_mm512_castsi512_ps(bits), set1(0.5f));
        offsets = mul(scales, set1(-12.0f));
    } else {
        scales = masked_numbers(matrix.number, matrix.scales, first, mask);
        offsets = masked_numbers(matrix.number, matrix.biases, first, mask);
    }
}

// One load: compilers would repeat it for each use.
inline __m512i load_codes(const uint8_t* p) {
    __m512i raw = _mm512_loadu_si512(p);
    asm("" : "+v"(raw));
    return raw;
}

// One vector of codes as unsigned bytes: even and odd nibbles, or the bytes themselves in the first.
template <Format format>
inline void unpack(__m512i raw, __m512i* codes) {
    codes[0] = raw;
    if constexpr (format == Format::kAffine8) return;
    const __m512i mask = _mm512_set1_epi8(15);
    codes[0] = _mm512_and_si512(raw, mask);
    codes[1] = _mm512_and_si512(_mm512_srli_epi16(raw, 4), mask);
    if constexpr (format == Format::kMxfp4) {
        const __m128i values = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
        const __m512i table = _mm512_broadcast_i32x4(values);
        codes[0] = _mm512_shuffle_epi8(table, codes[0]);
        codes[1] = _mm512_shuffle_epi8(table, codes[1]);
    }
}

// What a vector of codes from each of R rows adds to their sums with M rows of activations.
template <Format format, int R, int M>
inline void add_vectors(const __m512i* raw, const F* scales, const int32_t* lanes, const Split* x, int64_t start,
                        F (*sums)[M]) {
    constexpr int kParts = format == Format::kAffine8 ? 1 : 2;
    __m512i codes[R][2];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) unpack<format>(raw[r], codes[r]);
    // sums[r] += codes of row r times one byte of x
    const auto add_bytes = [&](const int8_t* bytes, __m512i* sums) {
#pragma GCC unroll 2
        for (int part = 0; part < kParts; ++part) {
            __m512i some = _mm512_load_si512(bytes + start + 64 * part);
            if constexpr (R > 1) asm("" : "+v"(some));  // one load for all rows
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) sums[r] = byte_dot(sums[r], codes[r][part], some);
        }
    };
    const auto shift = [](__m512i* sums) {
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) sums[r] = _mm512_slli_epi32(sums[r], 8);
    };
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
        __m512i upper[R], low[R];
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) upper[r] = low[r] = _mm512_setzero_si512();
        add_bytes(x[m].bytes[0], upper);
        shift(upper);
        add_bytes(x[m].bytes[1], upper);
        if constexpr (format == Format::kAffine8) {  // 24 + 8 bits and more would not fit
            add_bytes(x[m].bytes[2], low);
        } else {
            shift(upper);
            add_bytes(x[m].bytes[2], upper);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            F sum = _mm512_cvtepi32_ps(upper[r]);
            if constexpr (format == Format::kAffine8) sum = fma(sum, set1(256.0f), _mm512_cvtepi32_ps(low[r]));
            const F scale = _mm512_permutexvar_ps(_mm512_load_si512(lanes), scales[r]);
            sums[r][m] = fma(sum, scale, sums[r][m]);
        }
    }
}

// y[r][m] of the rows n to n + R - 1. They are worked on together, since they share the loads of activations, yet
// asked for ahead in the order of memory, a line per vector: that is how memory streams fastest. The second-level
// cache takes them; in the first they would push the activations out.
template <Format format, int group, int R, int M>
inline void split_dot(const Matrix& matrix, int64_t n, const Split* x, float (*y)[M]) {
    using Shape = Span<format, group>;
    constexpr int kVectorBytes = 64, kCodes = Shape::kCodes;
    const uint8_t* codes = matrix.codes + n * matrix.row_bytes;
    const auto* ahead = reinterpret_cast<const char*>(codes) + kAhead;
    const int64_t groups = matrix.cols / group;
    F sums[R][M], rest[R][M];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) sums[r][m] = rest[r][m] = zero();
    for (int64_t g = 0; g < groups; g += 16) {
        const int64_t have = groups - g < 16 ? groups - g : 16;
        F scales[R], offsets;
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            const auto mask = __mmask16((1u << have) - 1);
            span_scales<format>(matrix, (n + r) * groups + g, mask, scales[r], offsets);
#pragma GCC unroll 4
            for (int m = 0; m < M; ++m) rest[r][m] = fma(offsets, load(x[m].sums + g), rest[r][m]);
        }
        int64_t at = g * group * kVectorBytes / kCodes, start = g * group;
        const int64_t end = at + have * group * kVectorBytes / kCodes;
        const int32_t* lanes = kSpanOf<format, group>.lanes[0];
        __m512i raw[R];
        for (; at + kVectorBytes <= end; at += kVectorBytes, start += kCodes, lanes += 16) {
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r, ahead += kVectorBytes) {
                _mm_prefetch(ahead, _MM_HINT_T1);
                raw[r] = load_codes(codes + r * matrix.row_bytes + at);
            }
            add_vectors<format, R, M>(raw, scales, lanes, x, start, sums);
        }
        if (at < end) {  // activations are 0 beyond the end
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r, ahead += kVectorBytes) {
                _mm_prefetch(ahead, _MM_HINT_T1);
                raw[r] = _mm512_maskz_loadu_epi8((1ull << (end - at)) - 1, codes + r * matrix.row_bytes + at);
            }
            add_vectors<format, R, M>(raw, scales, lanes, x, start, sums);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) y[r][m] = sum(add(sums[r][m], rest[r][m]));
}

template <Format format, int group, int R, int M>
inline int64_t split_some(const Matrix& matrix, int64_t n, int64_t last, const Split* x, float* const* y) {
    for (; n + R <= last; n += R) {
        float results[R][M];
        split_dot<format, group, R, M>(matrix, n, x, results);
        for (int r = 0; r < R; ++r) {
            const float bias = matrix.bias != nullptr ? matrix.bias[n + r] : 0.0f;
            for (int m = 0; m < M; ++m) y[m][n + r] = results[r][m] * x[m].scale + bias;
        }
    }
    return n;
}

template <Format format, int group, int M>
void split_rows(const Matrix& matrix, int64_t first, int64_t last, const Split* x, float* const* y) {
    // as many rows as registers hold; codes of a byte take so little work that one alone waits for memory
    constexpr int kRows = M > 1 ? 2 : format == Format::kAffine8 ? 1 : 3;
    first = split_some<format, group, kRows, M>(matrix, first, last, x, y);
    split_some<format, group, 1, M>(matrix, first, last, x, y);
}

template <Format format, int group>
void split_blocks(const Matrix& matrix, int64_t first, int64_t last, const uint8_t* const* x, int64_t count,
                  float* const* y) {
    for (int64_t m = 0; m < count; m += kRowBlock) {
        Split rows[kRowBlock];
        const int64_t some = count - m < kRowBlock ? count - m : kRowBlock;
        for (int64_t i = 0; i < some; ++i) rows[i] = split_at(x[m + i], matrix.cols, group);
        switch (some) {
            case 1:
                split_rows<format, group, 1>(matrix, first, last, rows, y + m);
                break;
            case 2:
                split_rows<format, group, 2>(matrix, first, last, rows, y + m);
                break;
            case 3:
                split_rows<format, group, 3>(matrix, first, last, rows, y + m);
                break;
            default:
                split_rows<format, group, kRowBlock>(matrix, first, last, rows, y + m);
        }
    }
}

template <Format format>
void split_groups(const Matrix& matrix, int64_t first, int64_t last, const uint8_t* const* x, int64_t count,
                  float* const* y) {
    if (matrix.group == 32) return split_blocks<format, 32>(matrix, first, last, x, count, y);
    if constexpr (format != Format::kMxfp4) {
        if (matrix.group == 64) return split_blocks<format, 64>(matrix, first, last, x, count, y);
        return split_blocks<format, 128>(matrix, first, last, x, count, y);
    }
}

// y[m][n] = x[m] . row n + bias[n] for n in [first, last); rows of x split.
inline void split_product(const Matrix& matrix, int64_t first, int64_t last, const uint8_t* const* x, int64_t count,
                          float* const* y) {
    if (matrix.format == Format::kMxfp4) return split_groups<Format::kMxfp4>(matrix, first, last, x, count, y);
    if (matrix.format == Format::kAffine4) return split_groups<Format::kAffine4>(matrix, first, last, x, count, y);
    split_groups<Format::kAffine8>(matrix, first, last, x, count, y);
}

}  // namespace gptoss::GPTOSS_ISA
