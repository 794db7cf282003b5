// A range of rows of a call: brings each row's classes side by side, runs the kernel, puts results where they belong.
#pragma once
#include <algorithm>
#include <vector>

#include "call.hpp"
#include "eight.hpp"

namespace XENT_ISA {

using xent::Call;
using xent::View;

inline int64_t label_at(const Call &call, int64_t row, bool *beyond) {
    *beyond = false;
    const void *p = call.target.data;
    switch (call.target_kind) {
        case xent::i64: return static_cast<const int64_t *>(p)[row];
        case xent::i32: return static_cast<const int32_t *>(p)[row];
        case xent::i16: return static_cast<const int16_t *>(p)[row];
        case xent::i8: return static_cast<const int8_t *>(p)[row];
        case xent::u32: return static_cast<const uint32_t *>(p)[row];
        case xent::u16: return static_cast<const uint16_t *>(p)[row];
        case xent::u8: return static_cast<const uint8_t *>(p)[row];
        default: {
            uint64_t value = static_cast<const uint64_t *>(p)[row];
            *beyond = value > INT64_MAX;
            return static_cast<int64_t>(value);
        }
    }
}

// Rows of one tensor in a group: as they lie if their classes are side by side, else copied.
template <class T> class Side {
   public:
    Side(const View &view, const Call &call) : view(view), classes(call.classes), direct(view.classes == 1) {
        if (!direct && view.data) room.resize(static_cast<size_t>(xent::group * classes));
    }
    void gather(int64_t o, int64_t i, int64_t count) {
        first = static_cast<T *>(view.data) + o * view.outer + i * view.inner;
        if (direct) return;
        for (int64_t j = 0; j < classes; j++)
            for (int64_t k = 0; k < count; k++) room[k * classes + j] = first[j * view.classes + k * view.inner];
    }
    void scatter(int64_t count) {
        if (direct) return;
        for (int64_t j = 0; j < classes; j++)
            for (int64_t k = 0; k < count; k++) first[j * view.classes + k * view.inner] = room[k * classes + j];
    }
    void aim(int64_t o, int64_t i) { first = static_cast<T *>(view.data) + o * view.outer + i * view.inner; }
    int64_t step() const { return direct ? view.inner : classes; }
    T *row(int64_t k) { return direct ? first + k * view.inner : room.data() + k * classes; }

   private:
    const View &view;
    int64_t classes;
    bool direct;
    T *first = nullptr;
    std::vector<T> room;
};

template <class T, class V> class Rows {
   public:
    using Wide = typename V::Real;

    Rows(const Call &call, std::atomic<int64_t> &wrong)
        : call(call), wrong(wrong), soft(call.target_kind == xent::distribution), x(call.rows, call),
          q(soft ? call.target : nothing, call), g(call.slope, call), out(call.out, call) {
        weights.exact = call.weight;
        weights.lanes = pick(call.weight, call.weight_float, Wide());
        weights.sum = call.weight ? *call.weight_sum : static_cast<double>(call.classes);
    }

    void run(int64_t begin, int64_t end) {
        const int64_t across = (call.inner + xent::group - 1) / xent::group;
        const bool plain = !soft && !call.mixed && !call.smooth && call.kind != xent::softmax_gradient;
        const bool eights = sizeof(T) < 8 && V::lanes == D8::lanes && call.classes <= few && plain;
        const bool in_place = call.rows.classes == 1 && (call.out.classes == 1 || !call.out.data);
        const bool stacked = eights && call.inner == 1 && in_place;
        for (int64_t at = begin; at < end; at++) {
            if (stacked && at + 8 <= end) {
                x.aim(at, 0), out.aim(at, 0);
                eight(at, 0, call.rows.outer, call.out.outer), at += 7;
                continue;
            }
            const int64_t o = at / across, i = at % across * xent::group;
            const int64_t count = call.inner - i < xent::group ? call.inner - i : xent::group;
            x.gather(o, i, count);
            if (soft) q.gather(o, i, count);
            if (call.slope.data) g.gather(o, i, count);
            if (call.out.data) out.aim(o, i);
            int64_t k = 0;
            const int64_t first = o * call.inner + i;
            if (eights)
                for (; k + 8 <= count; k += 8) eight(first + k, k, x.step(), out.step());
            for (; k < count; k++) one(first + k, k);
            if (call.out.data) out.scatter(count);
        }
    }

   private:
    static const double *pick(const double *d, const float *, double) { return d; }
    static const float *pick(const double *, const float *f, float) { return f; }

    void one(int64_t r, int64_t k) {
        Row<T, V> row(x.row(k), call.classes);
        const T *of_q = soft ? q.row(k) : nullptr, *of_g = call.slope.data ? g.row(k) : nullptr;
        alone(row, r, call.out.data ? out.row(k) : nullptr, of_q, of_g);
    }
    void alone(Row<T, V> &row, int64_t r, T *to, const T *of_q, const T *of_g) {
        switch (call.kind) {
            case xent::summary: return summarise(row, r, of_q);
            case xent::gradient: return differentiate(row, r, to, of_q);
            case xent::softmax:
            case xent::log_softmax:
                survey(row, &call.peak[r], &call.rest[r]);
                if (call.kind == xent::softmax) return row.softmax(to, call.rest[r]);
                return row.log_softmax(to, call.rest[r]);
            default: return differentiate_softmax(row, r, to, of_g);
        }
    }

    // -1: ignored, or no class at all, which is counted.
    int64_t label(int64_t r) {
        bool beyond;
        const int64_t y = label_at(call, r, &beyond);
        if (!beyond && y == call.ignore_index) return -1;
        if (!beyond && y >= 0 && y < call.classes) return y;
        wrong.fetch_add(1, std::memory_order_relaxed);
        return -1;
    }

    // Rows r to r + 7, the first of them row k of the group, their logits and results so many elements apart. What is
    // out of the ordinary goes by itself.
    void eight(int64_t r, int64_t k, int64_t apart, int64_t apart_out) {
        const T *from[8];
        T *to[8];
        double peak[8], rest[8], factor[8], lone[8], lifted[8];
        bool odd[8] = {};
        Pull pulls[8];
        for (int i = 0; i < 8; i++) {
            from[i] = x.row(k) + i * apart;
            to[i] = call.out.data ? out.row(k) + i * apart_out : nullptr;
        }
        Eight<T> rows(from, call.classes);
        if (call.kind != xent::gradient) {
            rows.survey(peak, rest);
            for (int i = 0; i < 8; i++) odd[i] = !(std::fabs(peak[i]) < infinity && rest[i] < infinity);
        }
        if (call.kind == xent::gradient) {
            for (int i = 0; i < 8; i++) {
                pulls[i] = pull_of(from[i], r + i), peak[i] = call.peak[r + i];
                factor[i] = pulls[i].factor(), lifted[i] = pulls[i].entry(), lone[i] = pulls[i].lone();
                odd[i] = pulls[i].label < 0 || !within(factor[i]) || !within(lifted[i]);
            }
            rows.gradient(to, peak, factor, lone, lifted);
        } else if (call.kind == xent::softmax) {
            for (int i = 0; i < 8; i++) factor[i] = 1.0 / (1.0 + rest[i]);
            rows.softmax(to, peak, factor);
        } else if (call.kind == xent::log_softmax) {
            for (int i = 0; i < 8; i++) factor[i] = std::log1p(rest[i]);
            rows.log_softmax(to, peak, factor);
        }
        for (int i = 0; i < 8; i++) {
            if (odd[i]) {
                Row<T, V> row(from[i], call.classes);
                alone(row, r + i, to[i], nullptr, nullptr);
            } else if (call.kind == xent::gradient) {
                finish(from[i], to[i], r + i, pulls[i], 0.0);
            } else if (call.kind == xent::summary) {
                call.mix[r + i] = 0;
                conclude(from[i], r + i, label(r + i), peak[i], rest[i]);
            } else {
                call.peak[r + i] = peak[i], call.rest[r + i] = rest[i];
            }
        }
    }

    static void survey(Row<T, V> &row, double *peak, double *rest) {
        *peak = row.find_peak(), *rest = row.rest();
        if (*rest != *rest && row.holds_nan()) *peak = row.set_peak(*rest);  // the vectors' maximum passes over nan
    }

    double weight_of(int64_t y) const { return weights.exact ? weights.exact[y] : 1.0; }

    void summarise(Row<T, V> &row, int64_t r, const T *of_q) {
        const int64_t y = soft ? 0 : label(r);
        double peak = 0, rest = 0, mix = 0, whole;
        if (y >= 0) survey(row, &peak, &rest);
        if (y >= 0 && call.mixed) row.moments(static_cast<const T *>(nullptr), weights, &mix, &whole);
        call.mix[r] = mix;
        if (!soft) return conclude(row.x, r, y, peak, rest);
        call.peak[r] = peak, call.rest[r] = rest;
        row.moments(of_q, weights, &call.picked[r], &call.mass[r]);
    }
    // What label y adds to the facts of a row.
    void conclude(const T *row, int64_t r, int64_t y, double peak, double rest) {
        const double mass = y < 0 ? 0.0 : weight_of(y);
        call.picked[r] = mass != 0 ? mass * (static_cast<double>(widen(row[y])) - peak) : 0.0;
        call.peak[r] = y < 0 ? 0.0 : peak, call.rest[r] = y < 0 ? 0.0 : rest, call.mass[r] = mass;
    }

    // The gradient of a row: p scale - hard a, and `lifted` / (1 + rest) at a lone peak.
    struct Pull {
        int64_t label = -1;
        double hard = 0, scale = 0, lifted = 0, at_label = 0, mass_of_row = 1;
        double factor() const { return scale == 0 ? 0.0 : scale / mass_of_row; }
        double entry() const { return lifted / mass_of_row; }
        bool lone() const { return mass_of_row < 2.0; }
        void add(double factor, double top, double off, double rest) {
            scale += factor * (top + off), lifted += factor * (off - top * rest);
        }
    };
    Pull pull_of(const T *row, int64_t r) {
        Pull pull;
        pull.label = soft ? -1 : label(r), pull.mass_of_row = 1.0 + call.rest[r], pull.hard = call.hard[r];
        if (pull.label < 0) return pull;
        const double w = weight_of(pull.label), rest = call.rest[r];
        if (w == 0) pull.hard = 0.0;
        const bool at_peak = static_cast<double>(widen(row[pull.label])) == call.peak[r];
        pull.add(pull.hard, at_peak ? w : 0.0, at_peak ? 0.0 : w, rest);
        pull.at_label = pull.hard * w;
        return pull;
    }

    void differentiate(Row<T, V> &row, int64_t r, T *to, const T *of_q) {
        const double rest = call.rest[r], smooth = call.smooth ? call.smooth[r] : 0.0;
        double top, off;
        Pull pull = pull_of(row.x, r);
        if (!soft && pull.label < 0) return static_cast<void>(std::fill(to, to + row.size, T{}));
        row.set_peak(call.peak[r]);
        if (soft) {
            row.split(of_q, weights, &top, &off);
            pull.add(pull.hard, top, off, rest);
        }
        if (smooth != 0) {
            top = 1.0, off = weights.sum - 1.0;
            if (weights.exact) row.split(static_cast<const T *>(nullptr), weights, &top, &off);
            pull.scale += smooth * weights.sum, pull.lifted += smooth * (off - top * rest);
        }
        const double factor = pull.factor(), entry = pull.entry(), of_soft = soft ? pull.hard : 0.0;
        const bool mild = within(factor) && within(entry) && within(of_soft) && within(smooth), lone = pull.lone();
        if (mild && !soft && smooth == 0)
            row.gradient(to, factor, lone, entry);
        else if (mild || sizeof(Wide) == 8)
            row.gradient(to, factor, lone, entry, of_soft, of_q, smooth, weights);
        else
            in_double(row).gradient(to, factor, lone, entry, of_soft, of_q, smooth, double_weights());
        finish(row.x, to, r, pull, smooth);
    }
    // The label's entry, a difference, in double and on its own.
    void finish(const T *row, T *to, int64_t r, const Pull &pull, double smooth) {
        const int64_t y = pull.label;
        if (y < 0 || pull.at_label == 0) return;
        const double d = static_cast<double>(widen(row[y])) - call.peak[r];
        if (pull.lone() && d == 0) return;  // `lifted` has it
        const double p = pull.scale == 0 ? 0.0 : std::exp(d) / pull.mass_of_row * pull.scale;
        to[y] = As<T>::of(p - pull.at_label - (smooth != 0 ? smooth * weight_of(y) : 0.0));
    }

    void differentiate_softmax(Row<T, V> &row, int64_t r, T *to, const T *of_g) {
        row.set_peak(call.peak[r]);
        if (slope_away(row, r, to, of_g)) return;
        Row<T, D8> wide = in_double(row);
        slope_away(wide, r, to, of_g);
    }
    // False where float lanes cannot tell what the slopes come to.
    template <class AnyRow> bool slope_away(AnyRow &row, int64_t r, T *to, const T *of_g) {
        constexpr bool floats = sizeof(row.peak) < 8;
        const double rest = call.rest[r], mass = 1.0 + rest;
        const double origin = floats ? row.at_peak(of_g) : 0.0;  // a common offset would eat a float exp's digits
        double top, others;
        row.slopes(of_g, origin, &top, &others);
        const double mean = (top + others) / mass, lifted = (top * rest - others) / mass / mass;
        if (floats && !(within(mean) && within(origin))) return false;
        row.softmax_gradient(to, of_g, rest, origin, mean, rest < 1.0, lifted);
        return true;
    }

    // Factors that float lanes bear: beyond, what they call 0 may count, and what they call inf may not be it.
    static bool within(double factor) { return std::fabs(factor) <= 0x1p40; }
    Row<T, D8> in_double(const Row<T, V> &row) const {
        Row<T, D8> wide(row.x, row.size);
        wide.set_peak(row.peak);
        return wide;
    }
    ClassWeights<double> double_weights() const { return {weights.exact, weights.exact, weights.sum}; }

    static constexpr View nothing{nullptr, 0, 1, 0};
    const Call &call;
    std::atomic<int64_t> &wrong;
    bool soft;
    Side<T> x, q, g, out;
    ClassWeights<Wide> weights;
};
template <class T, class V> constexpr View Rows<T, V>::nothing;

template <class T, class V> void run_rows(const Call &call, int64_t begin, int64_t end, std::atomic<int64_t> &wrong) {
    Rows<T, V>(call, wrong).run(begin, end);
}

inline void run(const Call &call, int64_t begin, int64_t end, std::atomic<int64_t> &wrong) {
    const bool small = call.classes <= few || call.classes > INT64_C(1) << 28;  // floats count 2**24 peaks a lane
    switch (call.type) {
        case xent::float64: return run_rows<double, D8>(call, begin, end, wrong);
        case xent::float32: return (small ? run_rows<float, D8> : run_rows<float, F16>)(call, begin, end, wrong);
        case xent::bfloat16: return (small ? run_rows<Brain, D8> : run_rows<Brain, F16>)(call, begin, end, wrong);
        default: return (small ? run_rows<Half, D8> : run_rows<Half, F16>)(call, begin, end, wrong);
    }
}

}  // namespace XENT_ISA
