// Vectors of a fixed number of lanes, whatever the machine: 16 floats or 8 doubles. Kernels are written in these
// words only, so AVX2 and AVX-512 run the same operations on the same lanes and give the same bits.
//
// Included once per instruction set, in the namespace XENT_ISA. Compile with -ffp-contract=off: every fused
// multiply-add is asked for by name.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

// Left to itself GCC keeps some of these as calls, and the sums in memory. The baseline of x86, which few machines
// run, is spared the size and the seconds of compilation.
#if defined(__AVX2__) || !defined(__x86_64__)
#define XENT_ALWAYS __attribute__((always_inline))
#else
#define XENT_ALWAYS
#endif
#define XENT_INLINE inline XENT_ALWAYS

namespace XENT_ISA {

#if defined(__AVX512F__)

struct Mask16 { __mmask16 m; };
struct Mask8 { __mmask8 m; };

struct F16 {
    using Real = float;
    using Mask = Mask16;
    static constexpr int lanes = 16;
    __m512 v;
    static XENT_INLINE F16 of(float x) { return {_mm512_set1_ps(x)}; }
    static XENT_INLINE F16 load(const float *p) { return {_mm512_loadu_ps(p)}; }
    XENT_INLINE void store(float *p) const { _mm512_storeu_ps(p, v); }
};
XENT_INLINE F16 operator+(F16 a, F16 b) { return {_mm512_add_ps(a.v, b.v)}; }
XENT_INLINE F16 operator-(F16 a, F16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
XENT_INLINE F16 operator*(F16 a, F16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
XENT_INLINE F16 fma(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// The second operand where either is nan, as x86 has it: `larger(bound, x)` keeps a nan in x.
XENT_INLINE F16 larger(F16 a, F16 b) { return {_mm512_max_ps(a.v, b.v)}; }
XENT_INLINE Mask16 equal(F16 a, F16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
XENT_INLINE F16 select(Mask16 m, F16 yes, F16 no) { return {_mm512_mask_blend_ps(m.m, no.v, yes.v)}; }
// 2**n for the integer that `magic` left in the low bits of n.
XENT_INLINE F16 power_of_two(F16 magic_sum, F16 *second) {
    __m512i n = _mm512_srai_epi32(_mm512_slli_epi32(_mm512_castps_si512(magic_sum.v), 10), 10);
    __m512i half = _mm512_srai_epi32(n, 1), other = _mm512_sub_epi32(n, half);
    __m512i bias = _mm512_set1_epi32(127);
    second->v = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(other, bias), 23));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(half, bias), 23))};
}

struct D8 {
    using Real = double;
    using Mask = Mask8;
    static constexpr int lanes = 8;
    __m512d v;
    static XENT_INLINE D8 of(double x) { return {_mm512_set1_pd(x)}; }
    static XENT_INLINE D8 load(const double *p) { return {_mm512_loadu_pd(p)}; }
    XENT_INLINE void store(double *p) const { _mm512_storeu_pd(p, v); }
};
XENT_INLINE D8 operator+(D8 a, D8 b) { return {_mm512_add_pd(a.v, b.v)}; }
XENT_INLINE D8 operator-(D8 a, D8 b) { return {_mm512_sub_pd(a.v, b.v)}; }
XENT_INLINE D8 operator*(D8 a, D8 b) { return {_mm512_mul_pd(a.v, b.v)}; }
XENT_INLINE D8 fma(D8 a, D8 b, D8 c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
XENT_INLINE D8 larger(D8 a, D8 b) { return {_mm512_max_pd(a.v, b.v)}; }
XENT_INLINE Mask8 equal(D8 a, D8 b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_EQ_OQ)}; }
XENT_INLINE D8 select(Mask8 m, D8 yes, D8 no) { return {_mm512_mask_blend_pd(m.m, no.v, yes.v)}; }
XENT_INLINE D8 power_of_two(D8 magic_sum, D8 *second) {
    __m512i n = _mm512_castpd_si512(magic_sum.v);
    n = _mm512_srai_epi64(_mm512_slli_epi64(n, 13), 13);
    __m512i half = _mm512_srai_epi64(n, 1), other = _mm512_sub_epi64(n, half);
    __m512i bias = _mm512_set1_epi64(1023);
    second->v = _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_add_epi64(other, bias), 52));
    return {_mm512_castsi512_pd(_mm512_slli_epi64(_mm512_add_epi64(half, bias), 52))};
}
XENT_INLINE D8 low_half(F16 a) { return {_mm512_cvtps_pd(_mm512_castps512_ps256(a.v))}; }
XENT_INLINE D8 high_half(F16 a) {
    return {_mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1)))};
}
XENT_INLINE F16 rounded(D8 low, D8 high) {
    __m512 a = _mm512_castps256_ps512(_mm512_cvtpd_ps(low.v));
    __m256d b = _mm256_castps_pd(_mm512_cvtpd_ps(high.v));
    return {_mm512_castpd_ps(_mm512_insertf64x4(_mm512_castps_pd(a), b, 1))};
}

