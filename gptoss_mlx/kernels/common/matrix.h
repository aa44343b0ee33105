// How a weight matrix lies in memory: rows one after the other, each packed in groups with a scale.
#pragma once

#include <cstdint>

namespace gptoss {

enum class Format : int { kFloat32, kFloat16, kBFloat16, kAffine4, kAffine6, kAffine8, kMxfp4, kMxfp8 };

// What scales and biases of an affine weight are stored as.
enum class Number : int { kFloat32, kFloat16, kBFloat16 };

struct Matrix {
    Format format;
    Number number;          // of scales and biases, affine formats only
    int group;              // values per scale: 32, 64 or 128; 0 for plain formats
    int64_t rows, cols;     // outputs, inputs
    int64_t row_bytes;      // of packed codes
    const uint8_t* codes;   // rows * row_bytes
    const uint8_t* scales;  // rows * cols / group numbers, or bytes that are exponents (mx formats)
    const uint8_t* biases;  // as scales; affine formats only
    const float* bias;      // added to each output, or null

    // The same matrix of another expert, these lying one after the other.
    Matrix of_expert(int64_t expert) const {
        Matrix found = *this;
        found.codes += expert * rows * row_bytes;
        if (group != 0) {
            const int64_t bytes = rows * (cols / group) * scale_bytes();
            found.scales += expert * bytes;
            if (biases != nullptr) found.biases += expert * bytes;
        }
        if (bias != nullptr) found.bias += expert * rows;
        return found;
    }

    int scale_bytes() const {
        if (format == Format::kMxfp4 || format == Format::kMxfp8) return 1;
        return number == Number::kFloat32 ? 4 : 2;
    }
};

}  // namespace gptoss
