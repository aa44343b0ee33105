// MLX arrays as the kernels see them.
#pragma once

#include <optional>

#include "common/matrix.h"
#include "mlx/mlx.h"
#include "mlx/primitives.h"

namespace gptoss {

namespace mx = mlx::core;

// The arrays of a weight matrix, or of one matrix per expert: weight (..., rows, words), scales and biases
// (..., rows, groups), bias (..., rows).
struct Weight {
    mx::array weight;
    std::optional<mx::array> scales, biases, bias;
    Format format;
    int group;

    // Append the arrays to a primitive's inputs, laid out as the kernels read them.
    void append_to(std::vector<mx::array>& inputs, mx::Stream stream) const;
};

// An operation that runs on the CPU and has no gradient.
class CpuPrimitive : public mx::Primitive {
  public:
    using Primitive::Primitive;

    void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override;
    std::vector<mx::array> vjp(const std::vector<mx::array>&, const std::vector<mx::array>&, const std::vector<int>&,
                               const std::vector<mx::array>&) override;
    std::vector<mx::array> jvp(const std::vector<mx::array>&, const std::vector<mx::array>&,
                               const std::vector<int>&) override;
};

// Which of a Weight's arrays an operation's inputs hold, to find them again when it runs.
struct WeightLayout {
    Format format;
    int group;
    bool scales, biases, bias;

    explicit WeightLayout(const Weight& weight)
        : format(weight.format),
          group(weight.group),
          scales(weight.scales.has_value()),
          biases(weight.biases.has_value()),
          bias(weight.bias.has_value()) {}

    bool operator==(const WeightLayout&) const = default;

    // The matrix whose arrays begin at inputs[next]; moves next behind them.
    Matrix matrix(const std::vector<mx::array>& inputs, int& next, int64_t cols) const;
};

// "mxfp4", "mxfp8", "affine4", "affine6", "affine8", or that of a plain weight's dtype.
Format format_named(const std::string& name, int bits, mx::Dtype plain);

// Refuse arrays that do not fit together, with one line that says which.
void check_weight(const std::string& what, const Weight& weight, int64_t cols, int leading);

// How numbers of a float dtype are stored.
Number number_of(mx::Dtype dtype);

// Refuse what is not float32, float16 or bfloat16.
void check_floats(const std::string& name, mx::Dtype dtype);

// An input's numbers one after the other: where they are, or copied if they lie in a view that has gaps. Cheaper than
// mx::contiguous, which is an operation of its own even where it does nothing. Copying waits for get(), because the
// numbers need not be there yet when a primitive is evaluated.
class Dense {
  public:
    explicit Dense(const mx::array& x);

    template <class T>
    const T* get() {
        return reinterpret_cast<const T*>(contiguous_ ? data_ : copy());
    }

  private:
    const uint8_t* copy();

    const uint8_t* data_;
    bool contiguous_;
    size_t size_, itemsize_;
    mx::Shape shape_;
    mx::Strides strides_;
    std::vector<uint8_t> copied_;
};

// float32, rows one after the other.
mx::array as_float32(const mx::array& x, mx::Stream stream);

}  // namespace gptoss
