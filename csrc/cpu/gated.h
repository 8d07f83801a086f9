#pragma once
// out = post(x * scale + residual), the scale of a channel made of the means over space: what squeeze_excite and eca share. A
// sample (or a group of small ones) is read for its means, gated, and read again from cache.
//
// How scales are made of means, and gradients of means of gradients of gates, each op says in a class `Gates`:
//   weight_bytes()                                     of weights that are read once a group
//   forward(begin, end, split, mean, scale)            scale = gate(...) of samples begin to end, all (samples, channels)
//   backward(begin, end, split, mean, grad_gate, grad_mean)  from the gradient of what went into gate
// `split` is Serial or Spread.

#include <torch/headeronly/core/ScalarType.h>

#include <memory>

#include "dispatch.h"
#include "space.h"
#include "tail.h"

namespace tvc {

struct Gated {
  torch::headeronly::ScalarType type, weight_type;
  int64_t samples, channels, positions;
  bool channels_last;
  bool stream;  // the output is too large to stay in a cache
  Activation post;
  Gate gate;
  const void *x, *residual;
  void* out;  // not written by the backward
};

struct GatedGradients {
  const void *grad, *out;
  void *grad_x, *grad_residual;
};

namespace TVC_ISA {

template <class A>
using Buffer = std::unique_ptr<A[]>;

template <class T, class Gates>
struct GatedPasses {
  using A = Acc<T>;

  const Gated& args;
  const Gates& gates;
  Space space{args.channels, args.positions, args.channels_last};
  Schedule schedule{args.samples, space.size() * static_cast<int64_t>(sizeof(T)), gates.weight_bytes(), space.max_parts()};
  int64_t sum_stride = space.partial_rows(schedule.parts()) * args.channels;  // of one sample

  // Sums over space of sample n.
  void sum(int64_t n, Part part, A* sums) const {
    const Arrays<const T, 1> x{static_cast<const T*>(args.x) + n * space.size()};
    reduce_over_space<T, Reduce::Sum>(space, part, Arrays<const A, 0>{}, x, Arrays<A, 1>{sums + n * sum_stride},
                                      [](const auto&, const auto& v) { return v; });
  }

  // means = sums / S of samples begin to end.
  void means(int64_t begin, int64_t end, int64_t parts, A* sums, A* mean) const {
    const A share = A(1) / static_cast<A>(args.positions);
    for (int64_t n = begin; n < end; ++n) {
      combine_partial_rows<Reduce::Sum>(sums + n * sum_stride, space.partial_rows(parts), args.channels);
      map(args.channels, mean + n * args.channels, [&](Vec<A> v) { return v * share; }, sums + n * sum_stride);
    }
  }

  void forward() const {
    const int64_t C = args.channels;
    Buffer<A> sums(new A[args.samples * sum_stride]), mean(new A[args.samples * C]), scale(new A[args.samples * C]);
    with_bool(args.residual != nullptr, [&](auto has_residual) {
      with_post(args.post, [&](auto post) {
        two_passes(
            schedule,
            [&](int64_t begin, int64_t end, Part part) {
              for (int64_t n = begin; n < end; ++n) {
                sum(n, part, sums.get());
              }
            },
            [&](int64_t begin, int64_t end, auto split, int64_t parts) {
              means(begin, end, parts, sums.get(), mean.get());
              gates.forward(begin, end, split, mean.get(), scale.get());
            },
            [&](int64_t begin, int64_t end, Part part) {
              for (int64_t n = end; n-- > begin;) {  // backwards: what was read last is nearest
                apply(n, part, post, has_residual, scale.get() + n * C);
              }
            });
      });
    });
  }

