// Keys and values appended as codes.
#pragma once

#include <string>
#include <vector>

#include "common/arrays.h"

namespace gptoss {

// The vectors of three buffers, codes with scales and biases as mx::quantize gives them, one row each.
class CodeRows {
  public:
    // Of vectors of `width` numbers, whole groups of kGroup, in dense buffers (B, K, room, ...).
    CodeRows(mx::array* planes, int64_t width);

    // Round a vector to float16 and pack it.
    void write(const float* vector, int64_t row) const;

  private:
    int bits_;
    int64_t width_;
    uint8_t* codes_;
    mx::float16_t *scales_, *biases_;
};

// Refuse arrays that are not the codes, scales and biases of vectors of this shape (B, K, tokens, D).
void check_codes(const std::string& who, const std::vector<mx::array>& planes, const mx::Shape& vectors);

// Round fresh keys or values (B, K, T, D) to float16 and write what mx::quantize makes of them, in groups of kGroup, to
// the positions [start, start + T) of three buffers (B, K, room, ...): codes of 8 or 4 bits, scales, biases. In place,
// and returned as new arrays, under the same conditions as `append`.
std::vector<mx::array> append_codes(const std::vector<mx::array>& buffers, const mx::array& fresh, int start,
                                    mx::StreamOrDevice s = {});

}  // namespace gptoss
