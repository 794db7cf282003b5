// Calls with few classes: rows in tiles, a row a lane.
#pragma once
#include "across.hpp"
#include "settle.hpp"

namespace XENT_ISA {

template <class T> class Groups : Work<T> {
    using Base = Work<T>;
    using V = typename Base::Floats;
    using Wide = typename V::Real;
    using Numbers = Each<V>;
    static constexpr int lanes = V::lanes, halves = Numbers::halves;

   public:
    Groups(const Call &call, Tally &tally, bool past)
        : Base(call, tally), past(past), columns(Tile<T, V>::width(call)), x(call.rows, call, columns),
          q(this->soft ? call.target : nothing, call, columns), g(call.slope, call, columns),
          out(call.out, call.inner, x) {}

    void run(int64_t begin, int64_t end) {
        const int64_t rows = call.outer * call.inner, last = std::min(end * xent::group, rows);
        for (int64_t r = begin * xent::group, count; r < last; r += count) {
            count = x.run_of(r, last);
            tile(r, count);
        }
    }

   private:
    using Base::call;

    void tile(int64_t r, int64_t count) {
        x.load(r, count);
        if (this->soft) q.load(r, count);
        if (call.slope.data) g.load(r, count);
        bool any = false;
        for (int64_t k = 0; k < count; k += lanes) any |= rows(r + k, std::min<int64_t>(lanes, count - k), k);
        if (call.out.data) out.store(r, count, past);
        if (any)
            for (int64_t k = 0; k < count; k++)
                if (odd[k]) single(r + k);
    }

    // A row that does not fit its lane, from where it lies.
    void single(int64_t r) {
        const int64_t size = call.classes;
        T logits[xent::few], of_q[xent::few], of_g[xent::few], to[xent::few];
        const auto gather = [&](const Tile<T, V> &from, T *room) {
            const T *p = from.place(r);
            for (int64_t j = 0; j < size; j++) room[j] = p[j * from.view.classes];
        };
        gather(x, logits);
        if (this->soft) gather(q, of_q);
        if (call.slope.data) gather(g, of_g);
        this->alone(r, logits, call.out.data ? to : nullptr, this->soft ? of_q : nullptr,
                    call.slope.data ? of_g : nullptr, false);
        if (!call.out.data) return;
        T *p = out.place(r);
        for (int64_t j = 0; j < size; j++) p[j * call.out.classes] = to[j];
    }

    // Rows r ... r + count - 1 in the lanes of column k. Are some odd?
    bool rows(int64_t r, int64_t count, int64_t k) {
        const Wide *of_q = this->soft ? q.at + k : nullptr, *of_g = call.slope.data ? g.at + k : nullptr;
        Across<T, V> kernel(x.at + k, of_q, of_g, columns, call.classes);
        return Settle<T, Across<T, V>>(*this, kernel, r, count, odd + k).run();
    }

    static constexpr View nothing{nullptr, 0, 1, 0};
    const bool past;
    const int64_t columns;
    Tile<T, V> x, q, g, out;
    bool odd[128] = {};
};
template <class T> constexpr View Groups<T>::nothing;

}  // namespace XENT_ISA
