#define GPTOSS_ISA avx512
#define GPTOSS_AVX512
#include "isa/set.h"

namespace gptoss {

const Kernels& avx512_kernels() {
    static const Kernels set = avx512::make_set("avx512", "AVX-512 with VNNI");
    return set;
}

}  // namespace gptoss
