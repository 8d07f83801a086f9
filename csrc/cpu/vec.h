#pragma once
// Vectors of the instruction set this file is compiled for, on GCC's and Clang's vector types. Sums are made in the
// accumulation type A (float, or double for double); float16 and bfloat16 are widened when loaded and rounded to nearest even
// when stored.
//
// Everything lives in a namespace named after the instruction set, so that no two sets share a symbol.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
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

// For loops over as many registers as kAccumulators at most: left rolled, the compiler keeps the array in memory.
#define TVC_UNROLL _Pragma("GCC unroll 16")

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

// The bits of v with the upper half rounded to nearest even, by integer addition, which keeps a NaN one as long as the lower
// half of its bits is 0. That holds for NaNs that were loaded from bfloat16 and those that arithmetic makes; what comes from
// float32 weights goes through quiet().
inline Bits32 rounded(Vec<float> v) {
#if defined(__AVX512BW__)
  const __m512i bits = _mm512_castps_si512((__m512)v);
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i up = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
  return (Bits32)_mm512_mask_add_epi32(up, odd, up, _mm512_set1_epi32(1));
#else
  const Bits32 bits = bitcast<Bits32>(v);
  return bits + 0x7fff + ((bits >> 16) & 1);
#endif
}
inline Bits16 narrow(Vec<float> v) {
  return __builtin_convertvector(rounded(v) >> 16, Bits16);
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
inline __mmask32 first32(int n) {
  return static_cast<__mmask32>((uint64_t{1} << n) - 1);
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

// ---- packs: as many elements as one load of full width holds ----
//
// A pack of float16 or bfloat16 is two vectors in an order of its own, which is the cheap one to take apart and to put
// together: for bfloat16 the elements of even and of odd index. What is computed for each element alone does not see the order;
// what meets accumulation-type values per element loads and stores those in the same order (load_ordered, store_ordered).

template <class T>
inline constexpr int kPack = TVC_VECTOR_BYTES / sizeof(T) / kLanes<Acc<T>>;
template <class T>
inline constexpr int kPackLanes = kPack<T> * kLanes<Acc<T>>;

template <class T>
struct Pack {
  Vec<Acc<T>> v[kPack<T>];
};

// The first n elements at p (all by default) in a register; the others are 0.
template <class T>
inline Bits32 load_bits(const T* p) {
  Bits32 bits;
  std::memcpy(&bits, p, sizeof(bits));
  return bits;
}
template <class T>
inline void store_bits(T* p, Bits32 bits) {
  std::memcpy(p, &bits, sizeof(bits));
}
// Past the caches: for a p that is aligned to a vector; finish_streams() before others read.
template <class T>
inline bool can_stream(const T* p) {
#if defined(__x86_64__)
  return reinterpret_cast<uintptr_t>(p) % TVC_VECTOR_BYTES == 0;
#else
  return false;
#endif
}
template <class T>
inline void stream_bits(T* p, Bits32 bits) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)bits);
#elif defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)bits);
#elif defined(__x86_64__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)bits);
#else
  store_bits(p, bits);
#endif
}
inline void finish_streams() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}
template <class T>
inline Bits32 load_bits(const T* p, int n) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  if constexpr (sizeof(T) == 2) {
    return (Bits32)_mm512_maskz_loadu_epi16(first32(n), p);
  } else if constexpr (sizeof(T) == 4) {
    return (Bits32)_mm512_maskz_loadu_epi32(first(n), p);
  } else {
    return (Bits32)_mm512_maskz_loadu_epi64(static_cast<__mmask8>(first(n)), p);
  }
#else
  Bits32 bits{};
  std::memcpy(&bits, p, static_cast<size_t>(n) * sizeof(T));
  return bits;
#endif
}
template <class T>
inline void store_bits(T* p, Bits32 bits, int n) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  if constexpr (sizeof(T) == 2) {
    _mm512_mask_storeu_epi16(p, first32(n), (__m512i)bits);
  } else if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_epi32(p, first(n), (__m512i)bits);
  } else {
    _mm512_mask_storeu_epi64(p, static_cast<__mmask8>(first(n)), (__m512i)bits);
  }
#else
  std::memcpy(p, &bits, static_cast<size_t>(n) * sizeof(T));
