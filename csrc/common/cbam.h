#pragma once
// What cbam checks and prepares on every device, and how the gradients of its weights are made.
//
// The op is one call. Its two halves are ops too, for training with a norm between the convolution and the gate of positions:
// _cbam_channels makes the scale of channels and the two maps, _cbam_apply what the logits of the convolution do to x.

#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "tail.h"

namespace tvc {

inline constexpr const char* kCbam = "cbam";
inline constexpr const char* kCbamBackward = "_cbam_backward";
inline constexpr const char* kCbamChannels = "_cbam_channels";
inline constexpr const char* kCbamChannelsBackward = "_cbam_channels_backward";
inline constexpr const char* kCbamApply = "_cbam_apply";
inline constexpr const char* kCbamApplyBackward = "_cbam_apply_backward";

inline void check_image(const char* op, const Tensor& x) {
  if (x.dim() != 4) {
    fail(op, "x must be (N, C, H, W), got ", shape_of(x));
  }
  check_activation(op, x);
}

// The arguments of the gate of channels, checked, dense, and in the layout of x.
struct CbamChannelsTensors {
  CbamChannelsTensors(const char* op, const Tensor& x_, const Tensor& w1_, const std::optional<Tensor>& b1_, const Tensor& w2_,
                      const std::optional<Tensor>& b2_, const std::string& act_, const std::string& gate_) {
    check_image(op, x_);
    act = activation(op, "act", act_);
    gate = gate_option(op, gate_);
    const int64_t channels = x_.size(1);
    check_tensor(op, "w1", w1_, x_, {{kAny, "reduced"}, {channels}}, {x_.scalar_type(), accumulate_type(x_)});
    const int64_t reduced = w1_.size(0);
    const ScalarType weight = w1_.scalar_type();
    check_tensor(op, "b1", b1_, x_, {{reduced}}, {weight});
    check_tensor(op, "w2", w2_, x_, {{channels}, {reduced}}, {weight});
    check_tensor(op, "b2", b2_, x_, {{channels}}, {weight});

    x = dense(x_);
    w1 = packed(w1_);
    w2 = packed(w2_);
    if (b1_) {
      b1 = packed(*b1_);
    }
    if (b2_) {
      b2 = packed(*b2_);
    }
  }

  Tensor x, w1, w2;
  std::optional<Tensor> b1, b2;
  Activation act;
  Gate gate;
};

// All arguments of the op.
struct CbamTensors : CbamChannelsTensors {
  CbamTensors(const char* op, const Tensor& x_, const Tensor& w1_, const std::optional<Tensor>& b1_, const Tensor& w2_,
              const std::optional<Tensor>& b2_, const Tensor& spatial_weight_, const std::optional<Tensor>& spatial_bias_,
              const std::string& act_, const std::string& gate_, const std::optional<Tensor>& residual_,
              const std::string& post_)
      : CbamChannelsTensors(op, x_, w1_, b1_, w2_, b2_, act_, gate_) {
    post = activation(op, "post", post_);
    check_tensor(op, "spatial_weight", spatial_weight_, x_, {{1}, {2}, {kAny, "k"}, {kAny, "k"}},
                 {x_.scalar_type(), accumulate_type(x_)});
    if (spatial_weight_.size(2) % 2 == 0 || spatial_weight_.size(2) != spatial_weight_.size(3)) {
      fail(op, "spatial_weight must be [1, 2, k, k] with an odd k, got ", shape_of(spatial_weight_));
    }
    check_tensor(op, "spatial_bias", spatial_bias_, x_, {{1}}, {spatial_weight_.scalar_type()});
    check_like(op, "residual", residual_, x_);

    spatial_weight = packed(spatial_weight_);
    if (spatial_bias_) {
      spatial_bias = packed(*spatial_bias_);
    }
    if (residual_) {
      residual = with_layout_of(*residual_, x);
    }
  }

  Tensor spatial_weight;
  std::optional<Tensor> spatial_bias, residual;
  Activation post;
};

// The arguments of _cbam_apply: scale (N, C) in the accumulation type, logits (N, 1, H, W).
struct CbamApplyTensors {
  CbamApplyTensors(const char* op, const Tensor& x_, const Tensor& scale_, const Tensor& logits_, const std::string& gate_,
                   const std::optional<Tensor>& residual_, const std::string& post_) {
    check_image(op, x_);
    gate = gate_option(op, gate_);
    post = activation(op, "post", post_);
    check_tensor(op, "scale", scale_, x_, {{x_.size(0)}, {x_.size(1)}}, {accumulate_type(x_)});
    check_tensor(op, "logits", logits_, x_, {{x_.size(0)}, {1}, {x_.size(2)}, {x_.size(3)}},
                 {x_.scalar_type(), accumulate_type(x_)});
    check_like(op, "residual", residual_, x_);

    x = dense(x_);
    scale = packed(scale_);
    logits = packed(logits_);
    if (residual_) {
      residual = with_layout_of(*residual_, x);
    }
  }

