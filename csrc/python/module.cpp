// torchvision_customizer._native: what was built, what runs, and how fast this machine copies memory. No ops, no torch.

#include <pybind11/pybind11.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../cpu/instruction_set.h"

namespace {

// What CMake knew when the libraries were built.
std::map<std::string, std::string> build_info() {
  return {
      {"version", TVC_VERSION},
      {"compiler", TVC_COMPILER},
      {"instruction_sets", TVC_INSTRUCTION_SETS},
      {"torch", TVC_TORCH_VERSION},
      {"torch_target", "2.10"},
      {"cuda", TVC_CUDA_VERSION},
      {"cuda_architectures", TVC_CUDA_ARCHITECTURES},
  };
}

// Median GB/s (bytes read plus bytes written) of `repeats` copies of `bytes` by `threads` threads between two buffers.
double copy_bandwidth(size_t bytes, int threads, int repeats) {
  if (bytes == 0 || threads < 1 || repeats < 1) {
    throw std::invalid_argument("copy_bandwidth: bytes, threads and repeats must be at least 1");
  }
  const std::unique_ptr<char[]> from(new char[bytes]), to(new char[bytes]);
  std::memset(from.get(), 1, bytes);
  std::memset(to.get(), 2, bytes);
  std::vector<double> seconds;
  for (int r = 0; r < repeats; ++r) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> workers;
    for (int t = 0; t < threads; ++t) {
      workers.emplace_back([&, t] {
        const size_t begin = bytes * t / threads, end = bytes * (t + 1) / threads;
        std::memcpy(to.get() + begin, from.get() + begin, end - begin);
      });
    }
    for (std::thread& worker : workers) {
      worker.join();
    }
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + repeats / 2, seconds.end());
  return 2e-9 * static_cast<double>(bytes) / seconds[repeats / 2];
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "What was built, the running instruction set, and the copy bandwidth of this machine.";
  m.def(
      "build_info",
      [] {
        pybind11::dict info;
        for (const auto& [key, value] : build_info()) {
          info[pybind11::str(key)] = value;
        }
        return info;
      },
      "What the native libraries were built with.");
  m.def("instruction_set", &tvc::instruction_set_name, "The instruction set whose kernels run on this processor.");
  m.def("copy_bandwidth", &copy_bandwidth, pybind11::arg("bytes"), pybind11::arg("threads"), pybind11::arg("repeats") = 9,
        pybind11::call_guard<pybind11::gil_scoped_release>(),
        "Median GB/s, reads and writes both counted, of copying `bytes` with `threads` threads.");
}
