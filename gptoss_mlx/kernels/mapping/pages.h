// Fresh memory for large arrays: zeros that take no memory before they are written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "mlx/mlx.h"

namespace gptoss {

namespace mx = mlx::core;

// Zeros (shape) for native operations to write in place. The system gives their pages when they are first touched, and
// takes them back when the last array over them goes. Large pages are asked for: what reads long stretches of memory
// then waits less for addresses to be looked up, and hardware that looks ahead, which stops at a page's end, sees
// further.
//
// Throws std::bad_alloc where there is no memory, std::invalid_argument for a shape that MLX has no arrays of.
mx::array fresh_pages(const std::vector<int64_t>& shape, mx::Dtype dtype);

// Bytes of all such arrays that are there, written or not: MLX does not count them.
size_t page_bytes();

}  // namespace gptoss
