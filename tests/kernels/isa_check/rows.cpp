// Functions of one row: the clamped SwiGLU, RMSNorm and rotation.
#include "common/kernels.h"
#include "weights.h"

namespace check {
namespace {

using gptoss::kernels;

Guarded* copied(const std::vector<float>& x) {
    auto* memory = new Guarded(x.size() * sizeof(float));
    std::memcpy(memory->data(), x.data(), memory->size());
    return memory;
}

using Memory = std::unique_ptr<Guarded>;

void check_swiglu(Count& count, Random& random, int64_t length, float size, float limit) {
    const float alpha = 1.702f;
    const std::vector<float> gate = random.floats(length, -size, size), up = random.floats(length, -10, 10);
    const Memory out(copied(gate)), right(copied(up));
    kernels().swiglu(out->as<float>(), right->as<float>(), length, limit, alpha);
    for (int64_t i = 0; i < length; ++i) {
        const double capped = std::min(gate[i], limit);
        const double shifted = std::max(-double(limit), std::min(double(limit), double(up[i]))) + 1;
        const double wanted = capped / (1 + std::exp(-double(alpha) * capped)) * shifted;
        // The argument of the exponential is rounded, which counts as often as it is large.
        const double bound = (6e-7 + 6e-8 * std::abs(alpha * capped)) * std::abs(wanted);
        count.near(out->as<float>()[i], wanted, bound + 1e-7 * std::abs(wanted / shifted) + 1e-34, "swiglu");
    }
}

void check_norm(Count& count, Random& random, int64_t length, float size) {
    const Memory x(copied(random.floats(length, -size, size))), weight(copied(random.floats(length, -2, 2)));
    const Memory out(copied(random.floats(length, 0, 0)));
    kernels().norm(x->as<float>(), weight->as<float>(), length, 1e-5f, out->as<float>());
    double total = 0;
    for (int64_t i = 0; i < length; ++i) total += double(x->as<float>()[i]) * x->as<float>()[i];
    const double factor = 1 / std::sqrt(total / double(length) + double(1e-5f));
    for (int64_t i = 0; i < length; ++i) {
        const double wanted = x->as<float>()[i] * factor * weight->as<float>()[i];
        count.near(out->as<float>()[i], wanted, 1e-6 * std::abs(wanted), "norm of " + std::to_string(length));
    }
}

void check_turn(Count& count, Random& random, int64_t half) {
    const Memory x(copied(random.floats(2 * half, -5, 5)));
    std::vector<float> cosines, sines;
    for (int64_t i = 0; i < half; ++i) {
        const float angle = random.uniform(-100, 100);
        cosines.push_back(std::cos(angle)), sines.push_back(std::sin(angle));
    }
    const Memory c(copied(cosines)), s(copied(sines)), whole(copied(cosines));
    for (Number number : {Number::kFloat32, Number::kFloat16, Number::kBFloat16}) {
        const Guarded out(2 * half * (number == Number::kFloat32 ? 4 : 2));
        kernels().rope.turn(x->as<float>(), c->as<float>(), s->as<float>(), half, number, out.data());
        const double unit = number == Number::kFloat32 ? 2e-7 : number == Number::kFloat16 ? 0x1p-11 : 0x1p-8;
        for (int64_t i = 0; i < 2 * half; ++i) {
            const double first = x->as<float>()[i % half], second = x->as<float>()[i % half + half];
            const double a = i < half ? first * cosines[i] : second * cosines[i - half];
            const double b = i < half ? -second * sines[i] : first * sines[i - half];
            const uint16_t bits = number == Number::kFloat32 ? uint16_t(0) : out.as<uint16_t>()[i];
            const double found = number == Number::kFloat32   ? out.as<float>()[i]
                                 : number == Number::kFloat16 ? from_half(bits)
                                                              : from_brain(bits);
            const double bound = unit * std::abs(a + b) + 3e-7 * (std::abs(a) + std::abs(b)) + 0x1p-25;
            count.near(found, a + b, bound, "rotation of " + std::to_string(2 * half));
        }
    }
}

}  // namespace

void check_rows(Count& count) {
    Random random(22);
    for (int64_t length : {1, 3, 4, 7, 8, 15, 16, 17, 31, 100, 2880}) {
        check_swiglu(count, random, length, 12, 7);
        check_norm(count, random, length, 3);
        check_norm(count, random, length, 1e-4f);
    }
    check_swiglu(count, random, 20000, 50, 100);
    check_swiglu(count, random, 1000, 500, 7);
    for (int64_t half : {1, 2, 3, 4, 5, 8, 13, 16, 19, 32, 50}) check_turn(count, random, half);
}

}  // namespace check
