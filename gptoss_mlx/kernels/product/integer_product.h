// Matrix products of many rows in integers: activations rounded to 16 bits with one scale per row, codes as small
// integers, pairs multiplied and added up exactly in 32 bits over one group, groups added up in float32. Compiled
// once per instruction set that has a fast 16-bit dot product.
//
// A strip of 2 * kLanes rows of weights is unpacked and transposed once and then multiplied with every row of
// activations, kIntRows at a time; a vector's lanes are outputs. Each result adds up in the same order however many
// rows there are.
#pragma once

#include "product/float_product.h"

namespace gptoss::GPTOSS_ISA {

constexpr int kStrip = 2 * kLanes;
constexpr int kChunk = 64;  // codes that are transposed together

inline bool has_integer(Format format, int group) {
    return (format == Format::kMxfp4 || format == Format::kAffine4 || format == Format::kAffine8) && group >= 32;
}

// A row of rounded activations: its scale, the sum of each half chunk's values, and the padded 16-bit values.
struct Rounded {
    float* scale;
    float* sums;
    int16_t* values;
};

inline int64_t head_bytes(int64_t cols) { return padded((1 + padded(cols, kChunk) / 32) * 4, 64); }

inline Rounded rounded_at(const uint8_t* p, int64_t cols) {
    auto* floats = reinterpret_cast<float*>(const_cast<uint8_t*>(p));
    return {floats, floats + 1, reinterpret_cast<int16_t*>(const_cast<uint8_t*>(p) + head_bytes(cols))};
}

inline int64_t rounded_bytes(int64_t cols, int) { return head_bytes(cols) + 2 * padded(cols, kChunk); }

// Where in a chunk of 64 the code stands that is multiplied at position i of a transposed chunk. Chunks are stored
// as 16 words of 4 codes (nibble formats: even codes first, then odd ones); words are ordered so that groups of 32
// stay together, and each gives the pairs (0, 2) and (1, 3).
struct ChunkOrder {
    uint8_t nibbles[kChunk], bytes[kChunk];
};

constexpr int word_at(bool nibbles, int position) {  // position 0 to 15 in the transposed chunk
    if (!nibbles) return position;
    return position < 4 ? position : position < 8 ? position + 4 : position < 12 ? position - 4 : position;
}

constexpr ChunkOrder chunk_order() {
    ChunkOrder order{};
    constexpr int within[4] = {0, 2, 1, 3};
    for (int i = 0; i < kChunk; ++i) {
        const int byte = 4 * word_at(true, i / 4) + within[i % 4];
        order.nibbles[i] = uint8_t(byte < 32 ? 2 * byte : 2 * (byte - 32) + 1);
        order.bytes[i] = uint8_t(4 * (i / 4) + within[i % 4]);
    }
    return order;
}

inline constexpr ChunkOrder kOrder = chunk_order();

inline void round_row(Format format, int, const float* x, int64_t cols, uint8_t* out) {
    const Rounded row = rounded_at(out, cols);
    F high = zero();
    int64_t i = 0;
    for (; i + kLanes <= cols; i += kLanes) high = max(high, abs(load(x + i)));
    float top = largest(high);
    for (; i < cols; ++i) top = top < x[i] ? x[i] : top < -x[i] ? -x[i] : top;
    const float scale = top / 32512.0f;
    const F inverse = set1(scale > 0 ? 1.0f / scale : 0.0f);
    *row.scale = scale;
    const uint8_t* order = has_nibbles(format) ? kOrder.nibbles : kOrder.bytes;
    for (int64_t chunk = 0; chunk < cols; chunk += kChunk) {
        alignas(64) float values[kChunk] = {};
        alignas(64) int16_t whole[kChunk];
        const int64_t count = cols - chunk < kChunk ? cols - chunk : kChunk;
        std::memcpy(values, x + chunk, count * 4);
        for (int v = 0; v < kChunk; v += kLanes) store_i16(whole + v, round(mul(load(values + v), inverse)));
        for (int half = 0; half < 2; ++half) {
            int32_t sum = 0;
            for (int j = 0; j < 32; ++j) sum += whole[32 * half + j];
            row.sums[chunk / 32 + half] = float(sum);
        }
        for (int j = 0; j < kChunk; ++j) row.values[chunk + j] = whole[order[j]];
    }
}

// What a strip unpacks to: pairs [cols / 2][kStrip][2], scales and biases [groups][kStrip].
struct Strip {
    int16_t* pairs;
    float* scales;
    float* biases;
};

inline Strip strip_at(uint8_t* p, int64_t cols, int group) {
    const int64_t bytes = padded(cols, kChunk) * kStrip * 2;
    auto* scales = reinterpret_cast<float*>(p + bytes);
    return {reinterpret_cast<int16_t*>(p), scales, scales + cols / group * kStrip};
}

inline int64_t strip_scratch(int64_t cols, int group) {
    return padded(cols, kChunk) * kStrip * 2 + cols / group * kStrip * 8 + cols / group * 8 + 128;
}

// One chunk of a row as bytes: doubled values of MXFP4, codes less half their range of affine formats.
inline void chunk_codes(const Matrix& matrix, const uint8_t* codes, int64_t count, int8_t* out) {
    alignas(64) uint8_t last[kChunk] = {};
    constexpr int8_t fp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    constexpr int8_t u4[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    const bool nibbles = has_nibbles(matrix.format);
    if (count < kChunk) {
        std::memcpy(last, codes, nibbles ? count / 2 : count);
        codes = last;
    }
    if (nibbles) return nibbles_to_codes(codes, matrix.format == Format::kMxfp4 ? fp4 : u4, out);
    for (int i = 0; i < kChunk; ++i) out[i] = int8_t(codes[i] ^ 0x80);
}

inline void unpack_strip(const Matrix& matrix, int64_t first, const Strip& strip, float* row_scales) {
    const int64_t groups = matrix.cols / matrix.group;
    const bool affine = matrix.biases != nullptr;
    const float middle = matrix.format == Format::kAffine8 ? 128.0f : 8.0f;
    for (int lane = 0; lane < kStrip; ++lane) {
        const int64_t n = first + lane < matrix.rows ? first + lane : matrix.rows - 1;  // beyond the end: any row
        expand_scales(matrix, n, row_scales, row_scales + groups);
        for (int64_t g = 0; g < groups; ++g) {
            const float scale = row_scales[g];
            strip.scales[g * kStrip + lane] = affine ? scale : 0.5f * scale;
            if (affine) strip.biases[g * kStrip + lane] = row_scales[groups + g] + middle * scale;
        }
    }
    const bool nibbles = has_nibbles(matrix.format);
    for (int64_t chunk = 0; chunk < matrix.cols; chunk += kChunk) {
        const int64_t count = matrix.cols - chunk < kChunk ? matrix.cols - chunk : kChunk;
        for (int side = 0; side < 2; ++side) {
            alignas(64) int8_t codes[kLanes][kChunk];
            alignas(64) int16_t pairs[2 * 16 * 2 * kLanes];
            const int8_t* rows[kLanes];
            for (int lane = 0; lane < kLanes; ++lane) {
                const int64_t wanted = first + side * kLanes + lane;
                const int64_t n = wanted < matrix.rows ? wanted : matrix.rows - 1;
                const int64_t start = n * matrix.row_bytes + (nibbles ? chunk / 2 : chunk);
                chunk_codes(matrix, matrix.codes + start, count, codes[lane]);
                rows[lane] = codes[lane];
            }
            transpose_codes(rows, pairs, 2 * kLanes);
            int16_t* to = strip.pairs + chunk / 2 * kStrip * 2 + side * 2 * kLanes;
            for (int position = 0; position < 16; ++position)
                for (int pair = 0; pair < 2; ++pair)
                    std::memcpy(to + (2 * position + pair) * kStrip * 2,
                                pairs + (2 * word_at(nibbles, position) + pair) * 2 * kLanes, 4 * kLanes);
        }
    }
}

// M rows of x times one strip.
template <int M>
inline void strip_tile(const Matrix& matrix, const Strip& strip, const Rounded* x, float* const* y, const float* bias) {
    alignas(64) float results[M][kStrip] = {};
    const bool affine = matrix.biases != nullptr;
    const int64_t groups = matrix.cols / matrix.group, pairs = matrix.group / 2;
    for (int64_t g = 0; g < groups; ++g) {
        I sums[M][2];
        for (int m = 0; m < M; ++m) sums[m][0] = sums[m][1] = int_zero();
        const int16_t* weights = strip.pairs + g * pairs * kStrip * 2;
        for (int64_t p = 0; p < pairs; ++p) {
            const auto left = int_load(weights + p * kStrip * 2),
                       right = int_load(weights + p * kStrip * 2 + 2 * kLanes);
            for (int m = 0; m < M; ++m) {
                const auto pair = int_pair(x[m].values + (g * pairs + p) * 2);
                sums[m][0] = int_dot(sums[m][0], left, pair);
                sums[m][1] = int_dot(sums[m][1], right, pair);
            }
        }
        for (int side = 0; side < 2; ++side) {
            const F scale = load(strip.scales + g * kStrip + side * kLanes);
            for (int m = 0; m < M; ++m) {
                float* result = results[m] + side * kLanes;
                F sum = fma(int_to_float(sums[m][side]), scale, load(result));
                if (affine) {
                    float together = 0;
                    for (int64_t part = g * matrix.group / 32; part < (g + 1) * matrix.group / 32; ++part)
                        together += x[m].sums[part];
                    sum = fma(load(strip.biases + g * kStrip + side * kLanes), set1(together), sum);
                }
                store(result, sum);
            }
        }
    }
    for (int m = 0; m < M; ++m)
        for (int lane = 0; lane < kStrip; lane += kLanes)
            store(y[m] + lane, fma(load(results[m] + lane), set1(*x[m].scale), load(bias + lane)));
}

template <int M>
inline void rest_tile(int64_t count, const Matrix& matrix, const Strip& strip, const Rounded* x, float* const* y,
                      const float* bias) {
    if constexpr (M > 0) {
        if (count == M) return strip_tile<M>(matrix, strip, x, y, bias);
        rest_tile<M - 1>(count, matrix, strip, x, y, bias);
    }
}

inline void strip_product(const Matrix& matrix, int64_t first, const uint8_t* const* x, int64_t count, float* const* y,
                          uint8_t* scratch) {
    const Strip strip = strip_at(scratch, matrix.cols, matrix.group);
    auto* row_scales = strip.biases + matrix.cols / matrix.group * kStrip;
    unpack_strip(matrix, first, strip, row_scales);
    alignas(64) float bias[kStrip] = {};
    if (matrix.bias != nullptr)
        for (int lane = 0; lane < kStrip && first + lane < matrix.rows; ++lane) bias[lane] = matrix.bias[first + lane];
    for (int64_t m = 0; m < count; m += kIntRows) {
        Rounded rows[kIntRows];
        const int64_t some = count - m < kIntRows ? count - m : kIntRows;
        for (int64_t i = 0; i < some; ++i) rows[i] = rounded_at(x[m + i], matrix.cols);
        rest_tile<kIntRows>(some, matrix, strip, rows, y + m, bias);
    }
}

}  // namespace gptoss::GPTOSS_ISA
