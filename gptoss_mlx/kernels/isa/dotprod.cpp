#define GPTOSS_ISA dotprod
#define GPTOSS_NEON
#define GPTOSS_BYTES
#include "isa/set.h"

namespace gptoss {

const Kernels& dotprod_kernels() {
    static const Kernels set = dotprod::make_set("dotprod", "Arm NEON with dotprod");
    return set;
}

}  // namespace gptoss
