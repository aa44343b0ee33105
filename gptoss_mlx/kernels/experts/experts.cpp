#include "experts/experts.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/kernels.h"
#include "common/pool.h"
#include "mlx/backend/cpu/encoder.h"

namespace gptoss {
namespace {

constexpr int64_t kPieceBytes = 64 * 1024;

// The rows of one expert: pairs of a token and its share, in the order of tokens.
struct Group {
    int64_t expert;
    int64_t first, last;  // in the list of pairs
};

struct Pair {
    int64_t token;
    float share;
};

struct Plan {
    std::vector<Pair> pairs;  // by expert, then by token
    std::vector<Group> groups;
    int64_t largest = 0;  // rows of the largest group
};

Plan plan(const uint32_t* chosen, const float* shares, int64_t tokens, int64_t k, int64_t experts) {
    std::vector<std::vector<Pair>> by_expert(experts);
    for (int64_t i = 0; i < tokens * k; ++i) {
        if (chosen[i] >= experts) continue;  // refused by the caller's check; never read out of bounds
        by_expert[chosen[i]].push_back({i / k, shares[i]});
    }
    Plan found;
    for (int64_t expert = 0; expert < experts; ++expert) {
        const auto& pairs = by_expert[expert];
        if (pairs.empty()) continue;
        const auto first = int64_t(found.pairs.size());
        found.pairs.insert(found.pairs.end(), pairs.begin(), pairs.end());
        found.groups.push_back({expert, first, int64_t(found.pairs.size())});
        found.largest = std::max(found.largest, int64_t(pairs.size()));
    }
    return found;
}

// A buffer that a cache line does not split.
template <class T>
class Buffer {
  public:
    explicit Buffer(int64_t count) : storage_(count * sizeof(T) + 64) {}
    T* data() {
        const auto start = reinterpret_cast<uintptr_t>(storage_.data());
        return reinterpret_cast<T*>((start + 63) / 64 * 64);
    }

  private:
    std::vector<uint8_t> storage_;
};

// Rows of activations in the form that a matrix's product takes: arranged floats or rounded integers.
class Prepared {
  public:
    Prepared(const Matrix& matrix, int64_t count, bool rounded)
        : matrix_(matrix), rounded_(rounded), bytes_(row_bytes()), storage_(count * bytes_) {
        for (int64_t m = 0; m < count; ++m) rows_.push_back(storage_.data() + m * bytes_);
    }

    void set(int64_t m, const float* x) {
        const ProductKernels& set = kernels().product;
        uint8_t* row = storage_.data() + m * bytes_;
        if (rounded_)
            set.round(matrix_.format, matrix_.group, x, matrix_.cols, row);
        else
            set.arrange(matrix_.format, x, matrix_.cols, reinterpret_cast<float*>(row));
    }

    const uint8_t* row(int64_t m) const { return rows_[m]; }

  private:
    int64_t row_bytes() const {
        if (rounded_) return kernels().product.rounded_bytes(matrix_.cols, matrix_.group);
        return (matrix_.cols + 63) / 64 * 64 * int64_t(sizeof(float));
    }

    Matrix matrix_;
    bool rounded_;
    int64_t bytes_;
    Buffer<uint8_t> storage_;
    std::vector<const uint8_t*> rows_;
};

// y[m][0 .. last - first) = rows [first, last) of the matrix times x[m]; `first` starts a strip when rounded.
void piece_product(const Matrix& matrix, int64_t first, int64_t last, const uint8_t* const* x, int64_t count, float* y,
                   int64_t stride, bool rounded) {
    const ProductKernels& set = kernels().product;
    auto** starts = static_cast<float**>(scratch(2, count * sizeof(float*)));
    for (int64_t m = 0; m < count; ++m) starts[m] = y + m * stride - (rounded ? 0 : first);
    if (rounded) {
        auto* space = static_cast<uint8_t*>(scratch(0, set.strip_scratch(matrix.cols, matrix.group)));
        set.strip_product(matrix, first, x, count, starts, space);
    } else {
        auto* space = static_cast<float*>(scratch(0, set.product_scratch(matrix.cols) * sizeof(float)));
        set.product(matrix, first, last, reinterpret_cast<const float* const*>(x), count, starts, space);
    }
}

struct Block {
    Matrix gate, up, down;
    float limit, alpha;
    bool rounded;

