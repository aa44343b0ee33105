// Matrix products of few rows in integers, for instruction sets with a dot product of bytes. Activations are rounded
// to 16 bits as in integer_product.h and split into a high and a low byte, so that two byte products give what one
// of 16 bits would: x = 256 * high + low. Codes stay as they lie in memory, rows are read one after the other, and a
// vector's lanes run along a row; sums over a group are exact in 32 bits.
//
// Codes are unsigned here (MXFP4: twice the value plus 12). What that adds to a sum is taken off again once per row,
// through the sums of activations over each group. A result does not depend on the number of rows.
#pragma once

#include "product/float_product.h"

namespace gptoss::GPTOSS_ISA {

constexpr int kSplitChunk = 64;

inline bool has_split(Format format, int group) {
    return (format == Format::kMxfp4 || format == Format::kAffine4 || format == Format::kAffine8) && group >= 32;
}

// A rounded row in memory: scale, then the sums over groups of 32 (and zeros, so that whole vectors may be read),
// then the high bytes, then the low ones.
struct Split {
    float scale;
    const float* sums;
    const int8_t* high;
    const int8_t* low;
};

inline int64_t split_head(int64_t cols) { return 64 + padded(cols, 1024) / 8 + 4 * 4 * kLanes; }
inline int64_t split_bytes(int64_t cols, int) { return split_head(cols) + 2 * padded(cols, kSplitChunk); }

inline Split split_at(const uint8_t* p, int64_t cols) {
    const auto* floats = reinterpret_cast<const float*>(p);
    const auto* high = reinterpret_cast<const int8_t*>(p + split_head(cols));
    return {floats[0], floats + 16, high, high + padded(cols, kSplitChunk)};
}

inline float largest_magnitude(const float* x, int64_t count) {
    F high = zero();
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) high = max(high, abs(load(x + i)));
    float top = largest(high);
    for (; i < count; ++i) {
        const float magnitude = x[i] < 0 ? -x[i] : x[i];
        top = top < magnitude ? magnitude : top;
    }
    return top;
}

inline void split_row(Format format, int, const float* x, int64_t cols, uint8_t* out) {
    const float scale = largest_magnitude(x, cols) / 32512.0f;  // so that the high byte stays within 127
    const F inverse = set1(scale > 0 ? 1.0f / scale : 0.0f);
    auto* floats = reinterpret_cast<float*>(out);
    auto* high = reinterpret_cast<int8_t*>(out + split_head(cols));
    auto* low = high + padded(cols, kSplitChunk);
    std::memset(floats, 0, split_head(cols));
    floats[0] = scale;
    const bool nibbles = has_nibbles(format);
    for (int64_t chunk = 0; chunk < cols; chunk += kSplitChunk) {
        alignas(64) float values[kSplitChunk] = {};
        alignas(64) int16_t whole[kSplitChunk];
        const int64_t count = cols - chunk < kSplitChunk ? cols - chunk : kSplitChunk;
        std::memcpy(values, x + chunk, count * 4);
        for (int i = 0; i < kSplitChunk; i += kLanes) store_i16(whole + i, round(mul(load(values + i), inverse)));
        for (int half = 0; half < 2; ++half) {
            int32_t sum = 0;
            for (int i = 0; i < 32; ++i) sum += whole[32 * half + i];
            floats[16 + chunk / 32 + half] = float(sum);
        }
        for (int i = 0; i < kSplitChunk; ++i) {  // nibble formats: even values first, as their codes unpack
            const int16_t value = whole[nibbles ? (i < 32 ? 2 * i : 2 * (i - 32) + 1) : i];
            const auto bottom = int8_t(value & 0xff);
            low[chunk + i] = bottom;
            high[chunk + i] = int8_t((value - bottom) >> 8);
        }
    }
}

// The scale of each 32-bit sum of a chunk. Nibble formats sum even and odd codes together into 8 sums, the first
// four of the chunk's first half; one-byte codes give 16 sums in order.
template <int group>
inline __m256 half_scales(const float* scales, int64_t chunk) {
    if constexpr (group == 32)
        return _mm256_blend_ps(_mm256_set1_ps(scales[2 * chunk]), _mm256_set1_ps(scales[2 * chunk + 1]), 0xf0);
    else
        return _mm256_set1_ps(scales[group == 64 ? chunk : chunk / 2]);
}

template <int group>
inline __m512 whole_scales(const float* scales, int64_t chunk) {
    if constexpr (group == 32)
        return _mm512_mask_blend_ps(0xff00, set1(scales[2 * chunk]), set1(scales[2 * chunk + 1]));
    else
        return set1(scales[group == 64 ? chunk : chunk / 2]);
}

