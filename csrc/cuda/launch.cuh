#pragma once
// Where and how kernels are launched: the device of a tensor, its current stream, checked launches, scratch memory.

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

#include "../common/check.h"

namespace tvc::gpu {

inline constexpr int kWarp = 32;
inline constexpr int kThreads = 256;  // of a block, where a kernel does not say otherwise
inline constexpr int kWarps = kThreads / kWarp;

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// The device of x, made current until the end of the scope, for the kernels of one op. Nothing here waits for the device or allocates
// outside torch, so ops can be captured in a CUDA graph.
class Device {
 public:
  Device(const char* op, const Tensor& x) : op_(op), guard_(x.get_device_index()) {
    const int index = x.get_device_index();
    // Our CUDA runtime is linked statically, so it is told as well.
    check("cudaSetDevice", cudaSetDevice(index));
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
    check("cudaDeviceGetAttribute", cudaDeviceGetAttribute(&processors_, cudaDevAttrMultiProcessorCount, index));
    int threads = 0;
    check("cudaDeviceGetAttribute", cudaDeviceGetAttribute(&threads, cudaDevAttrMaxThreadsPerMultiProcessor, index));
    threads_ = int64_t{processors_} * threads;
    check("cudaDeviceGetAttribute", cudaDeviceGetAttribute(&cache_bytes_, cudaDevAttrL2CacheSize, index));
  }

  int64_t processors() const {
    return processors_;
  }
  // Threads that run at once.
  int64_t threads() const {
    return threads_;
  }
  // Of the level-2 cache.
  int64_t cache_bytes() const {
    return cache_bytes_;
  }

  // One block for each of `items`, which the kernel takes in strides of the grid: there may be more of them than blocks fit in a grid.
  template <class... Parameters, class... Arguments>
  void launch(
      const char* name, void (*kernel)(Parameters...), int64_t items, int64_t threads, const Arguments&... arguments) const {
    if (items == 0) {
      return;
    }
    const auto blocks = static_cast<unsigned>(std::min<int64_t>(items, std::numeric_limits<int>::max()));
    kernel<<<blocks, static_cast<unsigned>(threads), 0, stream_>>>(arguments...);
    check(name, cudaGetLastError());
  }

 private:
  void check(const char* what, cudaError_t error) const {
    if (error != cudaSuccess) {
      fail(op_, what, " failed: ", cudaGetErrorString(error));
    }
  }

  const char* op_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
  int processors_ = 0;
  int64_t threads_ = 0;
  int cache_bytes_ = 0;
};

// `n` arrays of A in one allocation, each where vectors may begin. Torch's allocator keeps the order of the stream, so the memory
// may be given back before the kernels have run.
template <class A, size_t n>
class Scratch {
 public:
  Scratch(const Tensor& x, const std::array<int64_t, n>& counts) {
    constexpr int64_t kRound = 64 / sizeof(A);
    int64_t total = 0;
    std::array<int64_t, n> begin;
    for (size_t i = 0; i < n; ++i) {
      begin[i] = total;
      total += ceil_div(counts[i], kRound) * kRound;
    }
    storage_ = torch::stable::new_empty(x, {total}, accumulate_type(x));
    for (size_t i = 0; i < n; ++i) {
      arrays_[i] = static_cast<A*>(storage_.mutable_data_ptr()) + begin[i];
    }
  }

  A* operator[](size_t i) const {
    return arrays_[i];
  }

 private:
  Tensor storage_;
  std::array<A*, n> arrays_;
};

}  // namespace tvc::gpu
