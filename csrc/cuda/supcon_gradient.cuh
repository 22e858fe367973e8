// The backward kernels of contrast by label; see contract/supcon.h for the formulas and letters.
#pragma once
#include "cuda/supcon.cuh"

namespace sslkern::cuda {

// A thread per place.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) supcon_upstream_kernel(SupconUpstream p) {
  const std::int64_t i = std::int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.N) return;
  const std::int64_t row = p.order[i];
  const double pair = p.grad_pair_loss == nullptr ? 0 : p.grad_pair_loss[row];
  const double through_pairs = pair == 0 ? 0 : pair * p.pair_weight[row];
  p.upstream[i] = p.grad_lse_negative[row] + through_pairs;
  p.upstream[p.N + i] = p.grad_lse_positive[row];
  p.upstream[2 * p.N + i] = p.grad_sum_positive[row];
  p.upstream[3 * p.N + i] = pair;
}

// shift + log2 of what is in fine beside g is lse, to more digits than a float32 has. A sum over
// nothing has no gradient.
template <class T>
SSLKERN_DEVICE void set_softmax(const SupconSoftmax& to, std::int64_t i, double g, double lse) {
  const T shift = T(lse);
  const bool nothing = lse == -INFINITY;
  static_cast<T*>(to.shift)[i] = shift;
  static_cast<T*>(to.fine)[i] = nothing ? T(0) : T(g * exp2(double(shift) - lse));
  static_cast<T*>(to.coarse)[i] = nothing ? T(0) : T(g * exp2(-lse));
}

// A thread per place, padding included.
template <class T>
__global__ void __launch_bounds__(256) supcon_weights_kernel(SupconWeights p) {
  const std::int64_t i = std::int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i >= p.padded_N) return;
  const bool exists = i < p.N;
  const std::int64_t row = exists ? p.order[i] : 0;
  double g[4] = {0, 0, 0, 0};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (exists) g[k] = p.upstream[k * p.N + i] / *p.unit;
  }
  const double negative = exists ? p.lse_negative[row] * kLog2E : 0;
  const double positive = exists ? p.lse_positive[row] * kLog2E : 0;
  set_softmax<T>(p.negative, i, g[0], negative);
  set_softmax<T>(p.positive, i, g[1], positive);
  static_cast<T*>(p.logit)[i] = T(g[2]);
  if (!p.pairs) return;
  static_cast<T*>(p.pair)[i] = T(g[3]);
  const double shift = double(T(negative));
  static_cast<T*>(p.low)[i] = negative == -INFINITY ? T(0) : T(negative - shift);
}

// What a block does with a tile of products: G in its place, a row at a time. The results are the
// lane's parts of the slope.
template <class P>
struct ClassGradient {
  using T = typename P::Working;
  const SupconTiles& p;
  const ClassTile<P>& classes;
  const GradientTile<P>& tile;

  SSLKERN_DEVICE T negative(Results<P>& c) const {
    return unshifted_gradient<P, false>(c, tile, p.negative.coarse, nullptr);
  }
  SSLKERN_DEVICE T positive(Results<P>& c) const {
    return unshifted_gradient<P, true>(c, tile, p.positive.coarse, p.logit);
  }

  // d_i sigmoid(lse_negative_i - s_ij) and the same of j.
  SSLKERN_DEVICE void subtract_pairs(RowResults<P>& g, const RowResults<P>& x, int row) const {
    ColumnValues<P> high, low, pair;
    tile.load_columns(high, p.negative.shift);
    tile.load_columns(low, p.low);
    tile.load_columns(pair, p.pair);
    const T row_high = tile.of_row(p.negative.shift, row), row_low = tile.of_row(p.low, row);
    const T row_pair = tile.of_row(p.pair, row);
#pragma unroll
    for (int q = 0; q < 2 * P::kN; ++q) {
      g[q] -= row_pair * pair_sigmoid(x[q], row_high, row_low);
      g[q] -= pair[q / 2][q % 2] * pair_sigmoid(x[q], high[q / 2][q % 2], low[q / 2][q % 2]);
    }
  }

  // c_i + c_j and, with pairs, their terms.
  SSLKERN_DEVICE void add_positives(RowResults<P>& g, const RowResults<P>& x, int row) const {
    ColumnValues<P> logit;
    tile.load_columns(logit, p.logit);
    const T row_logit = tile.of_row(p.logit, row);
#pragma unroll
    for (int q = 0; q < 2 * P::kN; ++q) g[q] += row_logit + logit[q / 2][q % 2];
    if (p.in.pairs) subtract_pairs(g, x, row);
  }

