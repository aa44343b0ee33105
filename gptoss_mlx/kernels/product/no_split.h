// For instruction sets without the split form of products: it is never asked for.
#pragma once

#include "common/matrix.h"

namespace gptoss::GPTOSS_ISA {

inline bool has_split(Format, int) { return false; }

constexpr decltype(ProductKernels::split_bytes) split_bytes = nullptr;
constexpr decltype(ProductKernels::split) split_row = nullptr;
constexpr decltype(ProductKernels::split_product) split_product = nullptr;

}  // namespace gptoss::GPTOSS_ISA
