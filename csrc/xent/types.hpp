// Element types as they lie in memory, and their way into and out of lanes.
#pragma once
#include "math.hpp"

namespace XENT_ISA {

struct Half { uint16_t bits; };
struct Brain { uint16_t bits; };

XENT_INLINE float widen(float x) { return x; }
XENT_INLINE double widen(double x) { return x; }
XENT_INLINE float widen(Brain x) {
    uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}
XENT_INLINE float widen(Half x) {
    uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff, bits;
    float out;
    if (rest >= 0x7c00) {
        bits = sign | 0x7f800000 | (rest & 0x3ff) << 13;
        memcpy(&out, &bits, 4);
    } else if (rest >= 0x400) {
        bits = sign | ((rest << 13) + 0x38000000);
        memcpy(&out, &bits, 4);
    } else {
        out = static_cast<float>(rest) * 5.9604644775390625e-8f;  // 2**-24
        memcpy(&bits, &out, 4);
        bits |= sign;
        memcpy(&out, &bits, 4);
    }
    return out;
}

template <class T> struct As { static XENT_INLINE T of(double x) { return static_cast<T>(x); } };
template <> struct As<Brain> {
    static XENT_INLINE Brain of(double wide) {
        float x = static_cast<float>(wide);
        uint32_t bits;
        memcpy(&bits, &x, 4);
        if ((bits & 0x7fffffff) > 0x7f800000) return {static_cast<uint16_t>((bits >> 16) | 0x40)};  // keep nan a nan
        return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};  // to nearest, ties to even
    }
};
template <> struct As<Half> {
    static XENT_INLINE Half of(double wide) {
        float x = static_cast<float>(wide);
        uint32_t bits;
        memcpy(&bits, &x, 4);
        uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
        bits &= 0x7fffffff;
        if (bits > 0x7f800000) return {static_cast<uint16_t>(sign | 0x7e00)};
        if (bits >= 0x47800000) return {static_cast<uint16_t>(sign | 0x7c00)};  // 65536 and beyond
        if (bits < 0x38800000) {  // below 2**-14: adding 0.5 rounds to a multiple of 2**-24
            float magnitude;
            memcpy(&magnitude, &bits, 4);
            magnitude += 0.5f;
            memcpy(&bits, &magnitude, 4);
            return {static_cast<uint16_t>(sign | (bits - 0x3f000000))};
        }
        bits += 0xfff + (bits >> 13 & 1);
        return {static_cast<uint16_t>(sign | ((bits - 0x38000000) >> 13))};
    }
};

// Lanes from memory and back: floats keep their type or are widened to double on the way.
template <class V, class T> struct Io;
template <> struct Io<F16, float> {
    static XENT_INLINE F16 load(const float *p) { return F16::load(p); }
    static XENT_INLINE void store(float *p, F16 x) { x.store(p); }
};
template <> struct Io<D8, double> {
    static XENT_INLINE D8 load(const double *p) { return D8::load(p); }
    static XENT_INLINE void store(double *p, D8 x) { x.store(p); }
};

#if defined(__AVX2__)

XENT_INLINE __m256 widen_brain(const Brain *p) {
    __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
XENT_INLINE __m256 widen_half(const Half *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}
XENT_INLINE void narrow_brain(Brain *p, __m256 x) {
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
    __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    __m256i out = _mm256_blendv_epi8(rounded, quiet, nan);
    __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(out), _mm256_extracti128_si256(out, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), packed);
}
XENT_INLINE void narrow_half(Half *p, __m256 x) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
XENT_INLINE __m256 widen_eight(const float *p) { return _mm256_loadu_ps(p); }
XENT_INLINE __m256 widen_eight(const Brain *p) { return widen_brain(p); }
XENT_INLINE __m256 widen_eight(const Half *p) { return widen_half(p); }
XENT_INLINE void narrow_eight(float *p, __m256 x) { _mm256_storeu_ps(p, x); }
XENT_INLINE void narrow_eight(Brain *p, __m256 x) { narrow_brain(p, x); }
XENT_INLINE void narrow_eight(Half *p, __m256 x) { narrow_half(p, x); }
#if defined(__AVX512F__)
XENT_INLINE F16 joined(__m256 a, __m256 b) {
    return {_mm512_castpd_ps(_mm512_insertf64x4(_mm512_castps_pd(_mm512_castps256_ps512(a)), _mm256_castps_pd(b), 1))};
}
XENT_INLINE __m256 first_half(F16 x) { return _mm512_castps512_ps256(x.v); }
XENT_INLINE __m256 second_half(F16 x) {
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x.v), 1));
}
XENT_INLINE D8 doubled(__m256 x) { return {_mm512_cvtps_pd(x)}; }
XENT_INLINE __m256 halved(D8 x) { return _mm512_cvtpd_ps(x.v); }
#else
XENT_INLINE F16 joined(__m256 a, __m256 b) { return {a, b}; }
XENT_INLINE __m256 first_half(F16 x) { return x.a; }
XENT_INLINE __m256 second_half(F16 x) { return x.b; }
XENT_INLINE D8 doubled(__m256 x) {
    return {_mm256_cvtps_pd(_mm256_castps256_ps128(x)), _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1))};
}
XENT_INLINE __m256 halved(D8 x) { return _mm256_set_m128(_mm256_cvtpd_ps(x.b), _mm256_cvtpd_ps(x.a)); }
#endif
template <class T> struct Io<F16, T> {
    static XENT_INLINE F16 load(const T *p) { return joined(widen_eight(p), widen_eight(p + 8)); }
    static XENT_INLINE void store(T *p, F16 x) { narrow_eight(p, first_half(x)), narrow_eight(p + 8, second_half(x)); }
};
template <class T> struct Io<D8, T> {
    static XENT_INLINE D8 load(const T *p) { return doubled(widen_eight(p)); }
    static XENT_INLINE void store(T *p, D8 x) { narrow_eight(p, halved(x)); }
};

#else

template <class V, class T> struct Io {
    static XENT_INLINE V load(const T *p) {
        V x;
        for (int i = 0; i < V::lanes; i++) x.v[i] = widen(p[i]);
        return x;
    }
    static XENT_INLINE void store(T *p, V x) {
        for (int i = 0; i < V::lanes; i++) p[i] = As<T>::of(x.v[i]);
    }
};

#endif

// The first n elements, and `fill` behind them. Not inlined: there is one a row at most, and it stands in many loops.
template <class V, class T> __attribute__((noinline)) V load_part(const T *p, int64_t n, double fill) {
    T room[V::lanes];
    for (int i = 0; i < V::lanes; i++) room[i] = As<T>::of(fill);
    memcpy(room, p, static_cast<size_t>(n) * sizeof(T));
    return Io<V, T>::load(room);
}
template <class V, class T> __attribute__((noinline)) void store_part(T *p, V x, int64_t n) {
    T room[V::lanes];
    Io<V, T>::store(room, x);
    memcpy(p, room, static_cast<size_t>(n) * sizeof(T));
}

}  // namespace XENT_ISA
