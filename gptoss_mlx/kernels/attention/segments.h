// Fresh tokens of several sequences appended to their caches and attended, in one operation.
#pragma once

#include <utility>

#include "common/arrays.h"

namespace gptoss {

// One sequence's part of a row of fresh tokens, and where it goes in its buffers.
struct Segment {
    int64_t count;  // fresh tokens
    int64_t start;  // tokens that the buffers hold so far
    int64_t first;  // number of the buffers' first token, a multiple of kFirstStep

    bool operator==(const Segment&) const = default;
};

// queries (B, H, T, D), keys and values (B, K, T, D): the segments' tokens, one segment behind the other; sinks (H).
// `buffers` has for each segment two arrays (B, K, room, D) in float32, float16 or bfloat16, keys and values, or six,
// the codes, scales and biases of keys and those of values; see `append_codes`. Fresh keys and values are written
// behind what the buffers hold, in place and under the same conditions as with `append`, rounded to what the buffers
// keep (float16 saturates at 65504); then each segment's queries attend over its own buffers as in `attend`.
//
// Gives the results (B, T, H * D) in float32, and the buffers as new arrays that share the memory.
std::pair<mx::array, std::vector<std::vector<mx::array>>> append_and_attend(
    const mx::array& queries, const mx::array& keys, const mx::array& values, const mx::array& sinks,
    const std::vector<std::vector<mx::array>>& buffers, const std::vector<Segment>& segments, float scale, int window,
    mx::StreamOrDevice s = {});

}  // namespace gptoss
