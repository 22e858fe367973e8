// InfoNCE: softmax cross entropy of N queries against M keys, in one direction or in both.
//
//   xh_i, yh_j = query_i / |query_i|, key_j / |key_j|    normalize; zero when the norm is < 1e-12.
//                                                        Otherwise the rows as they are
//   s_ij   = scale_j xh_i . yh_j + bias_j    scale_j = scale for all j, or one per key
//   A_i    = {j : j = t_i or key_id_j != query_id_i}    all j without ids
//   lse_i  = log sum_{j in A_i} exp(s_ij)
//   loss_i = lse_i - (1 - e) s_{i,t_i} - (e / |A_i|) sum_{j in A_i} s_ij    e: label smoothing;
//            without targets the term of t_i is left out
//
// symmetric (N = M, t_i = i) adds the other direction: loss_col_j is the same over the rows i with
// j in A_i, of column j of S.
//
// With upstream gradients g_i and h_j, p_ij = exp(s_ij - lse_i), q_ij = exp(s_ij - lse_col_j):
//
//   G_ij          = g_i (p_ij - e / |A_i|) + h_j (q_ij - e / |A_j|) - [j = t_i] (1 - e) (g_i + h_j)
//   grad_xh_i     = sum_j G_ij scale_j yh_j,    grad_yh_j = scale_j sum_i G_ij xh_i
//   grad_scale_j  = yh_j . sum_i G_ij xh_i      summed over j for one scale
//   grad_bias_j   = sum_i G_ij
//
// Source: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018;
// both directions: Radford et al., "Learning Transferable Visual Models From Natural Language
// Supervision", 2021.
#pragma once
#include <cstdint>

#include "contract/query_key.h"

namespace sslkern {

// What both directions of differentiation read.
struct InfoNceInput : QueryKey {
  const std::int64_t* target;     // (N) in [0, M), or null: no targets
  const std::int32_t* query_ids;  // (N) or null
  const std::int32_t* key_ids;    // (M), null exactly if query_ids is
  double label_smoothing;         // in [0, 1]
  bool symmetric;
};

struct InfoNceFwd {
  InfoNceInput in;
  void* loss;         // (N) float64 for float64, else float32
  void* loss_col;     // (M) like loss; null unless symmetric
  double* stats;      // (N, 2) lse_i log2(e) and |A_i|
  double* stats_col;  // (M, 2) likewise; null unless symmetric
  void* grad_query;   // (N, D) like loss: the gradient of sum_i loss_i; null if not wanted.
                      // Not with symmetric
  double* query_dot;  // (N) xh_i . grad_xh_i of it; null exactly if grad_query is
  void* workspace;    // info_nce_fwd_workspace() bytes, aligned to a cache line
  int threads;        // > 0
};

struct InfoNceBwd {
  InfoNceInput in;
  const double* stats;        // from the forward pass
  const double* stats_col;    // from the forward pass; null unless symmetric
  const void* grad_loss;      // (N) float64 for float64, else float32
  const void* grad_loss_col;  // (M) likewise; null unless symmetric
  void* grad_query;           // (N, D) of dtype, contiguous; null if not wanted
  void* grad_key;             // (M, D) of dtype, contiguous; null if not wanted
  double* grad_scale;         // like scale; null if not wanted. One scale needs grad_query, one per
                              // key needs grad_key
  double* grad_bias;          // (M); null if not wanted
  void* workspace;            // info_nce_bwd_workspace() bytes, aligned to a cache line
  int threads;                // > 0
};

// How many columns of A_i have a larger logit than the target: 0 where the target wins. What cannot
// be compared (NaN) counts as larger.
struct InfoNceRank {
  InfoNceInput in;          // one direction; label smoothing does not matter
  const double* threshold;  // (N) the logits to beat; null exactly if in.target is given
  std::int64_t* rank;       // (N)
  void* workspace;          // info_nce_rank_workspace() bytes, aligned to a cache line
  int threads;              // > 0
};

namespace cpu {
std::int64_t info_nce_fwd_workspace(const InfoNceFwd&);
std::int64_t info_nce_bwd_workspace(const InfoNceBwd&);
std::int64_t info_nce_rank_workspace(const InfoNceRank&);
void info_nce_fwd(const InfoNceFwd&);
void info_nce_bwd(const InfoNceBwd&);
void info_nce_rank(const InfoNceRank&);
}  // namespace cpu

}  // namespace sslkern
