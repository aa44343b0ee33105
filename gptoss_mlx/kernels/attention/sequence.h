// Attention over keys and values as they lie in memory, of one sequence or of several at once.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "attention/tile.h"
#include "common/arrays.h"

namespace gptoss {

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
    Stored(const mx::array* planes, int64_t count, int64_t width);

    Vectors of(int64_t b, int64_t head, int64_t first) const;
};

// Queries of one sequence (or a batch of sequences of equal length) and the keys and values that they attend over.
// Pointers stay valid because the primitive's arrays do.
struct Sequence {
    const float *queries, *sinks;
    float* out;
    Stored keys, values;
    mx::Strides query_strides;
    int64_t sink_stride;
    int64_t batch, heads, kv_heads, tokens, length, width;
    int64_t out_tokens;  // of a batch's results, this sequence's among them
    float scale;
    int64_t window;
    int64_t first;  // number of the first key: splits begin at multiples of their size, wherever the keys begin

    int64_t group() const { return heads / kv_heads; }
    int64_t rows() const { return tokens * group(); }

    Sight sight(int64_t row) const {
        const int64_t last = first + length - tokens + row / group() + 1;
        return {window > 0 ? std::max(first, last - window) : first, last};
    }
};

// Refuse queries (B, H, T, D), keys and values (B, K, S, any width) and sinks (H) that do not fit together.
void check_attention(const std::string& who, const mx::array& queries, const mx::array& keys, const mx::array& values,
                     const mx::array& sinks);

// The results of all sequences; threads share the work on all of them.
void attend(const std::vector<Sequence>& sequences);

}  // namespace gptoss
