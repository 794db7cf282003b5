// Calls with few classes: rows in tiles, a row a lane. What is out of the ordinary goes on its own (work.hpp).
#pragma once
#include "across.hpp"
#include "work.hpp"

namespace XENT_ISA {

template <class T> class Groups : Work<T> {
    using Base = Work<T>;
    using V = typename Base::Floats;
    using Wide = typename V::Real;
    using Numbers = Each<V>;
    static constexpr int lanes = V::lanes, halves = Numbers::halves;

   public:
    Groups(const Call &call, Tally &tally, bool past)
        : Base(call, tally), past(past), columns(width(call)), x(call.rows, call, columns),
          q(this->soft ? call.target : nothing, call, columns), g(call.slope, call, columns),
          out(call.out, call, x) {}

    void run(int64_t begin, int64_t end) {
        const int64_t rows = call.outer * call.inner, last = std::min(end * xent::group, rows);
        for (int64_t r = begin * xent::group, count; r < last; r += count) {
            count = std::min(columns, last - r);
            if (!x.planar(r, count)) count = std::min(x.planar(r, xent::group) ? side_by_side(r) : xent::group, last - r);
            tile(r, count);
        }
    }

   private:
    using Base::call;

    // Pixels of an image are read in runs, which memory likes better; scratch stays in the second cache.
    static int64_t width(const Call &call) {
        if (call.rows.inner != 1 || call.inner == 1) return xent::group;
        return std::max(xent::group, std::min<int64_t>(128, 20480 / call.classes) / xent::group * xent::group);
    }
    // How many rows from r on are planar, in whole groups.
    int64_t side_by_side(int64_t r) const {
        return std::min(columns, (call.inner - r % call.inner) / xent::group * xent::group);
    }

    void tile(int64_t r, int64_t count) {
        x.load(r, count);
        if (this->soft) q.load(r, count);
        if (call.slope.data) g.load(r, count);
        bool any = false;
        for (int64_t k = 0; k < count; k += lanes) any |= rows(r + k, std::min<int64_t>(lanes, count - k), k);
        if (call.out.data) out.store(r, count, past);
        if (any)
            for (int64_t k = 0; k < count; k++)
                if (odd[k]) single(r + k);
    }

    // A row that does not fit its lane, from where it lies.
    void single(int64_t r) {
        const int64_t size = call.classes;
        T logits[xent::few], of_q[xent::few], of_g[xent::few], to[xent::few];
        const auto gather = [&](const Tile<T, V> &from, T *room) {
            const T *p = from.place(r);
            for (int64_t j = 0; j < size; j++) room[j] = p[j * from.view.classes];
        };
        gather(x, logits);
        if (this->soft) gather(q, of_q);
        if (call.slope.data) gather(g, of_g);
        this->alone(r, logits, call.out.data ? to : nullptr, this->soft ? of_q : nullptr,
                    call.slope.data ? of_g : nullptr, false);
        if (!call.out.data) return;
        T *p = out.place(r);
        for (int64_t j = 0; j < size; j++) p[j * call.out.classes] = to[j];
    }

    // Rows r ... r + count - 1 in the lanes of column k. Are some odd?
    bool rows(int64_t r, int64_t count, int64_t k) {
        Lanes row(*this, r, count, k);
        switch (call.kind) {
            case xent::summary: return row.summarise();
            case xent::loss: return row.lose();
            case xent::gradient: return row.differentiate();
            case xent::softmax_gradient: return row.differentiate_softmax();
            default: return row.probabilities();
        }
    }

    struct Lanes {
        Groups &all;
        const Call &call;
        const int64_t r, count, column;
        Across<T, V> logits;
        const Wide *of_q, *of_g;
        Wide y[lanes];
        double w[lanes];
        V peak, at_label;
        Numbers rest;

        Lanes(Groups &groups, int64_t r, int64_t count, int64_t k)
            : all(groups), call(groups.call), r(r), count(count), column(k),
              logits(groups.x.at + k, groups.columns, groups.call.classes),
              of_q(groups.soft ? groups.q.at + k : nullptr), of_g(groups.call.slope.data ? groups.g.at + k : nullptr) {
            std::fill(y, y + lanes, Wide(-1)), std::fill(w, w + lanes, 0.0);
            std::fill(all.odd + k, all.odd + k + lanes, false);
            if (!groups.soft && call.target_kind >= 0) groups.labels(r, count, y, w);
        }

        bool plain() const { return !all.soft && !call.mixed && !call.smooth; }

        // The facts, with the exponentials in the place of the logits if they are to be kept.
        void survey(bool keep) {
            peak = logits.find_peak();
            rest = keep ? logits.template rest<true>(peak) : logits.template rest<false>(peak);
        }
        // Rows whose facts float lanes cannot tell are left to `single`.
        bool flag() {
            Numbers fault;
            const Numbers top = widen_lanes(peak);
            const D8 zero = D8::of(0), bound = D8::of(sizeof(T) < 8 ? far : infinity);
            for (int h = 0; h < halves; h++) {
                const D8 size = larger(top.half[h], zero - top.half[h]);
                fault.half[h] = select(at_least(size, bound), bound, (size + rest.half[h]) * zero);  // nan from inf, nan
            }
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
                if (!(each[k] == 0)) some = all.odd[column + k] = true;
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
                logits.moments(top, of_q, call.weight, picked, mass);
            else
                for (int h = 0; h < halves; h++) {
                    const D8 zero = D8::of(0), a = mass->half[h];
                    picked->half[h] = select(equal(a, zero), zero, a * (at.half[h] - top.half[h]));
                }
            if (call.mixed) logits.moments(top, nullptr, call.weight, mix, &unused);
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
                l.half[h] = D8::of(call.ours) * (select(equal(a, zero), zero, a * log_mass) - picked.half[h]);
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
                    if (k >= count || all.odd[column + k]) each[k] = w[k] = 0, y[k] = -1;
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
            if (plain()) logits.exponentials(peak);
            return pull() | some;
        }

        // The gradient in the place of the logits, or, where nothing but labels asks, of the exponentials.
        bool pull() {
            if (!plain()) return pull_all();
            const Numbers weight = Numbers::load(w), hard = factors(call.hard);
            const Numbers e = widen_lanes(logits.pick(y)), at = widen_lanes(at_label), top = widen_lanes(peak);
            const D8 zero = D8::of(0), one = D8::of(1), down = D8::of(1 / lift<V>);
            Numbers factor, entry;
            for (int h = 0; h < halves; h++) {
                const D8 scale = select(equal(weight.half[h], zero), zero, hard.half[h] * weight.half[h]);
                const D8 f = divided(scale, one + rest.half[h]), apart = fma(e.half[h], f * down, zero - scale);
                const D8 lone = select(at_least(rest.half[h], one), apart, zero - f * rest.half[h]);
                entry.half[h] = select(equal(at.half[h], top.half[h]), lone, apart);
                factor.half[h] = f;
            }
            const bool some = flag(factor, 0x1p-60);
            for (int h = 0; h < halves; h++) factor.half[h] = factor.half[h] * down;
            logits.scale_kept(narrow(factor), y, narrow(entry));
            return some;
        }
        // With a distribution or smoothing: see Pull.
        bool pull_all() {
            const D8 zero = D8::of(0), one = D8::of(1);
            const Numbers weight = Numbers::load(w), top = widen_lanes(peak), at = widen_lanes(at_label);
            Numbers hard = factors(call.hard), smooth = call.smooth ? where_asked(factors(call.smooth)) : same(0);
            Numbers on, off, factor, lifted, lone, entry;
            if (all.soft)
                logits.split(top, of_q, call.weight, &on, &off);
            for (int h = 0; h < halves && !all.soft; h++) {
                const auto level = equal(at.half[h], top.half[h]);
                on.half[h] = select(level, weight.half[h], zero), off.half[h] = select(level, zero, weight.half[h]);
                hard.half[h] = select(equal(weight.half[h], zero), zero, hard.half[h]);
            }
            Numbers with = same(1), without = same(all.weight_sum - 1.0);
            if (call.smooth && call.weight) logits.split(top, nullptr, call.weight, &with, &without);
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
            const Numbers e = label_exponential();
            for (int h = 0; h < halves; h++) {
                factor.half[h] = factor.half[h] * D8::of(1 / lift<V>);
                D8 p = fma(e.half[h], factor.half[h], zero - hard.half[h] * weight.half[h]);
                if (call.smooth) p = fma(zero - smooth.half[h], call.weight ? weight.half[h] : one, p);
                const D8 single = select(equal(lone.half[h], one), lifted.half[h], p);
                entry.half[h] = select(equal(at.half[h], top.half[h]), single, p);
            }
            logits.difference(peak, factor, all.soft ? hard : same(0), of_q, call.smooth, smooth, call.weight, lone, lifted);
            if (!all.soft) write_entries(narrow(entry));
            return some;
        }
        void write_entries(V entry) {
            Wide entries[lanes];
            entry.store(entries);
            for (int64_t k = 0; k < count; k++)
                if (y[k] >= 0 && w[k] != 0) all.x.at[static_cast<int64_t>(y[k]) * all.columns + column + k] = entries[k];
        }
        Numbers label_exponential() const {
            V low;
            const V d = Distance<V, Across<T, V>::carried>(peak)(at_label, &low);
            return widen_lanes(exp_lifted(d, low));
        }

        bool probabilities() {
            peak = logits.find_peak(), rest = logits.template rest<false>(peak);
            put(call.peak, widen_lanes(peak)), put(call.rest, rest);
            Numbers of_row;
            for (int h = 0; h < halves; h++)
                of_row.half[h] = call.kind == xent::softmax ? divided(D8::of(1 / lift<V>), D8::of(1) + rest.half[h])
                                                            : log1p<sizeof(T) == 8>(rest.half[h]);
            if (call.kind == xent::softmax)
                logits.softmax(peak, narrow(of_row));
            else
                logits.log_softmax(peak, narrow(of_row));
            return flag();
        }

        bool differentiate_softmax() {
            peak = narrow(facts(call.peak)), rest = facts(call.rest);
            // a common offset would eat a float exp's digits
            const Numbers origin = sizeof(T) < 8 ? widen_lanes(logits.at_peak(peak, of_g)) : same(0);
            const D8 zero = D8::of(0), one = D8::of(1);
            Numbers top, others, mean, lifted, lone, share;
            logits.slopes(peak, origin, of_g, &top, &others);
            for (int h = 0; h < halves; h++) {
                const D8 r = rest.half[h], mass = one + r;
                mean.half[h] = divided(top.half[h] + others.half[h], mass);
                lifted.half[h] = divided(divided(top.half[h] * r - others.half[h], mass), mass);
                lone.half[h] = select(at_least(r, one), zero, one), share.half[h] = divided(D8::of(1 / lift<V>), mass);
            }
            const bool some = flag() | (sizeof(T) < 8 && (flag(mean, 0) | flag(origin, 0)));
            logits.softmax_gradient(peak, share, of_g, origin, mean, lone, lifted);
            return some;
        }
    };

    static constexpr View nothing{nullptr, 0, 1, 0};
    const bool past;
    const int64_t columns;
    Tile<T, V> x, q, g, out;
    bool odd[128] = {};
};
template <class T> constexpr View Groups<T>::nothing;

}  // namespace XENT_ISA
