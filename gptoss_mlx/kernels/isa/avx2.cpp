#define GPTOSS_ISA avx2
#define GPTOSS_AVX2
#include "isa/set.h"

namespace gptoss {

const Kernels& avx2_kernels() {
    static const Kernels set = avx2::make_set("avx2", "AVX2");
    return set;
}

}  // namespace gptoss
