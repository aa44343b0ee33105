#include "norm/norm.h"

#include <algorithm>

#include "common/kernels.h"
#include "common/pool.h"
#include "mlx/backend/cpu/encoder.h"

namespace gptoss {
namespace {

constexpr int64_t kPiece = 32 * 1024;  // numbers that a thread takes at a time

class RmsNorm : public mx::Primitive {
  public:
    RmsNorm(mx::Stream stream, float eps) : Primitive(stream), eps_(eps) {}

    void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
        mx::array& out = outputs[0];
        out.set_data(mx::allocator::malloc(out.nbytes()));
        const int64_t width = inputs[1].size(), rows = width == 0 ? 0 : int64_t(out.size()) / width;
        mx::cpu::get_command_encoder(stream()).dispatch([width, rows, eps = eps_, numbers = Dense(inputs[0]),
                                                         weights = Dense(inputs[1]), y = out.data<float>()]() mutable {
            const float *x = numbers.get<float>(), *weight = weights.get<float>();
            parallel(rows, std::max<int64_t>(1, kPiece / std::max<int64_t>(1, width)),
                     [&](int64_t first, int64_t last) {
                         for (int64_t r = first; r < last; ++r)
                             kernels().norm(x + r * width, weight, width, eps, y + r * width);
                     });
        });
    }

    void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
        throw std::runtime_error("the native RMSNorm runs on the CPU only");
    }

    const char* name() const override { return "GptossRmsNorm"; }
    bool is_equivalent(const Primitive& other) const override {
        return eps_ == static_cast<const RmsNorm&>(other).eps_;
    }

  private:
    float eps_;
};

}  // namespace

mx::array rms_norm(const mx::array& x, const mx::array& weight, float eps, mx::StreamOrDevice s) {
    const mx::Stream stream = mx::to_stream(s);
    if (x.ndim() < 1 || weight.ndim() != 1 || weight.shape(0) != x.shape(-1))
        throw std::invalid_argument("rms_norm: one weight per number of a row expected");
    check_floats("x", x.dtype());
    return mx::array(x.shape(), mx::float32, std::make_shared<RmsNorm>(stream, eps),
                     {mx::astype(x, mx::float32, stream), mx::astype(weight, mx::float32, stream)});
}

}  // namespace gptoss
