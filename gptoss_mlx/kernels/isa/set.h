// The whole set of kernels of one instruction set; included by one translation unit per set.
#pragma once

#include "attention/attention_kernel.h"
#include "experts/swiglu.h"
#include "norm/norm_kernel.h"
#include "product/integer_product.h"
#ifdef GPTOSS_AVX512
#include "product/split_product.h"
#elif defined(GPTOSS_BYTES)
#include "product/split_dotprod.h"
#else
#include "product/no_split.h"
#endif
#include "rope/rope_kernel.h"

namespace gptoss::GPTOSS_ISA {

inline Kernels make_set(const char* name, const char* words) {
    return Kernels{
        name,
        words,
        {arrange, product, product_scratch, has_split, split_bytes, split_row, split_product, kStrip, has_integer,
         rounded_bytes, round_row, strip_product, strip_scratch},
        swiglu_row,
        {tile_floats, attention_space, attend_split, begin_tile, fold_tile, finish_row},
        norm_row,
        {convert_row, turn_row},
    };
}

}  // namespace gptoss::GPTOSS_ISA
