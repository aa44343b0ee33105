// Numbers of 16 bits: every one of them read, and any float written.
#include "common/kernels.h"
#include "weights.h"

namespace check {

float from_bits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

double from_half(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double size = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    if (exponent == 31) size = fraction == 0 ? INFINITY : NAN;
    return bits & 0x8000 ? -size : size;
}

double from_brain(uint16_t bits) { return from_bits(uint32_t(bits) << 16); }

namespace {

// The nearest number with `digits` binary digits whose lowest one is worth at least 2^least.
double to_digits(double x, int digits, int least) {
    if (x == 0 || !std::isfinite(x)) return x;
    const int unit = std::max(std::ilogb(x) + 1 - digits, least);
    return std::ldexp(std::nearbyint(std::ldexp(x, -unit)), unit);
}

}  // namespace

uint16_t to_half(double x) {
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    if (std::isnan(x)) return sign | 0x7e00;
    const double size = std::abs(to_digits(x, 11, -24));
    if (size >= 65536) return sign | 0x7c00;
    if (size < 0x1p-14) return uint16_t(sign | uint16_t(size * 0x1p24));
    const int exponent = std::ilogb(size);
    return uint16_t(sign | uint16_t(((exponent + 15) << 10) + int(std::ldexp(size, 10 - exponent)) - 1024));
}

uint16_t to_brain(double x) {
    if (std::isnan(x)) return 0x7fc0;
    const auto nearest = float(to_digits(x, 8, -133));
    uint32_t bits;
    std::memcpy(&bits, &nearest, 4);
    return uint16_t(bits >> 16);
}

namespace {

// Every pattern, as the only number of its row and as one of sixteen that are otherwise zero.
void check_reading(Count& count, Format format) {
    const gptoss::ProductKernels& set = gptoss::kernels().product;
    const bool half = format == Format::kFloat16;
    for (int64_t cols : {1, 16}) {
        std::vector<uint16_t> bits(65536 * cols);
        std::vector<float> found(65536), space(set.product_scratch(cols));
        for (int64_t n = 0; n < 65536; ++n) bits[n * cols + n % cols] = uint16_t(n);
        const Weights weights = plain_weights(format, bits, cols);
        for (int64_t place = 0; place < cols; ++place) {
            alignas(64) float x[16] = {};
            x[place] = 1.0f;
            for (int64_t n = place; n < 65536; n += cols) {
                const float* row = x;
                float* to = found.data();
                set.product(weights.matrix, n, n + 1, &row, 1, &to, space.data());
            }
        }
        for (int64_t n = 0; n < 65536; ++n) {
            const double wanted = half ? from_half(uint16_t(n)) : from_brain(uint16_t(n));
            count.near(found[n], wanted, 0, words(weights.matrix) + ": pattern " + std::to_string(n));
        }
    }
}

std::vector<float> floats_of_all_sizes() {
    std::vector<float> x = {0.0f,
                            -0.0f,
                            1.0f,
                            65504.0f,
                            65519.99f,
                            65520.0f,
                            -70000.0f,
                            INFINITY,
                            -INFINITY,
                            NAN,
                            0x1p-24f,
                            0x1p-25f,
                            0x1.8p-25f,
                            0x1.004p-14f,
                            0x1p-14f,
                            0x1p-126f,
                            from_bits(1),
                            from_bits(0x7f7fffff),
                            from_bits(0x007fffff)};
    for (uint32_t bits : {0x3f808000u, 0x3f818000u, 0x3f801000u, 0x3f803000u})  // halfway, to an even and to an odd one
        for (uint32_t aside : {0u, 1u, 0xffffffffu}) x.push_back(from_bits(bits + aside));
    Random random(21);
    for (int i = 0; i < 20000; ++i) x.push_back(from_bits(random.bits()));
    for (int i = 0; i < 20000; ++i) x.push_back(std::ldexp(random.uniform(-2, 2), -int(random.below(45)) + 16));
    return x;
}

void check_writing(Count& count) {
    const std::vector<float> x = floats_of_all_sizes();
    const auto length = int64_t(x.size());
    Guarded halves(length * 2), brains(length * 2), wholes(length * 4);
    gptoss::kernels().rope.convert(x.data(), length, Number::kFloat16, halves.data());
    gptoss::kernels().rope.convert(x.data(), length, Number::kBFloat16, brains.data());
    gptoss::kernels().rope.convert(x.data(), length, Number::kFloat32, wholes.data());
    for (int64_t i = 0; i < length; ++i) {
        const std::string what = std::to_string(x[i]);
        const double capped = std::isnan(x[i]) ? NAN : std::max(-65504.0f, std::min(65504.0f, x[i]));
        count.near(from_half(halves.as<uint16_t>()[i]), from_half(to_half(capped)), 0, what + " as float16");
        count.near(from_brain(brains.as<uint16_t>()[i]), from_brain(to_brain(x[i])), 0, what + " as bfloat16");
        count.near(wholes.as<float>()[i], x[i], 0, what + " as float32");
    }
    for (int64_t some = 1; some < 40; ++some) {  // ends where it says
        Guarded from(some * 4), to(some * 2);
        std::memcpy(from.data(), x.data(), some * 4);
        gptoss::kernels().rope.convert(from.as<float>(), some, Number::kBFloat16, to.data());
        count.expect(std::memcmp(to.data(), brains.data(), some * 2) == 0, "a short row of bfloat16");
    }
}

}  // namespace

void check_numbers(Count& count) {
    check_reading(count, Format::kFloat16);
    check_reading(count, Format::kBFloat16);
    check_writing(count);
}

}  // namespace check
