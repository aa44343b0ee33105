// Keys and values appended as codes.
#pragma once

#include "common/arrays.h"

namespace gptoss {

// Round fresh keys or values (B, K, T, D) to float16 and write what mx::quantize makes of them, in groups of kGroup, to
// the positions [start, start + T) of three buffers (B, K, room, ...): codes of 8 or 4 bits, scales, biases. In place,
// and returned as new arrays, under the same conditions as `append`.
std::vector<mx::array> append_codes(const std::vector<mx::array>& buffers, const mx::array& fresh, int start,
                                    mx::StreamOrDevice s = {});

}  // namespace gptoss
