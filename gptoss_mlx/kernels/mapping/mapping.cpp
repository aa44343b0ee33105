#include "mapping/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <stdexcept>
#include <system_error>

namespace gptoss {
namespace {

std::string reason() { return std::generic_category().message(errno); }

struct Descriptor {
    int number;
    explicit Descriptor(const std::string& path) : number(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
    ~Descriptor() {
        if (number >= 0) ::close(number);
    }
};

// What MLX keeps in front of an array's first byte on the CPU: a buffer's address is that of its size (a size_t),
// and Buffer::raw_ptr() is 8 more.
constexpr int64_t kSizeField = sizeof(size_t);

int64_t bytes_of(const std::vector<int64_t>& shape, int64_t itemsize) {
    int64_t bytes = itemsize;
    for (const int64_t length : shape)
        if (length < 0 || length > std::numeric_limits<mx::ShapeElem>::max() ||
            __builtin_mul_overflow(bytes, length, &bytes))
            throw std::invalid_argument("a length from 0 to 2147483647 expected, " + std::to_string(length) + " found");
    return bytes;
}

}  // namespace

std::shared_ptr<Mapping> Mapping::open(const std::string& path) {
    const Descriptor file(path);
    struct stat about{};
    if (file.number < 0 || ::fstat(file.number, &about) != 0) throw std::runtime_error(reason());
    if (!S_ISREG(about.st_mode)) throw std::runtime_error("not a regular file");
    if (about.st_size < kSizeField)
        throw std::runtime_error("truncated to " + std::to_string(about.st_size) + " bytes");
    // Private and writable: should anything write to an array after all (NumPy can, through a view), its process gets
    // a page of its own and the file stays as it is. Nothing is reserved for that.
    void* data =
        ::mmap(nullptr, size_t(about.st_size), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.number, 0);
    if (data == MAP_FAILED) throw Unmappable(reason());
    return std::shared_ptr<Mapping>(new Mapping(static_cast<char*>(data), about.st_size));
}

Mapping::~Mapping() { ::munmap(data_, size_t(size_)); }

mx::array Mapping::array(int64_t offset, const std::vector<int64_t>& shape, mx::Dtype dtype) const {
    const int64_t itemsize = int64_t(mx::size_of(dtype));
    const int64_t bytes = bytes_of(shape, itemsize);
    if (offset < kSizeField || offset > size_ || bytes > size_ - offset)
        throw std::invalid_argument("truncated, " + std::to_string(offset + bytes) + " bytes expected, " +
                                    std::to_string(size_) + " found");
    if (offset % itemsize != 0)
        throw std::invalid_argument("offset " + std::to_string(offset) + " is no multiple of " +
                                    std::to_string(itemsize));
    // MLX copies what array(void*, ...) is given, since its CPU allocator makes no buffers of foreign memory. A Data
    // with a deleter of its own avoids that. It is sound because of what MLX does with such a buffer:
    // - Its data begin 8 bytes behind its address. The buffer is the whole mapping, the array's offset says where in it
    //   the tensor lies.
    // - Allocator::size(), and nothing else, reads these first 8 bytes as the buffer's size. They are there: in a
    //   safetensors file they hold the header's length. Size is only asked of buffers that may be donated, and by
    //   Contiguous, which shares a buffer that is no larger than the array and copies else: right in both cases.
    // - Only Data that malloc made is owned; other Data is never donated, so no operation writes its result there,
    //   and is not handed to Allocator::free(), which would put it into MLX's cache, but to the deleter.
    auto deleter = [self = shared_from_this()](mx::allocator::Buffer) {};
    const mx::Shape lengths(shape.begin(), shape.end());
    const mx::array whole(mx::allocator::Data(mx::allocator::Buffer(data_), deleter), lengths, dtype);
    mx::array part(lengths, dtype, nullptr, {});
    part.copy_shared_buffer(whole, whole.strides(), whole.flags(), whole.data_size(), (offset - kSizeField) / itemsize);
    part.set_status(mx::array::Status::available);
    return part;
}

}  // namespace gptoss
