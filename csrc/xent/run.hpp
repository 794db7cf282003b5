// A range of rows of a call: brings each row's classes side by side, runs the kernels, puts results where they belong.
#pragma once
#include "groups.hpp"
#include "parts.hpp"
#include "strips.hpp"

namespace XENT_ISA {

// Calls with more classes, a row after the other.
template <class T> class Rows : Work<T> {
   public:
    Rows(const Call &call, Tally &tally, bool past)
        : Work<T>(call, tally), past(past), x(call.rows, call), q(this->soft ? call.target : View{nullptr, 0, 1, 0}, call), g(call.slope, call), out(call.out, call) {}

    void run(int64_t begin, int64_t end) {
        const Call &call = this->call;
        const int64_t unit = xent::unit_of(call), last = std::min(end * unit, call.outer * call.inner);
        for (int64_t r = begin * unit, count; r < last; r += count) {
            count = std::min(xent::group, last - r);
            x.fetch(r, count), q.fetch(r, count), g.fetch(r, count), out.begin(r);
            x.gather(0, count), q.gather(0, count), g.gather(0, count);
            for (int64_t k = 0; k < count; k++)
                this->alone(r + k, x.row(0, k), out.row(0, k), q.row(0, k), g.row(0, k), past && call.out.classes == 1);
            out.scatter(0, count), out.flush(count, past);
        }
    }

   private:
    const bool past;
    Strip<T, typename Work<T>::Floats> x, q, g, out;
};

template <class T> void run_rows(const Call &call, int64_t begin, int64_t end, Tally &tally) {
    // Results beyond half of a large last-level cache are gone from it before they are read.
    const bool past = call.outer * call.inner * call.classes >= (INT64_C(16) << 20) / int64_t(sizeof(T));
    if (xent::spreads(call))
        Rows<T>(call, tally, past).run(begin, end);
    else if (call.classes <= xent::few)
        Groups<T>(call, tally, past).run(begin, end);
    else if (call.classes <= xent::some)
        Strips<T>(call, tally, past).run(begin, end);
    else
        Rows<T>(call, tally, past).run(begin, end);
    std::atomic_thread_fence(std::memory_order_seq_cst);  // what was streamed past the cache comes before what follows
}

// The weights of the labels of a range of rows.
inline void weigh(const Call &call, int64_t begin, int64_t end, Tally &tally) {
    Work<double> work(call, tally);
    const int64_t unit = xent::unit_of(call), last = std::min(end * unit, call.outer * call.inner);
    if (!call.weight) return work.count_labels(begin * unit, last - begin * unit);
    double y[256], w[256];
    for (int64_t r = begin * unit, count; r < last; r += count) {
        count = std::min<int64_t>(256, last - r);
        work.labels(r, count, y, w);
        for (int64_t k = 0; k < count; k++) work.mass.add(w[k]);
    }
}

inline void *open(const Call &call) {
    Settled *settled = new Settled;
    settled->parts.resize(static_cast<size_t>(call.outer * call.inner * xent::parts_of(call)));
    return settled;
}
inline void close(void *settled) { delete static_cast<Settled *>(settled); }
inline void stage(const Call &call, void *settled, xent::Stage at, int64_t begin, int64_t end, Tally &tally) {
    Settled &kept = *static_cast<Settled *>(settled);
    switch (call.type) {
        case xent::float64: return Shared<double>(call, tally, kept).run(at, begin, end);
        case xent::float32: return Shared<float>(call, tally, kept).run(at, begin, end);
        case xent::bfloat16: return Shared<Brain>(call, tally, kept).run(at, begin, end);
        default: return Shared<Half>(call, tally, kept).run(at, begin, end);
    }
}

inline double sum(const double *values, int64_t count) {
    Total total;
    total.add(values, count);
    return total.sum().rounded();
}

inline void run(const Call &call, int64_t begin, int64_t end, Tally &tally) {
    if (call.kind == xent::masses) return weigh(call, begin, end, tally);
    switch (call.type) {
        case xent::float64: return run_rows<double>(call, begin, end, tally);
        case xent::float32: return run_rows<float>(call, begin, end, tally);
        case xent::bfloat16: return run_rows<Brain>(call, begin, end, tally);
        default: return run_rows<Half>(call, begin, end, tally);
    }
}

}  // namespace XENT_ISA
