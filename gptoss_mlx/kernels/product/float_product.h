// Matrix products in float32: rows of packed weights are expanded to their exact values and multiplied with rows
// of float32 activations. Compiled once per instruction set.
//
// Rows of weights are read one after the other in memory order, which is what memory streams fastest. Every result
// adds up in the same four partial sums whatever the number of rows, so batches equal single rows bit for bit.
#pragma once

#include "common/kernels.h"
#include "isa/simd.h"

namespace gptoss::GPTOSS_ISA {

constexpr int kSums = 4;  // independent partial sums per result, to hide the latency of fma

inline bool has_nibbles(Format format) { return format == Format::kMxfp4 || format == Format::kAffine4; }

// Whether codes are small integers that the split and the strip form can multiply.
inline bool has_integer(Format format, int group) {
    return (format == Format::kMxfp4 || format == Format::kAffine4 || format == Format::kAffine8) && group >= 32;
}

inline void arrange(Format format, const float* x, int64_t cols, float* out) {
    const int64_t end = padded(cols, kUnit);
    if (!has_nibbles(format)) {
        for (int64_t i = 0; i < cols; ++i) out[i] = x[i];
    } else {
        for (int64_t unit = 0; unit < cols / kUnit * kUnit; unit += kUnit)
            for (int i = 0; i < kUnit; ++i) out[unit + i] = x[unit + kNibbleOrder[i]];
    }
    for (int64_t i = cols; i < end; ++i) out[i] = 0;
}

inline void expand_vector(Number number, const uint8_t* p, int64_t i, float* out) {
    const auto* half = reinterpret_cast<const uint16_t*>(p + 2 * i);
    if (number == Number::kFloat32)
        store(out + i, load(reinterpret_cast<const float*>(p + 4 * i)));
    else
        store(out + i, number == Number::kBFloat16 ? load_bf16(half) : load_f16(half));
}

// The last vector begins early enough to end with the last number; fewer than a vector go through a buffer.
inline void expand_numbers(Number number, const uint8_t* p, int64_t count, float* out) {
    if (count < kLanes) {
        alignas(64) uint8_t buffer[kLanes * 4] = {};
        alignas(64) float values[kLanes];
        std::memcpy(buffer, p, count * (number == Number::kFloat32 ? 4 : 2));
        expand_vector(number, buffer, 0, values);
        std::memcpy(out, values, count * 4);
        return;
    }
    for (int64_t i = 0; i + kLanes <= count; i += kLanes) expand_vector(number, p, i, out);
    if (count % kLanes != 0) expand_vector(number, p, count - kLanes, out);
}

inline void expand_exponents(const uint8_t* p, int64_t count, float* out) {
    if (count < kLanes) {
        alignas(64) uint8_t buffer[64] = {};
        alignas(64) float values[kLanes];
        std::memcpy(buffer, p, count);
        store(values, load_exponents(buffer));
        std::memcpy(out, values, count * 4);
        return;
    }
    for (int64_t i = 0; i + kLanes <= count; i += kLanes) store(out + i, load_exponents(p + i));
    if (count % kLanes != 0) store(out + count - kLanes, load_exponents(p + count - kLanes));
}

// Scales of row n, and biases where the format has them.
inline void expand_scales(const Matrix& matrix, int64_t n, float* scales, float* biases) {
    if (matrix.group == 0) return;
    const int64_t groups = matrix.cols / matrix.group;
    const int64_t start = n * groups * matrix.scale_bytes();
    if (matrix.biases == nullptr) {
        expand_exponents(matrix.scales + start, groups, scales);
    } else {
        expand_numbers(matrix.number, matrix.scales + start, groups, scales);
        expand_numbers(matrix.number, matrix.biases + start, groups, biases);
    }
}

// One row of weights as units of 16 values.
template <Format format>
struct Row {
    const uint8_t* codes;
    const float* scales;
    const float* biases;
    int shift;  // units of a group, as a power of two

