// tvc::cbam on the CPU. A sample (or a group of small ones) is read for its statistics over space, from cache for those over
// channels, and from cache again to be gated. The backward makes all of that again, so x is all that is saved.

#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <memory>

#include "dispatch.h"
#include "linear.h"
#include "space.h"

namespace tvc {

// What all of the kernels know. The halves of the op leave what they do not have.
struct Cbam {
  torch::headeronly::ScalarType type, weight_type, spatial_type;  // spatial: of the convolution, or of the logits
  int64_t samples, channels, height, width, reduced, k;
  bool channels_last;
  bool stream;  // the output is too large to stay in a cache
  Activation act, post;
  Gate gate;
  const void *x, *w1, *b1, *w2, *b2, *spatial_weight, *spatial_bias, *residual;
  const void *scale, *logits;
  void* out;
};

struct CbamChannels {
  Cbam forward;
  void *scale, *maps;
};

struct CbamBackward {
  Cbam forward;  // its `out` is not written
  const void *grad, *out;
  const void *grad_scale, *grad_maps;  // of _cbam_channels
  void *grad_x, *grad_residual;
  // For the gradients of the weights, in the accumulation type, as common/cbam.h has them.
  void *statistics, *hidden, *grad_gate, *grad_act, *spatial_weight, *spatial_bias;
};

struct CbamApplyBackward {
  Cbam forward;
  const void *grad, *out;
  void *grad_x, *grad_residual, *grad_scale, *grad_logits;
};

namespace TVC_ISA {

// Where the gradient before post comes from; Absent: there is none, and only what is made of x has one.
enum class Incoming { Absent, None, Relu, Other };

// A map of positions with a margin of zeros: so a convolution is a sum over shifted copies, all with one stride, and needs no
// case for borders. What lies in a result beyond the width of a row is not used.
struct Plane {
  int64_t height, width, k;

  int64_t stride() const {
    return width + k - 1;
  }
  int64_t result() const {
    return height * stride();
  }
  int64_t size() const {
    return (height + k) * stride() + kLanes<float>;  // the last tap of the last vector is inside
  }
  int64_t start() const {
    return (k / 2) * (stride() + 1);
  }
  // f(place in the plane, place in the map) of every row.
  template <class F>
  void rows(const F& f) const {
    for (int64_t h = 0; h < height; ++h) {
      f(start() + h * stride(), h * width);
    }
  }
};

// out[i] = bias + the sum over planes and taps of weight * planes[i + tap], for rows begin to end.
template <class A>
void correlate(const Plane& plane, int64_t planes, const A* in, const A* weight, A bias, A* out, int64_t begin, int64_t end) {
  constexpr int L = kLanes<A>, kVectors = kAccumulators / 2;
  const int64_t last = end * plane.stride();
  auto block = [&](auto vectors, int64_t i) {
    constexpr int kCount = decltype(vectors)::value;
    Vec<A> total[kCount];
    TVC_UNROLL
    for (int v = 0; v < kCount; ++v) {
      total[v] = splat(bias);
    }
    const A* w = weight;
    for (int64_t p = 0; p < planes; ++p) {
      for (int64_t y = 0; y < plane.k; ++y) {
        const A* from = in + p * plane.size() + y * plane.stride() + i;
        for (int64_t x = 0; x < plane.k; ++x) {
          const Vec<A> tap = splat(*w++);
          TVC_UNROLL
          for (int v = 0; v < kCount; ++v) {
            total[v] += tap * load(from + x + v * L);
          }
        }
      }
    }
    TVC_UNROLL
    for (int v = 0; v < kCount; ++v) {
      const int64_t rest = last - i - v * L;
      rest >= L ? store(out + i + v * L, total[v]) : store(out + i + v * L, total[v], static_cast<int>(rest));
    }
  };
  int64_t i = begin * plane.stride();
  for (; i + kVectors * L <= last; i += kVectors * L) {
    block(std::integral_constant<int, kVectors>{}, i);
  }
  for (; i < last; i += L) {
    block(std::integral_constant<int, 1>{}, i);
  }
}

// out[tap] = the sum over positions of grad * plane[position + tap], for all taps; grad is a plane too.
template <class A>
void correlate_taps(const Plane& plane, const A* in, const A* grad, A* out) {
  constexpr int L = kLanes<A>;
  const A* from = grad + plane.start();
  auto taps = [&](auto count, const A* row, A* to) {
    constexpr int kCount = decltype(count)::value;
    Vec<A> total[kCount] = {};
    int64_t i = 0;
    for (; i + L <= plane.result(); i += L) {
      const Vec<A> g = load(from + i);
      TVC_UNROLL
      for (int t = 0; t < kCount; ++t) {
        total[t] += g * load(row + i + t);
      }
    }
    if (const int rest = static_cast<int>(plane.result() - i)) {
      const Vec<A> g = load(from + i, rest);
      TVC_UNROLL
      for (int t = 0; t < kCount; ++t) {
        total[t] += g * load(row + i + t, rest);
      }
    }
    for (int t = 0; t < kCount; ++t) {
      to[t] = sum(total[t]);
    }
  };
  for (int64_t y = 0; y < plane.k; ++y) {
    int64_t x = 0;
    for (; x + 4 <= plane.k; x += 4) {
      taps(std::integral_constant<int, 4>{}, in + y * plane.stride() + x, out + y * plane.k + x);
    }
    for (; x < plane.k; ++x) {
      taps(std::integral_constant<int, 1>{}, in + y * plane.stride() + x, out + y * plane.k + x);
    }
  }
}

template <class T>
struct Attend {
  using A = Acc<T>;
  using Buffer = std::unique_ptr<A[]>;
  template <size_t n>
  using Gates = Arrays<const A, n>;

