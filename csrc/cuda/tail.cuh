#pragma once
// The tail that ops have in common, out = post(x * scale + residual), and its gradient. A Scale says what x is multiplied by:
// scale.times(place, x, y) makes V products, and x is read only where scale.reads<V>(place).

#include "../common/layout.h"
#include "space.cuh"
#include "vec.cuh"

namespace tvc::gpu {

// Activations whose slope is not read off their output; the code for them is kept apart, since it needs many registers.
inline bool is_curved(Activation post) {
  return post != Activation::None && post != Activation::Relu;
}

// One number for each channel of each sample.
template <class A>
struct ChannelScale {
  const A* scale;

  template <int V, class Place>
  __device__ bool reads(const Place& /*place*/) const {
    return true;
  }

  template <int V, class Place>
  __device__ void times(const Place& place, const A (&x)[V], A (&y)[V]) const {
    A s[V];
    place.channel(scale, s);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      y[k] = x[k] * s[k];
    }
  }
};

template <int V, class T>
__device__ inline void to_acc(const T (&raw)[V], Acc<T> (&v)[V]) {
#pragma unroll
  for (int k = 0; k < V; ++k) {
    v[k] = to_acc(raw[k]);
  }
}

template <class T, bool curved, class Scale>
struct Tail {
  using A = Acc<T>;

  const T *x, *residual;
  Scale scale;
  T* out;
  Activation post;

  template <int V>
  struct Inputs {
    T x[V] = {}, residual[V];
  };

  template <int V, class Place>
  __device__ void read(int64_t at, const Place& place, Inputs<V>& in) const {
    if (scale.template reads<V>(place)) {
      load_once(x + at, in.x);
    }
    if (residual) {
      load_once(residual + at, in.residual);
    }
  }

  template <int V, class Place>
  __device__ void write(int64_t at, const Place& place, const Inputs<V>& in) const {
    A y[V];
    to_acc(in.x, y);
    scale.times(place, y, y);
    if (residual) {
#pragma unroll
      for (int k = 0; k < V; ++k) {
        y[k] += to_acc(in.residual[k]);
      }
    }
    if (curved || post == Activation::Relu) {
#pragma unroll
      for (int k = 0; k < V; ++k) {
        y[k] = activate(y[k], curved ? post : Activation::Relu);
      }
    }
    store_once<V>(out + at, y);
  }
};

// The gradient that reaches x * scale + residual. The slope of relu is read off its output, that of the others from what went
// into them: x * scale + residual again.
template <class T, bool curved, class Scale>
struct InnerGradient {
  using A = Acc<T>;

  const T *grad, *out, *x, *residual;
  Scale scale;
  Activation post;

  template <int V>
  struct Inputs {
    T grad[V], other[V] = {}, residual[V];  // other: out for relu, else x
  };

  template <int V, class Place>
  __device__ void read(int64_t at, const Place& place, Inputs<V>& in) const {
    load(grad + at, in.grad);
    if constexpr (curved) {
      if (scale.template reads<V>(place)) {
        load(x + at, in.other);
      }
      if (residual) {
        load(residual + at, in.residual);
      }
    } else if (post == Activation::Relu) {
      load(out + at, in.other);
    }
  }

  template <int V, class Place>
  __device__ void of(const Place& place, const Inputs<V>& in, A (&g)[V]) const {
    to_acc(in.grad, g);
    if constexpr (curved) {
      A y[V];
      to_acc(in.other, y);
      scale.times(place, y, y);
#pragma unroll
      for (int k = 0; k < V; ++k) {
        g[k] *= slope(y[k] + (residual ? to_acc(in.residual[k]) : A(0)), post);
      }
    } else if (post == Activation::Relu) {
#pragma unroll
      for (int k = 0; k < V; ++k) {
        g[k] = to_acc(in.other[k]) <= 0 ? A(0) : g[k];
      }
    }
  }
};

// grad_x = gradient * scale + shift, where there is a shift of each channel; grad_residual = gradient, where it is asked for.
template <class T, bool curved, class Scale>
struct TailBackward {
  using A = Acc<T>;

  InnerGradient<T, curved, Scale> inner;
  const A* shift;
  T *grad_x, *grad_residual;

  template <int V>
  using Inputs = typename InnerGradient<T, curved, Scale>::template Inputs<V>;

  template <int V, class Place>
  __device__ void read(int64_t at, const Place& place, Inputs<V>& in) const {
    inner.read(at, place, in);
  }

  template <int V, class Place>
  __device__ void write(int64_t at, const Place& place, const Inputs<V>& in) const {
    A g[V], y[V];
    inner.of(place, in, g);
    inner.scale.times(place, g, y);
    if (shift) {
      A s[V];
      place.channel(shift, s);
#pragma unroll
      for (int k = 0; k < V; ++k) {
        y[k] += s[k];
      }
    }
    store_once<V>(grad_x + at, y);
    if (grad_residual) {
      store_once<V>(grad_residual + at, g);
    }
  }
};

// ---- of tensors ----

template <class T>
const T* data(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
const T* data(const std::optional<Tensor>& t) {
  return t ? data<T>(*t) : nullptr;
}
template <class T>
T* data_to_write(Tensor& t) {
  return t.numel() ? static_cast<T*>(t.mutable_data_ptr()) : nullptr;
}
template <class T>
T* offset(T* p, int64_t by) {
  return p ? p + by : nullptr;
}

inline Space space_of(const Tensor& x) {
  const Extents extent = extents(x);
  return {extent.samples, extent.channels, extent.positions, extent.channels_last};
}

// f(T{}, W{}) for the types of x and of the weights: those of x, or float beside a half x.
template <class F>
void with_types(const Tensor& x, const Tensor& weight, const F& f) {
  with_type(x.scalar_type(), [&](auto element) {
    using T = decltype(element);
    if (weight.scalar_type() == x.scalar_type()) {
      f(element, element);
    } else {
      f(element, Acc<T>{});
    }
  });
}

}  // namespace tvc::gpu