    void unit(int64_t u, F* out) const {
        if constexpr (format == Format::kFloat32) {
            for (int v = 0; v < kVectors; ++v)
                out[v] = load(reinterpret_cast<const float*>(codes) + u * kUnit + v * kLanes);
        } else if constexpr (format == Format::kBFloat16 || format == Format::kFloat16) {
            const auto* p = reinterpret_cast<const uint16_t*>(codes) + u * kUnit;
            for (int v = 0; v < kVectors; ++v)
                out[v] = format == Format::kBFloat16 ? load_bf16(p + v * kLanes) : load_f16(p + v * kLanes);
        } else {
            if constexpr (format == Format::kMxfp4) load_fp4(codes + u * 8, out);
            if constexpr (format == Format::kMxfp8) load_fp8(codes + u * 16, out);
            if constexpr (format == Format::kAffine4) load_u4(codes + u * 8, out);
            if constexpr (format == Format::kAffine6) load_u6(codes + u * 12, out);
            if constexpr (format == Format::kAffine8)
                for (int v = 0; v < kVectors; ++v) out[v] = load_u8(codes + u * 16 + v * kLanes);
            const F scale = set1(scales[u >> shift]);
            if constexpr (format == Format::kMxfp4 || format == Format::kMxfp8) {
                for (int v = 0; v < kVectors; ++v) out[v] = mul(out[v], scale);
            } else {
                const F bias = set1(biases[u >> shift]);
                for (int v = 0; v < kVectors; ++v) out[v] = fma(out[v], scale, bias);
            }
        }
    }

