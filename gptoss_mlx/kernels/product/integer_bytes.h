// The integer product's numbers as bytes, for Arm's dot products (dotprod) and 2 x 2 matrix products (i8mm, chosen by
// GPTOSS_I8MM) of bytes: how rounded activations and codes are laid out, and the sums over one group. See
// integer_product.h, which includes it.
//
// An activation of 16 bits is 256 * high + low, both signed bytes. Sums of either kind are exact in 32 bits, so what
// comes out is bit for bit what the pairs of integer_pairs.h give.
#pragma once

#include "product/float_product.h"

namespace gptoss::GPTOSS_ISA {

using Code = int8_t;
using I = int32x4_t;

constexpr int kStrip = 2 * kLanes;
constexpr int kChunk = 64;  // codes that are unpacked together
constexpr int kRun = 8;     // values of an activation whose high and low bytes fill a vector
constexpr int kIntRows = 4;

inline F int_to_float(I x) { return vcvtq_f32_s32(x); }

// 64 rounded activations, of every kRun the high bytes, then the low ones.
inline void place_values(Format, const int16_t* whole, int16_t* out) {
    for (int i = 0; i < kChunk; i += kRun) {
        const int16x8_t value = vld1q_s16(whole + i);
        const int8x8_t low = vmovn_s16(value), high = vshrn_n_s16(vsubw_s8(value, low), 8);
        vst1q_s8(reinterpret_cast<int8_t*>(out + i), vcombine_s8(high, low));
    }
}

// One chunk of a row as bytes: doubled values of MXFP4, codes less half their range of affine formats.
inline void chunk_codes(const Matrix& matrix, const uint8_t* codes, int64_t count, int8_t* out) {
    static constexpr int8_t fp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    static constexpr int8_t u4[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    uint8_t last[kChunk] = {};
    const bool nibbles = has_nibbles(matrix.format);
    if (count < kChunk) {
        std::memcpy(last, codes, nibbles ? count / 2 : count);
        codes = last;
    }
    const int8x16_t values = vld1q_s8(matrix.format == Format::kMxfp4 ? fp4 : u4);
    for (int i = 0; nibbles && i < kChunk; i += 32) {
        const uint8x16_t bytes = vld1q_u8(codes + i / 2);
        int8x16x2_t even_odd;
        even_odd.val[0] = vqtbl1q_s8(values, vandq_u8(bytes, vdupq_n_u8(15)));
        even_odd.val[1] = vqtbl1q_s8(values, vshrq_n_u8(bytes, 4));
        vst2q_s8(out + i, even_odd);
    }
    for (int i = 0; !nibbles && i < kChunk; i += 16)
        vst1q_s8(out + i, vreinterpretq_s8_u8(veorq_u8(vld1q_u8(codes + i), vdupq_n_u8(0x80))));
}

// The sums of a strip with one row of x, kept apart until a group's end, and what one run adds to them. The four
// vectors of codes are runs as place_run() writes them.
#ifdef GPTOSS_I8MM

struct Sums {
    int32x4_t part[4];  // of two outputs each: high, low, high, low
};

// 16 codes of 8 rows: out[2][8 rows][8].
inline void place_run(const int8x16_t* rows, Code* out) {
    for (int row = 0; row < kStrip; row += 2) {
        const int64x2_t a = vreinterpretq_s64_s8(rows[row]), b = vreinterpretq_s64_s8(rows[row + 1]);
        vst1q_s8(out + row * kRun, vreinterpretq_s8_s64(vzip1q_s64(a, b)));
        vst1q_s8(out + (kStrip + row) * kRun, vreinterpretq_s8_s64(vzip2q_s64(a, b)));
    }
}

inline void add_run(Sums& sums, const int8x16_t* codes, int8x16_t x) {
    for (int i = 0; i < 4; ++i) sums.part[i] = vmmlaq_s32(sums.part[i], codes[i], x);
}

inline I finished(const Sums& sums, int side) {
    const int32x4_t a = sums.part[2 * side], b = sums.part[2 * side + 1];
    return vaddq_s32(vshlq_n_s32(vuzp1q_s32(a, b), 8), vuzp2q_s32(a, b));
}

#else

struct Sums {
    int32x4_t part[4];  // of the left four outputs high and low, then of the right four
};

// 16 codes of 8 rows: out[4][8 rows][4].
inline void place_run(const int8x16_t* rows, Code* out) {
    for (int side = 0; side < 2; ++side) {
        int8x16_t dwords[4];
        for (int i = 0; i < 4; ++i) dwords[i] = rows[4 * side + i];
        transpose_dwords(dwords);
        for (int i = 0; i < 4; ++i) vst1q_s8(out + 4 * (kStrip * i + 4 * side), dwords[i]);
    }
}

inline void add_run(Sums& sums, const int8x16_t* codes, int8x16_t x) {
    for (int side = 0; side < 2; ++side) {
        int32x4_t& high = sums.part[2 * side];
        int32x4_t& low = sums.part[2 * side + 1];
        high = vdotq_laneq_s32(high, codes[side], x, 0);
        low = vdotq_laneq_s32(low, codes[side], x, 2);
        high = vdotq_laneq_s32(high, codes[2 + side], x, 1);
        low = vdotq_laneq_s32(low, codes[2 + side], x, 3);
    }
}

inline I finished(const Sums& sums, int side) {
    return vaddq_s32(vshlq_n_s32(sums.part[2 * side], 8), sums.part[2 * side + 1]);
}

#endif

// The codes of a strip of rows, kChunk * kStrip per chunk.
inline void place_codes(const Matrix& matrix, int64_t first, Code* out) {
    const bool nibbles = has_nibbles(matrix.format);
    for (int64_t chunk = 0; chunk < matrix.cols; chunk += kChunk) {
        const int64_t count = matrix.cols - chunk < kChunk ? matrix.cols - chunk : kChunk;
        int8_t codes[kStrip][kChunk];
        for (int row = 0; row < kStrip; ++row) {
            const int64_t n = first + row < matrix.rows ? first + row : matrix.rows - 1;  // beyond the end: any row
            const int64_t start = n * matrix.row_bytes + (nibbles ? chunk / 2 : chunk);
            chunk_codes(matrix, matrix.codes + start, count, codes[row]);
        }
        for (int i = 0; i < kChunk; i += 16) {
            int8x16_t rows[kStrip];
            for (int row = 0; row < kStrip; ++row) rows[row] = vld1q_s8(codes[row] + i);
            place_run(rows, out + (chunk + i) * kStrip);
        }
    }
}

// One group of a strip's codes times M rows of x: sums[m] are those of the strip's left and right half.
template <int M>
inline void group_sums(const Code* codes, const int16_t* const* x, int64_t count, I (*sums)[2]) {
    Sums together[M];
    for (int m = 0; m < M; ++m)
        for (int i = 0; i < 4; ++i) together[m].part[i] = vdupq_n_s32(0);
    for (int64_t k = 0; k < count; k += kRun) {
        int8x16_t run[4];
        for (int i = 0; i < 4; ++i) run[i] = vld1q_s8(codes + k * kStrip + 16 * i);
        for (int m = 0; m < M; ++m) add_run(together[m], run, vld1q_s8(reinterpret_cast<const int8_t*>(x[m] + k)));
    }
    for (int m = 0; m < M; ++m)
        for (int side = 0; side < 2; ++side) sums[m][side] = finished(together[m], side);
}

}  // namespace gptoss::GPTOSS_ISA
