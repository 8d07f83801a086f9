#pragma once
// What ops over space share: sums over space, and visiting every element with the gates of its channel, in both layouts.
//
// A functor sees V elements at a place `at` of the tensors, and a gate place: gate.load(gates, v) gives the V numbers that belong
// to them in an array (samples, channels). V is 1 where 16-byte accesses do not fit.

#include <initializer_list>

#include "launch.cuh"
#include "vec.cuh"

namespace tvc::gpu {

struct Space {
  int64_t samples;
  int64_t channels;
  int64_t positions;
  bool channels_last;

  int64_t size() const {
    return channels * positions;
  }
  int64_t count() const {
    return samples * size();
  }
};

// Whether tensors of T can be visited in vectors. In [C][S] rows may begin anywhere: their ends are taken one by one.
template <class T>
bool fits_vectors(const Space& space, std::initializer_list<const void*> tensors) {
  bool fits = !space.channels_last || space.channels % kVector<T> == 0;
  for (const void* p : tensors) {
    fits = fits && reinterpret_cast<uintptr_t>(p) % 16 == 0;
  }
  return fits;
}

// How many samples to take at a time when `bytes` of each are read twice: the second read is to find them in the level-2 cache,
// half of which is left to what streams through. Few large groups, since each costs the launches of its kernels.
inline int64_t samples_at_once(const Device& device, const Space& space, int64_t bytes) {
  const int64_t groups = ceil_div(space.samples * bytes, std::max<int64_t>(device.cache_bytes() / 2, 1));
  // A group begins where vectors may begin.
  constexpr int64_t kRound = 16;
  const int64_t round = space.size() % kRound == 0 ? 1 : kRound;
  return std::min(space.samples, ceil_div(ceil_div(space.samples, groups), round) * round);
}

// ---- gates ----

// Of a row of [C][S]: one number.
struct RowGate {
  int64_t row;

  template <int V, class A>
  __device__ void load(const A* gates, A (&v)[V]) const {
    const A gate = gates[row];
#pragma unroll
    for (int k = 0; k < V; ++k) {
      v[k] = gate;
    }
  }
};

// Of elements of [C][S] of which the first `left` are in `row`, and the others in the rows of `size` that follow.
struct RowsGate {
  int64_t row;
  int64_t left;
  int64_t size;

  template <int V, class A>
  __device__ void load(const A* gates, A (&v)[V]) const {
    if (left >= V) {
      RowGate{row}.load(gates, v);
      return;
    }
    int64_t r = row, in_row = left;
    A gate = gates[r];
#pragma unroll
    for (int k = 0; k < V; ++k) {
      if (in_row == 0) {
        gate = gates[++r];
        in_row = size;
      }
      v[k] = gate;
      --in_row;
    }
  }
};

// Of neighbouring channels of [S][C].
struct ColumnGate {
  int64_t at;

