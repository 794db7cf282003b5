// exp and the exact parts of sums.
#pragma once
#include "lanes.hpp"

namespace XENT_ISA {

// factor * exp(d + low), for d in [-170, 0] and a tiny low: what rounding dropped from d.
//
// Cody and Waite's reduction with the degree-7 polynomial of Cephes expf; 0.93 ulp with factor 1. The factor goes in
// before the scale, so that a product in the normal range does not pass through a subnormal exp.
XENT_INLINE F16 exp_times(F16 d, F16 low, F16 factor) {
    const F16 magic = F16::of(12582912.0f);  // 1.5 * 2**23: adding it rounds to a whole number, left in the low bits
    F16 sum = fma(d, F16::of(1.44269504088896341f), magic);
    F16 n = sum - magic;
    F16 r = fma(n, F16::of(-0.693359375f), d);
    r = fma(n, F16::of(2.12194440e-4f), r) + low;
    F16 p = F16::of(1.9875691500e-4f);
    p = fma(p, r, F16::of(1.3981999507e-3f));
    p = fma(p, r, F16::of(8.3334519073e-3f));
    p = fma(p, r, F16::of(4.1665795894e-2f));
    p = fma(p, r, F16::of(1.6666665459e-1f));
    p = fma(p, r, F16::of(5.0000001201e-1f));
    p = fma(p, r * r, r) + F16::of(1.0f);
    F16 second;
    F16 first = power_of_two(sum, &second);
    return p * factor * first * second;
}

// The same in double, for d in [-1400, 0]: Taylor's series to degree 13, whose remainder is 4e-18 on |r| <= ln 2 / 2.
XENT_INLINE D8 exp_times(D8 d, D8 low, D8 factor) {
    const D8 magic = D8::of(6755399441055744.0);  // 1.5 * 2**52
    D8 sum = fma(d, D8::of(1.4426950408889634074), magic);
    D8 n = sum - magic;
    D8 r = fma(n, D8::of(-6.93147180369123816490e-01), d);
    r = fma(n, D8::of(-1.90821492927058770002e-10), r) + low;
    D8 p = D8::of(1.0 / 6227020800.0);
    p = fma(p, r, D8::of(1.0 / 479001600.0));
    p = fma(p, r, D8::of(1.0 / 39916800.0));
    p = fma(p, r, D8::of(1.0 / 3628800.0));
    p = fma(p, r, D8::of(1.0 / 362880.0));
    p = fma(p, r, D8::of(1.0 / 40320.0));
    p = fma(p, r, D8::of(1.0 / 5040.0));
    p = fma(p, r, D8::of(1.0 / 720.0));
    p = fma(p, r, D8::of(1.0 / 120.0));
    p = fma(p, r, D8::of(1.0 / 24.0));
    p = fma(p, r, D8::of(1.0 / 6.0));
    p = fma(p, r, D8::of(0.5));
    p = fma(p, r * r, r) + D8::of(1.0);
    D8 second;
    D8 first = power_of_two(sum, &second);
    return p * factor * first * second;
}

// What `high = a - b` dropped (Knuth's TwoSum).
template <class V> XENT_INLINE V dropped(V a, V b, V high) {
    V back = high - a;
    return (a - (high - back)) - (b + back);
}

// Sums of lanes. Floats add up in double; doubles carry what each addition drops.
struct FloatSum {
    D8 low = D8::of(0), high = D8::of(0);
    XENT_INLINE void add(F16 x) {
        low = low + low_half(x);
        high = high + high_half(x);
    }
    // Lane i of 16, added in one order: halves, quarters, ...
    XENT_INLINE double total() const {
        double v[16];
        low.store(v), high.store(v + 8);
        for (int n = 8; n; n /= 2)
            for (int i = 0; i < n; i++) v[i] += v[i + n];
        return v[0];
    }
};

struct DoubleSum {
    D8 sum = D8::of(0), lost = D8::of(0);
    XENT_INLINE void add(D8 x) {
        D8 next = sum + x;
        D8 back = next - sum;
        lost = lost + ((sum - (next - back)) + (x - back));
        sum = next;
    }
    XENT_INLINE double total() const {
        double v[8], w[8];
        sum.store(v), lost.store(w);
        for (int n = 4; n; n /= 2)
            for (int i = 0; i < n; i++) {
                double s = v[i] + v[i + n], back = s - v[i];
                w[i] += w[i + n] + ((v[i] - (s - back)) + (v[i + n] - back));
                v[i] = s;
            }
        double s = v[0] + w[0];
        return s - s == 0 ? s : v[0];  // an infinity has no rounding to carry
    }
};

// Doubles that stand for something narrower need no such care.
struct PlainSum {
    D8 sum = D8::of(0);
    XENT_INLINE void add(D8 x) { sum = sum + x; }
    XENT_INLINE double total() const {
        double v[8];
        sum.store(v);
        for (int n = 4; n; n /= 2)
            for (int i = 0; i < n; i++) v[i] += v[i + n];
        return v[0];
    }
};

template <class V, bool careful> struct SumOf { using type = FloatSum; };
template <> struct SumOf<D8, false> { using type = PlainSum; };
template <> struct SumOf<D8, true> { using type = DoubleSum; };

}  // namespace XENT_ISA
