// tvc::gem_pool on CUDA: one read of x, whose powers are summed. p stays on the device: where it is 1, 2, 3 or 4, powers are products.

#include <torch/csrc/stable/library.h>

#include "../common/gem_pool.h"
#include "tail.cuh"

namespace tvc {
namespace gpu {
namespace {

// p of each channel, or one for all.
template <class A>
struct Exponent {
  const A* p;
  bool one;

  template <int V, class Place>
  __device__ void load(const Place& place, A (&v)[V]) const {
    if (one) {
#pragma unroll
      for (int k = 0; k < V; ++k) {
        v[k] = p[0];
      }
    } else {
      place.template channel<0>(p, v);
    }
  }
};

// u^p. Threads of a warp take the same way where p is one for all.
template <int V, class A>
__device__ inline void raise(const A (&u)[V], const A (&p)[V], A (&powers)[V]) {
  bool same = true;
#pragma unroll
  for (int k = 1; k < V; ++k) {
    same = same && p[k] == p[0];
  }
  const int whole = same && p[0] >= 0 && p[0] <= 4 && p[0] == static_cast<int>(p[0]) ? static_cast<int>(p[0]) : -1;
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const A square = u[k] * u[k];
    switch (whole) {
      case 0: powers[k] = 1; break;
      case 1: powers[k] = u[k]; break;
      case 2: powers[k] = square; break;
      case 3: powers[k] = square * u[k]; break;
      case 4: powers[k] = square * square; break;
      default: powers[k] = power(u[k], p[k]);
    }
  }
}

// max(x, eps), NaN if x is.
template <int V, class A>
__device__ inline void above(const A (&x)[V], A eps, A (&u)[V]) {
#pragma unroll
  for (int k = 0; k < V; ++k) {
    u[k] = x[k] < eps ? eps : x[k];
  }
}

// max(x, eps)^p; with kWithLog this times the logarithm of max(x, eps) too. kOnce: x is not read again.
template <class T, bool kWithLog, bool kOnce>
struct ReadPowers {
  using A = Acc<T>;
  using Of = std::conditional_t<kWithLog, Kinds<Kind::Sum, Kind::Sum>, Kinds<Kind::Sum>>;
  static constexpr int kUnroll = kWithLog ? 1 : 4;

  const T* x;
  A eps;
  Exponent<A> exponent;

  template <int V, class Place>
  __device__ void operator()(int64_t at, const Place& place, A (&v)[V][Of::kCount]) const {
    T raw[V];
    if constexpr (kOnce) {
      load_once(x + at, raw);
    } else {
      load(x + at, raw);
    }
    A value[V], u[V], p[V], powers[V];
    to_acc(raw, value);
    above(value, eps, u);
    exponent.load(place, p);
    raise(u, p, powers);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      v[k][0] = powers[k];
      if constexpr (kWithLog) {
        v[k][1] = powers[k] * logarithm(u[k]);
      }
    }
  }
};

// ---- one thread for each i in (samples, channels) ----

template <class T>
struct WriteRoot {
  using A = Acc<T>;

  const A* mean;
  Exponent<A> exponent;
  int64_t channels;
  T* out;

  __device__ void operator()(int64_t i) const {
    out[i] = from_acc<T>(power(mean[i], 1 / exponent.p[exponent.one ? 0 : i % channels]));
  }
};

// What the gradient of a power is multiplied by for that of x, and the output's share of the gradient of p.
template <class T>
struct WriteFactor {
  using A = Acc<T>;

  const T* grad;
  const A *mean, *with_log;
  Exponent<A> exponent;
  int64_t channels;
  A share;
  A *factor, *p_parts;

  __device__ void operator()(int64_t i) const {
    const A g = to_acc(grad[i]), m = mean[i], p = exponent.p[exponent.one ? 0 : i % channels];
    factor[i] = g * power(m, 1 / p - 1) * share;
    if (p_parts) {
      p_parts[i] = g * power(m, 1 / p) / p * (with_log[i] / m - logarithm(m) / p);
    }
  }
};

template <class T>
struct GemPoolBackward {
  using A = Acc<T>;

  const T* x;
  A eps;
  Exponent<A> exponent;
  const A* factor;
  T* grad_x;

  template <int V>
  struct Inputs {
    T x[V];
  };

  template <int V, class Place>
  __device__ void read(int64_t at, const Place& /*place*/, Inputs<V>& in) const {
    load_once(x + at, in.x);
  }

