// Products of rows in float64, where float32 has lost the digits of a loss; see contract/gram.h.
// Every block looks at the flag first, and none does anything where it is 0.
//
// A block of 256 threads has a tile of 64 x 64 results, 4 x 4 for each thread, 16 apart, so that
// neighbouring lanes read neighbouring numbers. Both operands pass through shared memory, 16 inner
// indices at a time (17 KiB); views are standardised on their way there and packed nowhere. Per
// element of the product and inner index: one multiply-add in float64, 1/32 read.
#pragma once
#include "cuda/columns.cuh"

namespace sslkern::cuda {

constexpr int kWideThreads = 256, kWideSide = int(kWideTile), kWideDepth = 16, kWideStep = 16;
constexpr int kWideEach = kWideSide / kWideStep;
// An odd pitch: the lanes that write a column of a tile reach different banks.
constexpr int kWidePitch = kWideSide + 1;

using WideOperand = double[kWideDepth][kWidePitch];
using WideResults = double[kWideEach][kWideEach];

SSLKERN_DEVICE void clear_results(WideResults& c) {
#pragma unroll
  for (int r = 0; r < kWideEach; ++r) {
#pragma unroll
    for (int s = 0; s < kWideEach; ++s) c[r][s] = 0;
  }
}

// Row and column of a result in its tile.
struct WidePlace {
  int row, column;
  static SSLKERN_DEVICE WidePlace here() {
    return {int(threadIdx.x) / kWideStep, int(threadIdx.x) % kWideStep};
  }
  SSLKERN_DEVICE int row_of(int r) const { return row + r * kWideStep; }
  SSLKERN_DEVICE int column_of(int s) const { return column + s * kWideStep; }
};

SSLKERN_DEVICE void multiply_wide(WideResults& c, const WideOperand& left,
                                  const WideOperand& right) {
  const WidePlace at = WidePlace::here();
#pragma unroll 4
  for (int k = 0; k < kWideDepth; ++k) {
    double a[kWideEach], b[kWideEach];
#pragma unroll
    for (int r = 0; r < kWideEach; ++r) a[r] = left[k][at.row_of(r)];
#pragma unroll
    for (int s = 0; s < kWideEach; ++s) b[s] = right[k][at.column_of(s)];
#pragma unroll
    for (int r = 0; r < kWideEach; ++r) {
#pragma unroll
      for (int s = 0; s < kWideEach; ++s) c[r][s] += a[r] * b[s];
    }
  }
}

// Rows `first` on of the view, of its columns from `dim` on: to[k][row]. Neighbouring threads have
// neighbouring columns.
template <class E>
SSLKERN_DEVICE void load_turned(WideOperand& to, const ColumnView& view, std::int64_t first,
                                std::int64_t dim) {
  const int k = int(threadIdx.x) % kWideDepth;
  const std::int64_t column = min(dim + k, view.D - 1);
  const Standardized standardized = Standardized::of(view, column);
  const E* z = column_of<E>(view.z, column);
  for (int row = int(threadIdx.x) / kWideDepth; row < kWideSide; row += kWideThreads / kWideDepth) {
    const bool exists = dim + k < view.D && first + row < view.N;
    const std::int64_t i = min(first + row, view.N - 1);
    to[k][row] = exists ? standardized(double(to_working(z[i * view.stride]))) : 0;
  }
}

// A tile of x y^T.
template <class E>
SSLKERN_DEVICE void wide_gram_tile(WideResults& c, const ColumnView& x, std::int64_t first_row,
                                   const ColumnView& y, std::int64_t first_column,
                                   WideOperand& left, WideOperand& right) {
  clear_results(c);
  for (std::int64_t dim = 0; dim < x.D; dim += kWideDepth) {
    load_turned<E>(left, x, first_row, dim);
    load_turned<E>(right, y, first_column, dim);
    __syncthreads();
    multiply_wide(c, left, right);
    __syncthreads();
  }
}

// Tile number n on or above the diagonal: row and column of the tile, row <= column.
SSLKERN_DEVICE void upper_tile(std::int64_t n, std::int64_t& row, std::int64_t& column) {
  column = 0;
  while (n > column) n -= ++column;
  row = n;
}

// Grid (tiles (tiles + 1) / 2). A and B one after the other through the same shared memory.
template <class E, bool kPair>
__global__ void __launch_bounds__(kWideThreads) wide_sums_kernel(WideSums p) {
  SSLKERN_SHARED(WideOperand, left, );
  SSLKERN_SHARED(WideOperand, right, );
  SSLKERN_SHARED(double, scratch, [kWideThreads / 32]);
  if (*p.wide == 0) return;
  std::int64_t row, column;
  upper_tile(blockIdx.x, row, column);
  row *= kWideTile;
  column *= kWideTile;
  WideResults a, b;
  wide_gram_tile<E>(a, p.x, row, p.x, column, left, right);
  if (kPair) wide_gram_tile<E>(b, p.y, row, p.y, column, left, right);
  double sum = 0;
#pragma unroll
  for (int r = 0; r < kWideEach; ++r) {
#pragma unroll
    for (int s = 0; s < kWideEach; ++s) sum += a[r][s] * (kPair ? b[r][s] : a[r][s]);
  }
  sum = block_reduce<kWideThreads>(sum, 0.0, scratch, [](double s) { return warp_sum(s); });
  if (threadIdx.x == 0) p.partial[blockIdx.x] = row == column ? sum : 2 * sum;
}

// Grid (tiles of rows of x by those of y). All tiles: the products are not square.
template <class E>
__global__ void __launch_bounds__(kWideThreads) wide_gram_kernel(WideGram p) {
  SSLKERN_SHARED(WideOperand, left, );
  SSLKERN_SHARED(WideOperand, right, );
  if (*p.wide == 0) return;
  const std::int64_t across = wide_tiles(p.y.N);
  const std::int64_t row = blockIdx.x / across * kWideTile;
  const std::int64_t column = blockIdx.x % across * kWideTile;
  WideResults c;
  wide_gram_tile<E>(c, p.x, row, p.y, column, left, right);
  const WidePlace at = WidePlace::here();
#pragma unroll
  for (int r = 0; r < kWideEach; ++r) {
#pragma unroll
    for (int s = 0; s < kWideEach; ++s) {
      const std::int64_t m = row + at.row_of(r), n = column + at.column_of(s);
      if (m < p.x.N && n < p.y.N) p.gram[m * p.y.N + n] = c[r][s];
    }
  }
}

// Grid (tiles of rows of y by tiles of columns). Columns of the products are read along their rows.
template <class E>
__global__ void __launch_bounds__(kWideThreads) wide_rows_kernel(WideRows p) {
  SSLKERN_SHARED(WideOperand, left, );
  SSLKERN_SHARED(WideOperand, right, );
  if (*p.wide == 0) return;
  const std::int64_t inner = p.x.N, N = p.y.N, D = p.x.D, across = wide_tiles(D);
  const std::int64_t first_row = blockIdx.x / across * kWideTile;
  const std::int64_t first_column = blockIdx.x % across * kWideTile;
  const int lane = int(threadIdx.x) % kWideSide;
  const std::int64_t row = first_row + lane, column = min(first_column + lane, D - 1);
  const Standardized of_x = Standardized::of(p.x, column);
  const E* x = column_of<E>(p.x.z, column);
  WideResults c;
  clear_results(c);
  for (std::int64_t m = 0; m < inner; m += kWideDepth) {
    for (int k = int(threadIdx.x) / kWideSide; k < kWideDepth; k += kWideThreads / kWideSide) {
      const bool exists = m + k < inner;
      left[k][lane] = exists && row < N ? p.gram[(m + k) * N + row] : 0;
      right[k][lane] = exists ? of_x(double(to_working(x[(m + k) * p.x.stride]))) : 0;
    }
    __syncthreads();
    multiply_wide(c, left, right);
    __syncthreads();
  }
  const WidePlace at = WidePlace::here();
#pragma unroll
  for (int s = 0; s < kWideEach; ++s) {
    const std::int64_t j = first_column + at.column_of(s);
    if (j >= D) continue;
    const double scale = p.own_scale == nullptr ? 1 : p.own_scale[j];
    const double own = p.own[j] * scale * scale * p.own_factor;
    const Standardized of_y = Standardized::of(p.y, j);
#pragma unroll
    for (int r = 0; r < kWideEach; ++r) {
      const std::int64_t n = first_row + at.row_of(r);
      if (n >= N) continue;
      const double y = of_y(double(to_working(column_of<E>(p.y.z, j)[n * p.y.stride])));
      p.product[n * D + j] = float(c[r][s] - own * y);
    }
  }
}

}  // namespace sslkern::cuda
