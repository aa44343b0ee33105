// One vocabulary of vector operations for all instruction sets. A translation unit sets GPTOSS_ISA to the name of
// its namespace and one of GPTOSS_AVX512, GPTOSS_AVX2, GPTOSS_NEON or GPTOSS_PORTABLE, and is compiled with that
// set's flags; everything that it defines lives in its own namespace, so that no function compiled for a newer
// processor can be linked into code for an older one. For the same reason nothing here uses the standard library's
// templates.
//
//   F                    kLanes floats
//   fma(a, b, c)         a * b + c; round() to nearest whole, ties to even; scale2(x, n) x * 2^n for whole n
//   sum(x), sums(x[kLanes])  the sum of a vector's lanes; in lane i the sum of vector i's lanes
//   load_bf16, load_f16, load_u8, load_exponents (2^(byte - 127)): kLanes numbers to floats
//   load_nibbles         kLanes packed codes of four bits to floats, in their order
//   load_fp4, load_u4, load_u6, load_fp8: 16 packed codes to 16 / kLanes vectors; nibbles in the order kNibbleOrder
//   I, int_dot           kLanes sums of 32 bits, each over pairs of 16-bit numbers
#pragma once

#if defined(GPTOSS_AVX512)
#include "isa/avx512.h"
#elif defined(GPTOSS_AVX2)
#include "isa/avx2.h"
#elif defined(GPTOSS_NEON)
#include "isa/neon.h"
#else
#include "isa/portable.h"
#endif

namespace gptoss::GPTOSS_ISA {

constexpr int kUnit = 16;                 // codes that are expanded together
constexpr int kVectors = kUnit / kLanes;  // vectors that they fill

constexpr int64_t padded(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

// e^x to 1.2e-7 of it (Cephes' polynomial for |r| <= ln(2) / 2); 0 below -87.3, 2^127 and a bit above 88.
inline F exp(F x) {
    x = min(max(x, set1(-104.0f)), set1(88.3762626647949f));
    const F n = round(mul(x, set1(1.44269504088896341f)));
    F r = fma(n, set1(-0.693359375f), x);
    r = fma(n, set1(2.12194440e-4f), r);
    F p = set1(1.9875691500e-4f);
    p = fma(p, r, set1(1.3981999507e-3f));
    p = fma(p, r, set1(8.3334519073e-3f));
    p = fma(p, r, set1(4.1665795894e-2f));
    p = fma(p, r, set1(1.6666665459e-1f));
    p = fma(p, r, set1(5.0000001201e-1f));
    p = fma(mul(p, r), r, add(r, set1(1.0f)));
    return scale2(p, n);
}

}  // namespace gptoss::GPTOSS_ISA
