#include "rope/rope.h"

#include <algorithm>

#include "common/kernels.h"
#include "common/pool.h"
#include "mlx/backend/cpu/encoder.h"

namespace gptoss {
namespace {

constexpr int64_t kPiece = 32 * 1024;  // numbers that a thread takes at a time

struct Call {
    const float *x, *cos, *sin;
    uint8_t* out;
    Number number;
    int64_t batch, tokens, heads, width;
};

void run(const Call& call) {
    const int64_t row = call.heads * call.width, bytes = call.number == Number::kFloat32 ? 4 : 2;
    if (row == 0) return;
    const RopeKernels& set = kernels().rope;
    parallel(call.batch * call.tokens, std::max<int64_t>(1, kPiece / row), [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            const int64_t b = i / call.tokens, t = i % call.tokens, half = call.width / 2;
            for (int64_t h = 0; h < call.heads; ++h) {
                const float* x = call.x + i * row + h * call.width;
                void* out = call.out + ((b * call.heads + h) * call.tokens + t) * call.width * bytes;
                if (call.cos == nullptr)
                    set.convert(x, call.width, call.number, out);
                else
                    set.turn(x, call.cos + t * half, call.sin + t * half, half, call.number, out);
            }
        }
    });
}

class Heads : public mx::Primitive {
  public:
    explicit Heads(mx::Stream stream) : Primitive(stream) {}

    void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
        mx::array& out = outputs[0];
        out.set_data(mx::allocator::malloc(out.nbytes()));
        Call call{};
        call.out = out.data<uint8_t>();
        call.number = number_of(out.dtype());
        call.batch = out.shape(0), call.heads = out.shape(1), call.tokens = out.shape(2), call.width = out.shape(3);
        std::vector<Dense> dense(inputs.begin(), inputs.end());
        mx::cpu::get_command_encoder(stream()).dispatch([call, dense]() mutable {
            call.x = dense[0].get<float>();
            if (dense.size() == 3) call.cos = dense[1].get<float>(), call.sin = dense[2].get<float>();
            run(call);
        });
    }

    void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
        throw std::runtime_error("the native rotation runs on the CPU only");
    }

    const char* name() const override { return "GptossHeads"; }
    bool is_equivalent(const Primitive&) const override { return true; }  // shapes and dtypes say everything
};

void check_table(const char* name, const mx::array& table, int tokens, int width) {
    if (table.dtype() != mx::float32 || table.shape() != mx::Shape{tokens, width / 2})
        throw std::invalid_argument(std::string(name) + ": float32 of one row per token, one number per pair expected");
}

}  // namespace

mx::array heads(const mx::array& x, int width, const std::optional<mx::array>& cos, const std::optional<mx::array>& sin,
                mx::Dtype dtype, mx::StreamOrDevice s) {
    const mx::Stream stream = mx::to_stream(s);
    if (x.ndim() != 3 || width < 1 || x.shape(2) % width != 0)
        throw std::invalid_argument("heads: (B, T, a multiple of " + std::to_string(width) + ") expected");
    std::vector<mx::array> inputs = {mx::astype(x, mx::float32, stream)};
    if (cos.has_value() != sin.has_value())
        throw std::invalid_argument("heads: cosines and sines expected, or neither");
    if (cos) {
        if (width % 2 != 0) throw std::invalid_argument("heads: an even width expected where pairs turn");
        check_table("cos", *cos, x.shape(1), width);
        check_table("sin", *sin, x.shape(1), width);
        inputs.push_back(*cos);
        inputs.push_back(*sin);
    }
    check_floats("heads", dtype);
    return mx::array({x.shape(0), x.shape(2) / width, x.shape(1), width}, dtype, std::make_shared<Heads>(stream),
                     inputs);
}

}  // namespace gptoss
