#include "mapping/pages.h"

#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <new>

#include "mapping/foreign.h"

namespace gptoss {
namespace {

constexpr uintptr_t kLargePage = 2 << 20;  // of x86, and of Arm with small pages of 4 KiB

std::atomic<size_t> g_bytes{0};

// Memory from the system for some numbers, zero until they are written.
class Pages {
  public:
    explicit Pages(size_t bytes) : bytes_(bytes), size_(kSizeField + kLargePage + bytes) {
        data_ = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (data_ == MAP_FAILED) throw std::bad_alloc();
        const auto start = reinterpret_cast<uintptr_t>(data_);
        const uintptr_t aligned = (start + kSizeField + kLargePage - 1) & -kLargePage;
        char* numbers = static_cast<char*>(data_) + (aligned - start);
        ::madvise(numbers, bytes, MADV_HUGEPAGE);  // small pages do as well
        buffer_ = numbers - kSizeField;
        std::memcpy(buffer_, &bytes_, sizeof bytes_);
        g_bytes += bytes_;
    }
    ~Pages() {
        ::munmap(data_, size_);
        g_bytes -= bytes_;
    }
    Pages(const Pages&) = delete;
    Pages& operator=(const Pages&) = delete;

    char* buffer() const { return buffer_; }

  private:
    size_t bytes_, size_;
    void* data_;
    char* buffer_;  // see foreign_array
};

}  // namespace

size_t page_bytes() { return g_bytes; }

mx::array fresh_pages(const std::vector<int64_t>& shape, mx::Dtype dtype) {
    const auto pages = std::make_shared<Pages>(size_t(bytes_of(shape, int64_t(mx::size_of(dtype)))));
    return foreign_array(pages->buffer(), 0, shape, dtype, pages);
}

}  // namespace gptoss