  const Cbam& args;
  int64_t reads = 1;  // arrays of the size of x that the passes read
  Space space{args.channels, args.height * args.width, args.channels_last};
  Plane plane{args.height, args.width, args.k};
  Schedule schedule{args.samples, reads * space.size() * static_cast<int64_t>(sizeof(T)),
                    2 * args.reduced * args.channels * static_cast<int64_t>(sizeof(A)), space.max_parts()};

  static Buffer make(int64_t n) {
    return Buffer(new A[static_cast<size_t>(n)]);
  }

  const T* sample(const void* data, int64_t n) const {
    return static_cast<const T*>(data) + n * space.size();
  }
  T* sample(void* data, int64_t n) const {
    return static_cast<T*>(data) + n * space.size();
  }

  // f(W{}) for the type of the weights: that of x, or float beside a half x.
  template <class F>
  void with_weights(torch::headeronly::ScalarType type, const F& f) const {
    type == args.type ? f(T{}) : f(A{});
  }

  // The weights of the convolution in the accumulation type, turned round for its gradient.
  Buffer taps(bool turned) const {
    const int64_t area = args.k * args.k;
    Buffer into = make(2 * area);
    with_weights(args.spatial_type, [&](auto weight) {
      const auto* from = static_cast<const decltype(weight)*>(args.spatial_weight);
      for (int64_t p = 0; p < 2; ++p) {
        for (int64_t i = 0; i < area; ++i) {
          into[p * area + (turned ? area - 1 - i : i)] = to_acc(from[p * area + i]);
        }
      }
    });
    return into;
  }
  A bias() const {
    A value = 0;
    if (args.spatial_bias) {
      with_weights(args.spatial_type,
                   [&](auto weight) { value = to_acc(*static_cast<const decltype(weight)*>(args.spatial_bias)); });
    }
    return value;
  }

  // ---- What a group of samples is made of: of samples begin to end, each array begins with sample begin ----

  // Partial rows of two statistics, and how far those of a sample are from those of the next.
  struct Partial {
    Buffer first, second;
    int64_t rows, length;
    Partial(int64_t samples, int64_t rows_, int64_t length_)
        : first(make(samples * rows_ * length_)), second(make(samples * rows_ * length_)), rows(rows_), length(length_) {}
    Arrays<A, 2> of(int64_t sample) const {
      return {first.get() + sample * rows * length, second.get() + sample * rows * length};
    }
    // The rows of a sample combined into its first ones.
    template <Reduce kFirst, Reduce kSecond>
    Arrays<A, 2> combined(int64_t sample) const {
      const Arrays<A, 2> both = of(sample);
      combine_partial_rows<kFirst>(both[0], rows, length);
      combine_partial_rows<kSecond>(both[1], rows, length);
      return both;
    }
  };
  Partial over_space(int64_t samples, const Team& team) const {
    return {samples, space.partial_rows(team.parts), space.channels};
  }
  Partial over_channels(int64_t samples, const Team& team) const {
    return {samples, space.partial_rows_of_positions(team.parts), space.positions};
  }

  // Mean and maximum over space, two rows a sample.
  void statistics(int64_t begin, int64_t end, const Team& team, A* into) const {
    const Partial partial = over_space(end - begin, team);
    team.share([&](Part part) {
      for (int64_t n = begin; n < end; ++n) {
        reduce_over_space<T, Reduce::Sum, Reduce::Max>(space, part, Gates<0>{}, Arrays<const T, 1>{sample(args.x, n)},
                                                       partial.of(n - begin),
                                                       [](const auto&, const auto& v) { return Values<A, 2>{v[0], v[0]}; });
      }
    });
    const A share = A(1) / static_cast<A>(space.positions);
    for (int64_t i = 0; i < end - begin; ++i) {
      const auto [sum, maximum] = partial.template combined<Reduce::Sum, Reduce::Max>(i);
      A* row = into + 2 * i * space.channels;
      map(space.channels, row, [&](Vec<A> v) { return v * share; }, sum);
      std::copy(maximum, maximum + space.channels, row + space.channels);
    }
  }