  // out = post(x * scale + residual) of sample n.
  template <class PostConstant, class HasResidual>
  void apply(int64_t n, Part part, PostConstant, HasResidual has_residual, const A* scale) const {
    constexpr size_t kIn = HasResidual::value ? 2 : 1;
    Arrays<const T, kIn> in{static_cast<const T*>(args.x) + n * space.size()};
    if constexpr (has_residual) {
      in[1] = static_cast<const T*>(args.residual) + n * space.size();
    }
    const Arrays<T, 1> out{static_cast<T*>(args.out) + n * space.size()};
    transform<T>(space, part, Arrays<const A, 1>{scale}, in, out, args.stream,
                 [=, kind = args.post](const auto& s, const auto& v) {
                   Vec<A> y = v[0] * s[0];
                   if constexpr (has_residual) {
                     y += v[1];
                   }
                   return Values<A, 1>{apply_post<A, PostConstant::value>(y, kind)};
                 });
  }

  // Writes the gradients, and for those of the weights `mean` and `grad_gate`, (samples, channels).
  void backward(const GatedGradients& b, A* mean, A* grad_gate) const {
    const int64_t C = args.channels, N = args.samples;
    Buffer<A> sums(new A[N * sum_stride]), products(new A[N * sum_stride]);
    Buffer<A> scale(new A[N * C]), shift(new A[N * C]);
    // What went into post: relu's slope is read off its output, the other ones' needs x * scale + residual again.
    const bool needs_input = args.post != Activation::None && args.post != Activation::Relu;

    // The inputs that the gradient before post is made of: the gradient, and x, out, or x and residual.
    auto inputs = [&](int64_t n, auto post) {
      const int64_t offset = n * space.size();
      auto at = [&](const void* data) { return data ? static_cast<const T*>(data) + offset : static_cast<const T*>(b.grad); };
      if constexpr (post == Post::Relu) {
        return Arrays<const T, 3>{at(b.grad), at(args.x), at(b.out)};
      } else if constexpr (post == Post::Other) {
        return Arrays<const T, 3>{at(b.grad), at(args.x), at(args.residual)};
      } else {
        return Arrays<const T, 2>{at(b.grad), at(args.x)};
      }
    };
    // The gradient that reaches x * scale + residual.
    auto inner_grad = [kind = args.post, residual = args.residual != nullptr](auto post, const auto& v, Vec<A> s) {
      constexpr Post kPost = decltype(post)::value;
      if constexpr (kPost == Post::Relu) {
        return post_grad<A, kPost>(v[0], v[2], kind);
      } else if constexpr (kPost == Post::Other) {
        const Vec<A> y = v[1] * s;
        return post_grad<A, kPost>(v[0], residual ? Vec<A>(y + v[2]) : y, kind);
      } else {
        return v[0];
      }
    };
    // Means, and sums over space of gradient times x, which is the gradient of the scale.
    auto first = [&](int64_t n, Part part, auto post) {
      const Arrays<A, 2> into{sums.get() + n * sum_stride, products.get() + n * sum_stride};
      reduce_over_space<T, Reduce::Sum, Reduce::Sum>(
          space, part, Arrays<const A, 1>{scale.get() + n * C}, inputs(n, post), into,
          [&](const auto& s, const auto& v) { return Values<A, 2>{v[1], Vec<A>(v[1] * inner_grad(post, v, s[0]))}; });
    };
    auto middle = [&](int64_t begin, int64_t end, const auto& split, int64_t parts) {
      if (!needs_input) {
        means(begin, end, parts, sums.get(), mean);
        gates.forward(begin, end, split, mean, scale.get());
      }
      for (int64_t s = begin; s < end; ++s) {
        combine_partial_rows<Reduce::Sum>(products.get() + s * sum_stride, space.partial_rows(parts), C);
        map(
            C, grad_gate + s * C, [&](Vec<A> g, Vec<A> v) { return g * gate_slope<A>(v, args.gate); },
            products.get() + s * sum_stride, scale.get() + s * C);
      }
      gates.backward(begin, end, split, mean, grad_gate, shift.get());
      const A share = A(1) / static_cast<A>(args.positions);
      map((end - begin) * C, shift.get() + begin * C, [&](Vec<A> v) { return quiet(v * share); }, shift.get() + begin * C);
    };
    auto second = [&](int64_t n, Part part, auto post, auto has_residual) {
      constexpr size_t kOut = has_residual ? 2 : 1;
      Arrays<T, kOut> out{static_cast<T*>(b.grad_x) + n * space.size()};
      if constexpr (has_residual) {
        out[1] = static_cast<T*>(b.grad_residual) + n * space.size();
      }
      transform<T>(space, part, Arrays<const A, 2>{scale.get() + n * C, shift.get() + n * C}, inputs(n, post), out, args.stream,
                   [&](const auto& s, const auto& v) {
                     const Vec<A> g = inner_grad(post, v, s[0]);
                     Values<A, kOut> y{Vec<A>(g * s[0] + s[1])};
                     if constexpr (has_residual) {
                       y[1] = g;
                     }
                     return y;
                   });
    };
    auto each = [](int64_t begin, int64_t end, const auto& f) {
      for (int64_t n = begin; n < end; ++n) {
        f(n);
      }
    };

    if (needs_input) {
      // The slope needs the scale, so the means come in a pass of their own, and the two others follow.
      two_passes(
          schedule,
          [&](int64_t begin, int64_t end, Part part) { each(begin, end, [&](int64_t n) { sum(n, part, sums.get()); }); },
          [&](int64_t begin, int64_t end, const auto& split, int64_t parts) {
            means(begin, end, parts, sums.get(), mean);
            gates.forward(begin, end, split, mean, scale.get());
          },
          [&](int64_t begin, int64_t end, Part part) {
            each(begin, end, [&](int64_t n) { first(n, part, std::integral_constant<Post, Post::Other>{}); });
          });
    }
    with_post(args.post, [&](auto post) {
      with_bool(b.grad_residual != nullptr, [&](auto has_residual) {
        two_passes(
            schedule,
            [&](int64_t begin, int64_t end, Part part) {
              if (!needs_input) {
                each(begin, end, [&](int64_t n) { first(n, part, post); });
              }
            },
            middle,
            [&](int64_t begin, int64_t end, Part part) {
              for (int64_t n = end; n-- > begin;) {
                second(n, part, post, has_residual);
              }
            });
      });
    });
  }
};

}  // namespace TVC_ISA
}  // namespace tvc

