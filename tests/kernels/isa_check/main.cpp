// Checks every function of every instruction set that this processor runs against a computation in double precision
// from the definition. A program of its own, without MLX or Python, so that it also runs under an emulator.
//
//   isa_check [--best] [NAME...]
//
// Names are the sets that are expected here, best first; others or fewer are a failure. --best checks the first only.
#include <exception>

#include "check.h"
#include "common/kernels.h"

namespace {

// Where a multiplication and an addition round once, integer products are the same bit for bit. The portable set is
// compiled for the oldest processor, which has that on Arm only.
bool rounds_once(const std::string& set) {
#if defined(__aarch64__)
    return !set.empty();
#else
    return set != "portable";
#endif
}

int run(const std::vector<std::string>& expected, bool only_best) {
    std::vector<std::string> sets = gptoss::available_isas();
    if (!expected.empty() && sets != expected) {
        std::printf("instruction sets found:");
        for (const std::string& set : sets) std::printf(" %s", set.c_str());
        std::printf(", not those expected\n");
        return 1;
    }
    if (only_best) sets.resize(1);
    check::Record record;
    bool right = true;
    for (const std::string& set : sets) {
        gptoss::use_isa(set);
        record.begin(rounds_once(set));
        check::Count count{set};
        count.expect(gptoss::kernels().name == set, "another set is in use");
        check::check_numbers(count);
        check::check_rows(count);
        check::check_products(count, record);
        check::check_attention(count);
        std::printf("%s: %lld checks, %lld failures\n", set.c_str(), (long long)count.checks,
                    (long long)count.failures);
        right = right && count.failures == 0;
    }
    return right ? 0 : 1;
}

}  // namespace

int main(int count, char** words) {
    try {
        const bool only_best = count > 1 && std::string(words[1]) == "--best";
        return run({words + (only_best ? 2 : 1), words + count}, only_best);
    } catch (const std::exception& error) {
        std::printf("isa_check: %s\n", error.what());
        return 1;
    }
}
