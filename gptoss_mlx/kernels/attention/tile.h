// Attention's work in pieces that do not depend on the number of threads.
//
// The query heads that share a head of keys, for all tokens, are the rows (token * group + head). Eight rows make a
// tile. The sequence of keys is cut into splits at multiples of a fixed size; each split gives a partial
// softmax per row, and partials are folded in ascending order. So a row's result depends on nothing but its query
// and its keys: not on the threads, and not on which other rows are computed with it.
#pragma once

#include <cstdint>

#include "common/matrix.h"

namespace gptoss {

constexpr int64_t kTileHeads = 8;   // rows of a tile
constexpr int64_t kSplit = 512;     // keys of a split
constexpr int64_t kFirstStep = 64;  // keys begin at multiples of this: what one correction of the maximum covers
constexpr int64_t kGroup = 32;      // codes that share a scale and a bias

// One number in float16 for each group of codes, the groups of a vector side by side.
struct Groups {
    const uint16_t* data;
    int64_t stride;  // from one vector to the next, in numbers
};

// Vectors of one sequence and head: plain numbers, or codes of 8 or 4 bits that stand for code * scale + bias.
struct Vectors {
    const uint8_t* data;
    Format format;   // plain, kAffine8 or kAffine4
    int64_t stride;  // from one to the next, in bytes
    int64_t step;    // between their numbers; 1 but in odd views, and for codes
    Groups scales = {}, biases = {};
};

// The keys [first, last) that a row may see.
struct Sight {
    int64_t first, last;
};

// Rows of queries against one head of keys and values.
struct Rows {
    const float* const* queries;
    int64_t query_step;   // between a query's elements
    const Sight* sights;  // of each row
    int64_t count;
    int64_t width;  // of a head
    float scale;
    Vectors keys, values;
};

struct AttentionKernels {
    // Floats of a tile's partial result: eight maxima, eight sums of exponentials, eight weighted sums of values in an
    // order of the instruction set's own.
    int64_t (*tile_floats)(int64_t width);
    // Floats of scratch that `attend` needs.
    int64_t (*space)(int64_t rows, int64_t width);
    // The partial results of the split that begins at key `first`, of all tiles of rows.
    void (*attend)(const Rows& rows, int64_t first, float* tiles, float* space);
    // The state of a tile that has seen its sinks only; eight of them, at `sinks`.
    void (*begin)(const float* sinks, int64_t width, float* tile);
    // Fold the partial result of the next split into a tile's state.
    void (*fold)(const float* partial, int64_t width, float* tile);
    // Results of row r of a tile.
    void (*finish)(const float* tile, int64_t r, int64_t width, float* out);
};

}  // namespace gptoss
