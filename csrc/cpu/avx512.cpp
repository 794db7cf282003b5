#define XENT_ISA xent_avx512
#include "../xent/run.hpp"

namespace xent {
extern const Set set_avx512;
const Set set_avx512 = {"avx512", XENT_ISA::run, XENT_ISA::sum, XENT_ISA::open, XENT_ISA::stage, XENT_ISA::close};
}  // namespace xent
