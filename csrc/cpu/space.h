#pragma once
// What ops over an activation share: statistics over space and over channels, and applying gates with a residual and an
// activation, in both layouts.
//
// A sample is a dense matrix: [C][S], or, channels_last, [S][C]. A statistic over space is one value a row in the one, and one
// a column in the other; statistics over channels are the same the other way round, and so are the gates of channels and of
// positions. So there are three loops here, over rows and columns, and the ops say what is computed at each element.

#include <array>

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
  int64_t rows() const {
    return channels_last ? positions : channels;
  }
  int64_t columns() const {
    return channels_last ? channels : positions;
  }
  int64_t max_parts() const {
    return rows();
  }
  // How many rows of partial statistics over space a sample has when `parts` threads share it.
  int64_t partial_rows(int64_t parts) const {
    return channels_last ? parts : 1;
  }
  // And of partial statistics over channels.
  int64_t partial_rows_of_positions(int64_t parts) const {
    return channels_last ? 1 : parts;
  }
};

// Pointers to n arrays: gates, inputs or outputs.
template <class T, size_t n>
using Arrays = std::array<T*, n>;

// The gates at one vector, or one value for all of its lanes.
template <class A, size_t n>
using Values = std::array<Vec<A>, n>;

enum class Reduce { Sum, Max };

// Results that are gathered at once: half of the registers there are. With the gates beside them, three quarters at most.
#if defined(__AVX512F__)
inline constexpr int kAccumulators = 16;
#else
inline constexpr int kAccumulators = 8;
#endif

template <Reduce kind, class V>
inline V combine(V a, V b) {
  if constexpr (kind == Reduce::Sum) {
    return a + b;
  } else {
    return maximum(a, b);
  }
}
template <Reduce kind, class A>
inline Vec<A> neutral() {
  return kind == Reduce::Sum ? Vec<A>{} : splat(-std::numeric_limits<A>::infinity());
}

template <class A, size_t n>
inline Values<A, n> splat_each(const Arrays<const A, n>& gates, int64_t row) {
  Values<A, n> value;
  for (size_t j = 0; j < n; ++j) {
    value[j] = splat(gates[j][row]);
  }
  return value;
}

// Packs of `n` arrays at an offset; `lanes` may say that only the first are there.
template <class T, size_t n, class... Lanes>
inline std::array<Pack<T>, n> load_each(const Arrays<const T, n>& in, int64_t at, Lanes... lanes) {
  std::array<Pack<T>, n> value;
  TVC_UNROLL
  for (size_t j = 0; j < n; ++j) {
    value[j] = load_pack(in[j] + at, lanes...);
  }
  return value;
}
template <class T, size_t n, class... Lanes>
inline std::array<Pack<T>, n> load_each_ordered(const Arrays<const Acc<T>, n>& gates, int64_t at, Lanes... lanes) {
  std::array<Pack<T>, n> value;
  TVC_UNROLL
  for (size_t j = 0; j < n; ++j) {
    value[j] = load_ordered<T>(gates[j] + at, lanes...);
  }
  return value;
}
template <class A, class T, size_t n>
inline Values<A, n> vector_of(const std::array<Pack<T>, n>& packs, int k) {
  Values<A, n> value;
  TVC_UNROLL
  for (size_t j = 0; j < n; ++j) {
    value[j] = packs[j].v[k];
  }
  return value;
}