// sum + products of 4 bytes each, by hand: compilers copy the sums before and after.
inline __m256i byte_dot(__m256i sum, __m256i codes, const int8_t* x) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "m"(*reinterpret_cast<const __m256i_u*>(x)));
    return sum;
}
inline __m512i byte_dot(__m512i sum, __m512i codes, const int8_t* x) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "m"(*reinterpret_cast<const __m512i_u*>(x)));
    return sum;
}

template <Format format, int group, int M>
inline void nibble_chunk(const uint8_t* codes, int64_t chunk, const float* scales, const Split* x, __m256* sums) {
    const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i even = _mm256_and_si256(raw, mask), odd = _mm256_and_si256(_mm256_srli_epi16(raw, 4), mask);
    if constexpr (format == Format::kMxfp4) {
        const __m128i values = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
        const __m256i table = _mm256_broadcastsi128_si256(values);
        even = _mm256_shuffle_epi8(table, even);
        odd = _mm256_shuffle_epi8(table, odd);
    }
    const __m256 scale = half_scales<group>(scales, chunk);
    for (int m = 0; m < M; ++m) {
        const int8_t *high = x[m].high + chunk * kSplitChunk, *low = x[m].low + chunk * kSplitChunk;
        __m256i sum = byte_dot(byte_dot(_mm256_setzero_si256(), even, high), odd, high + 32);
        sum = byte_dot(byte_dot(_mm256_slli_epi32(sum, 8), even, low), odd, low + 32);
        sums[m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, sums[m]);
    }
}

template <int group, int M>
inline void byte_chunk(const uint8_t* codes, int64_t chunk, const float* scales, const Split* x, __m512* sums) {
    const __m512i raw = _mm512_loadu_si512(codes);
    const __m512 scale = whole_scales<group>(scales, chunk);
    for (int m = 0; m < M; ++m) {
        __m512i sum = byte_dot(_mm512_setzero_si512(), raw, x[m].high + chunk * kSplitChunk);
        sum = byte_dot(_mm512_slli_epi32(sum, 8), raw, x[m].low + chunk * kSplitChunk);
        sums[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, sums[m]);
    }
}

// What is left of a row that is no multiple of a chunk: its codes, then zeros (activations are 0 there).
inline const uint8_t* last_chunk(const uint8_t* codes, int64_t count, bool nibbles, uint8_t* buffer) {
    std::memset(buffer, 0, kSplitChunk);
    std::memcpy(buffer, codes, nibbles ? count / 2 : count);
    return buffer;
}

template <Format format, int group, int M>
inline void split_dot(const uint8_t* codes, int64_t cols, const float* scales, const Split* x, float* y) {
    constexpr bool nibbles = format != Format::kAffine8;
    constexpr int kBytes = nibbles ? kSplitChunk / 2 : kSplitChunk;
    alignas(64) uint8_t buffer[kSplitChunk];
    const int64_t chunks = cols / kSplitChunk, rest = cols % kSplitChunk;
    if constexpr (nibbles) {
        __m256 first[M], second[M];
        for (int m = 0; m < M; ++m) first[m] = second[m] = _mm256_setzero_ps();
        int64_t c = 0;
        for (; c + 2 <= chunks; c += 2) {
            nibble_chunk<format, group, M>(codes + c * kBytes, c, scales, x, first);
            nibble_chunk<format, group, M>(codes + (c + 1) * kBytes, c + 1, scales, x, second);
        }
        for (; c < chunks; ++c) nibble_chunk<format, group, M>(codes + c * kBytes, c, scales, x, first);
        if (rest != 0)
            nibble_chunk<format, group, M>(last_chunk(codes + chunks * kBytes, rest, true, buffer), chunks, scales, x,
                                           first);
        for (int m = 0; m < M; ++m) y[m] = sum(_mm512_insertf32x8(_mm512_castps256_ps512(first[m]), second[m], 1));
    } else {
        __m512 first[M], second[M];
        for (int m = 0; m < M; ++m) first[m] = second[m] = zero();
        int64_t c = 0;
        for (; c + 2 <= chunks; c += 2) {
            byte_chunk<group, M>(codes + c * kBytes, c, scales, x, first);
            byte_chunk<group, M>(codes + (c + 1) * kBytes, c + 1, scales, x, second);
        }
        for (; c < chunks; ++c) byte_chunk<group, M>(codes + c * kBytes, c, scales, x, first);
        if (rest != 0)
            byte_chunk<group, M>(last_chunk(codes + chunks * kBytes, rest, false, buffer), chunks, scales, x, first);
        for (int m = 0; m < M; ++m) y[m] = sum(add(first[m], second[m]));
    }
}

