#include "attention/sequence.h"

#include <memory>
#include <stdexcept>

#include "common/kernels.h"
#include "common/pool.h"

namespace gptoss {
namespace {

constexpr int64_t kRowBlock = 128;   // rows for which a block of keys and values is widened once
constexpr size_t kEnoughItems = 64;  // independent pieces of work from which the keys need not be split among threads
constexpr int64_t kFolds = 64;       // partial results that a thread folds at a time

Format format_of(const mx::array& plane, int64_t width) {
    if (plane.dtype() == mx::float32) return Format::kFloat32;
    if (plane.dtype() == mx::float16) return Format::kFloat16;
    if (plane.dtype() == mx::bfloat16) return Format::kBFloat16;
    return plane.shape(3) * 4 == width ? Format::kAffine8 : Format::kAffine4;
}

// Where an item begins, in its sequence's batch, heads of keys and rows.
struct Place {
    const Sequence* sequence;
    int64_t b, head, first;
};

// A block of rows of one head of keys.
class Item {
  public:
    explicit Item(const Place& place)
        : sequence_(*place.sequence),
          b_(place.b),
          head_(place.head),
          first_(place.first),
          count_(std::min(kRowBlock, sequence_.rows() - first_)) {
        const int64_t group = sequence_.group();
        const mx::Strides& strides = sequence_.query_strides;
        for (int64_t r = 0; r < tiles() * kTileHeads; ++r) {  // rows beyond the last see what the last one sees
            const int64_t row = first_ + std::min(r, count_ - 1), head = head_ * group + row % group;
            sights_[r] = sequence_.sight(row);
            queries_[r] = sequence_.queries + b_ * strides[0] + head * strides[1] + row / group * strides[2];
            sinks_[r] = sequence_.sinks[head * sequence_.sink_stride];
        }
    }

    int64_t tiles() const { return (count_ + kTileHeads - 1) / kTileHeads; }
    int64_t floats() const { return tiles() * kernels().attention.tile_floats(sequence_.width); }

    // Splits that any row sees: the first, and one past the last.
    int64_t first_split() const { return sights_[0].first / kSplit; }
    int64_t last_split() const { return (sights_[count_ - 1].last + kSplit - 1) / kSplit; }

    void attend(int64_t split, float* partial) const {
        const Rows rows{queries_,
                        sequence_.query_strides[3],
                        sights_,
                        count_,
                        sequence_.width,
                        sequence_.scale,
                        sequence_.keys.of(b_, head_, sequence_.first),
                        sequence_.values.of(b_, head_, sequence_.first)};
        const int64_t floats = kernels().attention.space(count_, sequence_.width);
        auto* space = static_cast<float*>(scratch(0, floats * sizeof(float)));
        kernels().attention.attend(rows, split * kSplit, partial, space);
    }

    void begin(float* state) const {
        const int64_t floats = kernels().attention.tile_floats(sequence_.width);
        for (int64_t t = 0; t < tiles(); ++t)
            kernels().attention.begin(sinks_ + t * kTileHeads, sequence_.width, state + t * floats);
    }

    void fold(const float* partial, float* state) const {
        const int64_t floats = kernels().attention.tile_floats(sequence_.width);
        for (int64_t t = 0; t < tiles(); ++t)
            kernels().attention.fold(partial + t * floats, sequence_.width, state + t * floats);
    }

    void finish(const float* state) const {
        const int64_t floats = kernels().attention.tile_floats(sequence_.width), group = sequence_.group();
        for (int64_t r = 0; r < count_; ++r) {
            const int64_t row = first_ + r, place = b_ * sequence_.out_tokens + row / group;
            float* out = sequence_.out + (place * sequence_.heads + head_ * group + row % group) * sequence_.width;
            kernels().attention.finish(state + r / kTileHeads * floats, r % kTileHeads, sequence_.width, out);
        }
    }

