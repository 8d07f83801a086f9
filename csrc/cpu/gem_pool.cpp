// tvc::gem_pool on the CPU. One read; powers are products where every p is the same small integer, and exp(p * log(x))
// elsewhere.

#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <memory>

#include "dispatch.h"
#include "space.h"

namespace tvc {

struct GemPool {
  torch::headeronly::ScalarType type, p_type;
  int64_t samples, channels, positions;
  bool channels_last;
  int64_t p_size;  // 1, or channels
  double eps;
  const void *x, *p;
  void* out;
};

struct GemPoolBackward {
  GemPool forward;  // its `out` is not written
  bool stream;      // the gradient is too large to stay in a cache
  const void* grad;
  void *grad_x, *p_parts;  // p_parts (samples, channels), in the accumulation type, or null
};

namespace TVC_ISA {

// In place of an exponent that is known when this is compiled.
inline constexpr int kAnyPower = 0;

template <int kPower, class V>
inline V power_of(V x, V p) {
  if constexpr (kPower == 1) {
    return x;
  } else if constexpr (kPower == 2) {
    return x * x;
  } else if constexpr (kPower == 3) {
    return x * x * x;
  } else if constexpr (kPower == 4) {
    return (x * x) * (x * x);
  } else {
    return power(x, p);
  }
}

template <class T>
struct Gem {
  using A = Acc<T>;
  using Buffer = std::unique_ptr<A[]>;

  const GemPool& args;
  Space space{args.channels, args.positions, args.channels_last};
  Schedule schedule{args.samples, space.size() * static_cast<int64_t>(sizeof(T)), 0, space.max_parts()};
  Vec<A> eps = splat(static_cast<A>(args.eps));
  A share = A(1) / static_cast<A>(args.positions);
  Buffer p = [this] {  // for every channel
    Buffer all(new A[args.channels]);
    for (int64_t c = 0; c < args.channels; ++c) {
      const int64_t i = args.p_size == 1 ? 0 : c;
      all[c] = args.p_type == args.type ? to_acc(static_cast<const T*>(args.p)[i]) : static_cast<const A*>(args.p)[i];
    }
    return all;
  }();

  // f(std::integral_constant<int, power>): that of all channels where it is one of kPowers, else kAnyPower.
  template <int... kPowers, class F>
  void with_power(const F& f) const {
    const bool equal = std::all_of(p.get(), p.get() + args.channels, [&](A v) { return v == p[0]; });
    const bool found = equal && ((p[0] == kPowers && (f(std::integral_constant<int, kPowers>{}), true)) || ...);
    if (!found) {
      f(std::integral_constant<int, kAnyPower>{});
    }
  }

  Vec<A> clamped(Vec<A> v) const {
    return v < eps ? eps : v;  // NaN stays
  }

  Arrays<const T, 1> sample(int64_t n) const {
    return {static_cast<const T*>(args.x) + n * space.size()};
  }

  int64_t sum_stride(int64_t parts) const {
    return space.partial_rows(parts) * args.channels;
  }

  // Sums of powers over space, and, with two results, of powers times logarithms, which are their derivatives by p.
  template <int kPower, size_t kResults>
  void sum(int64_t n, Part part, const Arrays<A, kResults>& into) const {
    const auto f = [&](const auto& exponent, const auto& v) {
      const Vec<A> x = clamped(v[0]);
      if constexpr (kResults == 1) {
        return Values<A, 1>{power_of<kPower>(x, exponent[0])};
      } else {
        const Vec<A> log_x = log(x);
        const Vec<A> y = kPower == kAnyPower ? exp_to_zero(exponent[0] * log_x) : power_of<kPower>(x, exponent[0]);
        return Values<A, 2>{y, y * log_x};
      }
    };
    const Arrays<const A, 1> exponents{p.get()};
    if constexpr (kResults == 1) {
      reduce_over_space<T, Reduce::Sum>(space, part, exponents, sample(n), into, f);
    } else {
      reduce_over_space<T, Reduce::Sum, Reduce::Sum>(space, part, exponents, sample(n), into, f);
    }
  }

  void forward() const {
    with_power<1, 2, 3, 4>([&](auto power_constant) {
      constexpr int kPower = decltype(power_constant)::value;
      const int64_t enough = std::max<int64_t>(1, schedule.sample_bytes / 32768);
      const int64_t C = args.channels, parts = std::min(schedule.parts(), enough), stride = sum_stride(parts);
      Buffer sums(new A[args.samples * stride]);
      const auto finish = [&](int64_t n) {
        A* total = sums.get() + n * stride;
        combine_partial_rows<Reduce::Sum>(total, space.partial_rows(parts), C);
        map(
            C, static_cast<T*>(args.out) + n * C,
            [&](Vec<A> v, Vec<A> exponent) { return quiet(kPower == 1 ? v * share : power(v * share, 1 / exponent)); }, total,
            p.get());
      };
      const int64_t grain = std::max<int64_t>(1, 32768 * parts / std::max<int64_t>(schedule.sample_bytes, 1));
      parallel_for(args.samples * parts, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          sum<kPower>(i / parts, Part{i % parts, parts}, Arrays<A, 1>{sums.get() + i / parts * stride});
          if (parts == 1) {
            finish(i);
          }
        }
      });
      if (parts > 1) {
        for (int64_t n = 0; n < args.samples; ++n) {
          finish(n);
        }
      }
    });
  }

