// Vectors of a fixed number of lanes, whatever the machine: 16 floats (F16) or 8 doubles (D8). Kernels are written in
// these words only, so AVX2 and AVX-512 run the same operations on the same lanes and give the same bits.
//
// Included once per instruction set, in the namespace XENT_ISA. Compile with -ffp-contract=off: every fused
// multiply-add is asked for by name.
//
//   of(x), load(p), store(p), stream(p)   stream goes past the cache; p is aligned to the vector
//   + - *, divided, fma                   the baseline's fma rounds twice
//   larger(a, b), smaller(a, b)           b where either is nan, as x86 has it: larger(bound, x) keeps a nan in x
//   equal, at_least -> Mask; any(Mask), all(Mask), number(Mask), first_of(Mask); select(Mask, yes, no)
//   largest(a), sum_of(a)                 of the lanes: if none is nan; halves, then quarters, ... are added
//   from(lowest, x, &above)               x where it is at least `lowest` or nan, as `above` says; elsewhere anything
//   lookup(table, sum)                    the two ends of exp (math.hpp): 0 elsewhere, and no subnormal on the way, for
//   scaled(above, p, sum, n)              which an Intel processor took 70 ns
//   binade(u, &k, &down)                  u = 2**k m with m in [sqrt 1/2, sqrt 2): k, and 2**-k
//   low_half, high_half, rounded          between 16 floats and twice 8 doubles
//   transpose(rows)                       a square of 16 x 16 floats or 8 x 8 doubles
//   unzip(a, b, &even, &odd), zip         pairs that lie in two vectors
#pragma once
#include <cstdint>
#include <cstring>

// Left to itself GCC keeps some of these as calls, and the sums in memory. The baseline of x86, which few machines
// run, is spared the size and the seconds of compilation.
#if defined(__AVX2__) || !defined(__x86_64__)
#define XENT_ALWAYS __attribute__((always_inline))
#else
#define XENT_ALWAYS
#endif
#define XENT_INLINE inline XENT_ALWAYS

namespace XENT_ISA {

// Adding it rounds to sixteenths (floats), left in the low bits; to whole numbers (doubles).
constexpr float sixteenths = 0x1.8p19f;
constexpr double wholes = 0x1.8p52;

}  // namespace XENT_ISA

#if defined(__AVX512F__)
#include "lanes_avx512.hpp"
#elif defined(__AVX2__)
#include "lanes_avx2.hpp"
#else
#include "lanes_any.hpp"
#endif

namespace XENT_ISA {

// The doubles in lanes of either kind, and back.
XENT_INLINE D8 first_of(F16 v) { return low_half(v); }
XENT_INLINE D8 second_of(F16 v) { return high_half(v); }
XENT_INLINE D8 first_of(D8 v) { return v; }
XENT_INLINE D8 second_of(D8 v) { return v; }
XENT_INLINE void join(F16 *v, D8 low, D8 high) { *v = rounded(low, high); }
XENT_INLINE void join(D8 *v, D8 low, D8) { *v = low; }

}  // namespace XENT_ISA
