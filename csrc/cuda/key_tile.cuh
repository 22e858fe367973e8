// Where a tile of queries meets a tile of keys; see contract/info_nce.h for the formulas and
// letters.
#pragma once
#include "contract/info_nce.h"
#include "cuda/tile.cuh"

namespace sslkern::cuda {

template <class P>
struct KeyTile {
  using T = typename P::Working;
  static constexpr int kColumns = 2 * P::kN;  // of a lane: [j][i] is number 2 j + i

  const InfoNcePacked& in;
  int row, column;  // first of each
  const Place<P>& at;

  SSLKERN_DEVICE int column_of(int q) const { return at.column_of(q / 2, q % 2); }

  // x_ij in place of the products: two multiplications and an addition. Behind the last key
  // -infinity.
  SSLKERN_DEVICE void score(Results<P>& c) const {
    ColumnValues<P> slope, offset;
    load_columns<P>(slope, in.slope, column, at);
    load_columns<P>(offset, in.offset, column, at);
#pragma unroll
    for (int m = 0; m < P::kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const T factor = row_value<P>(in.query.factor, row, m, h, at);
#pragma unroll
        for (int q = 0; q < kColumns; ++q) {
          T& x = c[m][q / 2][2 * h + q % 2];
          x = x * (factor * slope[q / 2][q % 2]) + offset[q / 2][q % 2];
        }
      }
    }
  }

  // Whether a target of the warp's rows is among its columns: one load for 32 rows.
  SSLKERN_DEVICE bool has_target() const {
    bool any = false;
#pragma unroll
    for (int first = 0; first < P::kWarpRows; first += 32) {
      const int i = row + at.row + first + at.lane;
      const std::int64_t j = i < in.query.N ? in.target[i] - (column + at.column) : -1;
      any = any || (j >= 0 && j < P::kWarpColumns);
    }
    return __any_sync(kAllLanes, any) != 0;
  }

  // Whether none of the warp's rows has its target among its columns. For a warp together.
  SSLKERN_DEVICE bool has_no_target() const { return in.target == nullptr || !has_target(); }
  SSLKERN_DEVICE bool all_rows_exist() const { return row + P::kSide <= in.query.N; }
};

// Which columns of a tile its rows count: those that exist and, with kIds, are the target or of
// another id. Then holds the ids of a lane's columns: 16 registers, so it has kernels of its own.
template <class P, bool kIds>
struct Counting {
  static constexpr int kColumns = KeyTile<P>::kColumns;

  const KeyTile<P>& tile;
  std::int64_t ids[kIds ? kColumns : 1];

  SSLKERN_DEVICE explicit Counting(const KeyTile<P>& tile) : tile(tile) {
    if constexpr (kIds) {
#pragma unroll
      for (int q = 0; q < kColumns; ++q) {
        const std::int64_t j = tile.column + tile.column_of(q);
        const bool given = tile.in.key_ids != nullptr && j < tile.in.key.N;
        ids[q] = given ? tile.in.key_ids[j] : 0;
      }
    }
  }

  struct Row {
    int index;   // of all
    int target;  // its column in the tile, or -1
    bool exists;
    std::int64_t id;
  };
  // `row` is one of the tile.
  SSLKERN_DEVICE Row of_row(int row) const {
    const InfoNcePacked& in = tile.in;
    const int i = tile.row + row;
    const bool exists = i < in.query.N;
    const std::int64_t j = exists && in.target != nullptr ? in.target[i] - tile.column : -1;
    const bool here = j >= 0 && j < P::kSide && tile.column + j < in.key.N;
    const bool has_id = kIds && exists && in.query_ids != nullptr;
    return {i, here ? int(j) : -1, exists, has_id ? in.query_ids[i] : 0};
  }

  SSLKERN_DEVICE bool is_target(const Row& row, int q) const {
    return row.target == tile.column_of(q);
  }
  SSLKERN_DEVICE bool counts(const Row& row, int q) const {
    if (!row.exists || tile.column + tile.column_of(q) >= tile.in.key.N) return false;
    if (!kIds || tile.in.query_ids == nullptr) return true;
    return is_target(row, q) || row.id != ids[kIds ? q : 0];
  }
};

// Where the pairs of a tile's columns are, of the rows of this warp. The parts begin with
// `first_row`.
template <class P>
SSLKERN_DEVICE std::int64_t column_pairs(const KeyTile<P>& tile, std::int64_t first_row) {
  const std::int64_t part = (tile.row - first_row + tile.at.row) / P::kWarpRows;
  return 2 * (part * tile.in.key.padded_N() + tile.column);
}

// Targets may be out of range: nobody has looked at them.
SSLKERN_DEVICE bool is_column(std::int64_t j, const PackedRows& keys) {
  return j >= 0 && j < keys.N;
}

}  // namespace sslkern::cuda