#elif defined(__AVX2__)

struct Mask16 { __m256 a, b; };
struct Mask8 { __m256d a, b; };

struct F16 {
    using Real = float;
    using Mask = Mask16;
    static constexpr int lanes = 16;
    __m256 a, b;
    static XENT_INLINE F16 of(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
    static XENT_INLINE F16 load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
    XENT_INLINE void store(float *p) const { _mm256_storeu_ps(p, a), _mm256_storeu_ps(p + 8, b); }
};
XENT_INLINE F16 operator+(F16 x, F16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
XENT_INLINE F16 operator-(F16 x, F16 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
XENT_INLINE F16 operator*(F16 x, F16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
XENT_INLINE F16 fma(F16 x, F16 y, F16 z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
// The second operand where either is nan, as x86 has it: `larger(bound, x)` keeps a nan in x.
XENT_INLINE F16 larger(F16 x, F16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
XENT_INLINE Mask16 equal(F16 x, F16 y) {
    return {_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ)};
}
XENT_INLINE F16 select(Mask16 m, F16 yes, F16 no) {
    return {_mm256_blendv_ps(no.a, yes.a, m.a), _mm256_blendv_ps(no.b, yes.b, m.b)};
}
XENT_INLINE __m256 power_of_two_half(__m256 magic_sum, __m256 *second) {
    __m256i n = _mm256_srai_epi32(_mm256_slli_epi32(_mm256_castps_si256(magic_sum), 10), 10);
    __m256i half = _mm256_srai_epi32(n, 1), other = _mm256_sub_epi32(n, half);
    __m256i bias = _mm256_set1_epi32(127);
    *second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(other, bias), 23));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
}
// 2**n, in two factors, for the integer that the magic number left in the low bits of n.
XENT_INLINE F16 power_of_two(F16 s, F16 *second) {
    return {power_of_two_half(s.a, &second->a), power_of_two_half(s.b, &second->b)};
}

struct D8 {
    using Real = double;
    using Mask = Mask8;
    static constexpr int lanes = 8;
    __m256d a, b;
    static XENT_INLINE D8 of(double x) { return {_mm256_set1_pd(x), _mm256_set1_pd(x)}; }
    static XENT_INLINE D8 load(const double *p) { return {_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}; }
    XENT_INLINE void store(double *p) const { _mm256_storeu_pd(p, a), _mm256_storeu_pd(p + 4, b); }
};
XENT_INLINE D8 operator+(D8 x, D8 y) { return {_mm256_add_pd(x.a, y.a), _mm256_add_pd(x.b, y.b)}; }
XENT_INLINE D8 operator-(D8 x, D8 y) { return {_mm256_sub_pd(x.a, y.a), _mm256_sub_pd(x.b, y.b)}; }
XENT_INLINE D8 operator*(D8 x, D8 y) { return {_mm256_mul_pd(x.a, y.a), _mm256_mul_pd(x.b, y.b)}; }
XENT_INLINE D8 fma(D8 x, D8 y, D8 z) {
    return {_mm256_fmadd_pd(x.a, y.a, z.a), _mm256_fmadd_pd(x.b, y.b, z.b)};
}
XENT_INLINE D8 larger(D8 x, D8 y) { return {_mm256_max_pd(x.a, y.a), _mm256_max_pd(x.b, y.b)}; }
XENT_INLINE Mask8 equal(D8 x, D8 y) {
    return {_mm256_cmp_pd(x.a, y.a, _CMP_EQ_OQ), _mm256_cmp_pd(x.b, y.b, _CMP_EQ_OQ)};
}
XENT_INLINE D8 select(Mask8 m, D8 yes, D8 no) {
    return {_mm256_blendv_pd(no.a, yes.a, m.a), _mm256_blendv_pd(no.b, yes.b, m.b)};
}
XENT_INLINE __m256d power_of_two_half(__m256d magic_sum, __m256d *second) {
    // The low 32 bits of the sum hold n (|n| < 2**31); AVX2 has no 64-bit arithmetic shift, so halve there.
    __m256i n = _mm256_castpd_si256(magic_sum);
    __m256i half = _mm256_srai_epi32(n, 1), other = _mm256_sub_epi32(n, half);
    __m256i bias = _mm256_set1_epi64x(1023);
    *second = _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_add_epi32(other, bias), 52));
    return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_add_epi32(half, bias), 52));
}
XENT_INLINE D8 power_of_two(D8 s, D8 *second) {
    return {power_of_two_half(s.a, &second->a), power_of_two_half(s.b, &second->b)};
}
XENT_INLINE D8 low_half(F16 x) {
    return {_mm256_cvtps_pd(_mm256_castps256_ps128(x.a)), _mm256_cvtps_pd(_mm256_extractf128_ps(x.a, 1))};
}
XENT_INLINE D8 high_half(F16 x) {
    return {_mm256_cvtps_pd(_mm256_castps256_ps128(x.b)), _mm256_cvtps_pd(_mm256_extractf128_ps(x.b, 1))};
}
XENT_INLINE F16 rounded(D8 low, D8 high) {
    return {_mm256_set_m128(_mm256_cvtpd_ps(low.b), _mm256_cvtpd_ps(low.a)),
            _mm256_set_m128(_mm256_cvtpd_ps(high.b), _mm256_cvtpd_ps(high.a))};
}

