// A range of rows of a call: brings each row's classes side by side, runs the kernel, puts results where they belong.
#pragma once
#include <algorithm>
#include <vector>

#include "call.hpp"
#include "rows.hpp"

namespace XENT_ISA {

using xent::Call;
using xent::View;

// Up to this many classes a row is computed in double whatever its type: the exponentials are not what costs
// there, and the results are the exact ones rounded once.
constexpr int64_t few = 64;

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
        for (int64_t at = begin; at < end; at++) {
            const int64_t o = at / across, i = at % across * xent::group;
            const int64_t count = call.inner - i < xent::group ? call.inner - i : xent::group;
            x.gather(o, i, count);
            if (soft) q.gather(o, i, count);
            if (call.slope.data) g.gather(o, i, count);
            if (call.out.data) out.aim(o, i);
            for (int64_t k = 0; k < count; k++) one(o * call.inner + i + k, k);
            if (call.out.data) out.scatter(count);
        }
    }

   private:
    static const double *pick(const double *d, const float *, double) { return d; }
    static const float *pick(const double *, const float *f, float) { return f; }

    void one(int64_t r, int64_t k) {
        Row<T, V> row(x.row(k), call.classes);
        switch (call.kind) {
            case xent::summary: return summarise(row, r, k);
            case xent::gradient: return differentiate(row, r, k);
            case xent::softmax:
            case xent::log_softmax:
                survey(row, &call.peak[r], &call.rest[r]);
                if (call.kind == xent::softmax) return row.softmax(out.row(k), call.rest[r]);
                return row.log_softmax(out.row(k), call.rest[r]);
            default: return differentiate_softmax(row, r, k);
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

    static void survey(Row<T, V> &row, double *peak, double *rest) {
        *peak = row.find_peak(), *rest = row.rest();
        if (*rest != *rest && row.holds_nan()) *peak = row.set_peak(*rest);  // the vectors' maximum passes over nan
    }

    double weight_of(int64_t y) const { return weights.exact ? weights.exact[y] : 1.0; }

    void summarise(Row<T, V> &row, int64_t r, int64_t k) {
        double peak = 0, rest = 0, picked = 0, mass = 0, mix = 0, whole;
        const int64_t y = soft ? 0 : label(r);
        if (y >= 0) {
            survey(row, &peak, &rest);
            if (call.mixed) row.moments(static_cast<const T *>(nullptr), weights, &mix, &whole);
            if (soft) {
                row.moments(q.row(k), weights, &picked, &mass);
            } else {
                mass = weight_of(y);
                if (mass != 0) picked = mass * (static_cast<double>(widen(row.x[y])) - peak);
            }
        }
        call.peak[r] = peak, call.rest[r] = rest, call.picked[r] = picked, call.mass[r] = mass, call.mix[r] = mix;
    }

    void differentiate(Row<T, V> &row, int64_t r, int64_t k) {
        const double rest = call.rest[r], mass_of_row = 1.0 + rest;
        double hard = call.hard[r], smooth = call.smooth ? call.smooth[r] : 0.0;
        double top, off, scale, lifted, at_label = 0;
        const int64_t y = soft ? -1 : label(r);
        row.set_peak(call.peak[r]);
        const bool lone = rest < 1.0;
        T *to = out.row(k);
        if (!soft && y < 0) return static_cast<void>(std::fill(to, to + row.size, T{}));
        if (soft) {
            row.split(q.row(k), weights, &top, &off);
        } else {
            const double w = weight_of(y);
            if (w == 0) hard = 0.0;
            const bool at_peak = static_cast<double>(widen(row.x[y])) == call.peak[r];
            top = at_peak ? w : 0.0, off = at_peak ? 0.0 : w, at_label = hard * w;
        }
        scale = hard * (top + off), lifted = hard * (off - top * rest);
        if (smooth != 0) {
            if (weights.exact)
                row.split(static_cast<const T *>(nullptr), weights, &top, &off);
            else
                top = 1.0, off = weights.sum - 1.0;
            scale += smooth * weights.sum, lifted += smooth * (off - top * rest);
        }
        const double factor = scale == 0 ? 0.0 : scale / mass_of_row, top_entry = lifted / mass_of_row, of_q = soft ? hard : 0.0;
        const T *probabilities = soft ? q.row(k) : nullptr;
        const bool plain = !soft && smooth == 0 && within(factor) && within(top_entry);
        if (plain)
            row.gradient(to, factor, lone, top_entry);
        else if (sizeof(Wide) == 8 || (within(factor) && within(top_entry) && within(of_q) && within(smooth)))
            row.gradient(to, factor, lone, top_entry, of_q, probabilities, smooth, weights);
        else
            in_double(row).gradient(to, factor, lone, top_entry, of_q, probabilities, smooth, double_weights());
        if (y >= 0 && at_label != 0) {
            const double d = static_cast<double>(widen(row.x[y])) - call.peak[r];
            if (lone && d == 0) return;  // `lifted` has it
            const double p = scale == 0 ? 0.0 : std::exp(d) / mass_of_row * scale;
            to[y] = As<T>::of(p - at_label - (smooth != 0 ? smooth * weight_of(y) : 0.0));
        }
    }

    void differentiate_softmax(Row<T, V> &row, int64_t r, int64_t k) {
        row.set_peak(call.peak[r]);
        if (!slope_away(row, r, k)) {
            Row<T, D8> wide = in_double(row);
            slope_away(wide, r, k);
        }
    }
    // False where float lanes cannot tell what the slopes come to.
    template <class AnyRow> bool slope_away(AnyRow &row, int64_t r, int64_t k) {
        constexpr bool floats = sizeof(row.peak) < 8;
        const double rest = call.rest[r], mass = 1.0 + rest;
        const double origin = floats ? row.at_peak(g.row(k)) : 0.0;  // a common offset would eat a float exp's digits
        double top, others;
        row.slopes(g.row(k), origin, &top, &others);
        const double mean = (top + others) / mass, lifted = (top * rest - others) / mass / mass;
        if (floats && !(within(mean) && within(origin))) return false;
        row.softmax_gradient(out.row(k), g.row(k), rest, origin, mean, rest < 1.0, lifted);
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
