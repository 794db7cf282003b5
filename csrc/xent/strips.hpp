// Calls with some hundreds or thousands of classes: groups of rows, their classes side by side.
#pragma once
#include "beside.hpp"
#include "settle.hpp"

namespace XENT_ISA {

// Rows of one tensor: as they lie if their classes are side by side, else copied there and back, many at a time into
// scratch that keeps the layout (`fetch`, `flush`), and group by group from there (`gather`, `scatter`).
template <class T, class V> class Strip {
   public:
    Strip(const View &view, const Call &call)
        : direct(view.classes == 1), classes(call.classes),
          room(direct || !view.data ? 0 : static_cast<size_t>(xent::group * call.classes)),
          lying(direct ? View{nullptr, 0, 1, 0} : view, call, Tile<T, V>::width(call)),
          copied({room.data(), call.classes, 1, 0}, 1, lying), memory(view, call.inner, lying) {}

    int64_t run_of(int64_t first, int64_t last) const { return lying.run_of(first, last); }
    void begin(int64_t start) { first = start; }
    void fetch(int64_t start, int64_t count) {
        begin(start);
        if (!direct && memory.view.data) lying.load(first, count);
    }
    void flush(int64_t count, bool past) {
        if (!direct && memory.view.data) memory.store(first, count, past);
    }
    void gather(int64_t at, int64_t count) {
        if (!direct && memory.view.data) copied.store(0, count, false, at);
    }
    void scatter(int64_t at, int64_t count) {
        if (!direct && memory.view.data) copied.load(0, count, at);
    }
    // From row to row as they lie in memory; what is copied always takes the same place.
    int64_t step() const { return !direct ? 0 : memory.inner == 1 ? memory.view.outer : memory.view.inner; }
    // Row k of the group that was gathered, or is to be scattered, at `at`; null where there is no tensor.
    T *row(int64_t at, int64_t k) {
        if (!memory.view.data) return nullptr;
        return direct ? memory.place(first + at + k) : room.data() + k * classes;
    }

   private:
    const bool direct;
    const int64_t classes;
    int64_t first = 0;
    std::vector<T> room;
    Tile<T, V> lying, copied, memory;
};

template <class T> class Strips : Work<T> {
    using Base = Work<T>;
    using V = typename Base::Floats;
    using Wide = typename V::Real;
    static constexpr int64_t lanes = V::lanes;

   public:
    Strips(const Call &call, Tally &tally, bool past)
        : Base(call, tally), past(past), wide((call.classes + 15) / 16 * 16 + 16), room(static_cast<size_t>(lanes * wide) + 16),
          kept(room.data() + (64 - reinterpret_cast<uintptr_t>(room.data()) % 64) % 64 / sizeof(Wide)),
          x(call.rows, call), q(this->soft ? call.target : nothing, call), g(call.slope, call),
          out(call.out, call) {}

    void run(int64_t begin, int64_t end) {
        const int64_t last = std::min(end * xent::group, call.outer * call.inner);
        for (int64_t r = begin * xent::group, count; r < last; r += count) {
            count = x.run_of(r, last);
            x.fetch(r, count), q.fetch(r, count), g.fetch(r, count), out.begin(r);
            for (int64_t k = 0; k < count; k += lanes) batch(r, k, std::min(lanes, count - k));
            out.flush(count, past);
        }
    }

   private:
    using Base::call;

    // Rows r + at ... r + at + count - 1.
    void batch(int64_t r, int64_t at, int64_t count) {
        x.gather(at, count), q.gather(at, count), g.gather(at, count);
        Beside<T, V> kernel(call.classes, kept, wide, past && call.out.classes == 1);
        kernel.count = count, kernel.next = x.step() * lanes;
        for (int64_t k = 0; k < count; k++) {
            kernel.x[k] = x.row(at, k), kernel.q[k] = q.row(at, k), kernel.g[k] = g.row(at, k);
            kernel.out[k] = out.row(at, k);
        }
        bool odd[lanes];
        if (Settle<T, Beside<T, V>>(*this, kernel, r + at, count, odd).run())
            for (int64_t k = 0; k < count; k++)
                if (odd[k]) this->alone(r + at + k, kernel.x[k], kernel.out[k], kernel.q[k], kernel.g[k], false);
        out.scatter(at, count);
    }

    const bool past;
    const int64_t wide;
    std::vector<Wide> room;
    Wide *kept;  // on a line of the cache, as are the rows after it
    Strip<T, V> x, q, g, out;
    static constexpr View nothing{nullptr, 0, 1, 0};
};
template <class T> constexpr View Strips<T>::nothing;

}  // namespace XENT_ISA
