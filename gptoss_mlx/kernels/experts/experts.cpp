#include "experts/experts.h"

#include <algorithm>
#include <cmath>

#include "common/kernels.h"
#include "common/pool.h"
#include "mlx/backend/cpu/encoder.h"

namespace gptoss {
namespace {

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
        if (chosen[i] >= experts) continue;  // there is no such expert: it adds nothing
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

struct Block {
    Matrix gate, up, down;
    float limit, alpha;
    Form first, second;  // of the products with gate and up, and with down
};

// inner[pair] = swiglu(gate(x[token]), up(x[token])) for every pair.
void run_first_half(const Block& block, const Plan& plan, const float* x, int64_t tokens, float* inner) {
    const int64_t width = block.gate.rows, piece = piece_rows(block.gate, block.first);
    PreparedRows prepared(block.gate, tokens, block.first);
    prepared.fill(x);
    std::vector<const uint8_t*> rows;
    for (const Pair& pair : plan.pairs) rows.push_back(prepared.at(pair.token));
    const int64_t pieces = (width + piece - 1) / piece;
    parallel(int64_t(plan.groups.size()) * pieces, 1, [&](int64_t begin, int64_t end) {
        for (int64_t item = begin; item < end; ++item) {
            const Group& group = plan.groups[item / pieces];
            const int64_t first = item % pieces * piece, last = std::min(first + piece, width);
            const int64_t count = group.last - group.first;
            auto* gate = static_cast<float*>(scratch(1, 2 * count * piece * sizeof(float)));
            float* up = gate + count * piece;
            const uint8_t* const* own = rows.data() + group.first;
            piece_product(block.gate.of_expert(group.expert), first, last, own, count, gate, piece, block.first);
            piece_product(block.up.of_expert(group.expert), first, last, own, count, up, piece, block.first);
            for (int64_t m = 0; m < count; ++m) {
                kernels().swiglu(gate + m * piece, up + m * piece, last - first, block.limit, block.alpha);
                std::copy_n(gate + m * piece, last - first, inner + (group.first + m) * width + first);
            }
        }
    });
}

// out[token] = sum of share * down(inner[pair]) over the token's pairs, experts in ascending order.
void run_second_half(const Block& block, const Plan& plan, const float* inner, int64_t tokens, float* out) {
    const int64_t hidden = block.down.rows, piece = piece_rows(block.down, block.second);
    const auto pairs = int64_t(plan.pairs.size());
    PreparedRows prepared(block.down, pairs, block.second);
    prepared.fill(inner);
    std::vector<const uint8_t*> rows;
    for (int64_t p = 0; p < pairs; ++p) rows.push_back(prepared.at(p));
    parallel(hidden, piece, [&](int64_t first, int64_t last) {
        auto* results = static_cast<float*>(scratch(1, plan.largest * piece * sizeof(float)));
        for (int64_t t = 0; t < tokens; ++t) std::fill_n(out + t * hidden + first, last - first, 0.0f);
        for (const Group& group : plan.groups) {
            const int64_t count = group.last - group.first;
            piece_product(block.down.of_expert(group.expert), first, last, rows.data() + group.first, count, results,
                          piece, block.second);
            for (int64_t m = 0; m < count; ++m) {
                const Pair& pair = plan.pairs[group.first + m];
                float* target = out + pair.token * hidden + first;
                for (int64_t n = 0; n < last - first; ++n) target[n] += pair.share * results[m * piece + n];
            }
        }
    });
}

class Experts : public CpuPrimitive {
  public:
    Experts(mx::Stream stream, WeightLayout gate, WeightLayout up, WeightLayout down, float limit, float alpha,
            Precision precision)
        : CpuPrimitive(stream),
          gate_(gate),
          up_(up),
          down_(down),
          limit_(limit),
          alpha_(alpha),
          precision_(precision) {}

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
            [block, tokens, k, experts, precision = precision_, x = inputs[0].data<float>(),
             chosen = inputs[1].data<uint32_t>(), shares = inputs[2].data<float>(), y = out.data<float>()]() mutable {
                if (tokens == 0) return;
                block.first = form_for(block.gate, precision);
                block.second = form_for(block.down, precision);
                const Plan whole = plan(chosen, shares, tokens, k, experts);
                Buffer inner(int64_t(whole.pairs.size()) * block.gate.rows * int64_t(sizeof(float)));
                run_first_half(block, whole, x, tokens, inner.floats());
                run_second_half(block, whole, inner.floats(), tokens, y);
            });
    }

    const char* name() const override { return "GptossExperts"; }

    bool is_equivalent(const Primitive& other) const override {
        const auto& right = static_cast<const Experts&>(other);
        return gate_ == right.gate_ && up_ == right.up_ && down_ == right.down_ && limit_ == right.limit_ &&
               alpha_ == right.alpha_ && precision_ == right.precision_;
    }

  private:
    WeightLayout gate_, up_, down_;
    float limit_, alpha_;
    Precision precision_;
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
                  const Weight& up, const Weight& down, float limit, float alpha, Precision precision,
                  mx::StreamOrDevice s) {
    const mx::Stream stream = mx::to_stream(s);
    if (x.ndim() < 1 || x.shape(-1) < 1) throw std::invalid_argument("x: at least one axis and one column expected");
    if (chosen.ndim() != x.ndim() || chosen.shape() != shares.shape() ||
        !std::equal(x.shape().begin(), x.shape().end() - 1, chosen.shape().begin()))
        throw std::invalid_argument("chosen and shares: one shape expected, that of x but for the last axis");
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
                     std::make_shared<Experts>(stream, layouts[0], layouts[1], layouts[2], limit, alpha, precision),
                     inputs);
}

}  // namespace gptoss
