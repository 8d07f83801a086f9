// tvc::squeeze_excite on CUDA: sums over space, two small products for the gates, and a pass that scales, adds and activates. Samples
// are taken in groups that fit in the level-2 cache, so that the pass finds there what the sums have read.

#include <torch/csrc/stable/library.h>

#include "../common/squeeze_excite.h"
#include "linear.cuh"
#include "space.cuh"
#include "vec.cuh"

namespace tvc {
namespace gpu {
namespace {

// ---- what is summed, and what is done with an element ----

template <class T>
struct ReadX {
  static constexpr int kUnroll = 4;

  const T* x;

  template <int V, class Gate>
  __device__ void operator()(int64_t at, const Gate& /*gate*/, Acc<T> (&v)[1][V]) const {
    T raw[V];
    load(x + at, raw);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      v[0][k] = to_acc(raw[k]);
    }
  }
};

// Activations whose slope is not read off their output; the code for them is kept apart, since it needs many registers.
inline bool is_curved(Activation post) {
  return post != Activation::None && post != Activation::Relu;
}

// out = post(x * scale + residual).
template <class T, bool curved>
struct Excite {
  using A = Acc<T>;

  const T *x, *residual;
  const A* scale;
  T* out;
  Activation post;

  template <int V>
  struct Inputs {
    T x[V], residual[V];
  };

  template <int V>
  __device__ void read(int64_t at, Inputs<V>& in) const {
    load_once(x + at, in.x);
    if (residual) {
      load_once(residual + at, in.residual);
    }
  }

  template <int V, class Gate>
  __device__ void write(int64_t at, const Inputs<V>& in, const Gate& gate) const {
    A y[V];
    gate.load(scale, y);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      y[k] *= to_acc(in.x[k]);
    }
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
template <class T, bool curved>
struct InnerGradient {
  using A = Acc<T>;

  const T *grad, *out, *x, *residual;
  const A* scale;
  Activation post;

  template <int V>
  struct Inputs {
    T grad[V], other[V], residual[V];  // other: out for relu, else x
  };

  template <int V>
  __device__ void read(int64_t at, Inputs<V>& in) const {
    load(grad + at, in.grad);
    if constexpr (curved) {
      load(x + at, in.other);
      if (residual) {
        load(residual + at, in.residual);
      }
    } else if (post == Activation::Relu) {
      load(out + at, in.other);
    }
  }

  template <int V, class Gate>
  __device__ void of(const Inputs<V>& in, const Gate& gate, A (&g)[V]) const {
#pragma unroll
    for (int k = 0; k < V; ++k) {
      g[k] = to_acc(in.grad[k]);
    }
    if constexpr (curved) {
      A y[V];
      gate.load(scale, y);
#pragma unroll
      for (int k = 0; k < V; ++k) {
        y[k] = y[k] * to_acc(in.other[k]) + (residual ? to_acc(in.residual[k]) : A(0));
        g[k] *= slope(y[k], post);
      }
    } else if (post == Activation::Relu) {
#pragma unroll
      for (int k = 0; k < V; ++k) {
        g[k] = to_acc(in.other[k]) <= 0 ? A(0) : g[k];
      }
    }
  }
};

// The products whose sums are the gradients of the scales. A slope that needs the scale needs the means before; without it,
// x is summed in the same pass.
template <class T, bool curved>
struct ReadProduct {
  static constexpr int kUnroll = 2, kSums = curved ? 1 : 2;

  const T* x;
  InnerGradient<T, curved> inner;

  template <int V, class Gate>
  __device__ void operator()(int64_t at, const Gate& gate, Acc<T> (&v)[kSums][V]) const {
    T raw[V];
    load(x + at, raw);
    typename InnerGradient<T, curved>::template Inputs<V> in;
    inner.read(at, in);
    Acc<T> g[V];
    inner.of(in, gate, g);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const Acc<T> value = to_acc(raw[k]);
      v[0][k] = value;
      v[kSums - 1][k] = value * g[k];
    }
  }
};

// grad_x = gradient * scale + shift, grad_residual = gradient.
template <class T, bool curved>
struct ExciteBackward {
  using A = Acc<T>;

  InnerGradient<T, curved> inner;
  const A* shift;
  T *grad_x, *grad_residual;

  template <int V>
  using Inputs = typename InnerGradient<T, curved>::template Inputs<V>;

  template <int V>
  __device__ void read(int64_t at, Inputs<V>& in) const {
    inner.read(at, in);
  }

