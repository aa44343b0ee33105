// Matrix products of few rows in integers, for Arm with its dot product of bytes. Activations are rounded to 16 bits
// as in integer_product.h and split into a high and a low byte, x = 256 * high + low. Codes stay as they lie in
// memory, rows are read one after the other, and a vector's lanes run along a row; sums over a group are exact in 32
// bits. A result does not depend on the number of rows.
#pragma once

#include "product/float_product.h"
#include "product/rounding.h"

namespace gptoss::GPTOSS_ISA {

constexpr int kBlockCodes = 32;               // codes that are multiplied together, in two vectors
constexpr int kBlockBytes = 2 * kBlockCodes;  // of the activations' high bytes, then of their low ones
constexpr float kAffine8Middle = 128.0f;      // what its codes are lessened by to be signed

inline bool has_split(Format format, int group) { return has_integer(format, group); }

// A rounded row in memory: its scale, the sum of its values over each group (zeros follow to whole vectors), and
// blocks of bytes: the high ones of each vector of codes, then the low ones.
struct Split {
    float scale;
    const float* sums;
    const int8_t* blocks;
};

inline int64_t split_head(int64_t cols, int group) { return 16 + padded(cols / group, kLanes) * 4; }
inline int64_t split_bytes(int64_t cols, int group) { return split_head(cols, group) + 2 * cols; }

inline Split split_at(const uint8_t* p, int64_t cols, int group) {
    const auto* floats = reinterpret_cast<const float*>(p);
    return {floats[0], floats + 4, reinterpret_cast<const int8_t*>(p + split_head(cols, group))};
}

// 32 rounded values to a block; nibble formats take even values first, as their codes unpack.
inline void split_block(const int16_t* whole, bool nibbles, int8_t* out) {
    int16x8_t x[4];
    for (int i = 0; i < 4; ++i) x[i] = vld1q_s16(whole + 8 * i);
    if (nibbles) {
        const int16x8_t even[2] = {vuzp1q_s16(x[0], x[1]), vuzp1q_s16(x[2], x[3])};
        const int16x8_t odd[2] = {vuzp2q_s16(x[0], x[1]), vuzp2q_s16(x[2], x[3])};
        x[0] = even[0], x[1] = even[1], x[2] = odd[0], x[3] = odd[1];
    }
    for (int i = 0; i < 4; ++i) {
        const int8x8_t low = vmovn_s16(x[i]);
        vst1_s8(out + 8 * i, vshrn_n_s16(vsubw_s8(x[i], low), 8));
        vst1_s8(out + kBlockCodes + 8 * i, low);
    }
}

inline void split_row(Format format, int group, const float* x, int64_t cols, uint8_t* out) {
    const float scale = rounding_step(x, cols);
    const F inverse = set1(1.0f / scale);
    const bool finite = scale == scale;
    auto* floats = reinterpret_cast<float*>(out);
    auto* blocks = reinterpret_cast<int8_t*>(out + split_head(cols, group));
    std::memset(out, 0, finite ? split_head(cols, group) : split_bytes(cols, group));
    floats[0] = scale;
    for (int64_t start = 0; finite && start < cols; start += kBlockCodes) {
        int16_t whole[kBlockCodes];
        int32_t sum = 0;
        for (int i = 0; i < kBlockCodes; i += kLanes) store_i16(whole + i, round(mul(load(x + start + i), inverse)));
        for (int i = 0; i < kBlockCodes; i += 8) sum += vaddlvq_s16(vld1q_s16(whole + i));
        floats[4 + start / group] += float(sum);
        split_block(whole, has_nibbles(format), blocks + 2 * start);
    }
}

// Scales of up to kLanes groups, zero beyond, and what a unit of activation is worth that codes leave out.
inline void split_scales(const Matrix& matrix, int64_t first, int64_t count, float* scales, F& offsets) {
    alignas(16) float biases[kLanes] = {};
    for (int i = 0; i < kLanes; ++i) scales[i] = 0.0f;
    if (matrix.format == Format::kMxfp4) {  // codes are doubled values
        expand_exponents(matrix.scales + first, count, scales);
        store(scales, mul(load(scales), set1(0.5f)));
        offsets = zero();
        return;
    }
    const int64_t start = first * matrix.scale_bytes();
    expand_numbers(matrix.number, matrix.scales + start, count, scales);
    expand_numbers(matrix.number, matrix.biases + start, count, biases);
    const float middle = matrix.format == Format::kAffine8 ? kAffine8Middle : 0.0f;
    offsets = fma(load(scales), set1(middle), load(biases));
}

// The codes of a block as two vectors of signed bytes.
template <Format format>
inline void block_codes(const uint8_t* p, int8x16_t& first, int8x16_t& second) {
    const uint8x16_t raw = vld1q_u8(p);
    if constexpr (format == Format::kAffine8) {
        first = vreinterpretq_s8_u8(veorq_u8(raw, vdupq_n_u8(0x80)));
        second = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p + 16), vdupq_n_u8(0x80)));
        return;
    }
    const uint8x16_t even = vandq_u8(raw, vdupq_n_u8(15)), odd = vshrq_n_u8(raw, 4);
    if constexpr (format == Format::kMxfp4) {
        static constexpr int8_t doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
        first = vqtbl1q_s8(vld1q_s8(doubled), even);
        second = vqtbl1q_s8(vld1q_s8(doubled), odd);
    } else {
        first = vreinterpretq_s8_u8(even);
        second = vreinterpretq_s8_u8(odd);
    }
}

