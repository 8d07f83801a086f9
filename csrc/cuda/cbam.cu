// tvc::cbam on CUDA. x is read for the means and maxima of channels, for those of positions, and for the tail; samples are taken in
// groups that fit in the level-2 cache, so that only the first of these reads comes from memory. The backward does the same in four.

#include <torch/csrc/stable/library.h>

#include "../common/cbam.h"
#include "linear.cuh"
#include "tail.cuh"

namespace tvc {
namespace gpu {
namespace {

// One number for each channel of each sample, and one for each position.
template <class A>
struct CbamScale {
  const A *channel, *position;

  template <int V, class Place>
  __device__ bool reads(const Place& /*place*/) const {
    return true;
  }

  template <int V, class Place>
  __device__ void times(const Place& place, const A (&x)[V], A (&y)[V]) const {
    A s[V], t[V];
    place.channel(channel, s);
    place.position(position, t);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      y[k] = x[k] * s[k] * t[k];
    }
  }
};

// ---- what is reduced ----

// Sum and maximum of x, or, kScaled, of y = x * scale; with kTies how many have the maximum.
template <class T, bool kScaled, bool kTies>
struct ReadStatistics {
  using A = Acc<T>;
  using Of = std::conditional_t<kTies, Kinds<Kind::Sum, Kind::Max, Kind::Count>, Kinds<Kind::Sum, Kind::Max>>;
  static constexpr int kUnroll = 2;

  const T* x;
  const A* scale;

  template <int V, class Place>
  __device__ void operator()(int64_t at, const Place& place, A (&v)[V][Of::kCount]) const {
    T raw[V];
    load(x + at, raw);
    A y[V];
    to_acc(raw, y);
    if constexpr (kScaled) {
      ChannelScale<A>{scale}.times(place, y, y);
    }
#pragma unroll
    for (int k = 0; k < V; ++k) {
      v[k][0] = v[k][1] = y[k];
      if constexpr (kTies) {
        v[k][2] = 1;
      }
    }
  }
};

// Over channels: y times the gradient before post, whose sum is the gradient of the gate of a position.
template <class T, bool curved>
struct ReadGradPosition {
  using A = Acc<T>;
  using Of = Kinds<Kind::Sum>;
  using Inner = InnerGradient<T, curved, CbamScale<A>>;
  static constexpr int kUnroll = 2;

  Inner inner;

  template <int V, class Place>
  __device__ void operator()(int64_t at, const Place& place, A (&v)[V][1]) const {
    T raw[V];
    load(inner.x + at, raw);
    typename Inner::template Inputs<V> in;
    inner.read(at, place, in);
    A y[V], g[V];
    to_acc(raw, y);
    ChannelScale<A>{inner.scale.channel}.times(place, y, y);
    inner.of(place, in, g);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      v[k][0] = y[k] * g[k];
    }
  }
};

// That and the maps, where the slope of post needs no gate of positions.
template <class T>
struct ReadMapsAndGradPosition {
  using A = Acc<T>;
  using Of = Kinds<Kind::Sum, Kind::Max, Kind::Count, Kind::Sum>;
  static constexpr int kUnroll = 1;

  InnerGradient<T, false, CbamScale<A>> inner;

  template <int V, class Place>
  __device__ void operator()(int64_t at, const Place& place, A (&v)[V][4]) const {
    A maps[V][3], product[V][1];
    ReadStatistics<T, true, true>{inner.x, inner.scale.channel}(at, place, maps);
    ReadGradPosition<T, false>{inner}(at, place, product);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      v[k][0] = maps[k][0];
      v[k][1] = maps[k][1];
      v[k][2] = maps[k][2];
      v[k][3] = product[k][0];
    }
  }
};

// The gradient of y: from the tail, by way of the gate of positions, and from the maps. shift (samples, 2, positions) has what each
// element gets from its mean, and what each that has the maximum gets from it.
template <class T, bool curved, bool kTail, bool kMaps>
struct GradientOfY {
  using A = Acc<T>;
  using Inner = InnerGradient<T, curved, CbamScale<A>>;

  Inner inner;  // without a tail only x and the scale of channels
  const A *maps, *shift;
  int64_t positions;

  template <int V>
  struct Inputs {
    T x[V];
    typename Inner::template Inputs<V> inner;
  };

  template <int V, class Place>
  __device__ void read(int64_t at, const Place& place, Inputs<V>& in) const {
    load(inner.x + at, in.x);
    if constexpr (kTail) {
      inner.read(at, place, in.inner);
    }
  }

