#pragma once
// Vectors of the instruction set this file is compiled for, on GCC's and Clang's vector types. Sums are made in the
// accumulation type A (float, or double for double); float16 and bfloat16 are widened when loaded and rounded to nearest even
// when stored.
//
// Everything lives in a namespace named after the instruction set, so that no two sets share a symbol.

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../common/options.h"

#ifndef TVC_ISA
#error "compile with -DTVC_ISA=<namespace>"
#endif

#if defined(__AVX512F__)
#define TVC_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define TVC_VECTOR_BYTES 32
#else
#define TVC_VECTOR_BYTES 16
#endif

// For loops over a few registers: left rolled, the compiler keeps the array in memory.
#define TVC_UNROLL _Pragma("GCC unroll 8")

namespace tvc::TVC_ISA {

struct half {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};

template <class E>
struct VectorOf {
  typedef E type __attribute__((vector_size(TVC_VECTOR_BYTES)));
};
template <class E>
using Vec = typename VectorOf<E>::type;
template <class E>
inline constexpr int kLanes = TVC_VECTOR_BYTES / sizeof(E);

typedef uint32_t Bits32 __attribute__((vector_size(TVC_VECTOR_BYTES)));
typedef int32_t Int32 __attribute__((vector_size(TVC_VECTOR_BYTES)));
typedef uint16_t Bits16 __attribute__((vector_size(TVC_VECTOR_BYTES / 2)));

// The accumulation type of an element type.
template <class T>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <class T>
using Acc = typename Accumulate<T>::type;

template <class V, class U>
inline V bitcast(U u) {
  static_assert(sizeof(V) == sizeof(U));
  V v;
  std::memcpy(&v, &u, sizeof(v));
  return v;
}

template <class A>
inline Vec<A> splat(A a) {
  return Vec<A>{} + a;
}

// ---- one vector, all lanes ----

inline Vec<float> load(const float* p) {
  Vec<float> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
inline Vec<double> load(const double* p) {
  Vec<double> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
inline Vec<float> widen(Bits16 bits) {
  return bitcast<Vec<float>>(__builtin_convertvector(bits, Bits32) << 16);
}
inline Vec<float> load(const bfloat16* p) {
  Bits16 bits;
  std::memcpy(&bits, p, sizeof(bits));
  return widen(bits);
}

// Rounds to nearest even by integer addition, which keeps a NaN one as long as the lower half of its bits is 0. That holds for
// NaNs that were loaded from bfloat16 and those that arithmetic makes; what comes from float32 weights goes through quiet().
inline Bits16 narrow(Vec<float> v) {
#if defined(__AVX512BW__)
  const __m512i bits = _mm512_castps_si512((__m512)v);
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  __m512i rounded = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
  rounded = _mm512_mask_add_epi32(rounded, odd, rounded, _mm512_set1_epi32(1));
  const __m512i upper_halves = _mm512_set_epi16(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 31, 29, 27, 25, 23, 21, 19, 17,
                                                15, 13, 11, 9, 7, 5, 3, 1);
  return (Bits16)_mm512_castsi512_si256(_mm512_permutexvar_epi16(upper_halves, rounded));
#else
  const Bits32 bits = bitcast<Bits32>(v);
  return __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, Bits16);
#endif
}

// v, with NaNs that narrow() keeps.
inline Vec<float> quiet(Vec<float> v) {
  return v != v ? Vec<float>{} + __builtin_nanf("") : v;
}
inline Vec<double> quiet(Vec<double> v) {
  return v;
}

inline void store(float* p, Vec<float> v) {
  std::memcpy(p, &v, sizeof(v));
}
inline void store(double* p, Vec<double> v) {
  std::memcpy(p, &v, sizeof(v));
}
inline void store(bfloat16* p, Vec<float> v) {
  const Bits16 bits = narrow(v);
  std::memcpy(p, &bits, sizeof(bits));
}

// ---- one element ----

inline float to_acc(float v) {
  return v;
}
inline double to_acc(double v) {
  return v;
}
inline float to_acc(bfloat16 v) {
  return bitcast<float>(static_cast<uint32_t>(v.bits) << 16);
}
inline void from_acc(float* p, float v) {
  *p = v;
}
inline void from_acc(double* p, double v) {
  *p = v;
}
inline void from_acc(bfloat16* p, float v) {
  const uint32_t bits = bitcast<uint32_t>(v);
  p->bits = v != v ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#if defined(__F16C__)
inline float to_acc(half v) {
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(v.bits)));
}
inline void from_acc(half* p, float v) {
  p->bits = static_cast<uint16_t>(_mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(v), _MM_FROUND_TO_NEAREST_INT)));
}
#else
inline float to_acc(half v) {
  const uint32_t sign = static_cast<uint32_t>(v.bits & 0x8000) << 16;
  const uint32_t magnitude = v.bits & 0x7fff;
  if (magnitude >= 0x7c00) {  // infinity and NaN
    return bitcast<float>(sign | 0x7f800000 | ((magnitude & 0x3ff) << 13));
  }
  // The exponent is rebased by a product, which is exact and normalises subnormals on the way.
  const float value = bitcast<float>(magnitude << 13) * bitcast<float>(uint32_t{(127 + 112) << 23});
  return bitcast<float>(sign | bitcast<uint32_t>(value));
}
inline void from_acc(half* p, float v) {
  const uint32_t bits = bitcast<uint32_t>(v);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) {
    p->bits = sign | 0x7e00;  // NaN
  } else if (magnitude >= 0x477ff000) {
    p->bits = sign | 0x7c00;  // rounds to infinity
  } else if (magnitude < 0x38800000) {
    // Subnormal: adding 0.5 leaves the rounded significand, at its place, in the low bits.
    p->bits = static_cast<uint16_t>(sign | (bitcast<uint32_t>(bitcast<float>(magnitude) + 0.5f) - 0x3f000000));
  } else {
    p->bits = static_cast<uint16_t>(sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13));
  }
}
#endif

