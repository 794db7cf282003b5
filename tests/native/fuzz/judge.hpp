// What a result has to be.
#pragma once
#include <type_traits>

#include "problem.hpp"

template <class T> bool same(const T &a, const T &b) {
    return !std::memcmp(&a, &b, sizeof a) || (std::isnan(wide(a)) && std::isnan(wide(b)));
}

// The rows of `have` from `first` on, against all of `want`: the same bits, or nan.
template <class T>
void compare(const char *what, const Problem<T> &p, const Set &set, const Result<T> &have, int64_t first,
             const Result<T> &want) {
    for (int f = 0; f < 6; f++)
        for (size_t r = 0; r < want.facts[f].size(); r++) {
            const double got = have.facts[f][static_cast<size_t>(first) + r];
            if (!same(got, want.facts[f][r])) p.fail(what, set, first + static_cast<int64_t>(r), got, want.facts[f][r]);
        }
    const size_t start = static_cast<size_t>(first * p.classes);
    for (size_t i = 0; i < want.out.size(); i++)
        if (!same(have.out[start + i], want.out[i]))
            p.fail(what, set, static_cast<int64_t>(start + i) / p.classes, wide(have.out[start + i]),
                   wide(want.out[i]));
}

// What the rows of two results add up to.
template <class T>
void compare_sums(const char *what, const Problem<T> &p, const Set &set, const Result<T> &have, const Result<T> &want) {
    for (int s = 0; s < 2; s++)
        if (!same(have.sums[s], want.sums[s])) p.fail(what, set, -1, have.sums[s], want.sums[s]);
}

// What a row comes to, without the kernels.
struct Truth {
    double peak = -INFINITY, rest = 0, size = 0;
    bool finite = true;
};
template <class T> Truth truth_of(const T *x, int64_t classes) {
    Truth t;
    using Real = std::conditional_t<sizeof(T) == 8, long double, double>;  // other types lie close enough in double
    bool nan = false, met = false;
    long double rest = 0;
    for (int64_t j = 0; j < classes; j++) {
        const double v = wide(x[j]);
        nan = nan || v != v, t.finite = t.finite && std::isfinite(v);
        t.peak = std::max(t.peak, v), t.size = std::max(t.size, std::fabs(v));
    }
    for (int64_t j = 0; j < classes && t.finite; j++) {
        const double v = wide(x[j]);
        if (v != t.peak || met) rest += std::exp(Real(v) - Real(t.peak));
        met = met || v == t.peak;
    }
    t.rest = static_cast<double>(rest);
    t.peak = nan ? NAN : t.peak + 0.0;
    return t;
}

template <class T> bool within(const std::vector<T> &values, double most) {
    return std::all_of(values.begin(), values.end(), [=](T v) { return std::fabs(wide(v)) <= most; });
}

