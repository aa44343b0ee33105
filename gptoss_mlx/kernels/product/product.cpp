#include "product/product.h"

#include <algorithm>

#include "common/kernels.h"
#include "common/pool.h"
#include "mlx/backend/cpu/encoder.h"

namespace gptoss {
namespace {

constexpr int64_t kPieceBytes = 64 * 1024;  // of weights that a thread takes at a time: a run of memory, yet balanced

void float_product(const Matrix& matrix, const float* x, int64_t count, float* y) {
    const Kernels& set = kernels();
    const int64_t stride = (matrix.cols + 63) / 64 * 64;
    std::vector<float> arranged(count * stride);
    std::vector<const float*> rows(count);
    std::vector<float*> results(count);
    const int64_t row_grain = std::max<int64_t>(1, 16384 / matrix.cols);
    parallel(count, row_grain, [&](int64_t first, int64_t last) {
        for (int64_t m = first; m < last; ++m)
            set.product.arrange(matrix.format, x + m * matrix.cols, matrix.cols, arranged.data() + m * stride);
    });
    for (int64_t m = 0; m < count; ++m) {
        rows[m] = arranged.data() + m * stride;
        results[m] = y + m * matrix.rows;
    }
    const int64_t grain = std::clamp<int64_t>(kPieceBytes / matrix.row_bytes, 1, std::max<int64_t>(1, matrix.rows / 4));
    parallel(matrix.rows, grain, [&](int64_t first, int64_t last) {
        auto* floats = static_cast<float*>(scratch(0, set.product.product_scratch(matrix.cols) * sizeof(float)));
        set.product.product(matrix, first, last, rows.data(), count, results.data(), floats);
    });
}

void integer_product(const Matrix& matrix, const float* x, int64_t count, float* y) {
    const Kernels& set = kernels();
    const int64_t bytes = set.product.rounded_bytes(matrix.cols, matrix.group), strip = set.product.strip;
    std::vector<uint8_t> storage(count * bytes + 64);
    auto* rounded = storage.data() + (64 - reinterpret_cast<uintptr_t>(storage.data()) % 64) % 64;
    std::vector<const uint8_t*> rows(count);
    for (int64_t m = 0; m < count; ++m) rows[m] = rounded + m * bytes;
    parallel(count, 4, [&](int64_t first, int64_t last) {
        for (int64_t m = first; m < last; ++m)
            set.product.round(matrix.format, matrix.group, x + m * matrix.cols, matrix.cols, rounded + m * bytes);
    });
    parallel((matrix.rows + strip - 1) / strip, 1, [&](int64_t first, int64_t last) {
        auto* space = static_cast<uint8_t*>(scratch(0, set.product.strip_scratch(matrix.cols, matrix.group)));
        auto* results = static_cast<float*>(scratch(1, count * (strip * sizeof(float) + sizeof(float*))));
        auto** starts = reinterpret_cast<float**>(results + count * strip);
        for (int64_t m = 0; m < count; ++m) starts[m] = results + m * strip;
        for (int64_t s = first; s < last; ++s) {
            set.product.strip_product(matrix, s * strip, rows.data(), count, starts, space);
            const int64_t have = std::min(strip, matrix.rows - s * strip);
            for (int64_t m = 0; m < count; ++m) std::copy_n(starts[m], have, y + m * matrix.rows + s * strip);
        }
    });
}

class Product : public CpuPrimitive {
  public:
    Product(mx::Stream stream, WeightLayout layout, bool rounded)
        : CpuPrimitive(stream), layout_(layout), rounded_(rounded) {}

    void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
        mx::array& out = outputs[0];
        out.set_data(mx::allocator::malloc(out.nbytes()));
        const int64_t cols = inputs[0].shape(-1);
        int next = 1;
        const Matrix matrix = layout_.matrix(inputs, next, cols);
        const int64_t count = int64_t(inputs[0].size()) / cols;
        mx::cpu::get_command_encoder(stream()).dispatch(
            [matrix, count, x = inputs[0].data<float>(), y = out.data<float>(), rounded = rounded_] {
                run_product(matrix, x, count, y, rounded);
            });
    }

    const char* name() const override { return "GptossProduct"; }

    bool is_equivalent(const Primitive& other) const override {
        const auto& right = static_cast<const Product&>(other);
        return layout_ == right.layout_ && rounded_ == right.rounded_;
    }

  private:
    WeightLayout layout_;
    bool rounded_;
};

}  // namespace

void run_product(const Matrix& matrix, const float* x, int64_t count, float* y, bool rounded) {
    if (count == 0) return;
    if (rounded && kernels().product.has_integer(matrix.format, matrix.group))
        integer_product(matrix, x, count, y);
    else
        float_product(matrix, x, count, y);
}

mx::array product(const mx::array& x, const Weight& weight, bool rounded, mx::StreamOrDevice s) {
    const mx::Stream stream = mx::to_stream(s);
    if (x.ndim() < 1) throw std::invalid_argument("x: at least one axis expected");
    check_weight("weight", weight, x.shape(-1), 0);
    std::vector<mx::array> inputs = {as_float32(x, stream)};
    weight.append_to(inputs, stream);
    mx::Shape shape = x.shape();
    shape.back() = weight.weight.shape(-2);
    return mx::array(shape, mx::float32, std::make_shared<Product>(stream, WeightLayout(weight), rounded), inputs);
}

}  // namespace gptoss
