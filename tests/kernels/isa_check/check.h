// What the checks share: counting, seeded random numbers, and memory that ends where it says.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <new>
#include <random>
#include <string>
#include <vector>

namespace check {

// Checks of one instruction set.
struct Count {
    std::string set;
    int64_t checks = 0, failures = 0;

    void expect(bool right, const std::string& what) {
        ++checks;
        if (!right && ++failures <= 5) std::printf("%s: %s\n", set.c_str(), what.c_str());
    }

    // |found - wanted| <= bound, or both not a number, or the same infinity.
    void near(double found, double wanted, double bound, const std::string& what) {
        const bool same = found == wanted || (std::isnan(found) && std::isnan(wanted));
        const bool right = same || std::abs(found - wanted) <= bound;
        ++checks;
        if (right || ++failures > 5) return;
        std::printf("%s: %s: %.9g expected within %.2g, %.9g found\n", set.c_str(), what.c_str(), wanted, bound, found);
    }
};

class Random {
  public:
    explicit Random(uint32_t seed) : engine_(seed) {}

    uint32_t bits() { return engine_(); }
    uint32_t below(uint32_t end) { return engine_() % end; }
    float uniform(float low, float high) { return low + (high - low) * float(engine_() >> 8) * 0x1p-24f; }

    std::vector<float> floats(int64_t count, float low, float high) {
        std::vector<float> out(count);
        for (float& x : out) x = uniform(low, high);
        return out;
    }

  private:
    std::mt19937 engine_;
};

// Bytes that end right before a page that nobody may touch, so that reading or writing beyond the end is noticed.
class Guarded {
  public:
    explicit Guarded(size_t bytes) : bytes_(bytes) {
        const size_t page = size_t(sysconf(_SC_PAGESIZE));
        whole_ = (bytes + page - 1) / page * page + page;
        start_ =
            static_cast<uint8_t*>(mmap(nullptr, whole_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (start_ == MAP_FAILED) throw std::bad_alloc();
        mprotect(start_ + whole_ - page, page, PROT_NONE);
        data_ = start_ + whole_ - page - bytes;
    }
    ~Guarded() { munmap(start_, whole_); }
    Guarded(const Guarded&) = delete;
    Guarded& operator=(const Guarded&) = delete;

    uint8_t* data() const { return data_; }
    size_t size() const { return bytes_; }
    template <class T>
    T* as() const {
        return reinterpret_cast<T*>(data_);
    }

  private:
    size_t bytes_, whole_;
    uint8_t *start_, *data_;
};

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Numbers of 16 bits, by their definitions.
double from_half(uint16_t bits);
double from_brain(uint16_t bits);
uint16_t to_half(double x);   // to nearest, ties to even; infinite from 65520 on
uint16_t to_brain(double x);  // the same
float from_bits(uint32_t bits);

// Results of the first set, which others must equal bit for bit.
class Record {
  public:
    void begin(bool strict) { next_ = 0, strict_ = strict, first_ = strict && kept_.empty(); }
    bool agrees(const std::vector<float>& results) {
        if (!strict_) return true;
        if (first_) kept_.push_back(results);
        return first_ || same_bits(kept_.at(next_++), results);
    }

  private:
    std::vector<std::vector<float>> kept_;
    size_t next_ = 0;
    bool strict_ = false, first_ = false;
};

void check_products(Count& count, Record& record);
void check_numbers(Count& count);
void check_rows(Count& count);
void check_attention(Count& count);

}  // namespace check
