// Softmax cross entropy of a linear layer over a vocabulary, without its N x V logits.
//
//   N rows of input x, V classes with a row of weight w and a bias each, D dims
//   u_ij   = x_i . w_j + bias_j
//   l_ij   = u_ij, or softcap tanh(u_ij / softcap)
//   t_ij   = c_j ((1 - e) q_ij + e / V)    e: label smoothing, c: class weights,
//                                          q_ij: probability, or [j = target_i]
//   m_i    = sum_j t_ij
//   lse_i  = log sum_j exp(l_ij)
//   loss_i = m_i lse_i - sum_j t_ij l_ij
//
// With upstream gradients g_i and p_ij = exp(l_ij - lse_i):
//
//   G_ij          = g_i (m_i p_ij - t_ij) (1 - (l_ij / softcap)^2)    last factor with softcap
//   grad_input_i  = sum_j G_ij w_j,   grad_weight_j = sum_i G_ij x_i,   grad_bias_j = sum_i G_ij
//
// Sources: softmax over a vocabulary as in Devlin et al., "BERT", 2018; softcap: Gemma Team,
// "Gemma 2", 2024; without the logits: Wijmans et al., "Cut Your Losses in Large-Vocabulary
// Language Models", 2024.
#pragma once
#include <cstdint>

#include "contract/query_key.h"

namespace sslkern {

// What both directions read: the rows of input are the queries, those of weight the keys, M = V.
struct LinearCrossEntropyInput : QueryKey {
  const std::int64_t* target;  // (N) in [0, V); null exactly if probability is given
  const void* probability;     // (N, V) float64 for float64, else float32, rows stride apart
  std::int64_t stride;         // elements
  const double* class_weight;  // (V), >= 0, or null: 1
  double label_smoothing;      // in [0, 1]
  double softcap;              // > 0, or 0: none
};

// Where gradients are wanted they are formed as well, those of sum_i loss_i: `chunk` rows at a
// time, whose logits are kept until their sums are known instead of being computed twice.
struct LinearCrossEntropyFwd {
  LinearCrossEntropyInput in;
  void* loss;          // (N) float64 for float64, else float32
  double* sum;         // scalar, of the losses
  double* stats;       // (N, 2) lse_i log2(e) and m_i
  std::int64_t chunk;  // rows at a time, > 0; 0: no gradients
  void* grad_input;    // (N, D) like loss; null if not wanted
  void* grad_weight;   // (V, D) like loss; null if not wanted
  double* grad_bias;   // (V); null if not wanted
  void* workspace;     // linear_cross_entropy_fwd_workspace() bytes, aligned to a cache line
  int threads;         // > 0
};

struct LinearCrossEntropyBwd {
  LinearCrossEntropyInput in;
  const double* stats;    // from the forward pass
  const void* grad_loss;  // (N) float64 for float64, else float32
  void* grad_input;       // (N, D) of dtype, contiguous; null if not wanted
  void* grad_weight;      // (V, D) of dtype, contiguous; null if not wanted
  double* grad_bias;      // (V); null if not wanted
  void* workspace;        // linear_cross_entropy_bwd_workspace() bytes, aligned to a cache line
  int threads;            // > 0
};

namespace cpu {
std::int64_t linear_cross_entropy_fwd_workspace(const LinearCrossEntropyFwd&);
std::int64_t linear_cross_entropy_bwd_workspace(const LinearCrossEntropyBwd&);
void linear_cross_entropy_fwd(const LinearCrossEntropyFwd&);
void linear_cross_entropy_bwd(const LinearCrossEntropyBwd&);
}  // namespace cpu

}  // namespace sslkern
