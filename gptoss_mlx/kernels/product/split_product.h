// Matrix products of few rows in integers, for AVX-512 with its dot product of bytes. Activations are rounded to 24
// bits, which is as good as float32, and split into bytes, so that three byte products give what one of 24 bits would:
// x = 65536 * high + 256 * middle + low. Codes stay as they lie in memory, rows are read one after the other, and a
// result does not depend on the number of rows.
//
// A vector holds 64 bytes of a row, in four chunks of 16. Four vectors are taken together and transposed, so that each
// 32-bit lane gets the four quarters of one chunk, one after the other: 16 chunks then add up in integers, exactly,
// before they meet their scales. Activations lie in memory transposed likewise.
//
// Codes are unsigned here. MXFP4's are twice the value plus 12; what that adds is in the sums' start already. What the
// biases of affine formats add follows from the sums of activations over each group.
#pragma once

#include "product/float_product.h"
#include "product/rounding.h"

namespace gptoss::GPTOSS_ISA {

constexpr int kVectorBytes = 64;
constexpr int kTogether = 4;       // vectors that are transposed
constexpr int kPlanes = 3;         // high, middle and low bytes
constexpr int64_t kAhead = 12288;  // bytes

inline bool has_split(Format format, int group) { return has_integer(format, group); }

constexpr int vector_codes(Format format) { return format == Format::kAffine8 ? 64 : 128; }
constexpr int parts_of(Format format) { return format == Format::kAffine8 ? 1 : 2; }  // even and odd nibbles
constexpr bool is_centred(Format format) { return format == Format::kMxfp4; }

// Vectors of activations that meet `vectors` vectors of codes: for centred formats the sums' start, then by quarter,
// plane and part.
constexpr int64_t start_bytes(Format format) { return is_centred(format) ? kPlanes * kVectorBytes : 0; }
constexpr int64_t step_bytes(Format format, int vectors) {
    return start_bytes(format) + vectors * kPlanes * parts_of(format) * kVectorBytes;
}

// A rounded row in memory: its scale, its sums over each group (of affine formats; zeros follow, so that whole vectors
// may be read), then activations by four vectors of codes, the last few of a row each by itself.
struct Split {
    float scale;
    const float* sums;
    const int8_t* bytes;
};

inline int64_t split_head(int64_t cols, int group) { return 64 + padded(cols / group, kLanes) * 4; }

inline int64_t split_bytes(int64_t cols, int group) {
    const int64_t vectors = padded(cols, 64) / 64;  // enough for all formats
    return split_head(cols, group) + vectors * step_bytes(Format::kMxfp4, 1);
}

inline Split split_at(const uint8_t* p, int64_t cols, int group) {
    const auto* floats = reinterpret_cast<const float*>(p);
    return {floats[0], floats + 16, reinterpret_cast<const int8_t*>(p + split_head(cols, group))};
}

// Lane 4l + v of out[j] is lane 4l + j of in[v].
inline void transpose_chunks(__m512i* x) {
    const __m512i a = _mm512_unpacklo_epi32(x[0], x[1]), b = _mm512_unpackhi_epi32(x[0], x[1]);
    const __m512i c = _mm512_unpacklo_epi32(x[2], x[3]), d = _mm512_unpackhi_epi32(x[2], x[3]);
    x[0] = _mm512_unpacklo_epi64(a, c);
    x[1] = _mm512_unpackhi_epi64(a, c);
    x[2] = _mm512_unpacklo_epi64(b, d);
    x[3] = _mm512_unpackhi_epi64(b, d);
}

// sum + products of 4 bytes each, by hand: compilers copy the sums before and after.
inline __m512i byte_dot(__m512i sum, __m512i codes, __m512i x) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(x));
    return sum;
}

// 64 whole numbers to their bytes, each of which is signed and carries into the next: planes[0] high, [2] low.
inline void split_values(const __m512i* values, __m512i* planes) {
    alignas(64) int8_t bytes[kPlanes][64];
    for (int i = 0; i < 4; ++i) {
        const __m512i half = _mm512_set1_epi32(128);
        const __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(values[i], half), 8);
        const __m512i top = _mm512_srai_epi32(_mm512_add_epi32(upper, half), 8);
        _mm_store_si128(reinterpret_cast<__m128i*>(bytes[0] + 16 * i), _mm512_cvtepi32_epi8(top));
        _mm_store_si128(reinterpret_cast<__m128i*>(bytes[1] + 16 * i), _mm512_cvtepi32_epi8(upper));
        _mm_store_si128(reinterpret_cast<__m128i*>(bytes[2] + 16 * i), _mm512_cvtepi32_epi8(values[i]));
    }
    for (int plane = 0; plane < kPlanes; ++plane) planes[plane] = _mm512_load_si512(bytes[plane]);
}