  // scale = gate(w2 · (act(w1 · mean + b1) + act(w1 · maximum + b1)) + 2 b2): both mlps, whose second products are one.
  // `hidden` is that sum, before_act has two rows a sample.
  void channel_gates(int64_t samples, const Team& team, const A* statistics, A* before_act, A* hidden, A* scale) const {
    const int64_t C = args.channels, R = args.reduced;
    with_weights(args.weight_type, [&](auto weight) {
      using W = decltype(weight);
      const W *w1 = static_cast<const W*>(args.w1), *b1 = static_cast<const W*>(args.b1);
      const W *w2 = static_cast<const W*>(args.w2), *b2 = static_cast<const W*>(args.b2);
      team(R, 2 * samples * C, [&](int64_t i, int64_t j) {
        linear(statistics, 2 * samples, w1, b1, R, C, before_act, i, j);
        for (int64_t s = 0; s < samples; ++s) {
          map(
              j - i, hidden + s * R + i,
              [&](Vec<A> a, Vec<A> b) { return activate<A>(a, args.act) + activate<A>(b, args.act); },
              before_act + 2 * s * R + i, before_act + (2 * s + 1) * R + i);
        }
      });
      team(C, samples * R, [&](int64_t i, int64_t j) {
        linear(hidden, samples, w2, b2, C, R, scale, i, j);
        for (int64_t s = 0; s < samples; ++s) {
          A* row = scale + s * C + i;
          if (b2) {
            map(j - i, row, [&](Vec<A> v, Vec<A> b) { return gate_of<A>(v + b, args.gate); }, row, b2 + i);
          } else {
            map(j - i, row, [&](Vec<A> v) { return gate_of<A>(v, args.gate); }, row);
          }
        }
      });
    });
  }

  // Sum and maximum over channels of x * scale; `partial` has both when it is done, in its first rows.
  void maps(int64_t begin, int64_t end, const Team& team, const A* scale, const Partial& partial) const {
    team.share([&](Part part) {
      for (int64_t n = end; n-- > begin;) {  // backwards: what was read last is nearest
        reduce_over_channels<T, Reduce::Sum, Reduce::Max>(space, part, Gates<1>{scale + (n - begin) * args.channels}, Gates<0>{},
                                                          Arrays<const T, 1>{sample(args.x, n)}, partial.of(n - begin),
                                                          [](const auto& s, const auto&, const auto& v) {
                                                            const Vec<A> y = v[0] * s[0];
                                                            return Values<A, 2>{y, y};
                                                          });
      }
    });
    const A share = A(1) / static_cast<A>(space.channels);
    for (int64_t i = 0; i < end - begin; ++i) {
      A* mean = partial.template combined<Reduce::Sum, Reduce::Max>(i)[0];
      map(space.positions, mean, [&](Vec<A> v) { return v * share; }, mean);
    }
  }

  // gate(conv2d(maps) + bias) of every position; the maps stay in `planes`, two a sample.
  void position_gates(int64_t samples, const Team& team, const Partial& maps, A* planes, A* position) const {
    const Buffer weight = taps(false), logits = make(samples * plane.result());
    std::fill(planes, planes + samples * 2 * plane.size(), A(0));
    for (int64_t s = 0; s < samples; ++s) {
      for (size_t p = 0; p < 2; ++p) {
        const A* map = maps.of(s)[p];
        A* into = planes + (2 * s + static_cast<int64_t>(p)) * plane.size();
        plane.rows([&](int64_t to, int64_t from) { std::copy(map + from, map + from + args.width, into + to); });
      }
    }
    const A added = bias();
    team(args.height, samples * plane.stride() * 2 * args.k * args.k, [&](int64_t i, int64_t j) {
      for (int64_t s = 0; s < samples; ++s) {
        A *row = logits.get() + s * plane.result(), *to = position + s * space.positions;
        correlate(plane, 2, planes + 2 * s * plane.size(), weight.get(), added, row, i, j);
        for (int64_t h = i; h < j; ++h) {
          std::copy(row + h * plane.stride(), row + h * plane.stride() + args.width, to + h * args.width);
        }
        map((j - i) * args.width, to + i * args.width, [&](Vec<A> z) { return gate_of<A>(z, args.gate); }, to + i * args.width);
      }
    });
  }

  // f(std::integral_constant<Incoming, kind>): relu and none are compiled apart, the others ask at each vector.
  template <class F>
  void with_post(const F& f) const {
    switch (args.post) {
      case Activation::None:
        return f(std::integral_constant<Incoming, Incoming::None>{});
      case Activation::Relu:
        return f(std::integral_constant<Incoming, Incoming::Relu>{});
      default:
        return f(std::integral_constant<Incoming, Incoming::Other>{});
    }
  }

  // out = post(x * scale * position + residual) of sample n.
  template <class Post, class HasResidual>
  void apply(int64_t n, Part part, Post post, HasResidual has_residual, const A* scale, const A* position) const {
    constexpr size_t kIn = HasResidual::value ? 2 : 1;
    Arrays<const T, kIn> in{sample(args.x, n)};
    if constexpr (has_residual) {
      in[1] = sample(args.residual, n);
    }
    transform<T>(space, part, Gates<1>{scale}, Gates<1>{position}, in, Arrays<T, 1>{sample(args.out, n)}, args.stream,
                 [=, kind = args.post](const auto& s, const auto& t, const auto& v) {
                   Vec<A> y = v[0] * s[0] * t[0];
                   if constexpr (has_residual) {
                     y += v[1];
                   }
                   if constexpr (post == Incoming::Relu) {
                     y = activate<A>(y, Activation::Relu);
                   } else if constexpr (post == Incoming::Other) {
                     y = activate<A>(y, kind);
                   }
                   return Values<A, 1>{y};
                 });
  }
  void apply(int64_t begin, int64_t end, const Team& team, const A* scale, const A* position) const {
    with_bool(args.residual != nullptr, [&](auto has_residual) {
      with_post([&](auto post) {
        team.share([&](Part part) {
          for (int64_t n = begin; n < end; ++n) {
            apply(n, part, post, has_residual, scale + (n - begin) * args.channels, position + (n - begin) * space.positions);
          }
        });
      });
    });
  }

