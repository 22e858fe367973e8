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

namespace cpu {
std::int64_t covariance_fwd_workspace(const CovarianceFwd&);
std::int64_t covariance_bwd_workspace(const CovarianceBwd&);
void covariance_fwd(const CovarianceFwd&);
void covariance_bwd(const CovarianceBwd&);
}  // namespace cpu

}  // namespace sslkern