// The activations that one vector of codes meets: planes[part][plane]. Nibble formats have even values first, as their
// codes unpack. Their sum over each group is added to sums.
inline void split_vector(Format format, const float* x, int64_t count, F inverse, int group, float* sums,
                         __m512i (*planes)[kPlanes]) {
    const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
    const int parts = parts_of(format);
    alignas(64) float values[128] = {};
    std::memcpy(values, x, count * 4);
    __m512i whole[8], ordered[8];
    for (int i = 0; i < 4 * parts; ++i) whole[i] = _mm512_cvtps_epi32(mul(load(values + 16 * i), inverse));
    for (int half = 0; half < count; half += 32)
        sums[half / group] += float(_mm512_reduce_add_epi32(_mm512_add_epi32(whole[half / 16], whole[half / 16 + 1])));
    for (int i = 0; i < 4 * parts; ++i)
        ordered[i] = parts == 1
                         ? whole[i]
                         : _mm512_permutex2var_epi32(whole[2 * i % 8], i < 4 ? evens : odds, whole[2 * i % 8 + 1]);
    for (int part = 0; part < parts; ++part) split_values(ordered + 4 * part, planes[part]);
}

// `vectors` vectors of activations, 1 or kTogether of them, to memory.
inline int8_t* place_planes(Format format, __m512i (*planes)[2][kPlanes], int vectors, int8_t* out) {
    const int parts = parts_of(format);
    __m512i starts[kPlanes] = {};
    auto* at = reinterpret_cast<__m512i*>(out + start_bytes(format));
    for (int plane = 0; plane < kPlanes; ++plane)
        for (int part = 0; part < parts; ++part) {
            __m512i quarters[kTogether];
            for (int v = 0; v < vectors; ++v) quarters[v] = planes[v][part][plane];
            if (vectors == kTogether) transpose_chunks(quarters);
            for (int j = 0; j < vectors; ++j) {
                at[(j * kPlanes + plane) * parts + part] = quarters[j];
                starts[plane] = byte_dot(starts[plane], _mm512_set1_epi8(12), quarters[j]);
            }
        }
    for (int plane = 0; is_centred(format) && plane < kPlanes; ++plane)
        reinterpret_cast<__m512i*>(out)[plane] = _mm512_sub_epi32(_mm512_setzero_si512(), starts[plane]);
    return out + step_bytes(format, vectors);
}

inline void split_row(Format format, int group, const float* x, int64_t cols, uint8_t* out) {
    const float scale = rounding_step(x, cols, 8355000.0f);  // so that the high byte stays within 127
    const F inverse = set1(1.0f / scale);
    auto* floats = reinterpret_cast<float*>(out);
    auto* bytes = reinterpret_cast<int8_t*>(out + split_head(cols, group));
    const bool finite = scale == scale;
    std::memset(out, 0, finite ? split_head(cols, group) : split_bytes(cols, group));
    floats[0] = scale;
    const int64_t codes = vector_codes(format);
    for (int64_t start = 0; finite && start < cols;) {
        const int vectors = start + kTogether * codes <= cols ? kTogether : 1;
        __m512i planes[kTogether][2][kPlanes];
        for (int v = 0; v < vectors; ++v, start += codes)
            split_vector(format, x + start, cols - start < codes ? cols - start : codes, inverse, group,
                         floats + 16 + start / group, planes[v]);
        bytes = place_planes(format, planes, vectors, bytes);
    }
}

// A row is taken in spans of 16 groups, whose scales fill one vector. Which of these scales belongs to each lane: of
// four transposed vectors, and of one by itself.
template <Format format, int group>
struct Span {
    static constexpr int kCodes = vector_codes(format);
    static constexpr int kVectors = 16 * group / kCodes;

    alignas(64) int32_t together[kVectors / kTogether][16];
    alignas(64) int32_t single[kVectors][16];

    constexpr Span() : together{}, single{} {
        for (int v = 0; v < kVectors; ++v)
            for (int lane = 0; lane < 16; ++lane) {
                const int chunk = v / kTogether * 16 + lane % 4 * 4 + lane / 4;
                together[v / kTogether][lane] = chunk * kCodes / 4 / group;
                single[v][lane] = (v * kCodes + lane * kCodes / 16) / group;
            }
    }
};

template <Format format, int group>
inline constexpr Span<format, group> kSpanOf{};

