#define XENT_ISA xent_baseline
#include "../xent/run.hpp"

namespace xent {
extern const Set set_baseline;
const Set set_baseline = {"baseline", XENT_ISA::run, XENT_ISA::sum};
}  // namespace xent
