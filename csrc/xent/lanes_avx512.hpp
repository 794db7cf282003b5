// The words of lanes.hpp on AVX-512 (F, DQ, BW, VL).
#pragma once
#include <immintrin.h>

namespace XENT_ISA {

struct Mask16 { __mmask16 m; };
struct Mask8 { __mmask8 m; };
XENT_INLINE bool any(Mask16 m) { return m.m != 0; }
XENT_INLINE bool any(Mask8 m) { return m.m != 0; }
XENT_INLINE bool all(Mask8 m) { return m.m == 0xff; }
XENT_INLINE int first_of(Mask16 m) { return __builtin_ctz(m.m); }
XENT_INLINE int first_of(Mask8 m) { return __builtin_ctz(m.m); }
XENT_INLINE int number(Mask16 m) { return __builtin_popcount(m.m); }
XENT_INLINE int number(Mask8 m) { return __builtin_popcount(m.m); }

struct F16 {
    using Real = float;
    static constexpr int lanes = 16;
    __m512 v;
    static XENT_INLINE F16 of(float x) { return {_mm512_set1_ps(x)}; }
    static XENT_INLINE F16 load(const float *p) { return {_mm512_loadu_ps(p)}; }
    XENT_INLINE void store(float *p) const { _mm512_storeu_ps(p, v); }
    XENT_INLINE void stream(float *p) const { _mm512_stream_ps(p, v); }
};
XENT_INLINE F16 operator+(F16 a, F16 b) { return {_mm512_add_ps(a.v, b.v)}; }
XENT_INLINE F16 operator-(F16 a, F16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
XENT_INLINE F16 operator*(F16 a, F16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
XENT_INLINE F16 fma(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
XENT_INLINE F16 larger(F16 a, F16 b) { return {_mm512_max_ps(a.v, b.v)}; }
XENT_INLINE F16 smaller(F16 a, F16 b) { return {_mm512_min_ps(a.v, b.v)}; }
XENT_INLINE Mask16 equal(F16 a, F16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
XENT_INLINE Mask16 at_least(F16 a, F16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
XENT_INLINE F16 select(Mask16 m, F16 yes, F16 no) { return {_mm512_mask_blend_ps(m.m, no.v, yes.v)}; }
XENT_INLINE float largest(F16 a) { return _mm512_reduce_max_ps(a.v); }
XENT_INLINE F16 lookup(F16 table, F16 sum) { return {_mm512_permutexvar_ps(_mm512_castps_si512(sum.v), table.v)}; }
XENT_INLINE F16 from(F16 lowest, F16 x, Mask16 *above) {
    above->m = _mm512_cmp_ps_mask(x.v, lowest.v, _CMP_NLT_UQ);
    return x;
}
XENT_INLINE F16 scaled(Mask16 above, F16 p, F16, F16 n) { return {_mm512_maskz_scalef_ps(above.m, p.v, n.v)}; }  // 2**floor(n)

struct D8 {
    using Real = double;
    static constexpr int lanes = 8;
    __m512d v;
    static XENT_INLINE D8 of(double x) { return {_mm512_set1_pd(x)}; }
    static XENT_INLINE D8 load(const double *p) { return {_mm512_loadu_pd(p)}; }
    XENT_INLINE void store(double *p) const { _mm512_storeu_pd(p, v); }
    XENT_INLINE void stream(double *p) const { _mm512_stream_pd(p, v); }
};
XENT_INLINE D8 operator+(D8 a, D8 b) { return {_mm512_add_pd(a.v, b.v)}; }
XENT_INLINE D8 operator-(D8 a, D8 b) { return {_mm512_sub_pd(a.v, b.v)}; }
XENT_INLINE D8 operator*(D8 a, D8 b) { return {_mm512_mul_pd(a.v, b.v)}; }
XENT_INLINE D8 divided(D8 a, D8 b) { return {_mm512_div_pd(a.v, b.v)}; }
XENT_INLINE D8 fma(D8 a, D8 b, D8 c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
XENT_INLINE D8 larger(D8 a, D8 b) { return {_mm512_max_pd(a.v, b.v)}; }
XENT_INLINE D8 smaller(D8 a, D8 b) { return {_mm512_min_pd(a.v, b.v)}; }
XENT_INLINE Mask8 equal(D8 a, D8 b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_EQ_OQ)}; }
XENT_INLINE Mask8 at_least(D8 a, D8 b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_GE_OQ)}; }
XENT_INLINE D8 select(Mask8 m, D8 yes, D8 no) { return {_mm512_mask_blend_pd(m.m, no.v, yes.v)}; }
XENT_INLINE double sum_of(D8 a) {
    const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(a.v), _mm512_extractf64x4_pd(a.v, 1));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
XENT_INLINE double largest(D8 a) { return _mm512_reduce_max_pd(a.v); }
XENT_INLINE D8 from(D8 lowest, D8 x, Mask8 *above) {
    above->m = _mm512_cmp_pd_mask(x.v, lowest.v, _CMP_NLT_UQ);
    return x;
}
XENT_INLINE D8 scaled(Mask8 above, D8 p, D8, D8 n) { return {_mm512_maskz_scalef_pd(above.m, p.v, n.v)}; }
XENT_INLINE void binade(D8 u, D8 *k, D8 *down) {
    const __m512i offset = _mm512_set1_epi64(INT64_C(0x3ff0000000000000) - INT64_C(0x3fe6a09e667f3bcd));
    const __m512i n = _mm512_srli_epi64(_mm512_add_epi64(_mm512_castpd_si512(u.v), offset), 52);
    k->v = _mm512_cvtepi64_pd(_mm512_sub_epi64(n, _mm512_set1_epi64(1023)));
    down->v = _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_sub_epi64(_mm512_set1_epi64(2046), n), 52));
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

XENT_INLINE void transpose(F16 *r) {
    __m512d p[16];
    for (int i = 0; i < 16; i += 4) {  // squares of 4 x 4 within each quarter
        const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(r[i].v, r[i + 1].v));
        const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(r[i].v, r[i + 1].v));
        const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(r[i + 2].v, r[i + 3].v));
        const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(r[i + 2].v, r[i + 3].v));
        p[i] = _mm512_unpacklo_pd(a, c), p[i + 1] = _mm512_unpackhi_pd(a, c);
        p[i + 2] = _mm512_unpacklo_pd(b, d), p[i + 3] = _mm512_unpackhi_pd(b, d);
    }
    for (int i = 0; i < 4; i++) {  // then the quarters
        const __m512 a = _mm512_castpd_ps(p[i]), b = _mm512_castpd_ps(p[i + 4]);
        const __m512 c = _mm512_castpd_ps(p[i + 8]), d = _mm512_castpd_ps(p[i + 12]);
        const __m512 ab = _mm512_shuffle_f32x4(a, b, 0x88), cd = _mm512_shuffle_f32x4(c, d, 0x88);
        const __m512 ef = _mm512_shuffle_f32x4(a, b, 0xdd), gh = _mm512_shuffle_f32x4(c, d, 0xdd);
        r[i].v = _mm512_shuffle_f32x4(ab, cd, 0x88), r[i + 8].v = _mm512_shuffle_f32x4(ab, cd, 0xdd);
        r[i + 4].v = _mm512_shuffle_f32x4(ef, gh, 0x88), r[i + 12].v = _mm512_shuffle_f32x4(ef, gh, 0xdd);
    }
}
XENT_INLINE void transpose(D8 *r) {
    __m512d p[8];
    for (int i = 0; i < 8; i += 2) p[i] = _mm512_unpacklo_pd(r[i].v, r[i + 1].v), p[i + 1] = _mm512_unpackhi_pd(r[i].v, r[i + 1].v);
    for (int i = 0; i < 2; i++) {
        const __m512d ab = _mm512_shuffle_f64x2(p[i], p[i + 2], 0x88), cd = _mm512_shuffle_f64x2(p[i + 4], p[i + 6], 0x88);
        const __m512d ef = _mm512_shuffle_f64x2(p[i], p[i + 2], 0xdd), gh = _mm512_shuffle_f64x2(p[i + 4], p[i + 6], 0xdd);
        r[i].v = _mm512_shuffle_f64x2(ab, cd, 0x88), r[i + 4].v = _mm512_shuffle_f64x2(ab, cd, 0xdd);
        r[i + 2].v = _mm512_shuffle_f64x2(ef, gh, 0x88), r[i + 6].v = _mm512_shuffle_f64x2(ef, gh, 0xdd);
    }
}

