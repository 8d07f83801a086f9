#pragma once
// The small matrix products of channel gates, for the samples of a group together, so that weights are read once a group.

#include "parallel.h"
#include "vec.h"

namespace tvc::TVC_ISA {

// Tile of the products: samples by rows (or vectors of columns). 4 x 4 accumulators leave half of AVX-512's registers free;
// the other sets have 16 registers.
#if defined(__AVX512F__)
inline constexpr int kTileSamples = 4, kTileRows = 4;
#else
inline constexpr int kTileSamples = 2, kTileRows = 4;
#endif

template <int kSamples, int kRows, class A, class W>
inline void dot_tile(const A* in, const W* weight, const W* bias, int64_t inner, A* out, int64_t out_stride, int64_t row) {
  constexpr int L = kLanes<A>;
  Vec<A> total[kSamples][kRows] = {};
  int64_t k = 0;
  for (; k + L <= inner; k += L) {
    Vec<A> x[kSamples];
    TVC_UNROLL
    for (int i = 0; i < kSamples; ++i) {
      x[i] = load(in + i * inner + k);
    }
    TVC_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec<A> w = load(weight + (row + r) * inner + k);
      TVC_UNROLL
      for (int i = 0; i < kSamples; ++i) {
        total[i][r] += x[i] * w;
      }
    }
  }
  if (const int rest = static_cast<int>(inner - k)) {
    TVC_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec<A> w = load(weight + (row + r) * inner + k, rest);
      TVC_UNROLL
      for (int i = 0; i < kSamples; ++i) {
        total[i][r] += load(in + i * inner + k, rest) * w;
      }
    }
  }
  A sums[kSamples * kRows];
  if constexpr (kSamples * kRows % L == 0) {
    TVC_UNROLL
    for (int i = 0; i < kSamples * kRows; i += L) {
      store(sums + i, over_lanes<A>(&total[0][0] + i, [](Vec<A> a, Vec<A> b) { return a + b; }));
    }
  } else {
    TVC_UNROLL
    for (int i = 0; i < kSamples * kRows; ++i) {
      sums[i] = sum(total[i / kRows][i % kRows]);
    }
  }
  for (int i = 0; i < kSamples; ++i) {
    for (int r = 0; r < kRows; ++r) {
      out[i * out_stride + row + r] = sums[i * kRows + r] + (bias ? to_acc(bias[row + r]) : A(0));
    }
  }
}

// out[n][row] = sum_k in[n][k] * weight[row][k] + bias[row], rows begin to end; in (samples, inner), out (samples, rows).
template <class A, class W>
void linear(const A* in, int64_t samples, const W* weight, const W* bias, int64_t rows, int64_t inner, A* out, int64_t begin,
            int64_t end) {
  auto tiles = [&](auto samples_in_tile, auto rows_in_tile, int64_t first, int64_t last) {
    constexpr int kSamples = decltype(samples_in_tile)::value, kRows = decltype(rows_in_tile)::value;
    auto column_of_tiles = [&](auto rows_at_once, int64_t row) {
      for (int64_t n = first; n < last; n += kSamples) {
        dot_tile<kSamples, decltype(rows_at_once)::value>(in + n * inner, weight, bias, inner, out + n * rows, rows, row);
      }
    };
    int64_t row = begin;
    for (; row + kRows <= end; row += kRows) {
      column_of_tiles(rows_in_tile, row);
    }
    for (; row < end; ++row) {
      column_of_tiles(std::integral_constant<int, 1>{}, row);
    }
  };
  const int64_t whole = samples - samples % kTileSamples;
  tiles(std::integral_constant<int, kTileSamples>{}, std::integral_constant<int, kTileRows>{}, 0, whole);
  tiles(std::integral_constant<int, 1>{}, std::integral_constant<int, kTileSamples * kTileRows>{}, whole, samples);
}

// out[n][k] = sum_row in[n][row] * weight[row][k], columns begin to end; in (samples, rows), out (samples, columns).
template <class A, class W>
void linear_transposed(const A* in, int64_t samples, const W* weight, int64_t rows, int64_t columns, A* out, int64_t begin,
                       int64_t end) {
  constexpr int L = kLanes<A>;
  auto tile = [&](auto samples_in_tile, auto vectors_in_tile, int64_t n, int64_t k, int rest) {
    constexpr int kSamples = decltype(samples_in_tile)::value, kVectors = decltype(vectors_in_tile)::value;
    Vec<A> total[kSamples][kVectors] = {};
    for (int64_t row = 0; row < rows; ++row) {
      Vec<A> w[kVectors];
      TVC_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        const W* p = weight + row * columns + k + v * L;
        w[v] = rest ? load(p, rest) : load(p);
      }
      TVC_UNROLL
      for (int i = 0; i < kSamples; ++i) {
        const Vec<A> x = splat(in[(n + i) * rows + row]);
        TVC_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          total[i][v] += x * w[v];
        }
      }
    }
    TVC_UNROLL
    for (int i = 0; i < kSamples; ++i) {
      TVC_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        A* p = out + (n + i) * columns + k + v * L;
        rest ? store(p, total[i][v], rest) : store(p, total[i][v]);
      }
    }
  };
  auto samples_of = [&](auto vectors_in_tile, int64_t k, int rest) {
    int64_t n = 0;
    for (; n + kTileSamples <= samples; n += kTileSamples) {
      tile(std::integral_constant<int, kTileSamples>{}, vectors_in_tile, n, k, rest);
    }
    for (; n < samples; ++n) {
      tile(std::integral_constant<int, 1>{}, vectors_in_tile, n, k, rest);
    }
  };
  int64_t k = begin;
  for (; k + kTileRows * L <= end; k += kTileRows * L) {
    samples_of(std::integral_constant<int, kTileRows>{}, k, 0);
  }
  for (; k + L <= end; k += L) {
    samples_of(std::integral_constant<int, 1>{}, k, 0);
  }
  if (k < end) {
    samples_of(std::integral_constant<int, 1>{}, k, static_cast<int>(end - k));
  }
}

}  // namespace tvc::TVC_ISA
