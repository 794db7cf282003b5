// Kernels on one row of V classes that lie side by side. No torch, no options: see docs/design/numerics.md for the
// algebra. Lane i of a vector holds class i, i + lanes, ...: the order of every sum depends on V alone.
#pragma once
#include <cmath>
#include <limits>

#include "types.hpp"

namespace XENT_ISA {

constexpr double infinity = std::numeric_limits<double>::infinity();

// What of every row of a call is the same.
template <class Wide> struct ClassWeights {
    const Wide *lanes = nullptr;     // nullptr: all 1
    const double *exact = nullptr;
    double sum = 0;
};

// A row of T, computed in lanes of V.
template <class T, class V> class Row {
   public:
    using Wide = typename V::Real;
    // float64 logits carry roundings in sums; they and float32 logits computed in float carry that of x - peak.
    // (16-bit logits differ by something that float holds to 2**-24 of itself, 2**-13 of what they resolve.)
    static constexpr bool careful = sizeof(T) == 8, carried = careful || (sizeof(T) == 4 && sizeof(Wide) == 4);
    using Sum = typename SumOf<V, careful>::type;
    static constexpr int lanes = V::lanes;

    Row(const T *logits, int64_t classes) : x(logits), size(classes) {}

    double find_peak() {
        V a = V::of(-std::numeric_limits<Wide>::infinity()), b = a, c = a, d = a;
        int64_t j = 0;
        for (; j + 4 * lanes <= size; j += 4 * lanes) {
            a = larger(a, full(x + j)), b = larger(b, full(x + j + lanes));
            c = larger(c, full(x + j + 2 * lanes)), d = larger(d, full(x + j + 3 * lanes));
        }
        for (; j < size; j += lanes) a = larger(a, logits_at(j));
        a = larger(larger(a, b), larger(c, d));
        Wide v[lanes];
        a.store(v);
        Wide top = v[0];
        for (int i = 1; i < lanes; i++) top = v[i] > top ? v[i] : top;
        return set_peak(top + Wide(0));  // -0 becomes 0, whatever came first
    }

    double set_peak(double value) {
        peak = static_cast<Wide>(value);
        return peak;
    }

    // sum exp(x - peak) without one occurrence of the peak; nan where the peak is not finite.
    double rest() const {
        Sum below;
        const V zero = V::of(0), one = V::of(1), up = V::of(lift);
        V peaks = zero;  // whole numbers, exact up to 2**24 a lane
        each([&](int64_t, V d, V low) {
            auto top = equal(d, zero);
            below.add(select(top, zero, exp_times(d, low, up)));
            peaks = peaks + select(top, one, zero);
        });
        if (!(std::fabs(peak) <= std::numeric_limits<Wide>::max())) return std::numeric_limits<double>::quiet_NaN();
        Sum counted;
        counted.add(peaks);
        return below.total() / lift + (counted.total() - 1.0);
    }

    bool holds_nan() const {
        for (int64_t j = 0; j < size; j++)
            if (widen(x[j]) != widen(x[j])) return true;
        return false;
    }

    // sum a (x - peak) and sum a, for a = q w (or w where q is null); classes with a = 0 are left out.
    template <class Q> void moments(const Q *q, const ClassWeights<Wide> &w, double *picked, double *mass) const {
        const D8 zero = D8::of(0), top = D8::of(peak);
        both(picked, mass, [&](int64_t j, auto half, auto &first, auto &zeroth) XENT_ALWAYS {
            D8 a = attraction(q, w, j, half);
            first.add(select(equal(a, zero), zero, a * (half(logits_at(j)) - top)));
            zeroth.add(a);
        });
    }

    // sum a over the classes at the peak, and over the others.
    template <class Q> void split(const Q *q, const ClassWeights<Wide> &w, double *top, double *off) const {
        const D8 zero = D8::of(0), highest = D8::of(peak);
        both(top, off, [&](int64_t j, auto half, auto &on, auto &below) XENT_ALWAYS {
            D8 a = attraction(q, w, j, half);
            auto at_peak = equal(half(logits_at(j)), highest);
            on.add(select(at_peak, a, zero));
            below.add(select(at_peak, zero, a));
        });
    }

    // out_j = exp(x_j - peak) scale, and `lifted` at a lone peak.
    void gradient(T *out, double scale, bool lone, double lifted) const {
        const V zero = V::of(0), factor = V::of(static_cast<Wide>(scale)), top = V::of(static_cast<Wide>(lifted));
        const V slip = slip_of(scale);
        each([&](int64_t j, V d, V low) {
            V g = exp_times(d, low + slip, factor);
            put(out, j, lone ? select(equal(d, zero), top, g) : g);
        });
    }
    // out_j = exp(x_j - peak) scale - hard q_j w_j - smooth w_j, and `lifted` at a lone peak.
    // A difference, so it is taken in double.
    template <class Q>
    void gradient(T *out, double scale, bool lone, double lifted, double hard, const Q *q, double smooth,
                  const ClassWeights<Wide> &w) const {
        const bool silent = scale == 0;
        const V zero = V::of(0), top = V::of(static_cast<Wide>(lifted)), up = V::of(lift);
        const D8 factor = D8::of(scale / lift), h = D8::of(-hard), s = D8::of(-smooth);
        each([&](int64_t j, V d, V low) {
            V e = exp_times(d, low, up), g;
            auto part = [&](auto half) XENT_ALWAYS {
                D8 of_half = silent ? D8::of(0) : half(e) * factor;
                if (q) of_half = fma(h, attraction(q, w, j, half), of_half);
                if (smooth != 0) of_half = w.lanes ? fma(s, half(weights_at(w, j)), of_half) : of_half + s;
                return of_half;
            };
            D8 first = part([](V v) XENT_ALWAYS { return first_of(v); });
            join(&g, first, lanes > D8::lanes ? part([](V v) XENT_ALWAYS { return second_of(v); }) : first);
            put(out, j, lone ? select(equal(d, zero), top, g) : g);
        });
    }

    // exp(x_j - peak) / (1 + rest), or its logarithm.
    template <class O> void softmax(O *out, double rest) const {
        const double scale = 1.0 / (1.0 + rest);
        const V share = V::of(static_cast<Wide>(scale)), slip = slip_of(scale);
        each([&](int64_t j, V d, V low) { put(out, j, exp_times(d, low + slip, share)); });
    }
    template <class O> void log_softmax(O *out, double rest) const {
        const V top = V::of(peak), log_mass = V::of(static_cast<Wide>(std::log1p(rest)));
        const V lowest = V::of(std::numeric_limits<Wide>::lowest()), zero = V::of(0);
        for (int64_t j = 0; j < size; j += lanes) {
            V v = logits_at(j), d = v - top;
            V low = carried ? select(equal(larger(lowest, d), d), dropped(v, top, d), zero) : zero;  // none in -inf
            put(out, j, (d - log_mass) + low);
        }
    }

    // g at the first class at the peak; 0 if there is none.
    template <class G> double at_peak(const G *g) const {
        for (int64_t j = 0; j < size; j++)
            if (widen(x[j]) == peak) return widen(g[j]);
        return 0;
    }

    // sum exp(x - peak) (g - origin) over the classes at the peak, and over the others; an exp of 0 leaves its class
    // out. In float lanes 0 may stand for an exp that double holds, so there an inf or nan of g shows in the sums.
    template <class G> void slopes(const G *g, double origin, double *top, double *off) const {
        const D8 none = D8::of(0), middle = D8::of(origin);
        V d = V::of(0), e = d;
        int64_t at = -1;
        both(top, off, [&](int64_t j, auto half, auto &on, auto &below) XENT_ALWAYS {
            if (j != at) at = j, d = distance(j), e = exp_times(d, lost_at(j, d), V::of(lift));
            D8 p = half(e), term = p * (half(values_at(g, j)) - middle);
            if (lanes == D8::lanes) term = select(equal(p, none), none, term);
            auto peaks = equal(half(d), none);
            on.add(select(peaks, term, none));
            below.add(select(peaks, none, term));
        });
        *top /= lift, *off /= lift;
    }
    // p_j (g_j - origin - mean), and `lifted` at a lone peak: in double, since it is a difference.
    template <class G>
    void softmax_gradient(T *out, const G *g, double rest, double origin, double mean, bool lone, double lifted) const {
        const V zero = V::of(0), top = V::of(static_cast<Wide>(lifted)), up = V::of(lift);
        const D8 none = D8::of(0), share = D8::of(1.0 / (1.0 + rest) / lift);
        const D8 middle = D8::of(origin), off = D8::of(mean);
        each([&](int64_t j, V d, V low) {
            V e = exp_times(d, low, up), step;
            auto part = [&](auto half) XENT_ALWAYS {
                D8 p = half(e);
                return select(equal(p, none), none, p * share * ((half(values_at(g, j)) - middle) - off));
            };
            D8 first = part([](V v) XENT_ALWAYS { return first_of(v); });
            join(&step, first, lanes > D8::lanes ? part([](V v) XENT_ALWAYS { return second_of(v); }) : first);
            put(out, j, lone ? select(equal(d, zero), top, step) : step);
        });
    }

    const T *x;
    int64_t size;
    Wide peak = 0;

    // exp of less counts for nothing, whatever it is multiplied with; -inf is brought up to it and nan stays.
    static constexpr Wide deepest = sizeof(Wide) < 8 ? Wide(-170) : Wide(-1400);

   private:
    // What exp is multiplied with on its way into a sum of doubles: 1e-65 of the peak still has all its digits in
    // floats then, and `deepest` is 0.
    static constexpr Wide lift = sizeof(Wide) < 8 ? Wide(0x1p90) : Wide(1);

    // What the rounding of a factor to float drops, as something to add to the exponent.
    static V slip_of(double scale) {
        const Wide kept = static_cast<Wide>(scale);
        return V::of(carried && sizeof(Wide) < 8 && kept != 0 ? static_cast<Wide>((scale - kept) / kept) : Wide(0));
    }
    template <class Q> static XENT_INLINE V full(const Q *p) { return Io<V, Q>::load(p); }
    template <class Q> XENT_INLINE V values_at(const Q *q, int64_t j, double fill = 0) const {
        return j + lanes <= size ? full(q + j) : load_part<V>(q + j, size - j, fill);
    }
    XENT_INLINE V logits_at(int64_t j) const { return values_at(x, j, -infinity); }
    XENT_INLINE V weights_at(const ClassWeights<Wide> &w, int64_t j) const { return values_at(w.lanes, j); }
    XENT_INLINE V ones_at(int64_t j) const {
        if (j + lanes <= size) return V::of(1);
        Wide ones[lanes];
        for (int i = 0; i < lanes; i++) ones[i] = j + i < size ? Wide(1) : Wide(0);
        return V::load(ones);
    }
    template <class Q, class Half>
    XENT_INLINE D8 attraction(const Q *q, const ClassWeights<Wide> &w, int64_t j, Half half) const {
        if (!q) return half(w.lanes ? weights_at(w, j) : ones_at(j));
        D8 a = half(values_at(q, j));
        return w.lanes ? a * half(weights_at(w, j)) : a;
    }
    template <class O> XENT_INLINE void put(O *out, int64_t j, V value) const {
        if (j + lanes <= size)
            Io<V, O>::store(out + j, value);
        else
            store_part<V>(out + j, value, size - j);
    }
    // x - peak, no less than `deepest`, and what its rounding dropped.
    XENT_INLINE V distance(int64_t j) const { return larger(V::of(deepest), logits_at(j) - V::of(peak)); }
    XENT_INLINE V lost_at(int64_t j, V d) const {
        if (!carried) return V::of(0);
        V v = logits_at(j), plain = v - V::of(peak);
        return select(equal(plain, d), dropped(v, V::of(peak), d), V::of(0));
    }
    // visit(j, x - peak, what its rounding dropped), a vector of classes at a time.
    template <class Visit> XENT_INLINE void each(Visit visit) const {
        const V top = V::of(peak), bound = V::of(deepest), zero = V::of(0);
        for (int64_t j = 0; j < size; j += lanes) {
            V v = logits_at(j), plain = v - top, d = larger(bound, plain);
            visit(j, d, carried ? select(equal(plain, d), dropped(v, top, plain), zero) : zero);
        }
    }
    // Two sums over the classes in double; add(j, half, first, second) is asked for each half of float lanes.
    template <class Add> XENT_INLINE void both(double *first, double *second, Add add) const {
        using Part = typename SumOf<D8, careful>::type;
        Part a, b, c, d;
        for (int64_t j = 0; j < size; j += lanes) {
            add(j, [](V v) XENT_ALWAYS { return first_of(v); }, a, b);
            if (lanes == 2 * D8::lanes) add(j, [](V v) XENT_ALWAYS { return second_of(v); }, c, d);
        }
        *first = a.total() + c.total(), *second = b.total() + d.total();
    }
};

}  // namespace XENT_ISA
