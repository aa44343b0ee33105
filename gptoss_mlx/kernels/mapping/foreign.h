// MLX arrays over memory that MLX did not allocate.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "mlx/mlx.h"

namespace gptoss {

namespace mx = mlx::core;

// What MLX keeps in front of an array's first byte on the CPU: a buffer's address is that of its size (a size_t),
// and Buffer::raw_ptr() is 8 more.
constexpr int64_t kSizeField = sizeof(size_t);

// Bytes of an array. Throws std::invalid_argument for lengths that MLX has no arrays of.
int64_t bytes_of(const std::vector<int64_t>& shape, int64_t itemsize);

// Memory as an array in row-major order, without a copy. The numbers begin `offset` bytes behind the size field at
// `buffer`, a multiple of the item size; `owner` is let go of when the last array over them goes.
mx::array foreign_array(void* buffer, int64_t offset, const std::vector<int64_t>& shape, mx::Dtype dtype,
                        std::shared_ptr<const void> owner);

}  // namespace gptoss
