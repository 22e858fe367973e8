// Classes of sorted rows: where tiles hold positives, and which elements are. Each class is a run
// of places, so its positives fill a square on the diagonal.
#pragma once
#include "contract/supcon.h"
#include "cuda/tile.cuh"

namespace sslkern::cuda {

// The first place whose label is not less than (kBehind: is greater than) this one.
template <bool kBehind>
SSLKERN_DEVICE std::int64_t first_place(const std::int64_t* labels, std::int64_t N,
                                        std::int64_t label) {
  std::int64_t low = 0, high = N;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    const bool before = kBehind ? labels[middle] <= label : labels[middle] < label;
    (before ? low : high) = before ? middle + 1 : middle;
  }
  return low;
}

// A thread per place: two binary searches.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) supcon_classes_kernel(SupconClasses p) {
  const std::int64_t i = std::int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.N) return;
  const std::int64_t begin = first_place<false>(p.labels, p.N, p.labels[i]);
  const std::int64_t end = first_place<true>(p.labels, p.N, p.labels[i]);
  p.begin[i] = std::int32_t(begin);
  p.end[i] = std::int32_t(end);
  p.positives[p.order[i]] = end - begin - 1;
}

// Of the tiles of columns beside one tile of rows: those that hold positives, and among them those
// that hold nothing else.
struct ClassTiles {
  int begin, end;
  int whole_begin, whole_end;

  // Blocks that share the positives.
  SSLKERN_DEVICE int splits(std::int64_t most) const {
    return int(min(most, std::int64_t(end - begin)));
  }
};

SSLKERN_DEVICE ClassTiles class_tiles(const SupconRows& in, int first_row, int side) {
  const int most = int(in.z.N) - 1, first = min(first_row, most),
            last = min(first_row + side - 1, most);
  const int begin = in.begin[first], end = in.end[last];
  ClassTiles tiles{begin / side, (end + side - 1) / side, 0, 0};
  if (in.end[first] != end) return tiles;
  tiles.whole_begin = (begin + side - 1) / side;
  tiles.whole_end = max(tiles.whole_begin, end / side);
  return tiles;
}

// Where two tiles of rows meet.
template <class P>
struct ClassTile {
  int row, column;  // first of each
  int N;
  const std::int32_t* end;

  SSLKERN_DEVICE bool has_positives() const {
    const int low = min(row, column), high = max(row, column);
    return low == high || end[min(low + P::kSide, N) - 1] > high;
  }
  // Neither positives nor padding.
  SSLKERN_DEVICE bool is_negative() const { return column <= N - P::kSide && !has_positives(); }
  // Neither negatives, nor padding, nor rows that meet themselves.
  SSLKERN_DEVICE bool is_positive() const {
    const int low = min(row, column), high = max(row, column);
    return low != high && high <= N - P::kSide && end[low] == end[high + P::kSide - 1];
  }
  SSLKERN_DEVICE int end_of_row(int r) const { return end[min(row + r, N - 1)]; }
};

// The ends of the classes of a lane's columns; kNoClass behind the last.
constexpr int kNoClass = -1;
template <class P>
using ColumnEnds = int[P::kN][2];

template <class P>
SSLKERN_DEVICE void load_ends(ColumnEnds<P>& ends, const ClassTile<P>& tile, const Place<P>& at) {
#pragma unroll
  for (int j = 0; j < P::kN; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = tile.column + at.column_of(j, i);
      ends[j][i] = column < tile.N ? tile.end[column] : kNoClass;
    }
  }
}

}  // namespace sslkern::cuda
