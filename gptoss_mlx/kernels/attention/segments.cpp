#include "attention/segments.h"

#include <algorithm>
#include <optional>

#include "attention/sequence.h"
#include "cache/quantize.h"
#include "common/kernels.h"
#include "common/pool.h"
#include "mlx/backend/cpu/encoder.h"

namespace gptoss {
namespace {

using Arrays = std::vector<mx::array>;

constexpr int64_t kPiece = 4096;  // numbers that a thread appends at a time
constexpr size_t kNumbers = 2;    // buffers of a sequence that keeps keys and values as they are
constexpr size_t kCodes = 6;      // and of one that keeps codes, scales and biases

// What is appended to the keys, or to the values, of one sequence.
struct Addition {
    int64_t first, count;  // tokens of the row of fresh ones
    int64_t room, start;   // tokens that fit into the buffer, and that it holds
    Number number{};
    uint8_t* numbers = nullptr;
    std::optional<CodeRows> codes;

    Addition(const Segment& segment, int64_t first, mx::array* planes, bool packed, int64_t width)
        : first(first), count(segment.count), room(planes[0].shape(2)), start(segment.start) {
        if (packed)
            codes.emplace(planes, width);
        else
            number = number_of(planes[0].dtype()), numbers = planes[0].data<uint8_t>();
    }

    // Write one head's fresh vectors, of a row of `tokens`.
    void write(const float* fresh, int64_t tokens, int64_t width, int64_t head) const {
        const float* vectors = fresh + (head * tokens + first) * width;
        const int64_t row = head * room + start, bytes = number == Number::kFloat32 ? 4 : 2;
        if (numbers != nullptr) kernels().rope.convert(vectors, count * width, number, numbers + row * width * bytes);
        for (int64_t t = 0; codes && t < count; ++t) codes->write(vectors + t * width, row + t);
    }
};

// All additions, to keys and values in turns; `heads` of all batches.
void append(const std::vector<Addition>& additions, const float* keys, const float* values, int64_t heads,
            int64_t tokens, int64_t width) {
    const auto count = int64_t(additions.size()) * heads;
    const int64_t numbers = std::max<int64_t>(1, 2 * heads * tokens * width);
    parallel(count, std::max<int64_t>(1, count * kPiece / numbers), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
            additions[i / heads].write(i / heads % 2 == 0 ? keys : values, tokens, width, i % heads);
    });
}

class AppendAndAttend : public CpuPrimitive {
  public:
    AppendAndAttend(mx::Stream stream, std::vector<Segment> segments, std::vector<size_t> planes, float scale,
                    int window)
        : CpuPrimitive(stream),
          segments_(std::move(segments)),
          planes_(std::move(planes)),
          scale_(scale),
          window_(window) {}

    // Inputs: queries, sinks, fresh keys and values, then the buffers. Outputs: the results, then the buffers.
    void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
        const mx::array &queries = inputs[0], &keys = inputs[2];
        outputs[0].set_data(mx::allocator::malloc(outputs[0].nbytes()));
        for (size_t i = 1; i < outputs.size(); ++i) {
            const mx::array& buffer = inputs[i + 3];
            if (!buffer.flags().row_contiguous || buffer.data_size() != buffer.size())
                throw std::runtime_error("append_and_attend: a buffer is a view of another array");
            outputs[i].copy_shared_buffer(buffer);
        }
        std::vector<Addition> additions;
        std::vector<Sequence> sequences;
        const int64_t tokens = keys.shape(2), width = keys.shape(3), heads = int64_t(keys.shape(0)) * keys.shape(1);
        Sequence next = row(queries, inputs[1], outputs[0]);
        mx::array* buffers = outputs.data() + 1;
        for (size_t i = 0, first = 0; i < segments_.size(); first += segments_[i].count, buffers += planes_[i], ++i) {
            const size_t half = planes_[i] / 2;
            for (mx::array* planes : {buffers, buffers + half})
                additions.emplace_back(segments_[i], first, planes, planes_[i] == kCodes, width);
            next.kv_heads = keys.shape(1), next.tokens = segments_[i].count;
            next.length = segments_[i].start + segments_[i].count, next.first = segments_[i].first % kSplit;
            next.keys = Stored(buffers, half, width), next.values = Stored(buffers + half, half, width);
            sequences.push_back(next);
            next.queries += next.tokens * next.query_strides[2], next.out += next.tokens * next.heads * width;
        }
        mx::cpu::get_command_encoder(stream()).dispatch([=, additions = std::move(additions),
                                                         sequences = std::move(sequences), fresh_keys = Dense(keys),
                                                         fresh_values = Dense(inputs[3])]() mutable {
            append(additions, fresh_keys.get<float>(), fresh_values.get<float>(), heads, tokens, width);
            attend(sequences);
        });
    }

