#include "cache/append.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "common/pool.h"
#include "mlx/backend/cpu/encoder.h"

namespace gptoss {
namespace {

constexpr int64_t kPiece = 64 * 1024;  // bytes that a thread takes at a time

// The heads of an array (B, K, T, D): where they are if each lies in one piece, as in a part of a buffer, else copied.
class Heads {
  public:
    explicit Heads(const mx::array& x)
        : data_(x.data<uint8_t>()),
          count_(x.shape(1)),
          batch_(x.strides(0) * int64_t(x.itemsize())),
          head_(x.strides(1) * int64_t(x.itemsize())) {
        if (x.strides(3) == 1 && x.strides(2) == x.shape(3)) return;
        copied_.emplace(x);
        head_ = x.shape(2) * x.shape(3) * int64_t(x.itemsize()), batch_ = count_ * head_;
    }

    // The numbers are there now.
    void settle() {
        if (copied_) data_ = copied_->get<uint8_t>();
    }

    const uint8_t* at(int64_t i) const { return data_ + i / count_ * batch_ + i % count_ * head_; }

  private:
    const uint8_t* data_;
    int64_t count_, batch_, head_;
    std::optional<Dense> copied_;
};

class Append : public mx::Primitive {
  public:
    Append(mx::Stream stream, int start) : Primitive(stream), start_(start) {}

    void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
        const mx::array &buffer = inputs[0], &fresh = inputs[1];
        if (!buffer.flags().row_contiguous || buffer.data_size() != buffer.size())
            throw std::runtime_error("append: the buffer is a view of another array");
        outputs[0].copy_shared_buffer(buffer);
        const int64_t token = buffer.shape(3) * int64_t(buffer.itemsize());
        const int64_t from = fresh.shape(2) * token, to = buffer.shape(2) * token;  // bytes of one head
        const int64_t heads = int64_t(buffer.shape(0)) * buffer.shape(1);
        mx::cpu::get_command_encoder(stream()).dispatch(
            [from, to, heads, source = Heads(fresh), out = outputs[0].data<uint8_t>() + start_ * token]() mutable {
                if (from == 0) return;  // an array of nothing may lie nowhere
                source.settle();
                parallel(heads, std::max<int64_t>(1, kPiece / from), [&](int64_t first, int64_t last) {
                    for (int64_t h = first; h < last; ++h) std::memcpy(out + h * to, source.at(h), from);
                });
            });
    }

    void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
        throw std::runtime_error("the native append runs on the CPU only");
    }

    const char* name() const override { return "GptossAppend"; }
    bool is_equivalent(const Primitive& other) const override {
        return start_ == static_cast<const Append&>(other).start_;
    }

  private:
    int start_;
};

}  // namespace

mx::array append(const mx::array& buffer, const mx::array& fresh, int start, mx::StreamOrDevice s) {
    const mx::Stream stream = mx::to_stream(s);
    if (buffer.ndim() != 4 || fresh.ndim() != 4 || buffer.shape(0) != fresh.shape(0) ||
        buffer.shape(1) != fresh.shape(1) || buffer.shape(3) != fresh.shape(3) || buffer.dtype() != fresh.dtype())
        throw std::invalid_argument("append: batch, heads, width and dtype of the buffer expected");
    if (start < 0 || start > buffer.shape(2) - fresh.shape(2))
        throw std::invalid_argument("append: room for " + std::to_string(fresh.shape(2)) + " tokens from " +
                                    std::to_string(start) + " on expected, " + std::to_string(buffer.shape(2)) +
                                    " found in all");
    return mx::array(buffer.shape(), buffer.dtype(), std::make_shared<Append>(stream, start), {buffer, fresh});
}

}  // namespace gptoss
