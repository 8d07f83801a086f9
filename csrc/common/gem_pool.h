#pragma once
// What gem_pool checks and prepares on every device, and how the gradient of p is made.

#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "tail.h"

namespace tvc {

inline constexpr const char* kGemPool = "gem_pool";
inline constexpr const char* kGemPoolBackward = "_gem_pool_backward";

// The arguments, checked and dense.
struct GemPoolTensors {
  GemPoolTensors(const char* op, const Tensor& x_, const Tensor& p_, double eps_) : eps(eps_) {
    check_activation(op, x_);
    if (p_.dim() != 1 || (p_.size(0) != 1 && p_.size(0) != x_.size(1))) {
      fail(op, "p must be [1] or [", x_.size(1), "] for x with ", describe(x_), ", got ", shape_of(p_));
    }
    check_tensor(op, "p", p_, x_, {{p_.size(0)}}, {x_.scalar_type(), accumulate_type(x_)});
    if (!(eps > 0)) {
      fail(op, "eps must be above 0, got ", eps);
    }
    x = dense(x_);
    p = packed(p_);
  }

  Tensor x, p;
  double eps;
};

// What the backward writes. The kernel fills x and, where it is asked for, p_parts; finish() makes the rest.
struct GemPoolGradients {
  GemPoolGradients(const GemPoolTensors& t, const Tensor& grad_, bool p_grad_) : p_grad(p_grad_) {
    const int64_t n = t.x.size(0), channels = t.x.size(1);
    check_tensor(kGemPoolBackward, "grad", grad_, t.x, {{n}, {channels}}, {t.x.scalar_type()});
    grad = packed(grad_);
    x = torch::stable::empty_like(t.x);
    p_parts = p_grad ? scratch(t.x, {n, channels}) : nothing(t.x);
  }

  std::tuple<Tensor, Tensor> finish(const GemPoolTensors& t) const {
    if (!p_grad) {
      return {x, nothing(t.x)};
    }
    const bool one = t.p.size(0) == 1;
    return {x, sum_over_samples(one ? column(p_parts) : p_parts, t.p.scalar_type())};
  }

  Tensor grad;        // (N, C), given
  Tensor x, p_parts;  // to be written; p_parts (N, C): each output's share of the gradient of p, in the accumulation type
  bool p_grad;

 private:
  // All elements below each other: their sum has one element.
  static Tensor column(const Tensor& t) {
    const int64_t size[] = {t.numel(), 1};
    return torch::stable::view(t, torch::headeronly::IntHeaderOnlyArrayRef(size, 2));
  }
};

// The ops, with the argument list that all devices share. Kernels::forward(tensors, out) writes out (N, C), and is not called
// where out has no elements; x may have none. Kernels::backward(tensors, gradients) writes the gradients, and is not called
// where x has no elements.

template <class Kernels>
Tensor gem_pool(Tensor x, Tensor p, double eps) {
  const GemPoolTensors t(kGemPool, x, p, eps);
  Tensor out = torch::stable::new_empty(t.x, {t.x.size(0), t.x.size(1)});
  if (out.numel() > 0) {
    Kernels::forward(t, out);
  }
  return out;
}

template <class Kernels>
std::tuple<Tensor, Tensor> gem_pool_backward(Tensor grad, Tensor x, Tensor p, double eps, bool p_grad) {
  const GemPoolTensors t(kGemPoolBackward, x, p, eps);
  GemPoolGradients g(t, grad, p_grad);
  if (t.x.numel() > 0) {
    Kernels::backward(t, g);
  }
  return g.finish(t);
}

}  // namespace tvc