  template <int V, class Gate>
  __device__ void write(int64_t at, const Inputs<V>& in, const Gate& gate) const {
    A g[V], s[V], y[V];
    inner.of(in, gate, g);
    gate.load(inner.scale, s);
    gate.load(shift, y);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      y[k] += g[k] * s[k];
    }
    store_once<V>(grad_x + at, y);
    if (grad_residual) {
      store_once<V>(grad_residual + at, g);
    }
  }
};

// ---- what is done with a sum or a product of the gates, i its place in (samples, channels) or (samples, reduced) ----

template <class A>
struct WriteSum {
  A* to;
  __device__ void operator()(int64_t i, A v) const {
    to[i] = v;
  }
};

template <class A>
struct WriteHidden {
  Activation act;
  A *before_act, *hidden;  // before_act is kept for the backward only
  __device__ void operator()(int64_t i, A v) const {
    if (before_act) {
      before_act[i] = v;
    }
    hidden[i] = activate(v, act);
  }
};

template <class A>
struct WriteScale {
  Gate gate;
  A* scale;
  __device__ void operator()(int64_t i, A v) const {
    scale[i] = gate_of(v, gate);
  }
};

template <class A>
struct WriteGradGate {
  Gate gate;
  const A* scale;
  A* grad_gate;
  __device__ void operator()(int64_t i, A v) const {
    grad_gate[i] = v * gate_slope(scale[i], gate);
  }
};

template <class A>
struct WriteGradAct {
  Activation act;
  const A* before_act;
  A* grad_act;
  __device__ void operator()(int64_t i, A v) const {
    grad_act[i] = v * slope(before_act[i], act);
  }
};

template <class A>
struct WriteShift {
  A share;
  A* shift;
  __device__ void operator()(int64_t i, A v) const {
    shift[i] = v * share;
  }
};

// ---- the op ----

template <class T>
const T* data(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
const T* data(const std::optional<Tensor>& t) {
  return t ? data<T>(*t) : nullptr;
}
template <class T>
T* offset(T* p, int64_t by) {
  return p ? p + by : nullptr;
}

template <class T, class W>
class SqueezeExcite {
  using A = Acc<T>;

 public:
  SqueezeExcite(const char* op, const SqueezeExciteTensors& t)
      : t_(t), device_(op, t.x), x_(data<T>(t.x)), residual_(data<T>(t.residual)), reduced_(t.w1.size(0)) {
    const Extents extent = extents(t.x);
    space_ = {extent.samples, extent.channels, extent.positions, extent.channels_last};
  }

  void forward(T* out) const {
    const bool vectors = fits_vectors<T>(space_, {x_, residual_, out});
    Space space = group(1);
    const SumPlan plan = plan_sums(device_, space, vectors, kVector<T>);
    const int64_t c = space.samples * space.channels;
    const Scratch<A, 4> scratch(t_.x, {parts_size(plan, c), c, space.samples * reduced_, c});
    A *const sums = scratch[0], *const mean = scratch[1], *const hidden = scratch[2], *const scale = scratch[3];
    for (int64_t begin = 0; begin < space_.samples; begin += space.samples) {
      space.samples = std::min(space.samples, space_.samples - begin);
      const int64_t at = begin * space.size();
      means<1>(plan, space, ReadX<T>{x_ + at}, sums, mean, nullptr);
      gates(space, mean, nullptr, hidden, scale);
      with_bool(is_curved(t_.post), [&](auto curved) {
        visit_all<T>(
            device_, "excite", space, vectors, Excite<T, curved>{x_ + at, offset(residual_, at), scale, out + at, t_.post});
      });
    }
  }

  void backward(SqueezeExciteGradients& g) const {
    with_bool(is_curved(t_.post), [&](auto curved) { backward_of<curved>(g); });
  }

 private:
  template <bool curved>
  void backward_of(SqueezeExciteGradients& g) const {
    const T *const grad = data<T>(g.grad), *const out = data<T>(g.out);
    T* const grad_x = static_cast<T*>(g.x.mutable_data_ptr());
    T* const grad_residual = g.residual.numel() ? static_cast<T*>(g.residual.mutable_data_ptr()) : nullptr;
    const bool vectors = fits_vectors<T>(space_, {x_, residual_, grad, out, grad_x, grad_residual});
    Space space = group(2 + (t_.post != Activation::None) + (curved && residual_));
    const SumPlan plan = plan_sums(device_, space, vectors, kVector<T>);
    const int64_t c = space.samples * space.channels, r = space.samples * reduced_;
    const Scratch<A, 5> scratch(t_.x, {parts_size(plan, c), plan.parts * c, c, c, r});
    A *const sums = scratch[0], *const products = scratch[1], *const scale = scratch[2], *const shift = scratch[3];
    A* const before_act = scratch[4];
    for (int64_t begin = 0; begin < space_.samples; begin += space.samples) {
      space.samples = std::min(space.samples, space_.samples - begin);
      const int64_t at = begin * space.size(), at_channels = begin * space.channels, at_reduced = begin * reduced_;
      A *const mean = static_cast<A*>(g.mean.mutable_data_ptr()) + at_channels;
      A *const hidden = static_cast<A*>(g.hidden.mutable_data_ptr()) + at_reduced;
      A *const grad_gate = static_cast<A*>(g.grad_gate.mutable_data_ptr()) + at_channels;
      A *const grad_act = static_cast<A*>(g.grad_act.mutable_data_ptr()) + at_reduced;
      const InnerGradient<T, curved> inner{grad + at, offset(out, at), x_ + at, offset(residual_, at), scale, t_.post};
      const ReadProduct<T, curved> product{x_ + at, inner};

      if constexpr (curved) {
        means<1>(plan, space, ReadX<T>{x_ + at}, sums, mean, nullptr);
        gates(space, mean, before_act, hidden, scale);
        sum_over_space<T>(device_, plan, space, product, Sums<A, 1>{{products}, {A(1)}});
      } else {
        means<2>(plan, space, product, sums, mean, products);
        gates(space, mean, before_act, hidden, scale);
      }
      add_parts(device_, space, plan.parts, products, WriteGradGate<A>{t_.gate, scale, grad_gate});
      linear_transposed(
          device_, grad_gate, space.samples, data<W>(t_.w2), space.channels, reduced_,
          WriteGradAct<A>{t_.act, before_act, grad_act});
      linear_transposed(
          device_, grad_act, space.samples, data<W>(t_.w1), reduced_, space.channels, WriteShift<A>{share(), shift});
      visit_all<T>(
          device_, "excite_backward", space, vectors,
          ExciteBackward<T, curved>{inner, shift, grad_x + at, offset(grad_residual, at)});
    }
  }

  // The samples of a group, of which `tensors` tensors are read twice.
  Space group(int64_t tensors) const {
    Space space = space_;
    space.samples = samples_at_once(device_, space_, tensors * space_.size() * static_cast<int64_t>(sizeof(T)));
    return space;
  }

  A share() const {
    return A(1) / static_cast<A>(space_.positions);
  }

  // Partial sums need room of their own only where a sample is cut.
  static int64_t parts_size(const SumPlan& plan, int64_t channels) {
    return plan.parts > 1 ? plan.parts * channels : 0;
  }

  // Means over space; with two sums those of products too, which stay in parts.
  template <int kSums, class Read>
  void means(const SumPlan& plan, const Space& space, const Read& read, A* sums, A* mean, A* products) const {
    Sums<A, kSums> to{{plan.parts > 1 ? sums : mean}, {share()}};
    if constexpr (kSums == 2) {
      to.into[1] = products;
      to.factor[1] = 1;
    }
    sum_over_space<T>(device_, plan, space, read, to);
    if (plan.parts > 1) {
      add_parts(device_, space, plan.parts, sums, WriteSum<A>{mean});
    }
  }

  // scale = gate(w2 · act(w1 · mean + b1) + b2).
  void gates(const Space& space, const A* mean, A* before_act, A* hidden, A* scale) const {
    linear(
        device_, mean, space.samples, data<W>(t_.w1), data<W>(t_.b1), reduced_, space.channels,
        WriteHidden<A>{t_.act, before_act, hidden});
    linear(
        device_, hidden, space.samples, data<W>(t_.w2), data<W>(t_.b2), space.channels, reduced_,
        WriteScale<A>{t_.gate, scale});
  }

  const SqueezeExciteTensors& t_;
  Device device_;
  const T *x_, *residual_;
  int64_t reduced_;
  Space space_;
};

// Runs f(SqueezeExcite<T, W>) for the types of x and of the weights: those of x, or float beside a half x.
template <class F>
void with_types(const char* op, const SqueezeExciteTensors& t, const F& f) {
  with_type(t.x.scalar_type(), [&](auto element) {
    using T = decltype(element);
    if (t.w1.scalar_type() == t.x.scalar_type()) {
      f(element, SqueezeExcite<T, T>(op, t));
    } else {
      f(element, SqueezeExcite<T, Acc<T>>(op, t));
    }
  });
}

}  // namespace
}  // namespace gpu

namespace {

struct Kernels {
  static void forward(const SqueezeExciteTensors& t, Tensor& out) {
    gpu::with_types(kSqueezeExcite, t, [&](auto element, const auto& op) {
      op.forward(static_cast<decltype(element)*>(out.mutable_data_ptr()));
    });
  }

  static void backward(const SqueezeExciteTensors& t, SqueezeExciteGradients& g) {
    gpu::with_types(kSqueezeExciteBackward, t, [&](auto, const auto& op) { op.backward(g); });
  }
};

}  // namespace
}  // namespace tvc

STABLE_TORCH_LIBRARY_IMPL(tvc, CUDA, m) {
  m.impl("squeeze_excite", TORCH_BOX(&tvc::squeeze_excite<tvc::Kernels>));
  m.impl("_squeeze_excite_", TORCH_BOX(&tvc::squeeze_excite_<tvc::Kernels>));
  m.impl("_squeeze_excite_backward", TORCH_BOX(&tvc::squeeze_excite_backward<tvc::Kernels>));
}
