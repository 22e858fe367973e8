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

namespace cpu {
std::int64_t siglip_fwd_workspace(const SiglipFwd&);
std::int64_t siglip_bwd_workspace(const SiglipBwd&);
void siglip_fwd(const SiglipFwd&);
void siglip_bwd(const SiglipBwd&);
}  // namespace cpu

}  // namespace sslkern
