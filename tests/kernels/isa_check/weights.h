// Random weight matrices, packed as the kernels read them, and their values from each format's definition.
#pragma once

#include <memory>

#include "check.h"
#include "common/matrix.h"

namespace check {

using gptoss::Format;
using gptoss::Matrix;
using gptoss::Number;

// How large scales are.
enum class Range { kUsual, kSmallest, kLarge, kLargest };

struct Weights {
    Matrix matrix;
    std::vector<double> values;  // rows * cols
    std::vector<double> sizes;   // what a value's parts add up to without signs, to bound rounding
    std::vector<std::unique_ptr<Guarded>> memory;
};

Weights random_weights(Random& random, Format format, Number number, int group, int64_t rows, int64_t cols,
                       Range range);

// A plain matrix of 16-bit numbers with given bits.
Weights plain_weights(Format format, const std::vector<uint16_t>& bits, int64_t cols);

bool is_plain(Format format);
bool is_affine(Format format);
std::string words(const Matrix& matrix);

}  // namespace check
