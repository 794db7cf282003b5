// Kernels on one row of V classes that lie side by side: lane i of a vector holds class i, i + lanes, ..., so the order
// of every sum depends on V alone. No torch, no options: see docs/design/numerics.md for the algebra.
#pragma once
#include "types.hpp"

namespace XENT_ISA {

// A row's peak, and its mass without one occurrence of it: sum exp(x - peak) - 1.
struct Facts {
    double peak = -infinity, rest = 0;
};

// Two parts of a row as one: shift to the larger peak and add. A part without mass has peak -inf.
inline Facts merged(Facts a, Facts b) {
    if (b.peak > a.peak || b.peak != b.peak) std::swap(a, b);
    if (b.peak == -infinity) return a;
    const double d = b.peak - a.peak, back = d - b.peak, low = (b.peak - (d - back)) - (a.peak + back);
    double e[8];
    exp_times(D8::of(std::fmax(d, deepest<D8>)), D8::of(low - low == 0 ? low : 0.0), D8::of(1)).store(e);
    a.rest += (1 + b.rest) * e[0];
    return a;
}

// A row of T, computed in lanes of V.
template <class T, class V> class Row {
   public:
    using Wide = typename V::Real;
    // float64 logits carry roundings in sums; they and float32 logits computed in float carry that of x - peak.
    // (16-bit logits differ by something that float holds to 2**-24 of itself, 2**-13 of what they resolve.)
    static constexpr bool careful = sizeof(T) == 8, carried = careful || (sizeof(T) == 4 && sizeof(Wide) == 4);
    static constexpr int lanes = V::lanes, halves = Each<V>::halves;

    Row(const T *logits, int64_t classes) : x(logits), size(classes) {}
    Row(const T *logits, int64_t classes, double at) : x(logits), size(classes), peak(static_cast<Wide>(at)) {}

    // The facts; false where float lanes cannot tell them.
    bool survey(Facts *facts) {
        if constexpr (lanes == D8::lanes)
            in_double(facts);
        else
            return online(facts);
        return true;
    }

    // sum a (x - peak) and sum a, for a = q w (or w where q is null, 1 where w is); classes with a = 0 are left out.
    void moments(const T *q, const double *w, double *picked, double *mass) const {
        Sum<careful> first, zeroth;
        attractions(q, w, [&](D8 a, D8 d) XENT_ALWAYS {
            const D8 zero = D8::of(0);
            first.add(select(equal(a, zero), zero, a * d)), zeroth.add(a);
        });
        *picked = first.total(), *mass = zeroth.total();
    }

    // sum a over the classes at the peak, and over the others.
    void split(const T *q, const double *w, double *top, double *off) const {
        Sum<careful> on, below;
        attractions(q, w, [&](D8 a, D8 d) XENT_ALWAYS {
            const auto level = equal(d, D8::of(0));
            on.add(select(level, a, D8::of(0))), below.add(select(level, D8::of(0), a));
        });
        *top = on.total(), *off = below.total();
    }

    // The same with class weights of 1, in lanes of floats.
    void split_floats(const T *q, double *top, double *off) const {
        const V highest = V::of(peak), zero = V::of(0);
        SumOf<V, careful> on, below;
        for (int64_t j = 0; j < size; j += lanes) {
            const V a = values_at(q, j);
            const auto level = equal(logits_at(j), highest);
            below.add(select(level, zero, a));
            if (__builtin_expect(any(level), false)) on.add(select(level, a, zero));
        }
        *top = on.total(), *off = below.total();
    }

    // out_j = exp(x_j - peak) factor. `past`: out is not read soon, so it goes past the cache.
    void scaled_exp(T *out, double factor, bool past) const {
        const Exponential<V, carried> exp(peak);
        const V f = V::of(static_cast<Wide>(factor / lift<V>));
        write(out, past, [&](int64_t, V v) XENT_ALWAYS { return exp(v) * f; });
    }
    // out_j = exp(x_j - peak) factor - hard q_j w_j - smooth w_j, and `lifted` at a lone peak. Where there are class
    // weights the difference is taken in double.
    void difference(T *out, double factor, bool lone, double lifted, double hard, const T *q, double smooth,
                    const double *w, bool past) const {
        if (halves == 2 && !w) return difference_floats(out, factor, lone, lifted, hard, q, smooth, past);
        const D8 h = D8::of(-hard), s = D8::of(-smooth), zero = D8::of(0);
        const Exponential<V, carried> exp(peak);
        const D8 f = D8::of(factor / lift<V>);
        in_halves(exp, out, q, lone, lifted, past, [&](int64_t j, D8 e, D8 of_q) XENT_ALWAYS {
            D8 g = factor == 0 ? zero : e * f;
            const D8 weight = w ? weights_at(w, j) : D8::of(1);
            if (q) g = fma(h, w ? of_q * weight : of_q, g);
            return smooth != 0 ? fma(s, weight, g) : g;
        });
    }
    void difference_floats(T *out, double factor, bool lone, double lifted, double hard, const T *q, double smooth,
                           bool past) const {
        const Exponential<V, carried> exp(peak);
        const auto of = [](double value) { return V::of(static_cast<Wide>(value)); };
        const V f = of(factor / lift<V>), h = of(-hard), s = of(-smooth), at_peak = V::of(peak), top = of(lifted);
        write(out, past, [&](int64_t j, V v) XENT_ALWAYS {
            const V asked = q ? fma(values_at(q, j), h, s) : s, g = factor == 0 ? asked : fma(exp(v), f, asked);
            return lone ? select(equal(v, at_peak), top, g) : g;
        });
    }
    void log_softmax(T *out, Wide log_of_mass, bool past) const {
        const V top = V::of(peak), log_mass = V::of(log_of_mass);
        const V lowest = V::of(std::numeric_limits<Wide>::lowest()), zero = V::of(0);
        write(out, past, [&](int64_t, V v) XENT_ALWAYS {
            const V d = v - top;
            const V low = carried ? select(equal(larger(lowest, d), d), dropped(v, top, d), zero) : zero;  // none in -inf
            return (d - log_mass) + low;
        });
    }

    // The sum of g over the classes at the peak, and that of exp(x - peak) g over the others; an exp of 0 leaves its class
    // out. An error of exp moves the mean of g by itself times what g differs from the mean, if the mean is taken with
    // the mass of the same exps: float lanes put that in the place of `rest`. There 0 may stand for an exp that double
    // holds; the result, sum g**2, tells whether that matters (0 in lanes of double).
    double slopes(const T *g, double *rest, double *top, double *off, Wide *kept = nullptr) const {
        if constexpr (halves == 2) return slopes_floats(g, rest, top, off, kept);
        const Exponential<V, carried> exp(peak);
        const D8 none = D8::of(0), highest = D8::of(peak);
        Sum<careful> on, below;
        for (int64_t j = 0; j < size; j += lanes) {
            const V v = logits_at(j);
            const D8 e = first_of(exp(v)), asked = select(equal(e, none), none, e * first_of(values_at(g, j)));
            const auto level = equal(first_of(v), highest);
            on.add(select(level, asked, none)), below.add(select(level, none, asked));
        }
        *top = on.total(), *off = below.total();
        return 0;
    }
    double slopes_floats(const T *g, double *rest, double *top, double *off, Wide *kept) const {
        const Exponential<V, carried> exp(peak);
        const V highest = V::of(peak), zero = V::of(0);
        SumOf<V, careful> on;
        Moments below;
        int64_t peaks = 0;
        V squares = zero;
        for (int64_t j = 0; j < size; j += lanes) {
            const V v = logits_at(j), e = exp(v), slope = values_at(g, j);
            if (kept) e.store(kept + j);
            const auto level = equal(v, highest);
            below.add(select(level, zero, e), slope), squares = fma(slope, slope, squares);
            if (__builtin_expect(any(level), false)) on.add(select(level, slope, zero)), peaks += number(level);
        }
        *rest = below.mass() / lift<V> + static_cast<double>(peaks - 1);
        *top = on.total(), *off = below.moment() / lift<V>;
        return sum_of(low_half(squares) + high_half(squares));
    }
    // p_j (g_j - origin - mean), and `lifted` at a lone peak.
    void softmax_gradient(T *out, const T *g, double rest, double origin, double mean, bool lone, double lifted,
                          bool past, const Wide *kept = nullptr) const {
        const Exponential<V, carried> exp(peak);
        const double share = 1.0 / (1.0 + rest) / lift<V>;
        if constexpr (halves == 2) {
            const auto of = [](double value) { return V::of(static_cast<Wide>(value)); };
            const V f = of(share), high = of(origin), low = of(mean), at_peak = V::of(peak), single = of(lifted);
            return write(out, past, [&](int64_t j, V v) XENT_ALWAYS {
                // the factor last: what comes before it is in the normal range
                const V step = (kept ? values_at(kept, j) : exp(v)) * ((values_at(g, j) - high) - low) * f;
                return lone ? select(equal(v, at_peak), single, step) : step;
            });
        }
        const D8 none = D8::of(0), f = D8::of(share), high = D8::of(origin), low = D8::of(mean);
        in_halves(exp, out, g, lone, lifted, past, [&](int64_t, D8 e, D8 slope) XENT_ALWAYS {
            return select(equal(e, none), none, e * f * ((slope - high) - low));
        });
    }

    // sum exp(x - peak) (x - peak), how many classes exceed `own`, and the first class at the peak or that is nan, -1 if
    // there is none. In lanes of double.
    void spread(double own, double *moment, double *above, double *first) const {
        const Exponential<V, carried> exp(peak);
        const V top = V::of(peak), rank = V::of(own), zero = V::of(0);
        Sum<careful> sum;
        int64_t over = 0, found = -1;
        for (int64_t j = 0; j < size; j += lanes) {
            const V v = logits_at(j), e = exp(v);
            sum.add(select(equal(e, zero), zero, e * (v - top)));
            over += number(at_least(v, rank)) - number(equal(v, rank));
            if (found < 0 && __builtin_expect(any(equal(v, top)) || number(equal(v, v)) != lanes, false)) {
                double each[lanes];
                v.store(each);
                for (int k = 0; k < lanes && found < 0; k++)
                    if (j + k < size && (each[k] == peak || each[k] != each[k])) found = j + k;
            }
        }
        *moment = sum.total(), *above = static_cast<double>(over), *first = static_cast<double>(found);
    }
    // share exp(x - peak) (lse - entropy (x - peak - mean)); a factor of 0 leaves its term out, an exp of 0 its class.
    void spread_gradient(T *out, double share, double mean, double lse, double entropy, bool past) const {
        const Exponential<V, carried> exp(peak);
        const V top = V::of(peak), centre = V::of(mean), zero = V::of(0), f = V::of(share);
        const V constant = V::of(lse), steep = V::of(-entropy);
        write(out, past, [&](int64_t, V v) XENT_ALWAYS {
            const V e = exp(v), slope = entropy == 0 ? constant : fma(steep, (v - top) - centre, constant);
            return select(equal(e, zero), zero, e * f * slope);
        });
    }

    double find_peak() const {
        V a = V::of(-std::numeric_limits<Wide>::infinity()), b = a, c = a, d = a;
        int64_t j = 0;
        for (; j + 4 * lanes <= size; j += 4 * lanes) {
            for (int k = 0; k < 4; k++) ahead(x + j + k * lanes);
            a = larger(a, full(x + j)), b = larger(b, full(x + j + lanes));
            c = larger(c, full(x + j + 2 * lanes)), d = larger(d, full(x + j + 3 * lanes));
        }
        for (; j < size; j += lanes) a = larger(a, logits_at(j));
        return largest(larger(larger(a, b), larger(c, d))) + Wide(0);  // -0 becomes 0, whatever came first
    }
    // Asks for what is read a page later: hardware does not look across pages. It took a quarter of the time of float32
    // rows of 32,000 classes, and half of 16-bit ones.
    template <class Q> static XENT_INLINE void ahead(const Q *p) {
        __builtin_prefetch(reinterpret_cast<const void *>(reinterpret_cast<uintptr_t>(p) + 4096));
    }
    template <class Q> static XENT_INLINE V full(const Q *p) { return Io<V, Q>::load(p); }
    XENT_INLINE V logits_at(int64_t j) const { return values_at(x, j, -infinity); }

    // out_j = value(j, x_j), a vector of classes at a time.
    template <class O, class Value> XENT_INLINE void write(O *out, bool past, Value value) const {
        constexpr size_t line = sizeof(O) * lanes;
        int64_t j = 0;
        if (past && size >= 2 * lanes) {
            const size_t beyond = reinterpret_cast<uintptr_t>(out) % line;
            if (beyond) {  // up to where the vectors are aligned
                j = static_cast<int64_t>((line - beyond) / sizeof(O));
                Io<V, O>::store_part(out, value(0, full(x)), j);
            }
            for (; j + lanes <= size; j += lanes) ahead(x + j), Io<V, O>::stream(out + j, value(j, full(x + j)));
        }
        for (; j + lanes <= size; j += lanes) ahead(x + j), Io<V, O>::store(out + j, value(j, full(x + j)));
        if (j < size) Io<V, O>::store_part(out + j, value(j, logits_at(j)), size - j);
    }

    const T *x;
    int64_t size;
    Wide peak = 0;

   private:
    bool holds_nan() const {
        for (int64_t j = 0; j < size; j++)
            if (widen(x[j]) != widen(x[j])) return true;
        return false;
    }

    // Peak first, then the sum; whatever the logits are.
    void in_double(Facts *facts) {
        Sum<careful> below;
        const V zero = V::of(0), one = V::of(1);
        peak = static_cast<Wide>(find_peak());
        const Exponential<V, carried> exp(peak);
        const V top = V::of(peak);
        V peaks = zero;  // whole numbers
        for (int64_t j = 0; j < size; j += lanes) {
            const V v = logits_at(j);
            const auto level = equal(v, top);
            below.add(select(level, zero, exp(v)));
            peaks = peaks + select(level, one, zero);
        }
        Sum<careful> counted;
        counted.add(peaks);
        const bool finite = std::fabs(peak) < infinity;
        *facts = {peak, finite ? below.total() + (counted.total() - 1.0) : std::numeric_limits<double>::quiet_NaN()};
        if (facts->rest != facts->rest && holds_nan()) facts->peak = facts->rest;  // `larger` passes over nan
    }

    // One pass in blocks of four vectors. A block that reaches the peak so far is looked at closely: it may raise it, and
    // what equals it is counted and not summed.
    bool online(Facts *facts) {
        SumOf<V, false> below;
        double before = 0, peaks = 0;  // what was summed under lower peaks, and the classes at this one
        peak = -std::numeric_limits<Wide>::infinity();
        Exponential<V, carried> exp(0);
        V top = V::of(peak);
        for (int64_t j = 0; j < size; j += 4 * lanes) {
            V v[4], e[4];
            if (j + 4 * lanes <= size)
                for (int k = 0; k < 4; k++) v[k] = full(x + j + k * lanes), ahead(x + j + k * lanes);
            else
                for (int k = 0; k < 4; k++) v[k] = j + k * lanes < size ? logits_at(j + k * lanes) : V::of(-infinity);
            const V most = larger(larger(v[0], v[1]), larger(v[2], v[3]));
            const bool close = any(at_least(most, top));
            if (__builtin_expect(close, false)) {
                const double highest = largest(most) + Wide(0);
                if (highest == -infinity) {  // and the peak so far: nothing to add, unless it is nan
                    const V sum = (v[0] + v[1]) + (v[2] + v[3]);
                    if (number(equal(sum, sum)) == lanes) continue;
                    return false;
                }
                if (highest > peak) {
                    if (!(highest < infinity)) return false;
                    const Facts moved = merged({highest, 0}, {peak, below.total() / lift<V> + before + (peaks - 1)});
                    // without a peak so far there was nothing to sum, or a block of nothing but nan
                    before = peaks == 0 ? below.total() : moved.rest, below = {}, peaks = 0;
                    peak = static_cast<Wide>(highest), top = V::of(peak), exp = Exponential<V, carried>(highest);
                }
            }
            for (int k = 0; k < 4; k++) e[k] = exp(v[k]);
            if (__builtin_expect(close, false))
                for (int k = 0; k < 4; k++) {
                    const auto level = equal(v[k], top);
                    e[k] = select(level, V::of(0), e[k]), peaks += number(level);
                }
            below.add((e[0] + e[1]) + (e[2] + e[3]));
        }
        if (peak == -std::numeric_limits<Wide>::infinity()) return false;
        *facts = {peak, below.total() / lift<V> + before + (peaks - 1)};
        return facts->rest == facts->rest;
    }
    template <class Q> XENT_INLINE V values_at(const Q *q, int64_t j, double fill = 0) const {
        if (j + lanes > size) return Io<V, Q>::load_part(q + j, size - j, fill);
        ahead(q + j);
        return full(q + j);
    }
    XENT_INLINE D8 weights_at(const double *w, int64_t j) const {
        if (j + D8::lanes <= size) return D8::load(w + j);
        return j < size ? Io<D8, double>::load_part(w + j, size - j, 0) : D8::of(0);
    }
    // visit(a, x - peak), eight classes at a time; for lanes of double.
    template <class Visit> XENT_INLINE void attractions(const T *q, const double *w, Visit visit) const {
        static_assert(lanes == D8::lanes, "sums of attractions are taken in double");
        const D8 top = D8::of(peak);
        static const double ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
        for (int64_t j = 0; j < size; j += lanes) {
            D8 a = w ? weights_at(w, j) : j + lanes <= size ? D8::of(1) : Io<D8, double>::load_part(ones, size - j, 0);
            if (q) a = w ? values_at(q, j) * a : values_at(q, j);
            visit(a, logits_at(j) - top);
        }
    }
    // out_j = value(j, exp, other_j) in double, half a vector of floats at a time, and `lifted` at a lone peak.
    template <class Value>
    XENT_INLINE void in_halves(const Exponential<V, carried> &exp, T *out, const T *other, bool lone, double lifted,
                               bool past, Value value) const {
        const V at_peak = V::of(peak), top = V::of(static_cast<Wide>(lifted));
        write(out, past, [&](int64_t j, V v) XENT_ALWAYS {
            const Each<V> e = widen_lanes(exp(v)), beside = other ? widen_lanes(values_at(other, j)) : Each<V>();
            Each<V> g;
            for (int k = 0; k < halves; k++) g.half[k] = value(j + 8 * k, e.half[k], beside.half[k]);
            const V narrowed = narrow(g);
            return lone ? select(equal(v, at_peak), top, narrowed) : narrowed;
        });
    }
};

}  // namespace XENT_ISA