inline F masked_numbers(Number number, const uint8_t* p, int64_t i, __mmask16 mask) {
    if (number == Number::kFloat32) return _mm512_maskz_loadu_ps(mask, p + 4 * i);
    const __m256i halves = _mm256_maskz_loadu_epi16(mask, p + 2 * i);
    if (number == Number::kFloat16) return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

// Scales of 16 groups, fewer where the mask says so; MXFP4's halved, as its codes are doubled.
template <Format format>
inline F span_scales(const Matrix& matrix, int64_t first, __mmask16 mask) {
    if constexpr (format != Format::kMxfp4) return masked_numbers(matrix.number, matrix.scales, first, mask);
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, matrix.scales + first));
    const __m512i bits = _mm512_max_epi32(_mm512_slli_epi32(bytes, 23), _mm512_set1_epi32(0x00400000));
    return mul(_mm512_castsi512_ps(bits), set1(0.5f));
}

// One load: compilers would repeat it for each use.
inline __m512i load_codes(const uint8_t* p) {
    __m512i raw = _mm512_loadu_si512(p);
    asm("" : "+v"(raw));
    return raw;
}

// One vector of codes as unsigned bytes: even and odd nibbles, or the bytes themselves in the first.
template <Format format>
inline void unpack(__m512i raw, __m512i* codes) {
    codes[0] = raw;
    if constexpr (format == Format::kAffine8) return;
    const __m512i mask = _mm512_set1_epi8(15);
    codes[0] = _mm512_and_si512(raw, mask);
    codes[1] = _mm512_and_si512(_mm512_srli_epi16(raw, 4), mask);
    if constexpr (format == Format::kMxfp4) {
        const __m128i values = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
        const __m512i table = _mm512_broadcast_i32x4(values);
        codes[0] = _mm512_shuffle_epi8(table, codes[0]);
        codes[1] = _mm512_shuffle_epi8(table, codes[1]);
    }
}

// What V vectors of codes from each of R rows, transposed if they are four, add to their sums with M rows of
// activations, which begin at x[m].
template <Format format, int V, int R, int M>
inline void add_vectors(const __m512i (*raw)[V], const F* scales, const int8_t* const* x, F (*sums)[M]) {
    constexpr int kParts = parts_of(format);
    __m512i products[R][M][kPlanes];
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 3
        for (int plane = 0; plane < kPlanes; ++plane) {
            const __m512i start =
                is_centred(format) ? _mm512_load_si512(x[m] + plane * kVectorBytes) : _mm512_setzero_si512();
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) products[r][m][plane] = start;
        }
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) {
        __m512i codes[R][2];
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) unpack<format>(raw[r][j], codes[r]);
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 6
            for (int i = 0; i < kPlanes * kParts; ++i) {
                __m512i some =
                    _mm512_load_si512(x[m] + start_bytes(format) + (j * kPlanes * kParts + i) * kVectorBytes);
                if constexpr (R > 1) asm("" : "+v"(some));  // one load for all rows
#pragma GCC unroll 4
                for (int r = 0; r < R; ++r) {
                    __m512i& sum = products[r][m][i / kParts];
                    sum = byte_dot(sum, codes[r][i % kParts], some);
                }
            }
    }
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            const __m512i* planes = products[r][m];
            const F upper = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(planes[0], 8), planes[1]));
            const F sum = fma(upper, set1(256.0f), _mm512_cvtepi32_ps(planes[2]));
            sums[r][m] = fma(sum, scales[r], sums[r][m]);
        }
}

// Rows n to n + R - 1 of a matrix on their way through M rows of activations. They are worked on together, since they
// share the loads of activations, yet asked for ahead in the order of memory, a line per vector: that is how memory
// streams fastest. The second-level cache takes them; in the first they would push the activations out.
template <Format format, int group, int R, int M>
class SplitDot {
  public:
    SplitDot(const Matrix& matrix, int64_t n, const Split* x)
        : codes_(matrix.codes + n * matrix.row_bytes),
          ahead_(reinterpret_cast<const char*>(codes_) + kAhead),
          row_bytes_(matrix.row_bytes) {
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) x_[m] = x[m].bytes;
    }

    // The next V vectors of each row; the last bytes of a row may be fewer.
    template <int V>
    inline void add(const F* scales, const int32_t* lanes, F (*sums)[M], int64_t bytes = V * kVectorBytes) {
        __m512i raw[R][V];
        F own[R];
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            const uint8_t* row = codes_ + r * row_bytes_;
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v, ahead_ += kVectorBytes) {
                _mm_prefetch(ahead_, _MM_HINT_T1);
                raw[r][v] = bytes == V * kVectorBytes ? load_codes(row + v * kVectorBytes)
                                                      : _mm512_maskz_loadu_epi8((1ull << bytes) - 1, row);
            }
            if constexpr (V == kTogether) transpose_chunks(raw[r]);
            own[r] = _mm512_permutexvar_ps(_mm512_load_si512(lanes), scales[r]);
        }
        add_vectors<format, V, R, M>(raw, own, x_, sums);
        codes_ += V * kVectorBytes;
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) x_[m] += step_bytes(format, V);
    }

  private:
    const uint8_t* codes_;
    const char* ahead_;
    int64_t row_bytes_;
    const int8_t* x_[M];
};

