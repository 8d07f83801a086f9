#pragma once
// Torch's own thread pool through the stable ABI, and the schedule of ops that read a sample several times.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "../common/options.h"
#include "vec.h"

namespace tvc::TVC_ISA {

// f(begin, end) over [0, n), on at most n / grain threads.
template <class F>
inline void parallel_for(int64_t n, int64_t grain, const F& f) {
  auto run = [](int64_t begin, int64_t end, void* context) { (*static_cast<const F*>(context))(begin, end); };
  if (torch_parallel_for(0, n, grain, run, const_cast<void*>(static_cast<const void*>(&f)))) {
    throw std::runtime_error("tvc: torch_parallel_for failed");
  }
}

inline int64_t threads() {
  uint32_t n = 1;
  return torch_get_num_threads(&n) ? 1 : n;
}

// Which part of a sample a thread has: a range of channels, or, channels_last, of positions.
struct Part {
  int64_t index;
  int64_t count;
  int64_t begin(int64_t n) const {
    return n * index / count;
  }
  int64_t end(int64_t n) const {
    return n * (index + 1) / count;
  }
};

// The threads that work on a group of samples: one alone, or all of them, each with a part of every sample.
struct Team {
  int64_t parts;
  bool alone;

  // pass(part) for every part.
  template <class Pass>
  void share(const Pass& pass) const {
    if (alone) {
      pass(Part{0, 1});
      return;
    }
    parallel_for(parts, 1, [&](int64_t i, int64_t j) {
      for (; i < j; ++i) {
        pass(Part{i, parts});
      }
    });
  }
  // f(begin, end) over a row range of a matrix product. `work` is the multiply-adds of one row: below about 32k a thread costs
  // more than it brings.
  template <class F>
  void operator()(int64_t n, int64_t work, const F& f) const {
    alone ? f(0, n) : parallel_for(n, std::max<int64_t>(1, 32768 / std::max<int64_t>(work, 1)), f);
  }
};

struct Schedule {
  int64_t samples;
  int64_t sample_bytes;  // of what is read twice
  int64_t weight_bytes;  // read once for each group of samples
  int64_t max_parts;     // into how many parts a sample can be cut

  // Whether each thread takes samples of its own, as it does unless there are too few to give each thread the same number: a
  // group that is shared costs meetings of all threads, and on a busy machine each of these waits for the slowest.
  bool own_samples() const {
    return threads() == 1 || samples >= 4 * threads() || samples % threads() == 0;
  }
  // Samples in a group: what fills about half of a level-2 cache, or, where weights outweigh samples or the group is shared,
  // what a last-level cache holds.
  int64_t group() const {
    const bool large = 4 * weight_bytes > sample_bytes || !own_samples();
    const int64_t bytes = large ? std::max(int64_t{1} << 22, weight_bytes) : int64_t{1} << 19;
    return std::max<int64_t>(1, bytes / std::max<int64_t>(sample_bytes, 1));
  }
  // An upper bound of the parts that share a sample.
  int64_t parts() const {
    return own_samples() ? 1 : std::max<int64_t>(1, std::min(threads(), max_parts));
  }
};

// body(begin, end, team) for groups of samples: what one pass of it reads, the next finds in cache.
template <class Body>
void for_groups(const Schedule& schedule, const Body& body) {
  const int64_t n = schedule.samples, group = schedule.group();
  if (schedule.own_samples()) {
    const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(schedule.sample_bytes, 1));
    parallel_for(n, grain, [&](int64_t begin, int64_t end) {
      const int64_t groups = (end - begin + group - 1) / group;
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t b = begin + (end - begin) * g / groups, e = begin + (end - begin) * (g + 1) / groups;
        body(b, e, Team{1, true});
      }
    });
    return;
  }
  for (int64_t b = 0; b < n; b += group) {
    const int64_t e = std::min(n, b + group);
    const int64_t parts = std::max<int64_t>(1, std::min(schedule.parts(), (e - b) * schedule.sample_bytes / 32768));
    body(b, e, Team{parts, false});
  }
}

// Runs, for groups of samples, first(begin, end, part), then middle(begin, end, split, parts), then second(begin, end, part).
template <class First, class Middle, class Second>
void two_passes(const Schedule& schedule, const First& first, const Middle& middle, const Second& second) {
  for_groups(schedule, [&](int64_t begin, int64_t end, const Team& team) {
    team.share([&](Part part) { first(begin, end, part); });
    middle(begin, end, team, team.parts);
    team.share([&](Part part) { second(begin, end, part); });
  });
}

}  // namespace tvc::TVC_ISA