  template <int V, class A>
  __device__ void load(const A* gates, A (&v)[V]) const {
    gpu::load(gates + at, v);
  }
};

// ---- sums over space ----

// Sum j goes, times factor[j], to into[j], (samples, parts, channels).
template <class A, int kSums>
struct Sums {
  A* into[kSums];
  A factor[kSums];
};

// How the threads share the sums over space.
struct SumPlan {
  bool vectors;
  int64_t parts;  // of a sample's positions, for different blocks
  int lanes;      // [C][S]: threads of a row, a power of two
  int columns;    // [S][C]: vectors of channels that lie side by side in a block
  int64_t tiles;  // [S][C]: blocks side by side
};

inline SumPlan plan_sums(const Device& device, const Space& space, bool vectors, int vector) {
  SumPlan plan{vectors, 1, 4, 1, 1};
  const int64_t width = vectors ? vector : 1;
  if (space.channels_last) {
    // At least eight positions side by side, where there are so many; and eight for each thread before a sample is cut.
    const int64_t across = ceil_div(space.channels, width);
    plan.tiles = ceil_div(across, kThreads / std::min<int64_t>(8, space.positions));
    plan.columns = static_cast<int>(ceil_div(across, plan.tiles));
    const int64_t wanted = 4 * device.processors() / (plan.tiles * space.samples);
    plan.parts = std::clamp<int64_t>(wanted, 1, ceil_div(space.positions, 8 * (kThreads / plan.columns)));
    return plan;
  }
  // Eight vectors for a thread of a warp; more threads where the device would not be filled.
  const int64_t across = ceil_div(space.positions, width), rows = space.samples * space.channels;
  while (plan.lanes < kThreads && plan.lanes < across &&
         (rows * plan.lanes < device.threads() || (plan.lanes < kWarp && plan.lanes * 8 < across))) {
    plan.lanes *= 2;
  }
  if (plan.lanes == kThreads) {
    plan.parts = std::clamp<int64_t>(device.threads() / (rows * kThreads), 1, ceil_div(across, 4 * kThreads));
  }
  return plan;
}

// [C][S]: a power of two of threads for each part of a row; they take the ends that are no vectors one by one.
template <class A, int V, int kSums, class Read>
__global__ void __launch_bounds__(kThreads) sum_rows_kernel(
    int64_t rows, int64_t channels, int64_t positions, int64_t parts, int lanes, Read read, Sums<A, kSums> sums) {
  __shared__ A of_warp[kSums][kWarps];
  const int groups = kThreads / lanes, group = threadIdx.x / lanes, lane = threadIdx.x % lanes, warp = threadIdx.x / kWarp;
  const int64_t items = rows * parts;
  for (int64_t first = int64_t{blockIdx.x} * groups; first < items; first += int64_t{gridDim.x} * groups) {
    const int64_t item = first + group;
    const int64_t row = item / parts, part = item % parts;
    A total[kSums][V] = {};
    if (item < items) {
      const int64_t begin = row * positions + positions * part / parts;
      const int64_t end = row * positions + positions * (part + 1) / parts;
      const int64_t first_vector = ceil_div(begin, V) * V, last_vector = end / V * V;
      const int64_t body = first_vector < end ? first_vector : end;
      const int64_t tail = last_vector > body ? last_vector : body;
      const RowGate gate{row};
      auto add = [&](int64_t i) {
        A v[kSums][1];
        read(i, gate, v);
#pragma unroll
        for (int j = 0; j < kSums; ++j) {
          total[j][0] += v[j][0];
        }
      };
      for (int64_t i = begin + lane; i < body; i += lanes) {
        add(i);
      }
#pragma unroll Read::kUnroll
      for (int64_t i = body + int64_t{lane} * V; i < tail; i += int64_t{lanes} * V) {
        A v[kSums][V];
        read(i, gate, v);
#pragma unroll
        for (int j = 0; j < kSums; ++j) {
#pragma unroll
          for (int k = 0; k < V; ++k) {
            total[j][k] += v[j][k];
          }
        }
      }
      for (int64_t i = tail + lane; i < end; i += lanes) {
        add(i);
      }
    }
    A sum[kSums];
#pragma unroll
    for (int j = 0; j < kSums; ++j) {
      sum[j] = total[j][0];
#pragma unroll
      for (int k = 1; k < V; ++k) {
        sum[j] += total[j][k];
      }
      for (int other = (lanes < kWarp ? lanes : kWarp) / 2; other > 0; other /= 2) {
        sum[j] += __shfl_xor_sync(0xffffffff, sum[j], other);
      }
    }
    if (lanes > kWarp) {
      if (threadIdx.x % kWarp == 0) {
#pragma unroll
        for (int j = 0; j < kSums; ++j) {
          of_warp[j][warp] = sum[j];
        }
      }
      __syncthreads();
#pragma unroll
      for (int j = 0; j < kSums; ++j) {
        sum[j] = 0;
        for (int w = 0; w < lanes / kWarp; ++w) {
          sum[j] += of_warp[j][group * (lanes / kWarp) + w];
        }
      }
      __syncthreads();
    }
    if (item < items && lane == 0) {
      const int64_t to = parts == 1 ? row : (row / channels * parts + part) * channels + row % channels;
#pragma unroll
      for (int j = 0; j < kSums; ++j) {
        sums.into[j][to] = sum[j] * sums.factor[j];
      }
    }
  }
}

// [S][C]: a block has `columns` vectors of channels side by side, and as many positions as there are threads for.
template <class A, int V, int kSums, class Read>
__global__ void __launch_bounds__(kThreads) sum_columns_kernel(
    int64_t samples, int64_t channels, int64_t positions, int64_t parts, int64_t tiles, int columns, Read read,
    Sums<A, kSums> sums) {
  // Padded, so that neither the threads that write nor those that read meet in a bank.
  __shared__ A of_thread[kSums][V][kThreads + 4];
  const int column = threadIdx.x % columns, row = threadIdx.x / columns, rows = kThreads / columns;
  const int64_t items = samples * parts * tiles;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t tile = item % tiles, part = item / tiles % parts, n = item / tiles / parts;
    const int64_t first = tile * columns * V;  // channel
    const int64_t channel = first + column * V;
    A total[kSums][V] = {};
    if (row < rows && channel < channels) {
      const ColumnGate gate{n * channels + channel};
      const int64_t end = positions * (part + 1) / parts;
#pragma unroll Read::kUnroll
      for (int64_t s = positions * part / parts + row; s < end; s += rows) {
        A v[kSums][V];
        read((n * positions + s) * channels + channel, gate, v);
#pragma unroll
        for (int j = 0; j < kSums; ++j) {
#pragma unroll
          for (int k = 0; k < V; ++k) {
            total[j][k] += v[j][k];
          }
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kSums; ++j) {
#pragma unroll
      for (int k = 0; k < V; ++k) {
        of_thread[j][k][threadIdx.x] = total[j][k];
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < columns * V && first + i < channels; i += kThreads) {
#pragma unroll
      for (int j = 0; j < kSums; ++j) {
        A sum = 0;
        for (int r = 0; r < rows; ++r) {
          sum += of_thread[j][i % V][r * columns + i / V];
        }
        sums.into[j][(n * parts + part) * channels + first + i] = sum * sums.factor[j];
      }
    }
    __syncthreads();
  }
}

// Sums over space of kSums functions at once: read(at, gate, v) gives V values of each, A (&v)[kSums][V], and a thread has
// Read::kUnroll of them under way. T is what vectors are of.
template <class T, class Read, int kSums>
void sum_over_space(
    const Device& device, const SumPlan& plan, const Space& space, const Read& read, const Sums<Acc<T>, kSums>& sums) {
  using A = Acc<T>;
  with_bool(plan.vectors, [&](auto vectors) {
    constexpr int V = vectors ? kVector<T> : 1;
    if (space.channels_last) {
      device.launch(
          "sum_columns", sum_columns_kernel<A, V, kSums, Read>, space.samples * plan.parts * plan.tiles, kThreads, space.samples,
          space.channels, space.positions, plan.parts, plan.tiles, plan.columns, read, sums);
    } else {
      const int64_t rows = space.samples * space.channels;
      device.launch(
          "sum_rows", sum_rows_kernel<A, V, kSums, Read>, ceil_div(rows * plan.parts, kThreads / plan.lanes), kThreads, rows,
          space.channels, space.positions, plan.parts, plan.lanes, read, sums);
    }
  });
}

template <class A, class Write>
__global__ void __launch_bounds__(kThreads) add_parts_kernel(
    const A* __restrict__ sums, int64_t count, int64_t channels, int64_t parts, Write write) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += int64_t{gridDim.x} * kThreads) {
    const A* p = sums + i / channels * parts * channels + i % channels;
    A sum = 0;
#pragma unroll 8
    for (int64_t part = 0; part < parts; ++part) {
      sum += p[part * channels];
    }
    write(i, sum);
  }
}

// write(n * channels + c, sum of the parts) for sums (samples, parts, channels).
template <class A, class Write>
void add_parts(const Device& device, const Space& space, int64_t parts, const A* sums, const Write& write) {
  const int64_t count = space.samples * space.channels;
  device.launch(
      "add_parts", add_parts_kernel<A, Write>, ceil_div(count, kThreads), kThreads, sums, count, space.channels, parts, write);
}

// ---- visiting every element ----

inline constexpr int kUnroll = 2;             // vectors that a thread has under way
inline constexpr int kMaxTile = 1 << 12;      // elements of a block
static_assert(kThreads * kUnroll * 16 / 2 <= kMaxTile);

// Where a place lies in rows of `size`, given where the tile begins: one 64-bit division a block, not one a vector.
struct Rows {
  explicit Rows(int64_t size_) : size(size_), inverse(((uint64_t{1} << 32) + size_ - 1) / size_) {}

