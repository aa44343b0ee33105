#include "product/rows.h"

#include <algorithm>

#include "common/pool.h"

namespace gptoss {
namespace {

constexpr int64_t kPieceBytes = 256 * 1024;

int64_t row_bytes(const Matrix& matrix, Form form) {
    const ProductKernels& set = kernels().product;
    int64_t bytes = matrix.cols * int64_t(sizeof(float));
    if (form == Form::kSplit) bytes = set.split_bytes(matrix.cols, matrix.group);
    if (form == Form::kStrip) bytes = set.rounded_bytes(matrix.cols, matrix.group);
    return (bytes + 127) / 64 * 64;
}

}  // namespace

Form form_for(const Matrix& matrix, Precision precision) {
    const ProductKernels& set = kernels().product;
    if (precision == Precision::kFewRows && set.has_split(matrix.format, matrix.group)) return Form::kSplit;
    if (precision == Precision::kManyRows && set.has_integer(matrix.format, matrix.group)) return Form::kStrip;
    return Form::kFloat;
}

PreparedRows::PreparedRows(const Matrix& matrix, int64_t count, Form form)
    : matrix_(matrix), form_(form), storage_(count * row_bytes(matrix, form)), rows_(count) {
    for (int64_t m = 0; m < count; ++m) rows_[m] = storage_.data() + m * row_bytes(matrix, form);
}

void PreparedRows::fill(const float* x) {
    parallel(int64_t(rows_.size()), 4, [&](int64_t first, int64_t last) {
        const ProductKernels& set = kernels().product;
        for (int64_t m = first; m < last; ++m) {
            const float* row = x + m * matrix_.cols;
            if (form_ == Form::kFloat)
                set.arrange(matrix_.format, row, matrix_.cols, reinterpret_cast<float*>(rows_[m]));
            else
                (form_ == Form::kSplit ? set.split : set.round)(matrix_.format, matrix_.group, row, matrix_.cols,
                                                                rows_[m]);
        }
    });
}

int64_t piece_rows(const Matrix& matrix, Form form) {
    if (form == Form::kStrip) return kernels().product.strip;
    const int64_t rows = std::clamp<int64_t>(kPieceBytes / matrix.row_bytes, 1, matrix.rows);
    return std::min(rows, std::max<int64_t>(1, matrix.rows / (2 * threads())));
}

void piece_product(const Matrix& matrix, int64_t first, int64_t last, const uint8_t* const* x, int64_t count, float* y,
                   int64_t stride, Form form) {
    const ProductKernels& set = kernels().product;
    auto** starts = static_cast<float**>(scratch(2, count * sizeof(float*)));
    if (form != Form::kStrip) {
        for (int64_t m = 0; m < count; ++m) starts[m] = y + m * stride - first;
        if (form == Form::kSplit) {
            set.split_product(matrix, first, last, x, count, starts);
        } else {
            auto* space = static_cast<float*>(scratch(0, set.product_scratch(matrix.cols) * sizeof(float)));
            set.product(matrix, first, last, reinterpret_cast<const float* const*>(x), count, starts, space);
        }
        return;
    }
    auto* space = static_cast<uint8_t*>(scratch(0, set.strip_scratch(matrix.cols, matrix.group)));
    const bool whole = last - first == set.strip;
    float* results = whole ? y : static_cast<float*>(scratch(3, count * set.strip * sizeof(float)));
    const int64_t step = whole ? stride : set.strip;
    for (int64_t m = 0; m < count; ++m) starts[m] = results + m * step;
    set.strip_product(matrix, first, x, count, starts, space);
    for (int64_t m = 0; !whole && m < count; ++m) std::copy_n(starts[m], last - first, y + m * stride);
}

}  // namespace gptoss
