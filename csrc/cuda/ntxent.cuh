// The kernels of NT-Xent; see contract/ntxent.h for the formulas and letters.
#pragma once
#include "contract/ntxent.h"
#include "cuda/online.cuh"
#include "cuda/self_similarity.cuh"

namespace sslkern::cuda {

// Where two tiles of rows of Z meet: whether rows meet themselves, their partners, or padding.
struct PairTile {
  int row, column;  // first of each
  int N, B;

  template <class P>
  SSLKERN_DEVICE bool is_plain() const {
    const int ahead = row - column + B, behind = row - column - B;
    const bool has_partners =
        (ahead > -P::kSide && ahead < P::kSide) || (behind > -P::kSide && behind < P::kSide);
    return row != column && column <= N - P::kSide && !has_partners;
  }
  SSLKERN_DEVICE int partner(int i) const { return i < B ? i + B : i - B; }
};

// Grid (tiles of rows, splits), block P::kThreads, dynamic shared memory of shared_need with
// OnlineRows besides. A block owns the rows of its tile and walks along its share of the columns; a
// lane keeps the largest score and the sum of powers of the columns it has seen. Per element of S:
// D multiply-adds, one exponential, four operations. No element of S is written.
template <class P, bool kResident>
__global__ void __launch_bounds__(P::kThreads, kResident ? P::kMinBlocks : 1)
    ntxent_fwd_kernel(NtxentSums p) {
  using T = typename P::Working;
  SSLKERN_DYNAMIC_SHARED(unsigned char, shared);
  const Place<P> at = Place<P>::here();
  const int first_row = int(blockIdx.x) * P::kSide;
  const T scale = T(kLog2E / positive_or_nan(*p.temperature));
  const Walk walk = walk_of<P>(p.z, 0, p.z, p.splits);
  const OnlineRows<P> online{reinterpret_cast<T*>(behind_tiles<P, kResident>(shared, walk)), at};
  online.clear();
  for_each_tile<P, kResident>(walk, shared, [&](Results<P>& c, int tile) {
    const PairTile pair{first_row, tile * P::kSide, int(p.z.N), int(p.B)};
    ColumnValues<P> factor;
    load_columns<P>(factor, p.z.factor, pair.column, at);
    multiply_columns<P>(factor, scale);
    scale_results<P>(c, p.z.factor, first_row, factor, at);
    if (!pair.is_plain<P>()) {
      for_each_result<P>(c, [&](T& x, int m, int h, int j, int i) {
        const int row = pair.row + at.row_of(m, h), column = pair.column + at.column_of(j, i);
        if (row < pair.N && column == pair.partner(row)) static_cast<T*>(p.positive)[row] = x;
        if (row == column || column >= pair.N) x = -INFINITY;
      });
    }
    online.add(c);
  });
  T* partial = static_cast<T*>(p.partial) + 2 * (blockIdx.y * p.z.padded_N() + first_row);
  online.write(partial, reinterpret_cast<T*>(shared));
}

// A thread per row: merges the splits.
template <class T>
__global__ void __launch_bounds__(256) ntxent_merge_kernel(NtxentSums p) {
  const std::int64_t i = std::int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i >= p.z.N) return;
  const double lse = merged_lse(static_cast<const T*>(p.partial), i, p.z.padded_N(), p.splits);
  p.lse[i] = lse;
  static_cast<T*>(p.loss)[i] = T((lse - double(static_cast<const T*>(p.positive)[i])) * kLn2);
}

// A thread per row. shift + log2 of what is in fine beside g is lse, to more digits than a float32
// has: the probability of an easy pair is 1 but for the last of them.
template <class T>
__global__ void __launch_bounds__(256) ntxent_weights_kernel(NtxentWeights p) {
  const std::int64_t i = std::int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i >= p.padded_N) return;
  const bool exists = i < p.N;
  const double lse = exists ? p.lse[i] : 0;
  const T* upstream = static_cast<const T*>(p.grad_loss);
  const double g = exists ? double(upstream[i]) / *p.unit : 0;
  const double partners = exists ? double(upstream[i < p.B ? i + p.B : i - p.B]) / *p.unit : 0;
  const T shift = T(lse);
  static_cast<T*>(p.both)[i] = T(g + partners);
  static_cast<T*>(p.shift)[i] = shift;
  static_cast<T*>(p.fine)[i] = T(g * exp2(double(shift) - lse));
  static_cast<T*>(p.coarse)[i] = T(g * exp2(-lse));
}

