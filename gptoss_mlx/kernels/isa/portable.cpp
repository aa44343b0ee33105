#define GPTOSS_ISA portable
#define GPTOSS_PORTABLE
#include "isa/set.h"

namespace gptoss {

const Kernels& portable_kernels() {
    static const Kernels set = portable::make_set("portable", "portable C++");
    return set;
}

}  // namespace gptoss
