// What the two ways through a call share: labels, weights, what rows add up to, and a row on its own.
#pragma once
#include <algorithm>
#include <vector>

#include "rows.hpp"
#include "call.hpp"
#include "total.hpp"

namespace XENT_ISA {

using xent::Call;
using xent::Tally;
using xent::View;

// Factors that float lanes bear: beyond, what they call 0 may count, and what they call inf may not be it.
inline bool within(double factor) { return std::fabs(factor) <= 0x1p40; }
inline bool bearable(double squares) { return squares < 0x1p80; }  // of many of them
inline bool divisible(double factor) { return factor == 0 || (within(factor) && std::fabs(factor) >= 0x1p-60); }

// The gradient of a row: p scale - hard a, and `lifted` / (1 + rest) at a lone peak.
struct Pull {
    double rest, mass, scale = 0, lifted = 0;
    explicit Pull(double rest) : rest(rest), mass(1 + rest) {}
    double factor() const { return scale == 0 ? 0.0 : scale / mass; }
    double entry() const { return lifted / mass; }
    bool lone() const { return mass < 2.0; }
    void add(double factor, double top, double off) {
        scale += factor * (top + off), lifted += factor * (off - top * rest);
    }
};

template <class T> class Work {
   public:
    // float lanes for what float holds
    using Floats = std::conditional_t<sizeof(T) == 8, D8, F16>;
    using Wide = typename Floats::Real;

    Work(const Call &call, Tally &tally) : call(call), tally(tally), soft(call.target_kind == xent::distribution) {
        weight_sum = call.weight ? *call.weight_sum : static_cast<double>(call.classes);
    }
    ~Work() {
        tally.wrong += wrong;
        mass.add(static_cast<double>(kept));
        if (call.kind < xent::loss) return;
        const std::lock_guard<std::mutex> hold(tally.guard);
        tally.losses.add(losses.sum()), tally.mass.add(mass);
    }

    // The labels of some rows, -1 where a row is ignored or its label is no class, which is counted; and their weights.
    template <class Real> void labels(int64_t first, int64_t count, Real *y, double *w) {
        with_labels(first, [&](auto from) {
            if (count == xent::group)  // a number the compiler knows
                read(from, xent::group, y);
            else
                read(from, count, y);
        });
        for (int64_t k = 0; k < count; k++)
            w[k] = y[k] < 0 ? 0.0 : call.weight ? call.weight[static_cast<int64_t>(y[k])] : 1.0;
    }

    // Counts the labels of some rows that are classes, and those that are not.
    void count_labels(int64_t first, int64_t count) {
        with_labels(first, [&](auto from) {
            int64_t found = 0, missed = 0;
            each_label(from, count, [&](int64_t, auto, bool fine, bool skipped) XENT_ALWAYS {
                found += fine & !skipped, missed += !fine & !skipped;
            });
            kept += found, wrong += missed;
        });
    }

    // A row on its own, its classes side by side. `past`: see Row::scaled_exp.
    void alone(int64_t r, const T *x, T *to, const T *of_q, const T *of_g, bool past) {
        const int64_t size = call.classes;
        double y = 0, w = 1;
        if (!soft && call.target_kind >= 0) labels(r, 1, &y, &w);
        const int64_t label = soft ? -1 : static_cast<int64_t>(y);
        switch (call.kind) {
            case xent::softmax:
            case xent::log_softmax: {
                const Facts facts = survey(x);
                call.peak[r] = facts.peak, call.rest[r] = facts.rest;
                return probabilities(facts, x, to, size, past);
            }
            case xent::spread:
                return Row<T, D8>(x, size, call.peak[r])
                    .spread(call.rest[r], &call.picked[r], &call.mass[r], &call.mix[r]);
            case xent::spread_gradient: {
                const double lse = call.hard[r * call.step], entropy = call.smooth[r * call.step];
                if (lse == 0 && entropy == 0) return static_cast<void>(std::fill(to, to + size, T{}));
                return Row<T, D8>(x, size, call.peak[r])
                    .spread_gradient(to, 1 / (1 + call.rest[r]), call.picked[r], lse, entropy, past);
            }
            case xent::softmax_gradient: return differentiate_softmax(r, x, to, of_g, past);
            case xent::gradient:
                return differentiate({call.peak[r], call.rest[r]}, r, x, to, of_q, label, w, past);
            default: {
                const Facts facts = soft || label >= 0 ? survey(x) : Facts{0, 0};
                conclude(facts, r, x, of_q, label, w);
                if (call.kind == xent::loss && to) differentiate(facts, r, x, to, of_q, label, w, past);
            }
        }
    }

    // p or log p of some classes of a row.
    void probabilities(const Facts &facts, const T *x, T *to, int64_t size, bool past) const {
        const auto with = [&](auto row) {
            if (call.kind == xent::softmax) return row.scaled_exp(to, 1.0 / (1.0 + facts.rest), past);
            return row.log_softmax(to, static_cast<decltype(row.peak)>(std::log1p(facts.rest)), past);
        };
        near(facts) ? with(Row<T, Floats>(x, size, facts.peak)) : with(Row<T, D8>(x, size, facts.peak));
    }
    Facts survey(const T *x) const {
        Facts whole;
        for (int64_t j = 0; j < call.classes; j += xent::part)
            whole = merged(whole, survey_part(x + j, std::min(xent::part, call.classes - j)));
        return finished(whole);
    }
    // A row that is masked throughout has no softmax.
    static Facts finished(Facts facts) {
        if (facts.peak == -infinity) facts.rest = std::numeric_limits<double>::quiet_NaN();
        return facts;
    }
    Facts survey_part(const T *x, int64_t size) const {
        Facts facts;
        if (!narrow_lanes() || !Row<T, Floats>(x, size).survey(&facts)) Row<T, D8>(x, size).survey(&facts);
        return facts;
    }

    // The facts of a row and what its target adds to them, or the loss.
    void conclude(const Facts &facts, int64_t r, const T *x, const T *of_q, int64_t label, double w) {
        const bool asked = soft || label >= 0;
        double picked = 0, mix = 0, whole = w, unused;
        const Row<T, D8> row(x, call.classes, facts.peak);
        if (soft)
            row.moments(of_q, call.weight, &picked, &whole);
        else if (asked && w != 0)
            picked = w * (static_cast<double>(widen(x[label])) - facts.peak);
        if (asked && call.mixed) row.moments(nullptr, call.weight, &mix, &unused);
        if (call.kind != xent::loss) {
            call.peak[r] = facts.peak, call.rest[r] = facts.rest;
            call.picked[r] = picked, call.mass[r] = asked ? whole : 0.0, call.mix[r] = mix;
            return;
        }
        if (call.peak) call.peak[r] = facts.peak, call.rest[r] = facts.rest;
        const double log_mass = std::log1p(facts.rest);
        double l = 0;
        if (asked && call.ours != 0) l = call.ours * ((whole != 0 ? whole * log_mass : 0.0) - picked);
        if (asked && call.mixed) l += call.theirs * (weight_sum * log_mass - mix);
        if (call.losses) call.losses[r] = l;
        losses.add(&l, 1);
        count(label, w);
    }
    void count(int64_t label, double w) {
        if (soft) return;
        if (!call.weight)
            kept += label >= 0;
        else
            mass.add(w);
    }

    void differentiate(const Facts &facts, int64_t r, const T *x, T *to, const T *of_q, int64_t label, double w,
                       bool past) const {
        const double hard = call.hard[r * call.step];
        const double smooth = call.smooth ? call.smooth[r * call.step] : 0.0;
        if (!soft && label < 0) return static_cast<void>(std::fill(to, to + call.classes, T{}));
        Pull pull = pull_of(facts, r, label, w, x);
        const double own = soft ? 0.0 : widen(x[label]);  // read before anything is written: `to` may be `x`
        const Row<T, D8> row(x, call.classes, facts.peak);
        double top, off;
        if (soft) {
            if (sizeof(T) < 8 && near(facts) && !call.weight)
                Row<T, Floats>(x, call.classes, facts.peak).split_floats(of_q, &top, &off);
            else
                row.split(of_q, call.weight, &top, &off);
            pull.add(hard, top, off);
        }
        if (smooth != 0) {
            top = 1.0, off = weight_sum - 1.0;
            if (call.weight) row.split(nullptr, call.weight, &top, &off);
            pull.add(smooth, top, off);
        }
        if (soft || smooth != 0)
            difference(pull, facts, soft ? hard : 0.0, smooth, x, to, of_q, past);
        else
            exponentials(pull, facts, x, to, call.classes, past);
        if (!soft && w != 0) to[label] = As<T>::of(entry(pull, facts, hard * w, smooth, own, label));
    }
    // What a label asks; nothing for a distribution.
    Pull pull_of(const Facts &facts, int64_t r, int64_t label, double w, const T *x) const {
        Pull pull(facts.rest);
        if (label < 0 || w == 0) return pull;
        const bool at_peak = static_cast<double>(widen(x[label])) == facts.peak;
        pull.add(call.hard[r * call.step], at_peak ? w : 0.0, at_peak ? 0.0 : w);
        return pull;
    }
    // exp(x - peak) times the factor of the row, for some of its classes.
    void exponentials(const Pull &pull, const Facts &facts, const T *x, T *to, int64_t size, bool past) const {
        const double factor = pull.factor();
        if (factor == 0) return static_cast<void>(std::fill(to, to + size, T{}));
        if (near(facts) && divisible(factor))
            Row<T, Floats>(x, size, facts.peak).scaled_exp(to, factor, past);
        else
            Row<T, D8>(x, size, facts.peak).scaled_exp(to, factor, past);
    }
    void difference(const Pull &pull, const Facts &facts, double hard, double smooth, const T *x, T *to, const T *of_q,
                    bool past) const {
        const double factor = pull.factor(), entry = pull.entry();
        const auto with = [&](auto row) {
            row.difference(to, factor, pull.lone(), entry, hard, of_q, smooth, call.weight, past);
        };
        if (near(facts) && divisible(factor) && within(entry) && within(hard) && within(smooth))
            with(Row<T, Floats>(x, call.classes, facts.peak));
        else
            with(Row<T, D8>(x, call.classes, facts.peak));
    }
    // The label's entry, a difference, in double and on its own.
    double entry(const Pull &pull, const Facts &facts, double asked, double smooth, double own, int64_t label) const {
        const double d = own - facts.peak;
        if (pull.lone() && d == 0) return pull.entry();
        const double p = pull.scale == 0 ? 0.0 : std::exp(d) / pull.mass * pull.scale;
        return p - asked - (smooth != 0 ? smooth * (call.weight ? call.weight[label] : 1.0) : 0.0);
    }

    const Call &call;
    Tally &tally;
    const bool soft;
    double weight_sum;
    Total losses;
    xent::ExactSum mass;
    int64_t kept = 0, wrong = 0;

   private:
    bool narrow_lanes() const { return sizeof(T) < 8 && call.classes > xent::some; }
    bool near(const Facts &facts) const {
        return sizeof(T) == 8 || (narrow_lanes() && std::fabs(facts.peak) < infinity && facts.rest < infinity);
    }
    void differentiate_softmax(int64_t r, const T *x, T *to, const T *of_g, bool past) const {
        const Facts facts{call.peak[r], call.rest[r]};
        if (near(facts) && slope_away(Row<T, Floats>(x, call.classes, facts.peak), facts, to, of_g, past)) return;
        slope_away(Row<T, D8>(x, call.classes, facts.peak), facts, to, of_g, past);
    }
    // False where float lanes cannot tell what the slopes come to.
    template <class AnyRow>
    bool slope_away(const AnyRow &row, const Facts &facts, T *to, const T *of_g, bool past) const {
        double rest = facts.rest, top, others;
        if (!bearable(row.slopes(of_g, &rest, &top, &others))) return false;
        const bool lone = facts.rest < 1.0;  // see Settle::differentiate_softmax
        const double mass = 1.0 + rest, whole = (top + others) / mass;
        const bool finite = std::fabs(whole) < infinity;
        const double origin = !finite ? 0.0 : lone ? top : static_cast<decltype(row.peak)>(whole);
        const double apart = (others - top * rest) / mass, mean = lone && finite ? apart : whole - origin;
        row.softmax_gradient(to, of_g, facts.rest, origin, mean, lone, -apart / mass, past);
        return true;
    }
    // use(the labels from row `first` on), as what they are.
    template <class Use> XENT_INLINE void with_labels(int64_t first, Use use) const {
        const void *p = call.target.data;
        switch (call.target_kind) {
            case xent::i64: return use(static_cast<const int64_t *>(p) + first);
            case xent::i32: return use(static_cast<const int32_t *>(p) + first);
            case xent::i16: return use(static_cast<const int16_t *>(p) + first);
            case xent::i8: return use(static_cast<const int8_t *>(p) + first);
            case xent::u64: return use(static_cast<const uint64_t *>(p) + first);
            case xent::u32: return use(static_cast<const uint32_t *>(p) + first);
            case xent::u16: return use(static_cast<const uint16_t *>(p) + first);
            default: return use(static_cast<const uint8_t *>(p) + first);
        }
    }
    // visit(k, label, is it a class, is it the one to ignore)
    template <class L, class Visit> XENT_INLINE void each_label(const L *from, int64_t count, Visit visit) const {
        // a label beyond int64 is not the ignored one, whatever its bits
        const bool possible = std::is_signed<L>::value || call.ignore_index >= 0;
        const L ignored = static_cast<L>(call.ignore_index);
        const bool any_ignored = possible && static_cast<int64_t>(ignored) == call.ignore_index;
        const uint64_t classes = static_cast<uint64_t>(call.classes);
        for (int64_t k = 0; k < count; k++) {
            const L label = from[k];
            visit(k, label, static_cast<uint64_t>(static_cast<int64_t>(label)) < classes, any_ignored & (label == ignored));
        }
    }
    template <class L, class Real> XENT_INLINE void read(const L *from, int64_t count, Real *y) {
        int64_t missed = 0;
        each_label(from, count, [&](int64_t k, L label, bool fine, bool skipped) XENT_ALWAYS {
            y[k] = (fine & !skipped) ? static_cast<Real>(label) : Real(-1);
            missed += !fine & !skipped;
        });
        wrong += missed;
    }
};

}  // namespace XENT_ISA