#endif
}

template <class T>
inline Pack<T> unpack(Bits32 bits) {
  if constexpr (sizeof(T) > 2) {
    return {{bitcast<Vec<Acc<T>>>(bits)}};
  } else if constexpr (std::is_same_v<T, bfloat16>) {
    return {{bitcast<Vec<float>>(bits << 16), bitcast<Vec<float>>(bits & 0xffff0000)}};
  } else {
#if defined(__AVX512F__)
    const __m512i b = (__m512i)bits;
    return {
        {(Vec<float>)_mm512_cvtph_ps(_mm512_castsi512_si256(b)), (Vec<float>)_mm512_cvtph_ps(_mm512_extracti64x4_epi64(b, 1))}};
#endif
    half h[2 * kLanes<float>];
    std::memcpy(h, &bits, sizeof(h));
    return {{load(h), load(h + kLanes<float>)}};
  }
}
template <class T>
inline Bits32 pack(const Pack<T>& p) {
  if constexpr (sizeof(T) > 2) {
    return bitcast<Bits32>(p.v[0]);
  } else if constexpr (std::is_same_v<T, bfloat16>) {
    return (rounded(p.v[0]) >> 16) | (rounded(p.v[1]) & 0xffff0000);
  } else {
#if defined(__AVX512F__)
    const __m256i low = _mm512_cvtps_ph((__m512)p.v[0], _MM_FROUND_TO_NEAREST_INT);
    return (Bits32)_mm512_inserti64x4(_mm512_castsi256_si512(low), _mm512_cvtps_ph((__m512)p.v[1], _MM_FROUND_TO_NEAREST_INT),
                                      1);
#endif
    half h[2 * kLanes<float>];
    store(h, p.v[0]);
    store(h + kLanes<float>, p.v[1]);
    return load_bits(h);
  }
}

// A pack of elements at p, or of the first n.
template <class T, class... N>
inline Pack<T> load_pack(const T* p, N... n) {
  return unpack<T>(load_bits(p, n...));
}
template <class T, class... N>
inline void store_pack(T* p, const Pack<T>& v, N... n) {
  store_bits(p, pack<T>(v), n...);
}

template <class T>
inline void stream_pack(T* p, const Pack<T>& v) {
  stream_bits(p, pack<T>(v));
}

template <class V, int... i>
inline V shuffle(V a, V b, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, i...);
}
template <int kStart, int kStep, int... i>
inline auto steps(std::integer_sequence<int, i...>) {
  return std::integer_sequence<int, (kStart + kStep * i)...>{};
}
template <int kStart, int kLength, int... i>
inline auto zip(std::integer_sequence<int, i...>) {
  return std::integer_sequence<int, (kStart + i / 2 + (i % 2) * kLength)...>{};
}

// Accumulation-type values that stand beside a pack of T, in its order; `elements` (by default all) are there.
template <class T>
inline Pack<T> load_ordered(const Acc<T>* p) {
  constexpr int L = kLanes<Acc<T>>;
  using All = std::make_integer_sequence<int, L>;
  if constexpr (std::is_same_v<T, bfloat16>) {
    const Vec<float> a = load(p), b = load(p + L);
    return {{shuffle(a, b, steps<0, 2>(All{})), shuffle(a, b, steps<1, 2>(All{}))}};
  } else if constexpr (kPack<T> == 2) {
    return {{load(p), load(p + L)}};
  } else {
    return {{load(p)}};
  }
}
template <class T>
inline void store_ordered(Acc<T>* p, const Pack<T>& v) {
  constexpr int L = kLanes<Acc<T>>;
  using All = std::make_integer_sequence<int, L>;
  if constexpr (std::is_same_v<T, bfloat16>) {
    store(p, shuffle(v.v[0], v.v[1], zip<0, L>(All{})));
    store(p + L, shuffle(v.v[0], v.v[1], zip<L / 2, L>(All{})));
  } else {
    TVC_UNROLL
    for (int k = 0; k < kPack<T>; ++k) {
      store(p + k * L, v.v[k]);
    }
  }
}
template <class T>
inline Pack<T> load_ordered(const Acc<T>* p, int elements) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  if constexpr (std::is_same_v<Acc<T>, float>) {  // two loads of some lanes, in place of a copy
    constexpr int L = kLanes<float>;
    if constexpr (kPack<T> == 1) {
      return {{load(p, elements)}};
    } else {
      const Vec<float> a = load(p, elements < L ? elements : L), b = load(p + L, elements < L ? 0 : elements - L);
      if constexpr (std::is_same_v<T, bfloat16>) {
        using All = std::make_integer_sequence<int, L>;
        return {{shuffle(a, b, steps<0, 2>(All{})), shuffle(a, b, steps<1, 2>(All{}))}};
      } else {
        return {{a, b}};
      }
    }
  }
