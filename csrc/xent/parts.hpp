// Calls with rows so long that several threads share one: the facts of each part, then what is of a row, then the
// classes of each part. A row has the same bits as on one thread, since Work::survey takes the same parts.
#pragma once
#include "work.hpp"

namespace XENT_ISA {

// Kept from one stage to the next, a number a row.
struct Settled {
    std::vector<Facts> parts, rows;
    std::vector<double> label, weight;
};

template <class T> class Shared : Work<T> {
    using Base = Work<T>;
    using Base::call;

   public:
    Shared(const Call &call, Tally &tally, Settled &settled) : Base(call, tally), settled(settled) {}

    void run(xent::Stage stage, int64_t begin, int64_t end) {
        if (stage == xent::whole) return settle();
        const int64_t parts = xent::parts_of(call);
        for (int64_t u = begin; u < end; u++) {
            const int64_t r = u / parts, start = u % parts * xent::part, size = std::min(xent::part, call.classes - start);
            const T *x = place<const T>(call.rows, r) + start;
            if (stage == xent::facts)
                settled.parts[u] = this->survey_part(x, size);
            else
                write(r, x, place<T>(call.out, r) + start, size);
        }
    }

   private:
    template <class P> P *place(const View &view, int64_t r) const {
        return static_cast<P *>(view.data) + r / call.inner * view.outer + r % call.inner * view.inner;
    }

    // What there is of a row: merged facts, label, loss. After that, parts can be written.
    void settle() {
        const int64_t rows = call.outer * call.inner, parts = xent::parts_of(call);
        settled.rows.resize(rows), settled.label.resize(rows, -1), settled.weight.resize(rows);
        for (int64_t r = 0; r < rows; r++) {
            Facts &facts = settled.rows[r];
            double &label = settled.label[r], &w = settled.weight[r];
            if (call.target_kind >= 0) this->labels(r, 1, &label, &w);
            if (call.kind == xent::gradient) {
                facts = {call.peak[r], call.rest[r]};
                continue;
            }
            for (int64_t p = 0; p < parts; p++) facts = merged(facts, settled.parts[r * parts + p]);
            facts = this->finished(facts);
            if (call.target_kind < 0)
                call.peak[r] = facts.peak, call.rest[r] = facts.rest;
            else
                this->conclude(label < 0 ? Facts{0, 0} : facts, r, place<const T>(call.rows, r), nullptr,
                               static_cast<int64_t>(label), w);
        }
    }
    void write(int64_t r, const T *x, T *to, int64_t size) const {
        const Facts &facts = settled.rows[r];
        if (call.target_kind < 0) return this->probabilities(facts, x, to, size, true);
        const int64_t label = static_cast<int64_t>(settled.label[r]), at = label - (x - place<const T>(call.rows, r));
        if (label < 0) return static_cast<void>(std::fill(to, to + size, T{}));
        const double w = settled.weight[r];
        const Pull pull = this->pull_of(facts, r, label, w, place<const T>(call.rows, r));
        this->exponentials(pull, facts, x, to, size, true);
        if (at >= 0 && at < size && w != 0) to[at] = As<T>::of(this->entry(pull, facts, call.hard[r * call.step] * w, 0.0, widen(x[at]), at));
    }

    Settled &settled;
};

}  // namespace XENT_ISA
