#pragma once
// What squeeze_excite checks and prepares on every device, and how the gradients of its weights are made.

#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "tail.h"

namespace tvc {

inline constexpr const char* kSqueezeExcite = "squeeze_excite";
inline constexpr const char* kSqueezeExciteBackward = "_squeeze_excite_backward";

// The arguments, checked, dense, and in the layout of x.
struct SqueezeExciteTensors {
  SqueezeExciteTensors(const char* op, const Tensor& x_, const Tensor& w1_, const std::optional<Tensor>& b1_, const Tensor& w2_,
                       const std::optional<Tensor>& b2_, const std::string& act_, const std::string& gate_,
                       const std::optional<Tensor>& residual_, const std::string& post_) {
    check_activation(op, x_);
    act = activation(op, "act", act_);
    gate = gate_option(op, gate_);
    post = activation(op, "post", post_);
    const int64_t channels = x_.size(1);
    check_tensor(op, "w1", w1_, x_, {{kAny, "reduced"}, {channels}}, {x_.scalar_type(), accumulate_type(x_)});
    const int64_t reduced = w1_.size(0);
    const ScalarType weight = w1_.scalar_type();
    check_tensor(op, "b1", b1_, x_, {{reduced}}, {weight});
    check_tensor(op, "w2", w2_, x_, {{channels}, {reduced}}, {weight});
    check_tensor(op, "b2", b2_, x_, {{channels}}, {weight});
    check_like(op, "residual", residual_, x_);

    x = dense(x_);
    w1 = packed(w1_);
    w2 = packed(w2_);
    if (b1_) {
      b1 = packed(*b1_);
    }
    if (b2_) {
      b2 = packed(*b2_);
    }
    if (residual_) {
      residual = with_layout_of(*residual_, x);
    }
  }

  Tensor x, w1, w2;
  std::optional<Tensor> b1, b2, residual;
  Activation act, post;
  Gate gate;
};

// What the backward writes. The kernel fills x, residual, mean, hidden, grad_gate and grad_act; finish() makes the rest.
struct SqueezeExciteGradients : TailGradients {
  SqueezeExciteGradients(const SqueezeExciteTensors& t, const Tensor& grad_, const std::optional<Tensor>& out_,
                         bool residual_grad)
      : TailGradients(kSqueezeExciteBackward, t.x, t.post, grad_, out_, residual_grad) {
    const int64_t n = t.x.size(0), channels = t.x.size(1), reduced = t.w1.size(0);
    mean = scratch(t.x, {n, channels});
    hidden = scratch(t.x, {n, reduced});
    grad_gate = scratch(t.x, {n, channels});
    grad_act = scratch(t.x, {n, reduced});
  }

  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> finish(const SqueezeExciteTensors& t) const {
    const auto product = [&](const Tensor& a, const Tensor& b) {
      return torch::stable::to(torch::stable::matmul(torch::stable::transpose(a, 0, 1), b), t.w1.scalar_type());
    };
    const ScalarType type = t.w1.scalar_type();
    return {x,
            product(grad_act, mean),
            t.b1 ? sum_over_samples(grad_act, type) : nothing(t.x),
            product(grad_gate, hidden),
            t.b2 ? sum_over_samples(grad_gate, type) : nothing(t.x),
            residual};
  }

  Tensor mean, hidden, grad_gate, grad_act;
};

// The ops, with the argument list that all devices share. Kernels::forward(tensors, out) writes out, which may be x;
// Kernels::backward(tensors, gradients) writes the gradients. Neither is called where x has no elements.

template <class Kernels>
Tensor squeeze_excite(Tensor x, Tensor w1, std::optional<Tensor> b1, Tensor w2, std::optional<Tensor> b2, std::string act,
                      std::string gate, std::optional<Tensor> residual, std::string post) {
  const SqueezeExciteTensors t(kSqueezeExcite, x, w1, b1, w2, b2, act, gate, residual, post);
  Tensor out = torch::stable::empty_like(t.x);
  if (out.numel() > 0) {
    Kernels::forward(t, out);
  }
  return out;
}

template <class Kernels>
void squeeze_excite_(Tensor x, Tensor w1, std::optional<Tensor> b1, Tensor w2, std::optional<Tensor> b2, std::string act,
                     std::string gate, std::optional<Tensor> residual, std::string post) {
  const SqueezeExciteTensors t(kSqueezeExcite, x, w1, b1, w2, b2, act, gate, residual, post);
  in_place(x, t.x, [&](Tensor& out) { Kernels::forward(t, out); });
}

template <class Kernels>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> squeeze_excite_backward(
    Tensor grad, Tensor x, Tensor w1, std::optional<Tensor> b1, Tensor w2, std::optional<Tensor> b2, std::string act,
    std::string gate, std::optional<Tensor> residual, std::string post, std::optional<Tensor> out, bool residual_grad) {
  const SqueezeExciteTensors t(kSqueezeExciteBackward, x, w1, b1, w2, b2, act, gate, residual, post);
  SqueezeExciteGradients g(t, grad, out, residual_grad);
  if (t.x.numel() > 0) {
    Kernels::backward(t, g);
  }
  return g.finish(t);
}

}  // namespace tvc