#else  // any machine: the vectors of GCC and Clang, which become what registers there are

typedef float f16 __attribute__((vector_size(64)));
typedef double d8 __attribute__((vector_size(64)));
typedef float f8 __attribute__((vector_size(32)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef int64_t i8 __attribute__((vector_size(64)));

template <class Vector, class Bits_, class T, int N> struct Lanes {
    using Real = T;
    using Bits = Bits_;
    using Mask = Bits_;
    static constexpr int lanes = N;
    Vector v;
    static XENT_INLINE Lanes of(T x) { return {x - Vector{}}; }
    static XENT_INLINE Lanes load(const T *p) { Lanes r; memcpy(&r.v, p, sizeof r.v); return r; }
    XENT_INLINE void store(T *p) const { memcpy(p, &v, sizeof v); }
    friend XENT_INLINE Lanes operator+(Lanes a, Lanes b) { return {a.v + b.v}; }
    friend XENT_INLINE Lanes operator-(Lanes a, Lanes b) { return {a.v - b.v}; }
    friend XENT_INLINE Lanes operator*(Lanes a, Lanes b) { return {a.v * b.v}; }
    // Two roundings: without an instruction for it, fma is a call of 20 ns. The last bits differ from the other sets.
    friend XENT_INLINE Lanes fma(Lanes a, Lanes b, Lanes c) { return {a.v * b.v + c.v}; }
    friend XENT_INLINE Lanes larger(Lanes a, Lanes b) { return {a.v > b.v ? a.v : b.v}; }
    friend XENT_INLINE Bits equal(Lanes a, Lanes b) { return a.v == b.v; }
    friend XENT_INLINE Lanes select(Bits m, Lanes yes, Lanes no) { return {m ? yes.v : no.v}; }
};
using F16 = Lanes<f16, i16, float, 16>;
using D8 = Lanes<d8, i8, double, 8>;
template <class V, int dropped, int bias, int digits> XENT_INLINE V power_of_two_lanes(V magic_sum, V *second) {
    typename V::Bits n, half, other;
    memcpy(&n, &magic_sum, sizeof n);
    n = (n << dropped) >> dropped, half = n >> 1, other = n - half;
    half = (half + bias) << digits, other = (other + bias) << digits;
    V first;
    memcpy(&first, &half, sizeof half), memcpy(second, &other, sizeof other);
    return first;
}
XENT_INLINE F16 power_of_two(F16 s, F16 *second) { return power_of_two_lanes<F16, 10, 127, 23>(s, second); }
XENT_INLINE D8 power_of_two(D8 s, D8 *second) { return power_of_two_lanes<D8, 13, 1023, 52>(s, second); }
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

#endif

// The doubles in lanes of either kind, and back.
XENT_INLINE D8 first_of(F16 v) { return low_half(v); }
XENT_INLINE D8 second_of(F16 v) { return high_half(v); }
XENT_INLINE D8 first_of(D8 v) { return v; }
XENT_INLINE D8 second_of(D8 v) { return v; }
XENT_INLINE void join(F16 *v, D8 low, D8 high) { *v = rounded(low, high); }
XENT_INLINE void join(D8 *v, D8 low, D8) { *v = low; }

}  // namespace XENT_ISA
