#include "attention/attention.h"

#include <algorithm>

#include "common/kernels.h"
#include "common/pool.h"
#include "mlx/backend/cpu/encoder.h"

namespace gptoss {
namespace {

constexpr int64_t kRowBlock = 128;    // rows for which a block of keys and values is widened once
constexpr int64_t kEnoughItems = 64;  // independent pieces of work from which the keys need not be split among threads

// An array (B, K, S, numbers) of keys, values, or what belongs to their groups.
struct Plane {
    const uint8_t* data = nullptr;
    mx::Strides strides;
    int64_t itemsize = 0;

    Plane() = default;
    explicit Plane(const mx::array& array)
        : data(array.data<uint8_t>()), strides(array.strides()), itemsize(int64_t(array.itemsize())) {}

    int64_t bytes() const { return strides[2] * itemsize; }  // from one vector to the next

    // Vector 0 of a head, when the first one has the number `first`.
    const uint8_t* at(int64_t b, int64_t head, int64_t first) const {
        return data + (b * strides[0] + head * strides[1] - first * strides[2]) * itemsize;
    }
};

// Keys or values: numbers, or codes with scales and biases.
struct Stored {
    Format format{};
    Plane numbers, scales, biases;

    Stored() = default;
    Stored(const mx::array* planes, int64_t count, int64_t width) : numbers(planes[0]) {
        format = format_of(planes[0], width);
        if (count == 1) return;
        scales = Plane(planes[1]), biases = Plane(planes[2]);
        for (const mx::array* plane = planes; plane < planes + count; ++plane)
            if (plane->shape(3) > 1 && plane->strides(3) != 1)
                throw std::runtime_error("attend: the codes of a vector do not lie side by side");
    }

    Vectors of(int64_t b, int64_t head, int64_t first) const {
        Vectors found{numbers.at(b, head, first), format, numbers.bytes(), numbers.strides[3]};
        if (scales.data == nullptr) return found;
        found.scales = {reinterpret_cast<const uint16_t*>(scales.at(b, head, first)), scales.strides[2]};
        found.biases = {reinterpret_cast<const uint16_t*>(biases.at(b, head, first)), biases.strides[2]};
        found.step = 1;
        return found;
    }

    static Format format_of(const mx::array& plane, int64_t width) {
        if (plane.dtype() == mx::float32) return Format::kFloat32;
        if (plane.dtype() == mx::float16) return Format::kFloat16;
        if (plane.dtype() == mx::bfloat16) return Format::kBFloat16;
        return plane.shape(3) * 4 == width ? Format::kAffine8 : Format::kAffine4;
    }
};

// Everything about one call; pointers stay valid because the primitive's arrays do.
struct Call {
    const float *queries, *sinks;
    float* out;
    Stored keys, values;
    mx::Strides query_strides;
    int64_t sink_stride;
    int64_t batch, heads, kv_heads, tokens, length, width;
    float scale;
    int64_t window;
    int64_t first;  // number of the first key: splits begin at multiples of their size, wherever the keys begin

    int64_t group() const { return heads / kv_heads; }
    int64_t rows() const { return tokens * group(); }
    int64_t row_blocks() const { return (rows() + kRowBlock - 1) / kRowBlock; }

    Sight sight(int64_t row) const {
        const int64_t last = first + length - tokens + row / group() + 1;
        return {window > 0 ? std::max(first, last - window) : first, last};
    }
};

// A block of rows of one head of keys: item (b, head, row block) of the call.
class Item {
  public:
    Item(const Call& call, int64_t index) : call_(call) {
        first_ = index % call.row_blocks() * kRowBlock;
        count_ = std::min(kRowBlock, call.rows() - first_);
        head_ = index / call.row_blocks() % call.kv_heads;
        b_ = index / call.row_blocks() / call.kv_heads;
        for (int64_t r = 0; r < tiles() * kTileHeads; ++r) {  // rows beyond the last see what the last one sees
            const int64_t row = first_ + std::min(r, count_ - 1);
            const int64_t token = row / call.group(), head = head_ * call.group() + row % call.group();
            sights_[r] = call.sight(row);
            queries_[r] = call.queries + b_ * call.query_strides[0] + head * call.query_strides[1] +
                          token * call.query_strides[2];
            sinks_[r] = call.sinks[head * call.sink_stride];
        }
    }

