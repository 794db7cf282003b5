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

// Lanes from memory and back: floats keep their type or are widened to double on the way. load_part and store_part
// touch n elements only; `fill` stands for the others.
template <class V, class T> struct Io;

template <class V, class T> struct Parts {
    // Not inlined: there is one a row at most, and it stands in many loops.
    static __attribute__((noinline)) V load_part(const T *p, int64_t n, double fill) {
        T room[V::lanes];
        for (int i = 0; i < V::lanes; i++) room[i] = As<T>::of(fill);
        memcpy(room, p, static_cast<size_t>(n) * sizeof(T));
        return Io<V, T>::load(room);
    }
    static __attribute__((noinline)) void store_part(T *p, V x, int64_t n) {
        T room[V::lanes];
        Io<V, T>::store(room, x);
        memcpy(p, room, static_cast<size_t>(n) * sizeof(T));
    }
};

#if defined(__AVX512F__)

XENT_INLINE __mmask16 first_lanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
XENT_INLINE __m512 widened(__m256i bits, Brain) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
XENT_INLINE __m512 widened(__m256i bits, Half) { return _mm512_cvtph_ps(bits); }
XENT_INLINE __m256i narrowed(__m512 x, Brain) {
    const __m512i bits = _mm512_castps_si512(x), high = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    __m512i out = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
    out = _mm512_mask_or_epi32(out, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), high, _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(out);
}
XENT_INLINE __m256i narrowed(__m512 x, Half) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }

template <> struct Io<F16, float> {
    static XENT_INLINE F16 load(const float *p) { return F16::load(p); }
    static XENT_INLINE void store(float *p, F16 x) { x.store(p); }
    static XENT_INLINE void stream(float *p, F16 x) { x.stream(p); }
    static XENT_INLINE F16 load_part(const float *p, int64_t n, double fill) {
        return {_mm512_mask_loadu_ps(_mm512_set1_ps(static_cast<float>(fill)), first_lanes(n), p)};
    }
    static XENT_INLINE void store_part(float *p, F16 x, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), x.v); }
};
template <class T> struct Io<F16, T> {  // 16 bits
    static XENT_INLINE F16 load(const T *p) {
        return {widened(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)), T())};
    }
    static XENT_INLINE void store(T *p, F16 x) {
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), narrowed(x.v, T()));
    }
    static XENT_INLINE void stream(T *p, F16 x) {
        _mm256_stream_si256(reinterpret_cast<__m256i *>(p), narrowed(x.v, T()));
    }
    static XENT_INLINE F16 load_part(const T *p, int64_t n, double fill) {
        const __m256i rest = _mm256_set1_epi16(static_cast<int16_t>(As<T>::of(fill).bits));
        return {widened(_mm256_mask_loadu_epi16(rest, first_lanes(n), p), T())};
    }
    static XENT_INLINE void store_part(T *p, F16 x, int64_t n) {
        _mm256_mask_storeu_epi16(p, first_lanes(n), narrowed(x.v, T()));
    }
};
template <> struct Io<D8, double> {
    static XENT_INLINE D8 load(const double *p) { return D8::load(p); }
    static XENT_INLINE void store(double *p, D8 x) { x.store(p); }
    static XENT_INLINE void stream(double *p, D8 x) { x.stream(p); }
    static XENT_INLINE D8 load_part(const double *p, int64_t n, double fill) {
        return {_mm512_mask_loadu_pd(_mm512_set1_pd(fill), static_cast<__mmask8>(first_lanes(n)), p)};
    }
    static XENT_INLINE void store_part(double *p, D8 x, int64_t n) {
        _mm512_mask_storeu_pd(p, static_cast<__mmask8>(first_lanes(n)), x.v);
    }
};
template <class T> struct Io<D8, T> : Parts<D8, T> {
    static XENT_INLINE __m256 eight(const float *p) { return _mm256_loadu_ps(p); }
    static XENT_INLINE __m256 eight(const Brain *p) {
        const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
    static XENT_INLINE __m256 eight(const Half *p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
    }
    static XENT_INLINE D8 load(const T *p) { return {_mm512_cvtps_pd(eight(p))}; }
    static XENT_INLINE void put(float *p, __m256 x) { _mm256_storeu_ps(p, x); }
    template <class S> static XENT_INLINE void put(S *p, __m256 x) {
        const __m256i bits = narrowed(_mm512_castps256_ps512(x), S());
        _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm256_castsi256_si128(bits));
    }
    static XENT_INLINE void store(T *p, D8 x) { put(p, _mm512_cvtpd_ps(x.v)); }
    static XENT_INLINE void stream(T *p, D8 x) { store(p, x); }  // rows that take this way are few
};