    int64_t piece(const Matrix& matrix) const {
        if (rounded) return kernels().product.strip;
        return std::clamp<int64_t>(kPieceBytes / matrix.row_bytes, 1, matrix.rows);
    }
};

// inner[pair] = swiglu(gate(x[token]), up(x[token])) for every pair.
void run_first_half(const Block& block, const Plan& plan, const float* x, int64_t tokens, float* inner) {
    const int64_t hidden = block.gate.cols, width = block.gate.rows, piece = block.piece(block.gate);
    Prepared prepared(block.gate, tokens, block.rounded);
    parallel(tokens, 4, [&](int64_t first, int64_t last) {
        for (int64_t t = first; t < last; ++t) prepared.set(t, x + t * hidden);
    });
    std::vector<const uint8_t*> rows;
    for (const Pair& pair : plan.pairs) rows.push_back(prepared.row(pair.token));
    const int64_t pieces = (width + piece - 1) / piece;
    parallel(int64_t(plan.groups.size()) * pieces, 1, [&](int64_t begin, int64_t end) {
        for (int64_t item = begin; item < end; ++item) {
            const Group& group = plan.groups[item / pieces];
            const int64_t first = item % pieces * piece, last = std::min(first + piece, width);
            const int64_t count = group.last - group.first;
            auto* gate = static_cast<float*>(scratch(1, 2 * count * piece * sizeof(float)));
            float* up = gate + count * piece;
            const uint8_t* const* own = rows.data() + group.first;
            piece_product(block.gate.of_expert(group.expert), first, last, own, count, gate, piece, block.rounded);
            piece_product(block.up.of_expert(group.expert), first, last, own, count, up, piece, block.rounded);
            for (int64_t m = 0; m < count; ++m) {
                kernels().swiglu(gate + m * piece, up + m * piece, last - first, block.limit, block.alpha);
                std::copy_n(gate + m * piece, last - first, inner + (group.first + m) * width + first);
            }
        }
    });
}

// out[token] = sum of share * down(inner[pair]) over the token's pairs, experts in ascending order.
void run_second_half(const Block& block, const Plan& plan, const float* inner, int64_t tokens, float* out) {
    const int64_t hidden = block.down.rows, width = block.down.cols, piece = block.piece(block.down);
    const auto pairs = int64_t(plan.pairs.size());
    Prepared prepared(block.down, pairs, block.rounded);
    parallel(pairs, 4, [&](int64_t first, int64_t last) {
        for (int64_t p = first; p < last; ++p) prepared.set(p, inner + p * width);
    });
    std::vector<const uint8_t*> rows;
    for (int64_t p = 0; p < pairs; ++p) rows.push_back(prepared.row(p));
    parallel((hidden + piece - 1) / piece, 1, [&](int64_t begin, int64_t end) {
        auto* results = static_cast<float*>(scratch(1, plan.largest * piece * sizeof(float)));
        for (int64_t item = begin; item < end; ++item) {
            const int64_t first = item * piece, last = std::min(first + piece, hidden);
            for (int64_t t = 0; t < tokens; ++t) std::fill_n(out + t * hidden + first, last - first, 0.0f);
            for (const Group& group : plan.groups) {
                const int64_t count = group.last - group.first;
                piece_product(block.down.of_expert(group.expert), first, last, rows.data() + group.first, count,
                              results, piece, block.rounded);
                for (int64_t m = 0; m < count; ++m) {
                    const Pair& pair = plan.pairs[group.first + m];
                    float* target = out + pair.token * hidden + first;
                    for (int64_t n = 0; n < last - first; ++n) target[n] += pair.share * results[m * piece + n];
                }
            }
        }
    });
}

class Experts : public CpuPrimitive {
  public:
    Experts(mx::Stream stream, WeightLayout gate, WeightLayout up, WeightLayout down, float limit, float alpha,
            bool rounded)
        : CpuPrimitive(stream), gate_(gate), up_(up), down_(down), limit_(limit), alpha_(alpha), rounded_(rounded) {}

    void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
        mx::array& out = outputs[0];
        out.set_data(mx::allocator::malloc(out.nbytes()));
        const int64_t hidden = inputs[0].shape(-1), k = inputs[1].shape(-1),
                      tokens = int64_t(inputs[0].size()) / hidden;
        const int64_t experts = inputs[3].shape(0);
        int next = 3;
        Block block{};
        block.gate = gate_.matrix(inputs, next, hidden);
        block.up = up_.matrix(inputs, next, hidden);
        block.down = down_.matrix(inputs, next, block.gate.rows);
        block.limit = limit_, block.alpha = alpha_;
        mx::cpu::get_command_encoder(stream()).dispatch(
            [block, tokens, k, experts, rounded = rounded_, x = inputs[0].data<float>(),
             chosen = inputs[1].data<uint32_t>(), shares = inputs[2].data<float>(), y = out.data<float>()]() mutable {
                if (tokens == 0) return;
                const auto has_integer = kernels().product.has_integer;
                block.rounded = rounded && has_integer(block.gate.format, block.gate.group) &&
                                has_integer(block.down.format, block.down.group);
                const Plan whole = plan(chosen, shares, tokens, k, experts);
                Buffer<float> inner(int64_t(whole.pairs.size()) * block.gate.rows);
                run_first_half(block, whole, x, tokens, inner.data());
                run_second_half(block, whole, inner.data(), tokens, y);
            });
    }

