#include "product/product.h"

#include "common/pool.h"
#include "mlx/backend/cpu/encoder.h"

namespace gptoss {
namespace {

void run_product(const Matrix& matrix, const float* x, int64_t count, float* y, Precision precision) {
    if (count == 0) return;
    const Form form = form_for(matrix, precision);
    PreparedRows rows(matrix, count, form);
    rows.fill(x);
    std::vector<const uint8_t*> starts(count);
    for (int64_t m = 0; m < count; ++m) starts[m] = rows.at(m);
    const int64_t piece = piece_rows(matrix, form);
    parallel(matrix.rows, piece, [&](int64_t first, int64_t last) {
        piece_product(matrix, first, last, starts.data(), count, y + first, matrix.rows, form);
    });
}

class Product : public CpuPrimitive {
  public:
    Product(mx::Stream stream, WeightLayout layout, Precision precision)
        : CpuPrimitive(stream), layout_(layout), precision_(precision) {}

    void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
        mx::array& out = outputs[0];
        out.set_data(mx::allocator::malloc(out.nbytes()));
        const int64_t cols = inputs[0].shape(-1);
        int next = 1;
        const Matrix matrix = layout_.matrix(inputs, next, cols);
        const int64_t count = int64_t(inputs[0].size()) / cols;
        mx::cpu::get_command_encoder(stream()).dispatch(
            [matrix, count, x = inputs[0].data<float>(), y = out.data<float>(), precision = precision_] {
                run_product(matrix, x, count, y, precision);
            });
    }

    const char* name() const override { return "GptossProduct"; }

    bool is_equivalent(const Primitive& other) const override {
        const auto& right = static_cast<const Product&>(other);
        return layout_ == right.layout_ && precision_ == right.precision_;
    }

  private:
    WeightLayout layout_;
    Precision precision_;
};

}  // namespace

mx::array product(const mx::array& x, const Weight& weight, Precision precision, mx::StreamOrDevice s) {
    const mx::Stream stream = mx::to_stream(s);
    if (x.ndim() < 1 || x.shape(-1) < 1) throw std::invalid_argument("x: at least one axis and one column expected");
    check_weight("weight", weight, x.shape(-1), 0);
    std::vector<mx::array> inputs = {as_float32(x, stream)};
    weight.append_to(inputs, stream);
    mx::Shape shape = x.shape();
    shape.back() = weight.weight.shape(-2);
    return mx::array(shape, mx::float32, std::make_shared<Product>(stream, WeightLayout(weight), precision), inputs);
}

}  // namespace gptoss
