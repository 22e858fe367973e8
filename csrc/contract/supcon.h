// Contrast by label: what the losses with positives by label (SupCon, DCL, pairwise NT-Xent) and
// uniformity need of the similarities of one set of rows with itself.
//
//   N rows, D dims, tau the temperature; classes are sets of rows
//   zh_i   = z_i / |z_i|    normalize; zero when |z_i| < 1e-12. Otherwise zh_i = z_i
//   s_ij   = zh_i . zh_j / tau, j != i
//   P_i    = {j != i of the class of i},  N_i = {j of other classes}
//
//   lse_negative_i = log sum_{j in N_i} exp(s_ij)    -infinity where N_i is empty
//   lse_positive_i = log sum_{j in P_i} exp(s_ij)    -infinity where P_i is empty
//   sum_positive_i = sum_{j in P_i} s_ij
//   pair_loss_i    = sum_{j in P_i} log(1 + exp(lse_negative_i - s_ij))       pairs
//   pair_weight_i  = sum_{j in P_i} sigmoid(lse_negative_i - s_ij),           pairs
//                    its derivative by lse_negative_i
//
// With upstream gradients a_i, b_i, c_i, d_i of the first four:
//
//   H_ij      = (a_i + d_i pair_weight_i) exp(s_ij - lse_negative_i)                    j in N_i
//             = b_i exp(s_ij - lse_positive_i) + c_i - d_i sigmoid(lse_negative_i - s_ij)  P_i
//   grad_zh_i = (1/tau) sum_j (H_ij + H_ji) zh_j
//   grad_tau  = -(1/(2 tau)) sum_i zh_i . grad_zh_i    all of it depends on zh / sqrt(tau) alone
//
// The kernels see the rows sorted by class, so that i < j is a positive pair exactly if j < end_i:
// no N x N mask, and nothing to compare away from the diagonal.
//
// Sources: Khosla et al., "Supervised Contrastive Learning", 2020; Yeh et al., "Decoupled
// Contrastive Learning", 2021; Wang and Isola, "Understanding Contrastive Representation Learning
// through Alignment and Uniformity on the Hypersphere", 2020.
#pragma once
#include <cstdint>

#include "contract/types.h"

namespace sslkern {

// What both directions read. Rows are numbered in the order of their classes, but for z, where
// order says which row comes at each place, and for everything that is (N): as z.
struct SupconInput {
  const void* z;              // (N, D) of dtype, rows stride apart, columns adjacent
  std::int64_t stride;        // elements
  std::int64_t N, D;          // > 0
  const std::int64_t* order;  // (N) the rows of z, those of one class together
  const std::int32_t* end;    // (N) place behind the last row of the class of the row at a place
  const double* temperature;  // scalar, > 0
  Dtype dtype;
  bool normalize;
  bool pairs;
};

struct SupconFwd {
  SupconInput in;
  double* lse_negative;  // (N)
  double* lse_positive;  // (N)
  double* sum_positive;  // (N)
  double* pair_loss;     // (N); null unless pairs
  double* pair_weight;   // (N); null unless pairs
  void* workspace;       // supcon_fwd_workspace() bytes, aligned to a cache line
  int threads;           // > 0
};

struct SupconBwd {
  SupconInput in;
  const double* lse_negative;       // (N) from the forward pass
  const double* lse_positive;       // (N) from the forward pass
  const double* pair_weight;        // (N) from the forward pass; null unless pairs
  const double* grad_lse_negative;  // (N)
  const double* grad_lse_positive;  // (N)
  const double* grad_sum_positive;  // (N)
  const double* grad_pair_loss;     // (N); null unless pairs
  void* grad_z;                     // (N, D) of dtype, contiguous
  double* grad_temperature;         // scalar
  void* workspace;                  // supcon_bwd_workspace() bytes, aligned to a cache line
  int threads;                      // > 0
};

namespace cpu {
std::int64_t supcon_fwd_workspace(const SupconFwd&);
std::int64_t supcon_bwd_workspace(const SupconBwd&);
void supcon_fwd(const SupconFwd&);
void supcon_bwd(const SupconBwd&);
}  // namespace cpu

}  // namespace sslkern
