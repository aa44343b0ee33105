#include "weights.h"

namespace check {
namespace {

int bits_of(Format format) {
    switch (format) {
        case Format::kFloat32:
            return 32;
        case Format::kFloat16:
        case Format::kBFloat16:
            return 16;
        case Format::kAffine8:
        case Format::kMxfp8:
            return 8;
        case Format::kAffine6:
            return 6;
        default:
            return 4;
    }
}

uint8_t* allocate(Weights& weights, size_t bytes) {
    weights.memory.push_back(std::make_unique<Guarded>(bytes));
    return weights.memory.back()->data();
}

// Code i of a row, lowest bits first.
uint32_t code_at(const uint8_t* row, int bits, int64_t i) {
    uint32_t code = 0;
    for (int64_t b = i * bits; b < (i + 1) * bits; ++b) code |= uint32_t(row[b / 8] >> (b % 8) & 1) << (b - i * bits);
    return code;
}

double from_fp4(uint32_t code) {  // e2m1
    const double magnitudes[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    return code & 8 ? -magnitudes[code & 7] : magnitudes[code & 7];
}

double from_fp8(uint32_t code) {  // e4m3
    const int exponent = int(code >> 3 & 15), fraction = int(code & 7);
    const double size = exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
    return code & 0x80 ? -size : size;
}

double number_at(const uint8_t* p, Number number, int64_t i) {
    if (number == Number::kFloat32) {
        float x;
        std::memcpy(&x, p + 4 * i, 4);
        return x;
    }
    uint16_t bits;
    std::memcpy(&bits, p + 2 * i, 2);
    return number == Number::kFloat16 ? from_half(bits) : from_brain(bits);
}

void put_number(uint8_t* p, Number number, int64_t i, double x) {
    const float whole = float(x);
    const uint16_t bits = number == Number::kFloat16 ? to_half(x) : to_brain(x);
    if (number == Number::kFloat32)
        std::memcpy(p + 4 * i, &whole, 4);
    else
        std::memcpy(p + 2 * i, &bits, 2);
}

Number number_of(Format format) {
    if (format == Format::kFloat32) return Number::kFloat32;
    return format == Format::kFloat16 ? Number::kFloat16 : Number::kBFloat16;
}

void fill_codes(Random& random, Weights& weights) {
    Matrix& m = weights.matrix;
    uint8_t* codes = allocate(weights, m.rows * m.row_bytes);
    m.codes = codes;
    if (is_plain(m.format))
        for (int64_t i = 0; i < m.rows * m.cols; ++i) put_number(codes, number_of(m.format), i, random.uniform(-2, 2));
    else
        for (int64_t i = 0; i < m.rows * m.row_bytes; ++i) {
            codes[i] = uint8_t(random.bits() >> 11);
            if (m.format == Format::kMxfp8 && (codes[i] & 0x7f) == 0x7f) codes[i] = 0x7e;  // that is not a number
        }
}

uint8_t random_exponent(Random& random, Format format, Range range) {
    const int largest = format == Format::kMxfp4 ? 252 : 245;  // beyond, the largest codes are not within float32
    if (range == Range::kSmallest) return uint8_t(random.below(3));
    if (range == Range::kLarge) return uint8_t(205 + random.below(15));
    if (range == Range::kLargest) return uint8_t(largest - random.below(10));
    return uint8_t(116 + random.below(8));
}

double random_scale(Random& random, Number number, Range range) {
    const bool half = number == Number::kFloat16;
    double size = 0.02;
    if (range == Range::kSmallest) size = half ? 0x1p-22 : 0x1p-128;  // below the normal numbers
    if (range == Range::kLarge || range == Range::kLargest) size = half ? 30000 : 1e27;
    return size * random.uniform(-1, 1);
}

void fill_scales(Random& random, Weights& weights, Range range) {
    Matrix& m = weights.matrix;
    const int64_t count = m.rows * (m.cols / m.group);
    uint8_t* scales = allocate(weights, count * m.scale_bytes());
    m.scales = scales;
    if (!is_affine(m.format)) {
        for (int64_t i = 0; i < count; ++i) scales[i] = random_exponent(random, m.format, range);
        return;
    }
    uint8_t* biases = allocate(weights, count * m.scale_bytes());
    m.biases = biases;
    for (int64_t i = 0; i < count; ++i) {
        put_number(scales, m.number, i, random_scale(random, m.number, range));
        put_number(biases, m.number, i, random_scale(random, m.number, range));
    }
}

void find_values(Weights& weights) {
    const Matrix& m = weights.matrix;
    for (int64_t n = 0; n < m.rows; ++n)
        for (int64_t i = 0; i < m.cols; ++i) {
            double value, size;
            if (is_plain(m.format)) {
                value = number_at(m.codes + n * m.row_bytes, number_of(m.format), i);
                size = std::abs(value);
            } else {
                const uint32_t code = code_at(m.codes + n * m.row_bytes, bits_of(m.format), i);
                const int64_t g = n * (m.cols / m.group) + i / m.group;
                if (is_affine(m.format)) {
                    const double part = code * number_at(m.scales, m.number, g),
                                 bias = number_at(m.biases, m.number, g);
                    value = part + bias;
                    size = std::abs(part) + std::abs(bias);
                } else {
                    value = std::ldexp(m.format == Format::kMxfp4 ? from_fp4(code) : from_fp8(code), m.scales[g] - 127);
                    size = std::abs(value);
                }
            }
            weights.values.push_back(value);
            weights.sizes.push_back(size);
        }
}

Weights empty(Format format, Number number, int group, int64_t rows, int64_t cols) {
    Weights weights{};
    Matrix& m = weights.matrix;
    m.format = format, m.number = number, m.group = group, m.rows = rows, m.cols = cols;
    m.row_bytes = cols * bits_of(format) / 8;
    return weights;
}

}  // namespace

bool is_plain(Format format) {
    return format == Format::kFloat32 || format == Format::kFloat16 || format == Format::kBFloat16;
}

bool is_affine(Format format) {
    return format == Format::kAffine4 || format == Format::kAffine6 || format == Format::kAffine8;
}

Weights random_weights(Random& random, Format format, Number number, int group, int64_t rows, int64_t cols,
                       Range range) {
    Weights weights = empty(format, number, group, rows, cols);
    fill_codes(random, weights);
    if (group != 0) fill_scales(random, weights, range);
    if (rows % 2 != 0) {
        auto* bias = reinterpret_cast<float*>(allocate(weights, rows * sizeof(float)));
        for (int64_t n = 0; n < rows; ++n) bias[n] = range == Range::kSmallest ? 0.0f : random.uniform(-1, 1);
        weights.matrix.bias = bias;
    }
    find_values(weights);
    return weights;
}

Weights plain_weights(Format format, const std::vector<uint16_t>& bits, int64_t cols) {
    Weights weights = empty(format, Number::kFloat32, 0, int64_t(bits.size()) / cols, cols);
    uint8_t* codes = allocate(weights, bits.size() * 2);
    std::memcpy(codes, bits.data(), bits.size() * 2);
    weights.matrix.codes = codes;
    find_values(weights);
    return weights;
}

std::string words(const Matrix& matrix) {
    static const char* const formats[] = {"float32", "float16", "bfloat16", "affine4",
                                          "affine6", "affine8", "mxfp4",    "mxfp8"};
    static const char* const numbers[] = {"float32", "float16", "bfloat16"};
    std::string text = formats[int(matrix.format)];
    if (is_affine(matrix.format)) text += std::string(" with ") + numbers[int(matrix.number)];
    if (matrix.group != 0) text += " in groups of " + std::to_string(matrix.group);
    return text + ", " + std::to_string(matrix.rows) + " x " + std::to_string(matrix.cols);
}

}  // namespace check
