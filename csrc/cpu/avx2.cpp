#define XENT_ISA xent_avx2
#include "../xent/run.hpp"

namespace xent {
extern const Run run_avx2;
const Run run_avx2 = XENT_ISA::run;
}  // namespace xent
