// The kernels of VICReg; see contract/covariance.h for the formulas and letters.
#pragma once
#include "contract/covariance.h"
#include "cuda/gram.cuh"

namespace sslkern::cuda {

// Columns whose norm is less count as zeros.
constexpr double kSmallestColumn = 1e-12;

// A thread per column: merges its moments.
template <int kViews>
__global__ void __launch_bounds__(256) covariance_statistics_kernel(CovarianceStatistics p) {
  using Row = CovarianceColumns;
  const std::int64_t j = std::int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (j >= p.D) return;
  const auto all = merged_moments<kViews>(p.moments, p.N, p.D, j, true);
#pragma unroll
  for (int v = 0; v < kViews; ++v) {
    double* to = p.columns + v * Row::kRows * p.D + j;
    const double norm = sqrt(all.squares[v]);
    to[Row::kMean * p.D] = all.mean[v];
    to[Row::kScale * p.D] = !p.normalize ? 1 : norm < kSmallestColumn ? 0 : 1 / norm;
    to[Row::kVariance * p.D] = all.squares[v] / double(p.N - 1);
  }
  if (kViews == 2) p.distance[j] = all.pair;
}

// Of a column: |x_j|^2.
SSLKERN_DEVICE double squared_norm(double variance, double scale, std::int64_t N) {
  return variance * double(N - 1) * scale * scale;
}

// One block.
template <class T>
__global__ void __launch_bounds__(kTermThreads, 1) covariance_terms_kernel(CovarianceTerms p) {
  using Row = CovarianceColumns;
  constexpr int kSums = 6;
  SSLKERN_SHARED(double, scratch, [kSums][kTermThreads / 32]);
  if (p.again && p.terms[3] == 0) return;
  const std::int64_t N = p.of.in.N, D = p.of.in.D;
  const auto row = [&](int v, int k) { return p.columns + (v * Row::kRows + k) * D; };
  const double distance = sum_of_block<kTermThreads>(p.views == 2 ? D : 0, scratch[0],
                                                     [&](std::int64_t j) { return p.distance[j]; });
  const double variance = sum_of_block<kTermThreads>(p.views * D, scratch[1], [&](std::int64_t i) {
    const std::int64_t v = i / D;
    const double deviation = sqrt(row(int(v), Row::kVariance)[i - v * D] + p.of.eps);
    return deviation >= 1 ? 0.0 : 1 - deviation;  // NaN stays NaN
  });
  double covariance = 0;
  bool lost = false;
  for (int v = 0; p.of.covariance && v < p.views; ++v) {
    const double* partial = p.partial + v * p.parts;
    const double squares = sum_of_block<kTermThreads>(p.parts, scratch[2 + v],
                                                      [&](std::int64_t i) { return partial[i]; });
    const double diagonal =
        sum_of_block<kTermThreads>(p.of.in.gram ? D : 0, scratch[4 + v], [&](std::int64_t j) {
          const double squared = squared_norm(row(v, Row::kVariance)[j], row(v, Row::kScale)[j], N);
          return squared * squared;
        });
    const double off = squares - diagonal;
    // A float32 product of rows has an error of the size of all of ||G||^2.
    lost |= p.of.in.gram && sizeof(T) == 4 && kDigitsLost * off < diagonal;
    covariance += off;
  }
  if (threadIdx.x > 0) return;
  const double term[] = {distance / (double(N) * double(D)), variance / double(D),
                         p.of.unit() * covariance};
  p.terms[0] = term[0];
  p.terms[1] = term[1];
  p.terms[2] = term[2];
  if (!p.again) p.terms[3] = lost ? 1 : 0;
  *static_cast<T*>(p.loss) =
      T(p.invariance * term[0] + p.variance * term[1] + p.covariance * term[2]);
}

// What a column has from its own variance: the factor of z_j - mean_j.
SSLKERN_DEVICE double variance_slope(const CovarianceGradient& p, double variance) {
  const double deviation = sqrt(variance + p.of.eps);
  const double slope = -1 / (double(p.x.D) * double(p.x.N - 1) * deviation);
  return deviation >= 1 ? 0 : *p.grad_loss * p.variance * slope;
}

// A thread per column: what its elements of the gradient are made of. kOfX is of z - mean.
__global__ void __launch_bounds__(256) covariance_factors_kernel(CovarianceGradient p) {
  using Factor = CovarianceGradient;
  const std::int64_t N = p.x.N, D = p.x.D;
  const std::int64_t j = std::int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (j >= D) return;
  const double variance = p.column_variance[j], scale = p.x.scale[j];
  double of_v = 0, mean_v = 0, of_x = variance_slope(p, variance);
  if (p.v != nullptr) {
    const double2 sums = merged_dots(p.dots, N, D, j);
    const double squared = squared_norm(variance, scale, N);
    const double own = p.of.in.gram && *p.wide == 0 ? squared : 0;
    const double along = p.of.normalize ? sums.y - own * squared : 0;
    of_v = *p.grad_loss * p.covariance * scale * 4 * p.of.unit();
    mean_v = sums.x / double(N);
    of_x -= of_v * scale * (own + along);
  }
  p.factors[Factor::kOfV * D + j] = of_v;
  p.factors[Factor::kMeanV * D + j] = mean_v;
  p.factors[Factor::kOfX * D + j] = of_x;
}

// Grid (parts of kElementRows x groups of columns). Per element: v and both views read, the
// gradient written, 8 operations. Views are subtracted from each other before anything else: equal
// ones have no invariance.
template <class E, bool kPair, bool kProduct>
__global__ void __launch_bounds__(kColumnThreads) covariance_gradient_kernel(CovarianceGradient p) {
  using T = typename ElementOf<E>::Working;
  using Factor = CovarianceGradient;
  const std::int64_t D = p.x.D;
  const Column at = Column::here(p.x.N, D, kElementRows);
  const auto factor = [&](int row) { return p.factors[row * D + at.index]; };
  const double of_v = factor(Factor::kOfV), mean_v = factor(Factor::kMeanV);
  const double of_x = factor(Factor::kOfX), mean = p.x.mean[at.index];
  const double of_both = 2 * *p.grad_loss * p.invariance / (double(p.x.N) * double(D));
  const E *x = column_of<E>(p.x.z, at.index), *y = column_of<E>(p.other, at.index);
  const T* v = column_of<T>(p.v, at.index);
  E* grad = static_cast<E*>(p.grad_z) + at.index;
  for_row_groups(at, [&](std::int64_t row) {
    T own[kRowsAtOnce], other[kRowsAtOnce], product[kRowsAtOnce];
    load_rows(own, x, p.x.stride, row, at.end);
    if (kPair) load_rows(other, y, p.other_stride, row, at.end);
    if (kProduct) load_rows(product, v, D, row, at.end);
    for_rows_of_group(row, at.end, [&](std::int64_t i, int k) {
      double g = of_x * (double(own[k]) - mean);
      if (kPair) g += of_both * (double(own[k]) - double(other[k]));
      if (kProduct) g += of_v * (double(product[k]) - mean_v);
      grad[i * D] = Rounded<E>::from(T(g));
    });
  });
}

}  // namespace sslkern::cuda
