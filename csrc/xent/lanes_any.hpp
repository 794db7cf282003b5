// The words of lanes.hpp on any machine: the vectors of GCC and Clang, which become what registers there are.
#pragma once

namespace XENT_ISA {

typedef float f16 __attribute__((vector_size(64)));
typedef double d8 __attribute__((vector_size(64)));
typedef float f8 __attribute__((vector_size(32)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef int64_t i8 __attribute__((vector_size(64)));
typedef uint64_t u64x8 __attribute__((vector_size(64)));

template <class Vector, class Bits_, class T, int N> struct Lanes {
    using Real = T;
    using Bits = Bits_;
    static constexpr int lanes = N;
    Vector v;
    static XENT_INLINE Lanes of(T x) { return {x - Vector{}}; }
    static XENT_INLINE Lanes load(const T *p) { Lanes r; memcpy(&r.v, p, sizeof r.v); return r; }
    XENT_INLINE void store(T *p) const { memcpy(p, &v, sizeof v); }
    XENT_INLINE void stream(T *p) const { store(p); }
    XENT_INLINE Bits bits() const { Bits b; memcpy(&b, &v, sizeof b); return b; }
    static XENT_INLINE Lanes from(Bits b) { Lanes r; memcpy(&r.v, &b, sizeof b); return r; }
    friend XENT_INLINE Lanes operator+(Lanes a, Lanes b) { return {a.v + b.v}; }
    friend XENT_INLINE Lanes operator-(Lanes a, Lanes b) { return {a.v - b.v}; }
    friend XENT_INLINE Lanes operator*(Lanes a, Lanes b) { return {a.v * b.v}; }
    friend XENT_INLINE Lanes divided(Lanes a, Lanes b) { return {a.v / b.v}; }
    // Two roundings: without an instruction for it, fma is a call of 20 ns. The last bits differ from the other sets.
    friend XENT_INLINE Lanes fma(Lanes a, Lanes b, Lanes c) { return {a.v * b.v + c.v}; }
    friend XENT_INLINE Lanes larger(Lanes a, Lanes b) { return {a.v > b.v ? a.v : b.v}; }
    friend XENT_INLINE Lanes smaller(Lanes a, Lanes b) { return {a.v < b.v ? a.v : b.v}; }
    friend XENT_INLINE Bits equal(Lanes a, Lanes b) { return a.v == b.v; }
    friend XENT_INLINE Bits at_least(Lanes a, Lanes b) { return a.v >= b.v; }
    friend XENT_INLINE Lanes select(Bits m, Lanes yes, Lanes no) { return {m ? yes.v : no.v}; }
};
using F16 = Lanes<f16, i16, float, 16>;
using D8 = Lanes<d8, i8, double, 8>;
XENT_INLINE bool any(i16 m) {
    int32_t all = 0;
    for (int i = 0; i < 16; i++) all |= m[i];
    return all != 0;
}
XENT_INLINE bool all(i8 m) {
    int64_t every = -1;
    for (int i = 0; i < 8; i++) every &= m[i];
    return every != 0;
}
XENT_INLINE bool any(i8 m) {
    int64_t all = 0;
    for (int i = 0; i < 8; i++) all |= m[i];
    return all != 0;
}

template <class Bits> XENT_INLINE int first_of(Bits m) {
    int i = 0;
    while (!m[i]) i++;
    return i;
}
template <class Bits> XENT_INLINE int number(Bits m) {
    int sum = 0;
    for (size_t i = 0; i < sizeof m / sizeof m[0]; i++) sum -= static_cast<int>(m[i]);
    return sum;
}
XENT_INLINE double sum_of(D8 x) {
    double v[8];
    x.store(v);
    for (int n = 4; n; n /= 2)
        for (int i = 0; i < n; i++) v[i] += v[i + n];
    return v[0];
}
template <class V> XENT_INLINE typename V::Real largest(V x) {
    typename V::Real top = x.v[0];
    for (int i = 1; i < V::lanes; i++) top = x.v[i] > top ? x.v[i] : top;
    return top;
}

XENT_INLINE F16 lookup(F16 table, F16 sum) {
    const i16 at = sum.bits() & 15;
    F16 found;
    for (int i = 0; i < 16; i++) found.v[i] = table.v[at[i]];
    return found;
}
template <class V> XENT_INLINE V from(V lowest, V x, typename V::Bits *above) {
    *above = ~(x.v < lowest.v);
    return larger(lowest, x);
}
// In two factors, since 2**n may be less than the smallest number; the first is 1 unless the result is 0.
XENT_INLINE F16 scaled(i16 above, F16 p, F16 sum, F16) {
    const i16 n = (sum.bits() - F16::of(sixteenths).bits()) >> 4, other = n > -120 ? n : n * 0 - 120, half = n - other;
    return select(above, p * F16::from((half + 127) << 23) * F16::from((other + 127) << 23), F16::of(0));
}
XENT_INLINE D8 scaled(i8 above, D8 p, D8 sum, D8) {
    const i8 n = (sum.bits() << 13) >> 13, other = n > -1000 ? n : n * 0 - 1000, half = n - other;
    return select(above, p * D8::from((half + 1023) << 52) * D8::from((other + 1023) << 52), D8::of(0));
}
XENT_INLINE void binade(D8 u, D8 *k, D8 *down) {
    u64x8 n;  // without a sign: the bits of nan may go round
    memcpy(&n, &u.v, sizeof n);
    n = (n + (UINT64_C(0x3ff0000000000000) - UINT64_C(0x3fe6a09e667f3bcd))) >> 52;
    k->v = __builtin_convertvector(n, d8) - 1023.0;
    n = (2046 - n) << 52;
    memcpy(&down->v, &n, sizeof n);
}

XENT_INLINE D8 low_half(F16 x) { f8 part; memcpy(&part, &x, sizeof part); return {__builtin_convertvector(part, d8)}; }
XENT_INLINE D8 high_half(F16 x) {
    f8 part;
    memcpy(&part, reinterpret_cast<const char *>(&x) + sizeof part, sizeof part);
    return {__builtin_convertvector(part, d8)};
}
XENT_INLINE F16 rounded(D8 low, D8 high) {
    f8 parts[2] = {__builtin_convertvector(low.v, f8), __builtin_convertvector(high.v, f8)};
    F16 x;
    memcpy(&x, parts, sizeof x);
    return x;
}

template <class V> XENT_INLINE void transpose(V *r) {
    for (int i = 0; i < V::lanes; i++)
        for (int k = 0; k < i; k++) {
            const typename V::Real kept = r[i].v[k];
            r[i].v[k] = r[k].v[i], r[k].v[i] = kept;
        }
}

template <class V> XENT_INLINE void unzip(V a, V b, V *even, V *odd) {
    for (int i = 0; i < V::lanes / 2; i++) {
        even->v[i] = a.v[2 * i], even->v[i + V::lanes / 2] = b.v[2 * i];
        odd->v[i] = a.v[2 * i + 1], odd->v[i + V::lanes / 2] = b.v[2 * i + 1];
    }
}
template <class V> XENT_INLINE void zip(V even, V odd, V *a, V *b) {
    for (int i = 0; i < V::lanes / 2; i++) {
        a->v[2 * i] = even.v[i], a->v[2 * i + 1] = odd.v[i];
        b->v[2 * i] = even.v[i + V::lanes / 2], b->v[2 * i + 1] = odd.v[i + V::lanes / 2];
    }
}

}  // namespace XENT_ISA