#elif defined(__AVX2__)

XENT_INLINE __m256 widen_eight(const float *p) { return _mm256_loadu_ps(p); }
XENT_INLINE __m256 widen_eight(const Brain *p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
XENT_INLINE __m256 widen_eight(const Half *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}
XENT_INLINE __m128i narrow_eight(__m256 x, Brain) {
    const __m256i bits = _mm256_castps_si256(x), high = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i out = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i kept = _mm256_blendv_epi8(out, quiet, nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(kept), _mm256_extracti128_si256(kept, 1));
}
XENT_INLINE __m128i narrow_eight(__m256 x, Half) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }
XENT_INLINE void put_eight(float *p, __m256 x) { _mm256_storeu_ps(p, x); }
template <class T> XENT_INLINE void put_eight(T *p, __m256 x) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), narrow_eight(x, T()));
}
template <class T> struct Io<F16, T> : Parts<F16, T> {
    static XENT_INLINE F16 load(const T *p) { return {widen_eight(p), widen_eight(p + 8)}; }
    static XENT_INLINE void store(T *p, F16 x) { put_eight(p, x.a), put_eight(p + 8, x.b); }
    static XENT_INLINE void stream(T *p, F16 x) { stream_as(p, x); }

   private:
    static XENT_INLINE void stream_as(float *p, F16 x) { x.stream(p); }
    template <class S> static XENT_INLINE void stream_as(S *p, F16 x) {
        const __m256i both = _mm256_set_m128i(narrow_eight(x.b, S()), narrow_eight(x.a, S()));
        _mm256_stream_si256(reinterpret_cast<__m256i *>(p), both);
    }
};
template <> struct Io<D8, double> : Parts<D8, double> {
    static XENT_INLINE D8 load(const double *p) { return D8::load(p); }
    static XENT_INLINE void store(double *p, D8 x) { x.store(p); }
    static XENT_INLINE void stream(double *p, D8 x) { x.stream(p); }
};
template <class T> struct Io<D8, T> : Parts<D8, T> {
    static XENT_INLINE D8 load(const T *p) {
        const __m256 x = widen_eight(p);
        return {_mm256_cvtps_pd(_mm256_castps256_ps128(x)), _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1))};
    }
    static XENT_INLINE void store(T *p, D8 x) {
        put_eight(p, _mm256_set_m128(_mm256_cvtpd_ps(x.b), _mm256_cvtpd_ps(x.a)));
    }
    static XENT_INLINE void stream(T *p, D8 x) { store(p, x); }  // rows that take this way are few
};

#else

template <class V, class T> struct Io : Parts<V, T> {
    static XENT_INLINE V load(const T *p) {
        V x;
        for (int i = 0; i < V::lanes; i++) x.v[i] = widen(p[i]);
        return x;
    }
    static XENT_INLINE void store(T *p, V x) {
        for (int i = 0; i < V::lanes; i++) p[i] = As<T>::of(x.v[i]);
    }
    static XENT_INLINE void stream(T *p, V x) { store(p, x); }
};

#endif

}  // namespace XENT_ISA
