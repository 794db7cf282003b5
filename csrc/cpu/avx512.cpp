#define XENT_ISA xent_avx512
#include "../xent/run.hpp"

namespace xent {
extern const Run run_avx512;
const Run run_avx512 = XENT_ISA::run;
}  // namespace xent