  void forward() const {
    const int64_t C = args.channels, R = args.reduced;
    for_groups(schedule, [&](int64_t begin, int64_t end, const Team& team) {
      const int64_t n = end - begin;
      const Buffer mean_max = make(2 * n * C), before_act = make(2 * n * R), hidden = make(n * R), scale = make(n * C);
      const Buffer planes = make(2 * n * plane.size()), position = make(n * space.positions);
      const Partial both = over_channels(n, team);
      statistics(begin, end, team, mean_max.get());
      channel_gates(n, team, mean_max.get(), before_act.get(), hidden.get(), scale.get());
      maps(begin, end, team, scale.get(), both);
      position_gates(n, team, both, planes.get(), position.get());
      apply(begin, end, team, scale.get(), position.get());
    });
  }

  // ---- The halves ----

  void channels(A* scale, A* into) const {
    const int64_t C = args.channels, R = args.reduced, S = space.positions;
    for_groups(schedule, [&](int64_t begin, int64_t end, const Team& team) {
      const int64_t n = end - begin;
      const Buffer mean_max = make(2 * n * C), before_act = make(2 * n * R), hidden = make(n * R);
      const Partial both = over_channels(n, team);
      statistics(begin, end, team, mean_max.get());
      channel_gates(n, team, mean_max.get(), before_act.get(), hidden.get(), scale + begin * C);
      maps(begin, end, team, scale + begin * C, both);
      for (int64_t i = 0; i < n; ++i) {
        const auto [mean, maximum] = both.of(i);
        A* to = into + 2 * (begin + i) * S;
        std::copy(mean, mean + S, to);
        std::copy(maximum, maximum + S, to + S);
      }
    });
  }

  // What _cbam_apply is given, as the kernels take it: the scale with NaNs that rounding keeps, and the gates of the logits.
  void given_gates(int64_t begin, int64_t end, A* scale, A* position) const {
    const int64_t C = args.channels, S = space.positions;
    map((end - begin) * C, scale, [](Vec<A> v) { return quiet(v); }, static_cast<const A*>(args.scale) + begin * C);
    with_weights(args.spatial_type, [&](auto type) {
      map((end - begin) * S, position, [&](Vec<A> z) { return gate_of<A>(z, args.gate); },
          static_cast<const decltype(type)*>(args.logits) + begin * S);
    });
  }

  void apply() const {
    for_groups(schedule, [&](int64_t begin, int64_t end, const Team& team) {
      const Buffer scale = make((end - begin) * args.channels), position = make((end - begin) * space.positions);
      given_gates(begin, end, scale.get(), position.get());
      apply(begin, end, team, scale.get(), position.get());
    });
  }

  // ---- Backward ----

  // x, and the inputs that the gradient before post is made of: the gradient, and out, or the residual.
  template <class Kind>
  auto inputs(int64_t n, Kind kind, const void* grad, const void* out) const {
    if constexpr (kind == Incoming::Absent) {
      return Arrays<const T, 1>{sample(args.x, n)};
    } else if constexpr (kind == Incoming::None) {
      return Arrays<const T, 2>{sample(args.x, n), sample(grad, n)};
    } else if constexpr (kind == Incoming::Relu) {
      return Arrays<const T, 3>{sample(args.x, n), sample(grad, n), sample(out, n)};
    } else {
      return Arrays<const T, 3>{sample(args.x, n), sample(grad, n), sample(args.residual ? args.residual : args.x, n)};
    }
  }
  // The gradient that reaches y * position + residual.
  template <class Kind, class Inputs>
  Vec<A> inner_grad(Kind kind, const Inputs& v, Vec<A> y, Vec<A> position) const {
    if constexpr (kind == Incoming::Relu) {
      return v[2] <= Vec<A>{} ? Vec<A>{} : v[1];  // NaN lets it through, as torch does
    } else if constexpr (kind == Incoming::Other) {
      const Vec<A> z = y * position;
      return v[1] * slope<A>(args.residual ? Vec<A>(z + v[2]) : z, args.post);
    } else {
      return v[1];
    }
  }
  // 1 where an element is equal to the maximum.
  static Vec<A> is_equal(Vec<A> v, Vec<A> maximum) {
    return v == maximum ? splat(A(1)) : Vec<A>{};
  }