// Sums of 32 activations each to sums of a group: of kLanes groups from group g on.
template <int group>
inline F group_sums(const float* sums, int64_t g) {
    if constexpr (group == 32) {
        return load(sums + g);
    } else if constexpr (group == 64) {
        const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        const __m512i odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
        const F low = load(sums + 2 * g), high = load(sums + 2 * g + kLanes);
        return add(_mm512_permutex2var_ps(low, evens, high), _mm512_permutex2var_ps(low, odds, high));
    } else {
        alignas(64) float together[kLanes];
        for (int i = 0; i < kLanes; ++i) {
            const float* four = sums + 4 * (g + i);
            together[i] = (four[0] + four[1]) + (four[2] + four[3]);
        }
        return load(together);
    }
}

// What the codes' offset adds: the sum over groups of offset * (sum of activations), `offsets` padded with zeros.
template <int group, int M>
inline void add_offsets(int64_t groups, const float* offsets, const Split* x, float* y) {
    F sums[M];
    for (int m = 0; m < M; ++m) sums[m] = zero();
    for (int64_t g = 0; g < groups; g += kLanes)
        for (int m = 0; m < M; ++m) sums[m] = fma(load(offsets + g), group_sums<group>(x[m].sums, g), sums[m]);
    for (int m = 0; m < M; ++m) y[m] += sum(sums[m]);
}

template <Format format, int group, int M>
void split_rows(const Matrix& matrix, int64_t first, int64_t last, const Split* x, float* const* y, float* scratch) {
    const int64_t groups = matrix.cols / group;
    float *scales = scratch, *offsets = scratch + padded(groups, kLanes) + kLanes;
    store(scales + groups, zero());  // beyond the end
    store(offsets + groups, zero());
    for (int64_t n = first; n < last; ++n) {
        expand_scales(matrix, n, scales, offsets);
        if constexpr (format == Format::kMxfp4)  // codes are doubled values, plus 12
            for (int64_t g = 0; g < groups; g += kLanes) {
                const F half = mul(load(scales + g), set1(0.5f));
                store(scales + g, half);
                store(offsets + g, mul(half, set1(-12.0f)));
            }
        float results[M];
        split_dot<format, group, M>(matrix.codes + n * matrix.row_bytes, matrix.cols, scales, x, results);
        add_offsets<group, M>(groups, offsets, x, results);
        const float bias = matrix.bias != nullptr ? matrix.bias[n] : 0.0f;
        for (int m = 0; m < M; ++m) y[m][n] = results[m] * x[m].scale + bias;
    }
}

template <Format format, int group>
void split_blocks(const Matrix& matrix, int64_t first, int64_t last, const uint8_t* const* x, int64_t count,
                  float* const* y, float* scratch) {
    for (int64_t m = 0; m < count; m += kRowBlock) {
        Split rows[kRowBlock];
        const int64_t some = count - m < kRowBlock ? count - m : kRowBlock;
        for (int64_t i = 0; i < some; ++i) rows[i] = split_at(x[m + i], matrix.cols);
        switch (some) {
            case 1:
                split_rows<format, group, 1>(matrix, first, last, rows, y + m, scratch);
                break;
            case 2:
                split_rows<format, group, 2>(matrix, first, last, rows, y + m, scratch);
                break;
            case 3:
                split_rows<format, group, 3>(matrix, first, last, rows, y + m, scratch);
                break;
            default:
                split_rows<format, group, kRowBlock>(matrix, first, last, rows, y + m, scratch);
        }
    }
}

template <Format format>
void split_groups(const Matrix& matrix, int64_t first, int64_t last, const uint8_t* const* x, int64_t count,
                  float* const* y, float* scratch) {
    if (matrix.group == 32) return split_blocks<format, 32>(matrix, first, last, x, count, y, scratch);
    if constexpr (format != Format::kMxfp4) {
        if (matrix.group == 64) return split_blocks<format, 64>(matrix, first, last, x, count, y, scratch);
        return split_blocks<format, 128>(matrix, first, last, x, count, y, scratch);
    }
}

// y[m][n] = x[m] . row n + bias[n] for n in [first, last); rows of x split.
inline void split_product(const Matrix& matrix, int64_t first, int64_t last, const uint8_t* const* x, int64_t count,
                          float* const* y, float* scratch) {
    if (matrix.format == Format::kMxfp4) return split_groups<Format::kMxfp4>(matrix, first, last, x, count, y, scratch);
    if (matrix.format == Format::kAffine4)
        return split_groups<Format::kAffine4>(matrix, first, last, x, count, y, scratch);
    split_groups<Format::kAffine8>(matrix, first, last, x, count, y, scratch);
}

inline int64_t split_scratch(int64_t cols) { return 2 * padded(cols / 32, kLanes) + 4 * kLanes; }

}  // namespace gptoss::GPTOSS_ISA
