// The words of lanes.hpp on AVX2 with FMA and F16C: vectors in pairs.
#pragma once
#include <immintrin.h>

namespace XENT_ISA {

struct Mask16 { __m256 a, b; };
struct Mask8 { __m256d a, b; };
XENT_INLINE bool any(Mask16 m) { return _mm256_movemask_ps(_mm256_or_ps(m.a, m.b)) != 0; }
XENT_INLINE bool any(Mask8 m) { return _mm256_movemask_pd(_mm256_or_pd(m.a, m.b)) != 0; }
XENT_INLINE bool all(Mask8 m) { return _mm256_movemask_pd(_mm256_and_pd(m.a, m.b)) == 15; }
XENT_INLINE int first_of(Mask16 m) { return __builtin_ctz(_mm256_movemask_ps(m.a) | _mm256_movemask_ps(m.b) << 8); }
XENT_INLINE int first_of(Mask8 m) { return __builtin_ctz(_mm256_movemask_pd(m.a) | _mm256_movemask_pd(m.b) << 4); }
XENT_INLINE int number(Mask16 m) {
    return __builtin_popcount(_mm256_movemask_ps(m.a)) + __builtin_popcount(_mm256_movemask_ps(m.b));
}
XENT_INLINE int number(Mask8 m) {
    return __builtin_popcount(_mm256_movemask_pd(m.a)) + __builtin_popcount(_mm256_movemask_pd(m.b));
}

struct F16 {
    using Real = float;
    static constexpr int lanes = 16;
    __m256 a, b;
    static XENT_INLINE F16 of(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
    static XENT_INLINE F16 load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
    XENT_INLINE void store(float *p) const { _mm256_storeu_ps(p, a), _mm256_storeu_ps(p + 8, b); }
    XENT_INLINE void stream(float *p) const { _mm256_stream_ps(p, a), _mm256_stream_ps(p + 8, b); }
};
XENT_INLINE F16 operator+(F16 x, F16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
XENT_INLINE F16 operator-(F16 x, F16 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
XENT_INLINE F16 operator*(F16 x, F16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
XENT_INLINE F16 fma(F16 x, F16 y, F16 z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
XENT_INLINE F16 larger(F16 x, F16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
XENT_INLINE F16 smaller(F16 x, F16 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
XENT_INLINE Mask16 equal(F16 x, F16 y) {
    return {_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ)};
}
XENT_INLINE Mask16 at_least(F16 x, F16 y) {
    return {_mm256_cmp_ps(x.a, y.a, _CMP_GE_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GE_OQ)};
}
XENT_INLINE F16 select(Mask16 m, F16 yes, F16 no) {
    return {_mm256_blendv_ps(no.a, yes.a, m.a), _mm256_blendv_ps(no.b, yes.b, m.b)};
}
XENT_INLINE float largest(F16 x) {
    const __m256 eight = _mm256_max_ps(x.a, x.b);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
XENT_INLINE __m256 lookup_half(F16 table, __m256 sum) {
    const __m256i at = _mm256_castps_si256(sum);
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.a, at), _mm256_permutevar8x32_ps(table.b, at),
                            _mm256_castsi256_ps(_mm256_slli_epi32(at, 28)));
}
XENT_INLINE F16 lookup(F16 table, F16 sum) { return {lookup_half(table, sum.a), lookup_half(table, sum.b)}; }
// In two factors, since 2**n may be less than the smallest float. The first is 1 unless the result is 0, so there is one
// rounding, as in AVX-512's scalef.
XENT_INLINE __m256 scaled_half(__m256 p, __m256 sum) {
    const __m256i start = _mm256_castps_si256(_mm256_set1_ps(sixteenths)), bias = _mm256_set1_epi32(127);
    const __m256i n = _mm256_srai_epi32(_mm256_sub_epi32(_mm256_castps_si256(sum), start), 4);
    const __m256i other = _mm256_max_epi32(n, _mm256_set1_epi32(-120)), half = _mm256_sub_epi32(n, other);
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(other, bias), 23)));
}
XENT_INLINE F16 from(F16 lowest, F16 x, Mask16 *above) {
    *above = {_mm256_cmp_ps(x.a, lowest.a, _CMP_NLT_UQ), _mm256_cmp_ps(x.b, lowest.b, _CMP_NLT_UQ)};
    return larger(lowest, x);
}
XENT_INLINE F16 scaled(Mask16 above, F16 p, F16 sum, F16) {
    return {_mm256_and_ps(above.a, scaled_half(p.a, sum.a)), _mm256_and_ps(above.b, scaled_half(p.b, sum.b))};
}

struct D8 {
    using Real = double;
    static constexpr int lanes = 8;
    __m256d a, b;
    static XENT_INLINE D8 of(double x) { return {_mm256_set1_pd(x), _mm256_set1_pd(x)}; }
    static XENT_INLINE D8 load(const double *p) { return {_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}; }
    XENT_INLINE void store(double *p) const { _mm256_storeu_pd(p, a), _mm256_storeu_pd(p + 4, b); }
    XENT_INLINE void stream(double *p) const { _mm256_stream_pd(p, a), _mm256_stream_pd(p + 4, b); }
};
XENT_INLINE D8 operator+(D8 x, D8 y) { return {_mm256_add_pd(x.a, y.a), _mm256_add_pd(x.b, y.b)}; }
XENT_INLINE D8 operator-(D8 x, D8 y) { return {_mm256_sub_pd(x.a, y.a), _mm256_sub_pd(x.b, y.b)}; }
XENT_INLINE D8 operator*(D8 x, D8 y) { return {_mm256_mul_pd(x.a, y.a), _mm256_mul_pd(x.b, y.b)}; }
XENT_INLINE D8 divided(D8 x, D8 y) { return {_mm256_div_pd(x.a, y.a), _mm256_div_pd(x.b, y.b)}; }
XENT_INLINE D8 fma(D8 x, D8 y, D8 z) {
    return {_mm256_fmadd_pd(x.a, y.a, z.a), _mm256_fmadd_pd(x.b, y.b, z.b)};
}
XENT_INLINE D8 larger(D8 x, D8 y) { return {_mm256_max_pd(x.a, y.a), _mm256_max_pd(x.b, y.b)}; }
XENT_INLINE D8 smaller(D8 x, D8 y) { return {_mm256_min_pd(x.a, y.a), _mm256_min_pd(x.b, y.b)}; }
XENT_INLINE Mask8 equal(D8 x, D8 y) {
    return {_mm256_cmp_pd(x.a, y.a, _CMP_EQ_OQ), _mm256_cmp_pd(x.b, y.b, _CMP_EQ_OQ)};
}
XENT_INLINE Mask8 at_least(D8 x, D8 y) {
    return {_mm256_cmp_pd(x.a, y.a, _CMP_GE_OQ), _mm256_cmp_pd(x.b, y.b, _CMP_GE_OQ)};
}
XENT_INLINE D8 select(Mask8 m, D8 yes, D8 no) {
    return {_mm256_blendv_pd(no.a, yes.a, m.a), _mm256_blendv_pd(no.b, yes.b, m.b)};
}
XENT_INLINE double sum_of(D8 x) {
    const __m256d four = _mm256_add_pd(x.a, x.b);
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
XENT_INLINE double largest(D8 x) {
    const __m256d four = _mm256_max_pd(x.a, x.b);
    const __m128d two = _mm_max_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_max_sd(two, _mm_unpackhi_pd(two, two)));
}
XENT_INLINE __m256d scaled_half(__m256d p, __m256d sum) {
    // The low 32 bits of the sum hold n (|n| < 2**31); the shift drops what stands above them.
    const __m256i n = _mm256_castpd_si256(sum), bias = _mm256_set1_epi64x(1023);
    const __m256i other = _mm256_max_epi32(n, _mm256_set1_epi32(-1000)), half = _mm256_sub_epi32(n, other);
    p = _mm256_mul_pd(p, _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_add_epi32(half, bias), 52)));
    return _mm256_mul_pd(p, _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_add_epi32(other, bias), 52)));
}
XENT_INLINE D8 from(D8 lowest, D8 x, Mask8 *above) {
    *above = {_mm256_cmp_pd(x.a, lowest.a, _CMP_NLT_UQ), _mm256_cmp_pd(x.b, lowest.b, _CMP_NLT_UQ)};
    return larger(lowest, x);
}
XENT_INLINE D8 scaled(Mask8 above, D8 p, D8 sum, D8) {
    return {_mm256_and_pd(above.a, scaled_half(p.a, sum.a)), _mm256_and_pd(above.b, scaled_half(p.b, sum.b))};
}
XENT_INLINE void binade_half(__m256d u, __m256d *k, __m256d *down) {
    const __m256i offset = _mm256_set1_epi64x(INT64_C(0x3ff0000000000000) - INT64_C(0x3fe6a09e667f3bcd));
    const __m256i n = _mm256_srli_epi64(_mm256_add_epi64(_mm256_castpd_si256(u), offset), 52);
    // a small whole number under the exponent of 2**52 is 2**52 more than itself
    const __m256d lifted = _mm256_castsi256_pd(_mm256_or_si256(n, _mm256_castpd_si256(_mm256_set1_pd(0x1p52))));
    *k = _mm256_sub_pd(lifted, _mm256_set1_pd(0x1p52 + 1023));
    *down = _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_sub_epi64(_mm256_set1_epi64x(2046), n), 52));
}
XENT_INLINE void binade(D8 u, D8 *k, D8 *down) {
    binade_half(u.a, &k->a, &down->a), binade_half(u.b, &k->b, &down->b);
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

XENT_INLINE void transpose_square(__m256 *r) {  // 8 x 8
    __m256 p[8];
    for (int i = 0; i < 8; i += 4) {
        const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(r[i], r[i + 1]));
        const __m256d b = _mm256_castps_pd(_mm256_unpackhi_ps(r[i], r[i + 1]));
        const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(r[i + 2], r[i + 3]));
        const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(r[i + 2], r[i + 3]));
        p[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c)), p[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
        p[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d)), p[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(p[i], p[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(p[i], p[i + 4], 0x31);
    }
}
XENT_INLINE void transpose(F16 *r) {
    __m256 a[8], b[8], c[8], d[8];
    for (int i = 0; i < 8; i++) a[i] = r[i].a, b[i] = r[i].b, c[i] = r[i + 8].a, d[i] = r[i + 8].b;
    transpose_square(a), transpose_square(b), transpose_square(c), transpose_square(d);
    for (int i = 0; i < 8; i++) r[i] = {a[i], c[i]}, r[i + 8] = {b[i], d[i]};
}
XENT_INLINE void transpose_square(__m256d *r) {  // 4 x 4
    const __m256d a = _mm256_unpacklo_pd(r[0], r[1]), b = _mm256_unpackhi_pd(r[0], r[1]);
    const __m256d c = _mm256_unpacklo_pd(r[2], r[3]), d = _mm256_unpackhi_pd(r[2], r[3]);
    r[0] = _mm256_permute2f128_pd(a, c, 0x20), r[1] = _mm256_permute2f128_pd(b, d, 0x20);
    r[2] = _mm256_permute2f128_pd(a, c, 0x31), r[3] = _mm256_permute2f128_pd(b, d, 0x31);
}
XENT_INLINE void transpose(D8 *r) {
    __m256d a[4], b[4], c[4], d[4];
    for (int i = 0; i < 4; i++) a[i] = r[i].a, b[i] = r[i].b, c[i] = r[i + 4].a, d[i] = r[i + 4].b;
    transpose_square(a), transpose_square(b), transpose_square(c), transpose_square(d);
    for (int i = 0; i < 4; i++) r[i] = {a[i], c[i]}, r[i + 4] = {b[i], d[i]};
}

XENT_INLINE __m256 turned(__m256 x) {  // its quarters 0, 2, 1, 3
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(x), 0xd8));
}
XENT_INLINE void unzip(F16 a, F16 b, F16 *even, F16 *odd) {
    *even = {turned(_mm256_shuffle_ps(a.a, a.b, 0x88)), turned(_mm256_shuffle_ps(b.a, b.b, 0x88))};
    *odd = {turned(_mm256_shuffle_ps(a.a, a.b, 0xdd)), turned(_mm256_shuffle_ps(b.a, b.b, 0xdd))};
}
XENT_INLINE void zip_half(__m256 even, __m256 odd, F16 *x) {
    const __m256 low = _mm256_unpacklo_ps(even, odd), high = _mm256_unpackhi_ps(even, odd);
    *x = {_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)};
}
XENT_INLINE void zip(F16 even, F16 odd, F16 *a, F16 *b) { zip_half(even.a, odd.a, a), zip_half(even.b, odd.b, b); }
XENT_INLINE void unzip(D8 a, D8 b, D8 *even, D8 *odd) {
    *even = {_mm256_permute4x64_pd(_mm256_unpacklo_pd(a.a, a.b), 0xd8),
             _mm256_permute4x64_pd(_mm256_unpacklo_pd(b.a, b.b), 0xd8)};
    *odd = {_mm256_permute4x64_pd(_mm256_unpackhi_pd(a.a, a.b), 0xd8),
            _mm256_permute4x64_pd(_mm256_unpackhi_pd(b.a, b.b), 0xd8)};
}
XENT_INLINE void zip_half(__m256d even, __m256d odd, D8 *x) {
    const __m256d low = _mm256_unpacklo_pd(even, odd), high = _mm256_unpackhi_pd(even, odd);
    *x = {_mm256_permute2f128_pd(low, high, 0x20), _mm256_permute2f128_pd(low, high, 0x31)};
}
XENT_INLINE void zip(D8 even, D8 odd, D8 *a, D8 *b) { zip_half(even.a, odd.a, a), zip_half(even.b, odd.b, b); }

}  // namespace XENT_ISA
