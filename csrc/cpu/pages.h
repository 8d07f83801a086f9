#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace tvc {

// Asks for huge pages under a large new output. The allocator takes such memory fresh from the system each time, and its
// first touch, page by page, costs more than writing it. A hint: where it cannot be followed nothing changes.
inline void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr int64_t kHugePage = int64_t{1} << 21, kLarge = int64_t{1} << 25;  // glibc maps 32 MiB and more afresh
  if (bytes >= kLarge) {
    const auto begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) & ~static_cast<uintptr_t>(kHugePage - 1);
    const auto end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~static_cast<uintptr_t>(kHugePage - 1);
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  }
#endif
}

// Whether an output of so many bytes is better written past the caches: what was written first would be gone from the last
// level before the next op reads it, and a line that is not kept need not be read before it is written. A constant: what the
// system says of the last level is the whole processor's, and on a virtual machine not even that.
inline bool exceeds_caches(int64_t bytes) {
  return bytes >= int64_t{1} << 24;
}

}  // namespace tvc
