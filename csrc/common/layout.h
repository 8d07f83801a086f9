#pragma once
// The two layouts the kernels read. ops/_math.py has the same rule for the fakes.

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>

namespace tvc {

using torch::headeronly::MemoryFormat;
using torch::stable::Tensor;

// An activation (N, C, *) as the kernels see it: dense samples, [C][S] or, channels_last, [S][C].
struct Extents {
  int64_t samples;
  int64_t channels;
  int64_t positions;  // S, the product of the spatial sizes
  bool channels_last;
};

// Dense in the order: batch, then (channels_last) space and channels, or channels and space. Dimensions of size 1 have no
// stride.
inline bool is_dense(const Tensor& x, bool channels_last) {
  int64_t expected = 1;
  const int64_t last = x.dim() - 1;
  auto fits = [&](int64_t d) {
    const bool ok = x.size(d) == 1 || x.stride(d) == expected;
    expected *= x.size(d);
    return ok;
  };
  if (channels_last && (x.dim() < 2 || !fits(1))) {
    return false;
  }
  for (int64_t d = last; d >= 0; --d) {
    if (!(channels_last && d == 1) && !fits(d)) {
      return false;
    }
  }
  return true;
}

// t itself where it is contiguous: a call of the dispatcher costs a microsecond even where it does nothing.
inline Tensor packed(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

// x itself where it is dense in one of the two orders; else a copy in the order that is nearer to its strides.
inline Tensor dense(const Tensor& x) {
  if (x.numel() == 0 || is_dense(x, false) || is_dense(x, true)) {
    return x;
  }
  const bool channels_last = (x.dim() == 4 || x.dim() == 5) && x.stride(1) < x.stride(x.dim() - 1);
  return torch::stable::contiguous(x, !channels_last ? MemoryFormat::Contiguous
                                      : x.dim() == 4 ? MemoryFormat::ChannelsLast
                                                     : MemoryFormat::ChannelsLast3d);
}

// Extents of a dense x.
inline Extents extents(const Tensor& x) {
  int64_t positions = 1;
  for (int64_t d = 2; d < x.dim(); ++d) {
    positions *= x.size(d);
  }
  // With one position, or one channel, the orders are the same; channels last is the one whose rows are long.
  const bool channels_last = positions == 1 || (x.size(1) > 1 && !is_dense(x, false));
  return {x.size(0), x.size(1), positions, channels_last};
}

// t with the strides of x: itself where they agree, else a copy.
inline Tensor with_layout_of(const Tensor& t, const Tensor& x) {
  for (int64_t d = 0; d < x.dim(); ++d) {
    if (x.size(d) > 1 && t.stride(d) != x.stride(d)) {
      Tensor copy = torch::stable::empty_like(x);
      torch::stable::copy_(copy, t);
      return copy;
    }
  }
  return t;
}

// forward(out) into x itself where the kernels read x as it is; else by way of the copy that they read.
template <class Forward>
void in_place(Tensor& x, const Tensor& dense_x, const Forward& forward) {
  if (x.numel() == 0) {
    return;
  }
  Tensor out = dense_x;
  forward(out);
  if (out.const_data_ptr() != x.const_data_ptr()) {
    torch::stable::copy_(x, out);
  }
}

inline int64_t bytes(const Tensor& t) {
  return t.numel() * static_cast<int64_t>(t.element_size());
}

inline const void* data_or_null(const std::optional<Tensor>& t) {
  return t ? t->const_data_ptr() : nullptr;
}

}  // namespace tvc
