// What losses over columns of a batch share on CUDA: statistics, packing, sums over products and
// over gradients; see contract/gram.h. All of it reads N x D or the products once and is bound by
// memory: the arithmetic is float64, a few operations for each element read.
#pragma once
#include "cuda/columns.cuh"
#include "math/moments.h"

namespace sslkern::cuda {

// Grid (parts x groups of columns), a thread per column and warp. Distances are from the first row
// that the thread has, which is near the mean or far from it by a few deviations: that costs a few
// bits of float64, and a column of equal numbers has variance zero. Warps are merged in their
// order. Per element: one read, 4 operations, with pairs 6.
template <class E, int kViews>
__global__ void __launch_bounds__(kColumnThreads) column_moments_kernel(ColumnMoments p) {
  using M = math::Moments<kViews>;
  SSLKERN_SHARED(M, of_warp, [kColumnWarps][kColumns]);
  const Column at = Column::here(p.in.N, p.in.D, split_rows(p.in.N, p.in.D));
  const E* z[kViews];
  double shift[kViews], sum[kViews], square[kViews], pair = 0;
  const std::int64_t first = min(at.row, p.in.N - 1);
#pragma unroll
  for (int v = 0; v < kViews; ++v) {
    z[v] = column_of<E>(p.in.z[v], at.index);
    shift[v] = double(to_working(z[v][first * p.in.stride[v]]));
    sum[v] = square[v] = 0;
  }
  for_row_groups(at, [&](std::int64_t row) {
    double x[kViews][kRowsAtOnce];
#pragma unroll
    for (int v = 0; v < kViews; ++v) load_rows(x[v], z[v], p.in.stride[v], row, at.end);
    for_rows_of_group(row, at.end, [&](std::int64_t, int k) {
      double distance[kViews];
#pragma unroll
      for (int v = 0; v < kViews; ++v) {
        distance[v] = x[v][k] - shift[v];
        sum[v] += distance[v];
        square[v] += distance[v] * distance[v];
      }
      if (kViews == 1) return;
      const double apart = x[0][k] - x[kViews - 1][k];
      pair += p.differences ? apart * apart : distance[0] * distance[kViews - 1];
    });
  });
  const std::int64_t left = max(at.end - at.row, std::int64_t(0));
  M own{double((left + kColumnWarps - 1) / kColumnWarps), {}, {}, pair};
  const double inverse = own.rows > 0 ? 1 / own.rows : 0;
#pragma unroll
  for (int v = 0; v < kViews; ++v) {
    own.mean[v] = shift[v] + sum[v] * inverse;
    const double rest = square[v] - sum[v] * sum[v] * inverse;
    own.squares[v] = rest < 0 ? 0 : rest;  // NaN stays NaN
  }
  if (kViews == 2 && !p.differences) own.pair -= sum[0] * sum[kViews - 1] * inverse;
  const int warp = int(threadIdx.x) / kColumns, lane = int(threadIdx.x) % kColumns;
  of_warp[warp][lane] = own;
  __syncthreads();
  if (warp > 0 || !at.exists) return;
  for (int w = 1; w < kColumnWarps; ++w) {
    own = math::merge_moments<kViews>(own, of_warp[w][lane], p.differences);
  }
  double* to = p.partial + at.part * ColumnMoments::kRows * p.in.D + at.index;
#pragma unroll
  for (int v = 0; v < kViews; ++v) {
    to[(ColumnMoments::kMean + v) * p.in.D] = own.mean[v];
    to[(ColumnMoments::kSquares + v) * p.in.D] = own.squares[v];
  }
  if (kViews == 2) to[ColumnMoments::kPair * p.in.D] = own.pair;
}

// Of a column of (N, D), all parts in their order.
template <int kViews>
SSLKERN_DEVICE math::Moments<kViews> merged_moments(const double* partial, std::int64_t N,
                                                    std::int64_t D, std::int64_t column,
                                                    bool differences) {
  const std::int64_t rows = split_rows(N, D);
  math::Moments<kViews> all{};
  for (std::int64_t part = 0; part < column_parts(N, D); ++part) {
    const double* from = partial + part * ColumnMoments::kRows * D + column;
    math::Moments<kViews> next{double(min(rows, N - part * rows)), {}, {}, 0};
#pragma unroll
    for (int v = 0; v < kViews; ++v) {
      next.mean[v] = from[(ColumnMoments::kMean + v) * D];
      next.squares[v] = from[(ColumnMoments::kSquares + v) * D];
    }
    if (kViews == 2) next.pair = from[ColumnMoments::kPair * D];
    all = math::merge_moments<kViews>(all, next, differences);
  }
  return all;
}

// Grid (parts of kElementRows x groups of columns). Reads and writes each element once.
template <class E>
__global__ void __launch_bounds__(kColumnThreads) pack_columns_kernel(PackColumns p) {
  using T = typename ElementOf<E>::Working;
  const ColumnView& view = p.view;
  const Column at = Column::here(view.N, view.D, kElementRows);
  const Standardized standardized = Standardized::of(view, at.index);
  const E* z = column_of<E>(view.z, at.index);
  T* x = static_cast<T*>(p.x) + at.index;
  for_row_groups(at, [&](std::int64_t row) {
    T from[kRowsAtOnce];
    load_rows(from, z, view.stride, row, at.end);
    for_rows_of_group(row, at.end, [&](std::int64_t i, int k) {
      x[i * p.pitch] = T(standardized(double(from[k])));
    });
  });
}

constexpr int kSumThreads = 256;

// Grid (parts). Neighbouring threads read neighbouring numbers, four at a time on their way; each
// block has its own share, whatever the others do. Per element: one multiply-add in float64.
template <class T>
__global__ void __launch_bounds__(kSumThreads) product_sums_kernel(ProductSums p) {
  SSLKERN_SHARED(double, scratch, [kSumThreads / 32]);
  const std::int64_t share = (p.count + p.parts - 1) / p.parts, begin = blockIdx.x * share;
  const std::int64_t end = min(p.count, begin + share);
  const T *x = static_cast<const T*>(p.x), *y = static_cast<const T*>(p.y);
  double sum = 0;
#pragma unroll 4
  for (std::int64_t i = begin + threadIdx.x; i < end; i += kSumThreads) {
    sum += double(x[i]) * double(y[i]);
  }
  sum = block_reduce<kSumThreads>(sum, 0.0, scratch, [](double s) { return warp_sum(s); });
  if (threadIdx.x == 0) p.partial[blockIdx.x] = sum;
}

// Grid (parts x groups of columns). Per element: two reads, 4 operations.
template <class E>
__global__ void __launch_bounds__(kColumnThreads) column_dots_kernel(ColumnDots p) {
  using T = typename ElementOf<E>::Working;
  SSLKERN_SHARED(double2, of_warp, [kColumnWarps][kColumns]);
  const ColumnView& view = p.x;
  const Column at = Column::here(view.N, view.D, split_rows(view.N, view.D));
  const Standardized standardized = Standardized::of(view, at.index);
  const E* z = column_of<E>(view.z, at.index);
  const T* v = column_of<T>(p.v, at.index);
  double2 own{0, 0};
  for_row_groups(at, [&](std::int64_t row) {
    T x[kRowsAtOnce], w[kRowsAtOnce];
    load_rows(x, z, view.stride, row, at.end);
    load_rows(w, v, view.D, row, at.end);
    for_rows_of_group(row, at.end, [&](std::int64_t, int k) {
      own.x += double(w[k]);
      own.y += double(w[k]) * standardized(double(x[k]));
    });
  });
  const int warp = int(threadIdx.x) / kColumns, lane = int(threadIdx.x) % kColumns;
  of_warp[warp][lane] = own;
  __syncthreads();
  if (warp > 0 || !at.exists) return;
  for (int w = 1; w < kColumnWarps; ++w) {
    own.x += of_warp[w][lane].x;
    own.y += of_warp[w][lane].y;
  }
  double* to = p.partial + 2 * at.part * view.D + at.index;
  to[0] = own.x;
  to[view.D] = own.y;
}

// Sums over all parts, in their order.
SSLKERN_DEVICE double2 merged_dots(const double* partial, std::int64_t N, std::int64_t D,
                                   std::int64_t column) {
  double2 sum{0, 0};
  for (std::int64_t part = 0; part < column_parts(N, D); ++part) {
    sum.x += partial[2 * part * D + column];
    sum.y += partial[(2 * part + 1) * D + column];
  }
  return sum;
}

// Of the one block that adds up what is left.
constexpr int kTermThreads = 1024;

// Sum of term(i): every thread adds what is kThreads apart, then they are added as a tree. In the
// first warp; `scratch` as for block_reduce.
template <int kThreads, class Term>
SSLKERN_DEVICE double sum_of_block(std::int64_t count, double* scratch, const Term& term) {
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += kThreads) sum += term(i);
  return block_reduce<kThreads>(sum, 0.0, scratch, [](double s) { return warp_sum(s); });
}

// Where a difference of sums is smaller than the largest of them by more than this factor, float32
// products are not good enough.
constexpr double kDigitsLost = 16;

}  // namespace sslkern::cuda
