// tvc::eca on CUDA: channel gates that a small convolution over the channels makes of the means.

#include <torch/csrc/stable/library.h>

#include "../common/eca.h"
#include "channel_gate.cuh"

namespace tvc {
namespace gpu {
namespace {

// ---- one thread for each i in (samples, channels) ----

// in[c - k/2 .. c + k/2] times the weight, or, kFlipped, the weight from its end.
template <bool kFlipped, class A, class W>
__device__ inline A convolve(const A* in, const W* weight, int64_t size, int64_t c, int64_t channels) {
  const int64_t first = c - size / 2;
  const int64_t begin = first < 0 ? -first : 0, end = first + size > channels ? channels - first : size;
  A sum = 0;
  for (int64_t j = begin; j < end; ++j) {
    sum += in[first + j] * to_acc(weight[kFlipped ? size - 1 - j : j]);
  }
  return sum;
}

template <class A, class W>
struct MakeScale {
  const A* mean;
  const W* weight;
  int64_t size, channels;
  Gate gate;
  A* scale;

  __device__ void operator()(int64_t i) const {
    const int64_t c = i % channels;
    scale[i] = gate_of(convolve<false>(mean + (i - c), weight, size, c, channels), gate);
  }
};

template <class A, class W>
struct MakeShift {
  const A* grad_gate;
  const W* weight;
  int64_t size, channels;
  A share;
  A* shift;

  __device__ void operator()(int64_t i) const {
    const int64_t c = i % channels;
    shift[i] = share * convolve<true>(grad_gate + (i - c), weight, size, c, channels);
  }
};

// The gradient of the weight: rows are taps, whose products are summed over channels.
template <class A>
struct ReadTaps {
  using Of = Kinds<Kind::Sum>;
  static constexpr int kUnroll = 4;

  const A *mean, *grad_gate;
  int64_t size, channels;

  template <int V, class Place>
  __device__ void operator()(int64_t /*at*/, const Place& place, A (&v)[V][1]) const {
    const int64_t begin = place.in.sample * channels;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const int64_t c = place.in.column + k, other = c + place.in.row - size / 2;
      v[k][0] = other >= 0 && other < channels ? grad_gate[begin + c] * mean[begin + other] : A(0);
    }
  }
};

// ---- the op ----

template <class T, class W>
class Eca {
  using A = Acc<T>;

 public:
  Eca(const char* op, const EcaTensors& t)
      : t_(t), op_(op, t.x, t.residual, t.post), weight_(data<W>(t.weight)), size_(t.weight.size(0)), channels_(t.x.size(1)) {}

  void forward(T* out) const {
    op_.forward(out, [&](int64_t, int64_t samples, const A* mean, A* scale) { make_scale(samples, mean, scale); });
  }

  void backward(EcaGradients& g) const {
    Tensor mean = scratch(t_.x, {t_.x.size(0), channels_}), grad_gate = scratch(t_.x, {t_.x.size(0), channels_});
    op_.backward(
        g, t_.gate, mean, grad_gate, [&](int64_t, int64_t samples, const A* m, A* scale) { make_scale(samples, m, scale); },
        [&](int64_t, int64_t samples, const A* gradient, A* shift) {
          each(
              op_.device(), "eca_shift", samples * channels_,
              MakeShift<A, W>{gradient, weight_, size_, channels_, op_.share(), shift});
        });
    const Space taps{t_.x.size(0), size_, channels_, false};
    Reduction<A>(op_.device(), t_.x, taps, false)
        .run(
            taps, ReadTaps<A>{data<A>(mean), data<A>(grad_gate), size_, channels_}, {{data_to_write<A>(g.taps)}, {A(1)}, size_});
  }

 private:
  void make_scale(int64_t samples, const A* mean, A* scale) const {
    each(
        op_.device(), "eca_scale", samples * channels_,
        MakeScale<A, W>{mean, weight_, size_, channels_, t_.gate, scale});
  }

  const EcaTensors& t_;
  ChannelGate<T> op_;
  const W* weight_;
  int64_t size_, channels_;
};

}  // namespace
}  // namespace gpu

namespace {

struct Kernels {
  static void forward(const EcaTensors& t, Tensor& out) {
    gpu::with_types(t.x, t.weight, [&](auto element, auto weight) {
      using T = decltype(element);
      gpu::Eca<T, decltype(weight)>(kEca, t).forward(gpu::data_to_write<T>(out));
    });
  }

  static void backward(const EcaTensors& t, EcaGradients& g) {
    gpu::with_types(t.x, t.weight, [&](auto element, auto weight) {
      gpu::Eca<decltype(element), decltype(weight)>(kEcaBackward, t).backward(g);
    });
  }
};

}  // namespace
}  // namespace tvc

STABLE_TORCH_LIBRARY_IMPL(tvc, CUDA, m) {
  m.impl("eca", TORCH_BOX(&tvc::eca<tvc::Kernels>));
  m.impl("_eca_", TORCH_BOX(&tvc::eca_<tvc::Kernels>));
  m.impl("_eca_backward", TORCH_BOX(&tvc::eca_backward<tvc::Kernels>));
}
