#pragma once
// What ops over space share: sums and maxima over space or over channels, and visiting every element, in both layouts.
//
// A sample is a matrix: [C][S], whose rows are channels, or [S][C], whose rows are positions. A functor sees V elements at a place
// `at` of the tensors, and a Place: place.channel(p, v) gives the V numbers that belong to their channels in an array
// (samples, channels), place.position(p, v) those of their positions in (samples, positions). V is 1 where 16-byte accesses do
// not fit.

#include <cmath>
#include <initializer_list>
#include <optional>

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

// A sample's matrix turned over: what is over space there is over channels here.
inline Space transposed(const Space& space) {
  return {space.samples, space.positions, space.channels, !space.channels_last};
}

// ---- places ----

// V elements side by side in one row; row and column are counted in the sample. of_row(p, v) gives what belongs to their row in an
// array (samples, kArrays, rows), of_column(p, v) what belongs to their columns in (samples, kArrays, columns), where p is at the
// first number of one of the arrays. With kArrays of 0 all samples share one array.
struct InRow {
  int64_t sample, row, column;
  int64_t rows, columns;

  template <int kArrays = 1, int V, class P, class A>
  __device__ void of_row(const P* p, A (&v)[V]) const {
    const A value = to_acc(p[kArrays * sample * rows + row]);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      v[k] = value;
    }
  }

  template <int kArrays = 1, int V, class P, class A>
  __device__ void of_column(const P* p, A (&v)[V]) const {
    load_anywhere(p + kArrays * sample * columns + column, v);
  }
};

// The same for elements that may run over the end of their row, into those that follow.
struct InRows : InRow {
  template <int kArrays = 1, int V, class P, class A>
  __device__ void of_row(const P* p, A (&v)[V]) const {
    if (column + V <= columns) {
      InRow::of_row<kArrays>(p, v);
    } else {
      each<V>([&](int k, int64_t n, int64_t r, int64_t /*c*/) { v[k] = to_acc(p[kArrays * n * rows + r]); });
    }
  }

  template <int kArrays = 1, int V, class P, class A>
  __device__ void of_column(const P* p, A (&v)[V]) const {
    if (column + V <= columns) {
      InRow::of_column<kArrays>(p, v);
    } else {
      each<V>([&](int k, int64_t n, int64_t /*r*/, int64_t c) { v[k] = to_acc(p[kArrays * n * columns + c]); });
    }
  }

 private:
  template <int V, class F>
  __device__ void each(const F& f) const {
    int64_t n = sample, r = row, c = column;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      f(k, n, r, c);
      if (++c == columns) {
        c = 0;
        if (++r == rows) {
          r = 0;
          ++n;
        }
      }
    }
  }
};

// Rows are channels, or positions where channels are last.
template <bool kChannelsLast, class In>
struct Place {
  In in;

  // Of (samples, kArrays, channels).
  template <int kArrays = 1, int V, class P, class A>
  __device__ void channel(const P* p, A (&v)[V]) const {
    if constexpr (kChannelsLast) {
      in.template of_column<kArrays>(p, v);
    } else {
      in.template of_row<kArrays>(p, v);
    }
  }

  // Of (samples, kArrays, positions).
  template <int kArrays = 1, int V, class P, class A>
  __device__ void position(const P* p, A (&v)[V]) const {
    if constexpr (kChannelsLast) {
      in.template of_row<kArrays>(p, v);
    } else {
      in.template of_column<kArrays>(p, v);
    }
  }
};

// ---- reductions ----

// What is made of the values of a functor: their sum, their maximum (NaN if one is), or how many have the maximum before it.
enum class Kind { Sum, Max, Count };

template <Kind... kinds>
struct Kinds {
  static constexpr int kCount = sizeof...(kinds);

  __host__ __device__ static constexpr Kind at(int j) {
    constexpr Kind all[] = {kinds...};
    return all[j];
  }
  __host__ __device__ static constexpr bool counts(int j) {
    return j < kCount && at(j) == Kind::Count;
  }
};