  // x, the gradient of y, and, with a tail, the gradient before post.
  template <int V, class Place>
  __device__ void of(const Place& place, const Inputs<V>& in, A (&x)[V], A (&of_y)[V], A (&g)[V]) const {
    to_acc(in.x, x);
    if constexpr (kTail) {
      A t[V];
      inner.of(place, in.inner, g);
      place.position(inner.scale.position, t);
#pragma unroll
      for (int k = 0; k < V; ++k) {
        of_y[k] = g[k] * t[k];
      }
    } else {
#pragma unroll
      for (int k = 0; k < V; ++k) {
        of_y[k] = 0;
      }
    }
    if constexpr (kMaps) {
      A y[V], of_mean[V], of_max[V], max[V];
      ChannelScale<A>{inner.scale.channel}.times(place, x, y);
      place.template position<2>(shift, of_mean);
      place.template position<2>(shift + positions, of_max);
      place.template position<2>(maps + positions, max);
#pragma unroll
      for (int k = 0; k < V; ++k) {
        of_y[k] += of_mean[k] + (y[k] == max[k] ? of_max[k] : A(0));
      }
    }
  }
};

// Over space: the gradient of the scale of a channel.
template <class T, class Gradient>
struct ReadGradScale {
  using A = Acc<T>;
  using Of = Kinds<Kind::Sum>;
  static constexpr int kUnroll = 2;

  Gradient gradient;

  template <int V, class Place>
  __device__ void operator()(int64_t at, const Place& place, A (&v)[V][1]) const {
    typename Gradient::template Inputs<V> in;
    gradient.read(at, place, in);
    A x[V], of_y[V], g[V];
    gradient.of(place, in, x, of_y, g);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      v[k][0] = x[k] * of_y[k];
    }
  }
};

template <class A>
struct ReadRow {
  using Of = Kinds<Kind::Sum>;
  static constexpr int kUnroll = 4;

  const A* p;

  template <int V, class Place>
  __device__ void operator()(int64_t at, const Place& /*place*/, A (&v)[V][1]) const {
#pragma unroll
    for (int k = 0; k < V; ++k) {
      v[k][0] = p[at + k];
    }
  }
};

// ---- what is done with an element ----

// The gradient of x. With kMaps, shift (samples, 2, channels) has what each element gets from its mean, and what each that has the
// maximum gets from it.
template <class T, class Gradient, bool kTail, bool kMaps>
struct CbamBackward {
  using A = Acc<T>;

  Gradient gradient;
  const A *statistics, *shift;
  int64_t channels;
  T *grad_x, *grad_residual;

  template <int V>
  using Inputs = typename Gradient::template Inputs<V>;

  template <int V, class Place>
  __device__ void read(int64_t at, const Place& place, Inputs<V>& in) const {
    gradient.read(at, place, in);
  }

  template <int V, class Place>
  __device__ void write(int64_t at, const Place& place, const Inputs<V>& in) const {
    A x[V], y[V], g[V];
    gradient.of(place, in, x, y, g);
    ChannelScale<A>{gradient.inner.scale.channel}.times(place, y, y);
    if constexpr (kMaps) {
      A of_mean[V], of_max[V], max[V];
      place.template channel<2>(shift, of_mean);
      place.template channel<2>(shift + channels, of_max);
      place.template channel<2>(statistics + channels, max);
#pragma unroll
      for (int k = 0; k < V; ++k) {
        y[k] += of_mean[k] + (x[k] == max[k] ? of_max[k] : A(0));
      }
    }
    store_once<V>(grad_x + at, y);
    if constexpr (kTail) {
      if (grad_residual) {
        store_once<V>(grad_residual + at, g);
      }
    }
  }
};

// ---- the gate of channels: a thread for each i in (samples, reduced) or (samples, channels) ----

// The sum of the hidden values of the mean and of the maximum, since the second product is linear.
template <class A>
struct AddHidden {
  const A* both;  // (samples, 2, reduced)
  int64_t reduced;
  A* hidden;

  __device__ void operator()(int64_t i) const {
    const A* p = both + i / reduced * 2 * reduced + i % reduced;
    hidden[i] = p[0] + p[reduced];
  }
};

// The bias is there twice, once for each of the two.
template <class A, class W>
struct WriteCbamScale {
  Gate gate;
  const W* bias;
  int64_t channels;
  A* scale;

  __device__ void operator()(int64_t i, A v) const {
    scale[i] = gate_of(v + (bias ? 2 * to_acc(bias[i % channels]) : A(0)), gate);
  }
};