  template <int V, class Place>
  __device__ void write(int64_t at, const Place& place, const Inputs<V>& in) const {
    A u[V], p[V], g[V], f[V];
    to_acc(in.x, u);
    exponent.load(place, p);
    place.channel(factor, f);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      p[k] -= 1;
    }
    A clamped[V];
    above(u, eps, clamped);
    raise(clamped, p, g);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      g[k] = u[k] >= eps ? g[k] * f[k] : A(0);
    }
    store_once<V>(grad_x + at, g);
  }
};

// ---- the op ----

template <class T>
class GemPool {
  using A = Acc<T>;

 public:
  GemPool(const char* op, const GemPoolTensors& t)
      : t_(t), device_(op, t.x), x_(data<T>(t.x)), eps_(static_cast<A>(t.eps)), space_(space_of(t.x)),
        p_(t.p.scalar_type() == accumulate_type(t.x) ? t.p : torch::stable::to(t.p, accumulate_type(t.x))),
        exponent_{data<A>(p_), t.p.size(0) == 1} {}

  void forward(T* out) const {
    const int64_t c = space_.samples * space_.channels;
    const Scratch<A, 1> scratch(t_.x, {c});
    const Reduction<T> reduction(device_, t_.x, space_, fits_vectors<T>(space_, {x_}));
    reduction.run(space_, ReadPowers<T, false, true>{x_, eps_, exponent_}, {{scratch[0]}, {share()}, space_.channels});
    each(device_, "gem_root", c, WriteRoot<T>{scratch[0], exponent_, space_.channels, out});
  }

  void backward(GemPoolGradients& g) const {
    const T* grad = data<T>(g.grad);
    T* const grad_x = data_to_write<T>(g.x);
    A* const p_parts = data_to_write<A>(g.p_parts);
    const bool vectors = fits_vectors<T>(space_, {x_, grad_x});
    Space space = space_;
    space.samples = samples_at_once(device_, space_, space_.size() * static_cast<int64_t>(sizeof(T)));
    const Reduction<T> reduction(device_, t_.x, space, vectors, 2);
    const int64_t c = space.samples * space.channels;
    const Scratch<A, 3> scratch(t_.x, {c, c, c});
    A *const mean = scratch[0], *const with_log = scratch[1], *const factor = scratch[2];
    for (int64_t begin = 0; begin < space_.samples; begin += space.samples) {
      space.samples = std::min(space.samples, space_.samples - begin);
      const int64_t at = begin * space.size(), at_channels = begin * space.channels;
      if (g.p_grad) {
        reduction.run(
            space, ReadPowers<T, true, false>{x_ + at, eps_, exponent_}, {{mean, with_log}, {share(), share()}, space.channels});
      } else {
        reduction.run(space, ReadPowers<T, false, false>{x_ + at, eps_, exponent_}, {{mean}, {share()}, space.channels});
      }
      each(
          device_, "gem_factor", space.samples * space.channels,
          WriteFactor<T>{
              grad + at_channels, mean, with_log, exponent_, space.channels, share(), factor,
              g.p_grad ? p_parts + at_channels : nullptr});
      visit_all<T>(
          device_, "gem_backward", space, vectors, GemPoolBackward<T>{x_ + at, eps_, exponent_, factor, grad_x + at});
    }
  }

 private:
  A share() const {
    return A(1) / static_cast<A>(space_.positions);
  }

  const GemPoolTensors& t_;
  Device device_;
  const T* x_;
  A eps_;
  Space space_;
  Tensor p_;  // in the accumulation type
  Exponent<A> exponent_;
};

}  // namespace
}  // namespace gpu

namespace {

struct Kernels {
  static void forward(const GemPoolTensors& t, Tensor& out) {
    gpu::with_type(t.x.scalar_type(), [&](auto element) {
      using T = decltype(element);
      gpu::GemPool<T>(kGemPool, t).forward(gpu::data_to_write<T>(out));
    });
  }

  static void backward(const GemPoolTensors& t, GemPoolGradients& g) {
    gpu::with_type(t.x.scalar_type(), [&](auto element) {
      gpu::GemPool<decltype(element)>(kGemPoolBackward, t).backward(g);
    });
  }
};

}  // namespace
}  // namespace tvc

STABLE_TORCH_LIBRARY_IMPL(tvc, CUDA, m) {
  m.impl("gem_pool", TORCH_BOX(&tvc::gem_pool<tvc::Kernels>));
  m.impl("_gem_pool_backward", TORCH_BOX(&tvc::gem_pool_backward<tvc::Kernels>));
}
