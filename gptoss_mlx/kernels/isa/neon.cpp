#define GPTOSS_ISA neon
#define GPTOSS_NEON
#include "isa/set.h"

namespace gptoss {

const Kernels& neon_kernels() {
    static const Kernels set = neon::make_set("neon", "Arm NEON");
    return set;
}

}  // namespace gptoss
