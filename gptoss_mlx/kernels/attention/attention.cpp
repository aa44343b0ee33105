#include "attention/attention.h"

#include "attention/sequence.h"
#include "cache/quantize.h"
#include "mlx/backend/cpu/encoder.h"

namespace gptoss {
namespace {

// Inputs: queries, sinks, then the planes of the keys and as many of the values.
class Attend : public CpuPrimitive {
  public:
    Attend(mx::Stream stream, float scale, int window, int64_t first)
        : CpuPrimitive(stream), scale_(scale), window_(window), first_(first) {}

    void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
        const mx::array &queries = inputs[0], &sinks = inputs[1], &keys = inputs[2];
        const auto planes = int64_t(inputs.size() - 2) / 2;
        mx::array& out = outputs[0];
        out.set_data(mx::allocator::malloc(out.nbytes()));
        Sequence all{};
        all.queries = queries.data<float>(), all.sinks = sinks.data<float>(), all.out = out.data<float>();
        all.query_strides = queries.strides(), all.sink_stride = sinks.strides(0);
        all.batch = queries.shape(0), all.heads = queries.shape(1), all.width = queries.shape(3);
        all.tokens = all.out_tokens = queries.shape(2);
        all.keys = Stored(&inputs[2], planes, all.width), all.values = Stored(&inputs[2 + planes], planes, all.width);
        all.kv_heads = keys.shape(1), all.length = keys.shape(2);
        all.scale = scale_, all.window = window_, all.first = first_;
        mx::cpu::get_command_encoder(stream()).dispatch([sequences = std::vector{all}] { attend(sequences); });
    }

    const char* name() const override { return "GptossAttend"; }

    bool is_equivalent(const Primitive& other) const override {
        const auto& right = static_cast<const Attend&>(other);
        return scale_ == right.scale_ && window_ == right.window_ && first_ == right.first_;
    }

  private:
    float scale_;
    int window_;
    int64_t first_;
};

using Planes = std::vector<mx::array>;

void refuse(const std::string& what) { throw std::invalid_argument("attend: " + what + " expected"); }

mx::array attend_planes(const mx::array& queries, const Planes& keys, const Planes& values, const mx::array& sinks,
                        float scale, int window, int64_t first, mx::Stream stream) {
    if (first < 0 || first % kFirstStep != 0)
        throw std::invalid_argument("attend: a first key at a multiple of " + std::to_string(kFirstStep) +
                                    " expected, " + std::to_string(first) + " found");
    Planes inputs{mx::astype(queries, mx::float32, stream), mx::astype(sinks, mx::float32, stream)};
    inputs.insert(inputs.end(), keys.begin(), keys.end());
    inputs.insert(inputs.end(), values.begin(), values.end());
    mx::Shape shape = {queries.shape(0), queries.shape(2), queries.shape(1) * queries.shape(3)};
    return mx::array(shape, mx::float32, std::make_shared<Attend>(stream, scale, window, first % kSplit),
                     std::move(inputs));
}

}  // namespace

mx::array attend(const mx::array& queries, const mx::array& keys, const mx::array& values, const mx::array& sinks,
                 float scale, int window, int64_t first, mx::StreamOrDevice s) {
    check_attention("attend", queries, keys, values, sinks);
    if (queries.shape(3) != keys.shape(3)) refuse("keys of the queries' width");
    check_floats("keys", keys.dtype());
    check_floats("values", values.dtype());
    return attend_planes(queries, {keys}, {values}, sinks, scale, window, first, mx::to_stream(s));
}

mx::array attend_codes(const mx::array& queries, const Planes& keys, const Planes& values, const mx::array& sinks,
                       float scale, int window, mx::StreamOrDevice s) {
    if (keys.empty() || values.empty()) refuse("codes, scales and biases");
    check_attention("attend", queries, keys[0], values[0], sinks);
    mx::Shape vectors = keys[0].shape();
    vectors[3] = queries.shape(3);
    check_codes("attend", keys, vectors);
    check_codes("attend", values, vectors);
    return attend_planes(queries, keys, values, sinks, scale, window, 0, mx::to_stream(s));
}

}  // namespace gptoss
