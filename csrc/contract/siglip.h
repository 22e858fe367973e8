// SigLIP: every pair of a query and a key is classified for itself, as a match or as none.
//
//   s_ij   = scale x_i . t_j + bias
//   y_ij   = 1 for i = j, -1 elsewhere; without positives -1 everywhere
//   loss_i = sum_j log(1 + exp(-y_ij s_ij))
//
// With upstream gradients g_i:
//
//   G_ij       = -y_ij g_i / (1 + exp(y_ij s_ij))
//   grad_x_i   = scale sum_j G_ij t_j,            grad_t_j  = scale sum_i G_ij x_i
//   grad_scale = sum_ij G_ij x_i . t_j,           grad_bias = sum_ij G_ij
//
// Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023.
#pragma once
#include <cstdint>

#include "contract/cuda.h"
#include "contract/query_key.h"

namespace sslkern {

// What both directions of differentiation read: x the queries, t the keys, neither normalised here;
// one scale, and one bias or null.
struct SiglipInput : QueryKey {
  bool positives;  // needs N = M
};

struct SiglipFwd {
  SiglipInput in;
  void* loss;   // (N) float64 for float64, else float32
  double* sum;  // scalar, of the losses
  // The gradients of the sum; null where not wanted.
  void* grad_query;    // (N, D) like loss
  void* grad_key;      // (M, D) like loss
  double* grad_scale;  // scalar; needs grad_query or grad_key
  double* grad_bias;   // scalar
  void* workspace;     // siglip_fwd_workspace() bytes, aligned to a cache line
  int threads;         // > 0
};

struct SiglipBwd {
  SiglipInput in;
  const void* grad_loss;  // (N) float64 for float64, else float32
  void* grad_query;       // (N, D) of dtype, contiguous; null if not wanted
  void* grad_key;         // (M, D) of dtype, contiguous; null if not wanted
  double* grad_scale;     // scalar; null if not wanted; needs grad_query or grad_key
  double* grad_bias;      // scalar; null if not wanted
  void* workspace;        // siglip_bwd_workspace() bytes, aligned to a cache line
  int threads;            // > 0
};

// ---- CUDA: rows packed, u_ij = s_ij log2(e). Rows are split among blocks, and the columns of a
// block of rows among `splits` of them.

// Upstream gradients in units of `unit`, zero behind the last row.
struct SiglipWeights {
  std::int64_t N;
  const void* grad_loss;  // (N) working
  const double* unit;     // scalar
  Dtype dtype;
  void* weights;  // (padded N) working
};

// What multiplies G where it is rounded to float16, so that the largest elements that the norms of
// the rows allow are near gradient_scale: with a bias of -32 all of G may be below 2^-40.
struct SiglipLift {
  PackedQueryKey in;
  bool positives;
  float* norm;   // (N + M) of the queries and the keys
  double* lift;  // scalar, a power of two
};

// Rows first_row .. first_row + rows of the pairs. Losses of rows are partial sums over the columns
// of a split, in log2 units. With sums: G, times *lift where it is written, and partial sums of
// G_ij x_i . t_j and of G_ij before anything is rounded; with losses, its weights are 1.
struct SiglipTiles {
  PackedQueryKey in;
  bool positives;
  const void* weights;           // of SiglipWeights; null with losses
  const double* lift;            // scalar, or null: 1
  std::int64_t first_row, rows;  // multiples of kPackedTile
  std::int64_t splits;           // > 0
  double* loss;                  // (splits, padded N), or null
  double* sums;                  // (2, padded N / tile_side, splits), or null
  void* gradient;                // (rows, padded M) of dtype, with sums
};

// The losses of rows from those of all splits in their order.
struct SiglipLosses {
  const double* partial;  // (splits, padded N) log2 units
  std::int64_t splits;
  std::int64_t N, padded_N;
  Dtype dtype;
  double* wide;  // (N), natural units
  void* loss;    // (N) working, of those
};

namespace cpu {
std::int64_t siglip_fwd_workspace(const SiglipFwd&);
std::int64_t siglip_bwd_workspace(const SiglipBwd&);
void siglip_fwd(const SiglipFwd&);
void siglip_bwd(const SiglipBwd&);
}  // namespace cpu

namespace cuda {
void siglip_weights(const SiglipWeights&, const Launch&);
void siglip_lift(const SiglipLift&, const Launch&);
void siglip_tiles(const SiglipTiles&, const Launch&);
void siglip_losses(const SiglipLosses&, const Launch&);
}  // namespace cuda

}  // namespace sslkern