#endif
  Acc<T> all[kPackLanes<T>] = {};
  std::memcpy(all, p, sizeof(Acc<T>) * static_cast<size_t>(elements));
  return load_ordered<T>(all);
}
template <class T>
inline void store_ordered(Acc<T>* p, const Pack<T>& v, int elements) {
  Acc<T> all[kPackLanes<T>];
  store_ordered<T>(all, v);
  std::memcpy(p, all, sizeof(Acc<T>) * static_cast<size_t>(elements));
}

// Vector k of a pack of which only the first n elements are there, with `other` in place of the rest.
template <class T>
inline Vec<Acc<T>> keep_elements(Vec<Acc<T>> v, int k, Vec<Acc<T>> other, int n) {
  using Index = std::conditional_t<sizeof(Acc<T>) == 8, int64_t, int32_t>;
  Vec<Index> element{};
  for (int i = 0; i < kLanes<Acc<T>>; ++i) {
    element[i] = std::is_same_v<T, bfloat16> ? 2 * i + k : i + k * kLanes<Acc<T>>;
  }
  return element < n ? v : other;
}

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

// torch's amax: NaN where either is.
template <class V>
inline V maximum(V a, V b) {
  return (a > b) | (a != a) ? a : b;
}

// The larger number, in one instruction: a NaN in `a` is passed over.
inline Vec<float> larger(Vec<float> a, Vec<float> b) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Vec<float>)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (Vec<float>)_mm_max_ps((__m128)a, (__m128)b);
#else
  return a > b ? a : b;
#endif
}
inline Vec<double> larger(Vec<double> a, Vec<double> b) {
  return a > b ? a : b;
}

// Each of kLanes vectors reduced over its lanes: that of v[i] in lane i. Fewer steps than one after the other; v is
// overwritten.
template <int kHalf, class V, class F, int... i>
inline V fold_halves(V a, V b, const F& f, std::integer_sequence<int, i...>) {
  // Of each 2 * kHalf lanes: the first halves of a and of b, with the second halves of both.
  constexpr int L = sizeof...(i);
  return f(__builtin_shufflevector(a, b, (i & kHalf ? L + i - kHalf : i)...),
           __builtin_shufflevector(a, b, (i & kHalf ? L + i : i + kHalf)...));
}
template <class A, class F, int kHalf = kLanes<A> / 2>
inline Vec<A> over_lanes(Vec<A>* v, const F& f) {
  if constexpr (kHalf == 0) {
    return v[0];
  } else {
    TVC_UNROLL
    for (int i = 0; i < kHalf; ++i) {
      v[i] = fold_halves<kHalf>(v[i], v[i + kHalf], f, std::make_integer_sequence<int, kLanes<A>>{});
    }
    return over_lanes<A, F, kHalf / 2>(v, f);
  }
}

// e^(x - n * log(2)) of what is left after rounding.
inline Vec<float> exp_of_rest(Vec<float> x, Vec<float> n) {
  const Vec<float> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return p * r * r + r + 1.f;
}

// e^x to 2 units in the last place (Cephes' expf): 2^n times a polynomial in the rest.
inline Vec<float> exp(Vec<float> x) {
  const Vec<float> low = splat(-87.33f), high = splat(89.f);  // infinite from 88.38 on, so that sigmoid(-inf) is 0
  x = x < low ? low : (x > high ? high : x);                  // NaN passes through
  const Vec<float> magic = splat(12582912.f);                 // 1.5 * 2^23: adding it rounds to an integer
  const Vec<float> shifted = x * 1.44269504f + magic;
  const Vec<float> n = shifted - magic;
  return exp_of_rest(x, n) * bitcast<Vec<float>>((bitcast<Bits32>(shifted) + 127) << 23);
}
inline Vec<double> exp(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) {
    x[i] = std::exp(x[i]);
  }
  return x;
}

