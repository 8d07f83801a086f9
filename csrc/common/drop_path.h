#pragma once
// What drop_path checks and prepares on every device.

#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "tail.h"

namespace tvc {

inline constexpr const char* kDropPath = "drop_path";
inline constexpr const char* kDropPathBackward = "_drop_path_backward";

// The arguments, checked, dense, and in the layout of x.
struct DropPathTensors {
  DropPathTensors(const char* op, const Tensor& x_, const Tensor& mask_, const std::optional<Tensor>& residual_,
                  const std::string& post_) {
    if (x_.dim() < 1) {
      fail(op, "x must be (N, *), got ", shape_of(x_));
    }
    check_type(op, x_);
    post = activation(op, "post", post_);
    check_tensor(op, "mask", mask_, x_, {{x_.size(0)}}, {x_.scalar_type(), accumulate_type(x_)});
    check_like(op, "residual", residual_, x_);

    x = dense(x_);
    mask = packed(mask_);
    if (residual_) {
      residual = with_layout_of(*residual_, x);
    }
  }

  Tensor x, mask;
  std::optional<Tensor> residual;
  Activation post;
};

// The ops, with the argument list that all devices share. Kernels::forward(tensors, out) writes out, which may be x;
// Kernels::backward(tensors, gradients) writes x and residual. Neither is called where x has no elements.

template <class Kernels>
Tensor drop_path(Tensor x, Tensor mask, std::optional<Tensor> residual, std::string post) {
  const DropPathTensors t(kDropPath, x, mask, residual, post);
  Tensor out = torch::stable::empty_like(t.x);
  if (out.numel() > 0) {
    Kernels::forward(t, out);
  }
  return out;
}

template <class Kernels>
void drop_path_(Tensor x, Tensor mask, std::optional<Tensor> residual, std::string post) {
  const DropPathTensors t(kDropPath, x, mask, residual, post);
  in_place(x, t.x, [&](Tensor& out) { Kernels::forward(t, out); });
}

// For post 'none' and 'relu' x is not read, and only its layout counts.
template <class Kernels>
std::tuple<Tensor, Tensor> drop_path_backward(Tensor grad, Tensor x, Tensor mask, std::optional<Tensor> residual,
                                              std::string post, std::optional<Tensor> out, bool residual_grad) {
  const DropPathTensors t(kDropPathBackward, x, mask, residual, post);
  TailGradients g(kDropPathBackward, t.x, t.post, grad, out, residual_grad);
  if (t.x.numel() > 0) {
    Kernels::backward(t, g);
  }
  return {g.x, g.residual};
}

}  // namespace tvc
