#pragma once
// What eca checks and prepares on every device, and how the gradient of its weight is made.

#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "tail.h"

namespace tvc {

inline constexpr const char* kEca = "eca";
inline constexpr const char* kEcaBackward = "_eca_backward";

// The arguments, checked, dense, and in the layout of x.
struct EcaTensors {
  EcaTensors(const char* op, const Tensor& x_, const Tensor& weight_, const std::string& gate_,
             const std::optional<Tensor>& residual_, const std::string& post_) {
    check_activation(op, x_);
    gate = gate_option(op, gate_);
    post = activation(op, "post", post_);
    if (weight_.dim() != 1 || weight_.size(0) % 2 == 0) {
      fail(op, "weight must be [odd] for x with ", describe(x_), ", got ", shape_of(weight_));
    }
    check_tensor(op, "weight", weight_, x_, {{weight_.size(0)}}, {x_.scalar_type(), accumulate_type(x_)});
    check_like(op, "residual", residual_, x_);

    x = dense(x_);
    weight = packed(weight_);
    if (residual_) {
      residual = with_layout_of(*residual_, x);
    }
  }

  Tensor x, weight;
  std::optional<Tensor> residual;
  Activation post;
  Gate gate;
};

// What the backward writes. The kernel fills x, residual and taps; finish() makes the rest.
struct EcaGradients : TailGradients {
  EcaGradients(const EcaTensors& t, const Tensor& grad_, const std::optional<Tensor>& out_, bool residual_grad)
      : TailGradients(kEcaBackward, t.x, t.post, grad_, out_, residual_grad),
        taps(scratch(t.x, {t.x.size(0), t.weight.size(0)})) {}

  std::tuple<Tensor, Tensor, Tensor> finish(const EcaTensors& t) const {
    return {x, sum_over_samples(taps, t.weight.scalar_type()), residual};
  }

  Tensor taps;  // (N, k): each sample's share of the gradient of weight, in the accumulation type
};

// The ops, with the argument list that all devices share. Kernels::forward(tensors, out) writes out, which may be x;
// Kernels::backward(tensors, gradients) writes the gradients. Neither is called where x has no elements.

template <class Kernels>
Tensor eca(Tensor x, Tensor weight, std::string gate, std::optional<Tensor> residual, std::string post) {
  const EcaTensors t(kEca, x, weight, gate, residual, post);
  Tensor out = torch::stable::empty_like(t.x);
  if (out.numel() > 0) {
    Kernels::forward(t, out);
  }
  return out;
}

template <class Kernels>
void eca_(Tensor x, Tensor weight, std::string gate, std::optional<Tensor> residual, std::string post) {
  const EcaTensors t(kEca, x, weight, gate, residual, post);
  in_place(x, t.x, [&](Tensor& out) { Kernels::forward(t, out); });
}

template <class Kernels>
std::tuple<Tensor, Tensor, Tensor> eca_backward(Tensor grad, Tensor x, Tensor weight, std::string gate,
                                                std::optional<Tensor> residual, std::string post, std::optional<Tensor> out,
                                                bool residual_grad) {
  const EcaTensors t(kEcaBackward, x, weight, gate, residual, post);
  EcaGradients g(t, grad, out, residual_grad);
  if (t.x.numel() > 0) {
    Kernels::backward(t, g);
  }
  return g.finish(t);
}

}  // namespace tvc
