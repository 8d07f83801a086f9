// tvc::squeeze_excite on the CPU. A sample (or a group of small ones) is read for its means, gated, and read again from cache.

#include <torch/headeronly/core/ScalarType.h>

#include <cstdlib>
#include <memory>

#include "dispatch.h"
#include "linear.h"
#include "space.h"

namespace tvc {

struct SqueezeExcite {
  torch::headeronly::ScalarType type, weight_type;
  int64_t samples, channels, positions, reduced;
  bool channels_last;
  bool stream;  // the output is too large to stay in a cache
  Activation act, post;
  Gate gate;
  const void *x, *w1, *b1, *w2, *b2, *residual;
  void* out;
};

struct SqueezeExciteBackward {
  SqueezeExcite forward;  // its `out` is not written
  const void *grad, *out;
  void *grad_x, *grad_residual;
  // For the gradients of the weights, in the accumulation type: (samples, channels) or (samples, reduced).
  void *mean, *hidden, *grad_gate, *grad_act;
};

namespace TVC_ISA {

template <class A>
using Buffer = std::unique_ptr<A[]>;

enum class Post { None, Relu, Other };

template <class T>
struct Excite {
  using A = Acc<T>;

  const SqueezeExcite& args;
  Space space{args.channels, args.positions, args.channels_last};
  Schedule schedule{args.samples, space.size() * static_cast<int64_t>(sizeof(T)),
                    2 * args.reduced * args.channels * static_cast<int64_t>(sizeof(A)), space.max_parts()};
  int64_t sum_stride = space.partial_rows(schedule.parts()) * args.channels;  // of one sample

  // f(W{}) for the type of the weights: that of x, or float beside a half x.
  template <class F>
  void with_weights(const F& f) const {
    args.weight_type == args.type ? f(T{}) : f(A{});
  }

  // means = sums / S of samples begin to end.
  void means(int64_t begin, int64_t end, int64_t parts, A* sums, A* mean) const {
    const A share = A(1) / static_cast<A>(args.positions);
    for (int64_t n = begin; n < end; ++n) {
      combine_partial_rows<Reduce::Sum>(sums + n * sum_stride, space.partial_rows(parts), args.channels);
      map(args.channels, mean + n * args.channels, [&](Vec<A> v) { return v * share; }, sums + n * sum_stride);
    }
  }