template <class Of, class A>
__device__ inline void start(A (&total)[Of::kCount]) {
#pragma unroll
  for (int j = 0; j < Of::kCount; ++j) {
    total[j] = Of::at(j) == Kind::Max ? A(-INFINITY) : A(0);
  }
}

template <class Of, class A>
__device__ inline void merge(A (&total)[Of::kCount], const A (&v)[Of::kCount]) {
#pragma unroll
  for (int j = 0; j < Of::kCount; ++j) {
    if (Of::at(j) == Kind::Sum) {
      total[j] += v[j];
    } else if (Of::at(j) == Kind::Max) {
      const bool greater = v[j] > total[j] || v[j] != v[j];
      if (Of::counts(j + 1)) {
        total[j + 1] = greater ? v[j + 1] : total[j + 1] + (v[j] == total[j] ? v[j + 1] : A(0));
      }
      total[j] = greater ? v[j] : total[j];
    }
  }
}

// Result j goes, times factor[j], to into[j], an array (samples, parts, columns) or (samples, parts, rows) in which a sample's
// numbers begin `stride` after those of the one before.
template <class A, int kCount>
struct Results {
  A* into[kCount];
  A factor[kCount];
  int64_t stride;
};

// How the threads share a reduction over space.
struct ReductionPlan {
  bool vectors;
  int64_t parts;  // of a sample's positions, for different blocks
  int lanes;      // [C][S]: threads of a row, a power of two
  int columns;    // [S][C]: vectors of channels that lie side by side in a block
  int64_t tiles;  // [S][C]: blocks side by side
};

inline ReductionPlan plan_reduction(const Device& device, const Space& space, bool vectors, int vector) {
  ReductionPlan plan{vectors, 1, 4, 1, 1};
  const int64_t width = vectors ? vector : 1;
  if (space.channels_last) {
    // At least eight positions side by side, where there are so many; and eight for each thread before a sample is cut.
    const int64_t across = ceil_div(space.channels, width);
    plan.tiles = ceil_div(across, kThreads / std::clamp<int64_t>(space.positions, 1, 8));
    plan.columns = static_cast<int>(ceil_div(across, plan.tiles));
    const int64_t wanted = 4 * device.processors() / (plan.tiles * space.samples);
    plan.parts = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(ceil_div(space.positions, 8 * (kThreads / plan.columns)), 1));
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

// Along rows: a power of two of threads for each part of a row; they take the ends that are no vectors one by one.
template <class A, int V, bool kChannelsLast, class Read>
__global__ void __launch_bounds__(kThreads) reduce_rows_kernel(
    int64_t samples, int64_t rows, int64_t columns, int64_t parts, int lanes, Read read,
    Results<A, Read::Of::kCount> results) {
  using Of = typename Read::Of;
  constexpr int kCount = Of::kCount;
  __shared__ A of_warp[kWarps][kCount];
  const int groups = kThreads / lanes, group = threadIdx.x / lanes, lane = threadIdx.x % lanes, warp = threadIdx.x / kWarp;
  const int64_t items = samples * rows * parts;
  for (int64_t first = int64_t{blockIdx.x} * groups; first < items; first += int64_t{gridDim.x} * groups) {
    const int64_t item = first + group;
    const int64_t row = item / parts, part = item % parts;
    const int64_t sample = row / rows;
    A total[V][kCount];
#pragma unroll
    for (int k = 0; k < V; ++k) {
      start<Of>(total[k]);
    }
    if (item < items) {
      const int64_t begin = row * columns + columns * part / parts;
      const int64_t end = row * columns + columns * (part + 1) / parts;
      const int64_t first_vector = ceil_div(begin, V) * V, last_vector = end / V * V;
      const int64_t body = first_vector < end ? first_vector : end;
      const int64_t tail = last_vector > body ? last_vector : body;
      InRow in{sample, row - sample * rows, 0, rows, columns};
      auto at = [&](int64_t i) {
        in.column = i - row * columns;
        return Place<kChannelsLast, InRow>{in};
      };
      auto add = [&](int64_t i) {
        A v[1][kCount];
        read(i, at(i), v);
        merge<Of>(total[0], v[0]);
      };
      for (int64_t i = begin + lane; i < body; i += lanes) {
        add(i);
      }
#pragma unroll Read::kUnroll
      for (int64_t i = body + int64_t{lane} * V; i < tail; i += int64_t{lanes} * V) {
        A v[V][kCount];
        read(i, at(i), v);
#pragma unroll
        for (int k = 0; k < V; ++k) {
          merge<Of>(total[k], v[k]);
        }
      }
      for (int64_t i = tail + lane; i < end; i += lanes) {
        add(i);
      }
    }
    A(&sum)[kCount] = total[0];
#pragma unroll
    for (int k = 1; k < V; ++k) {
      merge<Of>(sum, total[k]);
    }
    for (int other = (lanes < kWarp ? lanes : kWarp) / 2; other > 0; other /= 2) {
      A v[kCount];
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        v[j] = __shfl_xor_sync(0xffffffff, sum[j], other);
      }
      merge<Of>(sum, v);
    }
    if (lanes > kWarp) {
      if (threadIdx.x % kWarp == 0) {
#pragma unroll
        for (int j = 0; j < kCount; ++j) {
          of_warp[warp][j] = sum[j];
        }
      }
      __syncthreads();
      start<Of>(sum);
      for (int w = 0; w < lanes / kWarp; ++w) {
        merge<Of>(sum, of_warp[group * (lanes / kWarp) + w]);
      }
      __syncthreads();
    }
    if (item < items && lane == 0) {
      const int64_t to = sample * results.stride + part * rows + row - sample * rows;
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        results.into[j][to] = sum[j] * results.factor[j];
      }
    }
  }
}

