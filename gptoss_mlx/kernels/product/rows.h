// PreparedRows of activations in the form that a product takes, and the products of such rows.
#pragma once

#include <memory>
#include <vector>

#include "common/kernels.h"

namespace gptoss {

// What a caller allows: float32 throughout, or activations rounded to whole numbers, where the form depends on how long
// the sequence is (and on nothing else, so that a sequence's company in a batch cannot change its results).
enum class Precision : int { kExact, kFewRows, kManyRows };

// The forms of common/kernels.h.
enum class Form { kFloat, kSplit, kStrip };

// The form in which the active instruction set multiplies a matrix.
Form form_for(const Matrix& matrix, Precision precision);

// Memory that begins at a cache line; what is in it is for others to write.
class Buffer {
  public:
    explicit Buffer(int64_t bytes) : storage_(std::make_unique_for_overwrite<uint8_t[]>(bytes + 64)) {}

    uint8_t* data() {
        const auto start = reinterpret_cast<uintptr_t>(storage_.get());
        return reinterpret_cast<uint8_t*>((start + 63) / 64 * 64);
    }
    float* floats() { return reinterpret_cast<float*>(data()); }

  private:
    std::unique_ptr<uint8_t[]> storage_;
};

class PreparedRows {
  public:
    PreparedRows(const Matrix& matrix, int64_t count, Form form);

    // Bring rows of x, `matrix.cols` floats each, into the form, on all threads.
    void fill(const float* x);

    const uint8_t* at(int64_t m) const { return rows_[m]; }

  private:
    Matrix matrix_;
    Form form_;
    Buffer storage_;
    std::vector<uint8_t*> rows_;
};

// How many rows of a matrix a thread takes at a time: a run of memory, yet short enough to balance. Pieces begin at
// its multiples.
int64_t piece_rows(const Matrix& matrix, Form form);

// y[m * stride + n - first] = x[m] . row n + bias[n] for n in [first, last). Uses the scratch slots 0, 2 and 3.
void piece_product(const Matrix& matrix, int64_t first, int64_t last, const uint8_t* const* x, int64_t count, float* y,
                   int64_t stride, Form form);

}  // namespace gptoss
