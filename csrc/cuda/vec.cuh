#pragma once
// What one thread does: accesses of 16 bytes, and the arithmetic of activations and gates. Sums are made in the accumulation type A
// (float, or double for double). The formulas are those of cpu/vec.h.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../common/options.h"

namespace tvc::gpu {

// The accumulation type of an element type.
template <class T>
using Acc = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Elements in an access of 16 bytes.
template <class T>
inline constexpr int kVector = 16 / sizeof(T);

__device__ inline float to_acc(float v) {
  return v;
}
__device__ inline double to_acc(double v) {
  return v;
}
__device__ inline float to_acc(__half v) {
  return __half2float(v);
}
__device__ inline float to_acc(__nv_bfloat16 v) {
  return __bfloat162float(v);
}

template <class T>
__device__ inline T from_acc(Acc<T> v) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(v);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(v);
  } else {
    return v;
  }
}

// ---- V elements at p, aligned to 16 bytes unless V is 1 ----

// To be read again soon: the caches keep it.
template <int V, class T>
__device__ inline void load(const T* p, T (&v)[V]) {
  if constexpr (V == 1) {
    v[0] = p[0];
  } else {
    static_assert(V % kVector<T> == 0);
#pragma unroll
    for (int i = 0; i < V / kVector<T>; ++i) {
      const int4 piece = reinterpret_cast<const int4*>(p)[i];
      memcpy(static_cast<void*>(v + i * kVector<T>), &piece, sizeof(piece));
    }
  }
}

// Read or written for the last time: the first to leave the level-2 cache, so that what is read again stays.
template <int V, class T>
__device__ inline void load_once(const T* p, T (&v)[V]) {
  if constexpr (V == 1) {
    v[0] = p[0];
  } else {
    static_assert(V == kVector<T>);
    const int4 piece = __ldcs(reinterpret_cast<const int4*>(p));
    memcpy(static_cast<void*>(v), &piece, sizeof(piece));
  }
}
template <int V, class T>
__device__ inline void store_once(T* p, const Acc<T> (&v)[V]) {
  if constexpr (V == 1) {
    p[0] = from_acc<T>(v[0]);
  } else {
    static_assert(V == kVector<T>);
    T rounded[V];
#pragma unroll
    for (int k = 0; k < V; ++k) {
      rounded[k] = from_acc<T>(v[k]);
    }
    int4 piece;
    memcpy(&piece, rounded, sizeof(piece));
    __stcs(reinterpret_cast<int4*>(p), piece);
  }
}

// V elements at p, wherever it is, in the accumulation type.
template <int V, class T>
__device__ inline void load_anywhere(const T* p, Acc<T> (&v)[V]) {
  if (V % kVector<T> == 0 && reinterpret_cast<uintptr_t>(p) % 16 == 0) {
    T raw[V];
    load(p, raw);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      v[k] = to_acc(raw[k]);
    }
  } else {
#pragma unroll
    for (int k = 0; k < V; ++k) {
      v[k] = to_acc(p[k]);
    }
  }
}

// ---- arithmetic ----

__device__ inline float exponential(float x) {
  return expf(x);
}
__device__ inline double exponential(double x) {
  return exp(x);
}
__device__ inline float logarithm(float x) {
  return logf(x);
}
__device__ inline double logarithm(double x) {
  return log(x);
}
__device__ inline float power(float x, float p) {
  return powf(x, p);
}
__device__ inline double power(double x, double p) {
  return pow(x, p);
}
__device__ inline float error_function(float x) {
  return erff(x);
}
__device__ inline double error_function(double x) {
  return erf(x);
}

template <class A>
__device__ inline A sigmoid(A x) {
  return 1 / (1 + exponential(-x));
}
// NaN passes through.
template <class A>
__device__ inline A clamp(A x, A low, A high) {
  return x < low ? low : (x > high ? high : x);
}

template <class A>
__device__ inline A activate(A y, Activation kind) {
  switch (kind) {
    case Activation::None: return y;
    case Activation::Relu: return y < 0 ? A(0) : y;
    case Activation::Silu: return y * sigmoid(y);
    case Activation::Gelu: return A(0.5) * y * (1 + error_function(y * A(0.70710678118654752)));
    case Activation::Hardswish: return y * clamp(y + 3, A(0), A(6)) / 6;
  }
  return y;
}

// The slope of an activation at its input y.
template <class A>
__device__ inline A slope(A y, Activation kind) {
  switch (kind) {
    case Activation::None: return 1;
    case Activation::Relu: return y <= 0 ? 0 : 1;  // as in torch, NaN lets the gradient through
    case Activation::Silu: {
      const A s = sigmoid(y);
      return s * (1 + y * (1 - s));
    }
    case Activation::Gelu:
      return A(0.5) * (1 + error_function(y * A(0.70710678118654752))) +
          y * exponential(y * y * A(-0.5)) * A(0.39894228040143268);
    case Activation::Hardswish: return y < -3 ? A(0) : (y > 3 ? A(1) : y / 3 + A(0.5));
  }
  return 1;
}

template <class A>
__device__ inline A gate_of(A z, Gate kind) {
  switch (kind) {
    case Gate::Sigmoid: return sigmoid(z);
    case Gate::HardSigmoid: return clamp(z + 3, A(0), A(6)) / 6;
    case Gate::TwoSigmoid: return 2 * sigmoid(z);
    case Gate::Tanh1p: return 2 * sigmoid(z + z);  // 1 + tanh(z)
  }
  return z;
}

// The slope of a gate, from its value s.
template <class A>
__device__ inline A gate_slope(A s, Gate kind) {
  switch (kind) {
    case Gate::Sigmoid: return s * (1 - s);
    case Gate::HardSigmoid: return s > 0 && s < 1 ? A(1) / 6 : A(0);
    case Gate::TwoSigmoid: return s * (2 - s) / 2;
    case Gate::Tanh1p: return s * (2 - s);
  }
  return s;
}

// ---- on the host: from run-time values to template arguments ----

// f(T{}) for the C++ type of a tensor.
template <class F>
void with_type(torch::headeronly::ScalarType type, const F& f) {
  using torch::headeronly::ScalarType;
  switch (type) {
    case ScalarType::Double: return f(double{});
    case ScalarType::Half: return f(__half{});
    case ScalarType::BFloat16: return f(__nv_bfloat16{});
    default: return f(float{});  // the op has checked: nothing else comes here
  }
}

// f(std::integral_constant<bool, value>) of a run-time bool.
template <class F>
void with_bool(bool value, const F& f) {
  value ? f(std::true_type{}) : f(std::false_type{});
}

}  // namespace tvc::gpu