// Down columns: a block has `across` vectors of columns side by side, and as many rows as there are threads for.
template <class A, int V, bool kChannelsLast, class Read>
__global__ void __launch_bounds__(kThreads) reduce_columns_kernel(
    int64_t samples, int64_t rows, int64_t columns, int64_t parts, int64_t tiles, int across, Read read,
    Results<A, Read::Of::kCount> results) {
  using Of = typename Read::Of;
  constexpr int kCount = Of::kCount;
  // Padded, so that neither the threads that write nor those that read meet in a bank.
  __shared__ A of_thread[kCount][V][kThreads + 4];
  const int x = threadIdx.x % across, y = threadIdx.x / across, height = kThreads / across;
  const int64_t items = samples * parts * tiles;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t tile = item % tiles, part = item / tiles % parts, sample = item / tiles / parts;
    const int64_t first = tile * across * V;
    const int64_t column = first + x * V;
    A total[V][kCount];
#pragma unroll
    for (int k = 0; k < V; ++k) {
      start<Of>(total[k]);
    }
    if (y < height && column < columns) {
      const int64_t end = rows * (part + 1) / parts;
#pragma unroll Read::kUnroll
      for (int64_t r = rows * part / parts + y; r < end; r += height) {
        A v[V][kCount];
        read((sample * rows + r) * columns + column, Place<kChannelsLast, InRow>{{sample, r, column, rows, columns}}, v);
#pragma unroll
        for (int k = 0; k < V; ++k) {
          merge<Of>(total[k], v[k]);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
#pragma unroll
      for (int k = 0; k < V; ++k) {
        of_thread[j][k][threadIdx.x] = total[k][j];
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < across * V && first + i < columns; i += kThreads) {
      A sum[kCount];
      start<Of>(sum);
      for (int r = 0; r < height; ++r) {
        A v[kCount];
#pragma unroll
        for (int j = 0; j < kCount; ++j) {
          v[j] = of_thread[j][i % V][r * across + i / V];
        }
        merge<Of>(sum, v);
      }
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        results.into[j][sample * results.stride + part * columns + first + i] = sum[j] * results.factor[j];
      }
    }
    __syncthreads();
  }
}

template <class A, class Of>
__global__ void __launch_bounds__(kThreads) merge_parts_kernel(
    Results<A, Of::kCount> parts_of, Results<A, Of::kCount> results, int64_t count, int64_t channels, int64_t parts) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += int64_t{gridDim.x} * kThreads) {
    const int64_t sample = i / channels, channel = i - sample * channels;
    A sum[Of::kCount];
    start<Of>(sum);
#pragma unroll 4
    for (int64_t part = 0; part < parts; ++part) {
      A v[Of::kCount];
#pragma unroll
      for (int j = 0; j < Of::kCount; ++j) {
        v[j] = parts_of.into[j][sample * parts_of.stride + part * channels + channel];
      }
      merge<Of>(sum, v);
    }
#pragma unroll
    for (int j = 0; j < Of::kCount; ++j) {
      results.into[j][sample * results.stride + channel] = sum[j] * results.factor[j];
    }
  }
}