  // The gradients of the convolution: `sums` of gradient times y over channels, through the slope of the gate, which go back
  // to both maps of a sample.
  void convolution_backward(int64_t s, const A* sums, const A* planes, const A* position, const A* turned, A* grad_maps,
                            A* grad_weight, A* grad_bias) const {
    const int64_t S = space.positions, area = args.k * args.k;
    const Buffer grad = make(S), grad_plane = make(plane.size()), result = make(plane.result());
    map(S, grad.get(), [&](Vec<A> g, Vec<A> t) { return g * gate_slope<A>(t, args.gate); }, sums, position + s * S);
    std::fill(grad_plane.get(), grad_plane.get() + plane.size(), A(0));
    plane.rows([&](int64_t to, int64_t from) {
      std::copy(grad.get() + from, grad.get() + from + args.width, grad_plane.get() + to);
    });
    Vec<A> total{};
    for (int64_t i = 0; i < S; i += kLanes<A>) {
      total += load(grad.get() + i, static_cast<int>(std::min<int64_t>(kLanes<A>, S - i)));
    }
    *grad_bias = sum(total);
    for (int64_t p = 0; p < 2; ++p) {
      correlate_taps(plane, planes + (2 * s + p) * plane.size(), grad_plane.get(), grad_weight + p * area);
      correlate(plane, 1, grad_plane.get(), turned + p * area, A(0), result.get(), 0, args.height);
      for (int64_t h = 0; h < args.height; ++h) {
        const A* row = result.get() + h * plane.stride();
        std::copy(row, row + args.width, grad_maps + p * S + h * args.width);
      }
    }
  }

  // The mlp, from sums over space of the scale's gradient; `shift` is the gradient of mean and maximum, two rows a sample.
  void mlp_backward(int64_t samples, const Team& team, const A* before_act, const A* grad_gate, A* grad_act, A* shift) const {
    const int64_t C = args.channels, R = args.reduced;
    const Buffer grad_hidden = make(samples * R);
    with_weights(args.weight_type, [&](auto weight) {
      using W = decltype(weight);
      team(R, samples * C, [&](int64_t i, int64_t j) {
        linear_transposed(grad_gate, samples, static_cast<const W*>(args.w2), C, R, grad_hidden.get(), i, j);
        for (int64_t row = 0; row < 2 * samples; ++row) {
          map(
              j - i, grad_act + row * R + i, [&](Vec<A> g, Vec<A> y) { return g * slope<A>(y, args.act); },
              grad_hidden.get() + row / 2 * R + i, before_act + row * R + i);
        }
      });
      team(C, 2 * samples * R, [&](int64_t i, int64_t j) {
        linear_transposed(grad_act, 2 * samples, static_cast<const W*>(args.w1), R, C, shift, i, j);
      });
    });
  }