// y[r][m] of the rows n to n + R - 1.
template <Format format, int group, int R, int M>
inline void split_dot(const Matrix& matrix, int64_t n, const Split* x, float (*y)[M]) {
    using Shape = Span<format, group>;
    const auto& lanes = kSpanOf<format, group>;
    const int64_t groups = matrix.cols / group;
    SplitDot<format, group, R, M> rows(matrix, n, x);
    F sums[R][M];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) sums[r][m] = zero();
    for (int64_t g = 0; g < groups; g += 16) {
        const int64_t have = groups - g < 16 ? groups - g : 16;
        const auto mask = __mmask16((1u << have) - 1);
        F scales[R];
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            scales[r] = span_scales<format>(matrix, (n + r) * groups + g, mask);
            if constexpr (is_centred(format)) continue;
            const F offsets = masked_numbers(matrix.number, matrix.biases, (n + r) * groups + g, mask);
#pragma GCC unroll 4
            for (int m = 0; m < M; ++m) sums[r][m] = fma(offsets, load(x[m].sums + g), sums[r][m]);
        }
        int64_t bytes = have * group * kVectorBytes / Shape::kCodes;
        int v = 0;
        for (; bytes >= kTogether * kVectorBytes; bytes -= kTogether * kVectorBytes, v += kTogether)
            rows.template add<kTogether>(scales, lanes.together[v / kTogether], sums);
        for (; bytes >= kVectorBytes; bytes -= kVectorBytes, ++v) rows.template add<1>(scales, lanes.single[v], sums);
        if (bytes > 0) rows.template add<1>(scales, lanes.single[v], sums, bytes);  // activations are 0 beyond the end
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) y[r][m] = sum(sums[r][m]);
}

template <Format format, int group, int R, int M>
inline int64_t split_some(const Matrix& matrix, int64_t n, int64_t last, const Split* x, float* const* y) {
    for (; n + R <= last; n += R) {
        float results[R][M];
        split_dot<format, group, R, M>(matrix, n, x, results);
        for (int r = 0; r < R; ++r) {
            const float bias = matrix.bias != nullptr ? matrix.bias[n + r] : 0.0f;
            for (int m = 0; m < M; ++m) y[m][n + r] = results[r][m] * x[m].scale + bias;
        }
    }
    return n;
}

template <Format format, int group, int M>
void split_rows(const Matrix& matrix, int64_t first, int64_t last, const Split* x, float* const* y) {
    // as many rows as registers hold; codes of a byte take so little work that one alone waits for memory
    constexpr int kRows = M > 1 ? 2 : format == Format::kAffine8 ? 1 : 3;
    first = split_some<format, group, kRows, M>(matrix, first, last, x, y);
    split_some<format, group, 1, M>(matrix, first, last, x, y);
}

// Activations in pairs: more of them would leave the first-level cache, and the work for a pair is mostly products.
template <Format format, int group>
void split_blocks(const Matrix& matrix, int64_t first, int64_t last, const uint8_t* const* x, int64_t count,
                  float* const* y) {
    for (int64_t m = 0; m < count; m += 2) {
        const Split pair[2] = {split_at(x[m], matrix.cols, group),
                               split_at(x[m + 1 < count ? m + 1 : m], matrix.cols, group)};
        if (m + 1 < count)
            split_rows<format, group, 2>(matrix, first, last, pair, y + m);
        else
            split_rows<format, group, 1>(matrix, first, last, pair, y + m);
    }
}

template <Format format>
void split_groups(const Matrix& matrix, int64_t first, int64_t last, const uint8_t* const* x, int64_t count,
                  float* const* y) {
    if (matrix.group == 32) return split_blocks<format, 32>(matrix, first, last, x, count, y);
    if constexpr (format != Format::kMxfp4) {
        if (matrix.group == 64) return split_blocks<format, 64>(matrix, first, last, x, count, y);
        return split_blocks<format, 128>(matrix, first, last, x, count, y);
    }
}

// y[m][n] = x[m] . row n + bias[n] for n in [first, last); rows of x split.
inline void split_product(const Matrix& matrix, int64_t first, int64_t last, const uint8_t* const* x, int64_t count,
                          float* const* y) {
    if (matrix.format == Format::kMxfp4) return split_groups<Format::kMxfp4>(matrix, first, last, x, count, y);
    if (matrix.format == Format::kAffine4) return split_groups<Format::kAffine4>(matrix, first, last, x, count, y);
    split_groups<Format::kAffine8>(matrix, first, last, x, count, y);
}

}  // namespace gptoss::GPTOSS_ISA
