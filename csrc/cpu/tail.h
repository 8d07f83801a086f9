#pragma once
// The tail of an op, post(... + residual), and its gradient.

#include "dispatch.h"
#include "vec.h"

namespace tvc::TVC_ISA {

// What is compiled apart: the activations of Other ask for their kind at each vector.
enum class Post { None, Relu, Other };

// f(std::integral_constant<Post, kind>).
template <class F>
inline void with_post(Activation post, const F& f) {
  switch (post) {
    case Activation::None:
      return f(std::integral_constant<Post, Post::None>{});
    case Activation::Relu:
      return f(std::integral_constant<Post, Post::Relu>{});
    default:
      return f(std::integral_constant<Post, Post::Other>{});
  }
}

template <class A, Post post>
inline Vec<A> apply_post(Vec<A> y, Activation kind) {
  if constexpr (post == Post::None) {
    return y;
  } else {
    return activate<A>(y, post == Post::Relu ? Activation::Relu : kind);
  }
}

// The gradient that reaches what post was applied to, from the output for relu, and from what it was applied to for the others.
template <class A, Post post>
inline Vec<A> post_grad(Vec<A> grad, Vec<A> out_or_input, Activation kind) {
  if constexpr (post == Post::None) {
    return grad;
  } else if constexpr (post == Post::Relu) {
    return out_or_input <= Vec<A>{} ? Vec<A>{} : grad;  // NaN lets it through, as torch does
  } else {
    return grad * slope<A>(out_or_input, kind);
  }
}

}  // namespace tvc::TVC_ISA
