// Vectors of 4 floats for Arm NEON (64-bit). See simd.h for what each name promises. Without GPTOSS_BYTES also the
// integer tiles of 16-bit pairs; with it product/integer_bytes.h has those of bytes.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace gptoss::GPTOSS_ISA {

using F = float32x4_t;
constexpr int kLanes = 4;
constexpr int kRowBlock = 4;
constexpr int kTileRows = 2;
constexpr int kTileCols = 3;

inline F zero() { return vdupq_n_f32(0); }
inline F set1(float x) { return vdupq_n_f32(x); }
inline F load(const float* p) { return vld1q_f32(p); }
inline void store(float* p, F x) { vst1q_f32(p, x); }
inline F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
inline F add(F a, F b) { return vaddq_f32(a, b); }
inline F sub(F a, F b) { return vsubq_f32(a, b); }
inline F mul(F a, F b) { return vmulq_f32(a, b); }
inline F div(F a, F b) { return vdivq_f32(a, b); }
inline F min(F a, F b) { return vminq_f32(a, b); }
inline F max(F a, F b) { return vmaxq_f32(a, b); }
inline F abs(F a) { return vabsq_f32(a); }
inline F round(F a) { return vrndnq_f32(a); }
inline F scale2(F x, F n) {  // in two steps, so that results below the normal range come out as well
    const int32x4_t whole = vcvtnq_s32_f32(n), half = vshrq_n_s32(whole, 1), rest = vsubq_s32(whole, half);
    const int32x4_t bias = vdupq_n_s32(127);
    const F first = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23));
    const F second = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(rest, bias), 23));
    return mul(mul(x, first), second);
}
inline float sum(F x) { return vpadds_f32(vadd_f32(vget_low_f32(x), vget_high_f32(x))); }
inline F sums(const F* x) {
    float64x2_t r[4];
    for (int i = 0; i < 4; ++i) r[i] = vreinterpretq_f64_f32(x[i]);
    const F a = add(vreinterpretq_f32_f64(vzip1q_f64(r[0], r[1])), vreinterpretq_f32_f64(vzip2q_f64(r[0], r[1])));
    const F b = add(vreinterpretq_f32_f64(vzip1q_f64(r[2], r[3])), vreinterpretq_f32_f64(vzip2q_f64(r[2], r[3])));
    return vpaddq_f32(a, b);
}
inline float largest(F x) { return vmaxvq_f32(x); }

inline uint32x4_t load_bytes(const uint8_t* p) {
    uint32_t bytes;
    std::memcpy(&bytes, p, 4);
    return vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes))));
}
inline F load_bf16(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
inline F load_f16(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
inline void store_bf16(uint16_t* p, F x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    vst1_u16(p, vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, vdupq_n_u32(0x7fc00000)), 16));
}
inline void store_f16(uint16_t* p, F x) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x))); }
inline F load_u8(const uint8_t* p) { return vcvtq_f32_u32(load_bytes(p)); }
inline F load_exponents(const uint8_t* p) {
    return vreinterpretq_f32_u32(vmaxq_u32(vshlq_n_u32(load_bytes(p), 23), vdupq_n_u32(0x00400000)));
}

constexpr int kNibbleOrder[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

inline uint8x16_t spread_nibbles(const uint8_t* p) {
    const uint8x8_t bytes = vld1_u8(p), even = vand_u8(bytes, vdup_n_u8(15)), odd = vshr_n_u8(bytes, 4);
    return vcombine_u8(vzip1_u8(even, odd), vzip2_u8(even, odd));
}
inline F load_nibbles(const uint8_t* p) {
    static constexpr int32_t shifts[4] = {0, -4, -8, -12};
    uint16_t codes;
    std::memcpy(&codes, p, 2);
    const uint32x4_t spread = vshlq_u32(vdupq_n_u32(codes), vld1q_s32(shifts));
    return vcvtq_f32_u32(vandq_u32(spread, vdupq_n_u32(15)));
}
inline void widen_f16(uint16x8_t low, uint16x8_t high, F* out) {
    out[0] = vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(low)));
    out[1] = vcvt_high_f32_f16(vreinterpretq_f16_u16(low));
    out[2] = vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(high)));
    out[3] = vcvt_high_f32_f16(vreinterpretq_f16_u16(high));
}
inline void widen_u8(uint8x16_t bytes, F* out) {
    const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
    out[0] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(low)));
    out[1] = vcvtq_f32_u32(vmovl_high_u16(low));
    out[2] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(high)));
    out[3] = vcvtq_f32_u32(vmovl_high_u16(high));
}
inline void load_fp4(const uint8_t* p, F* out) {  // the high bytes of the values as halves; the low ones are zero
    static constexpr uint8_t halves[16] = {0x00, 0x38, 0x3c, 0x3e, 0x40, 0x42, 0x44, 0x46,
                                           0x80, 0xb8, 0xbc, 0xbe, 0xc0, 0xc2, 0xc4, 0xc6};
    const uint8x16_t high = vqtbl1q_u8(vld1q_u8(halves), spread_nibbles(p)), low = vdupq_n_u8(0);
    widen_f16(vreinterpretq_u16_u8(vzip1q_u8(low, high)), vreinterpretq_u16_u8(vzip2q_u8(low, high)), out);
}
inline void load_u4(const uint8_t* p, F* out) { widen_u8(spread_nibbles(p), out); }
inline void load_u6(const uint8_t* p, F* out) {  // 16 values in 12 bytes, lowest bits first
    uint32_t rest;
    std::memcpy(&rest, p + 8, 4);
    const uint8x16_t bytes = vcombine_u8(vld1_u8(p), vcreate_u8(rest));
    static constexpr uint8_t from[16] = {0, 1, 2, 255, 0, 1, 2, 255, 0, 1, 2, 255, 0, 1, 2, 255};
    static constexpr int32_t shifts[4] = {0, -6, -12, -18};
    for (int i = 0; i < 4; ++i) {  // four values are 24 bits; 255 takes a zero
        const uint8x16_t index = vqaddq_u8(vld1q_u8(from), vdupq_n_u8(uint8_t(3 * i)));
        const uint32x4_t word = vreinterpretq_u32_u8(vqtbl1q_u8(bytes, index));
        out[i] = vcvtq_f32_u32(vandq_u32(vshlq_u32(word, vld1q_s32(shifts)), vdupq_n_u32(63)));
    }
}
inline void load_fp8(const uint8_t* p, F* out) {  // e4m3: shifted to a half's place, the exponent's bias put right
    const int8x16_t bytes = vreinterpretq_s8_u8(vld1q_u8(p));
    const uint16x8_t keep = vdupq_n_u16(0xbfff);  // all but the copy of the sign beside it
    const uint16x8_t low = vandq_u16(vreinterpretq_u16_s16(vshll_n_s8(vget_low_s8(bytes), 7)), keep);
    const uint16x8_t high = vandq_u16(vreinterpretq_u16_s16(vshll_high_n_s8(bytes, 7)), keep);
    widen_f16(low, high, out);
    for (int i = 0; i < 4; ++i) out[i] = mul(out[i], set1(256.0f));
}