// `given`, where there is one, is a part of the gradient of the scale.
template <class A>
struct WriteGradGate {
  Gate gate;
  const A *grad_scale, *given, *scale;
  A* grad_gate;

  __device__ void operator()(int64_t i) const {
    grad_gate[i] = (grad_scale[i] + (given ? given[i] : A(0))) * gate_slope(scale[i], gate);
  }
};

// For the hidden values of both.
template <class A>
struct WriteGradAct {
  Activation act;
  const A* before_act;  // (samples, 2, reduced), as grad_act
  int64_t reduced;
  A* grad_act;

  __device__ void operator()(int64_t i, A v) const {
    const int64_t at = i / reduced * 2 * reduced + i % reduced;
    grad_act[at] = v * slope(before_act[at], act);
    grad_act[at + reduced] = v * slope(before_act[at + reduced], act);
  }
};

// What an element gets from its mean, and what it gets from its maximum, if it has it: how many have it stands in the result's
// place. i in (samples, 2, channels).
template <class A>
struct WriteShift {
  int64_t channels;
  A share;
  A* shift;

  __device__ void operator()(int64_t i, A v) const {
    const bool of_max = i / channels % 2;
    shift[i] = of_max ? v / shift[i] : v * share;
  }
};

// ---- the gate of positions: a thread for each i in (samples, positions) ----

// The maps, and the window of the convolution.
struct Image {
  int64_t height, width, kernel;

  __host__ __device__ int64_t positions() const {
    return height * width;
  }
  __host__ __device__ int64_t taps() const {
    return kernel * kernel;
  }

  // f(tap, place) for what the window round a position sees; with kFlipped, for the windows that see it.
  template <bool kFlipped, class F>
  __device__ void around(int64_t position, const F& f) const {
    const int64_t y = position / width, x = position - y * width, half = kernel / 2;
    for (int64_t a = 0; a < kernel; ++a) {
      const int64_t row = kFlipped ? y + half - a : y - half + a;
      if (row < 0 || row >= height) {
        continue;
      }
      for (int64_t b = 0; b < kernel; ++b) {
        const int64_t column = kFlipped ? x + half - b : x - half + b;
        if (column >= 0 && column < width) {
          f(a * kernel + b, row * width + column);
        }
      }
    }
  }
};

template <class A>
struct WritePositionGate {
  const A *maps, *weight, *bias;
  Image image;
  Gate gate;
  A* position;

  __device__ void operator()(int64_t i) const {
    const int64_t size = image.positions(), taps = image.taps();
    const A *mean = maps + i / size * 2 * size, *max = mean + size;
    A sum = bias ? bias[0] : A(0);
    image.around<false>(i % size, [&](int64_t tap, int64_t at) { sum += weight[tap] * mean[at] + weight[taps + tap] * max[at]; });
    position[i] = gate_of(sum, gate);
  }
};

template <class A, class L>
struct WriteGateOf {
  const L* logits;
  Gate gate;
  A* position;

  __device__ void operator()(int64_t i) const {
    position[i] = gate_of(to_acc(logits[i]), gate);
  }
};

// grad_position (samples, arrays, positions): the first of the arrays.
template <class A>
struct WriteGradLogits {
  Gate gate;
  const A *grad_position, *position;
  int64_t positions, arrays;
  A* grad_logits;

  __device__ void operator()(int64_t i) const {
    grad_logits[i] = grad_position[i / positions * arrays * positions + i % positions] * gate_slope(position[i], gate);
  }
};

// What an element gets from the maps, as WriteShift has it of the statistics. shift (samples, 2, positions).
template <class A>
struct WriteMapShift {
  const A *grad_logits, *weight;
  Image image;
  A share;
  A* shift;

  __device__ void operator()(int64_t i) const {
    const int64_t size = image.positions(), taps = image.taps(), sample = i / size, position = i % size;
    const A* in = grad_logits + sample * size;
    A of_mean = 0, of_max = 0;
    image.around<true>(position, [&](int64_t tap, int64_t at) {
      of_mean += weight[tap] * in[at];
      of_max += weight[taps + tap] * in[at];
    });
    A* to = shift + sample * 2 * size + position;
    to[0] = of_mean * share;
    to[size] = of_max / to[size];
  }
};

// The same of given gradients of the maps.
template <class A>
struct WriteGivenMapShift {
  const A* grad_maps;
  int64_t positions;
  A share;
  A* shift;