// log(x) to 1 unit in the last place (Cephes' logf): x is 2^n times what lies between sqrt(1/2) and sqrt(2).
inline Vec<float> log(Vec<float> x) {
#if defined(__AVX512F__)
  // Zero, subnormal numbers, infinity and NaN take the same way: their exponents are floats.
  const __m512 mantissa = _mm512_getmant_ps((__m512)x, _MM_MANT_NORM_p5_1, _MM_MANT_SIGN_nan), one = _mm512_set1_ps(1.f);
  const __m512 exponent = _mm512_getexp_ps((__m512)x);
  const __mmask16 low = _mm512_cmp_ps_mask(mantissa, _mm512_set1_ps(0.70710678f), _CMP_LT_OQ);
  const Vec<float> n = (Vec<float>)_mm512_mask_mov_ps(_mm512_add_ps(exponent, one), low, exponent);
  const Vec<float> r = (Vec<float>)_mm512_sub_ps(_mm512_mask_add_ps(mantissa, low, mantissa, mantissa), one);
#else
  const Vec<float> infinity = splat(std::numeric_limits<float>::infinity());
  const auto subnormal = x < std::numeric_limits<float>::min();
  const Int32 bits = bitcast<Int32>(subnormal ? x * 8388608.f : x) - 0x3f3504f3;  // sqrt(1/2)
  const Vec<float> n = __builtin_convertvector(bits >> 23, Vec<float>) - (subnormal ? splat(23.f) : Vec<float>{});
  const Vec<float> r = bitcast<Vec<float>>((bits & 0x7fffff) + 0x3f3504f3) - 1.f;
#endif
  Vec<float> p = r * 7.0376836292e-2f - 1.1514610310e-1f;
  p = p * r + 1.1676998740e-1f;
  p = p * r - 1.2420140846e-1f;
  p = p * r + 1.4249322787e-1f;
  p = p * r - 1.6668057665e-1f;
  p = p * r + 2.0000714765e-1f;
  p = p * r - 2.4999993993e-1f;
  p = p * r + 3.3333331174e-1f;
  const Vec<float> square = r * r;
  const Vec<float> y = r + (p * r * square + n * 9.0580006145e-6f - 0.5f * square) + n * 0.69313812256f;
#if defined(__AVX512F__)
  return y;
#else
  const Vec<float> positive = x < infinity ? y : infinity;
  return x > 0.f ? positive : (x == 0.f ? -infinity : splat(__builtin_nanf("")));
#endif
}
inline Vec<double> log(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) {
    x[i] = std::log(x[i]);
  }
  return x;
}

// e^x that goes on through the subnormal numbers to 0, where exp() ends.
inline Vec<float> exp_to_zero(Vec<float> x) {
#if defined(__AVX512F__)
  const __m512 v = _mm512_min_ps(_mm512_set1_ps(200.f), _mm512_max_ps(_mm512_set1_ps(-200.f), (__m512)x));  // NaN stays
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(v, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
  return (Vec<float>)_mm512_scalef_ps((__m512)exp_of_rest((Vec<float>)v, (Vec<float>)n), n);
#else
  const auto low = x < -87.f;
  const Vec<float> y = exp(low ? x + 40.f : x);
  return low ? y * 4.2483542553e-18f : y;  // e^-40
#endif
}
inline Vec<double> exp_to_zero(Vec<double> x) {
  return exp(x);
}

// x^p of x >= 0.
template <class V>
inline V power(V x, V p) {
  return exp_to_zero(p * log(x));
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

// f over n elements, a vector at a time: f(Vec<Acc<T>>...) of the inputs at the same place.
template <class T, class F, class... In>
inline void map(int64_t n, T* out, const F& f, const In*... in) {
  constexpr int L = kLanes<Acc<T>>;
  int64_t i = 0;
  for (; i + L <= n; i += L) {
    store(out + i, f(load(in + i)...));
  }
  if (const int rest = static_cast<int>(n - i)) {
    store(out + i, f(load(in + i, rest)...), rest);
  }
}

}  // namespace tvc::TVC_ISA
