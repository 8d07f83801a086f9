// tvc::squeeze_excite on CUDA: channel gates that two small products make of the means.

#include <torch/csrc/stable/library.h>

#include "../common/squeeze_excite.h"
#include "channel_gate.cuh"
#include "linear.cuh"

namespace tvc {
namespace gpu {
namespace {

// ---- what is done with a product of the gates, i its place in (samples, channels) or (samples, reduced) ----

template <class A>
struct WriteScale {
  Gate gate;
  A* scale;
  __device__ void operator()(int64_t i, A v) const {
    scale[i] = gate_of(v, gate);
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

template <class T, class W>
class SqueezeExcite {
  using A = Acc<T>;

 public:
  SqueezeExcite(const char* op, const SqueezeExciteTensors& t)
      : t_(t), op_(op, t.x, t.residual, t.post), samples_(t.x.size(0)), channels_(t.x.size(1)), reduced_(t.w1.size(0)) {}

  void forward(T* out) const {
    const Scratch<A, 1> scratch(t_.x, {samples_ * reduced_});
    A* const hidden = scratch[0];
    op_.forward(out, [&](int64_t begin, int64_t samples, const A* mean, A* scale) {
      make_scale(samples, mean, nullptr, hidden + begin * reduced_, scale);
    });
  }

  void backward(SqueezeExciteGradients& g) const {
    const Scratch<A, 1> scratch(t_.x, {samples_ * reduced_});
    A *const before_act = scratch[0], *const hidden = data_to_write<A>(g.hidden), *const grad_act = data_to_write<A>(g.grad_act);
    op_.backward(
        g, t_.gate, g.mean, g.grad_gate,
        [&](int64_t begin, int64_t samples, const A* mean, A* scale) {
          const int64_t at = begin * reduced_;
          make_scale(samples, mean, before_act + at, hidden + at, scale);
        },
        [&](int64_t begin, int64_t samples, const A* grad_gate, A* shift) {
          const int64_t at = begin * reduced_;
          linear_transposed(
              op_.device(), grad_gate, samples, data<W>(t_.w2), channels_, reduced_,
              WriteGradAct<A>{t_.act, before_act + at, grad_act + at});
          linear_transposed(
              op_.device(), grad_act + at, samples, data<W>(t_.w1), reduced_, channels_, WriteShift<A>{op_.share(), shift});
        });
  }

 private:
  // scale = gate(w2 · act(w1 · mean + b1) + b2).
  void make_scale(int64_t samples, const A* mean, A* before_act, A* hidden, A* scale) const {
    linear(
        op_.device(), mean, samples, data<W>(t_.w1), data<W>(t_.b1), reduced_, channels_,
        WriteHidden<A>{t_.act, before_act, hidden});
    linear(
        op_.device(), hidden, samples, data<W>(t_.w2), data<W>(t_.b2), channels_, reduced_, WriteScale<A>{t_.gate, scale});
  }

  const SqueezeExciteTensors& t_;
  ChannelGate<T> op_;
  int64_t samples_, channels_, reduced_;
};

}  // namespace
}  // namespace gpu

namespace {

struct Kernels {
  static void forward(const SqueezeExciteTensors& t, Tensor& out) {
    gpu::with_types(t.x, t.w1, [&](auto element, auto weight) {
      using T = decltype(element);
      gpu::SqueezeExcite<T, decltype(weight)>(kSqueezeExcite, t).forward(gpu::data_to_write<T>(out));
    });
  }

  static void backward(const SqueezeExciteTensors& t, SqueezeExciteGradients& g) {
    gpu::with_types(t.x, t.w1, [&](auto element, auto weight) {
      gpu::SqueezeExcite<decltype(element), decltype(weight)>(kSqueezeExciteBackward, t).backward(g);
    });
  }
};

}  // namespace
}  // namespace tvc

STABLE_TORCH_LIBRARY_IMPL(tvc, CUDA, m) {
  m.impl("squeeze_excite", TORCH_BOX(&tvc::squeeze_excite<tvc::Kernels>));
  m.impl("_squeeze_excite_", TORCH_BOX(&tvc::squeeze_excite_<tvc::Kernels>));
  m.impl("_squeeze_excite_backward", TORCH_BOX(&tvc::squeeze_excite_backward<tvc::Kernels>));
}
