// Calls with some hundreds or thousands of classes: groups of rows, their classes side by side.
#pragma once
#include "beside.hpp"
#include "settle.hpp"

namespace XENT_ISA {

// The rows of a group of one tensor: as they lie if their classes are side by side, else copied there and back.
template <class T, class V> class Strip {
   public:
    Strip(const View &view, const Call &call)
        : direct(view.classes == 1), classes(call.classes),
          room(direct || !view.data ? 0 : static_cast<size_t>(xent::group * call.classes)),
          lying(direct ? View{nullptr, 0, 1, 0} : view, call, xent::group), copied({room.data(), call.classes, 1, 0}, 1, lying),
          memory(view, call.inner, lying) {}

    void gather(int64_t first, int64_t count) {
        if (direct) return;
        lying.load(first, count), copied.store(0, count, false);
    }
    void scatter(int64_t first, int64_t count, bool past) {
        if (direct) return;
        copied.load(0, count), memory.store(first, count, past);
    }
    // Row `first + k` of the group that begins at `first`.
    T *row(int64_t first, int64_t k) { return direct ? memory.place(first + k) : room.data() + k * classes; }

   private:
    const bool direct;
    const int64_t classes;
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
        : Base(call, tally), past(past), wide(call.classes + 64), kept(static_cast<size_t>(lanes * wide)),
          x(call.rows, call), q(this->soft ? call.target : View{nullptr, 0, 1, 0}, call), g(call.slope, call),
          out(call.out, call) {}

    void run(int64_t begin, int64_t end) {
        const int64_t last = std::min(end * xent::group, call.outer * call.inner);
        for (int64_t r = begin * xent::group; r < last; r += lanes) batch(r, std::min(lanes, last - r));
    }

   private:
    using Base::call;

    void batch(int64_t r, int64_t count) {
        x.gather(r, count);
        if (this->soft) q.gather(r, count);
        if (call.slope.data) g.gather(r, count);
        Beside<T, V> kernel(call.classes, kept.data(), wide, past && call.out.classes == 1);
        kernel.count = count;
        for (int64_t k = 0; k < count; k++) {
            kernel.x[k] = x.row(r, k), kernel.out[k] = call.out.data ? out.row(r, k) : nullptr;
            kernel.q[k] = this->soft ? q.row(r, k) : nullptr, kernel.g[k] = call.slope.data ? g.row(r, k) : nullptr;
        }
        bool odd[lanes];
        if (Settle<T, Beside<T, V>>(*this, kernel, r, count, odd).run())
            for (int64_t k = 0; k < count; k++)
                if (odd[k]) this->alone(r + k, kernel.x[k], kernel.out[k], kernel.q[k], kernel.g[k], false);
        if (call.out.data) out.scatter(r, count, past);
    }

    const bool past;
    const int64_t wide;
    std::vector<Wide> kept;
    Strip<T, V> x, q, g, out;
};

}  // namespace XENT_ISA
