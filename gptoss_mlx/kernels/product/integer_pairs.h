// The integer product's numbers as pairs of 16 bits, for instruction sets that multiply and add those up: how rounded
// activations and codes are laid out, and the sums over one group. See integer_product.h, which includes it.
#pragma once

#include "product/float_product.h"

namespace gptoss::GPTOSS_ISA {

using Code = int16_t;

constexpr int kStrip = 2 * kLanes;
constexpr int kChunk = 64;  // codes that are transposed together

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

// 64 rounded activations in the order of the transposed codes.
inline void place_values(Format format, const int16_t* whole, int16_t* out) {
    const uint8_t* order = has_nibbles(format) ? kOrder.nibbles : kOrder.bytes;
    for (int i = 0; i < kChunk; ++i) out[i] = whole[order[i]];
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

// The codes of a strip of rows: out[cols / 2][kStrip][2].
inline void place_codes(const Matrix& matrix, int64_t first, Code* out) {
    const bool nibbles = has_nibbles(matrix.format);
    for (int64_t chunk = 0; chunk < matrix.cols; chunk += kChunk) {
        const int64_t count = matrix.cols - chunk < kChunk ? matrix.cols - chunk : kChunk;
        for (int side = 0; side < 2; ++side) {
            alignas(64) int8_t codes[kLanes][kChunk];
            const int8_t* rows[kLanes];
            for (int lane = 0; lane < kLanes; ++lane) {
                const int64_t wanted = first + side * kLanes + lane;
                const int64_t n = wanted < matrix.rows ? wanted : matrix.rows - 1;
                const int64_t start = n * matrix.row_bytes + (nibbles ? chunk / 2 : chunk);
                chunk_codes(matrix, matrix.codes + start, count, codes[lane]);
                rows[lane] = codes[lane];
            }
            int16_t* to = out + chunk / 2 * kStrip * 2 + side * 2 * kLanes;
            int16_t* quarters[4];
            for (int q = 0; q < 4; ++q) quarters[q] = to + 2 * word_at(nibbles, 4 * q) * kStrip * 2;
            transpose_codes(rows, quarters, kStrip * 2);
        }
    }
}

// One group of a strip's codes times M rows of x: sums[m] are those of the strip's left and right half.
template <int M>
inline void group_sums(const Code* codes, const int16_t* const* x, int64_t count, I (*sums)[2]) {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) sums[m][0] = sums[m][1] = int_zero();
    for (int64_t p = 0; p < count / 2; ++p) {
        const auto left = int_load(codes + p * kStrip * 2), right = int_load(codes + p * kStrip * 2 + 2 * kLanes);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
            const auto pair = int_pair(x[m] + 2 * p);
            sums[m][0] = int_dot(sums[m][0], left, pair);
            sums[m][1] = int_dot(sums[m][1], right, pair);
        }
    }
}

}  // namespace gptoss::GPTOSS_ISA