// 16 values to 16-bit numbers by rounding, none out of range.
inline void store_i16(int16_t* p, F x) { vst1_s16(p, vmovn_s32(vcvtnq_s32_f32(x))); }

// Four rows of four dwords to four columns.
inline void transpose_dwords(int8x16_t* rows) {
    int32x4_t r[4];
    for (int i = 0; i < 4; ++i) r[i] = vreinterpretq_s32_s8(rows[i]);
    const int64x2_t a = vreinterpretq_s64_s32(vtrn1q_s32(r[0], r[1])),
                    b = vreinterpretq_s64_s32(vtrn2q_s32(r[0], r[1]));
    const int64x2_t c = vreinterpretq_s64_s32(vtrn1q_s32(r[2], r[3])),
                    d = vreinterpretq_s64_s32(vtrn2q_s32(r[2], r[3]));
    rows[0] = vreinterpretq_s8_s64(vtrn1q_s64(a, c));
    rows[1] = vreinterpretq_s8_s64(vtrn1q_s64(b, d));
    rows[2] = vreinterpretq_s8_s64(vtrn2q_s64(a, c));
    rows[3] = vreinterpretq_s8_s64(vtrn2q_s64(b, d));
}

#ifndef GPTOSS_BYTES

// 4 sums: each is a pair of the eight that are kept apart until the end.
struct I {
    int32x4_t low, high;
};
constexpr int kIntRows = 4;

inline I int_zero() { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
inline int16x8_t int_load(const int16_t* p) { return vld1q_s16(p); }
inline int16x8_t int_pair(const int16_t* p) {
    int32_t pair;
    std::memcpy(&pair, p, 4);
    return vreinterpretq_s16_s32(vdupq_n_s32(pair));
}
inline I int_dot(I sums, int16x8_t a, int16x8_t b) {
    return {vmlal_s16(sums.low, vget_low_s16(a), vget_low_s16(b)), vmlal_high_s16(sums.high, a, b)};
}
inline F int_to_float(I x) { return vcvtq_f32_s32(vpaddq_s32(x.low, x.high)); }
inline void transpose_codes(const int8_t* const* rows, int16_t* const* quarters, int64_t stride) {
    for (int part = 0; part < 4; ++part) {  // 4 dwords at a time
        int8x16_t dwords[4];
        for (int i = 0; i < 4; ++i) dwords[i] = vld1q_s8(rows[i] + 16 * part);
        transpose_dwords(dwords);
        for (int i = 0; i < 4; ++i) {
            int16_t* to = quarters[part] + 2 * i * stride;
            const int16x8_t both = vreinterpretq_s16_s8(dwords[i]);
            vst1q_s16(to, vshrq_n_s16(vshlq_n_s16(both, 8), 8));
            vst1q_s16(to + stride, vshrq_n_s16(both, 8));
        }
    }
}
inline void nibbles_to_codes(const uint8_t* p, const int8_t* table, int8_t* out) {
    const int8x16_t values = vld1q_s8(table);
    for (int i = 0; i < 32; i += 16) {
        const uint8x16_t bytes = vld1q_u8(p + i);
        vst1q_s8(out + i, vqtbl1q_s8(values, vandq_u8(bytes, vdupq_n_u8(15))));
        vst1q_s8(out + 32 + i, vqtbl1q_s8(values, vshrq_n_u8(bytes, 4)));
    }
}

#endif

}  // namespace gptoss::GPTOSS_ISA
