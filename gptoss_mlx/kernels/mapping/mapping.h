// Files in memory: MLX arrays over the bytes of a file, without a copy.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "mlx/mlx.h"

namespace gptoss {

namespace mx = mlx::core;

// A file mapped as a whole. Its pages are the system's file cache: shared with every other reader of the file, read
// from disk when they are first touched, and dropped without writing when memory is short.
//
// A file must not shrink while it is mapped: the system kills who reads behind its new end (SIGBUS), and nothing in
// the process can prevent that. Replacing it (a new file under the old name) or removing it is harmless.
class Mapping : public std::enable_shared_from_this<Mapping> {
  public:
    // Throws std::runtime_error with the reason in words if the file cannot be opened or is no regular file, and
    // Unmappable where only mapping fails.
    static std::shared_ptr<Mapping> open(const std::string& path);

    ~Mapping();
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;

    // The bytes from `offset` on as an array in row-major order. It keeps the mapping alive, touches no page, and is
    // never written by an operation. Throws std::invalid_argument for a shape or offset that does not fit the file,
    // or an offset that is no multiple of the item size.
    mx::array array(int64_t offset, const std::vector<int64_t>& shape, mx::Dtype dtype) const;

    int64_t size() const { return size_; }

  private:
    Mapping(char* data, int64_t size) : data_(data), size_(size) {}

    char* data_;
    int64_t size_;
};

// The file is there, but its file system does not map files.
struct Unmappable : std::runtime_error {
    using std::runtime_error::runtime_error;
};

}  // namespace gptoss