  template <class Kind>
  void backward(const CbamBackward& b, Kind kind) const {
    const int64_t C = args.channels, R = args.reduced, S = space.positions, area = args.k * args.k;
    constexpr bool kWhole = kind != Incoming::Absent;
    // The gates of positions, of which the last is there only where the gradient is.
    constexpr size_t kPosition = kWhole ? 4 : 3;
    const Buffer turned = kWhole ? taps(true) : Buffer();
    for_groups(schedule, [&](int64_t begin, int64_t end, const Team& team) {
      const int64_t count = end - begin;
      A* const mean_max = static_cast<A*>(b.statistics) + 2 * begin * C;
      A* const grad_gate = static_cast<A*>(b.grad_gate) + begin * C;
      const Buffer before_act = make(2 * count * R), scale = make(count * C), shift = make(2 * count * C);
      const Buffer planes = make(kWhole ? 2 * count * plane.size() : 0), position = make(kWhole ? count * S : 0);
      const Buffer grad_maps = make(2 * count * S);
      const Partial both = over_channels(count, team);

      statistics(begin, end, team, mean_max);
      channel_gates(count, team, mean_max, before_act.get(), static_cast<A*>(b.hidden) + begin * R, scale.get());
      maps(begin, end, team, scale.get(), both);
      if constexpr (kWhole) {
        position_gates(count, team, both, planes.get(), position.get());
      }

      // Of every position, the gradient of its gate, and how many channels are at the maximum.
      const Partial of_positions = over_channels(count, team);
      team.share([&](Part part) {
        for (int64_t n = begin; n < end; ++n) {
          const int64_t i = n - begin;
          const Gates<1> channel{scale.get() + i * C};
          if constexpr (kWhole) {
            reduce_over_channels<T, Reduce::Sum, Reduce::Sum>(
                space, part, channel, Gates<2>{both.of(i)[1], position.get() + i * S}, inputs(n, kind, b.grad, b.out),
                of_positions.of(i), [&](const auto& c, const auto& p, const auto& v) {
                  const Vec<A> y = v[0] * c[0];
                  return Values<A, 2>{Vec<A>(inner_grad(kind, v, y, p[1]) * y), is_equal(y, p[0])};
                });
          } else {
            reduce_over_channels<T, Reduce::Sum>(
                space, part, channel, Gates<1>{both.of(i)[1]}, inputs(n, kind, b.grad, b.out),
                Arrays<A, 1>{of_positions.of(i)[1]}, [&](const auto& c, const auto& p, const auto& v) {
                  return Values<A, 1>{is_equal(Vec<A>(v[0] * c[0]), p[0])};
                });
          }
        }
      });
      team(count, S * 4 * area, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
          A* grads = grad_maps.get() + 2 * i * S;
          if constexpr (kWhole) {
            const auto [sums, equal] = of_positions.template combined<Reduce::Sum, Reduce::Sum>(i);
            convolution_backward(i, sums, planes.get(), position.get(), turned.get(), grads,
                                 static_cast<A*>(b.spatial_weight) + (begin + i) * 2 * area,
                                 static_cast<A*>(b.spatial_bias) + begin + i);
            map(S, grads + S, [](Vec<A> g, Vec<A> n) { return quiet(g / n); }, grads + S, equal);
          } else {
            A* equal = of_positions.of(i)[1];
            combine_partial_rows<Reduce::Sum>(equal, of_positions.rows, S);
            const A* given = static_cast<const A*>(b.grad_maps) + 2 * (begin + i) * S;
            std::copy(given, given + S, grads);
            map(S, grads + S, [](Vec<A> g, Vec<A> n) { return quiet(g / n); }, given + S, equal);
          }
          const A share = A(1) / static_cast<A>(C);
          map(S, grads, [&](Vec<A> g) { return quiet(g * share); }, grads);
        }
      });

      // The gates of positions: maximum, gradients of the mean and of the maximum, and the gate itself.
      auto positions = [&](int64_t i) {
        const A* grads = grad_maps.get() + 2 * i * S;
        Gates<kPosition> gates{both.of(i)[1], grads, grads + S};
        if constexpr (kWhole) {
          gates[3] = position.get() + i * S;
        }
        return gates;
      };
      // The gradients of x * scale, and of what went into post.
      auto gradients = [&](const auto& v, Vec<A> y, const auto& p) {
        const Vec<A> of_maps = p[1] + (y == p[0] ? p[2] : Vec<A>{});
        if constexpr (kWhole) {
          const Vec<A> inner = inner_grad(kind, v, y, p[3]);
          return Values<A, 2>{Vec<A>(inner * p[3] + of_maps), inner};
        } else {
          return Values<A, 2>{of_maps, Vec<A>{}};
        }
      };

      // Of every channel, the gradient of its scale, and how many positions are at the maximum.
      const Partial of_channels = over_space(count, team);
      team.share([&](Part part) {
        for (int64_t n = end; n-- > begin;) {
          const int64_t i = n - begin;
          reduce_over_space<T, Reduce::Sum, Reduce::Sum>(
              space, part, Gates<2>{scale.get() + i * C, mean_max + (2 * i + 1) * C}, positions(i),
              inputs(n, kind, b.grad, b.out), of_channels.of(i), [&](const auto& c, const auto& p, const auto& v) {
                return Values<A, 2>{Vec<A>(gradients(v, Vec<A>(v[0] * c[0]), p)[0] * v[0]), is_equal(v[0], c[1])};
              });
        }
      });
      for (int64_t i = 0; i < count; ++i) {
        A* sums = of_channels.template combined<Reduce::Sum, Reduce::Sum>(i)[0];
        if constexpr (!kWhole) {
          const A* given = static_cast<const A*>(b.grad_scale) + (begin + i) * C;
          map(C, sums, [](Vec<A> g, Vec<A> other) { return g + other; }, sums, given);
        }
        map(
            C, grad_gate + i * C, [&](Vec<A> g, Vec<A> s) { return g * gate_slope<A>(s, args.gate); }, sums,
            scale.get() + i * C);
      }
      mlp_backward(count, team, before_act.get(), grad_gate, static_cast<A*>(b.grad_act) + 2 * begin * R, shift.get());
      const A share = A(1) / static_cast<A>(S);
      for (int64_t i = 0; i < count; ++i) {
        A *of_mean = shift.get() + 2 * i * C, *of_maximum = of_mean + C;
        map(C, of_mean, [&](Vec<A> g) { return quiet(g * share); }, of_mean);
        map(C, of_maximum, [](Vec<A> g, Vec<A> n) { return quiet(g / n); }, of_maximum, of_channels.of(i)[1]);
      }

      with_bool(b.grad_residual != nullptr, [&](auto has_residual) {
        constexpr size_t kOut = has_residual ? 2 : 1;
        team.share([&](Part part) {
          for (int64_t n = begin; n < end; ++n) {
            const int64_t i = n - begin;
            Arrays<T, kOut> out{sample(b.grad_x, n)};
            if constexpr (has_residual) {
              out[1] = sample(b.grad_residual, n);
            }
            const A *maximum = mean_max + (2 * i + 1) * C, *grads = shift.get() + 2 * i * C;
            transform<T>(space, part, Gates<4>{scale.get() + i * C, maximum, grads, grads + C}, positions(i),
                         inputs(n, kind, b.grad, b.out), out, args.stream,
                         [&](const auto& c, const auto& p, const auto& v) {
                           const Values<A, 2> g = gradients(v, Vec<A>(v[0] * c[0]), p);
                           Values<A, kOut> result{Vec<A>(g[0] * c[0] + c[2] + (v[0] == c[1] ? c[3] : Vec<A>{}))};
                           if constexpr (has_residual) {
                             result[1] = g[1];
                           }
                           return result;
                         });
          }
        });
      });
    });
  }

  void backward(const CbamBackward& b) const {
    b.grad ? with_post([&](auto post) { backward(b, post); })
           : backward(b, std::integral_constant<Incoming, Incoming::Absent>{});
  }