// One number for each channel: reductions over space; or for each position: over channels.
enum class Over { Space, Channels };

// The reductions of one op over spaces that are no larger than `space`. T is what vectors are of.
template <class T, Over over = Over::Space>
class Reduction {
  using A = Acc<T>;

 public:
  // `values`: of the functors, at the most. x: its device and type.
  Reduction(const Device& device, const Tensor& x, const Space& space, bool vectors, int values = 1)
      : device_(device), plan_(plan_reduction(device, turned(space), vectors, kVector<T>)) {
    if (plan_.parts > 1) {
      parts_.emplace(x, std::array<int64_t, 1>{values * plan_.parts * space.samples * turned(space).channels});
    }
  }

  // read(at, place, v) gives V times the values whose kinds are Read::Of, A (&v)[V][kCount], and a thread has Read::kUnroll of
  // them under way.
  template <class Read>
  void run(const Space& space, const Read& read, const Results<A, Read::Of::kCount>& results) const {
    using Of = typename Read::Of;
    const Space matrix = turned(space);
    if (plan_.parts == 1) {
      launch(matrix, read, results);
      return;
    }
    Results<A, Of::kCount> parts_of;
    parts_of.stride = plan_.parts * matrix.channels;
    for (int j = 0; j < Of::kCount; ++j) {
      parts_of.into[j] = (*parts_)[0] + j * parts_of.stride * space.samples;
      parts_of.factor[j] = 1;
    }
    launch(matrix, read, parts_of);
    const int64_t count = matrix.samples * matrix.channels;
    device_.launch(
        "merge_parts", merge_parts_kernel<A, Of>, ceil_div(count, kThreads), kThreads, parts_of, results, count, matrix.channels,
        plan_.parts);
  }

 private:
  static Space turned(const Space& space) {
    return over == Over::Space ? space : transposed(space);
  }

  template <class Read>
  void launch(const Space& matrix, const Read& read, const Results<A, Read::Of::kCount>& results) const {
    with_bool(plan_.vectors, [&](auto vectors) {
      constexpr int V = vectors ? kVector<T> : 1;
      constexpr bool kOverChannels = over == Over::Channels;
      if (matrix.channels_last) {
        device_.launch(
            "reduce_columns", reduce_columns_kernel<A, V, !kOverChannels, Read>, matrix.samples * plan_.parts * plan_.tiles,
            kThreads, matrix.samples, matrix.positions, matrix.channels, plan_.parts, plan_.tiles, plan_.columns, read, results);
      } else {
        const int64_t rows = matrix.samples * matrix.channels;
        device_.launch(
            "reduce_rows", reduce_rows_kernel<A, V, kOverChannels, Read>, ceil_div(rows * plan_.parts, kThreads / plan_.lanes),
            kThreads, matrix.samples, matrix.channels, matrix.positions, plan_.parts, plan_.lanes, read, results);
      }
    });
  }

