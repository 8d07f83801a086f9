#include "instruction_set.h"

#include <cstdlib>
#include <cstring>

namespace tvc {

InstructionSet instruction_set() {
  static const InstructionSet chosen = [] {
    InstructionSet best = InstructionSet::Baseline;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
      best = InstructionSet::Avx2;
      if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
          __builtin_cpu_supports("avx512dq")) {
        best = InstructionSet::Avx512;
      }
    }
#endif
    const char* wanted = std::getenv("TVC_INSTRUCTION_SET");
    if (wanted && !std::strcmp(wanted, "baseline")) {
      return InstructionSet::Baseline;
    }
    if (wanted && !std::strcmp(wanted, "avx2") && best == InstructionSet::Avx512) {
      return InstructionSet::Avx2;
    }
    return best;
  }();
  return chosen;
}

const char* instruction_set_name() {
  switch (instruction_set()) {
    case InstructionSet::Avx512:
      return "avx512";
    case InstructionSet::Avx2:
      return "avx2";
    default:
      return "baseline";
  }
}

}  // namespace tvc