template <class T> void judge(const Problem<T> &p, const Set &set, const Result<T> &have) {
    // An ulp of exp in float or double, with slack for the sums of the longest rows. The differences of 16-bit logits are
    // rounded to float, which is 131 * 2**-24 of the exponential at most.
    constexpr double close = sizeof(T) == 8 ? 1e-13 : sizeof(T) == 4 ? 1e-6 : 1e-5;
    int64_t wrong = 0;
    for (int64_t r = 0; r < p.rows; r++) wrong += p.wrong(r);
    // A kernel may look at a label twice, so what counts is whether there is any; rows are judged alone, too.
    if (!have.wrong != !wrong)
        p.fail("labels counted as wrong", set, -1, double(have.wrong), double(wrong));
    if (p.kind == xent::loss && p.labelled() && p.weight.empty() && !wrong) {
        double kept = 0;
        for (int64_t r = 0; r < p.rows; r++) kept += !p.ignored(r);
        if (have.sums[1] != kept) p.fail("the number of rows", set, -1, have.sums[1], kept);
    }
    if (p.kind == xent::loss && p.rows == 1 && !same(have.sums[0], have.facts[5][0] + 0.0))
        p.fail("the sum of one", set, 0, have.sums[0], have.facts[5][0]);
    const bool unusual_factors = !within(p.weight, 0x1p100) || !within(p.q, 0x1p300);

    for (int64_t r = 0; r < p.rows; r++) {
        const size_t i = static_cast<size_t>(r), start = i * static_cast<size_t>(p.classes);
        const Truth t = truth_of(&p.x[start], p.classes);
        const double peak = have.facts[0][i], rest = have.facts[1][i];
        const auto expect = [&](bool fine, const char *what, double got, double want) {
            if (!fine) p.fail(what, set, r, got, want);
        };
        const auto each_of_out = [&](auto check) {
            for (size_t j = 0; j < static_cast<size_t>(p.classes); j++) check(wide(have.out[start + j]));
        };
        if (p.ignored(r) || p.wrong(r)) {
            if (p.kind == xent::summary || p.kind == xent::loss)
                for (const auto &fact : have.facts) expect(fact[i] == 0, "a fact of a row without label", fact[i], 0);
            if (p.kind == xent::gradient || (p.kind == xent::loss && p.differentiated))
                each_of_out([&](double g) { expect(g == 0, "gradient of a row without label", g, 0); });
            continue;
        }
        if (p.kind == xent::spread) {
            double above = 0, first = -1, moment = 0;
            for (size_t j = 0; j < static_cast<size_t>(p.classes); j++) {
                const double v = wide(p.x[start + j]), e = std::exp(v - p.peak[i]);
                above += v > p.rest[i];
                if (first < 0 && (v == p.peak[i] || v != v)) first = static_cast<double>(j);
                moment += e != 0 ? e * (v - p.peak[i]) : 0.0;
            }
            expect(have.facts[3][i] == above, "classes above", have.facts[3][i], above);
            expect(have.facts[4][i] == first, "the first class at the peak", have.facts[4][i], first);
            if (t.finite && p.peak[i] == t.peak && t.size < largest<T> / 4)
                expect(std::fabs(have.facts[2][i] - moment) <= 1e-11 * std::fabs(moment) + 1e-50, "moment",
                       have.facts[2][i], moment);
        }
        if (!p.takes_facts()) expect(same(peak, t.peak), "peak", peak, t.peak);
        if (!t.finite) continue;
        const bool far = t.size > largest<T> / 4;  // differences may overflow
        const auto is_rest = [&](double value) { return std::fabs(value - t.rest) <= close * t.rest + 1e-50; };
        if (!p.takes_facts()) expect(is_rest(rest), "rest", rest, t.rest);
        if (p.kind == xent::summary && p.labelled()) {
            const size_t y = static_cast<size_t>(p.label(r));
            const double w = p.weight.empty() ? 1.0 : p.weight[y];
            const double picked = w != 0 ? w * (wide(p.x[start + y]) - t.peak) : 0.0;
            expect(same(have.facts[3][i], w) || have.facts[3][i] == w, "mass", have.facts[3][i], w);
            expect(same(have.facts[2][i], picked) || have.facts[2][i] == picked, "picked", have.facts[2][i], picked);
        }
        if (p.kind == xent::summary && !unusual_factors && !(sizeof(T) == 8 && t.size > 0x1p300))
            for (const auto &fact : have.facts) expect(std::isfinite(fact[i]), "a fact of a finite row", fact[i], 0);
        if (p.kind == xent::loss && p.labelled() && p.ours == 1 && !p.mixed && within(p.weight, 0x1p100) && !far) {
            const size_t y = static_cast<size_t>(p.label(r));
            const double w = p.weight.empty() ? 1.0 : p.weight[y];
            const double log_mass = w * std::log1p(t.rest), picked = w * (wide(p.x[start + y]) - t.peak);
            const double l = have.facts[5][i], slack = close * (std::fabs(log_mass) + std::fabs(picked)) + 1e-50;
            expect(std::fabs(l - (log_mass - picked)) <= slack, "loss", l, log_mass - picked);
        }
        if (p.kind == xent::softmax)
            each_of_out([&](double y) { expect(y >= 0 && y <= 1 + close, "softmax", y, 1); });
        if (p.kind == xent::log_softmax)
            each_of_out([&](double y) { expect(y <= close && (far || std::isfinite(y)), "log_softmax", y, 0); });
        const bool own_facts = p.takes_facts() && p.peak[i] == t.peak && is_rest(p.rest[i]);
        const bool bounded = p.labelled() && p.smooth.empty() && within(p.weight, 1) && within(p.hard, 1);
        if (((p.kind == xent::gradient && own_facts) || (p.kind == xent::loss && p.differentiated)) && bounded)
            each_of_out([&](double g) { expect(std::fabs(g) <= 1 + close, "gradient", g, 1); });
        if (p.kind == xent::softmax_gradient && own_facts && within(p.slope, 1))
            each_of_out([&](double g) { expect(std::fabs(g) <= 1 + close, "gradient of softmax", g, 1); });
    }
}
