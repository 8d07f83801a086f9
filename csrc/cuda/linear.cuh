#pragma once
// The small matrix products of channel gates. Weights are read once for several samples, and a result goes to write(index, value).

#include "launch.cuh"
#include "vec.cuh"

namespace tvc::gpu {

// A warp's tile of linear: rows by samples, one result for each lane.
inline constexpr int kTileRows = 4, kTileSamples = 8;
static_assert(kTileRows * kTileSamples == kWarp);

// Lane i gets the sum over lanes of total[i]: at each step a lane gives away the half of the sums that it will not hold.
template <int half = kWarp / 2, class A>
__device__ inline A sum_of_lane(A (&total)[kWarp], int lane) {
  const bool upper = lane & half;
#pragma unroll
  for (int i = 0; i < half; ++i) {
    const A given = upper ? total[i] : total[i + half];
    const A kept = upper ? total[i + half] : total[i];
    total[i] = kept + __shfl_xor_sync(0xffffffff, given, half);
  }
  if constexpr (half > 1) {
    return sum_of_lane<half / 2>(total, lane);
  } else {
    return total[0];
  }
}

// `lanes` threads share a row: a warp, or where rows are long the block.
template <class A, class W, class Write>
__global__ void __launch_bounds__(kThreads) linear_kernel(
    const A* __restrict__ in, int64_t samples, const W* __restrict__ weight, const W* __restrict__ bias, int64_t rows,
    int64_t inner, int lanes, Write write) {
  __shared__ A of_warp[kWarps][kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const bool whole_block = lanes == kThreads;
  const int64_t row_groups = ceil_div(rows, whole_block ? kTileRows : kTileRows * kWarps);
  const int64_t items = row_groups * ceil_div(samples, kTileSamples);
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t n = item / row_groups * kTileSamples;
    const int64_t group = item % row_groups;
    const int64_t row = (whole_block ? group : group * kWarps + warp) * kTileRows;
    const int64_t n_left = samples - n, rows_left = rows - row;
    A total[kWarp] = {};
    if (rows_left > 0) {
#pragma unroll 2
      for (int64_t k = threadIdx.x % lanes; k < inner; k += lanes) {
        A x[kTileSamples];
#pragma unroll
        for (int s = 0; s < kTileSamples; ++s) {
          x[s] = s < n_left ? in[(n + s) * inner + k] : A(0);
        }
#pragma unroll
        for (int r = 0; r < kTileRows; ++r) {
          const A w = r < rows_left ? to_acc(weight[(row + r) * inner + k]) : A(0);
#pragma unroll
          for (int s = 0; s < kTileSamples; ++s) {
            total[r * kTileSamples + s] += x[s] * w;
          }
        }
      }
    }
    A sum = sum_of_lane(total, lane);
    if (whole_block) {
      of_warp[warp][lane] = sum;
      __syncthreads();
      sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        sum += of_warp[w][lane];
      }
      __syncthreads();
    }
    const int r = lane / kTileSamples, s = lane % kTileSamples;
    if (r < rows_left && s < n_left && (!whole_block || warp == 0)) {
      write((n + s) * rows + row + r, sum + (bias ? to_acc(bias[row + r]) : A(0)));
    }
  }
}

// write(n * rows + row, sum_k in[n][k] * weight[row][k] + bias[row]); in (samples, inner).
template <class A, class W, class Write>
void linear(
    const Device& device, const A* in, int64_t samples, const W* weight, const W* bias, int64_t rows, int64_t inner,
    const Write& write) {
  const int lanes = inner >= 2 * kThreads ? kThreads : kWarp;
  const int64_t rows_of_block = kTileRows * (lanes == kThreads ? 1 : kWarps);
  device.launch(
      "linear", linear_kernel<A, W, Write>, ceil_div(rows, rows_of_block) * ceil_div(samples, kTileSamples), kThreads, in, samples,
      weight, bias, rows, inner, lanes, write);
}

inline constexpr int kTransposedSamples = 4, kTransposedWarps = 32;  // warps: at the most

// A warp has 32 columns, and the warps of a block share the rows.
template <class A, class W, class Write>
__global__ void __launch_bounds__(kTransposedWarps* kWarp) linear_transposed_kernel(
    const A* __restrict__ in, int64_t samples, const W* __restrict__ weight, int64_t rows, int64_t columns, Write write) {
  __shared__ A of_warp[kTransposedSamples][kTransposedWarps][kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const int64_t tiles = ceil_div(columns, kWarp);
  const int64_t items = tiles * ceil_div(samples, kTransposedSamples);
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t n = item / tiles * kTransposedSamples;
    const int64_t column = item % tiles * kWarp + lane;
    const int64_t n_left = samples - n;
    A total[kTransposedSamples] = {};
    if (column < columns) {
#pragma unroll 4
      for (int64_t row = warp; row < rows; row += warps) {
        const A w = to_acc(weight[row * columns + column]);
#pragma unroll
        for (int s = 0; s < kTransposedSamples; ++s) {
          total[s] += s < n_left ? in[(n + s) * rows + row] * w : A(0);
        }
      }
    }
#pragma unroll
    for (int s = 0; s < kTransposedSamples; ++s) {
      of_warp[s][warp][lane] = total[s];
    }
    __syncthreads();
    for (int s = warp; s < kTransposedSamples; s += warps) {
      if (s < n_left && column < columns) {
        A sum = 0;
        for (int w = 0; w < warps; ++w) {
          sum += of_warp[s][w][lane];
        }
        write((n + s) * columns + column, sum);
      }
    }
    __syncthreads();
  }
}

// write(n * columns + k, sum_row in[n][row] * weight[row][k]); in (samples, rows).
template <class A, class W, class Write>
void linear_transposed(
    const Device& device, const A* in, int64_t samples, const W* weight, int64_t rows, int64_t columns, const Write& write) {
  // About eight rows for a warp.
  const int64_t warps = std::clamp<int64_t>(rows / 8, kTransposedSamples, kTransposedWarps);
  device.launch(
      "linear_transposed", linear_transposed_kernel<A, W, Write>,
      ceil_div(columns, kWarp) * ceil_div(samples, kTransposedSamples), warps * kWarp, in, samples, weight, rows, columns, write);
}

// A write of the first product of a gate.
template <class A>
struct WriteHidden {
  Activation act;
  A *before_act, *hidden;  // before_act is kept for the backward only
  __device__ void operator()(int64_t i, A v) const {
    if (before_act) {
      before_act[i] = v;
    }
    hidden[i] = activate(v, act);
  }
};

}  // namespace tvc::gpu
