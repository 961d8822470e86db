// Vectors of 16 numbers, in the vector types of the compiler: one source becomes AVX-512,
// AVX2, NEON or plain code, as the flags say. What needs an instruction by name asks for
// it where it is used.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

constexpr int LANES = 16;

typedef float F32 __attribute__((vector_size(64)));
typedef int32_t I32 __attribute__((vector_size(64)));
typedef uint32_t U32 __attribute__((vector_size(64)));
typedef uint16_t U16 __attribute__((vector_size(32)));
typedef int8_t I8 __attribute__((vector_size(16)));

struct bf16 {
    uint16_t bits;
};

// Two bytes that the processor knows: GCC 12 has no _Float16 in C++ for ARM.
#if defined(__aarch64__)
using fp16 = __fp16;
#define FP16
#elif defined(__FLT16_MAX__)
using fp16 = _Float16;
#define FP16
#endif

// The dtype of the model: -DELEMENT=bf16, fp16 or float.
using Element = ELEMENT;

template <class To, class From>
inline To as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

template <class V>
inline V load_as(const void* from) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

inline F32 broadcast(float x) {
    return F32{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}

inline F32 load(const float* from) { return load_as<F32>(from); }

inline F32 load(const bf16* from) {
    return as<F32>(__builtin_convertvector(load_as<U16>(from), U32) << 16);
}

inline void store(float* to, F32 v) { std::memcpy(to, &v, sizeof v); }

inline void store(bf16* to, F32 v) {
    U32 bits = as<U32>(v);
    U32 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    U32 kept = v == v ? rounded : (bits >> 16) | 0x40;  // rounding might end a NaN
    U16 halves = __builtin_convertvector(kept, U16);
    std::memcpy(to, &halves, sizeof halves);
}

#if defined(FP16)
inline F32 load(const fp16* from) {
#if defined(__F16C__) && !defined(__AVX512F__)
    F32 v;
    for (int half = 0; half < 2; ++half) {
        __m256 eight = _mm256_cvtph_ps(load_as<__m128i>(from + 8 * half));
        std::memcpy(reinterpret_cast<float*>(&v) + 8 * half, &eight, sizeof eight);
    }
    return v;
#elif defined(__AVX512F__)
    return as<F32>(_mm512_cvtph_ps(load_as<__m256i>(from)));
#else
    F32 v;
    for (int i = 0; i < LANES; ++i) v[i] = float(from[i]);
    return v;
#endif
}

inline void store(fp16* to, F32 v) {
    for (int i = 0; i < LANES; ++i) to[i] = fp16(v[i]);
}
#endif

inline float widen(float x) { return x; }
inline float widen(bf16 x) { return as<float>(uint32_t(x.bits) << 16); }
#if defined(FP16)
inline float widen(fp16 x) { return float(x); }
#endif

// The first n of 16 numbers, and zeros.
template <class T>
inline F32 load_some(const T* from, int n) {
    if (n >= LANES) return load(from);
    F32 v = {};
    for (int i = 0; i < n; ++i) v[i] = widen(from[i]);
    return v;
}

template <class T>
inline void store_some(T* to, F32 v, int n) {
    if (n >= LANES) return store(to, v);
    T all[LANES];
    store(all, v);
    std::memcpy(to, all, n * sizeof(T));
}

inline F32 maximum(F32 a, F32 b) { return a > b ? a : b; }
inline F32 minimum(F32 a, F32 b) { return a < b ? a : b; }

// Folds 16 numbers to one.
template <class Fold>
inline float fold(F32 v, Fold both) {
    typedef float F8 __attribute__((vector_size(32)));
    typedef float F4 __attribute__((vector_size(16)));
    F8 eights[2];
    std::memcpy(eights, &v, sizeof v);
    F8 eight = both(eights[0], eights[1]);
    F4 fours[2];
    std::memcpy(fours, &eight, sizeof eight);
    F4 four = both(fours[0], fours[1]);
    float a = both(four[0], four[2]), b = both(four[1], four[3]);
    return both(a, b);
}

inline float sum(F32 v) {
    return fold(v, [](auto a, auto b) { return a + b; });
}

inline float largest(F32 v) {
    return fold(v, [](auto a, auto b) { return a > b ? a : b; });
}

// e to the x, to 2 units in the last place; below -87 it is 0.
inline F32 exponential(F32 x) {
    const F32 shift = broadcast(12582912.0f);  // 1.5 · 2²³: adding it rounds to a whole
    F32 bounded = minimum(maximum(x, broadcast(-87.0f)), broadcast(88.5f));
    F32 shifted = bounded * 1.44269504f + shift;
    F32 whole = shifted - shift;
    F32 rest = bounded - whole * 0.693359375f;
    rest = rest + whole * 2.12194440e-4f;
    F32 series = broadcast(1.9875691500e-4f);
    series = series * rest + 1.3981999507e-3f;
    series = series * rest + 8.3334519073e-3f;
    series = series * rest + 4.1665795894e-2f;
    series = series * rest + 1.6666665459e-1f;
    series = series * rest + 5.0000001201e-1f;
    series = series * rest * rest + rest + 1.0f;
    // In two steps: 2 to the 128 is no float.
    I32 power = as<I32>(shifted) - as<I32>(shift);
    F32 half = as<F32>(((power >> 1) + 127) << 23);
    F32 other = as<F32>((power - (power >> 1) + 127) << 23);
    F32 result = series * half * other;
    result = x > 88.5f ? x * std::numeric_limits<float>::infinity() : result;
    return x < -87.0f ? F32{} : (x == x ? result : x);
}