  // From a place at `column` of `row`, by less than kMaxTile.
  __device__ void advance(int64_t by, int64_t& row, int64_t& column) const {
    column += by;
    // In rows shorter than a tile both sides are below 2^13, so the rounded-up inverse gives the exact quotient.
    const int64_t rows =
        size < kMaxTile ? static_cast<int64_t>(static_cast<uint64_t>(column) * inverse >> 32) : column >= size;
    row += rows;
    column -= rows * size;
  }

  int64_t size;
  uint64_t inverse;  // 2^32 / size, rounded up
};

template <bool kChannelsLast>
struct Tile;

template <>
struct Tile<false> {
  const Rows& rows;
  int64_t row, column;

  __device__ Tile(const Rows& rows_, const Rows& /*samples*/, int64_t begin)
      : rows(rows_), row(begin / rows.size), column(begin - row * rows.size) {}

  __device__ RowsGate gate(int64_t local) const {
    int64_t r = row, c = column;
    rows.advance(local, r, c);
    return {r, rows.size - c, rows.size};
  }
};

template <>
struct Tile<true> {
  const Rows &rows, &samples;
  int64_t sample, in_sample, column;

  __device__ Tile(const Rows& rows_, const Rows& samples_, int64_t begin)
      : rows(rows_), samples(samples_), sample(begin / samples.size), in_sample(begin - sample * samples.size),
        column(in_sample % rows.size) {}