  Tensor x, scale, logits;
  std::optional<Tensor> residual;
  Activation post;
  Gate gate;
};

// What a backward through the gate of channels writes for the gradients of w1 to b2, which weights() makes of it.
struct CbamMlpGradients {
  explicit CbamMlpGradients(const CbamChannelsTensors& t) {
    const int64_t n = t.x.size(0), channels = t.x.size(1), reduced = t.w1.size(0);
    statistics = scratch(t.x, {2 * n, channels});
    hidden = scratch(t.x, {n, reduced});
    grad_gate = scratch(t.x, {n, channels});
    grad_act = scratch(t.x, {2 * n, reduced});
  }

  std::tuple<Tensor, Tensor, Tensor, Tensor> weights(const CbamChannelsTensors& t) const {
    const ScalarType type = t.w1.scalar_type();
    const auto product = [&](const Tensor& a, const Tensor& b) {
      return torch::stable::to(torch::stable::matmul(torch::stable::transpose(a, 0, 1), b), type);
    };
    const auto twice = [](const Tensor& a) { return torch::stable::subtract(a, a, -1.0); };
    return {product(grad_act, statistics), t.b1 ? sum_over_samples(grad_act, type) : nothing(t.x), product(grad_gate, hidden),
            // The mlp runs on two statistics, so b2 is there twice.
            t.b2 ? sum_over_samples(twice(grad_gate), type) : nothing(t.x)};
  }

  // Rows 2n and 2n + 1 belong to the mean and the maximum of sample n; hidden is the sum of both.
  Tensor statistics, hidden, grad_gate, grad_act;
};

struct CbamChannelsGradients : CbamMlpGradients {
  explicit CbamChannelsGradients(const CbamChannelsTensors& t) : CbamMlpGradients(t), x(torch::stable::empty_like(t.x)) {}

  Tensor x;
};

// What the backward of the op writes.
struct CbamGradients : TailGradients, CbamMlpGradients {
  CbamGradients(const CbamTensors& t, const Tensor& grad_, const std::optional<Tensor>& out_, bool residual_grad)
      : TailGradients(kCbamBackward, t.x, t.post, grad_, out_, residual_grad), CbamMlpGradients(t) {
    const int64_t n = t.x.size(0), k = t.spatial_weight.size(2);
    spatial_weight = scratch(t.x, {n, 2, k, k});
    spatial_bias = scratch(t.x, {n});
  }

  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> finish(const CbamTensors& t) const {
    const auto [w1, b1, w2, b2] = weights(t);
    const ScalarType type = t.spatial_weight.scalar_type();
    return {x,
            w1,
            b1,
            w2,
            b2,
            torch::stable::unsqueeze(sum_over_samples(spatial_weight, type), 0),
            t.spatial_bias ? torch::stable::unsqueeze(sum_over_samples(spatial_bias, type), 0) : nothing(t.x),
            residual};
  }

  Tensor spatial_weight, spatial_bias;  // a row for each sample
};

struct CbamApplyGradients : TailGradients {
  CbamApplyGradients(const CbamApplyTensors& t, const Tensor& grad_, const std::optional<Tensor>& out_, bool residual_grad)
      : TailGradients(kCbamApplyBackward, t.x, t.post, grad_, out_, residual_grad) {
    scale = scratch(t.x, {t.x.size(0), t.x.size(1)});
    logits = scratch(t.x, {t.x.size(0), 1, t.x.size(2), t.x.size(3)});
  }

