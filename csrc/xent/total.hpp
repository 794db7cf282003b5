// Exact sums, eight values at a time.
#pragma once
#include "math.hpp"
#include "sum.hpp"

namespace XENT_ISA {

// Values are cut at two fixed places, and multiples of a common unit add without error while they fit 53 bits: that is
// why neither order nor threads matter. What does not fit goes to the superaccumulator, where all of it ends.
class Total {
   public:
    void add(const double *values, int64_t count) {
        for (; count >= 8; count -= 8, values += 8) add(D8::load(values));
        for (; count > 0; count--) exact.add(*values++);
    }
    XENT_INLINE void add(D8 x) {
        const D8 high = cut(x, 0x1.8p36), rest = x - high;      // multiples of 2**-16
        const D8 middle = cut(rest, 0x1.8p-6), tail = rest - middle;  // of 2**-58
        const D8 low = cut(tail, 0x1.8p-48);                    // of 2**-100
        const D8 size = larger(x, D8::of(0) - x), bound = D8::of(0x1p24);
        if (__builtin_expect(all(at_least(bound, select(equal(tail, low), size, D8::of(infinity)))), true)) {
            part[0] = part[0] + high, part[1] = part[1] + middle, part[2] = part[2] + low;
            if (++waiting == 4096) flush();
        } else {
            double each[8];
            x.store(each);
            for (double one : each) exact.add(one);
        }
    }
    xent::ExactSum &sum() {
        flush();
        return exact;
    }

   private:
    static XENT_INLINE D8 cut(D8 x, double magic) { return (x + D8::of(magic)) - D8::of(magic); }
    void flush() {
        for (D8 &lanes : part) {
            double each[8];
            lanes.store(each);
            for (double one : each) exact.add(one);
            lanes = D8::of(0);
        }
        waiting = 0;
    }

    D8 part[3] = {D8::of(0), D8::of(0), D8::of(0)};
    int waiting = 0;
    xent::ExactSum exact;
};

}  // namespace XENT_ISA
