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

#include "contract/cuda.h"
#include "contract/packed.h"
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

// ---- CUDA: rows packed in the order of their classes, x_ij = s_ij log2(e). "Place" is a row's
// number in that order; i and j are of one class exactly if end_i = end_j.

// The classes, from sorted labels.
struct SupconClasses {
  const std::int64_t* labels;  // (N) ascending
  const std::int64_t* order;   // (N) the row of z that each is of
  std::int64_t N;
  std::int32_t* begin;      // (N) place of the first row of the class
  std::int32_t* end;        // (N) place behind its last row
  std::int64_t* positives;  // (N) as z: their number
};

// What the kernels of both directions read.
struct SupconRows {
  PackedRows z;
  const double* temperature;  // scalar
  const std::int64_t* order;  // (N)
  const std::int32_t* begin;  // (N); null in the backward pass
  const std::int32_t* end;    // (N)
  bool pairs;
};

// The columns of a block of rows are split among `splits` blocks, which a second kernel merges in
// their order. Tiles of positives alone are left out.
struct SupconNegatives {
  SupconRows in;
  std::int64_t splits;   // > 0
  void* partial;         // (splits, padded N, 2) working: largest x and sum of 2^(x - largest)
  void* high;            // (padded N) working: lse_negative log2(e) of each place, with low in two
  void* low;             // parts; both null unless pairs
  double* lse_negative;  // (N) as z
};

// Tiles without positives are left out.
struct SupconPositives {
  SupconRows in;
  const void* high;  // of SupconNegatives
  const void* low;
  std::int64_t splits;   // > 0
  void* partial;         // (splits, padded N, 2) working, as of SupconNegatives
  void* sums;            // (splits, supcon_sums(pairs), padded N) working
  double* lse_positive;  // (N) as z, like the others
  double* sum_positive;
  double* pair_loss;    // null unless pairs
  double* pair_weight;  // null unless pairs
};

// Of x, and of what becomes pair_loss and pair_weight.
constexpr int supcon_sums(bool pairs) { return pairs ? 3 : 1; }

// Upstream gradients in the order of the places: a_i + d_i pair_weight_i, b_i, c_i and d_i.
struct SupconUpstream {
  std::int64_t N;
  const std::int64_t* order;
  const double* pair_weight;  // (N) as z, like the others; null unless pairs
  const double* grad_lse_negative;
  const double* grad_lse_positive;
  const double* grad_sum_positive;
  const double* grad_pair_loss;  // null unless pairs
  double* upstream;              // (4, N)
};

// The gradient of one log-sum-exp by its scores, in units of `unit`: 2^(x_ij - shift_i) fine_i;
// while no |x| exceeds 60 also 2^x_ij coarse_i, one exponential for i and j together. All
// (padded N) working. Of a sum over nothing, shift is -infinity and the others are zero.
struct SupconSoftmax {
  void* shift;
  void* fine;
  void* coarse;
};

// What the gradient tiles read of a row.
struct SupconWeights {
  std::int64_t N, padded_N;
  const std::int64_t* order;
  const double* lse_negative;  // (N) as z
  const double* lse_positive;  // (N) as z
  const double* upstream;      // of SupconUpstream
  const double* unit;          // scalar
  Dtype dtype;
  bool pairs;
  SupconSoftmax negative, positive;
  void* logit;  // (padded N) working: c_i
  void* pair;   // (padded N) working: d_i; null unless pairs
  void* low;    // (padded N) working: lse_negative log2(e) less its shift; null unless pairs
};

// Rows first_row .. first_row + rows of G = H + H^T, each column times the factor of its row of Z
// and all times gradient_scale(dtype), and partial sums of G_ij s_ij log2(e), in units of `unit`,
// before anything is rounded: of them comes the gradient of the temperature.
struct SupconTiles {
  SupconRows in;
  bool normalized;  // |x| <= log2(e) / temperature
  SupconSoftmax negative, positive;
  const void* logit;
  const void* pair;
  const void* low;
  std::int64_t first_row, rows;  // multiples of kPackedTile
  std::int64_t splits;           // > 0
  void* gradient;                // (rows, padded N) of dtype
  double* slope;                 // (padded N / tile_side, splits)
};

namespace cpu {
std::int64_t supcon_fwd_workspace(const SupconFwd&);
std::int64_t supcon_bwd_workspace(const SupconBwd&);
void supcon_fwd(const SupconFwd&);
void supcon_bwd(const SupconBwd&);
}  // namespace cpu

namespace cuda {
void supcon_classes(const SupconClasses&, const Launch&);
void supcon_negatives(const SupconNegatives&, const Launch&);
void supcon_positives(const SupconPositives&, const Launch&);
void supcon_upstream(const SupconUpstream&, const Launch&);
void supcon_weights(const SupconWeights&, const Launch&);
void supcon_tiles(const SupconTiles&, const Launch&);
}  // namespace cuda

}  // namespace sslkern
