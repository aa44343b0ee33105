// Matrix products in all forms against sums in double precision.
#include "common/kernels.h"
#include "weights.h"

namespace check {
namespace {

using gptoss::kernels;
using gptoss::ProductKernels;

constexpr float kUntouched = 12345.0f;

// Memory of several rows, each at a multiple of 64 bytes.
class Lines {
  public:
    Lines(int64_t count, int64_t bytes) : stride_((bytes + 63) / 64 * 64), storage_(count * stride_ + 64) {
        for (int64_t m = 0; m < count; ++m) rows_.push_back(start() + m * stride_);
    }
    uint8_t* start() { return storage_.data() + (64 - reinterpret_cast<uintptr_t>(storage_.data()) % 64) % 64; }
    uint8_t* const* rows() { return rows_.data(); }
    template <class T>
    T** as() {
        return reinterpret_cast<T**>(rows_.data());
    }

  private:
    int64_t stride_;
    std::vector<uint8_t> storage_;
    std::vector<uint8_t*> rows_;
};

using Results = std::vector<float>;  // count * rows
using Form = Results (*)(const Matrix& matrix, const float* x, int64_t count, int64_t first, int64_t last);

struct Outputs {
    Results values;
    std::vector<float*> starts;

    Outputs(int64_t count, int64_t rows) : values(count * rows, kUntouched) {
        for (int64_t m = 0; m < count; ++m) starts.push_back(values.data() + m * rows);
    }
};

Results float_form(const Matrix& matrix, const float* x, int64_t count, int64_t first, int64_t last) {
    const ProductKernels& set = kernels().product;
    Lines rows(count, (matrix.cols + 15) / 16 * 64), space(1, set.product_scratch(matrix.cols) * 4);
    Outputs out(count, matrix.rows);
    for (int64_t m = 0; m < count; ++m)
        set.arrange(matrix.format, x + m * matrix.cols, matrix.cols, rows.as<float>()[m]);
    set.product(matrix, first, last, rows.as<float>(), count, out.starts.data(), space.as<float>()[0]);
    return out.values;
}

Results split_form(const Matrix& matrix, const float* x, int64_t count, int64_t first, int64_t last) {
    const ProductKernels& set = kernels().product;
    Lines rows(count, set.split_bytes(matrix.cols, matrix.group));
    Outputs out(count, matrix.rows);
    for (int64_t m = 0; m < count; ++m)
        set.split(matrix.format, matrix.group, x + m * matrix.cols, matrix.cols, rows.rows()[m]);
    set.split_product(matrix, first, last, rows.rows(), count, out.starts.data());
    return out.values;
}

Results strip_form(const Matrix& matrix, const float* x, int64_t count, int64_t first, int64_t last) {
    const ProductKernels& set = kernels().product;
    Lines rows(count, set.rounded_bytes(matrix.cols, matrix.group));
    Lines space(1, set.strip_scratch(matrix.cols, matrix.group));
    Outputs out(count, matrix.rows), strip(count, set.strip);
    for (int64_t m = 0; m < count; ++m)
        set.round(matrix.format, matrix.group, x + m * matrix.cols, matrix.cols, rows.rows()[m]);
    for (int64_t start = first / set.strip * set.strip; start < last; start += set.strip) {
        set.strip_product(matrix, start, rows.rows(), count, strip.starts.data(), space.rows()[0]);
        for (int64_t m = 0; m < count; ++m)
            for (int64_t n = start; n < start + set.strip; ++n)
                if (n >= first && n < last) out.starts[m][n] = strip.starts[m][n - start];
    }
    return out.values;
}

// Activations as the integer forms round them: whole multiples, up to `most`, of one scale per `span` values.
std::vector<double> rounded(const std::vector<float>& x, int64_t span, float most) {
    std::vector<double> out;
    for (size_t first = 0; first < x.size(); first += span) {
        float top = 0;
        for (int64_t i = 0; i < span; ++i) top = std::max(top, std::abs(x[first + i]));
        const float scale = std::max(top / most, 0x1p-126f), inverse = 1.0f / scale;
        for (int64_t i = 0; i < span; ++i) {
            volatile const float multiple = x[first + i] * inverse;
            out.push_back(double(std::nearbyint(multiple)) * scale);
        }
    }
    return out;
}

// The largest whole number of the split form: three bytes on AVX-512, else two.
float most_of_split() { return std::string(kernels().name) == "avx512" ? 8355000.0f : 32512.0f; }

void compare(Count& count, const Weights& weights, const std::vector<double>& x, const Results& y,
             const std::string& what) {
    const Matrix& m = weights.matrix;
    for (size_t row = 0; row * m.cols < x.size(); ++row)
        for (int64_t n = 0; n < m.rows; ++n) {
            double wanted = m.bias != nullptr ? m.bias[n] : 0.0, size = std::abs(wanted), most = 0;
            for (int64_t i = 0; i < m.cols; ++i) {
                const double value = x[row * m.cols + i];
                wanted += value * weights.values[n * m.cols + i];
                size += std::abs(value) * weights.sizes[n * m.cols + i];
                most = std::max(most, std::abs(value));
            }
            const double below_normal = double(m.cols) * 0x1p-148 * std::max(1.0, most);
            count.near(y[row * m.rows + n], wanted, 2e-6 * size + below_normal, what);
        }
}

// A batch, its rows one by one, and a part of the outputs.
void check_form(Count& count, Form form, const Weights& weights, const std::vector<float>& x,
                const std::vector<double>& exact, const std::string& what, Record* record) {
    const Matrix& m = weights.matrix;
    const int64_t rows = int64_t(x.size()) / m.cols;
    const Results all = form(m, x.data(), rows, 0, m.rows);
    compare(count, weights, exact, all, what);
    for (int64_t row = 0; row < rows; ++row) {
        const Results one = form(m, x.data() + row * m.cols, 1, 0, m.rows);
        const Results same(all.begin() + row * m.rows, all.begin() + (row + 1) * m.rows);
        count.expect(same_bits(one, same), what + ": a row differs from the same row in a batch");
    }
    if (record != nullptr) count.expect(record->agrees(all), what + ": differs from another instruction set");
    if (m.rows < 3) return;
    const Results part = form(m, x.data(), rows, 1, m.rows - 1);
    bool right = true;
    for (int64_t i = 0; i < rows * m.rows; ++i) {
        const bool inside = i % m.rows != 0 && i % m.rows != m.rows - 1;
        right = right && part[i] == (inside ? all[i] : kUntouched);
    }
    count.expect(right, what + ": a part of the outputs differs from all of them");
}

std::vector<float> activations(Random& random, int64_t count, int64_t cols, Range range) {
    const float size = range == Range::kLargest ? 1e-6f : range == Range::kSmallest ? 50.0f : 3.0f;
    std::vector<float> x = random.floats(count * cols, -size, size);
    if (count > 2)
        for (int64_t i = 0; i < cols; ++i) x[2 * cols + i] = 0.0f;  // a row of nothing
    if (count > 3) x[3 * cols + random.below(uint32_t(cols))] = 100 * size;
    for (int64_t i = 0; count > 4 && i < cols; ++i) x[4 * cols + i] *= 1e-35f;  // steps below the normal numbers
    return x;
}

void check_matrix(Count& count, Record& record, Random& random, const Weights& weights, int64_t rows, Range range) {
    const Matrix& m = weights.matrix;
    const ProductKernels& set = kernels().product;
    const std::vector<float> x = activations(random, rows, m.cols, range);
    const std::string what = words(m) + ", " + std::to_string(rows) + " rows";
    check_form(count, float_form, weights, x, {x.begin(), x.end()}, "float product of " + what, nullptr);
    if (range == Range::kLargest) return;  // integer sums times such scales are beyond float32
    if (set.has_split(m.format, m.group))
        check_form(count, split_form, weights, x, rounded(x, m.cols, most_of_split()), "split product of " + what,
                   nullptr);
    if (set.has_integer(m.format, m.group))
        check_form(count, strip_form, weights, x, rounded(x, m.group, 32512.0f), "strip product of " + what, &record);
}

void check_plain(Count& count, Record& record, Random& random, Format format) {
    for (int64_t cols : {1, 3, 15, 16, 17, 63, 100, 257}) {
        const Weights weights = random_weights(random, format, Number::kFloat32, 0, 5, cols, Range::kUsual);
        for (int64_t rows : {1, 2, 3, 4, 5, 7, 9}) check_matrix(count, record, random, weights, rows, Range::kUsual);
    }
}

void check_packed(Count& count, Record& record, Random& random, Format format, Number number, int group) {
    for (int64_t groups : {1, 3, 4, 19}) {
        const Weights weights = random_weights(random, format, number, group, 37, groups * group, Range::kUsual);
        check_matrix(count, record, random, weights, 1 + random.below(9), Range::kUsual);
    }
    for (int64_t outputs : {1, 2, 8, 16, 33}) {
        const Weights weights = random_weights(random, format, number, group, outputs, 5 * group, Range::kUsual);
        check_matrix(count, record, random, weights, 1 + random.below(9), Range::kUsual);
    }
    const Weights weights = random_weights(random, format, number, group, 9, 3 * group, Range::kUsual);
    for (int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 37})
        check_matrix(count, record, random, weights, rows, Range::kUsual);
    for (Range range : {Range::kSmallest, Range::kLarge, Range::kLargest})
        check_matrix(count, record, random, random_weights(random, format, number, group, 6, 17 * group, range), 5,
                     range);
}

// A row with a number that is not finite has no finite results; the row beside it is as it was.
void check_spoilt(Count& count, Random& random, Format format, float spoilt) {
    const ProductKernels& set = kernels().product;
    const Weights weights = random_weights(random, format, Number::kFloat16, 32, 20, 96, Range::kUsual);
    std::vector<float> x = random.floats(2 * 96, -1, 1);
    const std::vector<float> beside(x.begin() + 96, x.end());
    x[random.below(96)] = spoilt;
    for (Form form : {float_form, split_form, strip_form}) {
        if (form == split_form && !set.has_split(format, 32)) continue;
        if (form == strip_form && !set.has_integer(format, 32)) continue;
        const Results all = form(weights.matrix, x.data(), 2, 0, 20);
        const Results one = form(weights.matrix, beside.data(), 1, 0, 20);
        // An infinity times the code 0 is no number, times others an infinity; rounded, both spoil the row.
        for (int n = 0; n < 20; ++n)
            count.expect(form == float_form ? !std::isfinite(all[n]) : std::isnan(all[n]), "a row of no numbers");
        count.expect(same_bits({all.begin() + 20, all.end()}, one), "a row beside one of no numbers");
    }
}

}  // namespace

void check_products(Count& count, Record& record) {
    Random random(20);
    for (Format format : {Format::kFloat32, Format::kFloat16, Format::kBFloat16})
        check_plain(count, record, random, format);
    for (Format format : {Format::kMxfp4, Format::kMxfp8})
        check_packed(count, record, random, format, Number::kFloat32, 32);
    for (Format format : {Format::kAffine4, Format::kAffine6, Format::kAffine8})
        for (Number number : {Number::kFloat32, Number::kFloat16, Number::kBFloat16})
            for (int group : {32, 64, 128}) check_packed(count, record, random, format, number, group);
    for (Format format : {Format::kMxfp4, Format::kAffine4, Format::kAffine8})
        for (float spoilt : {NAN, INFINITY, -INFINITY}) check_spoilt(count, random, format, spoilt);
}

}  // namespace check
