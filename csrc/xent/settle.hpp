// What a batch of rows comes to, a row a lane: facts, losses, factors, whichever kernels look at the classes.
#pragma once
#include "work.hpp"

namespace XENT_ISA {

// Kernel: Across or Beside. Each function returns whether some rows are odd: those that have to go on their own, since
// their facts are not finite or their factors more than float lanes bear.
template <class T, class Kernel> class Settle {
    using V = typename Work<T>::Floats;
    using Wide = typename V::Real;
    using Numbers = Each<V>;
    static constexpr int lanes = V::lanes, halves = Numbers::halves;

   public:
    // Rows r ... r + count - 1 of a call.
    Settle(Work<T> &work, Kernel &kernel, int64_t r, int64_t count, bool *odd)
        : all(work), call(work.call), logits(kernel), r(r), count(count), odd(odd) {
        std::fill(y, y + lanes, Wide(-1)), std::fill(w, w + lanes, 0.0), std::fill(odd, odd + lanes, false);
        if (!work.soft && call.target_kind >= 0) work.labels(r, count, y, w);
    }

    bool run() {
        switch (call.kind) {
            case xent::summary: return summarise();
            case xent::loss: return lose();
            case xent::gradient: return differentiate();
            case xent::softmax_gradient: return differentiate_softmax();
            default: return probabilities();
        }
    }

   private:
    bool plain() const { return !all.soft && !call.mixed && !call.smooth; }

    // Rows whose facts float lanes cannot tell are left to `single`.
    bool flag() {
        Numbers fault;
        const Numbers top = widen_lanes(peak);
        for (int h = 0; h < halves; h++) fault.half[h] = (top.half[h] + rest.half[h]) * D8::of(0);  // nan from inf, nan
        return mark(fault);
    }
    // So are those whose factors they cannot bear.
    bool flag(const Numbers &factor, double smallest) {
        Numbers fault;
        const D8 zero = D8::of(0), one = D8::of(1);
        for (int h = 0; h < halves; h++) {
            const D8 f = factor.half[h], size = larger(f, zero - f);
            const D8 small = select(at_least(size, D8::of(smallest)), zero, select(equal(f, zero), zero, one));
            fault.half[h] = select(at_least(D8::of(0x1p40), size), small, one);
        }
        return mark(fault);
    }
    bool mark(const Numbers &fault) {
        bool none = true;
        for (int h = 0; h < halves; h++) none &= XENT_ISA::all(equal(fault.half[h], D8::of(0)));
        if (__builtin_expect(none, true)) return false;
        double each[lanes];
        fault.store(each);
        bool some = false;
        for (int64_t k = 0; k < count; k++)
            if (!(each[k] == 0)) some = odd[k] = true;
        return some;
    }
    static Numbers same(double x) {
        Numbers of_all;
        for (D8 &half : of_all.half) half = D8::of(x);
        return of_all;
    }
    // The factors of the rows, from one a row or one for all.
    Numbers factors(const double *p) const { return call.step ? facts(p) : same(*p); }
    Numbers facts(const double *p) const {
        if (count == lanes) return Numbers::load(p + r);
        double each[lanes] = {};
        std::copy(p + r, p + r + count, each);
        return Numbers::load(each);
    }
    void put(double *p, const Numbers &x) const {
        if (count == lanes) return x.store(p + r);
        double each[lanes];
        x.store(each);
        std::copy(each, each + count, p + r);
    }
    // 0 in the rows that are ignored
    Numbers where_asked(Numbers x) const {
        if (all.soft) return x;
        const Numbers label = widen_lanes(V::load(y));
        for (int h = 0; h < halves; h++)
            x.half[h] = select(at_least(label.half[h], D8::of(0)), x.half[h], D8::of(0));
        return x;
    }

    // The facts, and what the target adds: with the exponentials in the place of the logits if they are to be kept.
    bool ask(bool keep, Numbers *picked, Numbers *mass, Numbers *mix) {
        Numbers unused;
        at_label = logits.pick(y), *mass = Numbers::load(w), *mix = same(0);
        peak = logits.find_peak();
        const Numbers top = widen_lanes(peak), at = widen_lanes(at_label);
        if (all.soft)
            logits.moments(top, true, call.weight, picked, mass);
        else
            for (int h = 0; h < halves; h++) {
                const D8 zero = D8::of(0), a = mass->half[h];
                picked->half[h] = select(equal(a, zero), zero, a * (at.half[h] - top.half[h]));
            }
        if (call.mixed) logits.moments(top, false, call.weight, mix, &unused);
        rest = keep ? logits.template rest<true>(peak) : logits.template rest<false>(peak);
        return flag();
    }

    bool summarise() {
        Numbers picked, mass, mix;
        const bool some = ask(false, &picked, &mass, &mix);
        put(call.peak, where_asked(widen_lanes(peak))), put(call.rest, where_asked(rest));
        put(call.picked, picked), put(call.mass, mass), put(call.mix, where_asked(mix));
        return some;
    }

    bool lose() {
        const bool fused = call.out.data;
        Numbers picked, mass, mix, l;
        bool some = ask(fused && plain(), &picked, &mass, &mix);
        if (fused) some |= pull();
        for (int h = 0; h < halves; h++) {
            const D8 zero = D8::of(0), log_mass = log1p<sizeof(T) == 8>(rest.half[h]), a = mass.half[h];
            const D8 hard = select(equal(a, zero), zero, a * log_mass) - picked.half[h];
            l.half[h] = call.ours == 0 ? zero : D8::of(call.ours) * hard;  // a masked label's is inf
            if (call.mixed)
                l.half[h] = l.half[h] + D8::of(call.theirs) * (D8::of(all.weight_sum) * log_mass - mix.half[h]);
        }
        if (call.mixed) l = where_asked(l);
        if (call.losses) put(call.losses, l);
        if (call.peak) put(call.peak, where_asked(widen_lanes(peak))), put(call.rest, where_asked(rest));
        account(l, some);
        return some;
    }
    // What the rows add up to, but for the odd ones and for lanes without a row.
    void account(Numbers l, bool some) {
        if (some || count < lanes) {
            double each[lanes];
            l.store(each);
            for (int64_t k = 0; k < lanes; k++)
                if (k >= count || odd[k]) each[k] = w[k] = 0, y[k] = -1;
            l = Numbers::load(each);
        }
        for (int h = 0; h < halves; h++) all.losses.add(l.half[h]);
        if (all.soft) return;
        if (call.weight)
            for (int64_t k = 0; k < count; k++) all.mass.add(w[k]);
        else
            for (int k = 0; k < lanes; k++) all.kept += y[k] >= 0;
    }

    bool differentiate() {
        peak = narrow(facts(call.peak)), rest = facts(call.rest);
        const bool some = flag();
        at_label = logits.pick(y);
        if (plain()) logits.keep(peak);
        return pull() | some;
    }

    // The gradient in the place of the logits, or, where nothing but labels asks, of the exponentials.
    bool pull() {
        if (!plain()) return pull_all();
        const Numbers weight = Numbers::load(w), hard = factors(call.hard);
        const Numbers e = widen_lanes(logits.pick_kept(y)), at = widen_lanes(at_label), top = widen_lanes(peak);
        const D8 zero = D8::of(0), one = D8::of(1);
        Numbers factor, entry, scaled;
        for (int h = 0; h < halves; h++) {
            const D8 scale = select(equal(weight.half[h], zero), zero, hard.half[h] * weight.half[h]);
            const D8 f = divided(scale, one + rest.half[h]);
            scaled.half[h] = f * D8::of(1 / lift<V>);
            const D8 apart = fma(e.half[h], scaled.half[h], zero - scale);
            const D8 lone = select(at_least(rest.half[h], one), apart, zero - f * rest.half[h]);
            entry.half[h] = select(equal(at.half[h], top.half[h]), lone, apart);
            factor.half[h] = f;
        }
        const bool some = flag(factor, 0x1p-60);
        logits.scale_kept(narrow(scaled), y, narrow(entry));
        return some;
    }
    // With a distribution or smoothing: see Pull.
    bool pull_all() {
        const D8 zero = D8::of(0), one = D8::of(1);
        const Numbers weight = Numbers::load(w), top = widen_lanes(peak), at = widen_lanes(at_label);
        Numbers hard = factors(call.hard), smooth = call.smooth ? where_asked(factors(call.smooth)) : same(0);
        Numbers on, off, factor, lifted, lone, entry;
        if (all.soft)
            logits.split(top, true, call.weight, &on, &off);
        for (int h = 0; h < halves && !all.soft; h++) {
            const auto level = equal(at.half[h], top.half[h]);
            on.half[h] = select(level, weight.half[h], zero), off.half[h] = select(level, zero, weight.half[h]);
            hard.half[h] = select(equal(weight.half[h], zero), zero, hard.half[h]);
        }
        Numbers with = same(1), without = same(all.weight_sum - 1.0);
        if (call.smooth && call.weight) logits.split(top, false, call.weight, &with, &without);
        for (int h = 0; h < halves; h++) {
            const D8 r = rest.half[h], mass = one + r;
            D8 f = hard.half[h] * (on.half[h] + off.half[h]), l = hard.half[h] * (off.half[h] - on.half[h] * r);
            if (call.smooth) {
                f = f + smooth.half[h] * (with.half[h] + without.half[h]);
                l = l + smooth.half[h] * (without.half[h] - with.half[h] * r);
            }
            factor.half[h] = select(equal(f, zero), zero, divided(f, mass)), lifted.half[h] = divided(l, mass);
            lone.half[h] = select(at_least(r, one), zero, one);
        }
        const bool some = flag(factor, 0x1p-60) | flag(lifted, 0) | flag(smooth, 0) | flag(hard, 0);
        for (int h = 0; h < halves; h++) {
            const D8 p = exp_times(at.half[h] - top.half[h], zero, factor.half[h]);
            const D8 apart = (p - hard.half[h] * weight.half[h]) - smooth.half[h] * (call.weight ? weight.half[h] : one);
            const D8 single = select(equal(lone.half[h], one), lifted.half[h], apart);
            entry.half[h] = select(equal(at.half[h], top.half[h]), single, apart);
        }
        logits.difference(peak, factor, all.soft ? hard : same(0), all.soft, call.smooth, smooth, call.weight, lone, lifted);
        if (all.soft) return some;
        Wide asked[lanes];  // a label of weight 0 asks for nothing of its own
        for (int k = 0; k < lanes; k++) asked[k] = w[k] == 0 ? Wide(-1) : y[k];
        logits.put(asked, narrow(entry));
        return some;
    }

    bool probabilities() {
        const bool log = call.kind == xent::log_softmax;
        peak = logits.find_peak();
        rest = log ? logits.template rest<false>(peak) : logits.template rest<true>(peak);
        put(call.peak, widen_lanes(peak)), put(call.rest, rest);
        Numbers of_row;
        for (int h = 0; h < halves; h++)
            of_row.half[h] = log ? log1p<sizeof(T) == 8>(rest.half[h])
                                 : divided(D8::of(1 / lift<V>), D8::of(1) + rest.half[h]);
        if (log)
            logits.log_softmax(peak, narrow(of_row));
        else
            logits.scale_kept(narrow(of_row), nullptr, V());
        return flag();
    }

    bool differentiate_softmax() {
        peak = narrow(facts(call.peak)), rest = facts(call.rest);
        const D8 zero = D8::of(0), one = D8::of(1);
        Numbers same_rest = rest, top, others, origin, mean, lifted, lone;
        for (int h = 0; h < halves; h++) lone.half[h] = select(at_least(rest.half[h], one), zero, one);
        Numbers squares = logits.slopes(peak, lone, &same_rest, &top, &others);
        // The mean slope in two parts, so that what slopes differ by does not drown in what they have in common: that of
        // a lone peak and the distance from it, which is the peak's own entry, or what a lane holds and what it does not.
        for (int h = 0; h < halves; h++) {
            const D8 r = same_rest.half[h], mass = one + r;
            origin.half[h] = divided(top.half[h] + others.half[h], mass);
            mean.half[h] = divided(others.half[h] - top.half[h] * r, mass);
            lifted.half[h] = divided(zero - mean.half[h], mass);
            squares.half[h] = squares.half[h] * D8::of(0x1p-40);
        }
        const Numbers held = widen_lanes(narrow(origin));
        for (int h = 0; h < halves; h++) {
            const D8 whole = origin.half[h], finite = select(equal(whole - whole, zero), one, zero);
            const auto single = equal(lone.half[h] * finite, one);
            origin.half[h] = select(single, top.half[h], select(equal(finite, one), held.half[h], zero));
            mean.half[h] = select(single, mean.half[h], whole - origin.half[h]);
        }
        const bool strange = flag(), steep = flag(squares, 0);
        logits.softmax_gradient(peak, rest, origin, mean, lone, lifted);
        return strange || steep;
    }

    Work<T> &all;
    const Call &call;
    Kernel &logits;
    const int64_t r, count;
    bool *odd;
    Wide y[lanes];
    double w[lanes];
    V peak, at_label;
    Numbers rest;
};

}  // namespace XENT_ISA