    int64_t tiles() const { return (count_ + kTileHeads - 1) / kTileHeads; }
    int64_t floats() const { return tiles() * kernels().attention.tile_floats(call_.width); }

    // Splits that any row sees: the first, and one past the last.
    int64_t first_split() const { return sights_[0].first / kSplit; }
    int64_t last_split() const { return (sights_[count_ - 1].last + kSplit - 1) / kSplit; }

    void attend(int64_t split, float* partial) const {
        const Rows rows{queries_,
                        call_.query_strides[3],
                        sights_,
                        count_,
                        call_.width,
                        call_.scale,
                        call_.keys.of(b_, head_, call_.first),
                        call_.values.of(b_, head_, call_.first)};
        const int64_t floats = kernels().attention.space(count_, call_.width);
        auto* space = static_cast<float*>(scratch(0, floats * sizeof(float)));
        kernels().attention.attend(rows, split * kSplit, partial, space);
    }

    void begin(float* state) const {
        const int64_t floats = kernels().attention.tile_floats(call_.width);
        for (int64_t t = 0; t < tiles(); ++t)
            kernels().attention.begin(sinks_ + t * kTileHeads, call_.width, state + t * floats);
    }

    void fold(const float* partial, float* state) const {
        const int64_t floats = kernels().attention.tile_floats(call_.width);
        for (int64_t t = 0; t < tiles(); ++t)
            kernels().attention.fold(partial + t * floats, call_.width, state + t * floats);
    }

    void finish(const float* state) const {
        const int64_t floats = kernels().attention.tile_floats(call_.width);
        for (int64_t r = 0; r < count_; ++r) {
            const int64_t row = first_ + r, token = row / call_.group();
            const int64_t head = head_ * call_.group() + row % call_.group();
            float* out = call_.out + ((b_ * call_.tokens + token) * call_.heads + head) * call_.width;
            kernels().attention.finish(state + r / kTileHeads * floats, r % kTileHeads, call_.width, out);
        }
    }

  private:
    const Call& call_;
    int64_t b_, head_, first_, count_;
    const float* queries_[kRowBlock];
    Sight sights_[kRowBlock];
    float sinks_[kRowBlock];
};

// Many rows: each item passes over all of its keys by itself.
void attend_by_rows(const Call& call, int64_t items) {
    parallel(items, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const Item item(call, items - 1 - i);  // the longest first
            auto* state = static_cast<float*>(scratch(1, 2 * item.floats() * sizeof(float)));
            float* partial = state + item.floats();
            item.begin(state);
            for (int64_t split = item.first_split(); split < item.last_split(); ++split) {
                item.attend(split, partial);
                item.fold(partial, state);
            }
            item.finish(state);
        }
    });
}

// Few rows: threads share the splits, then fold what they found.
void attend_by_splits(const Call& call, int64_t items) {
    struct Piece {
        int64_t item, split;
        float* partial;
    };
    std::vector<Item> all;
    std::vector<Piece> pieces;
    int64_t floats = 0;
    for (int64_t i = 0; i < items; ++i) {
        all.emplace_back(call, i);
        floats += all[i].floats() * (all[i].last_split() - all[i].first_split());
    }
    std::vector<float> storage(floats + 16);
    float* next = storage.data() + (64 - reinterpret_cast<uintptr_t>(storage.data()) % 64) % 64 / sizeof(float);
    for (int64_t i = 0; i < items; ++i)
        for (int64_t split = all[i].first_split(); split < all[i].last_split(); ++split, next += all[i].floats())
            pieces.push_back({i, split, next});
    parallel(int64_t(pieces.size()), 1, [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; ++p) all[pieces[p].item].attend(pieces[p].split, pieces[p].partial);
    });
    size_t p = 0;
    for (int64_t i = 0; i < items; ++i) {
        auto* state = static_cast<float*>(scratch(1, all[i].floats() * sizeof(float)));
        all[i].begin(state);
        for (; p < pieces.size() && pieces[p].item == i; ++p) all[i].fold(pieces[p].partial, state);
        all[i].finish(state);
    }
}