    const char* name() const override { return "GptossAppendAndAttend"; }
    bool is_equivalent(const Primitive& other) const override {
        const auto& right = static_cast<const AppendAndAttend&>(other);
        return segments_ == right.segments_ && planes_ == right.planes_ && scale_ == right.scale_ &&
               window_ == right.window_;
    }

  private:
    // What the sequences have in common, and where the first one's queries and results begin.
    Sequence row(const mx::array& queries, const mx::array& sinks, mx::array& out) const {
        Sequence found{};
        found.queries = queries.data<float>(), found.sinks = sinks.data<float>(), found.out = out.data<float>();
        found.query_strides = queries.strides(), found.sink_stride = sinks.strides(0);
        found.batch = queries.shape(0), found.heads = queries.shape(1), found.width = queries.shape(3);
        found.out_tokens = queries.shape(2), found.scale = scale_, found.window = window_;
        return found;
    }

    std::vector<Segment> segments_;
    std::vector<size_t> planes_;  // of each segment
    float scale_;
    int window_;
};

void refuse(const std::string& what) { throw std::invalid_argument("append_and_attend: " + what + " expected"); }

void check_buffers(const Arrays& buffers, const mx::array& fresh, const Segment& segment) {
    if ((buffers.size() != kNumbers && buffers.size() != kCodes) || buffers[0].ndim() != 4)
        refuse("two buffers (B, K, room, D) per sequence, or six of codes,");
    mx::Shape vectors = fresh.shape();
    vectors[2] = buffers[0].shape(2);
    if (buffers.size() == kCodes) {
        check_codes("append_and_attend", {buffers.begin(), buffers.begin() + 3}, vectors);
        check_codes("append_and_attend", {buffers.begin() + 3, buffers.end()}, vectors);
    } else {
        for (const mx::array& buffer : buffers) {
            check_floats("append_and_attend: buffer", buffer.dtype());
            if (buffer.shape() != vectors) refuse("buffers of the fresh vectors' batch, heads and width");
        }
    }
    if (segment.count < 0 || segment.start < 0 || segment.start > vectors[2] - segment.count)
        refuse("room for " + std::to_string(segment.count) + " tokens from " + std::to_string(segment.start) + " on");
    if (segment.first < 0 || segment.first % kFirstStep != 0)
        refuse("a first token at a multiple of " + std::to_string(kFirstStep));
}

}  // namespace

std::pair<mx::array, std::vector<Arrays>> append_and_attend(const mx::array& queries, const mx::array& keys,
                                                            const mx::array& values, const mx::array& sinks,
                                                            const std::vector<Arrays>& buffers,
                                                            const std::vector<Segment>& segments, float scale,
                                                            int window, mx::StreamOrDevice s) {
    check_attention("append_and_attend", queries, keys, values, sinks);
    if (queries.shape(3) != keys.shape(3) || queries.shape(2) != keys.shape(2))
        refuse("keys of the queries' tokens and width");
    if (buffers.size() != segments.size()) refuse("buffers for each segment");
    const mx::Stream stream = mx::to_stream(s);
    Arrays inputs;
    for (const mx::array& array : {queries, sinks, keys, values})
        inputs.push_back(mx::astype(array, mx::float32, stream));
    std::vector<mx::Shape> shapes{{queries.shape(0), queries.shape(2), queries.shape(1) * queries.shape(3)}};
    std::vector<mx::Dtype> dtypes{mx::float32};
    std::vector<size_t> planes;
    int64_t tokens = 0;
    for (size_t i = 0; i < segments.size(); ++i) {
        check_buffers(buffers[i], keys, segments[i]);
        tokens += segments[i].count;
        planes.push_back(buffers[i].size());
        for (const mx::array& buffer : buffers[i])
            inputs.push_back(buffer), shapes.push_back(buffer.shape()), dtypes.push_back(buffer.dtype());
    }
    if (tokens != keys.shape(2)) refuse("segments of as many tokens as there are");
    auto primitive = std::make_shared<AppendAndAttend>(stream, segments, planes, scale, window);
    const Arrays all =
        mx::array::make_arrays(std::move(shapes), std::move(dtypes), std::move(primitive), std::move(inputs));
    std::vector<Arrays> appended;
    for (auto next = all.begin() + 1; size_t count : planes) appended.emplace_back(next, next + count), next += count;
    return {all[0], appended};
}

}  // namespace gptoss