  __device__ void operator()(int64_t i) const {
    const int64_t at = i / positions * 2 * positions + i % positions;
    shift[at] = grad_maps[at] * share;
    shift[at + positions] = grad_maps[at + positions] / shift[at + positions];
  }
};

// The gradient of the convolution's weight: rows are the taps of both maps, whose products are summed over positions.
template <class A>
struct ReadSpatialTaps {
  using Of = Kinds<Kind::Sum>;
  static constexpr int kUnroll = 2;

  const A *maps, *grad_logits;
  Image image;

  template <int V, class Place>
  __device__ void operator()(int64_t /*at*/, const Place& place, A (&v)[V][1]) const {
    const int64_t size = image.positions(), half = image.kernel / 2, tap = place.in.row % image.taps();
    const int64_t up = half - tap / image.kernel, left = half - tap % image.kernel;
    const A* map = maps + (2 * place.in.sample + place.in.row / image.taps()) * size;
    const A* g = grad_logits + place.in.sample * size;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const int64_t at = place.in.column + k, y = at / image.width - up, x = at % image.width - left;
      const bool inside = y >= 0 && y < image.height && x >= 0 && x < image.width;
      v[k][0] = inside ? g[at] * map[y * image.width + x] : A(0);
    }
  }
};

// ---- what the ops share ----

// How the samples of x are taken, where `tensors` of its size are read several times; reductions have `values` at the most.
template <class T>
struct Plan {
  using A = Acc<T>;

  Plan(const Device& device, const Tensor& x, int64_t tensors, int values, std::initializer_list<const void*> pointers)
      : all(space_of(x)), group(grouped(device, all, tensors)), vectors(fits_vectors<T>(all, pointers)),
        over_space(device, x, group, vectors, values),
        over_channels(device, x, group, fits_vectors<T>(transposed(all), pointers), values) {}

  // f(space, begin) for each group of samples.
  template <class F>
  void for_groups(const F& f) const {
    Space space = group;
    for (int64_t begin = 0; begin < all.samples; begin += group.samples) {
      space.samples = std::min(group.samples, all.samples - begin);
      f(space, begin);
    }
  }

  A position_share() const {
    return A(1) / static_cast<A>(all.positions);
  }
  A channel_share() const {
    return A(1) / static_cast<A>(all.channels);
  }

  const Space all, group;
  const bool vectors;
  const Reduction<T> over_space;
  const Reduction<T, Over::Channels> over_channels;

 private:
  static Space grouped(const Device& device, Space space, int64_t tensors) {
    space.samples = samples_at_once(device, space, tensors * space.size() * static_cast<int64_t>(sizeof(T)));
    return space;
  }
};

// What the backward of a tail reads.
inline int64_t tensors_of_tail(Activation post, bool residual) {
  return 2 + (post != Activation::None) + (is_curved(post) && residual);
}

// The gate of channels for a group of samples. Arrays of both statistics are (samples, 2, *).
template <class T, class W>
class ChannelGate {
  using A = Acc<T>;

 public:
  ChannelGate(const Device& device, const CbamChannelsTensors& t)
      : t_(t), device_(device), channels_(t.x.size(1)), reduced_(t.w1.size(0)) {}

  // scale = gate(w2 · (act(w1 · mean + b1) + act(w1 · max + b1)) + 2 b2).
  void make_scale(int64_t samples, const A* statistics, A* before_act, A* both, A* hidden, A* scale) const {
    linear(
        device_, statistics, 2 * samples, data<W>(t_.w1), data<W>(t_.b1), reduced_, channels_,
        WriteHidden<A>{t_.act, before_act, both});
    each(device_, "cbam_hidden", samples * reduced_, AddHidden<A>{both, reduced_, hidden});
    linear(
        device_, hidden, samples, data<W>(t_.w2), static_cast<const W*>(nullptr), channels_, reduced_,
        WriteCbamScale<A, W>{t_.gate, data<W>(t_.b2), channels_, scale});
  }

  // From the gradients of the scales to what elements get from the statistics. shift (samples, 2, channels) comes with how many have
  // the maximum.
  void make_shift(
      int64_t samples, const A* grad_scale, const A* given, const A* scale, const A* before_act, A* grad_gate, A* grad_act,
      A share, A* shift) const {
    each(
        device_, "cbam_grad_gate", samples * channels_, WriteGradGate<A>{t_.gate, grad_scale, given, scale, grad_gate});
    linear_transposed(
        device_, grad_gate, samples, data<W>(t_.w2), channels_, reduced_,
        WriteGradAct<A>{t_.act, before_act, reduced_, grad_act});
    linear_transposed(
        device_, grad_act, 2 * samples, data<W>(t_.w1), reduced_, channels_, WriteShift<A>{channels_, share, shift});
  }

