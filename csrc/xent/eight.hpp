// Eight short rows at once: lane k holds row k. Every sum is added in the order of the kernels of one row (rows.hpp),
// class i, i + 8, ... in partial sum i and then the halves, so a row has the same bits either way.
#pragma once
#include "rows.hpp"

namespace XENT_ISA {

// Up to this many classes a row is computed in double whatever its type: the exponentials are not what costs
// there, and the results are the exact ones rounded once.
constexpr int64_t few = 64;

// For types that double holds with room to spare: no rounding is carried.
template <class T> class Eight {
   public:
    static constexpr int64_t rows = D8::lanes;

    Eight(const T *const *x, int64_t classes) : size(classes) {
        for (int64_t k = 0; k < rows; k++)
            for (int64_t j = 0; j < size; j++) at[j][k] = widen(x[k][j]);
    }

    // The peak, and the sum of exp(x - peak) without one occurrence of it; nothing right where the peak is not finite.
    void survey(double *peak, double *rest) const {
        const D8 zero = D8::of(0), one = D8::of(1);
        D8 top = D8::of(-infinity), peaks = zero, below[rows];
        for (int64_t j = 0; j < size; j++) top = larger(top, D8::load(at[j]));
        top = top + zero;  // -0 becomes 0, whatever came first
        for (D8 &part : below) part = zero;
        for (int64_t j = 0; j < size; j++) {
            D8 d = distance(j, top);
            auto equals = equal(d, zero);
            below[j % rows] = below[j % rows] + select(equals, zero, exp_times(d, zero, one));
            peaks = peaks + select(equals, one, zero);
        }
        for (int64_t n = rows / 2; n; n /= 2)
            for (int64_t i = 0; i < n; i++) below[i] = below[i] + below[i + n];
        top.store(peak), (below[0] + (peaks - one)).store(rest);
    }

    // exp(x - peak) factor, and `lifted` at the peak of rows where `lone` is 1.
    void gradient(T *const *out, const double *peak, const double *factor, const double *lone, const double *lifted) {
        const D8 zero = D8::of(0), top = D8::load(peak), scale = D8::load(factor), entry = D8::load(lifted);
        const auto single = equal(D8::load(lone), D8::of(1));
        each(out, [&](int64_t j) XENT_ALWAYS {
            D8 d = distance(j, top), g = exp_times(d, zero, scale);
            return select(single, select(equal(d, zero), entry, g), g);
        });
    }
    void softmax(T *const *out, const double *peak, const double *share) {
        const D8 zero = D8::of(0), top = D8::load(peak), scale = D8::load(share);
        each(out, [&](int64_t j) XENT_ALWAYS { return exp_times(distance(j, top), zero, scale); });
    }
    void log_softmax(T *const *out, const double *peak, const double *log_mass) {
        const D8 top = D8::load(peak), below = D8::load(log_mass);
        each(out, [&](int64_t j) XENT_ALWAYS { return ((D8::load(at[j]) - top) - below) + D8::of(0); });
    }

   private:
    XENT_INLINE D8 distance(int64_t j, D8 top) const {
        return larger(D8::of(Row<T, D8>::deepest), D8::load(at[j]) - top);
    }
    template <class Value> XENT_INLINE void each(T *const *out, Value value) {
        T turned[few][rows];
        for (int64_t j = 0; j < size; j++) Io<D8, T>::store(turned[j], value(j));
        for (int64_t k = 0; k < rows; k++)
            for (int64_t j = 0; j < size; j++) out[k][j] = turned[j][k];
    }

    int64_t size;
    alignas(64) double at[few][rows];
};

}  // namespace XENT_ISA
