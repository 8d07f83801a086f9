// tvc::eca on the CPU: a convolution of a few taps along the channels makes the gates.

#include "gated.h"
#include "linear.h"

namespace tvc {

struct Eca {
  Gated gated;
  int64_t size;  // of the weight
  const void* weight;
};

struct EcaBackward {
  Eca forward;
  GatedGradients gradients;
  void* taps;  // (samples, size): each sample's share of the weight's gradient, in the accumulation type
};

namespace TVC_ISA {

template <class T>
struct EcaGates {
  using A = Acc<T>;

  const Eca& args;
  A* taps;
  Buffer<A> weight = [this] {
    Buffer<A> weight(new A[args.size]);
    for (int64_t j = 0; j < args.size; ++j) {
      weight[j] = args.gated.weight_type == args.gated.type ? to_acc(static_cast<const T*>(args.weight)[j])
                                                            : static_cast<const A*>(args.weight)[j];
    }
    return weight;
  }();

  int64_t weight_bytes() const {
    return 0;
  }

  // f(tap, begin, end, offset) for each tap: channels begin to end meet the channel that lies `offset` further on.
  template <class F>
  void each_tap(const F& f) const {
    const int64_t C = args.gated.channels;
    for (int64_t j = 0; j < args.size; ++j) {
      const int64_t offset = j - args.size / 2;
      const int64_t begin = std::max<int64_t>(0, -offset), end = std::min(C, C - offset);
      if (begin < end) {
        f(j, begin, end, offset);
      }
    }
  }

  // On one thread: this is little work beside reading the samples.
  template <class Split>
  void forward(int64_t begin, int64_t end, const Split&, const A* mean, A* scale) const {
    const int64_t C = args.gated.channels;
    for (int64_t n = begin; n < end; ++n) {
      const A* from = mean + n * C;
      A* to = scale + n * C;
      std::fill(to, to + C, A(0));
      each_tap([&](int64_t j, int64_t first, int64_t last, int64_t offset) {
        map(last - first, to + first, [&](Vec<A> z, Vec<A> v) { return z + v * weight[j]; }, to + first, from + first + offset);
      });
      map(C, to, [&](Vec<A> z) { return gate_of<A>(z, args.gated.gate); }, to);
    }
  }

  template <class Split>
  void backward(int64_t begin, int64_t end, const Split&, const A* mean, const A* grad_gate, A* grad_mean) const {
    const int64_t C = args.gated.channels;
    for (int64_t n = begin; n < end; ++n) {
      const A *grad = grad_gate + n * C, *from = mean + n * C;
      A *to = grad_mean + n * C, *sums = taps + n * args.size;
      std::fill(to, to + C, A(0));
      std::fill(sums, sums + args.size, A(0));
      each_tap([&](int64_t j, int64_t first, int64_t last, int64_t offset) {
        map(
            last - first, to + first + offset, [&](Vec<A> z, Vec<A> g) { return z + g * weight[j]; }, to + first + offset,
            grad + first);
        linear<A, A>(from + first + offset, 1, grad + first, nullptr, 1, last - first, sums + j, 0, 1);
      });
    }
  }
};

void eca_kernel(const Eca& args) {
  with_type(args.gated.type, [&](auto element) {
    using T = decltype(element);
    const EcaGates<T> gates{args, nullptr};
    GatedPasses<T, EcaGates<T>>{args.gated, gates}.forward();
  });
}

void eca_backward_kernel(const EcaBackward& args) {
  const Gated& gated = args.forward.gated;
  with_type(gated.type, [&](auto element) {
    using T = decltype(element);
    using A = Acc<T>;
    const int64_t size = gated.samples * gated.channels;
    Buffer<A> mean(new A[size]), grad_gate(new A[size]);
    const EcaGates<T> gates{args.forward, static_cast<A*>(args.taps)};
    GatedPasses<T, EcaGates<T>>{gated, gates}.backward(args.gradients, mean.get(), grad_gate.get());
  });
}

}  // namespace TVC_ISA
}  // namespace tvc

#ifdef TVC_REGISTER  // once, not for each instruction set

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/eca.h"

TVC_KERNEL(eca_kernel, Eca)
TVC_KERNEL(eca_backward_kernel, EcaBackward)

namespace tvc {
namespace {

struct Kernels {
  static void forward(const EcaTensors& t, Tensor& out) {
    eca_kernel({gated(t, t.weight, out), t.weight.size(0), t.weight.const_data_ptr()});
  }

  static void backward(const EcaTensors& t, EcaGradients& g) {
    eca_backward_kernel(
        {{gated(t, t.weight), t.weight.size(0), t.weight.const_data_ptr()}, gated_gradients(g), g.taps.mutable_data_ptr()});
  }
};

}  // namespace
}  // namespace tvc

STABLE_TORCH_LIBRARY_IMPL(tvc, CPU, m) {
  m.impl("eca", TORCH_BOX(&tvc::eca<tvc::Kernels>));
  m.impl("_eca_", TORCH_BOX(&tvc::eca_<tvc::Kernels>));
  m.impl("_eca_backward", TORCH_BOX(&tvc::eca_backward<tvc::Kernels>));
}

#endif