  const Device& device_;
  ReductionPlan plan_;
  std::optional<Scratch<A, 1>> parts_;
};

// ---- one thread for each of `count` ----

template <class F>
__global__ void __launch_bounds__(kThreads) each_kernel(int64_t count, F f) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += int64_t{gridDim.x} * kThreads) {
    f(i);
  }
}

template <class F>
void each(const Device& device, const char* name, int64_t count, const F& f) {
  device.launch(name, each_kernel<F>, ceil_div(count, kThreads), kThreads, count, f);
}


// ---- visiting every element ----

inline constexpr int kUnroll = 2;             // vectors that a thread has under way
inline constexpr int kMaxTile = 1 << 12;      // elements of a block
static_assert(kThreads * kUnroll * 16 / 2 <= kMaxTile);

// Where a place lies in rows of `size`, given where the tile begins: one 64-bit division a block, not one a vector.
struct Rows {
  Rows(int64_t size_, int64_t of_sample_)
      : size(size_), of_sample(of_sample_), inverse(((uint64_t{1} << 32) + size_ - 1) / size_) {}

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
  int64_t of_sample;  // rows
  uint64_t inverse;  // 2^32 / size, rounded up
};

// Where a block begins, and from there the places of its elements.
template <bool kChannelsLast>
struct Tile {
  const Rows &rows, &samples;
  int64_t sample, in_sample, row, column;

  __device__ Tile(const Rows& rows_, const Rows& samples_, int64_t begin)
      : rows(rows_), samples(samples_), sample(begin / samples.size), in_sample(begin - sample * samples.size),
        row(begin / rows.size), column(begin - row * rows.size) {}

  __device__ auto place(int64_t local) const {
    int64_t n = sample, i = in_sample, r = row, c = column;
    samples.advance(local, n, i);
    rows.advance(local, r, c);
    const InRow in{n, r - n * rows.of_sample, c, rows.of_sample, rows.size};
    if constexpr (kChannelsLast) {
      return Place<true, InRow>{in};  // vectors fit into rows
    } else {
      return Place<false, InRows>{{in}};
    }
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
        visit.read(begin + local + u * kStride, tile.place(local + u * kStride), inputs[u]);
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        visit.write(begin + local + u * kStride, tile.place(local + u * kStride), inputs[u]);
      }
      continue;
    }
    for (; begin + local + V <= count; local += kStride) {
      typename Visit::template Inputs<V> inputs;
      visit.read(begin + local, tile.place(local), inputs);
      visit.write(begin + local, tile.place(local), inputs);
    }
    // Fewer than V are left.
    const int64_t at = count / V * V + threadIdx.x;
    if (V > 1 && at < count) {
      typename Visit::template Inputs<1> inputs;
      visit.read(at, tile.place(at - begin), inputs);
      visit.write(at, tile.place(at - begin), inputs);
    }
  }
}

// visit.read(at, place, inputs), then visit.write(at, place, inputs), for all elements; Visit::Inputs<V> is what lies between. T is what vectors are of.
template <class T, class Visit>
void visit_all(const Device& device, const char* name, const Space& space, bool vectors, const Visit& visit) {
  with_bool(vectors, [&](auto vectors_) {
    with_bool(space.channels_last, [&](auto channels_last) {
      constexpr int V = vectors_ ? kVector<T> : 1;
      const Rows rows =
          channels_last ? Rows(space.channels, space.positions) : Rows(space.positions, space.channels);
      const Rows samples(space.size(), 1);
      device.launch(
          name, visit_kernel<V, channels_last, Visit>, ceil_div(space.count(), kThreads * kUnroll * V), kThreads, space.count(), rows,
          samples, visit);
    });
  });
}

}  // namespace tvc::gpu