  Tensor scale, logits;
};

// The ops, with the argument lists that all devices share. What a Kernels has is not called where x has no elements:
//   forward(tensors, out): out may be x             backward(tensors, gradients)
//   channels(tensors, scale, maps)                  channels_backward(tensors, grad_scale, grad_maps, gradients)
//   apply(tensors, out)                             apply_backward(tensors, gradients)

template <class Kernels>
Tensor cbam(Tensor x, Tensor w1, std::optional<Tensor> b1, Tensor w2, std::optional<Tensor> b2, Tensor spatial_weight,
            std::optional<Tensor> spatial_bias, std::string act, std::string gate, std::optional<Tensor> residual,
            std::string post) {
  const CbamTensors t(kCbam, x, w1, b1, w2, b2, spatial_weight, spatial_bias, act, gate, residual, post);
  Tensor out = torch::stable::empty_like(t.x);
  if (out.numel() > 0) {
    Kernels::forward(t, out);
  }
  return out;
}

template <class Kernels>
void cbam_(Tensor x, Tensor w1, std::optional<Tensor> b1, Tensor w2, std::optional<Tensor> b2, Tensor spatial_weight,
           std::optional<Tensor> spatial_bias, std::string act, std::string gate, std::optional<Tensor> residual,
           std::string post) {
  const CbamTensors t(kCbam, x, w1, b1, w2, b2, spatial_weight, spatial_bias, act, gate, residual, post);
  in_place(x, t.x, [&](Tensor& out) { Kernels::forward(t, out); });
}

template <class Kernels>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> cbam_backward(
    Tensor grad, Tensor x, Tensor w1, std::optional<Tensor> b1, Tensor w2, std::optional<Tensor> b2, Tensor spatial_weight,
    std::optional<Tensor> spatial_bias, std::string act, std::string gate, std::optional<Tensor> residual, std::string post,
    std::optional<Tensor> out, bool residual_grad) {
  const CbamTensors t(kCbamBackward, x, w1, b1, w2, b2, spatial_weight, spatial_bias, act, gate, residual, post);
  CbamGradients g(t, grad, out, residual_grad);
  if (t.x.numel() > 0) {
    Kernels::backward(t, g);
  }
  return g.finish(t);
}

template <class Kernels>
std::tuple<Tensor, Tensor> cbam_channels(Tensor x, Tensor w1, std::optional<Tensor> b1, Tensor w2, std::optional<Tensor> b2,
                                         std::string act, std::string gate) {
  const CbamChannelsTensors t(kCbamChannels, x, w1, b1, w2, b2, act, gate);
  Tensor scale = scratch(x, {x.size(0), x.size(1)}), maps = scratch(x, {x.size(0), 2, x.size(2), x.size(3)});
  if (x.numel() > 0) {
    Kernels::channels(t, scale, maps);
  }
  return {scale, maps};
}

template <class Kernels>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> cbam_channels_backward(Tensor grad_scale, Tensor grad_maps, Tensor x,
                                                                          Tensor w1, std::optional<Tensor> b1, Tensor w2,
                                                                          std::optional<Tensor> b2, std::string act,
                                                                          std::string gate) {
  const CbamChannelsTensors t(kCbamChannelsBackward, x, w1, b1, w2, b2, act, gate);
  const ScalarType type = accumulate_type(x);
  check_tensor(kCbamChannelsBackward, "grad_scale", grad_scale, x, {{x.size(0)}, {x.size(1)}}, {type});
  check_tensor(kCbamChannelsBackward, "grad_maps", grad_maps, x, {{x.size(0)}, {2}, {x.size(2)}, {x.size(3)}}, {type});
  CbamChannelsGradients g(t);
  if (t.x.numel() > 0) {
    Kernels::channels_backward(t, packed(grad_scale), packed(grad_maps), g);
  }
  const auto [grad_w1, grad_b1, grad_w2, grad_b2] = g.weights(t);
  return {g.x, grad_w1, grad_b1, grad_w2, grad_b2};
}

template <class Kernels>
Tensor cbam_apply(Tensor x, Tensor scale, Tensor logits, std::string gate, std::optional<Tensor> residual, std::string post) {
  const CbamApplyTensors t(kCbamApply, x, scale, logits, gate, residual, post);
  Tensor out = torch::stable::empty_like(t.x);
  if (out.numel() > 0) {
    Kernels::apply(t, out);
  }
  return out;
}

template <class Kernels>
std::tuple<Tensor, Tensor, Tensor, Tensor> cbam_apply_backward(Tensor grad, Tensor x, Tensor scale, Tensor logits,
                                                               std::string gate, std::optional<Tensor> residual,
                                                               std::string post, std::optional<Tensor> out,
                                                               bool residual_grad) {
  const CbamApplyTensors t(kCbamApplyBackward, x, scale, logits, gate, residual, post);
  CbamApplyGradients g(t, grad, out, residual_grad);
  if (t.x.numel() > 0) {
    Kernels::apply_backward(t, g);
  }
  return {g.x, g.scale, torch::stable::to(g.logits, t.logits.scalar_type()), g.residual};
}

}  // namespace tvc
