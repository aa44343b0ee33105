// Keys and values of one block as floats, however they are stored. Compiled once per instruction set.
//
// Codes become the same floats whether they are expanded in registers or for all tiles of rows beforehand.
#pragma once

#include "attention/tile.h"
#include "isa/simd.h"

namespace gptoss::GPTOSS_ISA {

constexpr bool is_packed(Format format) { return format == Format::kAffine8 || format == Format::kAffine4; }
constexpr int64_t bytes_of(Format plain) { return plain == Format::kFloat32 ? 4 : 2; }
constexpr int64_t groups_of(int64_t width) { return padded(width, kGroup) / kGroup; }

// The vectors of a block, the first at index 0.
struct Source {
    const uint8_t* data;
    int64_t stride;                 // from one to the next, in bytes
    const float* scales = nullptr;  // of codes, `groups` for each vector
    const float* biases = nullptr;
    int64_t groups = 0;
};

// kLanes numbers, or codes, from the i-th on.
template <Format format>
inline F load_numbers(const uint8_t* p, int64_t i) {
    if constexpr (format == Format::kFloat32) return load(reinterpret_cast<const float*>(p) + i);
    if constexpr (format == Format::kFloat16) return load_f16(reinterpret_cast<const uint16_t*>(p) + i);
    if constexpr (format == Format::kBFloat16) return load_bf16(reinterpret_cast<const uint16_t*>(p) + i);
    if constexpr (format == Format::kAffine8) return load_u8(p + i);
    if constexpr (format == Format::kAffine4) return load_nibbles(p + i / 2);
}

// One vector of a block, kLanes numbers at a time.
template <Format format>
class Reader {
  public:
    Reader() = default;
    Reader(const Source& from, int64_t index) : data_(from.data + index * from.stride) {
        if constexpr (is_packed(format)) scales_ = from.scales + index * from.groups;
        if constexpr (is_packed(format)) biases_ = from.biases + index * from.groups;
    }

    F load(int64_t i) const {
        F numbers = load_numbers<format>(data_, i);
        if constexpr (is_packed(format)) numbers = fma(numbers, set1(scales_[i / kGroup]), set1(biases_[i / kGroup]));
        return numbers;
    }

  private:
    const uint8_t* data_;
    const float *scales_, *biases_;
};

// Any vector of plain numbers to floats, the rest of `wide` zero.
template <Format format>
inline void widen(const uint8_t* p, int64_t step, int64_t width, int64_t wide, float* out) {
    int64_t i = 0;
    if (step == 1)
        for (; i + kLanes <= width; i += kLanes) store(out + i, load_numbers<format>(p, i));
    for (; i < width; i += kLanes) {
        constexpr int64_t bytes = bytes_of(format);
        alignas(64) uint8_t buffer[kLanes * 4] = {};
        alignas(64) float floats[kLanes];
        const int64_t count = width - i < kLanes ? width - i : kLanes;
        for (int64_t j = 0; j < count; ++j) std::memcpy(buffer + j * bytes, p + (i + j) * step * bytes, bytes);
        store(floats, load_numbers<format>(buffer, 0));
        std::memcpy(out + i, floats, count * sizeof(float));
    }
    for (i = width; i < wide; ++i) out[i] = 0.0f;
}

// The groups' numbers of vectors [first, last).
inline void widen_groups(const Groups& from, int64_t first, int64_t last, int64_t groups, float* out) {
    const bool dense = from.stride == groups;
    const int64_t count = dense ? (last - first) * groups : groups;
    for (int64_t j = first; j < last; j += dense ? last - first : 1, out += count)
        widen<Format::kFloat16>(reinterpret_cast<const uint8_t*>(from.data + j * from.stride), 1, count, count, out);
}

// Floats that `source_of` needs.
constexpr int64_t source_space(int64_t keys, int64_t width) { return 2 * keys * groups_of(width); }

// Vectors [first, last) where they are; what belongs to groups goes to `space`.
inline Source source_of(const Vectors& from, int64_t first, int64_t last, int64_t width, float* space) {
    Source source{from.data + first * from.stride, from.stride};
    if (!is_packed(from.format)) return source;
    source.groups = groups_of(width);
    float* biases = space + (last - first) * source.groups;
    widen_groups(from.scales, first, last, source.groups, space);
    widen_groups(from.biases, first, last, source.groups, biases);
    source.scales = space, source.biases = biases;
    return source;
}

template <Format format>
inline void widen_all(const Source& from, int64_t step, int64_t count, int64_t width, int64_t wide, float* out) {
    for (int64_t j = 0; j < count; ++j, out += wide) {
        if constexpr (is_packed(format)) {  // whole groups, so width == wide
            const Reader<format> reader(from, j);
            for (int64_t i = 0; i < width; i += kLanes) store(out + i, reader.load(i));
        } else {
            widen<format>(from.data + j * from.stride, step, width, wide, out);
        }
    }
}

// `count` vectors as floats, each filled up to `wide`.
inline Source widened(const Source& from, const Vectors& kind, int64_t count, int64_t width, int64_t wide, float* out) {
    switch (kind.format) {
        case Format::kFloat16:
            widen_all<Format::kFloat16>(from, kind.step, count, width, wide, out);
            break;
        case Format::kBFloat16:
            widen_all<Format::kBFloat16>(from, kind.step, count, width, wide, out);
            break;
        case Format::kAffine8:
            widen_all<Format::kAffine8>(from, kind.step, count, width, wide, out);
            break;
        case Format::kAffine4:
            widen_all<Format::kAffine4>(from, kind.step, count, width, wide, out);
            break;
        default:
            widen_all<Format::kFloat32>(from, kind.step, count, width, wide, out);
    }
    return {reinterpret_cast<const uint8_t*>(out), wide * int64_t(sizeof(float))};
}

}  // namespace gptoss::GPTOSS_ISA