 private:
  const CbamChannelsTensors& t_;
  const Device& device_;
  int64_t channels_, reduced_;
};

template <class T>
Tensor accumulated(const Tensor& t) {
  constexpr ScalarType type = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
  return t.scalar_type() == type ? t : torch::stable::to(t, type);
}

// ---- the ops ----

template <class T, class W>
class Cbam {
  using A = Acc<T>;

 public:
  Cbam(const char* op, const CbamTensors& t)
      : t_(t), device_(op, t.x), gate_(device_, t), x_(data<T>(t.x)), residual_(data<T>(t.residual)), reduced_(t.w1.size(0)),
        image_{t.x.size(2), t.x.size(3), t.spatial_weight.size(2)}, weight_(accumulated<T>(t.spatial_weight)) {
    if (t.spatial_bias) {
      bias_ = accumulated<T>(*t.spatial_bias);
    }
  }

  void forward(T* out) const {
    const Plan<T> plan(device_, t_.x, 1, 2, {x_, residual_, out});
    const int64_t n = plan.group.samples, c = plan.group.channels, s = plan.group.positions;
    const Scratch<A, 6> scratch(t_.x, {n * 2 * c, n * 2 * reduced_, n * reduced_, n * c, n * 2 * s, n * s});
    A *const statistics = scratch[0], *const both = scratch[1], *const hidden = scratch[2], *const scale = scratch[3];
    A *const maps = scratch[4], *const position = scratch[5];
    plan.for_groups([&](const Space& space, int64_t begin) {
      const int64_t at = begin * space.size();
      plan.over_space.run(
          space, ReadStatistics<T, false, false>{x_ + at, nullptr},
          {{statistics, statistics + c}, {plan.position_share(), A(1)}, 2 * c});
      gate_.make_scale(space.samples, statistics, nullptr, both, hidden, scale);
      plan.over_channels.run(
          space, ReadStatistics<T, true, false>{x_ + at, scale}, {{maps, maps + s}, {plan.channel_share(), A(1)}, 2 * s});
      make_position(space.samples, maps, position);
      with_bool(is_curved(t_.post), [&](auto curved) {
        visit_all<T>(
            device_, "cbam", space, plan.vectors,
            Tail<T, curved, CbamScale<A>>{x_ + at, offset(residual_, at), {scale, position}, out + at, t_.post});
      });
    });
  }

  void backward(CbamGradients& g) const {
    with_bool(is_curved(t_.post), [&](auto curved) { backward_of<curved>(g); });
  }

