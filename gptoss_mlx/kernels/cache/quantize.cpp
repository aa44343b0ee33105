#include "cache/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "attention/tile.h"
#include "common/pool.h"
#include "mlx/backend/cpu/encoder.h"

namespace gptoss {
namespace {

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

void quantize_group(const float* x, int bits, uint8_t* codes, mx::float16_t* scale, mx::float16_t* bias) {
    const auto last = float((1 << bits) - 1);
    const Scaled found = scaled(x, last);
    uint8_t whole[kGroup];
    for (int i = 0; i < kGroup; ++i) {
        const float code = (x[i] - found.bias) / found.scale;
        whole[i] = uint8_t((std::min(code > 0.0f ? code : 0.0f, last) + kRounder) - kRounder);
    }
    if (bits == 8) std::memcpy(codes, whole, kGroup);
    for (int i = 0; bits == 4 && i < kGroup; i += 2) codes[i / 2] = uint8_t(whole[i] | whole[i + 1] << 4);
    *scale = static_cast<mx::float16_t>(found.scale), *bias = static_cast<mx::float16_t>(found.bias);
}

class AppendCodes : public CpuPrimitive {
  public:
    AppendCodes(mx::Stream stream, int start) : CpuPrimitive(stream), start_(start) {}

    // Inputs: fresh vectors, then the buffers.
    void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
        for (size_t i = 0; i < outputs.size(); ++i) {
            const mx::array& buffer = inputs[i + 1];
            if (!buffer.flags().row_contiguous || buffer.data_size() != buffer.size())
                throw std::runtime_error("append_codes: a buffer is a view of another array");
            outputs[i].copy_shared_buffer(buffer);
        }
        const mx::array& fresh = inputs[0];
        const CodeRows rows(outputs.data(), fresh.shape(3));
        const int64_t tokens = fresh.shape(2), room = outputs[0].shape(2), width = fresh.shape(3), start = start_;
        const int64_t vectors = int64_t(fresh.shape(0)) * fresh.shape(1) * tokens;
        mx::cpu::get_command_encoder(stream()).dispatch([=, dense = Dense(fresh)]() mutable {
            const auto* numbers = dense.get<float>();
            parallel(vectors, kPiece, [&](int64_t first, int64_t last) {
                for (int64_t i = first; i < last; ++i)
                    rows.write(numbers + i * width, i / tokens * room + start + i % tokens);
            });
        });
    }

    const char* name() const override { return "GptossAppendCodes"; }
    bool is_equivalent(const Primitive& other) const override {
        return start_ == static_cast<const AppendCodes&>(other).start_;
    }

  private:
    int start_;
};

void refuse(const std::string& who, const std::string& what) {
    throw std::invalid_argument(who + ": " + what + " expected");
}

}  // namespace

CodeRows::CodeRows(mx::array* planes, int64_t width)
    : bits_(int(planes[0].shape(3) * 32 / width)),
      width_(width),
      codes_(planes[0].data<uint8_t>()),
      scales_(planes[1].data<mx::float16_t>()),
      biases_(planes[2].data<mx::float16_t>()) {}

void CodeRows::write(const float* vector, int64_t row) const {
    const int64_t groups = width_ / kGroup, bytes = kGroup * bits_ / 8;
    for (int64_t g = 0; g < groups; ++g) {
        float x[kGroup];
        for (int64_t i = 0; i < kGroup; ++i)
            x[i] = static_cast<mx::float16_t>(std::min(std::max(vector[g * kGroup + i], -kLargest), kLargest));
        const int64_t to = row * groups + g;
        quantize_group(x, bits_, codes_ + to * bytes, scales_ + to, biases_ + to);
    }
}

void check_codes(const std::string& who, const std::vector<mx::array>& planes, const mx::Shape& vectors) {
    const int width = vectors[3];
    if (width == 0 || width % kGroup != 0) refuse(who, "a width of whole groups of " + std::to_string(kGroup));
    if (planes.size() != 3 || planes[0].ndim() != 4) refuse(who, "codes, scales and biases (B, K, tokens, ...)");
    mx::Shape wanted = vectors;
    wanted[3] = planes[0].shape(3);
    if (planes[0].dtype() != mx::uint32 || (wanted[3] * 4 != width && wanted[3] * 8 != width))
        refuse(who, "codes of 8 or 4 bits in uint32");
    if (planes[0].shape() != wanted) refuse(who, "codes of the vectors' batch, heads and number");
    wanted[3] = width / int(kGroup);
    for (const mx::array* part : {&planes[1], &planes[2]})
        if (part->dtype() != mx::float16 || part->shape() != wanted)
            refuse(who, "a scale and a bias in float16 per group");
}

std::vector<mx::array> append_codes(const std::vector<mx::array>& buffers, const mx::array& fresh, int start,
                                    mx::StreamOrDevice s) {
    const mx::Stream stream = mx::to_stream(s);
    if (fresh.ndim() != 4 || buffers.empty() || buffers[0].ndim() != 4)
        refuse("append_codes", "buffers (B, K, room, ...) and vectors (B, K, T, D)");
    mx::Shape vectors = fresh.shape();
    vectors[2] = buffers[0].shape(2);
    check_codes("append_codes", buffers, vectors);
    if (start < 0 || start > vectors[2] - fresh.shape(2))
        refuse("append_codes",
               "room for " + std::to_string(fresh.shape(2)) + " tokens from " + std::to_string(start) + " on");
    return mx::array::make_arrays({buffers[0].shape(), buffers[1].shape(), buffers[2].shape()},
                                  {mx::uint32, mx::float16, mx::float16}, std::make_shared<AppendCodes>(stream, start),
                                  {mx::astype(fresh, mx::float32, stream), buffers[0], buffers[1], buffers[2]});
}

}  // namespace gptoss