// What a block does with a tile of products: G in its place, a row at a time. The results are the
// lane's parts of the slope.
template <class P>
struct PairGradient {
  using T = typename P::Working;
  const NtxentTiles& p;
  const PairTile& pair;
  const GradientTile<P>& tile;

  SSLKERN_DEVICE T plain(Results<P>& c) const {
    return unshifted_gradient<P, false>(c, tile, p.coarse, nullptr);
  }

  // With shifts, the terms of the partners, and zeros on the diagonal and behind the last column.
  SSLKERN_DEVICE T general(Results<P>& c) const {
    T slope = 0;
    ColumnValues<P> factor, shift, fine;
    tile.load_columns(factor, p.z.factor);
    tile.load_columns(shift, p.shift);
    tile.load_columns(fine, p.fine);
    RowPointer<P> pointer = tile.pointer();
    for_each_row<P>(c, tile.at, [&](int row, RowResults<P>& x) {
      const T row_factor = tile.of_row(p.z.factor, row) * tile.scale;
      const T row_shift = tile.of_row(p.shift, row), row_fine = tile.of_row(p.fine, row);
      const int i = pair.row + row, partner = i < pair.N ? pair.partner(i) : -1;
      const T both = tile.of_row(p.both, row);
#pragma unroll
      for (int q = 0; q < 2 * P::kN; ++q) {
        const int j = pair.column + tile.at.column_of(q / 2, q % 2);
        const T column_factor = factor[q / 2][q % 2], score = x[q] * (row_factor * column_factor);
        T value = power_of_two(score - row_shift) * row_fine +
                  power_of_two(score - shift[q / 2][q % 2]) * fine[q / 2][q % 2];
        if (j == partner) value -= both;
        const bool counts = i != j && j < pair.N;
        if (counts && i < pair.N) slope += value * score;
        x[q] = counts ? value * (column_factor * T(gradient_scale(p.z.dtype))) : T(0);
      }
      pointer.store(x);
    });
    return slope;
  }
};

// Grid (tiles of the given rows, splits), block P::kThreads, dynamic shared memory of shared_need.
// Writes G, (rows, padded N): per element D multiply-adds, one exponential (two where scores need
// shifts), its bytes once.
template <class P, bool kResident>
__global__ void __launch_bounds__(P::kThreads) ntxent_tiles_kernel(NtxentTiles p) {
  using T = typename P::Working;
  using E = typename P::Element;
  SSLKERN_DYNAMIC_SHARED(unsigned char, shared);
  const Place<P> at = Place<P>::here();
  const double scale = kLog2E / positive_or_nan(*p.temperature);
  const bool unshifted = p.normalized && scale <= kUnshifted;
  const Walk walk = walk_of<P>(p.z, p.first_row, p.z, p.splits);
  double slope = 0;
  for_each_tile<P, kResident>(walk, shared, [&](Results<P>& c, int tile) {
    const int row = int(blockIdx.x) * P::kSide;
    const PairTile pair{int(p.first_row) + row, tile * P::kSide, int(p.z.N), int(p.B)};
    E* to = static_cast<E*>(p.gradient) + row * p.z.padded_N() + pair.column;
    const GradientTile<P> place{p.z, pair.row, pair.column, at, to, T(scale)};
    const PairGradient<P> gradient{p, pair, place};
    slope += double(unshifted && pair.is_plain<P>() ? gradient.plain(c) : gradient.general(c));
  });
  const std::int64_t block = (p.first_row / P::kSide + blockIdx.x) * p.splits + blockIdx.y;
  write_block_sum<P>(slope, p.slope + block, shared);
}

}  // namespace sslkern::cuda