  __device__ ColumnGate gate(int64_t local) const {
    int64_t n = sample, i = in_sample, row = 0, c = column;
    samples.advance(local, n, i);
    rows.advance(local, row, c);
    return {n * rows.size + c};
  }
};

template <int V, bool kChannelsLast, class Visit>
__global__ void __launch_bounds__(kThreads) visit_kernel(int64_t count, Rows rows, Rows samples, Visit visit) {
  constexpr int64_t kStride = kThreads * V, kTile = kStride * kUnroll;
  // The last tile first: what the sums read last is the likeliest to be in the cache.
  for (int64_t item = ceil_div(count, kTile) - 1 - blockIdx.x; item >= 0; item -= gridDim.x) {
    const int64_t begin = item * kTile;
    const Tile<kChannelsLast> tile(rows, samples, begin);
    int64_t local = threadIdx.x * V;
    if (begin + kTile <= count) {
      typename Visit::template Inputs<V> inputs[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        visit.read(begin + local + u * kStride, inputs[u]);
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        visit.write(begin + local + u * kStride, inputs[u], tile.gate(local + u * kStride));
      }
      continue;
    }
    for (; begin + local + V <= count; local += kStride) {
      typename Visit::template Inputs<V> inputs;
      visit.read(begin + local, inputs);
      visit.write(begin + local, inputs, tile.gate(local));
    }
    // Fewer than V are left.
    const int64_t at = count / V * V + threadIdx.x;
    if (V > 1 && at < count) {
      typename Visit::template Inputs<1> inputs;
      visit.read(at, inputs);
      visit.write(at, inputs, tile.gate(at - begin));
    }
  }
}

// visit.read(at, Visit::Inputs<V>&), then visit.write(at, inputs, gate), for all elements. T is what vectors are of.
template <class T, class Visit>
void visit_all(const Device& device, const char* name, const Space& space, bool vectors, const Visit& visit) {
  with_bool(vectors, [&](auto vectors_) {
    with_bool(space.channels_last, [&](auto channels_last) {
      constexpr int V = vectors_ ? kVector<T> : 1;
      const Rows rows(channels_last ? space.channels : space.positions), samples(space.size());
      device.launch(
          name, visit_kernel<V, channels_last, Visit>, ceil_div(space.count(), kThreads * kUnroll * V), kThreads, space.count(), rows,
          samples, visit);
    });
  });
}

}  // namespace tvc::gpu
