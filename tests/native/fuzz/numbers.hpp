// Numbers of the four types, and how they come out of a fuzzer's bytes.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

struct Brain { uint16_t bits; };
struct Half { uint16_t bits; };

inline double wide(double x) { return x; }
inline double wide(float x) { return x; }
inline double wide(Brain x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline double wide(Half x) {
    const int exponent = x.bits >> 10 & 31, mantissa = x.bits & 1023;
    double size = std::ldexp(exponent ? mantissa + 1024 : mantissa, (exponent ? exponent : 1) - 25);
    if (exponent == 31) size = mantissa ? NAN : INFINITY;
    return x.bits >> 15 ? -size : size;
}

// Digits that do not fit are cut off: which of two neighbours it is does not matter here.
template <class T> struct Narrow { static T of(double x) { return static_cast<T>(x); } };
template <> struct Narrow<Brain> {
    static Brain of(double x) {
        const float value = static_cast<float>(x);
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        return {static_cast<uint16_t>(bits >> 16)};
    }
};
template <> struct Narrow<Half> {
    static Half of(double x) {
        const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
        const double size = std::fabs(x);
        if (x != x) return {0x7e00};
        if (size > 65504) return {static_cast<uint16_t>(sign | 0x7c00)};
        const int exponent = size < 0x1p-14 ? -14 : std::ilogb(size);
        const int mantissa = static_cast<int>(std::ldexp(size, 10 - exponent));
        return {static_cast<uint16_t>(sign | (mantissa + ((exponent + 14) << 10)))};
    }
};

template <class T> constexpr double largest = 1.79e308;
template <> constexpr double largest<float> = 3.4e38;
template <> constexpr double largest<Brain> = 3.38e38;
template <> constexpr double largest<Half> = 65504;

// What is left of the input; zeros behind its end.
struct Bytes {
    const uint8_t *data;
    size_t size, at = 0;
    uint8_t next() { return at < size ? data[at++] : 0; }
    int64_t below(int64_t bound) { return next() % bound; }
    bool one_in(int64_t n) { return next() % n == 1; }
    template <class T, size_t n> T one_of(const T (&values)[n]) { return values[next() % n]; }
    template <class T> T bits() {
        T value{};
        uint8_t raw[sizeof(T)];
        for (uint8_t &byte : raw) byte = next();
        std::memcpy(&value, raw, sizeof value);
        return value;
    }
};

// Where something changes: the ends of the types, of exp, and of what float lanes are trusted with.
constexpr double notable[] = {
    0.0, -0.0, 1.0, -1.0, INFINITY, -INFINITY, NAN, 65504, -65504, 3.4028234e38, -3.4028234e38, 1e-45, -1e-45,
    5e-324, 1.7e308, -1.7e308, 6e-8, 0x1p40, 0x1p41, 88.7, -88.7, -103.97, -170, -170.5, -709.8, -745.2, -1400,
    1e-20, 1e20, 16777217,
};

// As many numbers as asked for, in one of three manners: bits as they lie in the input, small multiples of a power of
// two, or notable ones. Where the input ends it is read again, from where these numbers began.
template <class T> std::vector<T> numbers(Bytes &bytes, int64_t count) {
    enum Manner { raw, small, peculiar };
    const int64_t manner = bytes.below(3);
    const double step = std::ldexp(1.0, static_cast<int>(bytes.below(16)) - 8);
    const size_t start = std::min(bytes.at, bytes.size);
    std::vector<T> values(static_cast<size_t>(count));
    for (T &value : values) {
        if (bytes.at >= bytes.size) bytes.at = start;
        if (manner == raw) value = bytes.bits<T>();
        if (manner == small) value = Narrow<T>::of(static_cast<int8_t>(bytes.next()) * step);
        if (manner == peculiar) value = Narrow<T>::of(bytes.one_of(notable));
    }
    return values;
}