// f(row gates, column gates, inputs) -> outputs, at every element of rows begin to end. One row after the other: several at
// once share what is loaded for columns, but write to several places, which was measured to take twice as long.
//
// `stream` writes past the caches, for outputs that would not stay in them.
template <class T, size_t kRowGates, size_t kColumnGates, size_t kIn, size_t kOut, class F>
void transform_rows(int64_t begin, int64_t end, int64_t columns, const Arrays<const Acc<T>, kRowGates>& row_gates,
                    const Arrays<const Acc<T>, kColumnGates>& column_gates, const Arrays<const T, kIn>& in,
                    const Arrays<T, kOut>& out, bool stream, const F& f) {
  using A = Acc<T>;
  constexpr int64_t L = kPackLanes<T>;
  for (const T* to : out) {
    stream = stream && can_stream(to + begin * columns) && (columns % L == 0 || end - begin == 1);
  }
  for (int64_t row = begin; row < end; ++row) {
    const Values<A, kRowGates> gates = splat_each<A>(row_gates, row);
    auto at = [&](int64_t i, auto... lanes) {
      const auto column = load_each_ordered<T>(column_gates, i, lanes...);
      const auto values = load_each<T>(in, row * columns + i, lanes...);
      std::array<Pack<T>, kOut> result;
      TVC_UNROLL
      for (int k = 0; k < kPack<T>; ++k) {
        const Values<A, kOut> y = f(gates, vector_of<A>(column, k), vector_of<A>(values, k));
        TVC_UNROLL
        for (size_t j = 0; j < kOut; ++j) {
          result[j].v[k] = y[j];
        }
      }
      TVC_UNROLL
      for (size_t j = 0; j < kOut; ++j) {
        T* to = out[j] + row * columns + i;
        if constexpr (sizeof...(lanes) == 0) {
          stream ? stream_pack(to, result[j]) : store_pack(to, result[j]);
        } else {
          store_pack(to, result[j], lanes...);
        }
      }
    };
    int64_t i = 0;
    for (; i + L <= columns; i += L) {
      at(i);
    }
    if (i < columns) {
      at(i, static_cast<int>(columns - i));
    }
  }
  if (stream) {
    finish_streams();
  }
}

// One value a row, of rows begin to end: into[j][row] is what f(row gates, column gates, inputs)[j] adds up to, or its maximum.
template <class T, Reduce... kKinds, size_t kRowGates, size_t kColumnGates, size_t kIn, class F>
void reduce_rows(int64_t begin, int64_t end, int64_t columns, const Arrays<const Acc<T>, kRowGates>& row_gates,
                 const Arrays<const Acc<T>, kColumnGates>& column_gates, const Arrays<const T, kIn>& in,
                 const Arrays<Acc<T>, sizeof...(kKinds)>& into, const F& f) {
  using A = Acc<T>;
  constexpr size_t K = sizeof...(kKinds);
  constexpr int64_t L = kPackLanes<T>;
  constexpr int kRows = kLanes<A>;  // so many rows end together: one sum over lanes of all of them is cheaper than one each
  constexpr int kChains = 4;        // additions under way at once: with one, its latency is what waits, not memory
  constexpr int kUnroll = kChains / kPack<T>;
  for (int64_t first_row = begin; first_row < end; first_row += kRows) {
    const int rows = static_cast<int>(std::min<int64_t>(kRows, end - first_row));
    Vec<A> totals[K][kRows] = {};
    for (int r = 0; r < rows; ++r) {
      const int64_t row = first_row + r;
      const Values<A, kRowGates> gates = splat_each<A>(row_gates, row);
      Vec<A> chain[kChains][K];
      TVC_UNROLL
      for (int u = 0; u < kChains; ++u) {
        size_t j = 0;
        ((chain[u][j++] = neutral<kKinds, A>()), ...);
      }
      auto at = [&](int u, int64_t i, auto... lanes) {
        const auto column = load_each_ordered<T>(column_gates, i, lanes...);
        const auto values = load_each<T>(in, row * columns + i, lanes...);
        TVC_UNROLL
        for (int k = 0; k < kPack<T>; ++k) {
          const Values<A, K> y = f(gates, vector_of<A>(column, k), vector_of<A>(values, k));
          size_t j = 0;
          auto add = [&](auto kind, Vec<A>& total, Vec<A> v) {
            if constexpr (sizeof...(lanes) > 0) {
              v = keep_elements<T>(v, k, neutral<decltype(kind)::value, A>(), lanes...);
            }
            total = combine<decltype(kind)::value>(total, v);
          };
          ((add(std::integral_constant<Reduce, kKinds>{}, chain[u * kPack<T> + k][j], y[j]), ++j), ...);
        }
      };
      int64_t i = 0;
      for (; i + kUnroll * L <= columns; i += kUnroll * L) {
        TVC_UNROLL
        for (int u = 0; u < kUnroll; ++u) {
          at(u, i + u * L);
        }
      }
      for (; i + L <= columns; i += L) {
        at(0, i);
      }
      if (i < columns) {
        at(kUnroll - 1, i, static_cast<int>(columns - i));
      }
      size_t j = 0;
      ((totals[j][r] = combine<kKinds>(combine<kKinds>(chain[0][j], chain[1][j]), combine<kKinds>(chain[2][j], chain[3][j])),
        ++j),
       ...);
    }
    size_t j = 0;
    auto finish = [&](auto kind, Vec<A>* total, A* to) {
      const Vec<A> all = over_lanes<A>(total, [](Vec<A> a, Vec<A> b) { return combine<decltype(kind)::value>(a, b); });
      rows == kRows ? store(to, all) : store(to, all, rows);
    };
    ((finish(std::integral_constant<Reduce, kKinds>{}, totals[j], into[j] + first_row), ++j), ...);
  }
}

