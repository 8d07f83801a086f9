// torchvision_customizer._native: what was built, what runs, and how fast this machine moves memory. No ops, no torch.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "../cpu/instruction_set.h"
#include "../cpu/pages.h"

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

// ---- the memory traffic of an op, and nothing else of it ----

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define TVC_FOR_EVERY_SET __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define TVC_FOR_EVERY_SET
#endif

typedef uint64_t Words __attribute__((vector_size(64)));  // as many registers as the running set needs for it
constexpr int64_t kStep = 4 * sizeof(Words);              // four sums side by side: a single one would wait for itself

// Reads `bytes` bytes; what it returns is there so that no read can be left out.
TVC_FOR_EVERY_SET uint64_t read_bytes(const char* from, int64_t bytes) {
  Words sums[4] = {};
  int64_t i = 0;
  for (; i + kStep <= bytes; i += kStep) {
    for (int k = 0; k < 4; ++k) {
      Words w;
      std::memcpy(&w, from + i + k * sizeof(Words), sizeof(Words));
      sums[k] ^= w;
    }
  }
  const Words all = (sums[0] ^ sums[1]) ^ (sums[2] ^ sums[3]);
  uint64_t result = 0;
  for (int k = 0; k < 8; ++k) {
    result ^= all[k];
  }
  for (; i < bytes; ++i) {
    result ^= static_cast<unsigned char>(from[i]);
  }
  return result;
}

// to = from + residual as words, or the bits of `from` turned over: either is one pass, and the caller can see that it ran.
TVC_FOR_EVERY_SET void write_bytes(const char* from, const char* residual, char* to, int64_t bytes,
                                   [[maybe_unused]] bool stream) {
  int64_t i = 0;
  for (; i + static_cast<int64_t>(sizeof(Words)) <= bytes; i += sizeof(Words)) {
    Words w, r;
    std::memcpy(&w, from + i, sizeof(Words));
    if (residual != nullptr) {
      std::memcpy(&r, residual + i, sizeof(Words));
      w += r;
    } else {
      w = ~w;
    }
#if defined(__SSE2__)
    if (stream) {
      __m128i parts[4];
      std::memcpy(parts, &w, sizeof(Words));
      for (int k = 0; k < 4; ++k) {
        _mm_stream_si128(reinterpret_cast<__m128i*>(to + i) + k, parts[k]);
      }
      continue;
    }
#endif
    std::memcpy(to + i, &w, sizeof(Words));
  }
  for (; i < bytes; ++i) {
    to[i] = residual != nullptr ? static_cast<char>(from[i] + residual[i]) : static_cast<char>(~from[i]);
  }
#if defined(__SSE2__)
  if (stream) {
    _mm_sfence();
  }
#endif
}

// `torch_parallel_for` of torch's C shim. Its address comes from Python, so that this module needs no torch.
using ParallelFor = int32_t (*)(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void*), void*);

struct Traffic {
  const char* x;
  const char* residual;
  char* out;
  int64_t pieces, bytes, total;  // of x; the last piece has what is over
  int reads;
  std::vector<std::pair<const char*, int64_t>> weights;

  // Pieces [begin, end), one after the other: reads one `reads` times, the last time with the residual and writing.
  void run(int64_t begin, int64_t end) const {
    uint64_t seen = 0;
    for (const auto& [data, size] : weights) {
      seen ^= read_bytes(data + size * begin / pieces, size * end / pieces - size * begin / pieces);
    }
    for (int64_t i = begin; i < end; ++i) {
      const int64_t size = i + 1 == pieces ? total - i * bytes : bytes;
      for (int r = 0; r < reads - (out != nullptr); ++r) {
        seen ^= read_bytes(x + i * bytes, size);
      }
      if (out != nullptr) {
        char* to = out + i * bytes;
        const bool stream = tvc::exceeds_caches(total) && reinterpret_cast<uintptr_t>(to) % 16 == 0;
        write_bytes(x + i * bytes, residual == nullptr ? nullptr : residual + i * bytes, to, size, stream);
      }
    }
    [[maybe_unused]] volatile uint64_t sink = seen;
  }
};

// What an op must move, moved by torch's threads and by nothing but loads and stores: each sample of x is read `reads` times
// in a row, the last time together with the residual (0: none) and writing `out` (0: nothing); weights are read once. Samples
// are cut, at multiples of 64 bytes, where there are too few to give each thread the same number.
void traffic(uintptr_t parallel_for, uintptr_t x, uintptr_t residual, uintptr_t out, int64_t samples, int64_t sample_bytes,
             int reads, int threads, const std::vector<std::pair<uintptr_t, int64_t>>& weights) {
  if (parallel_for == 0 || x == 0 || samples < 1 || sample_bytes < 1 || reads < 1 || threads < 1) {
    throw std::invalid_argument("traffic: needs torch_parallel_for, x, and positive samples, sample_bytes, reads and threads");
  }
  Traffic all{reinterpret_cast<const char*>(x),
              reinterpret_cast<const char*>(residual),
              reinterpret_cast<char*>(out),
              samples,
              sample_bytes,
              samples * sample_bytes,
              reads,
              {}};
  for (const auto& [data, size] : weights) {
    all.weights.emplace_back(reinterpret_cast<const char*>(data), size);
  }
  if (samples < 4 * threads && samples % threads != 0 && sample_bytes >= 64 * threads) {
    all.pieces = samples * threads;
    all.bytes = all.total / all.pieces / 64 * 64;
  }
  if (out != 0) {
    tvc::advise_huge_pages(all.out, samples * sample_bytes);
  }
  auto run = [](int64_t begin, int64_t end, void* self) { static_cast<const Traffic*>(self)->run(begin, end); };
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 16) / all.bytes);  // less is not worth a thread
  if (reinterpret_cast<ParallelFor>(parallel_for)(0, all.pieces, grain, run, &all)) {
    throw std::runtime_error("traffic: torch_parallel_for failed");
  }
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
  m.def("traffic", &traffic, pybind11::arg("parallel_for"), pybind11::arg("x"), pybind11::arg("residual"), pybind11::arg("out"),
        pybind11::arg("samples"), pybind11::arg("sample_bytes"), pybind11::arg("reads"), pybind11::arg("threads"),
        pybind11::arg("weights"), pybind11::call_guard<pybind11::gil_scoped_release>(),
        "Moves what an op must move, by addresses: reads each sample `reads` times, the last time writing `out`.");
}