 private:
  template <bool curved>
  void backward_of(CbamGradients& g) const {
    const T *const grad = data<T>(g.grad), *const out = data<T>(g.out);
    T *const grad_x = data_to_write<T>(g.x), *const grad_residual = data_to_write<T>(g.residual);
    const Plan<T> plan(
        device_, t_.x, tensors_of_tail(t_.post, residual_), 4, {x_, residual_, grad, out, grad_x, grad_residual});
    const int64_t n = plan.group.samples, c = plan.group.channels, s = plan.group.positions;
    const Scratch<A, 7> scratch(t_.x, {n * 2 * c, n * c, n * c, n * 2 * reduced_, n * 2 * reduced_, n * 2 * s, n * s});
    A *const shift = scratch[0], *const scale = scratch[1], *const grad_scale = scratch[2], *const before_act = scratch[3];
    A *const both = scratch[4], *const map_shift = scratch[5], *const position = scratch[6];
    // Of all samples, for the gradient of the convolution's weight.
    const Scratch<A, 2> whole(t_.x, {plan.all.samples * 2 * s, plan.all.samples * s});
    plan.for_groups([&](const Space& space, int64_t begin) {
      const int64_t at = begin * space.size();
      A* const statistics = data_to_write<A>(g.statistics) + begin * 2 * c;
      A *const maps = whole[0] + begin * 2 * s, *const grad_logits = whole[1] + begin * s;
      plan.over_space.run(
          space, ReadStatistics<T, false, true>{x_ + at, nullptr},
          {{statistics, statistics + c, shift + c}, {plan.position_share(), A(1), A(1)}, 2 * c});
      gate_.make_scale(
          space.samples, statistics, before_act, both, offset(data_to_write<A>(g.hidden), begin * reduced_), scale);

      const InnerGradient<T, curved, CbamScale<A>> inner{grad + at, offset(out, at), x_ + at, offset(residual_, at),
                                                         {scale, position}, t_.post};
      // A slope that needs the gates of positions needs the maps before; without it, both are made in the same pass.
      if constexpr (curved) {
        plan.over_channels.run(
            space, ReadStatistics<T, true, true>{x_ + at, scale},
            {{maps, maps + s, map_shift + s}, {plan.channel_share(), A(1), A(1)}, 2 * s});
        make_position(space.samples, maps, position);
        plan.over_channels.run(space, ReadGradPosition<T, true>{inner}, {{map_shift}, {A(1)}, 2 * s});
      } else {
        plan.over_channels.run(
            space, ReadMapsAndGradPosition<T>{inner},
            {{maps, maps + s, map_shift + s, map_shift}, {plan.channel_share(), A(1), A(1), A(1)}, 2 * s});
        make_position(space.samples, maps, position);
      }
      each(
          device_, "cbam_grad_logits", space.samples * s,
          WriteGradLogits<A>{t_.gate, map_shift, position, s, 2, grad_logits});
      each(
          device_, "cbam_map_shift", space.samples * s,
          WriteMapShift<A>{grad_logits, data<A>(weight_), image_, plan.channel_share(), map_shift});

      using Gradient = GradientOfY<T, curved, true, true>;
      const Gradient gradient{inner, maps, map_shift, s};
      plan.over_space.run(space, ReadGradScale<T, Gradient>{gradient}, {{grad_scale}, {A(1)}, c});
      gate_.make_shift(
          space.samples, grad_scale, nullptr, scale, before_act, data_to_write<A>(g.grad_gate) + begin * c,
          offset(data_to_write<A>(g.grad_act), begin * 2 * reduced_), plan.position_share(), shift);
      visit_all<T>(
          device_, "cbam_backward", space, plan.vectors,
          CbamBackward<T, Gradient, true, true>{gradient, statistics, shift, c, grad_x + at, offset(grad_residual, at)});
    });
    sum_rows({plan.all.samples, 2 * image_.taps(), s, false}, ReadSpatialTaps<A>{whole[0], whole[1], image_}, g.spatial_weight);
    sum_rows({plan.all.samples, 1, s, false}, ReadRow<A>{whole[1]}, g.spatial_bias);
  }

  void make_position(int64_t samples, const A* maps, A* position) const {
    each(
        device_, "cbam_position", samples * image_.positions(),
        WritePositionGate<A>{maps, data<A>(weight_), data<A>(bias_), image_, t_.gate, position});
  }

  template <class Read>
  void sum_rows(const Space& space, const Read& read, Tensor& into) const {
    Reduction<A>(device_, t_.x, space, false).run(space, read, {{data_to_write<A>(into)}, {A(1)}, space.channels});
  }

  const CbamTensors& t_;
  Device device_;
  ChannelGate<T, W> gate_;
  const T *x_, *residual_;
  int64_t reduced_;
  Image image_;
  Tensor weight_;  // of the convolution, in the accumulation type
  std::optional<Tensor> bias_;
};

template <class T, class W>
class CbamChannels {
  using A = Acc<T>;

 public:
  CbamChannels(const char* op, const CbamChannelsTensors& t)
      : t_(t), device_(op, t.x), gate_(device_, t), x_(data<T>(t.x)), reduced_(t.w1.size(0)) {}

  void forward(A* scales, A* all_maps) const {
    const Plan<T> plan(device_, t_.x, 1, 2, {x_});
    const int64_t n = plan.group.samples, c = plan.group.channels, s = plan.group.positions;
    const Scratch<A, 3> scratch(t_.x, {n * 2 * c, n * 2 * reduced_, n * reduced_});
    A *const statistics = scratch[0], *const both = scratch[1], *const hidden = scratch[2];
    plan.for_groups([&](const Space& space, int64_t begin) {
      const T* const x = x_ + begin * space.size();
      A *const scale = scales + begin * c, *const maps = all_maps + begin * 2 * s;
      plan.over_space.run(
          space, ReadStatistics<T, false, false>{x, nullptr},
          {{statistics, statistics + c}, {plan.position_share(), A(1)}, 2 * c});
      gate_.make_scale(space.samples, statistics, nullptr, both, hidden, scale);
      plan.over_channels.run(
          space, ReadStatistics<T, true, false>{x, scale}, {{maps, maps + s}, {plan.channel_share(), A(1)}, 2 * s});
    });
  }

