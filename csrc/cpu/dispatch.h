#pragma once
// One file an op, compiled once for each instruction set; the copy for this machine is chosen when the op is called.

#include <torch/headeronly/core/ScalarType.h>

#include "instruction_set.h"
#include "vec.h"

namespace tvc {

namespace TVC_ISA {

// f(T{}) for the C++ type of a tensor.
template <class F>
inline void with_type(torch::headeronly::ScalarType type, const F& f) {
  using torch::headeronly::ScalarType;
  switch (type) {
#ifdef TVC_REGISTER  // only the baseline has float64, which is there for gradients to be checked with
    case ScalarType::Double:
      return f(double{});
#endif
    case ScalarType::Half:
      return f(half{});
    case ScalarType::BFloat16:
      return f(bfloat16{});
    default:
      return f(float{});  // the op has checked: nothing else comes here
  }
}

// f(std::integral_constant<bool, value>) of a run-time bool.
template <class F>
inline void with_bool(bool value, const F& f) {
  value ? f(std::true_type{}) : f(std::false_type{});
}

}  // namespace TVC_ISA

// The type of the activation of a kernel's arguments, which may hold those of another kernel.
template <class Args>
auto element_type(const Args& args) -> decltype(args.type) {
  return args.type;
}
template <class Args>
auto element_type(const Args& args) -> decltype(element_type(args.gated)) {
  return element_type(args.gated);
}
template <class Args>
auto element_type(const Args& args) -> decltype(element_type(args.forward)) {
  return element_type(args.forward);
}

inline InstructionSet instruction_set_for(torch::headeronly::ScalarType type) {
  return type == torch::headeronly::ScalarType::Double ? InstructionSet::Baseline : instruction_set();
}

}  // namespace tvc

// Declares kernel `name` in every instruction set's namespace, and tvc::name(args), which calls the one in use.
#if !defined(TVC_BASELINE_ONLY)
#define TVC_KERNEL(name, Args)                         \
  namespace tvc {                                      \
  namespace baseline {                                 \
  void name(const Args&);                              \
  }                                                    \
  namespace avx2 {                                     \
  void name(const Args&);                              \
  }                                                    \
  namespace avx512 {                                   \
  void name(const Args&);                              \
  }                                                    \
  inline void name(const Args& args) {                 \
    switch (instruction_set_for(element_type(args))) { \
      case InstructionSet::Avx512:                     \
        return avx512::name(args);                     \
      case InstructionSet::Avx2:                       \
        return avx2::name(args);                       \
      default:                                         \
        return baseline::name(args);                   \
    }                                                  \
  }                                                    \
  }
#else
#define TVC_KERNEL(name, Args)         \
  namespace tvc {                      \
  namespace baseline {                 \
  void name(const Args&);              \
  }                                    \
  inline void name(const Args& args) { \
    baseline::name(args);              \
  }                                    \
  }
#endif
