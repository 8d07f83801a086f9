// tvc::drop_path on the CPU. One pass, split evenly over the threads, wherever samples begin and end.

#include <torch/headeronly/core/ScalarType.h>

#include <memory>

#include "dispatch.h"
#include "space.h"
#include "tail.h"

namespace tvc {

struct DropPath {
  torch::headeronly::ScalarType type, mask_type;
  int64_t samples, size;  // elements of a sample
  bool stream;            // the output is too large to stay in a cache
  Activation post;
  const void *x, *mask, *residual;
  void* out;
};

struct DropPathBackward {
  DropPath forward;  // its `out` is not written
  const void *grad, *out;
  void *grad_x, *grad_residual;
};

namespace TVC_ISA {

template <class T>
struct Drop {
  using A = Acc<T>;

  const DropPath& args;

  // f(mask, first, length) over runs of elements of one sample.
  template <class F>
  void each_run(const F& f) const {
    constexpr int64_t kBlock = 4096 / sizeof(T);  // threads meet where a block ends, so that outputs stay aligned
    const int64_t total = args.samples * args.size, blocks = (total + kBlock - 1) / kBlock;
    parallel_for(blocks, 8, [&](int64_t begin, int64_t end) {
      int64_t at = begin * kBlock;
      const int64_t stop = std::min(total, end * kBlock);
      while (at < stop) {
        const int64_t n = at / args.size, next = std::min(stop, (n + 1) * args.size);
        f(mask_of(n), at, next - at);
        at = next;
      }
    });
  }

  A mask_of(int64_t n) const {
    return args.mask_type == args.type ? to_acc(static_cast<const T*>(args.mask)[n]) : static_cast<const A*>(args.mask)[n];
  }

  // out = f(mask, inputs) at each element of a run.
  template <size_t kIn, size_t kOut, class F>
  void run(A mask, int64_t length, const Arrays<const T, kIn>& in, const Arrays<T, kOut>& out, const F& f) const {
    transform_rows<T>(0, 1, length, Arrays<const A, 1>{&mask}, Arrays<const A, 0>{}, in, out, args.stream,
                      [&](const auto& s, const auto&, const auto& v) { return f(s[0], v); });
  }

  void forward() const {
    const T *x = static_cast<const T*>(args.x), *residual = static_cast<const T*>(args.residual);
    T* out = static_cast<T*>(args.out);
    with_post(args.post, [&](auto post) {
      const auto finish = [kind = args.post](Vec<A> y) { return Values<A, 1>{apply_post<A, decltype(post)::value>(y, kind)}; };
      each_run([&](A mask, int64_t at, int64_t length) {
        const Arrays<T, 1> to{out + at};
        if (mask == 0) {
          residual ? run(mask, length, Arrays<const T, 1>{residual + at}, to, [&](auto, const auto& v) { return finish(v[0]); })
                   : zero(out + at, length);
        } else if (residual) {
          run(mask, length, Arrays<const T, 2>{x + at, residual + at}, to,
              [&](auto s, const auto& v) { return finish(v[0] * s + v[1]); });
        } else {
          run(mask, length, Arrays<const T, 1>{x + at}, to, [&](auto s, const auto& v) { return finish(v[0] * s); });
        }
      });
    });
  }

