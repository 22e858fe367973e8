// The kernels of Barlow Twins; see contract/cross_correlation.h for the formulas and letters.
#pragma once
#include "contract/cross_correlation.h"
#include "cuda/gram.cuh"

namespace sslkern::cuda {

// A thread per column: merges its moments.
__global__ void __launch_bounds__(256)
    cross_correlation_statistics_kernel(CrossCorrelationStatistics p) {
  using Row = CrossCorrelationColumns;
  const std::int64_t j = std::int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (j >= p.D) return;
  const auto all = merged_moments<2>(p.moments, p.N, p.D, j, false);
  const double n = double(p.N);
  double scale[2];
#pragma unroll
  for (int v = 0; v < 2; ++v) {
    scale[v] = 1 / sqrt(all.squares[v] / n + p.eps);
    p.columns[(Row::kMean + v) * p.D + j] = all.mean[v];
    p.columns[(Row::kScale + v) * p.D + j] = scale[v];
  }
  p.columns[Row::kCorrelation * p.D + j] = all.pair * scale[0] * scale[1] / n;
}

// One block.
template <class T>
__global__ void __launch_bounds__(kTermThreads)
    cross_correlation_terms_kernel(CrossCorrelationTerms p) {
  SSLKERN_SHARED(double, scratch, [3][kTermThreads / 32]);
  if (p.again && p.terms[2] == 0) return;
  const double* d = p.columns + CrossCorrelationColumns::kCorrelation * p.D;
  const double on = sum_of_block<kTermThreads>(
      p.D, scratch[0], [&](std::int64_t j) { return (d[j] - 1) * (d[j] - 1); });
  const double diagonal =
      sum_of_block<kTermThreads>(p.D, scratch[1], [&](std::int64_t j) { return d[j] * d[j]; });
  const double squares =
      sum_of_block<kTermThreads>(p.parts, scratch[2], [&](std::int64_t i) { return p.partial[i]; });
  if (threadIdx.x > 0) return;
  const double off = squares / (double(p.N) * double(p.N)) - (p.gram ? diagonal : 0);
  const double loss = on + p.lambda * off;
  p.terms[0] = on;
  p.terms[1] = off;
  *static_cast<T*>(p.loss) = T(loss);
  if (p.again) return;
  // A float32 product of rows has an error of the size of all of ||C||^2.
  const bool lost = kDigitsLost * fabs(loss) < fabs(p.lambda) * diagonal;
  p.terms[2] = p.gram && sizeof(T) == 4 && lost ? 1 : 0;
}

// A thread per column: what its elements of the gradient are made of.
__global__ void __launch_bounds__(256)
    cross_correlation_factors_kernel(CrossCorrelationGradient p) {
  using Factor = CrossCorrelationGradient;
  const std::int64_t N = p.x.N, D = p.x.D;
  const std::int64_t j = std::int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (j >= D) return;
  const double n = double(N), d = p.correlation[j], of_v = 2 * p.lambda / (n * n);
  const bool with_own = p.gram && *p.wide == 0;
  const double h = (2 * (d - 1) - (with_own ? 2 * p.lambda * d : 0)) / n;
  const double scale = *p.grad_loss * p.x.scale[j];
  const double2 sums = merged_dots(p.dots, N, D, j);
  p.factors[Factor::kOfV * D + j] = scale * of_v;
  p.factors[Factor::kMeanV * D + j] = sums.x / n;
  p.factors[Factor::kOfX * D + j] = -scale * (of_v * sums.y / n + h * d);
  p.factors[Factor::kOfY * D + j] = scale * h;
}

// Grid (parts of kElementRows x groups of columns). Per element: v and both views read, the
// gradient written, 10 operations.
template <class E>
__global__ void __launch_bounds__(kColumnThreads)
    cross_correlation_gradient_kernel(CrossCorrelationGradient p) {
  using T = typename ElementOf<E>::Working;
  using Factor = CrossCorrelationGradient;
  const std::int64_t D = p.x.D;
  const Column at = Column::here(p.x.N, D, kElementRows);
  const auto factor = [&](int row) { return p.factors[row * D + at.index]; };
  const double of_v = factor(Factor::kOfV), mean_v = factor(Factor::kMeanV);
  const double of_x = factor(Factor::kOfX), of_y = factor(Factor::kOfY);
  const Standardized in_x = Standardized::of(p.x, at.index);
  const Standardized in_y = Standardized::of(p.y, at.index);
  const E *x = column_of<E>(p.x.z, at.index), *y = column_of<E>(p.y.z, at.index);
  const T* v = column_of<T>(p.v, at.index);
  E* grad = static_cast<E*>(p.grad_z) + at.index;
  for_row_groups(at, [&](std::int64_t row) {
    T own[kRowsAtOnce], other[kRowsAtOnce], product[kRowsAtOnce];
    load_rows(own, x, p.x.stride, row, at.end);
    load_rows(other, y, p.y.stride, row, at.end);
    load_rows(product, v, D, row, at.end);
    for_rows_of_group(row, at.end, [&](std::int64_t i, int k) {
      const double g = of_v * (double(product[k]) - mean_v) + of_x * in_x(double(own[k])) +
                       of_y * in_y(double(other[k]));
      grad[i * D] = Rounded<E>::from(T(g));
    });
  });
}

}  // namespace sslkern::cuda