    const char* name() const override { return "GptossExperts"; }

    bool is_equivalent(const Primitive& other) const override {
        const auto& right = static_cast<const Experts&>(other);
        return gate_ == right.gate_ && up_ == right.up_ && down_ == right.down_ && limit_ == right.limit_ &&
               alpha_ == right.alpha_ && rounded_ == right.rounded_;
    }

  private:
    WeightLayout gate_, up_, down_;
    float limit_, alpha_;
    bool rounded_;
};

class Route : public CpuPrimitive {
  public:
    Route(mx::Stream stream, int k) : CpuPrimitive(stream), k_(k) {}

    void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
        for (auto& out : outputs) out.set_data(mx::allocator::malloc(out.nbytes()));
        const int64_t experts = inputs[0].shape(-1), rows = int64_t(inputs[0].size()) / experts;
        mx::cpu::get_command_encoder(stream()).dispatch(
            [experts, rows, k = int64_t(k_), logits = inputs[0].data<float>(), chosen = outputs[0].data<uint32_t>(),
             shares = outputs[1].data<float>()] {
                for (int64_t r = 0; r < rows; ++r)
                    choose(logits + r * experts, experts, k, chosen + r * k, shares + r * k);
            });
    }

    const char* name() const override { return "GptossRoute"; }
    bool is_equivalent(const Primitive& other) const override { return k_ == static_cast<const Route&>(other).k_; }

  private:
    // Selection by repeated maximum: k is 4 of 32 or 128. A NaN is never larger, so indices stay valid.
    static void choose(const float* logits, int64_t experts, int64_t k, uint32_t* chosen, float* shares) {
        for (int64_t j = 0; j < k; ++j) {
            int64_t best = -1;
            for (int64_t e = 0; e < experts; ++e)
                if (std::find(chosen, chosen + j, uint32_t(e)) == chosen + j && (best < 0 || logits[e] > logits[best]))
                    best = e;
            chosen[j] = uint32_t(best);
        }
        float total = 0;
        for (int64_t j = 0; j < k; ++j) total += shares[j] = std::exp(logits[chosen[j]] - logits[chosen[0]]);
        for (int64_t j = 0; j < k; ++j) shares[j] /= total;
    }

    int k_;
};

}  // namespace

std::pair<mx::array, mx::array> route(const mx::array& logits, int k, mx::StreamOrDevice s) {
    const mx::Stream stream = mx::to_stream(s);
    if (logits.ndim() < 1 || k < 1 || k > logits.shape(-1))
        throw std::invalid_argument("logits: at least " + std::to_string(k) + " experts and k of 1 or more expected");
    mx::Shape shape = logits.shape();
    shape.back() = k;
    const auto outputs = mx::array::make_arrays({shape, shape}, {mx::uint32, mx::float32},
                                                std::make_shared<Route>(stream, k), {as_float32(logits, stream)});
    return {outputs[0], outputs[1]};
}

mx::array experts(const mx::array& x, const mx::array& chosen, const mx::array& shares, const Weight& gate,
                  const Weight& up, const Weight& down, float limit, float alpha, bool rounded, mx::StreamOrDevice s) {
    const mx::Stream stream = mx::to_stream(s);
    if (x.ndim() < 1 || chosen.ndim() != x.ndim() || chosen.shape() != shares.shape())
        throw std::invalid_argument("chosen and shares: one shape with as many axes as x expected");
    check_weight("gate", gate, x.shape(-1), 1);
    check_weight("up", up, x.shape(-1), 1);
    check_weight("down", down, gate.weight.shape(-2), 1);
    if (up.format != gate.format || up.group != gate.group || up.weight.shape() != gate.weight.shape())
        throw std::invalid_argument("gate and up: one packing and one shape expected");
    if (down.weight.shape(0) != gate.weight.shape(0) || down.weight.shape(-2) != x.shape(-1))
        throw std::invalid_argument("down: as many experts and outputs as gate has experts and inputs expected");
    std::vector<mx::array> inputs = {as_float32(x, stream),
                                     mx::contiguous(mx::astype(chosen, mx::uint32, stream), false, stream),
                                     as_float32(shares, stream)};
    std::vector<WeightLayout> layouts;
    for (const Weight* weight : {&gate, &up, &down}) {
        weight->append_to(inputs, stream);
        layouts.emplace_back(*weight);
    }
    return mx::array(x.shape(), mx::float32,
                     std::make_shared<Experts>(stream, layouts[0], layouts[1], layouts[2], limit, alpha, rounded),
                     inputs);
}

}  // namespace gptoss
