// The exact sum of doubles, rounded once: the same bits in whatever order they come.
//
// Radford Neal's small superaccumulator (Fast exact summation using small and large superaccumulators, 2015): a number
// of 2,200 bits in chunks of 32, each in 64, so that carries wait for 2,048 additions.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace xent {

class ExactSum {
   public:
    void add(double value) {
        if (waiting == 2000) carry();
        waiting++;
        uint64_t bits;
        std::memcpy(&bits, &value, 8);
        int exponent = static_cast<int>(bits >> 52 & 0x7ff);
        uint64_t mantissa = bits & ((UINT64_C(1) << 52) - 1);
        if (exponent == 0x7ff) {
            special = special + value;
            return;
        }
        if (exponent)
            mantissa |= UINT64_C(1) << 52;
        else
            exponent = 1;
        const int at = exponent >> 5, shift = exponent & 31;
        const int64_t low = static_cast<int64_t>(mantissa << shift & 0xffffffff);
        const int64_t high = static_cast<int64_t>(mantissa >> (32 - shift));
        chunk[at] += value < 0 ? -low : low;
        chunk[at + 1] += value < 0 ? -high : high;
    }
    void add(ExactSum &other) {
        carry(), other.carry();
        for (int i = 0; i <= last; i++) chunk[i] += other.chunk[i];
        special = special + other.special;
        carry();
    }

    // To be asked for once.
    double rounded() {
        carry();
        if (special != 0) return special;  // inf or nan, and what they add up to
        const bool negative = chunk[last] < 0;
        if (negative) {
            for (int64_t &part : chunk) part = -part;
            carry();
        }
        int top = last;
        while (top > 0 && chunk[top] == 0) top--;
        unsigned __int128 leading = 0;
        for (int i = top; i > top - 4; i--) leading = leading << 32 | (i >= 0 ? static_cast<uint64_t>(chunk[i]) : 0);
        for (int i = top - 4; i >= 0; i--)
            if (chunk[i]) leading |= 1;  // below the half of the last place it matters only whether there is anything
        const double value = std::ldexp(static_cast<double>(leading), 32 * (top - 3) - bias);
        return negative ? -value : value;
    }

   private:
    // Every chunk but the last into 0 ... 2**32 - 1.
    void carry() {
        waiting = 0;
        for (int i = 0; i < last; i++) {
            const int64_t over = chunk[i] >> 32;  // of a negative number: down, as GCC and Clang do it
            chunk[i] -= over * (INT64_C(1) << 32);
            chunk[i + 1] += over;
        }
    }

    static constexpr int bias = 1075;  // a double is mantissa * 2**(exponent - 1075)
    static constexpr int last = 67;    // 2,046 / 32 + 1, and two for what 2**63 values carry
    int64_t chunk[last + 1] = {};
    double special = 0;
    int waiting = 0;  // additions since the last carry
};

}  // namespace xent