  void backward(const A* given_scale, const A* given_maps, CbamChannelsGradients& g) const {
    T* const grad_x = data_to_write<T>(g.x);
    const Plan<T> plan(device_, t_.x, 1, 3, {x_, grad_x});
    const int64_t n = plan.group.samples, c = plan.group.channels, s = plan.group.positions;
    const Scratch<A, 7> scratch(
        t_.x, {n * 2 * c, n * c, n * c, n * 2 * reduced_, n * 2 * reduced_, n * 2 * s, n * 2 * s});
    A *const shift = scratch[0], *const scale = scratch[1], *const grad_scale = scratch[2], *const before_act = scratch[3];
    A *const both = scratch[4], *const map_shift = scratch[5], *const maps = scratch[6];
    plan.for_groups([&](const Space& space, int64_t begin) {
      const T* const x = x_ + begin * space.size();
      A* const statistics = data_to_write<A>(g.statistics) + begin * 2 * c;
      plan.over_space.run(
          space, ReadStatistics<T, false, true>{x, nullptr},
          {{statistics, statistics + c, shift + c}, {plan.position_share(), A(1), A(1)}, 2 * c});
      gate_.make_scale(
          space.samples, statistics, before_act, both, offset(data_to_write<A>(g.hidden), begin * reduced_), scale);
      plan.over_channels.run(
          space, ReadStatistics<T, true, true>{x, scale},
          {{maps, maps + s, map_shift + s}, {plan.channel_share(), A(1), A(1)}, 2 * s});
      each(
          device_, "cbam_map_shift", space.samples * s,
          WriteGivenMapShift<A>{given_maps + begin * 2 * s, s, plan.channel_share(), map_shift});

      using Gradient = GradientOfY<T, false, false, true>;
      const Gradient gradient{{nullptr, nullptr, x, nullptr, {scale, nullptr}, Activation::None}, maps, map_shift, s};
      plan.over_space.run(space, ReadGradScale<T, Gradient>{gradient}, {{grad_scale}, {A(1)}, c});
      gate_.make_shift(
          space.samples, grad_scale, given_scale + begin * c, scale, before_act, data_to_write<A>(g.grad_gate) + begin * c,
          offset(data_to_write<A>(g.grad_act), begin * 2 * reduced_), plan.position_share(), shift);
      visit_all<T>(
          device_, "cbam_channels_backward", space, plan.vectors,
          CbamBackward<T, Gradient, false, true>{gradient, statistics, shift, c, grad_x + begin * space.size(), nullptr});
    });
  }

 private:
  const CbamChannelsTensors& t_;
  Device device_;
  ChannelGate<T, W> gate_;
  const T* x_;
  int64_t reduced_;
};

// L: of the logits.
template <class T, class L>
class CbamApply {
  using A = Acc<T>;

 public:
  CbamApply(const char* op, const CbamApplyTensors& t)
      : t_(t), device_(op, t.x), x_(data<T>(t.x)), residual_(data<T>(t.residual)), scale_(data<A>(t.scale)),
        logits_(data<L>(t.logits)) {}

  void forward(T* out) const {
    const Space space = space_of(t_.x);
    const Scratch<A, 1> scratch(t_.x, {space.samples * space.positions});
    A* const position = scratch[0];
    each(device_, "cbam_gate", space.samples * space.positions, WriteGateOf<A, L>{logits_, t_.gate, position});
    with_bool(is_curved(t_.post), [&](auto curved) {
      visit_all<T>(
          device_, "cbam_apply", space, fits_vectors<T>(space, {x_, residual_, out}),
          Tail<T, curved, CbamScale<A>>{x_, residual_, {scale_, position}, out, t_.post});
    });
  }

  void backward(CbamApplyGradients& g) const {
    with_bool(is_curved(t_.post), [&](auto curved) { backward_of<curved>(g); });
  }

