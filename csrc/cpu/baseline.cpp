#define XENT_ISA xent_baseline
#include "../xent/run.hpp"

namespace xent {
extern const Run run_baseline;
const Run run_baseline = XENT_ISA::run;
}  // namespace xent