    // The last, incomplete unit of a plain row: what lies beyond its end is not touched and counts as 0.
    void rest(int64_t u, int64_t count, F* out) const {
        alignas(64) uint8_t buffer[kUnit * 4] = {};
        constexpr int bytes = format == Format::kFloat32 ? 4 : 2;
        std::memcpy(buffer, codes + u * kUnit * bytes, count * bytes);
        Row<format> last{buffer, nullptr, nullptr, 0};
        last.unit(0, out);
    }
};

constexpr bool is_plain(Format format) {
    return format == Format::kFloat32 || format == Format::kFloat16 || format == Format::kBFloat16;
}

inline float total(const F* sums) { return sum(add(add(sums[0], sums[1]), add(sums[2], sums[3]))); }

template <int M>
inline void accumulate(const F* values, int64_t u, const float* const* x, F (*sums)[kSums]) {
    for (int v = 0; v < kVectors; ++v)
        for (int m = 0; m < M; ++m) {
            F& target = sums[m][(u * kVectors + v) % kSums];
            target = fma(values[v], load(x[m] + u * kUnit + v * kLanes), target);
        }
}

template <Format format, int M>
inline void dot(const Row<format>& row, int64_t cols, const float* const* x, F (*sums)[kSums]) {
    const int64_t units = cols / kUnit;
    constexpr int kStep = kVectors >= kSums ? 1 : kSums / kVectors;  // units until the partial sums come round
    F values[kVectors] = {};
    int64_t u = 0;
    for (; u + kStep <= units; u += kStep) {
        for (int step = 0; step < kStep; ++step) {
            row.unit(u + step, values);
            for (int v = 0; v < kVectors; ++v)
                for (int m = 0; m < M; ++m) {
                    F& target = sums[m][(step * kVectors + v) % kSums];
                    target = fma(values[v], load(x[m] + (u + step) * kUnit + v * kLanes), target);
                }
        }
    }
    for (; u < units; ++u) {
        row.unit(u, values);
        accumulate<M>(values, u, x, sums);
    }
    if constexpr (is_plain(format))
        if (cols % kUnit != 0) {
            row.rest(units, cols % kUnit, values);
            accumulate<M>(values, units, x, sums);
        }
}

template <Format format>
inline Row<format> row_of(const Matrix& matrix, int64_t n, float* scratch) {
    float* biases = scratch + (matrix.group != 0 ? matrix.cols / matrix.group : 0);
    expand_scales(matrix, n, scratch, biases);
    int shift = 0;
    while (matrix.group > (kUnit << shift)) ++shift;
    return {matrix.codes + n * matrix.row_bytes, scratch, biases, shift};
}

template <Format format, int M>
void few_rows(const Matrix& matrix, int64_t first, int64_t last, const float* const* x, float* const* y,
              float* scratch) {
    for (int64_t n = first; n < last; ++n) {
        const Row<format> row = row_of<format>(matrix, n, scratch);
        F sums[M][kSums];
        for (int m = 0; m < M; ++m)
            for (int s = 0; s < kSums; ++s) sums[m][s] = zero();
        dot<format, M>(row, matrix.cols, x, sums);
        for (int m = 0; m < M; ++m) y[m][n] = total(sums[m]) + (matrix.bias != nullptr ? matrix.bias[n] : 0.0f);
    }
}

// R expanded rows of weights times M rows of x, `stride` floats apart.
template <int R, int M>
inline void tile(const float* panel, int64_t stride, const float* const* x, const float* bias, float* const* y,
                 int64_t n) {
    F sums[R][M][kSums];
    for (int r = 0; r < R; ++r)
        for (int m = 0; m < M; ++m)
            for (int s = 0; s < kSums; ++s) sums[r][m][s] = zero();
    const int64_t vectors = stride / kLanes;
    int64_t i = 0;
    for (; i + kSums <= vectors; i += kSums)
        for (int s = 0; s < kSums; ++s) {
            F weights[R];
            for (int r = 0; r < R; ++r) weights[r] = load(panel + r * stride + (i + s) * kLanes);
            for (int m = 0; m < M; ++m) {
                const F right = load(x[m] + (i + s) * kLanes);
                for (int r = 0; r < R; ++r) sums[r][m][s] = fma(weights[r], right, sums[r][m][s]);
            }
        }
    for (; i < vectors; ++i)
        for (int r = 0; r < R; ++r)
            for (int m = 0; m < M; ++m)
                sums[r][m][i % kSums] =
                    fma(load(panel + r * stride + i * kLanes), load(x[m] + i * kLanes), sums[r][m][i % kSums]);
    for (int r = 0; r < R; ++r)
        for (int m = 0; m < M; ++m) y[m][n + r] = total(sums[r][m]) + (bias != nullptr ? bias[n + r] : 0.0f);
}

template <int R>
void tiles(const float* panel, int64_t stride, const float* const* x, int64_t count, const float* bias, float* const* y,
           int64_t n) {
    int64_t m = 0;
    for (; m + kTileCols <= count; m += kTileCols) tile<R, kTileCols>(panel, stride, x + m, bias, y + m, n);
    for (; m < count; ++m) tile<R, 1>(panel, stride, x + m, bias, y + m, n);
}

template <Format format>
void expand_row(const Matrix& matrix, int64_t n, float* out, float* scratch) {
    const Row<format> row = row_of<format>(matrix, n, scratch);
    F values[kVectors] = {};
    const int64_t units = matrix.cols / kUnit;
    for (int64_t u = 0; u < units; ++u) {
        row.unit(u, values);
        for (int v = 0; v < kVectors; ++v) store(out + u * kUnit + v * kLanes, values[v]);
    }
    if constexpr (is_plain(format))
        if (matrix.cols % kUnit != 0) {
            row.rest(units, matrix.cols % kUnit, values);
            for (int v = 0; v < kVectors; ++v) store(out + units * kUnit + v * kLanes, values[v]);
        }
}

template <Format format>
void many_rows(const Matrix& matrix, int64_t first, int64_t last, const float* const* x, int64_t count, float* const* y,
               float* scratch) {
    const int64_t stride = padded(matrix.cols, kUnit);
    float* panel = scratch + 2 * stride;
    int64_t n = first;
    for (; n + kTileRows <= last; n += kTileRows) {
        for (int r = 0; r < kTileRows; ++r) expand_row<format>(matrix, n + r, panel + r * stride, scratch);
        tiles<kTileRows>(panel, stride, x, count, matrix.bias, y, n);
    }
    for (; n < last; ++n) {
        expand_row<format>(matrix, n, panel, scratch);
        tiles<1>(panel, stride, x, count, matrix.bias, y, n);
    }
}

template <Format format>
void product_of(const Matrix& matrix, int64_t first, int64_t last, const float* const* x, int64_t count,
                float* const* y, float* scratch) {
    if (count == 1) return few_rows<format, 1>(matrix, first, last, x, y, scratch);
    if (count == 2) return few_rows<format, 2>(matrix, first, last, x, y, scratch);
    if (count == kRowBlock) return few_rows<format, kRowBlock>(matrix, first, last, x, y, scratch);
    many_rows<format>(matrix, first, last, x, count, y, scratch);
}

inline void product(const Matrix& matrix, int64_t first, int64_t last, const float* const* x, int64_t count,
                    float* const* y, float* scratch) {
    switch (matrix.format) {
        case Format::kFloat32:
            return product_of<Format::kFloat32>(matrix, first, last, x, count, y, scratch);
        case Format::kFloat16:
            return product_of<Format::kFloat16>(matrix, first, last, x, count, y, scratch);
        case Format::kBFloat16:
            return product_of<Format::kBFloat16>(matrix, first, last, x, count, y, scratch);
        case Format::kAffine4:
            return product_of<Format::kAffine4>(matrix, first, last, x, count, y, scratch);
        case Format::kAffine6:
            return product_of<Format::kAffine6>(matrix, first, last, x, count, y, scratch);
        case Format::kAffine8:
            return product_of<Format::kAffine8>(matrix, first, last, x, count, y, scratch);
        case Format::kMxfp4:
            return product_of<Format::kMxfp4>(matrix, first, last, x, count, y, scratch);
        case Format::kMxfp8:
            return product_of<Format::kMxfp8>(matrix, first, last, x, count, y, scratch);
    }
}

inline int64_t product_scratch(int64_t cols) { return (2 + kTileRows) * padded(cols, kUnit); }

}  // namespace gptoss::GPTOSS_ISA