XENT_INLINE void unzip(F16 a, F16 b, F16 *even, F16 *odd) {
    const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    even->v = _mm512_permutex2var_ps(a.v, evens, b.v);
    odd->v = _mm512_permutex2var_ps(a.v, _mm512_add_epi32(evens, _mm512_set1_epi32(1)), b.v);
}
XENT_INLINE void zip(F16 even, F16 odd, F16 *a, F16 *b) {
    const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    a->v = _mm512_permutex2var_ps(even.v, first, odd.v);
    b->v = _mm512_permutex2var_ps(even.v, _mm512_add_epi32(first, _mm512_set1_epi32(8)), odd.v);
}
XENT_INLINE void unzip(D8 a, D8 b, D8 *even, D8 *odd) {
    const __m512i evens = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
    even->v = _mm512_permutex2var_pd(a.v, evens, b.v);
    odd->v = _mm512_permutex2var_pd(a.v, _mm512_add_epi64(evens, _mm512_set1_epi64(1)), b.v);
}
XENT_INLINE void zip(D8 even, D8 odd, D8 *a, D8 *b) {
    const __m512i first = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    a->v = _mm512_permutex2var_pd(even.v, first, odd.v);
    b->v = _mm512_permutex2var_pd(even.v, _mm512_add_epi64(first, _mm512_set1_epi64(4)), odd.v);
}

}  // namespace XENT_ISA
