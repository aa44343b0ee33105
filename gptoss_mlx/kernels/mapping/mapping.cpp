#include "mapping/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <system_error>

#include "mapping/foreign.h"

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
    // Where the file system can, large pages: fewer faults, fewer addresses to look up, and the disk is read in long
    // stretches. Files that are in the cache already, in small pages, stay there as they are.
    ::madvise(data, size_t(about.st_size), MADV_HUGEPAGE);
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
    return foreign_array(data_, offset - kSizeField, shape, dtype, shared_from_this());
}

}  // namespace gptoss