// One value a column, over rows begin to end: into[j][column] is what f(row gates, column gates, inputs)[j] adds up to, or its
// maximum. As many columns at a time as there are registers for their results.
template <class T, Reduce... kKinds, size_t kRowGates, size_t kColumnGates, size_t kIn, class F>
void reduce_columns(int64_t begin, int64_t end, int64_t columns, const Arrays<const Acc<T>, kRowGates>& row_gates,
                    const Arrays<const Acc<T>, kColumnGates>& column_gates, const Arrays<const T, kIn>& in,
                    const Arrays<Acc<T>, sizeof...(kKinds)>& into, const F& f) {
  using A = Acc<T>;
  constexpr size_t K = sizeof...(kKinds);
  constexpr int64_t L = kPackLanes<T>;
  constexpr int kPacks = std::min(kAccumulators / static_cast<int>(K),
                                  kAccumulators * 3 / 2 / static_cast<int>(K + kColumnGates)) /
                         kPack<T>;
  static_assert(kPacks > 0);

  // kWidth packs of columns, and as many rows at a time as give kPacks of them: results that wait for each other are slow.
  auto block = [&](auto width, int64_t i, auto... lanes) {
    constexpr int kWidth = decltype(width)::value, kRows = kPacks / kWidth;
    std::array<Pack<T>, kColumnGates> column[kWidth];
    std::array<Pack<T>, K> total[kRows][kWidth];
    TVC_UNROLL
    for (int w = 0; w < kWidth; ++w) {
      column[w] = load_each_ordered<T>(column_gates, i + w * L, lanes...);
      TVC_UNROLL
      for (int r = 0; r < kRows; ++r) {
        TVC_UNROLL
        for (int k = 0; k < kPack<T>; ++k) {
          size_t j = 0;
          ((total[r][w][j++].v[k] = neutral<kKinds, A>()), ...);
        }
      }
    }
    auto add = [&](int r, int64_t row) {
      const Values<A, kRowGates> gates = splat_each<A>(row_gates, row);
      TVC_UNROLL
      for (int w = 0; w < kWidth; ++w) {
        const auto values = load_each<T>(in, row * columns + i + w * L, lanes...);
        TVC_UNROLL
        for (int k = 0; k < kPack<T>; ++k) {
          const Values<A, K> y = f(gates, vector_of<A>(column[w], k), vector_of<A>(values, k));
          size_t j = 0;
          ((total[r][w][j].v[k] = combine<kKinds>(total[r][w][j].v[k], y[j]), ++j), ...);
        }
      }
    };
    int64_t row = begin;
    for (; row + kRows <= end; row += kRows) {
      TVC_UNROLL
      for (int r = 0; r < kRows; ++r) {
        add(r, row + r);
      }
    }
    for (; row < end; ++row) {
      add(0, row);
    }
    TVC_UNROLL
    for (int w = 0; w < kWidth; ++w) {
      TVC_UNROLL
      for (int r = 1; r < kRows; ++r) {
        TVC_UNROLL
        for (int k = 0; k < kPack<T>; ++k) {
          size_t j = 0;
          ((total[0][w][j].v[k] = combine<kKinds>(total[0][w][j].v[k], total[r][w][j].v[k]), ++j), ...);
        }
      }
      TVC_UNROLL
      for (size_t j = 0; j < K; ++j) {
        store_ordered<T>(into[j] + i + w * L, total[0][w][j], lanes...);
      }
    }
  };
  int64_t i = 0;
  auto blocks = [&](auto width) {
    for (; i + width() * L <= columns; i += width() * L) {
      block(width, i);
    }
  };
  blocks(std::integral_constant<int, kPacks>{});
  if constexpr (kPacks > 4) {
    blocks(std::integral_constant<int, 4>{});
  }
  if constexpr (kPacks > 1) {
    blocks(std::integral_constant<int, 1>{});
  }
  if (i < columns) {
    block(std::integral_constant<int, 1>{}, i, static_cast<int>(columns - i));
  }
}

