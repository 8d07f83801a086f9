#pragma once
// What the backward passes of ops with a tail, post(... + residual), check and prepare alike.

#include <torch/csrc/stable/ops.h>

#include "check.h"
#include "layout.h"

namespace tvc {

// An empty tensor stands for a gradient that is not asked for.
inline Tensor nothing(const Tensor& x) {
  const int64_t empty[] = {0};
  return torch::stable::new_empty(x, torch::headeronly::IntHeaderOnlyArrayRef(empty, 1));
}

// An intermediate result of the accumulation type. Zeros where x has no elements: no kernel runs then, and what is made of it
// is a gradient of 0.
inline Tensor scratch(const Tensor& x, std::initializer_list<int64_t> size) {
  return x.numel() ? torch::stable::new_empty(x, size, accumulate_type(x))
                   : torch::stable::new_zeros(x, size, accumulate_type(x));
}

// The sum over samples of t (N, *), rounded once: sum(dtype) would round before it adds.
inline Tensor sum_over_samples(const Tensor& t, ScalarType type) {
  const int64_t samples[] = {0};
  return torch::stable::to(torch::stable::sum(t, torch::headeronly::IntHeaderOnlyArrayRef(samples, 1)), type);
}

struct TailGradients {
  TailGradients(const char* op, const Tensor& x_, Activation post, const Tensor& grad_, const std::optional<Tensor>& out_,
                bool residual_grad) {
    check_like(op, "grad", grad_, x_);
    check_like(op, "out", out_, x_);
    if (post == Activation::Relu && !out_) {
      fail(op, "out must be given for post 'relu'");
    }
    grad = with_layout_of(grad_, x_);
    if (out_) {
      out = with_layout_of(*out_, x_);
    }
    x = torch::stable::empty_like(x_);
    residual = residual_grad ? torch::stable::empty_like(x_) : nothing(x_);
  }

  Tensor grad;                // given
  std::optional<Tensor> out;  // given
  Tensor x, residual;         // to be written
};

}  // namespace tvc