  // scale = gate(w2 · act(w1 · mean + b1) + b2) of samples begin to end; before_act (may be hidden) keeps w1 · mean + b1.
  template <class Split>
  void gates(int64_t begin, int64_t end, const Split& split, const A* mean, A* before_act, A* hidden, A* scale) const {
    const int64_t C = args.channels, R = args.reduced, n = end - begin;
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
        map(j - i, scale + s * C + i, [&](Vec<A> v) { return gate_of<A>(v, args.gate); }, scale + s * C + i);
      }
    });
  }

  void forward() const {
    const int64_t C = args.channels;
    Buffer<A> sums(new A[args.samples * sum_stride]), mean(new A[args.samples * C]), scale(new A[args.samples * C]);
    Buffer<A> hidden(new A[args.samples * args.reduced]);
    with_bool(args.residual != nullptr, [&](auto has_residual) {
      with_post([&](auto post) {
        two_passes(
            schedule,
            [&](int64_t begin, int64_t end, Part part) {
              for (int64_t n = begin; n < end; ++n) {
                sum(n, part, sums.get());
              }
            },
            [&](int64_t begin, int64_t end, auto split, int64_t parts) {
              means(begin, end, parts, sums.get(), mean.get());
              gates(begin, end, split, mean.get(), hidden.get(), hidden.get(), scale.get());
            },
            [&](int64_t begin, int64_t end, Part part) {
              for (int64_t n = end; n-- > begin;) {  // backwards: what was read last is nearest
                apply(n, part, post, has_residual, scale.get() + n * C);
              }
            });
      });
    });
  }

  // f(std::integral_constant<Post, kind>): relu and none are compiled apart, the others ask at each vector.
  template <class F>
  void with_post(const F& f) const {
    switch (args.post) {
      case Activation::None:
        return f(std::integral_constant<Post, Post::None>{});
      case Activation::Relu:
        return f(std::integral_constant<Post, Post::Relu>{});
      default:
        return f(std::integral_constant<Post, Post::Other>{});
    }
  }

  // Sums over space of sample n.
  void sum(int64_t n, Part part, A* sums) const {
    const Arrays<const T, 1> x{static_cast<const T*>(args.x) + n * space.size()};
    reduce_over_space<T, Reduce::Sum>(space, part, Arrays<const A, 0>{}, x, Arrays<A, 1>{sums + n * sum_stride},
                                      [](const auto&, const auto& v) { return v; });
  }

  // out = post(x * scale + residual) of sample n.
  template <class PostConstant, class HasResidual>
  void apply(int64_t n, Part part, PostConstant post, HasResidual has_residual, const A* scale) const {
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
                   if constexpr (post == Post::Relu) {
                     y = activate<A>(y, Activation::Relu);
                   } else if constexpr (post == Post::Other) {
                     y = activate<A>(y, kind);
                   }
                   return Values<A, 1>{y};
                 });
  }

  void backward(const SqueezeExciteBackward& b) const {
    const int64_t C = args.channels, R = args.reduced, N = args.samples;
    Buffer<A> sums(new A[N * sum_stride]), products(new A[N * sum_stride]);
    Buffer<A> scale(new A[N * C]), shift(new A[N * C]), before_act(new A[N * R]);
    A *mean = static_cast<A*>(b.mean), *hidden = static_cast<A*>(b.hidden);
    A *grad_gate = static_cast<A*>(b.grad_gate), *grad_act = static_cast<A*>(b.grad_act);
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
      if constexpr (post == Post::Relu) {
        return Vec<A>(v[2] <= Vec<A>{} ? Vec<A>{} : v[0]);  // NaN lets it through, as torch does
      } else if constexpr (post == Post::Other) {
        const Vec<A> y = v[1] * s;
        return Vec<A>(v[0] * slope<A>(residual ? Vec<A>(y + v[2]) : y, kind));
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
      const int64_t n = end - begin;
      if (!needs_input) {
        means(begin, end, parts, sums.get(), mean);
        gates(begin, end, split, mean, before_act.get(), hidden, scale.get());
      }
      for (int64_t s = begin; s < end; ++s) {
        combine_partial_rows<Reduce::Sum>(products.get() + s * sum_stride, space.partial_rows(parts), C);
        map(
            C, grad_gate + s * C, [&](Vec<A> g, Vec<A> v) { return g * gate_slope<A>(v, args.gate); },
            products.get() + s * sum_stride, scale.get() + s * C);
      }
      split(R, n * C, [&](int64_t i, int64_t j) {
        with_weights([&](auto weight) {
          const auto* w2 = static_cast<const decltype(weight)*>(args.w2);
          linear_transposed(grad_gate + begin * C, n, w2, C, R, grad_act + begin * R, i, j);
        });
        for (int64_t s = begin; s < end; ++s) {
          map(
              j - i, grad_act + s * R + i, [&](Vec<A> g, Vec<A> y) { return g * slope<A>(y, args.act); }, grad_act + s * R + i,
              before_act.get() + s * R + i);
        }
      });
      const A share = A(1) / static_cast<A>(args.positions);
      split(C, n * R, [&](int64_t i, int64_t j) {
        with_weights([&](auto weight) {
          const auto* w1 = static_cast<const decltype(weight)*>(args.w1);
          linear_transposed(grad_act + begin * R, n, w1, R, C, shift.get() + begin * C, i, j);
        });
        for (int64_t s = begin; s < end; ++s) {
          map(j - i, shift.get() + s * C + i, [&](Vec<A> v) { return quiet(v * share); }, shift.get() + s * C + i);
        }
      });
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
            gates(begin, end, split, mean, before_act.get(), hidden, scale.get());
          },
          [&](int64_t begin, int64_t end, Part part) {
            each(begin, end, [&](int64_t n) { first(n, part, std::integral_constant<Post, Post::Other>{}); });
          });
    }
    with_post([&](auto post) {
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

void squeeze_excite_kernel(const SqueezeExcite& args) {
  with_type(args.type, [&](auto element) { Excite<decltype(element)>{args}.forward(); });
}

void squeeze_excite_backward_kernel(const SqueezeExciteBackward& args) {
  with_type(args.forward.type, [&](auto element) { Excite<decltype(element)>{args.forward}.backward(args); });
}

}  // namespace TVC_ISA
}  // namespace tvc

#ifdef TVC_REGISTER  // once, not for each instruction set

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/squeeze_excite.h"
#include "pages.h"

TVC_KERNEL(squeeze_excite_kernel, SqueezeExcite)
TVC_KERNEL(squeeze_excite_backward_kernel, SqueezeExciteBackward)

namespace tvc {
namespace {

struct Kernels {
  static SqueezeExcite arguments(const SqueezeExciteTensors& t) {
    const Extents extent = extents(t.x);
    return {t.x.scalar_type(),
            t.w1.scalar_type(),
            extent.samples,
            extent.channels,
            extent.positions,
            t.w1.size(0),
            extent.channels_last,
            exceeds_caches(bytes(t.x)),
            t.act,
            t.post,
            t.gate,
            t.x.const_data_ptr(),
            t.w1.const_data_ptr(),
            data_or_null(t.b1),
            t.w2.const_data_ptr(),
            data_or_null(t.b2),
            data_or_null(t.residual),
            nullptr};
  }

  static void forward(const SqueezeExciteTensors& t, Tensor& out) {
    SqueezeExcite args = arguments(t);
    args.out = out.mutable_data_ptr();
    if (args.out == args.x) {
      args.stream = false;  // its lines are in the caches already
    } else {
      advise_huge_pages(args.out, bytes(t.x));
    }
    squeeze_excite_kernel(args);
  }

  static void backward(const SqueezeExciteTensors& t, SqueezeExciteGradients& g) {
    SqueezeExciteBackward args{arguments(t),
                               g.grad.const_data_ptr(),
                               data_or_null(g.out),
                               g.x.mutable_data_ptr(),
                               g.residual.numel() ? g.residual.mutable_data_ptr() : nullptr,
                               g.mean.mutable_data_ptr(),
                               g.hidden.mutable_data_ptr(),
                               g.grad_gate.mutable_data_ptr(),
                               g.grad_act.mutable_data_ptr()};
    advise_huge_pages(args.grad_x, bytes(t.x));
    if (args.grad_residual) {
      advise_huge_pages(args.grad_residual, bytes(t.x));
    }
    squeeze_excite_backward_kernel(args);
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
