// exp, log1p, the distance from the peak and what its rounding drops, sums of lanes.
#pragma once
#include <cmath>
#include <limits>

#include "lanes.hpp"

namespace XENT_ISA {

constexpr double infinity = std::numeric_limits<double>::infinity();

// The numbers of all lanes in double.
template <class V> struct Each {
    static constexpr int halves = V::lanes / D8::lanes;
    D8 half[halves];
    static XENT_INLINE Each load(const double *p) {
        Each x;
        for (int h = 0; h < halves; h++) x.half[h] = D8::load(p + 8 * h);
        return x;
    }
    XENT_INLINE void store(double *p) const {
        for (int h = 0; h < halves; h++) half[h].store(p + 8 * h);
    }
};
XENT_INLINE F16 narrow(const Each<F16> &x) { return rounded(x.half[0], x.half[1]); }
XENT_INLINE D8 narrow(const Each<D8> &x) { return x.half[0]; }
XENT_INLINE Each<F16> widen_lanes(F16 x) { return {{low_half(x), high_half(x)}}; }
XENT_INLINE Each<D8> widen_lanes(D8 x) { return {{x}}; }

// exp_lifted(d, low) is lift * exp(d + low) for d <= 0 and a tiny low, what rounding dropped from d; 0 for d < deepest.
// Lifted, exp is a normal float with all its digits down to there. (Doubles have the range without.)
template <class V> constexpr double lift = sizeof(typename V::Real) < 8 ? 0x1p64 : 1.0;
template <class V> constexpr double deepest = sizeof(typename V::Real) < 8 ? -131.0 : -746.0;

// Tang's method (Table-driven implementation of the exponential function, 1989): d is k/16 ln 2 and a remainder of
// 0.022 at most, whose exp is a cubic, minimax but for its last term; 2**(k/16) comes from two tables, as a float and
// what that lacks, relative to it. `sum` is k/16 on top of a magic number, n is k/16, r the remainder. 0.57 ulp.
template <bool carried> XENT_INLINE F16 exp_lifted(F16 d, F16 low) {
    alignas(64) static const float powers[16] = {
        0x1.000000p64f, 0x1.0b5586p64f, 0x1.172b84p64f, 0x1.2387a6p64f, 0x1.306fe0p64f, 0x1.3dea64p64f,
        0x1.4bfdaep64f, 0x1.5ab07ep64f, 0x1.6a09e6p64f, 0x1.7a1148p64f, 0x1.8ace54p64f, 0x1.9c4918p64f,
        0x1.ae89fap64f, 0x1.c199bep64f, 0x1.d5818ep64f, 0x1.ea4afap64f};
    alignas(64) static const float lacking[16] = {
        0, 0x1.8d96d4p-25f, -0x1.9c0c22p-27f, 0x1.964904p-25f, 0x1.125002p-25f, 0x1.370be4p-25f, -0x1.0a3550p-25f,
        -0x1.00d8acp-27f, 0x1.26055cp-26f, -0x1.05cb44p-25f, 0x1.67a1cap-28f, 0x1.a3b5e4p-28f, -0x1.f9c304p-27f,
        -0x1.6961b4p-28f, -0x1.a5217cp-28f, 0x1.61428ep-28f};
    const F16 magic = F16::of(sixteenths);
    decltype(equal(d, d)) above;
    d = from(F16::of(static_cast<float>(deepest<F16>)), d, &above);
    const F16 sum = fma(d, F16::of(1.44269504088896341f), magic), n = sum - magic;
    F16 r = fma(n, F16::of(-0.693359375f), d);
    r = carried ? r + fma(n, F16::of(2.12194440e-4f), low) : fma(n, F16::of(2.12194440e-4f), r);
    const F16 power = lookup(F16::load(powers), sum), short_of = lookup(F16::load(lacking), sum);
    const F16 half = fma(r, F16::of(1.66666672e-1f), F16::of(0.500016212f));
    r = fma(r * r, half, r + short_of);
    return scaled(above, fma(power, r, power), sum, n);
}

// Taylor's series to degree 13, whose remainder is 4e-18 on |r| <= ln 2 / 2.
XENT_INLINE D8 exp_times(D8 d, D8 low, D8 factor) {
    const D8 magic = D8::of(wholes);
    decltype(equal(d, d)) above;
    d = from(D8::of(deepest<D8>), d, &above);
    const D8 sum = fma(d, D8::of(1.4426950408889634074), magic), n = sum - magic;
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
    // the factor goes in before the scale, so that a product in the normal range does not pass through a subnormal exp
    return scaled(above, p * factor, sum, n);
}
template <bool carried> XENT_INLINE D8 exp_lifted(D8 d, D8 low) { return exp_times(d, low, D8::of(1)); }

// log(1 + r) for r >= 0: 1 + r = 2**k (1 + f), and log(1 + f) = f - f**2/2 + s (f**2/2 + R(s**2)) with s = f / (2 + f),
// as in fdlibm. k = 0 leaves r as it is, so a tiny r keeps its digits. `exact`: to 1.4 ulp of double, otherwise to 2**-34.
template <bool exact> XENT_INLINE D8 log1p(D8 r) {
    const D8 one = D8::of(1);
    D8 k, down;
    binade(r + one, &k, &down);
    const D8 f = fma(r, down, down - one);  // (r - (2**k - 1)) / 2**k
    const D8 s = divided(f, f + D8::of(2)), z = s * s, square = f * f * D8::of(0.5);
    D8 p;
    if (exact) {
        p = fma(z, D8::of(2.0 / 23), D8::of(2.0 / 21));
        p = fma(z, p, D8::of(2.0 / 19)), p = fma(z, p, D8::of(2.0 / 17)), p = fma(z, p, D8::of(2.0 / 15));
        p = fma(z, p, D8::of(2.0 / 13)), p = fma(z, p, D8::of(2.0 / 11));
    } else {
        p = D8::of(2.0 / 11);
    }
    p = fma(z, p, D8::of(2.0 / 9)), p = fma(z, p, D8::of(2.0 / 7));
    p = fma(z, p, D8::of(2.0 / 5)), p = fma(z, p, D8::of(2.0 / 3));
    const D8 rest = fma(k, D8::of(1.90821492927058770002e-10), s * fma(z, p, square)) - square;
    return fma(k, D8::of(6.93147180369123816490e-01), rest + f);
}

// What `high = a - b` dropped (Knuth's TwoSum).
template <class V> XENT_INLINE V dropped(V a, V b, V high) {
    const V back = high - a;
    return (a - (high - back)) - (b + back);
}

// x - peak, and what its rounding dropped, if that is `carried`.
template <class V, bool carried> struct Distance {
    V peak;
    XENT_INLINE explicit Distance(V p) : peak(p) {}
    XENT_INLINE V operator()(V x, V *low) const {
        const V d = x - peak;
        *low = carried ? lost(x, d) : V::of(0);
        return d;
    }

   private:
    // The smaller of x and -peak is the larger in magnitude, since x <= peak: Dekker's FastTwoSum.
    XENT_INLINE V lost(V x, V d) const {
        const V turned = V::of(0) - peak;
        return larger(turned, x) - (d - smaller(turned, x));
    }
};

// lift * exp(x - peak): what the rounding of x - peak drops would be a relative error of exp, so it is carried. The bits
// depend on the difference alone, whatever the logits have in common, and a peak's own are those of lift.
template <class V, bool carried> struct Exponential {
    Distance<V, carried> distance{V::of(0)};
    Exponential() = default;
    explicit Exponential(double peak) : distance(V::of(static_cast<typename V::Real>(peak))) {}
    explicit Exponential(V peaks) : distance(peaks) {}
    XENT_INLINE V operator()(V x) const {
        V low;
        const V d = distance(x, &low);
        return exp_lifted<carried>(d, low);
    }
};

// Sums of doubles in lanes. A careful one carries what each addition drops.
template <bool careful> struct Sum;
template <> struct Sum<true> {
    D8 sum = D8::of(0), lost = D8::of(0);
    XENT_INLINE void add(D8 x) {
        const D8 next = sum + x, back = next - sum;
        lost = lost + ((sum - (next - back)) + (x - back));
        sum = next;
    }
    XENT_INLINE D8 lanes() const {
        const D8 whole = sum + lost;
        return select(equal(whole - whole, D8::of(0)), whole, sum);  // an infinity has no rounding to carry
    }
    // Over the lanes, in one order: halves, quarters, ...
    double total() const {
        double v[8], w[8];
        sum.store(v), lost.store(w);
        for (int n = 4; n; n /= 2)
            for (int i = 0; i < n; i++) {
                const double s = v[i] + v[i + n], back = s - v[i];
                w[i] += w[i + n] + ((v[i] - (s - back)) + (v[i + n] - back));
                v[i] = s;
            }
        const double s = v[0] + w[0];
        return s - s == 0 ? s : v[0];
    }
};
template <> struct Sum<false> {
    D8 sum = D8::of(0);
    XENT_INLINE void add(D8 x) { sum = sum + x; }
    XENT_INLINE D8 lanes() const { return sum; }
    double total() const { return sum_of(sum); }
};

// Sums of lanes of either kind, in double. Floats are doubles that need no such care.
template <class V, bool careful> struct SumOf;
template <bool careful> struct SumOf<D8, careful> : Sum<careful> {};
template <bool careful> struct SumOf<F16, careful> {
    Sum<careful> low, high;
    XENT_INLINE void add(F16 x) { low.add(low_half(x)), high.add(high_half(x)); }
    double total() const {
        Sum<careful> both = low;
        both.add(high.sum);
        return both.total();
    }
};

// sum e and sum e g of lanes of floats, in double.
struct Moments {
    D8 zeroth[2] = {D8::of(0), D8::of(0)}, first[2] = {D8::of(0), D8::of(0)};
    XENT_INLINE void add(F16 e, F16 g) {
        const Each<F16> a = widen_lanes(e), b = widen_lanes(g);
        for (int h = 0; h < 2; h++)
            zeroth[h] = zeroth[h] + a.half[h], first[h] = fma(a.half[h], b.half[h], first[h]);
    }
    double mass() const { return sum_of(zeroth[0] + zeroth[1]); }
    double moment() const { return sum_of(first[0] + first[1]); }
};

}  // namespace XENT_ISA
