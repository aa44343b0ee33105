#include "cache/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "attention/tile.h"
#include "common/pool.h"
#include "mlx/backend/cpu/encoder.h"

namespace gptoss {
namespace {

using Half = mx::float16_t;

constexpr int64_t kPiece = 64;        // vectors that a thread takes at a time
constexpr float kLargest = 65504.0f;  // float16 ends here: what lies beyond stays there instead of becoming infinite
constexpr float kLeast = 1e-7f;       // of scales, as in mx::quantize
constexpr float kRounder = 0x1p23f;   // added and taken away, it leaves the nearest whole number, ties to even

struct Scaled {
    float scale, bias;
};

// The number farthest from zero is met exactly, and so is zero if it lies within.
Scaled scaled(const float* x, float last) {
    const auto [low, high] = std::minmax_element(x, x + kGroup);
    const bool from_low = std::abs(*low) > std::abs(*high);
    const float edge = from_low ? *low : *high, size = std::max((*high - *low) / last, kLeast);
    const float scale = from_low ? size : -size, steps = std::nearbyint(edge / scale);
    return steps == 0.0f ? Scaled{scale, 0.0f} : Scaled{edge / steps, edge};
}

void quantize_group(const float* x, int bits, uint8_t* codes, Half* scale, Half* bias) {
    const auto last = float((1 << bits) - 1);
    const Scaled found = scaled(x, last);
    uint8_t whole[kGroup];
    for (int i = 0; i < kGroup; ++i) {
        const float code = (x[i] - found.bias) / found.scale;
        whole[i] = uint8_t((std::min(code > 0.0f ? code : 0.0f, last) + kRounder) - kRounder);
    }
    if (bits == 8) std::memcpy(codes, whole, kGroup);
    for (int i = 0; bits == 4 && i < kGroup; i += 2) codes[i / 2] = uint8_t(whole[i] | whole[i + 1] << 4);
    *scale = static_cast<Half>(found.scale), *bias = static_cast<Half>(found.bias);
}

// Vectors of `width` numbers and where they go; heads have `tokens` of them, and room for more.
struct Call {
    int bits;
    int64_t tokens, width, room, start;
    uint8_t* codes;
    Half *scales, *biases;

    void quantize(const float* fresh, int64_t index) const {
        const int64_t place = index / tokens * room + start + index % tokens, groups = width / kGroup;
        const int64_t bytes = kGroup * bits / 8;
        for (int64_t g = 0; g < groups; ++g) {
            float x[kGroup];
            for (int64_t i = 0; i < kGroup; ++i) {
                const float number = fresh[index * width + g * kGroup + i];
                x[i] = static_cast<Half>(std::min(std::max(number, -kLargest), kLargest));
            }
            const int64_t to = place * groups + g;
            quantize_group(x, bits, codes + to * bytes, scales + to, biases + to);
        }
    }
};

class AppendCodes : public CpuPrimitive {
  public:
    AppendCodes(mx::Stream stream, int bits, int start) : CpuPrimitive(stream), bits_(bits), start_(start) {}

    // Inputs: fresh vectors, then the buffers.
    void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
        for (size_t i = 0; i < outputs.size(); ++i) {
            const mx::array& buffer = inputs[i + 1];
            if (!buffer.flags().row_contiguous || buffer.data_size() != buffer.size())
                throw std::runtime_error("append_codes: a buffer is a view of another array");
            outputs[i].copy_shared_buffer(buffer);
        }
        const mx::array& fresh = inputs[0];
        const Call call{bits_,
                        fresh.shape(2),
                        fresh.shape(3),
                        outputs[0].shape(2),
                        start_,
                        outputs[0].data<uint8_t>(),
                        outputs[1].data<Half>(),
                        outputs[2].data<Half>()};
        const int64_t vectors = int64_t(fresh.shape(0)) * fresh.shape(1) * fresh.shape(2);
        mx::cpu::get_command_encoder(stream()).dispatch([call, vectors, dense = Dense(fresh)]() mutable {
            const auto* numbers = dense.get<float>();
            parallel(vectors, kPiece, [&](int64_t first, int64_t last) {
                for (int64_t i = first; i < last; ++i) call.quantize(numbers, i);
            });
        });
    }

    const char* name() const override { return "GptossAppendCodes"; }
    bool is_equivalent(const Primitive& other) const override {
        const auto& right = static_cast<const AppendCodes&>(other);
        return bits_ == right.bits_ && start_ == right.start_;
    }

  private:
    int bits_, start_;
};

void refuse(const std::string& what) { throw std::invalid_argument("append_codes: " + what + " expected"); }

void check(const std::vector<mx::array>& buffers, const mx::array& fresh, int start) {
    if (buffers.size() != 3 || buffers[0].ndim() != 4) refuse("codes, scales and biases (B, K, room, ...)");
    if (fresh.ndim() != 4 || fresh.shape(3) == 0 || fresh.shape(3) % kGroup != 0)
        refuse("vectors (B, K, T, D) of whole groups of " + std::to_string(kGroup));
    const int room = buffers[0].shape(2), width = fresh.shape(3), words = buffers[0].shape(3);
    if (buffers[0].dtype() != mx::uint32 || (words * 4 != width && words * 8 != width))
        refuse("codes of 8 or 4 bits in uint32");
    mx::Shape wanted = {fresh.shape(0), fresh.shape(1), room, words};
    for (size_t i = 0; i < 3; ++i, wanted[3] = width / int(kGroup))
        if (buffers[i].shape() != wanted || (i > 0 && buffers[i].dtype() != mx::float16))
            refuse("batch, heads and groups of the fresh vectors, and float16");
    if (start < 0 || start > room - fresh.shape(2))
        refuse("room for " + std::to_string(fresh.shape(2)) + " tokens from " + std::to_string(start) + " on");
}

}  // namespace

std::vector<mx::array> append_codes(const std::vector<mx::array>& buffers, const mx::array& fresh, int start,
                                    mx::StreamOrDevice s) {
    const mx::Stream stream = mx::to_stream(s);
    check(buffers, fresh, start);
    const int bits = buffers[0].shape(3) * 32 / fresh.shape(3);
    return mx::array::make_arrays({buffers[0].shape(), buffers[1].shape(), buffers[2].shape()},
                                  {mx::uint32, mx::float16, mx::float16},
                                  std::make_shared<AppendCodes>(stream, bits, start),
                                  {mx::astype(fresh, mx::float32, stream), buffers[0], buffers[1], buffers[2]});
}

}  // namespace gptoss
