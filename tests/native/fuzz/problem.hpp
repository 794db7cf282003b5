// What a call computes, apart from where it lies; and the call.
#pragma once
#include <cstdio>
#include <cstdlib>

#include "tensor.hpp"

using xent::Set;

constexpr size_t label_size[] = {8, 4, 2, 1, 8, 4, 2, 1};

template <class T> struct Problem {
    int64_t kind, type, rows, classes, target_kind, ignore_index;
    bool mixed, differentiated;  // the second: does `loss` give the gradient too?
    std::vector<T> x{}, q{}, slope{};
    std::vector<uint8_t> labels{};
    std::vector<double> weight{}, hard{}, smooth{}, peak{}, rest{};
    double weight_sum = 0, ours = 0, theirs = 0;

    bool soft() const { return target_kind == xent::distribution; }
    bool labelled() const { return target_kind >= 0 && !soft(); }
    bool spreads() const { return kind == xent::spread || kind == xent::spread_gradient; }
    bool takes_facts() const { return kind == xent::gradient || kind == xent::softmax_gradient || spreads(); }
    bool gives_rows() const {
        return kind == xent::loss ? differentiated : kind != xent::summary && kind != xent::spread;
    }
    // The label as it is meant, whatever its type.
    __int128 label(int64_t r) const {
        uint64_t value = 0;
        const size_t bytes = label_size[target_kind];
        std::memcpy(&value, labels.data() + static_cast<size_t>(r) * bytes, bytes);
        if (target_kind >= xent::u64) return value;
        const int unused = 64 - 8 * static_cast<int>(bytes);
        return static_cast<int64_t>(value << unused) >> unused;
    }
    bool ignored(int64_t r) const { return labelled() && label(r) == ignore_index; }
    bool wrong(int64_t r) const { return labelled() && !ignored(r) && (label(r) < 0 || label(r) >= classes); }
    Problem row(int64_t r) const {
        Problem one{kind, type, 1, classes, target_kind, ignore_index, mixed, differentiated};
        one.x = part(x, r, classes), one.q = part(q, r, classes), one.slope = part(slope, r, classes);
        if (labelled()) one.labels = part(labels, r, static_cast<int64_t>(label_size[target_kind]));
        one.weight = weight, one.weight_sum = weight_sum, one.ours = ours, one.theirs = theirs;
        one.hard = part(hard, r, 1), one.smooth = part(smooth, r, 1);
        one.peak = part(peak, r, 1), one.rest = part(rest, r, 1);
        return one;
    }
    [[noreturn]] void fail(const char *what, const Set &set, int64_t row, double got, double want) const {
        std::fprintf(stderr, "%s: set %s, kind %d, type %d, row %d of %d, %d classes: %.17g, expected %.17g\n", what,
                     set.name, int(kind), int(type), int(row), int(rows), int(classes), got, want);
        std::abort();
    }

   private:
    template <class V> static std::vector<V> part(const std::vector<V> &values, int64_t r, int64_t width) {
        if (values.empty()) return {};
        return std::vector<V>(values.begin() + r * width, values.begin() + (r + 1) * width);
    }
};

template <class T> struct Result {
    std::vector<double> facts[6];  // peak, rest, picked, mass, mix, loss
    double sums[2];                // of the losses, of the masses
    std::vector<T> out;
    int64_t wrong;
};

// Where the tensors of a call lie, how its rows are (outer, inner), and where two threads would divide them.
struct Places {
    Layout x, q, slope, out;
    int64_t inner, split;
};

template <class T> Result<T> run(const Problem<T> &p, const Set &set, Places places) {
    const int64_t inner = places.inner, outer = p.rows / inner;
    const auto tensor = [&](const std::vector<T> &values, Layout l) {
        return std::make_unique<Tensor<T>>(values, outer, inner, p.classes, l);
    };
    places.out.expanded = false;
    const auto x = tensor(p.x, places.x);
    const auto out = p.gives_rows() ? tensor(std::vector<T>(p.x.size()), places.out) : nullptr;
    const auto q = p.soft() ? tensor(p.q, places.q) : nullptr;
    const auto slope = p.slope.empty() ? nullptr : tensor(p.slope, places.slope);
    Result<T> result{};
    for (auto &fact : result.facts) fact.assign(static_cast<size_t>(p.rows), 0.0);
    if (p.takes_facts()) result.facts[0] = p.peak, result.facts[1] = p.rest;

    xent::Call c{};
    c.kind = p.kind, c.type = p.type, c.outer = outer, c.classes = p.classes, c.inner = inner;
    c.rows = x->view, c.target_kind = p.target_kind, c.ignore_index = p.ignore_index, c.mixed = p.mixed;
    c.target = q ? q->view : xent::View{const_cast<uint8_t *>(p.labels.data()), 0, 0, 0};
    if (!p.weight.empty()) c.weight = p.weight.data(), c.weight_sum = &p.weight_sum;
    c.peak = result.facts[0].data(), c.rest = result.facts[1].data(), c.picked = result.facts[2].data();
    c.mass = result.facts[3].data(), c.mix = result.facts[4].data();
    c.hard = p.hard.empty() ? nullptr : p.hard.data(), c.smooth = p.smooth.empty() ? nullptr : p.smooth.data();
    if (out) c.out = out->view;
    if (slope) c.slope = slope->view;
    c.step = 1, c.ours = p.ours, c.theirs = p.theirs, c.losses = result.facts[5].data();

    xent::Tally tally;
    const auto divided = [&](int64_t units, auto part) {
        const int64_t split = places.split % (units + 1);
        if (split > 0) part(0, split);
        if (split < units) part(split, units);
    };
    if (xent::shared(c) && places.split % 2) {  // as on several threads; else as on one
        void *settled = set.open(c);
        const auto stage = [&](xent::Stage at) {
            return [&, at](int64_t begin, int64_t end) { set.stage(c, settled, at, begin, end, tally); };
        };
        divided(p.rows * xent::parts_of(c), stage(xent::facts));
        stage(xent::whole)(0, p.rows);
        if (out) divided(p.rows * xent::parts_of(c), stage(xent::classes));
        set.close(settled);
    } else {
        divided(xent::units_of(c), [&](int64_t begin, int64_t end) { set.run(c, begin, end, tally); });
    }
    result.wrong = tally.wrong, result.sums[0] = tally.losses.rounded(), result.sums[1] = tally.mass.rounded();
    if (out && !out->untouched()) p.fail("a write between the rows", set, -1, 0, 0);
    if (out) result.out = out->read();
    return result;
}