#ifdef TVC_REGISTER  // once, not for each instruction set

#include "../common/tail.h"
#include "pages.h"

namespace tvc {
namespace {

// What the kernels take, of an op's tensors.
template <class Tensors>
Gated gated(const Tensors& t, const Tensor& weight) {
  const Extents extent = extents(t.x);
  return {t.x.scalar_type(),
          weight.scalar_type(),
          extent.samples,
          extent.channels,
          extent.positions,
          extent.channels_last,
          exceeds_caches(bytes(t.x)),
          t.post,
          t.gate,
          t.x.const_data_ptr(),
          data_or_null(t.residual),
          nullptr};
}

template <class Tensors>
Gated gated(const Tensors& t, const Tensor& weight, Tensor& out) {
  Gated args = gated(t, weight);
  args.out = out.mutable_data_ptr();
  if (args.out == args.x) {
    args.stream = false;  // its lines are in the caches already
  } else {
    advise_huge_pages(args.out, bytes(t.x));
  }
  return args;
}

inline GatedGradients gated_gradients(TailGradients& g) {
  const GatedGradients args{g.grad.const_data_ptr(), data_or_null(g.out), g.x.mutable_data_ptr(),
                            g.residual.numel() ? g.residual.mutable_data_ptr() : nullptr};
  advise_huge_pages(args.grad_x, bytes(g.x));
  if (args.grad_residual) {
    advise_huge_pages(args.grad_residual, bytes(g.x));
  }
  return args;
}

}  // namespace
}  // namespace tvc

#endif