  // From those sums of sample n: the factor of its gradients, and its share of the gradient of p.
  void factors(const GemPoolBackward& b, int64_t n, const A* sums, const A* with_log, A* factor) const {
    const int64_t C = args.channels;
    const T* grad = static_cast<const T*>(b.grad) + n * C;
    map(
        C, factor, [&](Vec<A> sum, Vec<A> g, Vec<A> e) { return quiet(g * power(sum * share, 1 / e - 1) * share); }, sums, grad,
        p.get());
    if (with_log) {
      map(
          C, static_cast<A*>(b.p_parts) + n * C,
          [&](Vec<A> sum, Vec<A> sum_with_log, Vec<A> g, Vec<A> e) {
            const Vec<A> log_out = log(sum * share) / e;
            return g * exp_to_zero(log_out) / e * (sum_with_log / sum - log_out);
          },
          sums, with_log, grad, p.get());
    }
  }

  template <int kPower>
  void write(const GemPoolBackward& b, int64_t n, Part part, const A* factor) const {
    const Arrays<T, 1> out{static_cast<T*>(b.grad_x) + n * space.size()};
    transform<T>(
        space, part, Arrays<const A, 2>{factor, p.get()}, sample(n), out, b.stream, [&](const auto& gates, const auto& v) {
          const Vec<A> slope = gates[0] * power_of<kPower == kAnyPower ? kAnyPower : kPower - 1>(clamped(v[0]), gates[1] - 1);
          return Values<A, 1>{v[0] >= eps ? slope : Vec<A>{}};
        });
  }

  void backward(const GemPoolBackward& b) const {
    const int64_t N = args.samples, C = args.channels, stride = sum_stride(schedule.parts());
    Buffer sums(new A[N * stride]), with_log(b.p_parts ? new A[N * stride] : nullptr), factor(new A[N * C]);
    with_power<3>([&](auto power_constant) {
      constexpr int kPower = decltype(power_constant)::value;
      two_passes(
          schedule,
          [&](int64_t begin, int64_t end, Part part) {
            for (int64_t n = begin; n < end; ++n) {
              A* into = sums.get() + n * stride;
              with_log ? sum<kPower>(n, part, Arrays<A, 2>{into, with_log.get() + n * stride})
                       : sum<kPower>(n, part, Arrays<A, 1>{into});
            }
          },
          [&](int64_t begin, int64_t end, const auto&, int64_t parts) {
            for (int64_t n = begin; n < end; ++n) {
              A *total = sums.get() + n * stride, *logs = with_log ? with_log.get() + n * stride : nullptr;
              combine_partial_rows<Reduce::Sum>(total, space.partial_rows(parts), C);
              if (logs) {
                combine_partial_rows<Reduce::Sum>(logs, space.partial_rows(parts), C);
              }
              factors(b, n, total, logs, factor.get() + n * C);
            }
          },
          [&](int64_t begin, int64_t end, Part part) {
            for (int64_t n = end; n-- > begin;) {  // backwards: what was read last is nearest
              write<kPower>(b, n, part, factor.get() + n * C);
            }
          });
    });
  }
};

void gem_pool_kernel(const GemPool& args) {
  with_type(args.type, [&](auto element) { Gem<decltype(element)>{args}.forward(); });
}

void gem_pool_backward_kernel(const GemPoolBackward& args) {
  with_type(args.forward.type, [&](auto element) { Gem<decltype(element)>{args.forward}.backward(args); });
}

}  // namespace TVC_ISA
}  // namespace tvc

#ifdef TVC_REGISTER  // once, not for each instruction set

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/gem_pool.h"
#include "pages.h"

TVC_KERNEL(gem_pool_kernel, GemPool)
TVC_KERNEL(gem_pool_backward_kernel, GemPoolBackward)

namespace tvc {
namespace {

struct Kernels {
  static GemPool arguments(const GemPoolTensors& t) {
    const Extents extent = extents(t.x);
    return {t.x.scalar_type(),    t.p.scalar_type(),    extent.samples, extent.channels,
            extent.positions,     extent.channels_last, t.p.size(0),    t.eps,
            t.x.const_data_ptr(), t.p.const_data_ptr(), nullptr};
  }

  static void forward(const GemPoolTensors& t, Tensor& out) {
    GemPool args = arguments(t);
    args.out = out.mutable_data_ptr();
    gem_pool_kernel(args);
  }

  static void backward(const GemPoolTensors& t, GemPoolGradients& g) {
    const GemPoolBackward args{arguments(t), exceeds_caches(bytes(t.x)), g.grad.const_data_ptr(), g.x.mutable_data_ptr(),
                               g.p_grad ? g.p_parts.mutable_data_ptr() : nullptr};
    advise_huge_pages(args.grad_x, bytes(t.x));
    gem_pool_backward_kernel(args);
  }
};

}  // namespace
}  // namespace tvc

STABLE_TORCH_LIBRARY_IMPL(tvc, CPU, m) {
  m.impl("gem_pool", TORCH_BOX(&tvc::gem_pool<tvc::Kernels>));
  m.impl("_gem_pool_backward", TORCH_BOX(&tvc::gem_pool_backward<tvc::Kernels>));
}

#endif
