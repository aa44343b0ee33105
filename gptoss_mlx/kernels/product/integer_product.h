// Matrix products of many rows in integers: activations rounded to 16 bits with one scale per group of the weights,
// codes as small integers, pairs multiplied and added up exactly in 32 bits over one group, groups added up in float32.
// Compiled once per instruction set.
//
// A strip of 2 * kLanes rows of weights is unpacked and transposed once and then multiplied with every row of
// activations, kIntRows at a time; a vector's lanes are outputs. Each result adds up in the same order however many
// rows there are.
#pragma once

#ifdef GPTOSS_BYTES
#include "product/integer_bytes.h"
#else
#include "product/integer_pairs.h"
#endif
#include "product/rounding.h"

namespace gptoss::GPTOSS_ISA {

// A row of rounded activations: for each group its scale and the sum of its values (times the scale), and the padded
// 16-bit values as place_values() lays them out.
struct Rounded {
    float* scales;
    float* sums;
    int16_t* values;
};

inline int64_t head_bytes(int64_t cols, int group) { return padded(2 * (cols / group) * 4, 64); }

inline Rounded rounded_at(const uint8_t* p, int64_t cols, int group) {
    auto* start = const_cast<uint8_t*>(p);
    auto* floats = reinterpret_cast<float*>(start);
    return {floats, floats + cols / group, reinterpret_cast<int16_t*>(start + head_bytes(cols, group))};
}

inline int64_t rounded_bytes(int64_t cols, int group) { return head_bytes(cols, group) + 2 * padded(cols, kChunk); }

inline void round_row(Format format, int group, const float* x, int64_t cols, uint8_t* out) {
    const Rounded row = rounded_at(out, cols, group);
    for (int64_t g = 0; g < cols / group; ++g) {
        row.scales[g] = rounding_step(x + g * group, group);
        row.sums[g] = 0;
    }
    for (int64_t chunk = 0; chunk < cols; chunk += kChunk) {
        alignas(64) int16_t whole[kChunk] = {};
        for (int64_t part = chunk; part < chunk + kChunk && part < cols; part += 32) {
            const float scale = row.scales[part / group];
            if (scale != scale) continue;  // the values stay 0, and 0 times NaN is NaN
            const F inverse = set1(1.0f / scale);
            int32_t sum = 0;
            for (int v = 0; v < 32; v += kLanes)
                store_i16(whole + part - chunk + v, round(mul(load(x + part + v), inverse)));
            for (int i = 0; i < 32; ++i) sum += whole[part - chunk + i];
            row.sums[part / group] += scale * float(sum);
        }
        place_values(format, whole, row.values + chunk);
    }
}

// What a strip unpacks to: codes as place_codes() lays them out, scales and biases [groups][kStrip].
struct Strip {
    Code* codes;
    float* scales;
    float* biases;
};

inline Strip strip_at(uint8_t* p, int64_t cols, int group) {
    const int64_t bytes = padded(cols, kChunk) * kStrip * int64_t(sizeof(Code));
    auto* scales = reinterpret_cast<float*>(p + bytes);
    return {reinterpret_cast<Code*>(p), scales, scales + cols / group * kStrip};
}

inline int64_t strip_scratch(int64_t cols, int group) {
    return padded(cols, kChunk) * kStrip * int64_t(sizeof(Code)) + cols / group * kStrip * 8 + cols / group * 8 + 128;
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
    const int64_t end = first + kStrip < matrix.rows ? first + kStrip : matrix.rows;
    for (int64_t at = first * matrix.row_bytes; at < end * matrix.row_bytes; at += 64)
        __builtin_prefetch(matrix.codes + at, 0, 2);  // in order: place_codes() hops from row to row
    place_codes(matrix, first, strip.codes);
}

// M rows of x times one strip. Loops over constants are unrolled by request: sums that are indexed at run time would
// leave their registers.
template <int M, bool affine>
inline void strip_tile(const Matrix& matrix, const Strip& strip, const Rounded* x, float* const* y, const float* bias) {
    alignas(64) float results[M][kStrip] = {};
    const int64_t groups = matrix.cols / matrix.group;
    for (int64_t g = 0; g < groups; ++g) {
        I sums[M][2];
        const int16_t* values[M];
        for (int m = 0; m < M; ++m) values[m] = x[m].values + g * matrix.group;
        group_sums<M>(strip.codes + g * matrix.group * kStrip, values, matrix.group, sums);
        const F scales[2] = {load(strip.scales + g * kStrip), load(strip.scales + g * kStrip + kLanes)};
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
            const F step = set1(x[m].scales[g]);
            F offset = zero();
            if constexpr (affine) offset = set1(x[m].sums[g]);
#pragma GCC unroll 2
            for (int side = 0; side < 2; ++side) {
                float* result = results[m] + side * kLanes;
                F sum = fma(mul(int_to_float(sums[m][side]), step), scales[side], load(result));
                if constexpr (affine) sum = fma(load(strip.biases + g * kStrip + side * kLanes), offset, sum);
                store(result, sum);
            }
        }
    }
    for (int m = 0; m < M; ++m)
        for (int lane = 0; lane < kStrip; lane += kLanes)
            store(y[m] + lane, add(load(results[m] + lane), load(bias + lane)));
}

template <int M>
inline void rest_tile(int64_t count, const Matrix& matrix, const Strip& strip, const Rounded* x, float* const* y,
                      const float* bias) {
    if constexpr (M > 0) {
        if (count != M) return rest_tile<M - 1>(count, matrix, strip, x, y, bias);
        if (matrix.biases != nullptr) return strip_tile<M, true>(matrix, strip, x, y, bias);
        strip_tile<M, false>(matrix, strip, x, y, bias);
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
        for (int64_t i = 0; i < some; ++i) rows[i] = rounded_at(x[m + i], matrix.cols, matrix.group);
        rest_tile<kIntRows>(some, matrix, strip, rows, y + m, bias);
    }
}

}  // namespace gptoss::GPTOSS_ISA