  private:
    const Sequence& sequence_;
    int64_t b_, head_, first_, count_;
    const float* queries_[kRowBlock];
    Sight sights_[kRowBlock];
    float sinks_[kRowBlock];
};

std::vector<Place> places_of(const std::vector<Sequence>& sequences) {
    std::vector<Place> places;
    for (const Sequence& sequence : sequences)
        for (int64_t b = 0; b < sequence.batch; ++b)
            for (int64_t head = 0; head < sequence.kv_heads; ++head)
                for (int64_t first = 0; first < sequence.rows(); first += kRowBlock)
                    places.push_back({&sequence, b, head, first});
    return places;
}

// Many rows: each item passes over all of its keys by itself.
void attend_by_rows(const std::vector<Place>& places) {
    parallel(int64_t(places.size()), 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const Item item(places[places.size() - 1 - i]);  // of a sequence, the longest first
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
void attend_by_splits(const std::vector<Place>& places) {
    struct Piece {
        const Item* item;
        int64_t split;
        float* partial;
    };
    std::vector<Item> items;
    items.reserve(places.size());
    int64_t floats = 0;
    for (const Place& place : places) {
        const Item& item = items.emplace_back(place);
        floats += item.floats() * (item.last_split() - item.first_split());
    }
    const std::unique_ptr<float[]> storage(new float[floats + 16]);
    float* next = storage.get() + (64 - reinterpret_cast<uintptr_t>(storage.get()) % 64) % 64 / sizeof(float);
    std::vector<Piece> pieces;
    std::vector<size_t> ends;  // of each item's pieces
    for (const Item& item : items) {
        for (int64_t split = item.first_split(); split < item.last_split(); ++split, next += item.floats())
            pieces.push_back({&item, split, next});
        ends.push_back(pieces.size());
    }
    parallel(int64_t(pieces.size()), 1, [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; ++p) pieces[p].item->attend(pieces[p].split, pieces[p].partial);
    });
    const auto count = int64_t(items.size());
    parallel(count, std::max<int64_t>(1, count * kFolds / int64_t(pieces.size())), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            auto* state = static_cast<float*>(scratch(1, items[i].floats() * sizeof(float)));
            items[i].begin(state);
            for (size_t p = i == 0 ? 0 : ends[i - 1]; p < ends[i]; ++p) items[i].fold(pieces[p].partial, state);
            items[i].finish(state);
        }
    });
}

}  // namespace

Stored::Stored(const mx::array* planes, int64_t count, int64_t width)
    : format(format_of(planes[0], width)), numbers(planes[0]) {
    if (count == 1) return;
    scales = Plane(planes[1]), biases = Plane(planes[2]);
    for (const mx::array* plane = planes; plane < planes + count; ++plane)
        if (plane->shape(3) > 1 && plane->strides(3) != 1)
            throw std::runtime_error("attend: the codes of a vector do not lie side by side");
}

Vectors Stored::of(int64_t b, int64_t head, int64_t first) const {
    Vectors found{numbers.at(b, head, first), format, numbers.bytes(), numbers.strides[3]};
    if (scales.data == nullptr) return found;
    found.scales = {reinterpret_cast<const uint16_t*>(scales.at(b, head, first)), scales.strides[2]};
    found.biases = {reinterpret_cast<const uint16_t*>(biases.at(b, head, first)), biases.strides[2]};
    found.step = 1;
    return found;
}

void check_attention(const std::string& who, const mx::array& queries, const mx::array& keys, const mx::array& values,
                     const mx::array& sinks) {
    const auto refuse = [&who](const char* what) { throw std::invalid_argument(who + ": " + what + " expected"); };
    if (queries.ndim() != 4 || keys.ndim() != 4) refuse("queries (B, H, T, D) and keys (B, K, S, D)");
    if (keys.shape() != values.shape()) refuse("values of the keys' shape");
    if (queries.shape(0) != keys.shape(0)) refuse("keys of the queries' batch");
    if (keys.shape(1) == 0 || queries.shape(1) % keys.shape(1) != 0) refuse("a multiple of the keys' heads");
    if (keys.shape(2) < queries.shape(2)) refuse("at least as many keys as queries");
    if (sinks.ndim() != 1 || sinks.shape(0) != queries.shape(1)) refuse("one sink per query head");
}

void attend(const std::vector<Sequence>& sequences) {
    const std::vector<Place> places = places_of(sequences);
    if (places.empty() || sequences[0].width == 0) return;
    const bool steps = std::all_of(sequences.begin(), sequences.end(),
                                   [](const Sequence& sequence) { return sequence.rows() <= kTileHeads; });
    if (places.size() >= kEnoughItems && !steps)  // contexts of steps differ, and their partial results are small
        attend_by_rows(places);
    else
        attend_by_splits(places);
}

}  // namespace gptoss
