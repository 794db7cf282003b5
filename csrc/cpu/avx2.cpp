#define XENT_ISA xent_avx2
#include "../xent/run.hpp"

namespace xent {
extern const Set set_avx2;
const Set set_avx2 = {"avx2", XENT_ISA::run, XENT_ISA::sum, XENT_ISA::open, XENT_ISA::stage, XENT_ISA::close};
}  // namespace xent
