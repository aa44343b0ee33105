#include "common/arrays.h"

#include <cstring>
#include <sstream>
#include <stdexcept>

#include "mlx/backend/common/utils.h"

namespace gptoss {
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

std::string words(const mx::Shape& shape) {
    std::ostringstream text;
    text << '(';
    for (size_t i = 0; i < shape.size(); ++i) text << (i ? ", " : "") << shape[i];
    text << ')';
    return text.str();
}

void check_shape(const std::string& name, const mx::array& array, const mx::Shape& wanted) {
    if (array.shape() != wanted)
        throw std::invalid_argument(name + ": shape " + words(wanted) + " expected, " + words(array.shape()) +
                                    " found");
}

}  // namespace

Number number_of(mx::Dtype dtype) {
    if (dtype == mx::float32) return Number::kFloat32;
    return dtype == mx::float16 ? Number::kFloat16 : Number::kBFloat16;
}

void check_floats(const std::string& name, mx::Dtype dtype) {
    if (dtype != mx::float32 && dtype != mx::float16 && dtype != mx::bfloat16)
        throw std::invalid_argument(name + ": float32, float16 or bfloat16 expected");
}

// The array itself where it is known to lie row by row, as loaded weights do; else an operation that sees to it.
mx::array in_rows(const mx::array& array, mx::Stream stream) {
    if (array.is_available() && array.flags().row_contiguous) return array;
    return mx::contiguous(array, false, stream);
}

void CpuPrimitive::eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) {
    throw std::runtime_error(std::string(name()) + ": runs on the CPU only; make the CPU the default device");
}

std::vector<mx::array> CpuPrimitive::vjp(const std::vector<mx::array>&, const std::vector<mx::array>&,
                                         const std::vector<int>&, const std::vector<mx::array>&) {
    throw std::runtime_error(std::string(name()) +
                             ": has no gradient; call model.train() first, which takes MLX's own");
}

std::vector<mx::array> CpuPrimitive::jvp(const std::vector<mx::array>&, const std::vector<mx::array>&,
                                         const std::vector<int>&) {
    throw std::runtime_error(std::string(name()) +
                             ": has no gradient; call model.train() first, which takes MLX's own");
}

void Weight::append_to(std::vector<mx::array>& inputs, mx::Stream stream) const {
    inputs.push_back(in_rows(weight, stream));
    for (const auto* part : {&scales, &biases})
        if (part->has_value()) inputs.push_back(in_rows(**part, stream));
    if (bias) inputs.push_back(bias->dtype() == mx::float32 ? in_rows(*bias, stream) : as_float32(*bias, stream));
}

Matrix WeightLayout::matrix(const std::vector<mx::array>& inputs, int& next, int64_t cols) const {
    const mx::array& weight = inputs[next++];
    Matrix found{};
    found.format = format;
    found.group = group;
    found.rows = weight.shape(-2);
    found.cols = cols;
    found.row_bytes = int64_t(weight.shape(-1)) * weight.itemsize();
    found.codes = weight.data<uint8_t>();
    if (scales) {
        found.number = number_of(inputs[next].dtype());
        found.scales = inputs[next++].data<uint8_t>();
    }
    if (biases) found.biases = inputs[next++].data<uint8_t>();
    if (bias) found.bias = inputs[next++].data<float>();
    return found;
}

Format format_named(const std::string& mode, int bits, mx::Dtype plain) {
    if (mode == "mxfp4") return Format::kMxfp4;
    if (mode == "mxfp8") return Format::kMxfp8;
    if (mode == "affine" && bits == 4) return Format::kAffine4;
    if (mode == "affine" && bits == 6) return Format::kAffine6;
    if (mode == "affine" && bits == 8) return Format::kAffine8;
    if (mode.empty() && plain == mx::float32) return Format::kFloat32;
    if (mode.empty() && plain == mx::float16) return Format::kFloat16;
    if (mode.empty() && plain == mx::bfloat16) return Format::kBFloat16;
    throw std::invalid_argument("weight: no native product for " + (mode.empty() ? "this dtype" : mode) + " with " +
                                std::to_string(bits) + " bits");
}

void check_weight(const std::string& what, const Weight& weight, int64_t cols, int leading) {
    const mx::array& codes = weight.weight;
    if (int(codes.ndim()) != leading + 2)
        throw std::invalid_argument(what + ": " + std::to_string(leading + 2) + " axes expected, shape " +
                                    words(codes.shape()) + " found");
    const bool plain = bits_of(weight.format) >= 16;
    if (plain && weight.group != 0) throw std::invalid_argument(what + ": a plain weight has no groups");
    if (!plain && codes.dtype() != mx::uint32) throw std::invalid_argument(what + ": packed weights are uint32");
    mx::Shape wanted = codes.shape();
    wanted.back() = mx::ShapeElem(plain ? cols : cols * bits_of(weight.format) / 32);
    check_shape(what, codes, wanted);
    if (!plain) {
        const bool affine = weight.format != Format::kMxfp4 && weight.format != Format::kMxfp8;
        const bool known =
            affine ? weight.group == 32 || weight.group == 64 || weight.group == 128 : weight.group == 32;
        if (!known || cols < 1 || cols % weight.group != 0)
            throw std::invalid_argument(what + ": no native product for groups of " + std::to_string(weight.group) +
                                        " in rows of " + std::to_string(cols));
        if (!weight.scales || affine != weight.biases.has_value())
            throw std::invalid_argument(what + ": scales, and biases of an affine weight, expected");
        wanted.back() = mx::ShapeElem(cols / weight.group);
        check_shape(what + " scales", *weight.scales, wanted);
        if (affine) {
            check_floats(what + " scales", weight.scales->dtype());
            check_shape(what + " biases", *weight.biases, wanted);
            if (weight.biases->dtype() != weight.scales->dtype())
                throw std::invalid_argument(what + " biases: the dtype of the scales expected");
        } else if (weight.scales->dtype() != mx::uint8) {
            throw std::invalid_argument(what + " scales: uint8 exponents expected");
        }
    }
    if (weight.bias) {
        wanted.pop_back();
        check_shape(what + " bias", *weight.bias, wanted);
    }
}

Dense::Dense(const mx::array& x)
    : data_(x.data<uint8_t>()),
      contiguous_(x.flags().row_contiguous),
      size_(x.size()),
      itemsize_(x.itemsize()),
      shape_(x.shape()),
      strides_(x.strides()) {}

const uint8_t* Dense::copy() {
    copied_.resize(size_ * itemsize_);
    for (size_t i = 0; i < size_; ++i)
        std::memcpy(&copied_[i * itemsize_], data_ + mx::elem_to_loc(i, shape_, strides_) * int64_t(itemsize_),
                    itemsize_);
    return copied_.data();
}

mx::array as_float32(const mx::array& x, mx::Stream stream) {
    return mx::contiguous(mx::astype(x, mx::float32, stream), false, stream);
}

}  // namespace gptoss