  void apply_backward(const CbamApplyBackward& b) const {
    const int64_t C = args.channels, S = space.positions;
    for_groups(schedule, [&](int64_t begin, int64_t end, const Team& team) {
      const int64_t count = end - begin;
      const Buffer scale = make(count * C), position = make(count * S);
      given_gates(begin, end, scale.get(), position.get());
      with_post([&](auto post) {
        // Sums of gradient times x over channels and over space; each has a second array that is not used.
        const Partial of_positions = over_channels(count, team), of_channels = over_space(count, team);
        team.share([&](Part part) {
          for (int64_t n = begin; n < end; ++n) {
            const int64_t i = n - begin;
            const Gates<1> channel{scale.get() + i * C}, at{position.get() + i * S};
            const auto in = inputs(n, post, b.grad, b.out);
            reduce_over_channels<T, Reduce::Sum>(space, part, channel, at, in, Arrays<A, 1>{of_positions.of(i)[0]},
                                                 [&](const auto& c, const auto& p, const auto& v) {
                                                   const Vec<A> y = v[0] * c[0];
                                                   return Values<A, 1>{Vec<A>(inner_grad(post, v, y, p[0]) * y)};
                                                 });
            reduce_over_space<T, Reduce::Sum>(
                space, part, channel, at, in, Arrays<A, 1>{of_channels.of(i)[0]},
                [&](const auto& c, const auto& p, const auto& v) {
                  return Values<A, 1>{Vec<A>(inner_grad(post, v, Vec<A>(v[0] * c[0]), p[0]) * p[0] * v[0])};
                });
          }
        });
        for (int64_t i = 0; i < count; ++i) {
          A *at = of_positions.of(i)[0], *channel = of_channels.of(i)[0];
          combine_partial_rows<Reduce::Sum>(at, of_positions.rows, S);
          combine_partial_rows<Reduce::Sum>(channel, of_channels.rows, C);
          map(
              S, static_cast<A*>(b.grad_logits) + (begin + i) * S,
              [&](Vec<A> g, Vec<A> t) { return g * gate_slope<A>(t, args.gate); }, at, position.get() + i * S);
          std::copy(channel, channel + C, static_cast<A*>(b.grad_scale) + (begin + i) * C);
        }
        with_bool(b.grad_residual != nullptr, [&](auto has_residual) {
          constexpr size_t kOut = has_residual ? 2 : 1;
          team.share([&](Part part) {
            for (int64_t n = end; n-- > begin;) {
              const int64_t i = n - begin;
              Arrays<T, kOut> out{sample(b.grad_x, n)};
              if constexpr (has_residual) {
                out[1] = sample(b.grad_residual, n);
              }
              transform<T>(space, part, Gates<1>{scale.get() + i * C}, Gates<1>{position.get() + i * S},
                           inputs(n, post, b.grad, b.out), out, args.stream,
                           [&](const auto& c, const auto& p, const auto& v) {
                             const Vec<A> inner = inner_grad(post, v, Vec<A>(v[0] * c[0]), p[0]);
                             Values<A, kOut> result{Vec<A>(inner * p[0] * c[0])};
                             if constexpr (has_residual) {
                               result[1] = inner;
                             }
                             return result;
                           });
            }
          });
        });
      });
    });
  }
};

void cbam_kernel(const Cbam& args) {
  with_type(args.type, [&](auto element) { Attend<decltype(element)>{args}.forward(); });
}

void cbam_channels_kernel(const CbamChannels& args) {
  with_type(args.forward.type, [&](auto element) {
    using A = Acc<decltype(element)>;
    Attend<decltype(element)>{args.forward}.channels(static_cast<A*>(args.scale), static_cast<A*>(args.maps));
  });
}

void cbam_apply_kernel(const Cbam& args) {
  with_type(args.type, [&](auto element) { Attend<decltype(element)>{args}.apply(); });
}

void cbam_backward_kernel(const CbamBackward& args) {
  with_type(args.forward.type, [&](auto element) {
    const int64_t reads = !args.grad ? 1 : args.forward.post == Activation::None ? 2 : 3;
    Attend<decltype(element)>{args.forward, reads}.backward(args);
  });
}

void cbam_apply_backward_kernel(const CbamApplyBackward& args) {
  with_type(args.forward.type, [&](auto element) {
    const int64_t reads = args.forward.post == Activation::None ? 2 : 3;
    Attend<decltype(element)>{args.forward, reads}.apply_backward(args);
  });
}

}  // namespace TVC_ISA
}  // namespace tvc

#ifdef TVC_REGISTER  // once, not for each instruction set

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/cbam.h"
#include "pages.h"

TVC_KERNEL(cbam_kernel, Cbam)
TVC_KERNEL(cbam_channels_kernel, CbamChannels)
TVC_KERNEL(cbam_apply_kernel, Cbam)
TVC_KERNEL(cbam_backward_kernel, CbamBackward)
TVC_KERNEL(cbam_apply_backward_kernel, CbamApplyBackward)

