// tvc::drop_path on CUDA: one pass. Where a sample's mask is 0, its branch is not read.

#include <torch/csrc/stable/library.h>

#include "../common/drop_path.h"
#include "tail.cuh"

namespace tvc {
namespace gpu {
namespace {

// One number for each sample, which is a row here.
template <class A>
struct SampleScale {
  const A* mask;

  template <int V, class Place>
  __device__ bool reads(const Place& place) const {
    A m[V];
    place.channel(mask, m);
    bool any = false;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      any = any || m[k] != 0;
    }
    return any;
  }

  template <int V, class Place>
  __device__ void times(const Place& place, const A (&x)[V], A (&y)[V]) const {
    A m[V];
    place.channel(mask, m);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      y[k] = m[k] == 0 ? A(0) : x[k] * m[k];  // not 0 * NaN
    }
  }
};

template <class T>
class DropPath {
  using A = Acc<T>;
  using Scale = SampleScale<A>;

 public:
  DropPath(const char* op, const DropPathTensors& t)
      : t_(t), device_(op, t.x), x_(data<T>(t.x)), residual_(data<T>(t.residual)),
        mask_(torch::stable::to(t.mask, accumulate_type(t.x))), scale_{data<A>(mask_)},
        space_{t.x.size(0), 1, t.x.numel() / t.x.size(0), false} {}

  void forward(T* out) const {
    with_bool(is_curved(t_.post), [&](auto curved) {
      visit_all<T>(
          device_, "drop_path", space_, fits_vectors<T>(space_, {x_, residual_, out}),
          Tail<T, curved, Scale>{x_, residual_, scale_, out, t_.post});
    });
  }

  void backward(TailGradients& g) const {
    const T *const grad = data<T>(g.grad), *const out = data<T>(g.out);
    T *const grad_x = data_to_write<T>(g.x), *const grad_residual = data_to_write<T>(g.residual);
    with_bool(is_curved(t_.post), [&](auto curved) {
      visit_all<T>(
          device_, "drop_path_backward", space_, fits_vectors<T>(space_, {x_, residual_, grad, out, grad_x, grad_residual}),
          TailBackward<T, curved, Scale>{{grad, out, x_, residual_, scale_, t_.post}, nullptr, grad_x, grad_residual});
    });
  }

 private:
  const DropPathTensors& t_;
  Device device_;
  const T *x_, *residual_;
  Tensor mask_;  // in the accumulation type: a few numbers, and half as many kernels to compile
  Scale scale_;
  Space space_;
};

}  // namespace
}  // namespace gpu

namespace {

struct Kernels {
  static void forward(const DropPathTensors& t, Tensor& out) {
    gpu::with_type(t.x.scalar_type(), [&](auto element) {
      using T = decltype(element);
      gpu::DropPath<T>(kDropPath, t).forward(gpu::data_to_write<T>(out));
    });
  }

  static void backward(const DropPathTensors& t, TailGradients& g) {
    gpu::with_type(t.x.scalar_type(), [&](auto element) {
      gpu::DropPath<decltype(element)>(kDropPathBackward, t).backward(g);
    });
  }
};

}  // namespace
}  // namespace tvc

STABLE_TORCH_LIBRARY_IMPL(tvc, CUDA, m) {
  m.impl("drop_path", TORCH_BOX(&tvc::drop_path<tvc::Kernels>));
  m.impl("_drop_path_", TORCH_BOX(&tvc::drop_path_<tvc::Kernels>));
  m.impl("_drop_path_backward", TORCH_BOX(&tvc::drop_path_backward<tvc::Kernels>));
}