void run(const Call& call) {
    const int64_t items = call.batch * call.kv_heads * call.row_blocks();
    if (call.rows() == 0 || items == 0 || call.width == 0) return;
    if (items >= kEnoughItems)
        attend_by_rows(call, items);
    else
        attend_by_splits(call, items);
}

// Inputs: queries, sinks, then the planes of the keys and as many of the values.
class Attend : public mx::Primitive {
  public:
    Attend(mx::Stream stream, float scale, int window, int64_t first)
        : Primitive(stream), scale_(scale), window_(window), first_(first) {}

    void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
        const mx::array &queries = inputs[0], &sinks = inputs[1], &keys = inputs[2];
        const auto planes = int64_t(inputs.size() - 2) / 2;
        mx::array& out = outputs[0];
        out.set_data(mx::allocator::malloc(out.nbytes()));
        Call call{};
        call.queries = queries.data<float>(), call.sinks = sinks.data<float>(), call.out = out.data<float>();
        call.query_strides = queries.strides();
        call.sink_stride = sinks.strides(0);
        call.batch = queries.shape(0), call.heads = queries.shape(1), call.tokens = queries.shape(2);
        call.width = queries.shape(3);
        call.keys = Stored(&inputs[2], planes, call.width),
        call.values = Stored(&inputs[2 + planes], planes, call.width);
        call.kv_heads = keys.shape(1), call.length = keys.shape(2);
        call.scale = scale_, call.window = window_, call.first = first_;
        mx::cpu::get_command_encoder(stream()).dispatch([call] { run(call); });
    }

    void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
        throw std::runtime_error("the native attention runs on the CPU only");
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

void check(const mx::array& queries, const mx::array& keys, const mx::array& values, const mx::array& sinks) {
    if (queries.ndim() != 4 || keys.ndim() != 4) refuse("queries (B, H, T, D) and keys (B, K, S, D)");
    if (keys.shape() != values.shape()) refuse("values of the keys' shape");
    if (queries.shape(0) != keys.shape(0)) refuse("keys of the queries' batch");
    if (keys.shape(1) == 0 || queries.shape(1) % keys.shape(1) != 0) refuse("a multiple of the keys' heads");
    if (keys.shape(2) < queries.shape(2)) refuse("at least as many keys as queries");
    if (sinks.ndim() != 1 || sinks.shape(0) != queries.shape(1)) refuse("one sink per query head");
}

void check_codes(const Planes& planes, int width) {
    if (planes.size() != 3) refuse("codes, scales and biases");
    const mx::array& codes = planes[0];
    const int words = codes.shape(3);
    if (codes.dtype() != mx::uint32 || (words * 4 != width && words * 8 != width))
        refuse("codes of 8 or 4 bits in uint32");
    mx::Shape wanted = codes.shape();
    if (width % kGroup != 0) refuse("a width of whole groups of " + std::to_string(kGroup));
    wanted[3] = width / int(kGroup);
    for (const mx::array* part : {&planes[1], &planes[2]})
        if (part->dtype() != mx::float16 || part->shape() != wanted) refuse("a scale and a bias in float16 per group");
}

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
    check(queries, keys, values, sinks);
    if (queries.shape(3) != keys.shape(3)) refuse("keys of the queries' width");
    check_floats("keys", keys.dtype());
    check_floats("values", values.dtype());
    return attend_planes(queries, {keys}, {values}, sinks, scale, window, first, mx::to_stream(s));
}

mx::array attend_codes(const mx::array& queries, const Planes& keys, const Planes& values, const mx::array& sinks,
                       float scale, int window, mx::StreamOrDevice s) {
    if (keys.empty() || values.empty()) refuse("codes, scales and biases");
    check(queries, keys[0], values[0], sinks);
    check_codes(keys, queries.shape(3));
    check_codes(values, queries.shape(3));
    return attend_planes(queries, keys, values, sinks, scale, window, 0, mx::to_stream(s));
}

}  // namespace gptoss
