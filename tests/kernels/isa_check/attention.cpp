// Attention, split by split, against a softmax in double precision.
#include "common/kernels.h"
#include "weights.h"

namespace check {
namespace {

using namespace gptoss;

constexpr float kSharpness = 0.3f;  // the scale of scores

// Random vectors and what they are in double precision.
struct Cache {
    std::vector<std::unique_ptr<Guarded>> memory;
    Vectors vectors;
    std::vector<double> values;  // keys * width

    // Plain numbers, `step` elements apart.
    Cache(Random& random, Format format, int64_t keys, int64_t width, int64_t step) {
        const int64_t bytes = format == Format::kFloat32 ? 4 : 2, stride = width * step * bytes;
        uint8_t* data = add((keys - 1) * stride + ((width - 1) * step + 1) * bytes);
        vectors = {data, format, stride, step};
        for (int64_t i = 0; i < keys * width; ++i) {
            const float x = random.uniform(-2, 2);
            const uint16_t bits = format == Format::kFloat16 ? to_half(x) : to_brain(x);
            uint8_t* to = data + i / width * stride + i % width * step * bytes;
            if (format == Format::kFloat32)
                std::memcpy(to, &x, 4);
            else
                std::memcpy(to, &bits, 2);
            values.push_back(format == Format::kFloat32   ? x
                             : format == Format::kFloat16 ? from_half(bits)
                                                          : from_brain(bits));
        }
    }

    // Codes of 8 or 4 bits; the numbers of a vector's groups are followed by `gap` others.
    Cache(Random& random, int bits, int64_t keys, int64_t width, int64_t gap) {
        const int64_t groups = width / kGroup, stride = groups + gap, bytes = width * bits / 8;
        uint8_t* codes = add(keys * bytes);
        auto* scales = reinterpret_cast<uint16_t*>(add((keys * stride - gap) * 2));
        auto* biases = reinterpret_cast<uint16_t*>(add((keys * stride - gap) * 2));
        vectors = {codes,           bits == 8 ? Format::kAffine8 : Format::kAffine4, bytes, 1, {scales, stride},
                   {biases, stride}};
        for (int64_t i = 0; i < keys * bytes; ++i) codes[i] = uint8_t(random.below(256));
        for (int64_t i = 0; i < keys * stride - gap; ++i) {
            scales[i] = to_half(random.uniform(-1, 1) / float(1 << bits));
            biases[i] = to_half(random.uniform(-1, 1));
        }
        for (int64_t i = 0; i < keys * width; ++i) {
            const int64_t group = i / width * stride + i % width / kGroup;
            const int code = bits == 8 ? codes[i] : codes[i / 2] >> (i % 2 * 4) & 15;
            values.push_back(code * from_half(scales[group]) + from_half(biases[group]));
        }
    }

  private:
    uint8_t* add(int64_t bytes) {
        memory.push_back(std::make_unique<Guarded>(bytes));
        return memory.back()->data();
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

void check_case(Count& count, Random& random, const Cache& keys, const Cache& values, int64_t rows, int64_t length,
                int64_t width, int64_t window) {
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
    const auto plain = [&](Format key, Format value, int64_t rows, int64_t length, int64_t width, int64_t window,
                           int64_t step) {
        const Cache keys(random, key, length, width, step), values(random, value, length, width, step);
        check_case(count, random, keys, values, rows, length, width, window);
    };
    const auto packed = [&](int bits, int64_t rows, int64_t length, int64_t width, int64_t window, int64_t gap) {
        const Cache keys(random, bits, length, width, gap), values(random, bits, length, width, 0);
        check_case(count, random, keys, values, rows, length, width, window);
    };
    for (Format format : {Format::kFloat32, Format::kFloat16, Format::kBFloat16}) {
        plain(format, format, 8, 2, 64, 0, 1);
        plain(format, format, 5, 70, 64, 0, 1);
        plain(format, format, 20, 1100, 64, 0, 1);
        plain(format, format, 16, 1100, 64, 128, 1);
        plain(format, format, 9, 600, 20, 33, 1);
        plain(format, format, 12, 130, 7, 0, 1);
        plain(format, format, 8, 100, 16, 5, 3);
    }
    plain(Format::kBFloat16, Format::kFloat32, 8, 90, 32, 0, 1);
    for (int bits : {8, 4}) {
        packed(bits, 8, 2, 64, 0, 0);
        packed(bits, 5, 70, 64, 0, 0);
        packed(bits, 20, 1100, 64, 0, 0);
        packed(bits, 16, 600, 96, 128, 0);
        packed(bits, 8, 100, 32, 0, 3);
    }
}

}  // namespace check
