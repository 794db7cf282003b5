#define XENT_ISA xent_baseline
#include "../xent/run.hpp"

namespace xent {
extern const Set set_baseline;
const Set set_baseline = {"baseline", XENT_ISA::run, XENT_ISA::sum, XENT_ISA::open, XENT_ISA::stage, XENT_ISA::close};
}  // namespace xent