  // The terms of one log-sum-exp, i's and j's.
  SSLKERN_DEVICE void softmax(RowResults<P>& g, const RowResults<P>& x, int row,
                              const SupconSoftmax& of) const {
    ColumnValues<P> shift, fine;
    tile.load_columns(shift, of.shift);
    tile.load_columns(fine, of.fine);
    const T row_shift = tile.of_row(of.shift, row), row_fine = tile.of_row(of.fine, row);
#pragma unroll
    for (int q = 0; q < 2 * P::kN; ++q) {
      g[q] = power_of_two(x[q] - row_shift) * row_fine +
             power_of_two(x[q] - shift[q / 2][q % 2]) * fine[q / 2][q % 2];
    }
  }

  // Everything there is, with shifts: both kinds of pairs where the tile has both, zeros on the
  // diagonal and behind the last column. What the columns bring is read again for each row: beside
  // a tile there are not enough registers for it.
  SSLKERN_DEVICE T general(Results<P>& c) const {
    T slope = 0;
    const bool positives = classes.has_positives();
    ColumnEnds<P> ends;
    load_ends<P>(ends, classes, tile.at);
    RowPointer<P> pointer = tile.pointer();
    for_each_row<P>(c, tile.at, [&](int row, RowResults<P>& x) {
      ColumnValues<P> factor;
      tile.load_columns(factor, p.in.z.factor);
      const T row_factor = tile.of_row(p.in.z.factor, row) * tile.scale;
      const int i = tile.row + row, end = classes.end_of_row(row);
#pragma unroll
      for (int q = 0; q < 2 * P::kN; ++q) x[q] *= row_factor * factor[q / 2][q % 2];
      RowResults<P> g, other;
      softmax(g, x, row, p.negative);
      if (positives) {
        softmax(other, x, row, p.positive);
        add_positives(other, x, row);
      }
      const T written = T(gradient_scale(p.in.z.dtype));
#pragma unroll
      for (int q = 0; q < 2 * P::kN; ++q) {
        const int j = tile.column + tile.at.column_of(q / 2, q % 2), other_end = ends[q / 2][q % 2];
        const T value = positives && other_end == end ? other[q] : g[q];
        const bool counts = i != j && other_end != kNoClass;
        if (counts && i < classes.N) slope += value * x[q];
        x[q] = counts ? value * (factor[q / 2][q % 2] * written) : T(0);
      }
      pointer.store(x);
    });
    return slope;
  }
};

// Grid (tiles of the given rows, splits), block P::kThreads, dynamic shared memory of shared_need.
// Writes G, (rows, padded N): per element D multiply-adds, its bytes once, and one exponential in
// tiles of one kind of pairs; where scores need shifts two, on the border of a class two for each
// kind, and with pairs two more for the positives.
template <class P, bool kResident>
__global__ void __launch_bounds__(P::kThreads) supcon_tiles_kernel(SupconTiles p) {
  using T = typename P::Working;
  using E = typename P::Element;
  SSLKERN_DYNAMIC_SHARED(unsigned char, shared);
  const Place<P> at = Place<P>::here();
  const double scale = kLog2E / positive_or_nan(*p.in.temperature);
  const bool unshifted = p.normalized && scale <= kUnshifted;
  const Walk walk = walk_of<P>(p.in.z, p.first_row, p.in.z, p.splits);
  double slope = 0;
  for_each_tile<P, kResident>(walk, shared, [&](Results<P>& c, int number) {
    const int row = int(blockIdx.x) * P::kSide, column = number * P::kSide;
    const ClassTile<P> classes{int(p.first_row) + row, column, int(p.in.z.N), p.in.end};
    E* to = static_cast<E*>(p.gradient) + row * p.in.z.padded_N() + column;
    const GradientTile<P> tile{p.in.z, classes.row, column, at, to, T(scale)};
    const ClassGradient<P> gradient{p, classes, tile};
    if (unshifted && classes.is_negative()) {
      slope += double(gradient.negative(c));
    } else if (unshifted && !p.in.pairs && classes.is_positive()) {
      slope += double(gradient.positive(c));
    } else {
      slope += double(gradient.general(c));
    }
  });
  const std::int64_t block = (p.first_row / P::kSide + blockIdx.x) * p.splits + blockIdx.y;
  write_block_sum<P>(slope, p.slope + block, shared);
}

}  // namespace sslkern::cuda