// sums[m] += scale * (sum over one group of codes * x[m])
template <Format format, int M>
inline void add_group(const uint8_t* codes, int64_t start, int group, float scale, const Split* x, F* sums) {
    int32x4_t high[M], low[M];
    for (int m = 0; m < M; ++m) high[m] = low[m] = vdupq_n_s32(0);
    for (int64_t i = start; i < start + group; i += kBlockCodes) {
        int8x16_t first, second;
        block_codes<format>(codes + (format == Format::kAffine8 ? i : i / 2), first, second);
        for (int m = 0; m < M; ++m) {
            const int8_t* block = x[m].blocks + 2 * i;
            high[m] = vdotq_s32(vdotq_s32(high[m], first, vld1q_s8(block)), second, vld1q_s8(block + 16));
            low[m] = vdotq_s32(vdotq_s32(low[m], first, vld1q_s8(block + 32)), second, vld1q_s8(block + 48));
        }
    }
    for (int m = 0; m < M; ++m)
        sums[m] = fma(vcvtq_f32_s32(vaddq_s32(vshlq_n_s32(high[m], 8), low[m])), set1(scale), sums[m]);
}

template <Format format, int M>
void split_rows(const Matrix& matrix, int64_t first, int64_t last, const Split* x, float* const* y) {
    const int64_t groups = matrix.cols / matrix.group;
    for (int64_t n = first; n < last; ++n) {
        F sums[M], rest[M];
        for (int m = 0; m < M; ++m) sums[m] = rest[m] = zero();
        for (int64_t g = 0; g < groups; g += kLanes) {
            const int64_t some = groups - g < kLanes ? groups - g : kLanes;
            alignas(16) float scales[kLanes];
            F offsets;
            split_scales(matrix, n * groups + g, some, scales, offsets);
            for (int m = 0; m < M; ++m) rest[m] = fma(offsets, load(x[m].sums + g), rest[m]);
            for (int64_t i = 0; i < some; ++i)
                add_group<format, M>(matrix.codes + n * matrix.row_bytes, (g + i) * matrix.group, matrix.group,
                                     scales[i], x, sums);
        }
        const float bias = matrix.bias != nullptr ? matrix.bias[n] : 0.0f;
        for (int m = 0; m < M; ++m) y[m][n] = __builtin_fmaf(sum(add(sums[m], rest[m])), x[m].scale, bias);
    }
}

template <Format format>
void split_blocks(const Matrix& matrix, int64_t first, int64_t last, const uint8_t* const* x, int64_t count,
                  float* const* y) {
    for (int64_t m = 0; m < count; m += kRowBlock) {
        Split rows[kRowBlock];
        const int64_t some = count - m < kRowBlock ? count - m : kRowBlock;
        for (int64_t i = 0; i < some; ++i) rows[i] = split_at(x[m + i], matrix.cols, matrix.group);
        if (some == 1) split_rows<format, 1>(matrix, first, last, rows, y + m);
        if (some == 2) split_rows<format, 2>(matrix, first, last, rows, y + m);
        if (some == 3) split_rows<format, 3>(matrix, first, last, rows, y + m);
        if (some == kRowBlock) split_rows<format, kRowBlock>(matrix, first, last, rows, y + m);
    }
}

// y[m][n] = x[m] . row n + bias[n] for n in [first, last); rows of x split.
inline void split_product(const Matrix& matrix, int64_t first, int64_t last, const uint8_t* const* x, int64_t count,
                          float* const* y) {
    if (matrix.format == Format::kMxfp4) return split_blocks<Format::kMxfp4>(matrix, first, last, x, count, y);
    if (matrix.format == Format::kAffine4) return split_blocks<Format::kAffine4>(matrix, first, last, x, count, y);
    split_blocks<Format::kAffine8>(matrix, first, last, x, count, y);
}

}  // namespace gptoss::GPTOSS_ISA
