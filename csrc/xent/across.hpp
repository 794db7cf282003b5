// Kernels on as many rows as there are lanes, lane k holding row k (tile.hpp): no sum goes over the lanes, so a row of
// two classes costs no more than its share. A row's numbers are its own, so neighbours change no bit.
#pragma once
#include "rows.hpp"
#include "tile.hpp"

namespace XENT_ISA {

template <class T, class V> class Across {
   public:
    using Wide = typename V::Real;
    using Numbers = Each<V>;
    static constexpr int halves = Numbers::halves;
    static constexpr bool careful = sizeof(T) == 8, carried = sizeof(T) >= 4;

    // Lanes of logits, `step` apart from class to class, of a distribution and of slopes if there are any.
    Across(Wide *logits, const Wide *of_q, const Wide *of_g, int64_t step, int64_t classes)
        : at(logits), of_q(of_q), of_g(of_g), step(step), size(classes) {}

    V find_peak() const {
        V top = V::of(-std::numeric_limits<Wide>::infinity());
        for (int64_t j = 0; j < size; j++) top = larger(top, logit(j));
        return top + V::of(0);  // -0 becomes 0
    }

    // sum exp(x - peak) without one occurrence of the peak. `keep`: the exponentials take the place of the logits.
    template <bool keep> Numbers rest(V peak) {
        const Exponential<V, carried> exp(peak);
        const V zero = V::of(0), one = V::of(1);
        V peaks = zero;
        Sum<careful> below[halves];
        const auto other = [&](int64_t j) XENT_ALWAYS {
            const V x = logit(j), e = exp(x);
            const auto level = equal(x, peak);
            peaks = peaks + select(level, one, zero);
            if (keep) e.store(at + j * step);
            return select(level, zero, e);
        };
        const auto add = [&](V x) XENT_ALWAYS {
            const Numbers wide = widen_lanes(x);
            for (int h = 0; h < halves; h++) below[h].add(wide.half[h]);
        };
        int64_t j = 0;
        if (halves == 2)
            for (; j + 4 <= size; j += 4) {
                const V a = other(j), b = other(j + 1), c = other(j + 2), d = other(j + 3);
                add((a + b) + (c + d));
            }
        for (; j < size; j++) add(other(j));
        Numbers counted = widen_lanes(peaks), sum;
        for (int h = 0; h < halves; h++)
            sum.half[h] = fma(below[h].lanes(), D8::of(1 / lift<V>), counted.half[h] - D8::of(1));
        return sum;
    }
    // The exponentials in the place of the logits.
    void keep(V peak) {
        const Exponential<V, carried> exp(peak);
        for (int64_t j = 0; j < size; j++) exp(logit(j)).store(at + j * step);
    }

    // What stands at class y[k] of lane k, a logit or what has taken its place; 0 where y is no class.
    V pick_kept(const Wide *y) const { return pick(y); }
    V pick(const Wide *y) const {
        if (size <= glance) {
            const V label = V::load(y);
            V found = V::of(0), j = found;
            for (int64_t k = 0; k < size; k++, j = j + V::of(1)) found = select(equal(label, j), logit(k), found);
            return found;
        }
        Wide found[V::lanes];
        for (int k = 0; k < V::lanes; k++) found[k] = y[k] < 0 ? Wide(0) : at[static_cast<int64_t>(y[k]) * step + k];
        return V::load(found);
    }
    // Kept exponentials times a factor a row, already without the lift, and `entry` at the label if there is one;
    // 0 where the factor is.
    void scale_kept(V factor, const Wide *y, V entry) {
        const V zero = V::of(0);
        const auto silent = equal(factor, zero);
        if (!y || size > glance) {
            for (int64_t k = 0; k < size; k++) select(silent, zero, logit(k) * factor).store(at + k * step);
            return y ? put(y, entry) : void();
        }
        const V label = V::load(y);
        V j = zero;
        for (int64_t k = 0; k < size; k++, j = j + V::of(1))
            select(equal(label, j), entry, select(silent, zero, logit(k) * factor)).store(at + k * step);
    }
    void put(const Wide *y, V entry) {
        Wide entries[V::lanes];
        entry.store(entries);
        for (int k = 0; k < V::lanes; k++)
            if (y[k] >= 0) at[static_cast<int64_t>(y[k]) * step + k] = entries[k];
    }
    void log_softmax(V peak, V log_mass) {
        const V lowest = V::of(std::numeric_limits<Wide>::lowest()), zero = V::of(0);
        for (int64_t j = 0; j < size; j++) {
            const V x = logit(j), d = x - peak;
            const V low = carried ? select(at_least(d, lowest), dropped(x, peak, d), zero) : zero;
            ((d - log_mass) + low).store(at + j * step);
        }
    }

    // sum a (x - peak) and sum a; classes with a = 0 are left out. a = q w, or w where there is no distribution.
    void moments(const Numbers &peak, bool target, const double *w, Numbers *picked, Numbers *mass) const {
        Sum<careful> first[halves], zeroth[halves];
        attractions(target, w, [&](int h, D8 a, D8 x) XENT_ALWAYS {
            const D8 zero = D8::of(0);
            first[h].add(select(equal(a, zero), zero, a * (x - peak.half[h])));
            zeroth[h].add(a);
        });
        for (int h = 0; h < halves; h++) picked->half[h] = first[h].lanes(), mass->half[h] = zeroth[h].lanes();
    }
    // sum a over the classes at the peak, and over the others.
    void split(const Numbers &peak, bool target, const double *w, Numbers *top, Numbers *off) const {
        Sum<careful> on[halves], below[halves];
        attractions(target, w, [&](int h, D8 a, D8 x) XENT_ALWAYS {
            const auto level = equal(x, peak.half[h]);
            on[h].add(select(level, a, D8::of(0))), below[h].add(select(level, D8::of(0), a));
        });
        for (int h = 0; h < halves; h++) top->half[h] = on[h].lanes(), off->half[h] = below[h].lanes();
    }
    // exp(x - peak) factor - hard q w - smooth w, and `lifted` at the peak of rows where `lone` is 1. With class weights
    // the difference is taken in double.
    void difference(V peak, const Numbers &factor, const Numbers &hard, bool target, bool smoothed,
                    const Numbers &smooth, const double *w, const Numbers &lone, const Numbers &lifted) {
        const D8 zero = D8::of(0), down = D8::of(1 / lift<V>);
        Numbers f, minus, less;
        for (int h = 0; h < halves; h++) {
            f.half[h] = factor.half[h] * down;
            minus.half[h] = zero - hard.half[h], less.half[h] = smoothed ? zero - smooth.half[h] : zero;
        }
        const V by = narrow(f), ask = narrow(minus), all = narrow(less), single = narrow(lifted);
        const V highest = lonely(peak, lone), none = V::of(0);
        const auto silent = equal(by, none);
        const Exponential<V, carried> exp(peak);
        for (int64_t j = 0; j < size; j++) {
            const V x = logit(j), e = select(silent, none, exp(x)), q = target ? V::load(of_q + j * step) : x;
            const V g = w ? weighed(e, q, f, minus, less, target, w[j]) : fma(e, by, target ? fma(q, ask, all) : all);
            select(equal(x, highest), single, g).store(at + j * step);
        }
    }
    // The peaks of rows where `lone` is 1; what no logit is elsewhere.
    static XENT_INLINE V lonely(V peak, const Numbers &lone) {
        return select(equal(narrow(lone), V::of(1)), peak, V::of(static_cast<Wide>(infinity)));
    }

    // As Row::slopes. The exponentials take the place of the logits, and -1 that of a lone peak.
    Numbers slopes(V peak, const Numbers &lone, Numbers *rest, Numbers *top, Numbers *off) {
        const Exponential<V, carried> exp(peak);
        const V zero = V::of(0), one = V::of(1), minus = V::of(-1), highest = lonely(peak, lone);
        Sum<careful> on[halves], below[halves], mass[halves];
        V squares = zero, peaks = zero;
        for (int64_t j = 0; j < size; j++) {
            const V x = logit(j), e = exp(x), g = V::load(of_g + j * step);
            const auto level = equal(x, peak);
            select(equal(x, highest), minus, e).store(at + j * step);
            peaks = peaks + select(level, one, zero);
            if (halves == 2) squares = fma(g, g, squares);
            const Numbers other = widen_lanes(select(level, zero, e)), slope = widen_lanes(g);
            const Numbers highs = widen_lanes(select(level, g, zero));
            for (int h = 0; h < halves; h++) {
                const D8 none = D8::of(0), a = other.half[h], term = a * slope.half[h];
                on[h].add(highs.half[h]), mass[h].add(a);
                below[h].add(halves == 2 ? term : select(equal(a, none), none, term));
            }
        }
        const Numbers counted = widen_lanes(peaks);
        for (int h = 0; h < halves; h++) {
            const D8 down = D8::of(1 / lift<V>);
            top->half[h] = on[h].lanes(), off->half[h] = below[h].lanes() * down;
            if (halves == 2) rest->half[h] = fma(mass[h].lanes(), down, counted.half[h] - D8::of(1));
        }
        return widen_lanes(squares);
    }
    // p (g - origin - mean) from what `slopes` left, and `lifted` at a lone peak.
    void softmax_gradient(V, const Numbers &rest, const Numbers &origin, const Numbers &mean, const Numbers &,
                          const Numbers &lifted) {
        Numbers share;
        for (int h = 0; h < halves; h++) share.half[h] = divided(D8::of(1 / lift<V>), D8::of(1) + rest.half[h]);
        const V f = narrow(share), high = narrow(origin), low = narrow(mean), single = narrow(lifted);
        const V zero = V::of(0), minus = V::of(-1);
        for (int64_t j = 0; j < size; j++) {
            const V e = logit(j), step_of = e * ((V::load(of_g + j * step) - high) - low) * f;
            const V p = halves == 2 ? step_of : select(equal(e, zero), zero, step_of);
            select(equal(e, minus), single, p).store(at + j * step);
        }
    }

    // Fewer classes are looked through for the label, lane by lane at once; more are indexed.
    static constexpr int64_t glance = 24;

   private:
    XENT_INLINE V logit(int64_t j) const { return V::load(at + j * step); }
    // visit(half, attraction, logit) for every class.
    template <class Visit> XENT_INLINE void attractions(bool target, const double *w, Visit visit) const {
        for (int64_t j = 0; j < size; j++) {
            const Numbers q = target ? widen_lanes(V::load(of_q + j * step)) : Numbers(), x = widen_lanes(logit(j));
            const D8 weight = D8::of(w ? w[j] : 1.0);
            for (int h = 0; h < halves; h++) visit(h, target ? (w ? q.half[h] * weight : q.half[h]) : weight, x.half[h]);
        }
    }
    // An entry of `difference` under a class weight.
    static XENT_INLINE V weighed(V e, V q, const Numbers &factor, const Numbers &hard, const Numbers &smooth, bool target,
                                 double weight) {
        const Numbers wide = widen_lanes(e), asked = widen_lanes(q);
        const D8 w = D8::of(weight);
        Numbers out;
        for (int h = 0; h < halves; h++) {
            const D8 g = fma(smooth.half[h], w, wide.half[h] * factor.half[h]);
            out.half[h] = target ? fma(hard.half[h], asked.half[h] * w, g) : g;
        }
        return narrow(out);
    }

    Wide *at;
    const Wide *of_q, *of_g;
    int64_t step, size;
};

}  // namespace XENT_ISA
