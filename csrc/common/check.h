#pragma once
// Checks of arguments, before any memory is read. The sentences are those of ops/_library.py, and a test compares them.

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <initializer_list>
#include <iterator>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

#include "options.h"

namespace tvc {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class... Parts>
[[noreturn]] void fail(const char* op, const Parts&... parts) {
  std::ostringstream message;
  message << "tvc::" << op << ": ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline const char* name_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::UInt16:
      return "uint16";
    case ScalarType::UInt32:
      return "uint32";
    case ScalarType::UInt64:
      return "uint64";
    case ScalarType::ComplexHalf:
      return "complex32";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    case ScalarType::Float8_e5m2:
      return "float8_e5m2";
    case ScalarType::Float8_e4m3fn:
      return "float8_e4m3fn";
    case ScalarType::Float8_e5m2fnuz:
      return "float8_e5m2fnuz";
    case ScalarType::Float8_e4m3fnuz:
      return "float8_e4m3fnuz";
    default:
      return "another type";
  }
}

inline std::string shape_of(const Tensor& t) {
  std::ostringstream text;
  text << '[';
  for (int64_t d = 0; d < t.dim(); ++d) {
    text << (d ? ", " : "") << t.size(d);
  }
  text << ']';
  return text.str();
}

inline std::string device_of(const Tensor& t) {
  return t.is_cpu() ? "cpu" : t.is_cuda() ? "cuda:" + std::to_string(t.get_device_index()) : "another device";
}

// The value of an option, or a sentence with the allowed ones.
template <class Option, size_t n>
Option option(const char* op, const char* argument, const std::string& value, const char* const (&names)[n]) {
  std::string allowed;
  for (size_t i = 0; i < n; ++i) {
    if (value == names[i]) {
      return static_cast<Option>(i);
    }
    allowed += (i ? ", " : "") + std::string(names[i]);
  }
  fail(op, argument, " must be one of ", allowed, ", got '", value, "'");
}

inline Activation activation(const char* op, const char* argument, const std::string& value) {
  return option<Activation>(op, argument, value, kActivationNames);
}

inline Gate gate_option(const char* op, const std::string& value) {
  return option<Gate>(op, "gate", value, kGateNames);
}

inline ScalarType accumulate_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// What a sentence says of x; drop_path takes one without channels.
inline std::string describe(const Tensor& x) {
  return x.dim() < 2 ? "shape " + shape_of(x) : std::to_string(x.size(1)) + " channels";
}

inline void check_type(const char* op, const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
    case ScalarType::Double:
    case ScalarType::Half:
    case ScalarType::BFloat16:
      return;
    default:
      fail(op, "x must be float32, float64, float16 or bfloat16, got ", name_of(x.scalar_type()));
  }
}

inline void check_activation(const char* op, const Tensor& x) {
  if (x.dim() < 2) {
    fail(op, "x must be (N, C, *), got ", shape_of(x));
  }
  check_type(op, x);
}

// `size` of kAny stands for any size, and is shown by `name`.
struct Extent {
  int64_t size;
  const char* name = nullptr;
};
inline constexpr int64_t kAny = -1;

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cpu() ? b.is_cpu() : a.is_cuda() == b.is_cuda() && a.get_device_index() == b.get_device_index();
}

// Sentences are put together only where one is needed: these checks run at every call.
inline void check_tensor(const char* op, const char* argument, const Tensor& t, const Tensor& x,
                         std::initializer_list<Extent> shape, std::initializer_list<ScalarType> types) {
  bool fits = t.dim() == static_cast<int64_t>(shape.size());
  int64_t d = 0;
  for (const Extent& extent : shape) {
    fits = fits && (extent.size == kAny || t.size(d) == extent.size);
    ++d;
  }
  if (!fits) {
    std::ostringstream expected;
    for (const Extent& extent : shape) {
      expected << (&extent == shape.begin() ? "" : ", ");
      extent.size == kAny ? expected << extent.name : expected << extent.size;
    }
    fail(op, argument, " must be [", expected.str(), "] for x with ", describe(x), ", got ", shape_of(t));
  }
  if (!same_device(t, x)) {
    fail(op, argument, " must be on the device of x, ", device_of(x), ", got ", device_of(t));
  }
  for (ScalarType type : types) {
    if (t.scalar_type() == type) {
      return;
    }
  }
  std::string allowed;
  for (ScalarType type : types) {
    if (allowed != name_of(type)) {
      allowed += (allowed.empty() ? "" : " or ") + std::string(name_of(type));
    }
  }
  fail(op, argument, " must be ", allowed, " for x of ", name_of(x.scalar_type()), ", got ", name_of(t.scalar_type()));
}

inline void check_tensor(const char* op, const char* argument, const std::optional<Tensor>& t, const Tensor& x,
                         std::initializer_list<Extent> shape, std::initializer_list<ScalarType> types) {
  if (t) {
    check_tensor(op, argument, *t, x, shape, types);
  }
}

// `t` has the shape of x: a residual, a gradient, a saved output.
inline void check_like(const char* op, const char* argument, const std::optional<Tensor>& t, const Tensor& x) {
  if (!t) {
    return;
  }
  bool fits = t->dim() == x.dim();
  for (int64_t d = 0; fits && d < x.dim(); ++d) {
    fits = t->size(d) == x.size(d);
  }
  if (!fits) {
    fail(op, argument, " must be ", shape_of(x), " for x with ", describe(x), ", got ", shape_of(*t));
  }
  if (!same_device(*t, x)) {
    fail(op, argument, " must be on the device of x, ", device_of(x), ", got ", device_of(*t));
  }
  if (t->scalar_type() != x.scalar_type()) {
    fail(op, argument, " must be ", name_of(x.scalar_type()), " for x of ", name_of(x.scalar_type()), ", got ",
         name_of(t->scalar_type()));
  }
}

}  // namespace tvc
