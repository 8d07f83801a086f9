// tvc::squeeze_excite on the CPU: two small products make the gates of a group of samples.

#include "gated.h"
#include "linear.h"

namespace tvc {

struct SqueezeExcite {
  Gated gated;
  int64_t reduced;
  Activation act;
  const void *w1, *b1, *w2, *b2;
};

struct SqueezeExciteBackward {
  SqueezeExcite forward;
  GatedGradients gradients;
  // For the gradients of the weights, in the accumulation type: (samples, channels) or (samples, reduced).
  void *mean, *hidden, *grad_gate, *grad_act;
};

namespace TVC_ISA {

template <class T>
struct ExciteGates {
  using A = Acc<T>;

  const SqueezeExcite& args;
  A *before_act, *hidden, *grad_act;  // (samples, reduced); before_act may be hidden

  int64_t weight_bytes() const {
    return 2 * args.reduced * args.gated.channels * static_cast<int64_t>(sizeof(A));
  }

  // f(W{}) for the type of the weights: that of x, or float beside a half x.
  template <class F>
  void with_weights(const F& f) const {
    args.gated.weight_type == args.gated.type ? f(T{}) : f(A{});
  }

  // scale = gate(w2 · act(w1 · mean + b1) + b2); before_act keeps w1 · mean + b1.
  template <class Split>
  void forward(int64_t begin, int64_t end, const Split& split, const A* mean, A* scale) const {
    const int64_t C = args.gated.channels, R = args.reduced, n = end - begin;
    split(R, n * C, [&](int64_t i, int64_t j) {
      with_weights([&](auto weight) {
        using W = decltype(weight);
        linear(mean + begin * C, n, static_cast<const W*>(args.w1), static_cast<const W*>(args.b1), R, C,
               before_act + begin * R, i, j);
      });
      for (int64_t s = begin; s < end; ++s) {
        map(j - i, hidden + s * R + i, [&](Vec<A> v) { return activate<A>(v, args.act); }, before_act + s * R + i);
      }
    });
    split(C, n * R, [&](int64_t i, int64_t j) {
      with_weights([&](auto weight) {
        using W = decltype(weight);
        linear(hidden + begin * R, n, static_cast<const W*>(args.w2), static_cast<const W*>(args.b2), C, R, scale + begin * C,
               i, j);
      });
      for (int64_t s = begin; s < end; ++s) {
        map(j - i, scale + s * C + i, [&](Vec<A> v) { return gate_of<A>(v, args.gated.gate); }, scale + s * C + i);
      }
    });
  }

  template <class Split>
  void backward(int64_t begin, int64_t end, const Split& split, const A*, const A* grad_gate, A* grad_mean) const {
    const int64_t C = args.gated.channels, R = args.reduced, n = end - begin;
    split(R, n * C, [&](int64_t i, int64_t j) {
      with_weights([&](auto weight) {
        const auto* w2 = static_cast<const decltype(weight)*>(args.w2);
        linear_transposed(grad_gate + begin * C, n, w2, C, R, grad_act + begin * R, i, j);
      });
      for (int64_t s = begin; s < end; ++s) {
        map(
            j - i, grad_act + s * R + i, [&](Vec<A> g, Vec<A> y) { return g * slope<A>(y, args.act); }, grad_act + s * R + i,
            before_act + s * R + i);
      }
    });
    split(C, n * R, [&](int64_t i, int64_t j) {
      with_weights([&](auto weight) {
        const auto* w1 = static_cast<const decltype(weight)*>(args.w1);
        linear_transposed(grad_act + begin * R, n, w1, R, C, grad_mean + begin * C, i, j);
      });
    });
  }
};

void squeeze_excite_kernel(const SqueezeExcite& args) {
  with_type(args.gated.type, [&](auto element) {
    using T = decltype(element);
    Buffer<Acc<T>> hidden(new Acc<T>[args.gated.samples * args.reduced]);
    const ExciteGates<T> gates{args, hidden.get(), hidden.get(), nullptr};
    GatedPasses<T, ExciteGates<T>>{args.gated, gates}.forward();
  });
}

void squeeze_excite_backward_kernel(const SqueezeExciteBackward& args) {
  with_type(args.forward.gated.type, [&](auto element) {
    using T = decltype(element);
    using A = Acc<T>;
    Buffer<A> before_act(new A[args.forward.gated.samples * args.forward.reduced]);
    const ExciteGates<T> gates{args.forward, before_act.get(), static_cast<A*>(args.hidden), static_cast<A*>(args.grad_act)};
    GatedPasses<T, ExciteGates<T>>{args.forward.gated, gates}.backward(args.gradients, static_cast<A*>(args.mean),
                                                                       static_cast<A*>(args.grad_gate));
  });
}

}  // namespace TVC_ISA
}  // namespace tvc

#ifdef TVC_REGISTER  // once, not for each instruction set

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/squeeze_excite.h"

TVC_KERNEL(squeeze_excite_kernel, SqueezeExcite)
TVC_KERNEL(squeeze_excite_backward_kernel, SqueezeExciteBackward)

namespace tvc {
namespace {

struct Kernels {
  static SqueezeExcite arguments(const SqueezeExciteTensors& t, const Gated& gated) {
    return {gated, t.w1.size(0), t.act, t.w1.const_data_ptr(), data_or_null(t.b1), t.w2.const_data_ptr(), data_or_null(t.b2)};
  }

  static void forward(const SqueezeExciteTensors& t, Tensor& out) {
    squeeze_excite_kernel(arguments(t, gated(t, t.w1, out)));
  }

  static void backward(const SqueezeExciteTensors& t, SqueezeExciteGradients& g) {
    squeeze_excite_backward_kernel({arguments(t, gated(t, t.w1)), gated_gradients(g), g.mean.mutable_data_ptr(),
                                    g.hidden.mutable_data_ptr(), g.grad_gate.mutable_data_ptr(),
                                    g.grad_act.mutable_data_ptr()});
  }
};

}  // namespace
}  // namespace tvc

STABLE_TORCH_LIBRARY_IMPL(tvc, CPU, m) {
  m.impl("squeeze_excite", TORCH_BOX(&tvc::squeeze_excite<tvc::Kernels>));
  m.impl("_squeeze_excite_", TORCH_BOX(&tvc::squeeze_excite_<tvc::Kernels>));
  m.impl("_squeeze_excite_backward", TORCH_BOX(&tvc::squeeze_excite_backward<tvc::Kernels>));
}

#endif
