// Rows in scratch, a row a lane: class j of row k at [j * columns + k], whatever the layout in memory.
#pragma once
#include <algorithm>
#include <vector>

#include "call.hpp"
#include "types.hpp"

namespace XENT_ISA {

using xent::Call;
using xent::View;

template <class T, class V> class Tile {
   public:
    using Wide = typename V::Real;
    static constexpr int64_t lanes = V::lanes;

    Tile(const View &view, const Call &call, int64_t columns)
        : view(view), classes(call.classes), inner(call.inner), columns(columns), limit(end_of(view, call)) {
        if (view.data) room.resize(static_cast<size_t>(classes * columns) + 16);
        at = room.data() + (64 - reinterpret_cast<uintptr_t>(room.data()) % 64) % 64 / sizeof(Wide);
    }

    // A tile in the scratch of another, of the same rows elsewhere.
    Tile(const View &view, int64_t inner, const Tile &other)
        : view(view), classes(other.classes), inner(inner), columns(other.columns), at(other.at), limit(nullptr) {}

    // How many rows of scratch do for a call: pixels of an image are read in long runs, which memory likes better, as many
    // as stay in the second cache.
    static int64_t width(const Call &call) {
        if (call.rows.inner != 1 || call.inner == 1) return xent::group;
        return std::max(xent::group, std::min<int64_t>(128, 20480 / call.classes) / xent::group * xent::group);
    }
    // How many of the rows from `first` to `last` to take at once.
    int64_t run_of(int64_t first, int64_t last) const {
        const int64_t most = std::min(columns, last - first);
        if (planar(first, most)) return most;
        if (!planar(first, xent::group)) return std::min(xent::group, last - first);
        return std::min(most, (inner - first % inner) / xent::group * xent::group);
    }

    // Do rows lie side by side, as the pixels of an image do?
    bool planar(int64_t first, int64_t count) const {
        return view.inner == 1 && inner > 1 && first % inner + count <= inner;
    }

    // Rows first ... first + count - 1 of memory, in scratch from `column` on.
    void load(int64_t first, int64_t count, int64_t column = 0) {
        Wide *at = this->at + column;
        if (planar(first, count)) {
            const T *from = place(first);
            for (int64_t j = 0; j < classes; j++)
                for (int64_t k = 0; k < count; k += lanes) read(from + j * view.classes + k, count - k).store(at + j * columns + k);
        } else if (pairs()) {
            for (int64_t k = 0; k < count; k += lanes) {
                const T *from = place(first + k);
                V even, odd;
                unzip(read(from, 2 * (count - k)), read(from + lanes, 2 * (count - k) - lanes), &even, &odd);
                even.store(at + k), odd.store(at + columns + k);
            }
        } else if (view.classes == 1) {
            for (int64_t k = 0; k < count; k += lanes) turn(first + k, count - k < lanes ? count - k : lanes, at + k);
        } else {
            for (int64_t k = 0; k < count; k++) {
                const T *from = place(first + k);
                for (int64_t j = 0; j < classes; j++) at[j * columns + k] = widen(from[j * view.classes]);
            }
        }
    }

    void store(int64_t first, int64_t count, bool past, int64_t column = 0) const {
        const Wide *at = this->at + column;
        if (planar(first, count)) {
            T *to = place(first);
            for (int64_t j = 0; j < classes; j++)
                for (int64_t k = 0; k < count; k += lanes) write(to + j * view.classes + k, V::load(at + j * columns + k), count - k, past);
        } else if (pairs()) {
            for (int64_t k = 0; k < count; k += lanes) {
                T *to = place(first + k);
                V a, b;
                zip(V::load(at + k), V::load(at + columns + k), &a, &b);
                write(to, a, 2 * (count - k), past), write(to + lanes, b, 2 * (count - k) - lanes, past);
            }
        } else if (view.classes == 1) {
            for (int64_t k = 0; k < count; k += lanes) turn_back(first + k, count - k < lanes ? count - k : lanes, at + k);
        } else {
            for (int64_t k = 0; k < count; k++) {
                T *to = place(first + k);
                for (int64_t j = 0; j < classes; j++) to[j * view.classes] = As<T>::of(at[j * columns + k]);
            }
        }
    }

    T *place(int64_t row) const {
        if (inner == 1) return static_cast<T *>(view.data) + row * view.outer;
        return static_cast<T *>(view.data) + row / inner * view.outer + row % inner * view.inner;
    }

    const View view;
    const int64_t classes, inner, columns;
    Wide *at;

   private:
    // Behind the last element, where vectors may read beyond a row; the first for strides that run backwards.
    static const T *end_of(const View &view, const Call &call) {
        if (!view.data || call.outer * call.inner == 0 || view.outer < 0 || view.classes < 0 || view.inner < 0)
            return static_cast<T *>(view.data);
        const int64_t last = (call.outer - 1) * view.outer + (call.classes - 1) * view.classes + (call.inner - 1) * view.inner;
        return static_cast<T *>(view.data) + last + 1;
    }
    // Two classes in packed rows.
    bool pairs() const { return classes == 2 && view.classes == 1 && inner == 1 && view.outer == 2; }

    XENT_INLINE V read(const T *p, int64_t n) const {
        if (n >= lanes || (n > 0 && limit - p >= lanes)) return Io<V, T>::load(p);
        return n > 0 ? Io<V, T>::load_part(p, n, 0) : V::of(0);
    }
    static XENT_INLINE void write(T *p, V x, int64_t n, bool past) {
        if (n < lanes)
            n > 0 ? Io<V, T>::store_part(p, x, n) : void();
        else if (past && reinterpret_cast<uintptr_t>(p) % (sizeof(T) * lanes) == 0)
            Io<V, T>::stream(p, x);
        else
            Io<V, T>::store(p, x);
    }
    XENT_INLINE void turn(int64_t first, int64_t count, Wide *to) const {
        const T *from[lanes];
        for (int64_t k = 0; k < count; k++) from[k] = place(first + k);
        for (int64_t j = 0; j < classes; j += lanes) {
            const int64_t n = classes - j < lanes ? classes - j : lanes;
            V square[lanes];
            for (int64_t k = 0; k < lanes; k++) square[k] = k < count ? read(from[k] + j, n) : V::of(0);
            transpose(square);
            for (int64_t k = 0; k < n; k++) square[k].store(to + (j + k) * columns);
        }
    }
    XENT_INLINE void turn_back(int64_t first, int64_t count, const Wide *from) const {
        T *to[lanes];
        for (int64_t k = 0; k < count; k++) to[k] = place(first + k);
        for (int64_t j = 0; j < classes; j += lanes) {
            const int64_t n = classes - j < lanes ? classes - j : lanes;
            V square[lanes];
            for (int64_t k = 0; k < lanes; k++) square[k] = k < n ? V::load(from + (j + k) * columns) : V::of(0);
            transpose(square);
            for (int64_t k = 0; k < count; k++) write(to[k] + j, square[k], n, false);
        }
    }

    const T *limit;
    std::vector<Wide> room;
};

}  // namespace XENT_ISA
