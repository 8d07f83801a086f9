#pragma once
// Ops whose scale is a gate for each channel, made of the channels' means: the sums over space, and the pass that scales, adds and
// activates. Samples are taken in groups that fit in the level-2 cache, so that the pass finds there what the sums have read.

#include "../common/tail.h"
#include "tail.cuh"

namespace tvc::gpu {

template <class T>
struct ReadX {
  using Of = Kinds<Kind::Sum>;
  static constexpr int kUnroll = 4;

  const T* x;

  template <int V, class Place>
  __device__ void operator()(int64_t at, const Place& /*place*/, Acc<T> (&v)[V][1]) const {
    T raw[V];
    load(x + at, raw);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      v[k][0] = to_acc(raw[k]);
    }
  }
};

// The products of x and the inner gradient, whose sums are the gradients of the scales; with kWithX x too.
template <class T, bool curved, bool kWithX>
struct ReadProduct {
  using Of = std::conditional_t<kWithX, Kinds<Kind::Sum, Kind::Sum>, Kinds<Kind::Sum>>;
  static constexpr int kUnroll = 2;

  const T* x;
  InnerGradient<T, curved, ChannelScale<Acc<T>>> inner;

  template <int V, class Place>
  __device__ void operator()(int64_t at, const Place& place, Acc<T> (&v)[V][Of::kCount]) const {
    T raw[V];
    load(x + at, raw);
    typename InnerGradient<T, curved, ChannelScale<Acc<T>>>::template Inputs<V> in;
    inner.read(at, place, in);
    Acc<T> g[V];
    inner.of(place, in, g);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const Acc<T> value = to_acc(raw[k]);
      v[k][0] = value;
      v[k][Of::kCount - 1] = value * g[k];
    }
  }
};

// grad_gate = the gradient of the scale, times the slope of the gate.
template <class A>
struct GateGradient {
  Gate gate;
  const A *product, *scale;
  A* grad_gate;
  __device__ void operator()(int64_t i) const {
    grad_gate[i] = product[i] * gate_slope(scale[i], gate);
  }
};

template <class T>
class ChannelGate {
  using A = Acc<T>;

 public:
  ChannelGate(const char* op, const Tensor& x, const std::optional<Tensor>& residual, Activation post)
      : device_(op, x), tensor_(x), x_(data<T>(x)), residual_(data<T>(residual)), post_(post), space_(space_of(x)) {}

  const Device& device() const {
    return device_;
  }
  const Space& space() const {
    return space_;
  }
  // What a mean's gradient is for each element.
  A share() const {
    return A(1) / static_cast<A>(space_.positions);
  }

  // make_scale(begin, samples, mean, scale) makes the scales of the samples from the `begin`th on of their means.
  template <class MakeScale>
  void forward(T* out, const MakeScale& make_scale) const {
    const bool vectors = fits_vectors<T>(space_, {x_, residual_, out});
    Space space = group(1);
    const Reduction<T> reduction(device_, tensor_, space, vectors);
    const int64_t c = space.samples * space.channels;
    const Scratch<A, 2> scratch(tensor_, {c, c});
    A *const mean = scratch[0], *const scale = scratch[1];
    for (int64_t begin = 0; begin < space_.samples; begin += space.samples) {
      space.samples = std::min(space.samples, space_.samples - begin);
      const int64_t at = begin * space.size();
      reduction.run(space, ReadX<T>{x_ + at}, {{mean}, {share()}, space.channels});
      make_scale(begin, space.samples, mean, scale);
      with_bool(is_curved(post_), [&](auto curved) {
        visit_all<T>(
            device_, "tail", space, vectors,
            Tail<T, curved, ChannelScale<A>>{x_ + at, offset(residual_, at), {scale}, out + at, post_});
      });
    }
  }

  // Writes the gradients of x and residual, and of all samples the means and the gradients of the gates' inputs.
  // make_shift(begin, samples, grad_gate, shift) makes of these what each element's gradient gets from its mean.
  template <class MakeScale, class MakeShift>
  void backward(
      TailGradients& g, Gate gate, Tensor& mean, Tensor& grad_gate, const MakeScale& make_scale,
      const MakeShift& make_shift) const {
    with_bool(is_curved(post_), [&](auto curved) {
      backward_of<curved>(g, gate, data_to_write<A>(mean), data_to_write<A>(grad_gate), make_scale, make_shift);
    });
  }

 private:
  template <bool curved, class MakeScale, class MakeShift>
  void backward_of(
      TailGradients& g, Gate gate, A* means, A* grad_gates, const MakeScale& make_scale, const MakeShift& make_shift) const {
    const T *const grad = data<T>(g.grad), *const out = data<T>(g.out);
    T *const grad_x = data_to_write<T>(g.x), *const grad_residual = data_to_write<T>(g.residual);
    const bool vectors = fits_vectors<T>(space_, {x_, residual_, grad, out, grad_x, grad_residual});
    Space space = group(2 + (post_ != Activation::None) + (curved && residual_));
    const Reduction<T> reduction(device_, tensor_, space, vectors, 2);
    const int64_t c = space.samples * space.channels;
    const Scratch<A, 3> scratch(tensor_, {c, c, c});
    A *const product = scratch[0], *const scale = scratch[1], *const shift = scratch[2];
    for (int64_t begin = 0; begin < space_.samples; begin += space.samples) {
      space.samples = std::min(space.samples, space_.samples - begin);
      const int64_t at = begin * space.size();
      A *const mean = means + begin * space.channels, *const grad_gate = grad_gates + begin * space.channels;
      const InnerGradient<T, curved, ChannelScale<A>> inner{grad + at, offset(out, at), x_ + at, offset(residual_, at), {scale},
                                                            post_};
      // A slope that needs the scale needs the means before; without it, both are summed in the same pass.
      if constexpr (curved) {
        reduction.run(space, ReadX<T>{x_ + at}, {{mean}, {share()}, space.channels});
        make_scale(begin, space.samples, mean, scale);
        reduction.run(space, ReadProduct<T, true, false>{x_ + at, inner}, {{product}, {A(1)}, space.channels});
      } else {
        reduction.run(
            space, ReadProduct<T, false, true>{x_ + at, inner}, {{mean, product}, {share(), A(1)}, space.channels});
        make_scale(begin, space.samples, mean, scale);
      }
      each(device_, "gate_gradient", space.samples * space.channels, GateGradient<A>{gate, product, scale, grad_gate});
      make_shift(begin, space.samples, grad_gate, shift);
      visit_all<T>(
          device_, "tail_backward", space, vectors,
          TailBackward<T, curved, ChannelScale<A>>{inner, shift, grad_x + at, offset(grad_residual, at)});
    }
  }

  // The samples of a group, of which `tensors` tensors are read twice.
  Space group(int64_t tensors) const {
    Space space = space_;
    space.samples = samples_at_once(device_, space_, tensors * space_.size() * static_cast<int64_t>(sizeof(T)));
    return space;
  }

  Device device_;
  const Tensor& tensor_;
  const T *x_, *residual_;
  Activation post_;
  Space space_;
};

}  // namespace tvc::gpu
