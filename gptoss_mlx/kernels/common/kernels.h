// The functions that exist once per instruction set, and the choice between the sets at run time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attention/tile.h"
#include "common/matrix.h"

namespace gptoss {

// Matrix products, in three forms. In each a row's result does not depend on how many rows are computed together.
//
// Float: weights are expanded to float32 values exactly and multiplied in float32.
//
// Split, for few rows, and strip, for many: activations are rounded to whole numbers, codes stay small integers, and
// products add up exactly in 32 bits. Strips round to 16 bits with one scale per group of the weights (error about 2e-5
// of a result); the split form to 24 bits on AVX-512, as good as float32, and to 16 on Arm, with one scale per row. An
// instruction set need not have the split form; the float form then takes its place.
struct ProductKernels {
    // Rows of x in the order in which the format's codes are expanded: out has padded(cols) floats, the last zero.
    void (*arrange)(Format format, const float* x, int64_t cols, float* out);
    // y[m][n] = x[m] . row n + bias[n] for n in [first, last), m in [0, m_count), rows of x arranged.
    void (*product)(const Matrix& matrix, int64_t first, int64_t last, const float* const* x, int64_t m_count,
                    float* const* y, float* scratch);
    // Floats of scratch that `product` needs.
    int64_t (*product_scratch)(int64_t cols);

    // The split form: rows of x in `split_bytes` bytes each, otherwise as `product`.
    bool (*has_split)(Format format, int group);
    int64_t (*split_bytes)(int64_t cols, int group);
    void (*split)(Format format, int group, const float* x, int64_t cols, uint8_t* out);
    void (*split_product)(const Matrix& matrix, int64_t first, int64_t last, const uint8_t* const* x, int64_t m_count,
                          float* const* y);

    // Output rows of one strip of the integer product; strips start at multiples of it.
    int strip;
    // Whether a format has an integer product here.
    bool (*has_integer)(Format format, int group);
    // Bytes of one row of rounded activations.
    int64_t (*rounded_bytes)(int64_t cols, int group);
    // Round one row.
    void (*round)(Format format, int group, const float* x, int64_t cols, uint8_t* out);
    // y[m][n] as above for the strip that begins at `first`, rows of x rounded; y rows need only `strip` floats
    // from y[m] on, which receive rows first, first + 1, ... of the strip.
    void (*strip_product)(const Matrix& matrix, int64_t first, const uint8_t* const* x, int64_t m_count,
                          float* const* y, uint8_t* scratch);
    int64_t (*strip_scratch)(int64_t cols, int group);
};

// gate[i] = min(gate, limit) * sigmoid(alpha * min(gate, limit)) * (clip(up, -limit, limit) + 1)
using SwigluKernel = void (*)(float* gate, const float* up, int64_t count, float limit, float alpha);

// out = x / sqrt(mean(x^2) + eps) * weight
using NormKernel = void (*)(const float* x, const float* weight, int64_t count, float eps, float* out);

// One head's vector, cast: as it is, or with its pairs (i, i + half) turned.
struct RopeKernels {
    void (*convert)(const float* x, int64_t count, Number number, void* out);
    void (*turn)(const float* x, const float* cos, const float* sin, int64_t half, Number number, void* out);
};

struct Kernels {
    const char* name;   // as GPTOSS_ISA spells it
    const char* words;  // for people
    ProductKernels product;
    SwigluKernel swiglu;
    AttentionKernels attention;
    NormKernel norm;
    RopeKernels rope;
};

// The set in use: GPTOSS_ISA, else the best one that this processor has.
const Kernels& kernels();

// Names of the sets that this processor can run, best first.
std::vector<std::string> available_isas();

// Use another set from now on. Throws std::invalid_argument for one that does not exist or does not run here.
void use_isa(const std::string& name);

const Kernels& portable_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#elif defined(__aarch64__)
const Kernels& neon_kernels();
const Kernels& dotprod_kernels();
const Kernels& i8mm_kernels();
#endif

}  // namespace gptoss