#if defined(__AVX512F__)
inline Vec<float> load(const half* p) {
  return (Vec<float>)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store(half* p, Vec<float> v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__F16C__)
inline Vec<float> load(const half* p) {
  return (Vec<float>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline void store(half* p, Vec<float> v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
}
#else
inline Vec<float> load(const half* p) {
  Vec<float> v;
  for (int i = 0; i < kLanes<float>; ++i) {
    v[i] = to_acc(p[i]);
  }
  return v;
}
inline void store(half* p, Vec<float> v) {
  for (int i = 0; i < kLanes<float>; ++i) {
    from_acc(p + i, v[i]);
  }
}
#endif

// ---- the first n lanes; the others load as 0 and are not stored ----

template <class T>
inline Vec<Acc<T>> load(const T* p, int n) {
  Vec<Acc<T>> v{};
  for (int i = 0; i < n; ++i) {
    v[i] = to_acc(p[i]);
  }
  return v;
}
template <class T>
inline void store(T* p, Vec<Acc<T>> v, int n) {
  for (int i = 0; i < n; ++i) {
    from_acc(p + i, v[i]);
  }
}

#if defined(__AVX512BW__) && defined(__AVX512VL__)
inline __mmask16 first(int n) {
  return static_cast<__mmask16>((1u << n) - 1);
}
template <>
inline Vec<float> load(const float* p, int n) {
  return (Vec<float>)_mm512_maskz_loadu_ps(first(n), p);
}
template <>
inline Vec<float> load(const bfloat16* p, int n) {
  return widen((Bits16)_mm256_maskz_loadu_epi16(first(n), p));
}
template <>
inline Vec<float> load(const half* p, int n) {
  return (Vec<float>)_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p));
}
template <>
inline void store(float* p, Vec<float> v, int n) {
  _mm512_mask_storeu_ps(p, first(n), (__m512)v);
}
template <>
inline void store(bfloat16* p, Vec<float> v, int n) {
  _mm256_mask_storeu_epi16(p, first(n), (__m256i)narrow(v));
}
template <>
inline void store(half* p, Vec<float> v, int n) {
  _mm256_mask_storeu_epi16(p, first(n), _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__AVX2__)
inline __m256i first(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
template <>
inline Vec<float> load(const float* p, int n) {
  return (Vec<float>)_mm256_maskload_ps(p, first(n));
}
template <>
inline void store(float* p, Vec<float> v, int n) {
  _mm256_maskstore_ps(p, first(n), (__m256)v);
}
#endif

// ---- arithmetic ----

inline float sum(Vec<float> v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#elif defined(__AVX2__)
  __m128 s = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
#else
  return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}
inline double sum(Vec<double> v) {
  double s = 0;
  for (int i = 0; i < kLanes<double>; ++i) {
    s += v[i];
  }
  return s;
}

// e^x to 2 units in the last place (Cephes' expf): 2^n times a polynomial in the rest.
inline Vec<float> exp(Vec<float> x) {
  const Vec<float> low = splat(-87.33f), high = splat(89.f);  // infinite from 88.38 on, so that sigmoid(-inf) is 0
  x = x < low ? low : (x > high ? high : x);                  // NaN passes through
  const Vec<float> magic = splat(12582912.f);                 // 1.5 * 2^23: adding it rounds to an integer
  const Vec<float> shifted = x * 1.44269504f + magic;
  const Vec<float> n = shifted - magic;
  const Vec<float> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  return p * bitcast<Vec<float>>((bitcast<Int32>(shifted) + 127) << 23);
}
inline Vec<double> exp(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) {
    x[i] = std::exp(x[i]);
  }
  return x;
}

// erf to 2e-7 (Abramowitz and Stegun, 7.1.26).
inline Vec<float> erf(Vec<float> x) {
  const Vec<float> a = x < 0.f ? -x : x;
  const Vec<float> t = 1.f / (1.f + 0.3275911f * a);
  Vec<float> p = t * 1.061405429f - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Vec<float> y = 1.f - p * t * exp(-a * a);
  return x < 0.f ? -y : y;
}
inline Vec<double> erf(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) {
    x[i] = std::erf(x[i]);
  }
  return x;
}

template <class V>
inline V sigmoid(V x) {
  return 1 / (1 + exp(-x));
}
template <class V>
inline V clamp(V x, V low, V high) {
  return x < low ? low : (x > high ? high : x);
}

template <class A>
inline Vec<A> activate(Vec<A> y, Activation kind) {
  const Vec<A> zero{};
  switch (kind) {
    case Activation::None:
      return y;
    case Activation::Relu:
      return y < zero ? zero : y;
    case Activation::Silu:
      return y * sigmoid(y);
    case Activation::Gelu:
      return A(0.5) * y * (1 + erf(y * A(0.70710678118654752)));
    case Activation::Hardswish:
      return y * clamp(y + 3, zero, splat(A(6))) / 6;
  }
  return y;
}

// The slope of an activation at its input y.
template <class A>
inline Vec<A> slope(Vec<A> y, Activation kind) {
  const Vec<A> zero{}, one = splat(A(1));
  switch (kind) {
    case Activation::None:
      return one;
    case Activation::Relu:
      return y <= zero ? zero : one;  // NaN lets the gradient through, as torch does
    case Activation::Silu: {
      const Vec<A> s = sigmoid(y);
      return s * (1 + y * (1 - s));
    }
    case Activation::Gelu:
      return A(0.5) * (1 + erf(y * A(0.70710678118654752))) + y * exp(y * y * A(-0.5)) * A(0.39894228040143268);
    case Activation::Hardswish: {
      const Vec<A> inner = y / 3 + A(0.5);
      return y < splat(A(-3)) ? zero : (y > splat(A(3)) ? one : inner);
    }
  }
  return one;
}

template <class A>
inline Vec<A> gate_of(Vec<A> z, Gate kind) {
  switch (kind) {
    case Gate::Sigmoid:
      return quiet(sigmoid(z));
    case Gate::HardSigmoid:
      return quiet(clamp(z + 3, Vec<A>{}, splat(A(6))) / 6);
    case Gate::TwoSigmoid:
      return quiet(2 * sigmoid(z));
    case Gate::Tanh1p:
      return quiet(2 * sigmoid(z + z));  // 1 + tanh(z)
  }
  return z;
}

// The slope of a gate, from its value s.
template <class A>
inline Vec<A> gate_slope(Vec<A> s, Gate kind) {
  switch (kind) {
    case Gate::Sigmoid:
      return s * (1 - s);
    case Gate::HardSigmoid:
      return (s > Vec<A>{}) & (s < splat(A(1))) ? splat(A(1) / 6) : Vec<A>{};
    case Gate::TwoSigmoid:
      return s * (2 - s) / 2;
    case Gate::Tanh1p:
      return s * (2 - s);
  }
  return s;
}

}  // namespace tvc::TVC_ISA
