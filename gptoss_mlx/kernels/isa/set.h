// The whole set of kernels of one instruction set; included by one translation unit per set.
#pragma once

#include "experts/swiglu.h"
#include "product/integer_product.h"

namespace gptoss::GPTOSS_ISA {

inline Kernels make_set(const char* name, const char* words) {
    return Kernels{
        name,
        words,
        {arrange, product, product_scratch, kStrip, has_integer, rounded_bytes, round_row, strip_product,
         strip_scratch},
        swiglu_row,
    };
}

}  // namespace gptoss::GPTOSS_ISA