  void backward(const DropPathBackward& b) const {
    const T *grad = static_cast<const T*>(b.grad), *x = static_cast<const T*>(args.x);
    const T *residual = static_cast<const T*>(args.residual), *out = static_cast<const T*>(b.out);
    T *grad_x = static_cast<T*>(b.grad_x), *grad_residual = static_cast<T*>(b.grad_residual);
    with_post(args.post, [&](auto post) {
      with_bool(grad_residual != nullptr, [&](auto has_residual) {
        constexpr size_t kOut = has_residual ? 2 : 1;
        constexpr Post kPost = decltype(post)::value;
        // What is read beside the gradient: nothing, out, or x and residual.
        const auto inner_grad = [has = residual != nullptr, kind = args.post](Vec<A> s, const auto& v) {
          if constexpr (kPost == Post::None) {
            return v[0];
          } else if constexpr (kPost == Post::Relu) {
            return post_grad<A, kPost>(v[0], v[1], kind);
          } else {
            const Vec<A> y = v[1] * s;
            return post_grad<A, kPost>(v[0], has ? Vec<A>(y + v[2]) : y, kind);
          }
        };
        const auto inputs = [&](int64_t at) {
          if constexpr (kPost == Post::None) {
            return Arrays<const T, 1>{grad + at};
          } else if constexpr (kPost == Post::Relu) {
            return Arrays<const T, 2>{grad + at, out + at};
          } else {
            return Arrays<const T, 3>{grad + at, x + at, (residual ? residual : grad) + at};
          }
        };
        each_run([&](A mask, int64_t at, int64_t length) {
          if (mask == 0) {
            zero(grad_x + at, length);
            if constexpr (has_residual) {
              dropped<kPost>(length, grad + at,
                             (kPost == Post::Relu ? out
                              : residual          ? residual
                                                  : grad) +
                                 at,
                             grad_residual + at);
            }
            return;
          }
          Arrays<T, kOut> to{grad_x + at};
          if constexpr (has_residual) {
            to[1] = grad_residual + at;
          }
          run(mask, length, inputs(at), to, [&](auto s, const auto& v) {
            const Vec<A> g = inner_grad(s, v);
            Values<A, kOut> y{Vec<A>(g * s)};
            if constexpr (has_residual) {
              y[1] = g;
            }
            return y;
          });
        });
      });
    });
  }

  // The gradient of the residual where the branch was dropped: the residual alone went into post.
  template <Post post>
  void dropped(int64_t length, const T* grad, const T* out_or_residual, T* to) const {
    run(A(0), length, Arrays<const T, 2>{grad, out_or_residual}, Arrays<T, 1>{to},
        [kind = args.post](auto, const auto& v) { return Values<A, 1>{post_grad<A, post>(v[0], v[1], kind)}; });
  }

  static void zero(T* to, int64_t length) {
    std::memset(static_cast<void*>(to), 0, sizeof(T) * static_cast<size_t>(length));
  }
};

void drop_path_kernel(const DropPath& args) {
  with_type(args.type, [&](auto element) { Drop<decltype(element)>{args}.forward(); });
}

void drop_path_backward_kernel(const DropPathBackward& args) {
  with_type(args.forward.type, [&](auto element) { Drop<decltype(element)>{args.forward}.backward(args); });
}

}  // namespace TVC_ISA
}  // namespace tvc

#ifdef TVC_REGISTER  // once, not for each instruction set

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/drop_path.h"
#include "pages.h"

TVC_KERNEL(drop_path_kernel, DropPath)
TVC_KERNEL(drop_path_backward_kernel, DropPathBackward)

namespace tvc {
namespace {

struct Kernels {
  static DropPath arguments(const DropPathTensors& t) {
    return {t.x.scalar_type(),
            t.mask.scalar_type(),
            t.x.size(0),
            t.x.numel() / t.x.size(0),
            exceeds_caches(bytes(t.x)),
            t.post,
            t.x.const_data_ptr(),
            t.mask.const_data_ptr(),
            data_or_null(t.residual),
            nullptr};
  }

  static void forward(const DropPathTensors& t, Tensor& out) {
    DropPath args = arguments(t);
    args.out = out.mutable_data_ptr();
    if (args.out == args.x) {
      args.stream = false;  // its lines are in the caches already
    } else {
      advise_huge_pages(args.out, bytes(t.x));
    }
    drop_path_kernel(args);
  }

  static void backward(const DropPathTensors& t, TailGradients& g) {
    const DropPathBackward args{arguments(t), g.grad.const_data_ptr(), data_or_null(g.out), g.x.mutable_data_ptr(),
                                g.residual.numel() ? g.residual.mutable_data_ptr() : nullptr};
    advise_huge_pages(args.grad_x, bytes(t.x));
    if (args.grad_residual) {
      advise_huge_pages(args.grad_residual, bytes(t.x));
    }
    drop_path_backward_kernel(args);
  }
};

}  // namespace
}  // namespace tvc

STABLE_TORCH_LIBRARY_IMPL(tvc, CPU, m) {
  m.impl("drop_path", TORCH_BOX(&tvc::drop_path<tvc::Kernels>));
  m.impl("_drop_path_", TORCH_BOX(&tvc::drop_path_<tvc::Kernels>));
  m.impl("_drop_path_backward", TORCH_BOX(&tvc::drop_path_backward<tvc::Kernels>));
}

#endif
