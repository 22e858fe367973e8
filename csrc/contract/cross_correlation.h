// Barlow Twins: the cross-correlation of the columns of two views, close to the identity.
//
//   a_nj = (z_a_nj - mean_j) / sqrt(var_j + eps)    biased variance over the N rows; b likewise
//   C_ij = (1 / N) sum_n a_ni b_nj
//   loss = on + lambda off,    on = sum_i (C_ii - 1)^2,    off = sum_{i != j} C_ij^2
//
// With d_i = C_ii, from the statistics of the columns:
//
//   gram     off    = sum_mn A_mn B_mn / N^2 - sum_i d_i^2,    A = a a^T, B = b b^T
//            grad_a = (2 lambda / N^2) B a + b diag(h),    h_i = (2 (d_i - 1) - 2 lambda d_i) / N
//   direct   grad_a = b H^T,    H_ij = 2 lambda C_ij / N,    H_ii = 2 (d_i - 1) / N
//
//   grad_z = (grad_a - mean(grad_a) - a mean(grad_a a)) / sqrt(var + eps)    column by column
//
// Source: Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", 2021.
#pragma once
#include "contract/gram.h"

namespace sslkern {

// Rows of the statistics of the columns: of each view mean and 1 / sqrt(var + eps), then d.
struct CrossCorrelationColumns {
  static constexpr int kMean = 0, kScale = 2, kCorrelation = 4, kRows = 5;
};

// Products of rows: A and B. Of columns: C.
constexpr int cross_correlation_matrices(bool gram) { return gram ? 2 : 1; }

struct CrossCorrelationFwd {
  GramInput in;
  double lambda, eps;  // finite; > 0
  double* terms;       // (3) on, off, and whether off has lost its digits: 1, call again with wide
  double* columns;     // (CrossCorrelationColumns::kRows, D)
  void* products;      // matrices x gram_elements(side), float64 for float64 or wide, else float32
  bool keep;           // make of the products what the backward pass reads
  void* workspace;     // cross_correlation_fwd_workspace() bytes, aligned to a cache line
  int threads;         // > 0
};

struct CrossCorrelationBwd {
  GramInput in;
  double lambda;
  const double* grad_loss;  // scalar
  const double* columns;    // from the forward pass
  const void* products;     // from the forward pass with keep
  void* grad_z[2];          // (N, D) of dtype, contiguous; null if not wanted
  void* workspace;          // cross_correlation_bwd_workspace() bytes, aligned to a cache line
  int threads;              // > 0
};

// ---- CUDA

// Merges the moments of columns.
struct CrossCorrelationStatistics {
  std::int64_t N, D;
  double eps;
  const double* moments;  // of ColumnMoments, without differences
  double* columns;        // (CrossCorrelationColumns::kRows, D)
};

// The terms from partial sums: of A_mn B_mn, or of C_ij^2 N^2 beside the diagonal.
struct CrossCorrelationTerms {
  std::int64_t N, D;
  bool gram;
  bool again;  // from wide sums: nothing is done where terms[2] is 0
  double lambda;
  Dtype dtype;
  const double* columns;
  const double* partial;  // (parts)
  std::int64_t parts;
  double* terms;  // (3) as in CrossCorrelationFwd
  void* loss;     // scalar, working
};

// grad_z of the view x, whose gradient after standardisation is 2 lambda / N^2 v + y diag(h):
//
//   gram     v = B x, wide: B x - N y diag(d)    h_i = (2 (d_i - 1) - [not wide] 2 lambda d_i) / N
//   direct   v = y C^T N without its diagonal    h_i = 2 (d_i - 1) / N
struct CrossCorrelationGradient {
  static constexpr int kOfV = 0, kMeanV = 1, kOfX = 2, kOfY = 3, kFactors = 4;
  ColumnView x, y;
  bool gram;
  double lambda;
  const double* grad_loss;    // scalar
  const double* wide;         // scalar
  const double* correlation;  // (D) d
  const void* v;              // (N, D) working
  const double* dots;         // of ColumnDots
  double* factors;            // (kFactors, D)
  void* grad_z;               // (N, D) of dtype, contiguous
};

namespace cpu {
std::int64_t cross_correlation_fwd_workspace(const CrossCorrelationFwd&);
std::int64_t cross_correlation_bwd_workspace(const CrossCorrelationBwd&);
void cross_correlation_fwd(const CrossCorrelationFwd&);
void cross_correlation_bwd(const CrossCorrelationBwd&);
}  // namespace cpu

namespace cuda {
void cross_correlation_statistics(const CrossCorrelationStatistics&, const Launch&);
void cross_correlation_terms(const CrossCorrelationTerms&, const Launch&);
void cross_correlation_gradient(const CrossCorrelationGradient&, const Launch&);
}  // namespace cuda

}  // namespace sslkern
