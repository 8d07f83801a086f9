#pragma once
// The options of the ops. No torch here: kernels include this.

namespace tvc {

// act and post of the contract.
enum class Activation { None, Relu, Silu, Gelu, Hardswish };

enum class Gate { Sigmoid, HardSigmoid, TwoSigmoid, Tanh1p };

inline constexpr const char* kActivationNames[] = {"none", "relu", "silu", "gelu", "hardswish"};
inline constexpr const char* kGateNames[] = {"sigmoid", "hard_sigmoid", "two_sigmoid", "tanh1p"};

}  // namespace tvc
