// Attention, split by split, against a softmax in double precision.
#include "common/kernels.h"
#include "weights.h"

namespace check {
namespace {

using namespace gptoss;

constexpr float kSharpness = 0.3f;  // the scale of scores

// Random vectors, `step` elements apart, and what they are in double precision.
struct Cache {
    std::unique_ptr<Guarded> memory;
    Vectors vectors;
    std::vector<double> values;  // keys * width

    Cache(Random& random, Number number, int64_t keys, int64_t width, int64_t step) {
        const int64_t bytes = number == Number::kFloat32 ? 4 : 2, stride = width * step;
        memory = std::make_unique<Guarded>(((keys - 1) * stride + (width - 1) * step + 1) * bytes);
        vectors = {memory->data(), number, stride, step};
        for (int64_t i = 0; i < keys * width; ++i) {
            const float x = random.uniform(-2, 2);
            const uint16_t bits = number == Number::kFloat16 ? to_half(x) : to_brain(x);
            uint8_t* to = memory->data() + (i / width * stride + i % width * step) * bytes;
            if (number == Number::kFloat32)
                std::memcpy(to, &x, 4);
            else
                std::memcpy(to, &bits, 2);
            values.push_back(number == Number::kFloat32   ? x
                             : number == Number::kFloat16 ? from_half(bits)
                                                          : from_brain(bits));
        }
    }
};

struct Case {
    int64_t count, width;
    std::vector<float> queries, sinks;
    std::vector<Sight> sights;
};

using Floats = std::vector<float>;

float* aligned(Floats& floats) {
    return floats.data() + (64 - reinterpret_cast<uintptr_t>(floats.data()) % 64) % 64 / sizeof(float);
}

// Results of rows [first, first + count).
Floats attended(const Case& c, const Cache& keys, const Cache& values, int64_t first, int64_t count) {
    const AttentionKernels& set = kernels().attention;
    const int64_t tiles = (count + kTileHeads - 1) / kTileHeads, floats = set.tile_floats(c.width);
    std::vector<const float*> queries;
    std::vector<Sight> sights;
    Floats sinks;
    int64_t last = 0;
    for (int64_t r = 0; r < tiles * kTileHeads; ++r) {
        const int64_t row = first + std::min(r, count - 1);
        queries.push_back(c.queries.data() + row * c.width);
        sights.push_back(c.sights[row]);
        sinks.push_back(c.sinks[row]);
        last = std::max(last, c.sights[row].last);
    }
    Floats partial_memory(tiles * floats + 16, NAN), state_memory(tiles * floats + 16, NAN);
    Floats space_memory(set.space(count, c.width) + 16, NAN), out(count * c.width, NAN);
    float *partial = aligned(partial_memory), *state = aligned(state_memory);
    for (int64_t t = 0; t < tiles; ++t) set.begin(sinks.data() + t * kTileHeads, c.width, state + t * floats);
    const Rows rows{queries.data(), 1, sights.data(), count, c.width, kSharpness, keys.vectors, values.vectors};
    for (int64_t start = 0; start < last; start += kSplit) {
        set.attend(rows, start, partial, aligned(space_memory));
        for (int64_t t = 0; t < tiles; ++t) set.fold(partial + t * floats, c.width, state + t * floats);
    }
    for (int64_t r = 0; r < count; ++r)
        set.finish(state + r / kTileHeads * floats, r % kTileHeads, c.width, out.data() + r * c.width);
    return out;
}

std::vector<double> softmax_sum(const Case& c, const Cache& keys, const Cache& values, int64_t row) {
    std::vector<double> scores, out(c.width, 0.0);
    double top = c.sinks[row];
    for (int64_t j = c.sights[row].first; j < c.sights[row].last; ++j) {
        double score = 0;
        for (int64_t i = 0; i < c.width; ++i) score += c.queries[row * c.width + i] * keys.values[j * c.width + i];
        scores.push_back(score * kSharpness);
        top = std::max(top, scores.back());
    }
    double total = std::exp(c.sinks[row] - top);
    for (size_t j = 0; j < scores.size(); ++j) {
        const double share = std::exp(scores[j] - top);
        total += share;
        for (int64_t i = 0; i < c.width; ++i) out[i] += share * values.values[(c.sights[row].first + j) * c.width + i];
    }
    for (double& x : out) x /= total;
    return out;
}

void check_case(Count& count, Random& random, Number key, Number value, int64_t rows, int64_t length, int64_t width,
                int64_t window, int64_t step) {
    const Cache keys(random, key, length, width, step), values(random, value, length, width, step);
    Case c{rows, width, random.floats(rows * width, -2, 2), random.floats(rows, -4, 4), {}};
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t last = length - (rows - 1 - r) / 4;  // four heads per token
        c.sights.push_back({window > 0 ? std::max<int64_t>(0, last - window) : 0, last});
    }
    c.sinks[0] = -INFINITY;  // none
    const std::string what = "attention of " + std::to_string(rows) + " rows to " + std::to_string(length) +
                             " keys of " + std::to_string(width) + " in window " + std::to_string(window);
    const Floats all = attended(c, keys, values, 0, rows);
    for (int64_t r = 0; r < rows; ++r) {
        const std::vector<double> wanted = softmax_sum(c, keys, values, r);
        for (int64_t i = 0; i < width; ++i) count.near(all[r * width + i], wanted[i], 4e-6, what);
        if (r > 1 && r != rows - 1) continue;
        const Floats same(all.begin() + r * width, all.begin() + (r + 1) * width);
        count.expect(same_bits(attended(c, keys, values, r, 1), same),
                     what + ": a row differs from the same in others");
    }
}

}  // namespace

void check_attention(Count& count) {
    Random random(23);
    for (Number number : {Number::kFloat32, Number::kFloat16, Number::kBFloat16}) {
        check_case(count, random, number, number, 8, 2, 64, 0, 1);
        check_case(count, random, number, number, 5, 70, 64, 0, 1);
        check_case(count, random, number, number, 20, 1100, 64, 0, 1);
        check_case(count, random, number, number, 16, 1100, 64, 128, 1);
        check_case(count, random, number, number, 9, 600, 20, 33, 1);
        check_case(count, random, number, number, 12, 130, 7, 0, 1);
        check_case(count, random, number, number, 8, 100, 16, 5, 3);
    }
    check_case(count, random, Number::kBFloat16, Number::kFloat32, 8, 90, 32, 0, 1);
}

}  // namespace check
