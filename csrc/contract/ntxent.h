// NT-Xent: softmax contrastive loss over the similarities of one set of rows with itself.
//
//   B pairs, N = 2B rows, D dims, tau the temperature
//   Z = [z_a; z_b], partner pi(i) = (i + B) mod N
//   zh_i   = z_i / |z_i|    normalize; zero when |z_i| < 1e-12. Otherwise zh_i = z_i
//   s_ij   = zh_i . zh_j / tau, j != i
//   lse_i  = log sum_{j != i} exp(s_ij)
//   loss_i = lse_i - s_{i,pi(i)}
//
// With upstream gradients g_i and p_ij = exp(s_ij - lse_i):
//
//   G_ij      = g_i p_ij + g_j p_ji - [j = pi(i)] (g_i + g_j)
//   grad_zh_i = (1/tau) sum_{j != i} G_ij zh_j
//   grad_z_i  = (grad_zh_i - zh_i (zh_i . grad_zh_i)) / |z_i|    normalize
//   grad_tau  = -(1/(2 tau)) sum_i zh_i . grad_zh_i    the loss depends on zh / sqrt(tau) alone
//
// Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
// 2020.
#pragma once
#include <cstdint>

#include "contract/cuda.h"
#include "contract/packed.h"
#include "contract/types.h"

namespace sslkern {

// What both directions read.
struct NtxentInput {
  const void* z_a;            // (B, D) of dtype, rows stride_a apart, columns adjacent
  const void* z_b;            // (B, D) of dtype, rows stride_b apart, columns adjacent
  std::int64_t stride_a;      // elements
  std::int64_t stride_b;      // elements
  std::int64_t B;             // > 0
  std::int64_t D;             // > 0
  const double* temperature;  // scalar, > 0
  Dtype dtype;
  bool normalize;
};

struct NtxentFwd {
  NtxentInput in;
  void* loss;       // (N) float64 for float64, else float32
  double* lse;      // (N) lse_i log2(e), float64 always: float32 would cost the gradient of easy
                    // pairs its digits
  void* workspace;  // ntxent_fwd_workspace() bytes, aligned to a cache line
  int threads;      // > 0
};

struct NtxentBwd {
  NtxentInput in;
  const double* lse;         // (N) lse_i log2(e) from the forward pass
  const void* grad_loss;     // (N) float64 for float64, else float32
  void* grad_z_a;            // (B, D) of dtype, contiguous
  void* grad_z_b;            // (B, D) of dtype, contiguous
  double* grad_temperature;  // scalar
  void* workspace;           // ntxent_bwd_workspace() bytes, aligned to a cache line
  int threads;               // > 0
};

// ---- CUDA: Z packed, x_ij = s_ij log2(e). Rows are split among blocks, and the columns of a block
// of rows among `splits` of them, which a second kernel merges in their order.

struct NtxentSums {
  PackedRows z;
  std::int64_t B;
  const double* temperature;  // scalar
  std::int64_t splits;        // > 0
  void* partial;              // (splits, padded N, 2) working: largest x and sum of 2^(x - largest)
  void* positive;             // (padded N) working: x_{i,pi(i)}
  void* loss;                 // (N) working
  double* lse;                // (N) lse_i log2(e)
};

// What the gradient tiles read of a row, in units of `unit`. p_ij g_i = 2^(x_ij - shift_i) fine_i;
// while no |x| exceeds 60 also 2^x_ij coarse_i, one exponential for p_ij and p_ji together.
struct NtxentWeights {
  std::int64_t B, N, padded_N;
  const double* lse;      // (N)
  const void* grad_loss;  // (N) working
  const double* unit;     // scalar
  Dtype dtype;
  void* both;    // (padded N) working: g_i + g_pi(i)
  void* shift;   // (padded N) working
  void* fine;    // (padded N) working
  void* coarse;  // (padded N) working
};

// Rows first_row .. first_row + rows of G, each column times the factor of its row of Z and all
// times gradient_scale(dtype). With slopes: partial sums of G_ij s_ij log2(e), in units of `unit`,
// before anything is rounded: of them comes the gradient of the temperature.
struct NtxentTiles {
  PackedRows z;
  std::int64_t B;
  const double* temperature;  // scalar
  bool normalized;            // |x| <= log2(e) / temperature
  const void* both;           // of NtxentWeights
  const void* shift;
  const void* fine;
  const void* coarse;
  std::int64_t first_row, rows;  // multiples of kPackedTile
  std::int64_t splits;           // > 0
  void* gradient;                // (rows, padded N) of dtype
  double* slope;                 // (padded N / tile_side, splits)
};

namespace cpu {
std::int64_t ntxent_fwd_workspace(const NtxentFwd&);
std::int64_t ntxent_bwd_workspace(const NtxentBwd&);
void ntxent_fwd(const NtxentFwd&);
void ntxent_bwd(const NtxentBwd&);
}  // namespace cpu

namespace cuda {
void ntxent_fwd(const NtxentSums&, const Launch&);
void ntxent_weights(const NtxentWeights&, const Launch&);
void ntxent_tiles(const NtxentTiles&, const Launch&);
}  // namespace cuda

}  // namespace sslkern
