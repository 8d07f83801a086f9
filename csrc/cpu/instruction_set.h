#pragma once

namespace tvc {

enum class InstructionSet { Baseline, Avx2, Avx512 };

// The best set that this processor has. TVC_INSTRUCTION_SET=baseline or avx2 lowers it, so that one machine tests all.
InstructionSet instruction_set();
const char* instruction_set_name();

}  // namespace tvc
