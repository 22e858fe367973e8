// VICReg: a batch whose columns neither vanish nor covary, and whose views agree.
//
//   x_nj       = (z_nj - mean_j) scale_j    scale_j = 1, or with normalize 1 / |z_j - mean_j|: zero
//                                           where that norm is < 1e-12
//   invariance = (1 / ND) sum_nj (z_a_nj - z_b_nj)^2           only of two views
//   variance   = (1 / D) sum_j max(0, 1 - sqrt(var_j + eps))   unbiased, summed over the views
//   covariance = u sum_{i != j} (x_i . x_j)^2                  summed over the views;
//                                           u = 1 / (D (N - 1)^2), or with normalize 1 / D^2
//
//   gram     sum_{i != j} (x_i . x_j)^2 = sum_mn G_mn^2 - sum_j |x_j|^4,    G = x x^T
//            grad_x = 4 u (G x - x diag(|x_j|^2))
//   direct   grad_x = 4 u x S,    S_ij = x_i . x_j beside the diagonal, S_ii = 0
//
//   grad_z = (grad_x - mean(grad_x) - [normalize] x (x . grad_x)) scale    column by column
//
// and from the variance -(z_j - mean_j) / (D (N - 1) sqrt(var_j + eps)) where that root is < 1.
//
// Source: Bardes et al., "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised
// Learning", 2022; normalize: Lee and Aune, "VIbCReg", 2021.
#pragma once
#include "contract/gram.h"

namespace sslkern {

// Rows of the statistics of the columns: of view v those from v * kRows on.
struct CovarianceColumns {
  static constexpr int kMean = 0, kScale = 1, kVariance = 2, kRows = 3;
};

struct CovarianceInput {
  GramInput in;     // of one view or two
  double eps;       // > 0
  bool normalize;   // columns to unit norm, for the covariance
  bool covariance;  // else invariance and variance alone: no products

  int views() const { return in.z[1] == nullptr ? 1 : 2; }
  // u
  constexpr double unit() const {
    const double n = double(in.N - 1), d = double(in.D);
    return normalize ? 1 / (d * d) : 1 / (d * n * n);
  }
};

struct CovarianceFwd {
  CovarianceInput of;
  double* terms;    // (4) invariance, variance, covariance, and whether the covariance has lost its
                    // digits: 1, call again with wide
  double* columns;  // (views x kRows, D)
  void* products;   // views x gram_elements(side), float64 for float64 or wide, else float32; null
                    // exactly without covariance
  bool keep;        // make of the products what the backward pass reads
  void* workspace;  // covariance_fwd_workspace() bytes, aligned to a cache line
  int threads;      // > 0
};

struct CovarianceBwd {
  CovarianceInput of;
  double invariance, variance, covariance;  // weights of the terms
  const double* grad_loss;                  // scalar
  const double* columns;                    // from the forward pass
  const void* products;  // from the forward pass with keep; null exactly without covariance
  void* grad_z[2];       // (N, D) of dtype, contiguous; null if not wanted
  void* workspace;       // covariance_bwd_workspace() bytes, aligned to a cache line
  int threads;           // > 0
};

// ---- CUDA

// Merges the moments of columns.
struct CovarianceStatistics {
  int views;
  std::int64_t N, D;
  bool normalize;
  const double* moments;  // of ColumnMoments, with differences
  double* columns;        // (views x CovarianceColumns::kRows, D)
  double* distance;       // (D) squared differences of two views; null for one
};

// The terms from partial sums of G_mn^2, or of (x_i . x_j)^2 beside the diagonal.
struct CovarianceTerms {
  CovarianceInput of;  // but its views
  int views;
  bool again;                               // from wide sums: nothing is done where terms[3] is 0
  double invariance, variance, covariance;  // weights of the terms
  const double* columns;
  const double* distance;  // (D), null for one view
  const double* partial;   // (views, parts), null without covariance
  std::int64_t parts;
  double* terms;  // (4) as in CovarianceFwd
  void* loss;     // scalar, working
};

// grad_z of the view x, whose covariance has the gradient 4 u (v - x diag(own)) in grad_x:
//
//   gram     v = G x, wide: G x - x diag(|x_j|^2)    own_j = [not wide] |x_j|^2
//   direct   v = x S                                 own_j = 0
struct CovarianceGradient {
  static constexpr int kOfV = 0, kMeanV = 1, kOfX = 2, kFactors = 3;
  ColumnView x;
  const void* other;                        // (N, D) of dtype, the other view; null for one
  std::int64_t other_stride;                // elements
  CovarianceInput of;                       // but its views
  double invariance, variance, covariance;  // weights of the terms
  const double* grad_loss;                  // scalar
  const double* wide;                       // scalar
  const double* column_variance;            // (D)
  const void* v;                            // (N, D) working; null without covariance
  const double* dots;                       // of ColumnDots; null without covariance
  double* factors;                          // (kFactors, D)
  void* grad_z;                             // (N, D) of dtype, contiguous
};

namespace cpu {
std::int64_t covariance_fwd_workspace(const CovarianceFwd&);
std::int64_t covariance_bwd_workspace(const CovarianceBwd&);
void covariance_fwd(const CovarianceFwd&);
void covariance_bwd(const CovarianceBwd&);
}  // namespace cpu

namespace cuda {
void covariance_statistics(const CovarianceStatistics&, const Launch&);
void covariance_terms(const CovarianceTerms&, const Launch&);
void covariance_gradient(const CovarianceGradient&, const Launch&);
}  // namespace cuda

}  // namespace sslkern
