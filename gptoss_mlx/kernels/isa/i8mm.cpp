#define GPTOSS_ISA i8mm
#define GPTOSS_NEON
#define GPTOSS_BYTES
#define GPTOSS_I8MM
#include "isa/set.h"

namespace gptoss {

const Kernels& i8mm_kernels() {
    static const Kernels set = i8mm::make_set("i8mm", "Arm NEON with i8mm");
    return set;
}

}  // namespace gptoss