 private:
  template <bool curved>
  void backward_of(CbamApplyGradients& g) const {
    const T *const grad = data<T>(g.grad), *const out = data<T>(g.out);
    T *const grad_x = data_to_write<T>(g.x), *const grad_residual = data_to_write<T>(g.residual);
    const Plan<T> plan(
        device_, t_.x, tensors_of_tail(t_.post, residual_), 1, {x_, residual_, grad, out, grad_x, grad_residual});
    const int64_t n = plan.group.samples, c = plan.group.channels, s = plan.group.positions;
    const Scratch<A, 2> scratch(t_.x, {n * s, n * s});
    A *const position = scratch[0], *const grad_position = scratch[1];
    plan.for_groups([&](const Space& space, int64_t begin) {
      const int64_t at = begin * space.size();
      each(device_, "cbam_gate", space.samples * s, WriteGateOf<A, L>{logits_ + begin * s, t_.gate, position});
      const InnerGradient<T, curved, CbamScale<A>> inner{grad + at, offset(out, at), x_ + at, offset(residual_, at),
                                                         {scale_ + begin * c, position}, t_.post};
      plan.over_channels.run(space, ReadGradPosition<T, curved>{inner}, {{grad_position}, {A(1)}, s});
      each(
          device_, "cbam_grad_logits", space.samples * s,
          WriteGradLogits<A>{t_.gate, grad_position, position, s, 1, data_to_write<A>(g.logits) + begin * s});
      using Gradient = GradientOfY<T, curved, true, false>;
      const Gradient gradient{inner, nullptr, nullptr, s};
      plan.over_space.run(
          space, ReadGradScale<T, Gradient>{gradient}, {{data_to_write<A>(g.scale) + begin * c}, {A(1)}, c});
      visit_all<T>(
          device_, "cbam_apply_backward", space, plan.vectors,
          CbamBackward<T, Gradient, true, false>{gradient, nullptr, nullptr, c, grad_x + at, offset(grad_residual, at)});
    });
  }

  const CbamApplyTensors& t_;
  Device device_;
  const T *x_, *residual_;
  const A* scale_;
  const L* logits_;
};

}  // namespace
}  // namespace gpu

namespace {

struct Kernels {
  static void forward(const CbamTensors& t, Tensor& out) {
    gpu::with_types(t.x, t.w1, [&](auto element, auto weight) {
      using T = decltype(element);
      gpu::Cbam<T, decltype(weight)>(kCbam, t).forward(gpu::data_to_write<T>(out));
    });
  }

  static void backward(const CbamTensors& t, CbamGradients& g) {
    gpu::with_types(t.x, t.w1, [&](auto element, auto weight) {
      gpu::Cbam<decltype(element), decltype(weight)>(kCbamBackward, t).backward(g);
    });
  }

  static void channels(const CbamChannelsTensors& t, Tensor& scale, Tensor& maps) {
    gpu::with_types(t.x, t.w1, [&](auto element, auto weight) {
      using T = decltype(element);
      using A = gpu::Acc<T>;
      gpu::CbamChannels<T, decltype(weight)>(kCbamChannels, t)
          .forward(gpu::data_to_write<A>(scale), gpu::data_to_write<A>(maps));
    });
  }

  static void channels_backward(
      const CbamChannelsTensors& t, const Tensor& grad_scale, const Tensor& grad_maps, CbamChannelsGradients& g) {
    gpu::with_types(t.x, t.w1, [&](auto element, auto weight) {
      using T = decltype(element);
      using A = gpu::Acc<T>;
      gpu::CbamChannels<T, decltype(weight)>(kCbamChannelsBackward, t)
          .backward(gpu::data<A>(grad_scale), gpu::data<A>(grad_maps), g);
    });
  }

  static void apply(const CbamApplyTensors& t, Tensor& out) {
    gpu::with_types(t.x, t.logits, [&](auto element, auto logits) {
      using T = decltype(element);
      gpu::CbamApply<T, decltype(logits)>(kCbamApply, t).forward(gpu::data_to_write<T>(out));
    });
  }

  static void apply_backward(const CbamApplyTensors& t, CbamApplyGradients& g) {
    gpu::with_types(t.x, t.logits, [&](auto element, auto logits) {
      gpu::CbamApply<decltype(element), decltype(logits)>(kCbamApplyBackward, t).backward(g);
    });
  }
};

}  // namespace
}  // namespace tvc

STABLE_TORCH_LIBRARY_IMPL(tvc, CUDA, m) {
  m.impl("cbam", TORCH_BOX(&tvc::cbam<tvc::Kernels>));
  m.impl("_cbam_", TORCH_BOX(&tvc::cbam_<tvc::Kernels>));
  m.impl("_cbam_backward", TORCH_BOX(&tvc::cbam_backward<tvc::Kernels>));
  m.impl("_cbam_channels", TORCH_BOX(&tvc::cbam_channels<tvc::Kernels>));
  m.impl("_cbam_channels_backward", TORCH_BOX(&tvc::cbam_channels_backward<tvc::Kernels>));
  m.impl("_cbam_apply", TORCH_BOX(&tvc::cbam_apply<tvc::Kernels>));
  m.impl("_cbam_apply_backward", TORCH_BOX(&tvc::cbam_apply_backward<tvc::Kernels>));
}
