// The functions that exist once per instruction set, and the choice between the sets at run time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/matrix.h"

namespace gptoss {

// Matrix products. Two families with one contract each:
//
// Float: weights are expanded to float32 values exactly and multiplied in float32. A row's result does not depend
// on how many rows are computed together, so decoding token by token equals decoding in batches bit for bit.
//
// Integer: activations are rounded to 16 bits with one scale per row (error about 3e-5 of a result, at most 5e-4
// for rows with a single outlier), codes stay small integers, and products add up exactly in 32 bits over one group.
struct ProductKernels {
    // Rows of x in the order in which the format's codes are expanded: out has padded(cols) floats, the last zero.
    void (*arrange)(Format format, const float* x, int64_t cols, float* out);
    // y[m][n] = x[m] . row n + bias[n] for n in [first, last), m in [0, m_count), rows of x arranged.
    void (*product)(const Matrix& matrix, int64_t first, int64_t last, const float* const* x, int64_t m_count,
                    float* const* y, float* scratch);
    // Floats of scratch that `product` needs.
    int64_t (*product_scratch)(int64_t cols);

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

struct Kernels {
    const char* name;   // as GPTOSS_ISA spells it
    const char* words;  // for people
    ProductKernels product;
    SwigluKernel swiglu;
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
