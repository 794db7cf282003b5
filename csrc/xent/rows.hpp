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
        return set_peak(top);
    }

    double set_peak(double value) {
        peak = static_cast<Wide>(value);
        // Nothing below counts: exp(-150) and exp(-760) are 0. It keeps -inf out of differences; nan stays.
        floor = peak - (sizeof(T) < 8 ? Wide(150) : Wide(760));
        return peak;
    }

    // sum exp(x - peak) without one occurrence of the peak.
    double rest() const {
        Sum below, peaks;
        const V zero = V::of(0), one = V::of(1);
        each([&](int64_t j, V d, V low) {
            (void)j;
            auto top = equal(d, zero);
            below.add(select(top, zero, exp_times(d, low, one)));
            peaks.add(select(top, one, zero));
        });
        if (!(std::fabs(peak) <= std::numeric_limits<Wide>::max())) return std::numeric_limits<double>::quiet_NaN();
        return below.total() + (peaks.total() - 1.0);
    }

    // sum a (x - peak) and sum a, for a = q w (or w where q is null); classes with a = 0 are left out.
    template <class Q> void moments(const Q *q, const ClassWeights<Wide> &w, double *picked, double *mass) const {
        Sum first, zeroth;
        const V zero = V::of(0);
        for (int64_t j = 0; j < size; j += lanes) {
            V a = attraction(q, w, j);
            V term = a * (logits_at(j) - V::of(peak));
            first.add(select(equal(a, zero), zero, term));
            zeroth.add(a);
        }
        *picked = first.total(), *mass = zeroth.total();
    }

    // sum a over the classes at the peak, and over the others.
    template <class Q> void split(const Q *q, const ClassWeights<Wide> &w, double *top, double *off) const {
        Sum on, below;
        const V zero = V::of(0);
        for (int64_t j = 0; j < size; j += lanes) {
            V a = attraction(q, w, j);
            auto at_peak = equal(logits_at(j), V::of(peak));
            on.add(select(at_peak, a, zero));
            below.add(select(at_peak, zero, a));
        }
        *top = on.total(), *off = below.total();
    }

    // out_j = exp(x_j - peak) scale - hard q_j w_j - smooth w_j, and `lifted` at a lone peak.
    template <class Q>
    void gradient(T *out, double scale, bool lone, double lifted, double hard, const Q *q, double smooth,
                  const ClassWeights<Wide> &w) const {
        const V zero = V::of(0), factor = V::of(static_cast<Wide>(scale)), top = V::of(static_cast<Wide>(lifted));
        const V h = V::of(static_cast<Wide>(-hard)), s = V::of(static_cast<Wide>(-smooth));
        const bool silent = scale == 0;
        each([&](int64_t j, V d, V low) {
            V g = silent ? zero : exp_times(d, low, factor);
            if (q) g = fma(h, attraction(q, w, j), g);
            if (smooth != 0) g = w.lanes ? fma(s, weights_at(w, j), g) : g + s;
            if (lone) g = select(equal(d, zero), top, g);
            put(out, j, g);
        });
    }

    // exp(x_j - peak) / (1 + rest), or its logarithm.
    template <class O> void softmax(O *out, double rest) const {
        const V share = V::of(static_cast<Wide>(1.0 / (1.0 + rest)));
        each([&](int64_t j, V d, V low) { put(out, j, exp_times(d, low, share)); });
    }
    template <class O> void log_softmax(O *out, double rest) const {
        const V log_mass = V::of(static_cast<Wide>(std::log1p(rest)));
        const V bottom = V::of(static_cast<Wide>(-infinity));
        for (int64_t j = 0; j < size; j += lanes) {
            V v = logits_at(j), d = v - V::of(peak);
            V low = carried ? select(equal(v, bottom), V::of(0), dropped(v, V::of(peak), d)) : V::of(0);
            put(out, j, (d - log_mass) + low);
        }
    }

    // sum exp(x - peak) g over the classes at the peak, and over the others.
    template <class G> void slopes(const G *g, double *top, double *off) const {
        Sum on, below;
        const V zero = V::of(0), one = V::of(1);
        each([&](int64_t j, V d, V low) {
            auto at_peak = equal(d, zero);
            V e = exp_times(d, low, one), term = e * values_at(g, j);
            term = select(equal(e, zero), zero, term);
            on.add(select(at_peak, term, zero));
            below.add(select(at_peak, zero, term));
        });
        *top = on.total(), *off = below.total();
    }
    // p_j (g_j - mean), with (g_j rest - others) / (1 + rest) for the bracket at a lone peak.
    template <class G>
    void softmax_gradient(T *out, const G *g, double rest, double mean, double others, bool lone) const {
        const V zero = V::of(0), share = V::of(static_cast<Wide>(1.0 / (1.0 + rest)));
        const V middle = V::of(static_cast<Wide>(mean)), away = V::of(static_cast<Wide>(-others / (1.0 + rest)));
        const V under = V::of(static_cast<Wide>(rest / (1.0 + rest)));
        each([&](int64_t j, V d, V low) {
            V p = exp_times(d, low, share), slope = values_at(g, j), step = slope - middle;
            if (lone) step = select(equal(d, zero), fma(slope, under, away), step);
            put(out, j, select(equal(p, zero), zero, p * step));
        });
    }

    const T *x;
    int64_t size;
    Wide peak = 0, floor = 0;

   private:
    template <class Q> static XENT_INLINE V full(const Q *p) { return Io<V, Q>::load(p); }
    template <class Q> XENT_INLINE V values_at(const Q *q, int64_t j, double fill = 0) const {
        return j + lanes <= size ? full(q + j) : load_part<V>(q + j, size - j, fill);
    }
    XENT_INLINE V logits_at(int64_t j) const { return values_at(x, j, -infinity); }
    XENT_INLINE V weights_at(const ClassWeights<Wide> &w, int64_t j) const { return values_at(w.lanes, j); }
    XENT_INLINE V ones_at(int64_t j) const {
        Wide ones[lanes];
        for (int i = 0; i < lanes; i++) ones[i] = j + i < size ? Wide(1) : Wide(0);
        return V::load(ones);
    }
    template <class Q> XENT_INLINE V attraction(const Q *q, const ClassWeights<Wide> &w, int64_t j) const {
        if (!q) return w.lanes ? weights_at(w, j) : ones_at(j);
        V a = values_at(q, j);
        return w.lanes ? a * weights_at(w, j) : a;
    }
    template <class O> XENT_INLINE void put(O *out, int64_t j, V value) const {
        if (j + lanes <= size)
            Io<V, O>::store(out + j, value);
        else
            store_part<V>(out + j, value, size - j);
    }
    // visit(j, x - peak, what its rounding dropped), a vector of classes at a time.
    template <class Visit> XENT_INLINE void each(Visit visit) const {
        const V top = V::of(peak), bound = V::of(floor);
        for (int64_t j = 0; j < size; j += lanes) {
            V v = larger(bound, logits_at(j)), d = v - top;
            visit(j, d, carried ? dropped(v, top, d) : V::of(0));
        }
    }
};

}  // namespace XENT_ISA
