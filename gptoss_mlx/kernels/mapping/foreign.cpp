#include "mapping/foreign.h"

#include <limits>
#include <stdexcept>
#include <string>

namespace gptoss {

int64_t bytes_of(const std::vector<int64_t>& shape, int64_t itemsize) {
    int64_t bytes = itemsize;
    for (const int64_t length : shape)
        if (length < 0 || length > std::numeric_limits<mx::ShapeElem>::max() ||
            __builtin_mul_overflow(bytes, length, &bytes))
            throw std::invalid_argument("a length from 0 to 2147483647 expected, " + std::to_string(length) + " found");
    return bytes;
}

mx::array foreign_array(void* buffer, int64_t offset, const std::vector<int64_t>& shape, mx::Dtype dtype,
                        std::shared_ptr<const void> owner) {
    // MLX copies what array(void*, ...) is given, since its CPU allocator makes no buffers of foreign memory. A Data
    // with a deleter of its own avoids that. It is sound because of what MLX does with such a buffer:
    // - Its data begin 8 bytes behind its address; the array's offset says how far behind that.
    // - Allocator::size(), and nothing else, reads these first 8 bytes as the buffer's size. Size is only asked of
    //   buffers that may be donated, and by Contiguous, which shares a buffer that is no larger than the array and
    //   copies else. In a safetensors file they hold the header's length: right in both cases.
    // - Only Data that malloc made is owned; other Data is never donated, so no operation writes its result there,
    //   and is not handed to Allocator::free(), which would put it into MLX's cache, but to the deleter.
    auto deleter = [owner = std::move(owner)](mx::allocator::Buffer) {};
    const mx::Shape lengths(shape.begin(), shape.end());
    const mx::array whole(mx::allocator::Data(mx::allocator::Buffer(buffer), deleter), lengths, dtype);
    mx::array part(lengths, dtype, nullptr, {});
    part.copy_shared_buffer(whole, whole.strides(), whole.flags(), whole.data_size(),
                            offset / int64_t(mx::size_of(dtype)));
    part.set_status(mx::array::Status::available);
    return part;
}

}  // namespace gptoss
