// Kernels on as many rows as there are lanes, each with its classes side by side: the vectors hold classes, as in
// rows.hpp, and what there is of one number a row (a peak, a logarithm, a factor) is computed for all rows at once.
#pragma once
#include "across.hpp"

namespace XENT_ISA {

template <class T, class V> class Beside {
   public:
    using Wide = typename V::Real;
    using Numbers = Each<V>;
    static constexpr int lanes = V::lanes, halves = Numbers::halves;
    static constexpr bool careful = sizeof(T) == 8, carried = sizeof(T) >= 4;

    // `room`: for the exponentials of `lanes` rows, `wide` apart.
    Beside(int64_t classes, Wide *room, int64_t wide, bool past) : size(classes), room(room), wide(wide), past(past) {}

    // What is asked of memory while exponentials are computed, which is all that memory has to do then: the rows of the
    // next batch, `next` elements on, and the place of the results. It took a fifth of the time of 4,096 rows of 1,000.
    int64_t count = 0, next = 0;
    const T *x[lanes], *q[lanes], *g[lanes];
    T *out[lanes];

    V find_peak() const {
        Wide top[lanes] = {};
        for (int64_t k = 0; k < count; k++) top[k] = static_cast<Wide>(row(k).find_peak());
        return V::load(top);
    }
    template <bool keep> Numbers rest(V peak) {
        Wide top[lanes];
        double below[lanes] = {}, peaks[lanes] = {};
        peak.store(top);
        int64_t k = 0;
        for (; k + 2 <= count; k += 2) sum_rows<keep, 2>(k, top, below, peaks);  // one waits for itself half of the time
        for (; k < count; k++) sum_rows<keep, 1>(k, top, below, peaks);
        Numbers sum = Numbers::load(below), counted = Numbers::load(peaks);
        for (int h = 0; h < halves; h++)
            sum.half[h] = sum.half[h] * D8::of(1 / lift<V>) + (counted.half[h] - D8::of(1));
        return sum;
    }
    void keep(V peak) {
        Wide top[lanes];
        peak.store(top);
        for (int64_t k = 0; k < count; k++) {
            const Exponential<V, carried> exp(top[k]);
            for (int64_t j = 0; j < size; j += lanes) exp(row(k).logits_at(j)).store(room + k * wide + j);
        }
    }

    V pick(const Wide *y) const {
        Wide found[lanes] = {};
        for (int64_t k = 0; k < count; k++)
            if (y[k] >= 0) found[k] = static_cast<Wide>(widen(x[k][static_cast<int64_t>(y[k])]));
        return V::load(found);
    }
    V pick_kept(const Wide *y) const {
        Wide found[lanes] = {};
        for (int64_t k = 0; k < count; k++)
            if (y[k] >= 0) found[k] = room[k * wide + static_cast<int64_t>(y[k])];
        return V::load(found);
    }
    // Kept exponentials times a factor a row, already without the lift, and `entry` at the label if there is one.
    void scale_kept(V factor, const Wide *y, V entry) {
        Wide factors[lanes];
        factor.store(factors);
        for (int64_t k = 0; k < count; k++) {
            if (factors[k] == 0) {
                std::fill(out[k], out[k] + size, T{});
                continue;
            }
            const V f = V::of(factors[k]);
            Row<Wide, V>(room + k * wide, size).write(out[k], past, [&](int64_t, V e) XENT_ALWAYS { return e * f; });
        }
        if (y) put(y, entry);
    }
    void put(const Wide *y, V entry) {
        Wide entries[lanes];
        entry.store(entries);
        for (int64_t k = 0; k < count; k++)
            if (y[k] >= 0) out[k][static_cast<int64_t>(y[k])] = As<T>::of(entries[k]);
    }
    void log_softmax(V peak, V log_mass) {
        with_rows(peak, [&](auto row, int64_t k, const Wide *of_row) { row.log_softmax(out[k], of_row[k], past); }, log_mass);
    }

    void moments(const Numbers &peak, bool target, const double *w, Numbers *picked, Numbers *mass) const {
        sums(peak, picked, mass, [&](const Row<T, D8> &row, int64_t k, double *a, double *b) {
            row.moments(target ? q[k] : nullptr, w, a, b);
        });
    }
    void split(const Numbers &peak, bool target, const double *w, Numbers *top, Numbers *off) const {
        sums(peak, top, off, [&](const Row<T, D8> &row, int64_t k, double *a, double *b) {
            if (halves == 2 && target && !w) return this->row(k, row.peak).split_floats(q[k], a, b);
            row.split(target ? q[k] : nullptr, w, a, b);
        });
    }
    void difference(V peak, const Numbers &factor, const Numbers &hard, bool target, bool smoothed,
                    const Numbers &smooth, const double *w, const Numbers &lone, const Numbers &lifted) {
        double f[lanes], h[lanes], s[lanes], single[lanes], top[lanes];
        factor.store(f), hard.store(h), smooth.store(s), lone.store(single), lifted.store(top);
        with_rows(peak, [&](auto row, int64_t k, const Wide *) {
            row.difference(out[k], f[k], single[k] == 1, top[k], h[k], target ? q[k] : nullptr, smoothed ? s[k] : 0.0, w, past);
        }, peak);
    }
    Numbers slopes(V peak, const Numbers &, Numbers *rest, Numbers *top, Numbers *off) const {
        double mass[lanes], on[lanes] = {}, below[lanes] = {}, squares[lanes] = {};
        Wide tops[lanes];
        rest->store(mass), peak.store(tops);
        for (int64_t k = 0; k < count; k++)
            squares[k] = row(k, tops[k]).slopes(g[k], &mass[k], &on[k], &below[k], room + k * wide);
        *rest = Numbers::load(mass), *top = Numbers::load(on), *off = Numbers::load(below);
        return Numbers::load(squares);
    }
    void softmax_gradient(V peak, const Numbers &rest, const Numbers &origin, const Numbers &mean, const Numbers &lone,
                          const Numbers &lifted) {
        double r[lanes], o[lanes], m[lanes], single[lanes], top[lanes];
        rest.store(r), origin.store(o), mean.store(m), lone.store(single), lifted.store(top);
        with_rows(peak, [&](auto row, int64_t k, const Wide *) {
            row.softmax_gradient(out[k], g[k], r[k], o[k], m[k], single[k] == 1, top[k], past, room + k * wide);
        }, peak);
    }

   private:
    Row<T, V> row(int64_t k, double peak = 0) const { return {x[k], size, peak}; }
    template <class Visit> void with_rows(V peak, Visit visit, V other) const {
        Wide top[lanes], beside[lanes];
        peak.store(top), other.store(beside);
        for (int64_t k = 0; k < count; k++) visit(row(k, top[k]), k, beside);
    }
    template <class Add> void sums(const Numbers &peak, Numbers *first, Numbers *second, Add add) const {
        double a[lanes] = {}, b[lanes] = {}, top[lanes];
        peak.store(top);
        for (int64_t k = 0; k < count; k++) add(Row<T, D8>(x[k], size, top[k]), k, &a[k], &b[k]);
        *first = Numbers::load(a), *second = Numbers::load(b);
    }
    // Rows k, k + 1, ...: their exponentials but those of the peak, and how many of those there are.
    template <bool keep, int n> XENT_INLINE void sum_rows(int64_t k, const Wide *top, double *below, double *peaks) {
        Line<keep> lines[n];
        for (int i = 0; i < n; i++) lines[i].begin(*this, k + i, top[k + i]);
        int64_t j = 0;
        if (halves == 2)
            for (; j + 4 * lanes <= size; j += 4 * lanes)
                for (int i = 0; i < n; i++) {
                    const V a = lines[i].at(j), b = lines[i].at(j + lanes);
                    const V c = lines[i].at(j + 2 * lanes), d = lines[i].at(j + 3 * lanes);
                    lines[i].sum.add((a + b) + (c + d));
                }
        if (j < size)  // up to three vectors and a part of one
            for (int i = 0; i < n; i++) {
                V left = V::of(0);
                int64_t at = j;
                for (; at + lanes <= size; at += lanes) halves == 2 ? left = left + lines[i].at(at) : (lines[i].sum.add(lines[i].at(at)), left);
                if (at < size) left = left + lines[i].other(at, row(k + i).logits_at(at));
                lines[i].sum.add(left);
            }
        for (int i = 0; i < n; i++) below[k + i] = lines[i].sum.total(), peaks[k + i] = lines[i].level;
    }
    template <bool keep> struct Line {
        Exponential<V, carried> exp;
        const T *x;
        T *to;
        int64_t next;
        Wide *kept;
        V top;
        int level = 0;
        SumOf<V, careful> sum;
        XENT_INLINE void begin(const Beside &all, int64_t k, Wide peak) {
            exp = Exponential<V, carried>(peak), top = V::of(peak);
            x = all.x[k], to = all.out[k], next = all.next, kept = all.room + k * all.wide;
        }
        XENT_INLINE V at(int64_t j) {
            __builtin_prefetch(x + next + j, 0, 2);
            if (keep) __builtin_prefetch(to + j, 1, 2);
            return other(j, Io<V, T>::load(x + j));
        }
        XENT_INLINE V other(int64_t j, V v) {
            const V e = exp(v);
            const auto at = equal(v, top);
            if (keep) e.store(kept + j);
            level += number(at);
            return select(at, V::of(0), e);
        }
    };

    const int64_t size;
    Wide *room;
    const int64_t wide;
    const bool past;
};

}  // namespace XENT_ISA