namespace tvc {
namespace {

struct Kernels {
  static Cbam of_x(const Tensor& x, Gate gate) {
    Cbam args{};
    args.type = args.weight_type = args.spatial_type = x.scalar_type();
    args.samples = x.size(0);
    args.channels = x.size(1);
    args.height = x.size(2);
    args.width = x.size(3);
    args.k = 1;
    args.channels_last = extents(x).channels_last;
    args.stream = exceeds_caches(bytes(x));
    args.post = Activation::None;
    args.gate = gate;
    args.x = x.const_data_ptr();
    return args;
  }

  static Cbam of_channels(const CbamChannelsTensors& t) {
    Cbam args = of_x(t.x, t.gate);
    args.weight_type = t.w1.scalar_type();
    args.reduced = t.w1.size(0);
    args.act = t.act;
    args.w1 = t.w1.const_data_ptr();
    args.b1 = data_or_null(t.b1);
    args.w2 = t.w2.const_data_ptr();
    args.b2 = data_or_null(t.b2);
    return args;
  }

  static Cbam of_all(const CbamTensors& t) {
    Cbam args = of_channels(t);
    args.spatial_type = t.spatial_weight.scalar_type();
    args.k = t.spatial_weight.size(2);
    args.spatial_weight = t.spatial_weight.const_data_ptr();
    args.spatial_bias = data_or_null(t.spatial_bias);
    args.residual = data_or_null(t.residual);
    args.post = t.post;
    return args;
  }

  static Cbam of_apply(const CbamApplyTensors& t) {
    Cbam args = of_x(t.x, t.gate);
    args.spatial_type = t.logits.scalar_type();
    args.scale = t.scale.const_data_ptr();
    args.logits = t.logits.const_data_ptr();
    args.residual = data_or_null(t.residual);
    args.post = t.post;
    return args;
  }

  static void* output(const Tensor& t) {
    if (t.numel() == 0) {
      return nullptr;
    }
    advise_huge_pages(t.mutable_data_ptr(), bytes(t));
    return t.mutable_data_ptr();
  }

  static void forward(const CbamTensors& t, Tensor& out) {
    Cbam args = of_all(t);
    args.out = out.mutable_data_ptr();
    if (args.out == args.x) {
      args.stream = false;  // its lines are in the caches already
    } else {
      output(out);
    }
    cbam_kernel(args);
  }

  static void channels(const CbamChannelsTensors& t, Tensor& scale, Tensor& maps) {
    cbam_channels_kernel({of_channels(t), scale.mutable_data_ptr(), maps.mutable_data_ptr()});
  }

  static void apply(const CbamApplyTensors& t, Tensor& out) {
    Cbam args = of_apply(t);
    args.out = output(out);
    cbam_apply_kernel(args);
  }

  static CbamBackward of_gradients(const Cbam& forward, const CbamChannelsGradients& g) {
    CbamBackward args{};
    args.forward = forward;
    args.grad_x = output(g.x);
    args.statistics = g.statistics.mutable_data_ptr();
    args.hidden = g.hidden.mutable_data_ptr();
    args.grad_gate = g.grad_gate.mutable_data_ptr();
    args.grad_act = g.grad_act.mutable_data_ptr();
    return args;
  }

  static void backward(const CbamTensors& t, CbamGradients& g) {
    CbamBackward args = of_gradients(of_all(t), g);
    args.grad = g.grad.const_data_ptr();
    args.out = data_or_null(g.out);
    args.grad_residual = output(g.residual);
    args.spatial_weight = g.spatial_weight.mutable_data_ptr();
    args.spatial_bias = g.spatial_bias.mutable_data_ptr();
    cbam_backward_kernel(args);
  }

  static void channels_backward(const CbamChannelsTensors& t, const Tensor& grad_scale, const Tensor& grad_maps,
                                CbamChannelsGradients& g) {
    CbamBackward args = of_gradients(of_channels(t), g);
    args.grad_scale = grad_scale.const_data_ptr();
    args.grad_maps = grad_maps.const_data_ptr();
    cbam_backward_kernel(args);
  }

  static void apply_backward(const CbamApplyTensors& t, CbamApplyGradients& g) {
    cbam_apply_backward_kernel({of_apply(t), g.grad.const_data_ptr(), data_or_null(g.out), output(g.x), output(g.residual),
                                g.scale.mutable_data_ptr(), g.logits.mutable_data_ptr()});
  }
};

}  // namespace
}  // namespace tvc

STABLE_TORCH_LIBRARY_IMPL(tvc, CPU, m) {
  m.impl("cbam", TORCH_BOX(&tvc::cbam<tvc::Kernels>));
  m.impl("_cbam_", TORCH_BOX(&tvc::cbam_<tvc::Kernels>));
  m.impl("_cbam_backward", TORCH_BOX(&tvc::cbam_backward<tvc::Kernels>));
  m.impl("_cbam_channels", TORCH_BOX(&tvc::cbam_channels<tvc::Kernels>));
  m.impl("_cbam_channels_backward", TORCH_BOX(&tvc::cbam_channels_backward<tvc::Kernels>));
  m.impl("_cbam_apply", TORCH_BOX(&tvc::cbam_apply<tvc::Kernels>));
  m.impl("_cbam_apply_backward", TORCH_BOX(&tvc::cbam_apply_backward<tvc::Kernels>));
}

#endif
