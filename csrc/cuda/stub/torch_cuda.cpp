// A stand-in for libtorch_cuda.so, so that libtvc_ops_cuda can be linked beside a CPU-only torch. It is never installed or
// loaded.

#include <cstdint>

extern "C" int32_t aoti_torch_get_current_cuda_stream(int32_t /*device_index*/, void** /*stream*/) {
  return 1;
}
