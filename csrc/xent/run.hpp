// A range of rows of a call: brings each row's classes side by side, runs the kernels, puts results where they belong.
#pragma once
#include "groups.hpp"

namespace XENT_ISA {

// Rows of one tensor in a group: as they lie if their classes are side by side, else copied.
template <class T> class Side {
   public:
    Side(const View &view, const Call &call) : view(view), classes(call.classes), inner(call.inner) {
        direct = view.classes == 1;
        if (!direct && view.data) room.resize(static_cast<size_t>(xent::group * classes));
    }
    void gather(int64_t first, int64_t count) {
        for (int64_t k = 0; k < count && !direct; k++) start[k] = place(first + k);
        for (int64_t j = 0; j < classes && !direct; j++)
            for (int64_t k = 0; k < count; k++) room[k * classes + j] = start[k][j * view.classes];
    }
    void scatter(int64_t first, int64_t count) {
        for (int64_t k = 0; k < count && !direct; k++) start[k] = place(first + k);
        for (int64_t j = 0; j < classes && !direct; j++)
            for (int64_t k = 0; k < count; k++) start[k][j * view.classes] = room[k * classes + j];
    }
    // Row `first + k` of the group that begins at `first`.
    T *row(int64_t first, int64_t k) { return direct ? place(first + k) : room.data() + k * classes; }

   private:
    T *place(int64_t r) const {
        return static_cast<T *>(view.data) + r / inner * view.outer + r % inner * view.inner;
    }

    const View view;
    const int64_t classes, inner;
    bool direct;
    T *start[xent::group];
    std::vector<T> room;
};

// Calls with more classes, a row after the other.
template <class T> class Rows : Work<T> {
   public:
    Rows(const Call &call, Tally &tally, bool past)
        : Work<T>(call, tally), past(past), x(call.rows, call), q(this->soft ? call.target : View{nullptr, 0, 1, 0}, call),
          g(call.slope, call), out(call.out, call) {}

    void run(int64_t begin, int64_t end) {
        const Call &call = this->call;
        const int64_t unit = xent::unit_of(call), last = std::min(end * unit, call.outer * call.inner);
        for (int64_t r = begin * unit; r < last; r += xent::group) {
            const int64_t count = std::min(xent::group, last - r);
            x.gather(r, count);
            if (this->soft) q.gather(r, count);
            if (call.slope.data) g.gather(r, count);
            for (int64_t k = 0; k < count; k++)
                this->alone(r + k, x.row(r, k), call.out.data ? out.row(r, k) : nullptr,
                            this->soft ? q.row(r, k) : nullptr, call.slope.data ? g.row(r, k) : nullptr,
                            past && call.out.classes == 1);
            if (call.out.data) out.scatter(r, count);
        }
    }

   private:
    const bool past;
    Side<T> x, q, g, out;
};

template <class T> void run_rows(const Call &call, int64_t begin, int64_t end, Tally &tally) {
    // Results beyond half of a large last-level cache are gone from it before they are read.
    const bool past = call.outer * call.inner * call.classes >= (INT64_C(16) << 20) / int64_t(sizeof(T));
    if (call.classes <= xent::few)
        Groups<T>(call, tally, past).run(begin, end);
    else
        Rows<T>(call, tally, past).run(begin, end);
    std::atomic_thread_fence(std::memory_order_seq_cst);  // what was streamed past the cache comes before what follows
}

// The weights of the labels of a range of rows.
inline void weigh(const Call &call, int64_t begin, int64_t end, Tally &tally) {
    Work<double> work(call, tally);
    const int64_t unit = xent::unit_of(call), last = std::min(end * unit, call.outer * call.inner);
    double y[256], w[256];
    for (int64_t r = begin * unit, count; r < last; r += count) {
        count = std::min<int64_t>(256, last - r);
        work.labels(r, count, y, w);
        for (int64_t k = 0; k < count; k++) {
            if (!call.weight)
                work.kept += y[k] >= 0;
            else
                work.mass.add(w[k]);
        }
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
