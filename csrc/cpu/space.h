#pragma once
// What ops over space share: sums over space, and applying gates with a residual and an activation, in both layouts.
//
// A visitor sees one vector at a time. In [C][S] a row is a channel, and its gate is one number; in [S][C] a row is a
// position, and its gates are a vector.

#include "parallel.h"
#include "vec.h"

namespace tvc::TVC_ISA {

struct Space {
  int64_t channels;
  int64_t positions;
  bool channels_last;

  int64_t size() const {
    return channels * positions;
  }
  int64_t max_parts() const {
    return channels_last ? positions : channels;
  }
  // How many rows of partial sums a sample has when `parts` threads share it.
  int64_t partial_rows(int64_t parts) const {
    return channels_last ? parts : 1;
  }
};

// Sums over space of kSums functions at once. read(offset, Vec out[kSums]) and read(offset, Vec out[kSums], lanes) give
// the values at an offset within the sample. sums[j] is (channels) in [C][S]; in [S][C] part i writes row i of (parts,
// channels).
template <int kSums, class A, class Read>
void sum_over_space(const Space& space, Part part, const Read& read, A* const (&sums)[kSums]) {
  constexpr int L = kLanes<A>;
  using V = Vec<A>;
  const int64_t inner = space.channels_last ? space.channels : space.positions;
  const int64_t begin = part.begin(space.max_parts()), end = part.end(space.max_parts());
  if (!space.channels_last) {
    for (int64_t row = begin; row < end; ++row) {
      // Four chains of additions at once: with one, the latency of an addition is what waits, not memory.
      V total[4][kSums] = {};
      int64_t offset = row * inner, i = 0;
      for (; i + 4 * L <= inner; i += 4 * L, offset += 4 * L) {
        TVC_UNROLL
        for (int u = 0; u < 4; ++u) {
          V v[kSums];
          read(offset + u * L, v);
          TVC_UNROLL
          for (int j = 0; j < kSums; ++j) {
            total[u][j] += v[j];
          }
        }
      }
      for (int u = 0; i + L <= inner; i += L, offset += L, ++u) {
        V v[kSums];
        read(offset, v);
        TVC_UNROLL
        for (int j = 0; j < kSums; ++j) {
          total[u][j] += v[j];
        }
      }
      if (const int rest = static_cast<int>(inner - i)) {
        V v[kSums];
        read(offset, v, rest);
        TVC_UNROLL
        for (int j = 0; j < kSums; ++j) {
          total[3][j] += v[j];
        }
      }
      TVC_UNROLL
      for (int j = 0; j < kSums; ++j) {
        sums[j][row] = sum((total[0][j] + total[1][j]) + (total[2][j] + total[3][j]));
      }
    }
    return;
  }
  // Eight positions at once, so that the row of sums is read and written once for eight rows of values.
  constexpr int64_t kRows = 8;
  A* out[kSums];
  TVC_UNROLL
  for (int j = 0; j < kSums; ++j) {
    out[j] = sums[j] + part.index * inner;
    for (int64_t c = 0; c < inner; ++c) {
      out[j][c] = 0;
    }
  }
  for (int64_t s = begin; s < end; s += kRows) {
    const int64_t rows = end - s < kRows ? end - s : kRows;
    auto columns = [&](int64_t c, auto rows_at_once, auto... lanes) {
      V total[kSums];
      TVC_UNROLL
      for (int j = 0; j < kSums; ++j) {
        total[j] = load(out[j] + c, lanes...);
      }
      for (int64_t r = 0; r < static_cast<int64_t>(rows_at_once); ++r) {
        V v[kSums];
        read((s + r) * inner + c, v, lanes...);
        TVC_UNROLL
        for (int j = 0; j < kSums; ++j) {
          total[j] += v[j];
        }
      }
      TVC_UNROLL
      for (int j = 0; j < kSums; ++j) {
        store(out[j] + c, total[j], lanes...);
      }
    };
    auto all_columns = [&](auto rows_at_once) {
      int64_t c = 0;
      for (; c + L <= inner; c += L) {
        columns(c, rows_at_once);
      }
      if (const int rest = static_cast<int>(inner - c)) {
        columns(c, rows_at_once, rest);
      }
    };
    if (rows == kRows) {
      all_columns(std::integral_constant<int64_t, kRows>{});
    } else {
      all_columns(rows);
    }
  }
}

// The rows of partial sums of a sample added up into the first.
template <class A>
void add_partial_rows(A* sums, int64_t rows, int64_t channels) {
  for (int64_t r = 1; r < rows; ++r) {
    map(channels, sums, [](Vec<A> a, Vec<A> b) { return a + b; }, sums, sums + r * channels);
  }
}

// visit(offset, Vec gates[kGates]) and visit(offset, Vec gates[kGates], lanes) for every vector of a part of a sample. Rows
// come last to first: those that sum_over_space read last are still in cache.
template <int kGates, class A, class Visit>
void for_each_vector(const Space& space, Part part, const A* const (&gates)[kGates], const Visit& visit) {
  constexpr int L = kLanes<A>;
  const int64_t inner = space.channels_last ? space.channels : space.positions;
  const int64_t begin = part.begin(space.max_parts()), end = part.end(space.max_parts());
  for (int64_t row = end; row-- > begin;) {
    const int64_t offset = row * inner;
    Vec<A> gate[kGates] = {};
    if (!space.channels_last) {
      TVC_UNROLL
      for (int j = 0; j < kGates; ++j) {
        gate[j] = splat(gates[j][row]);
      }
    }
    auto at = [&](int64_t i, auto... lanes) {
      if (space.channels_last) {
        TVC_UNROLL
        for (int j = 0; j < kGates; ++j) {
          gate[j] = load(gates[j] + i, lanes...);
        }
      }
      visit(offset + i, gate, lanes...);
    };
    int64_t i = 0;
    for (; i + L <= inner; i += L) {
      at(i);
    }
    if (i < inner) {
      at(i, static_cast<int>(inner - i));
    }
  }
}

}  // namespace tvc::TVC_ISA