// Statistics over space of a part of a sample: into[j] is (channels) in [C][S]; in [S][C] part i writes row i of (parts,
// channels). f(channel gates, position gates, inputs).
template <class T, Reduce... kKinds, size_t kChannelGates, size_t kPositionGates, size_t kIn, class F>
void reduce_over_space(const Space& space, Part part, const Arrays<const Acc<T>, kChannelGates>& channel_gates,
                       const Arrays<const Acc<T>, kPositionGates>& position_gates, const Arrays<const T, kIn>& in,
                       const Arrays<Acc<T>, sizeof...(kKinds)>& into, const F& f) {
  const int64_t begin = part.begin(space.rows()), end = part.end(space.rows());
  if (!space.channels_last) {
    reduce_rows<T, kKinds...>(begin, end, space.columns(), channel_gates, position_gates, in, into, f);
  } else {
    auto rows = into;
    for (auto& row : rows) {
      row += part.index * space.channels;
    }
    reduce_columns<T, kKinds...>(begin, end, space.columns(), position_gates, channel_gates, in, rows,
                                 [&](const auto& row, const auto& column, const auto& v) { return f(column, row, v); });
  }
}
template <class T, Reduce... kKinds, size_t kGates, size_t kIn, class F>
void reduce_over_space(const Space& space, Part part, const Arrays<const Acc<T>, kGates>& gates, const Arrays<const T, kIn>& in,
                       const Arrays<Acc<T>, sizeof...(kKinds)>& into, const F& f) {
  reduce_over_space<T, kKinds...>(space, part, gates, Arrays<const Acc<T>, 0>{}, in, into,
                                  [&](const auto& channel, const auto&, const auto& v) { return f(channel, v); });
}

// The same over channels: into[j] is (positions) in [S][C]; in [C][S] part i writes row i of (parts, positions).
template <class T, Reduce... kKinds, size_t kChannelGates, size_t kPositionGates, size_t kIn, class F>
void reduce_over_channels(const Space& space, Part part, const Arrays<const Acc<T>, kChannelGates>& channel_gates,
                          const Arrays<const Acc<T>, kPositionGates>& position_gates, const Arrays<const T, kIn>& in,
                          const Arrays<Acc<T>, sizeof...(kKinds)>& into, const F& f) {
  const int64_t begin = part.begin(space.rows()), end = part.end(space.rows());
  if (!space.channels_last) {
    auto rows = into;
    for (auto& row : rows) {
      row += part.index * space.positions;
    }
    reduce_columns<T, kKinds...>(begin, end, space.columns(), channel_gates, position_gates, in, rows, f);
  } else {
    reduce_rows<T, kKinds...>(begin, end, space.columns(), position_gates, channel_gates, in, into,
                              [&](const auto& row, const auto& column, const auto& v) { return f(column, row, v); });
  }
}

// The rows of partial results of a sample combined into the first.
template <Reduce kind, class A>
void combine_partial_rows(A* sums, int64_t rows, int64_t length) {
  for (int64_t r = 1; r < rows; ++r) {
    map(length, sums, [](Vec<A> a, Vec<A> b) { return combine<kind>(a, b); }, sums, sums + r * length);
  }
}

// out = f(channel gates, position gates, inputs) at every element of a part of a sample.
template <class T, size_t kChannelGates, size_t kPositionGates, size_t kIn, size_t kOut, class F>
void transform(const Space& space, Part part, const Arrays<const Acc<T>, kChannelGates>& channel_gates,
               const Arrays<const Acc<T>, kPositionGates>& position_gates, const Arrays<const T, kIn>& in,
               const Arrays<T, kOut>& out, bool stream, const F& f) {
  const int64_t begin = part.begin(space.rows()), end = part.end(space.rows());
  if (!space.channels_last) {
    transform_rows<T>(begin, end, space.columns(), channel_gates, position_gates, in, out, stream, f);
  } else {
    transform_rows<T>(begin, end, space.columns(), position_gates, channel_gates, in, out, stream,
                      [&](const auto& row, const auto& column, const auto& v) { return f(column, row, v); });
  }
}
template <class T, size_t kGates, size_t kIn, size_t kOut, class F>
void transform(const Space& space, Part part, const Arrays<const Acc<T>, kGates>& gates, const Arrays<const T, kIn>& in,
               const Arrays<T, kOut>& out, bool stream, const F& f) {
  transform<T>(space, part, gates, Arrays<const Acc<T>, 0>{}, in, out, stream,
               [&](const auto& channel, const auto&, const auto& v) { return f(channel, v); });
}

}  // namespace tvc::TVC_ISA
