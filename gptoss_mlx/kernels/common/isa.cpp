#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "common/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#ifndef HWCAP2_I8MM
#define HWCAP2_I8MM (1 << 13)
#endif
#endif

namespace gptoss {
namespace {

#if defined(__x86_64__)
bool has_f16c() {  // older compilers cannot ask for this one by name
    unsigned a, b, c = 0, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

std::vector<const Kernels*> runnable() {
    std::vector<const Kernels*> sets;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni"))
        sets.push_back(&avx512_kernels());
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) sets.push_back(&avx2_kernels());
#elif defined(__aarch64__)
    const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
    if ((first & HWCAP_ASIMDDP) && (second & HWCAP2_I8MM)) sets.push_back(&i8mm_kernels());
    if (first & HWCAP_ASIMDDP) sets.push_back(&dotprod_kernels());
    sets.push_back(&neon_kernels());
#endif
    sets.push_back(&portable_kernels());
    return sets;
}

const Kernels& named(const std::string& name) {
    std::string known;
    for (const Kernels* set : runnable()) {
        if (name == set->name) return *set;
        known += (known.empty() ? "" : ", ") + std::string(set->name);
    }
    throw std::invalid_argument("GPTOSS_ISA: '" + name + "' is unknown or not for this processor, which runs " + known);
}

std::atomic<const Kernels*> g_active{nullptr};

}  // namespace

const Kernels& kernels() {
    const Kernels* active = g_active.load(std::memory_order_acquire);
    if (active == nullptr) {
        const char* forced = std::getenv("GPTOSS_ISA");
        active = forced != nullptr && *forced != '\0' ? &named(forced) : runnable().front();
        g_active.store(active, std::memory_order_release);
    }
    return *active;
}

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const Kernels* set : runnable()) names.emplace_back(set->name);
    return names;
}

void use_isa(const std::string& name) { g_active.store(&named(name), std::memory_order_release); }

}  // namespace gptoss
