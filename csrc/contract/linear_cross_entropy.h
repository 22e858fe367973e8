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

#include "contract/cuda.h"
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

// ---- CUDA: rows packed, x_ij = l_ij log2(e). How many rows are ignored is known to the device
// alone, so all are packed, ignored ones as zeros behind the others: blocks that have nothing else
// leave at once. "Place" is a row's number in that order. Rows are split among blocks, and the
// columns of a block of rows among `splits` of them, which a second kernel merges in their order.

// What one number per class says.
struct LinearCrossEntropyClasses {
  std::int64_t V;
  const double* bias;          // (V), or null: 0
  const double* class_weight;  // (V), or null: 1
  double label_smoothing;
  Dtype dtype;
  void* shift;    // (padded V) working: bias_j log2(e)
  void* share;    // (padded V) working: (1 - e) c_j
  void* uniform;  // (padded V) working: c_j e / V
};

// And what the target index of a row.
constexpr std::int32_t kNoTarget = -1;  // probabilities say more
constexpr std::int32_t kNoRow = -2;     // ignored, or behind the last: so are all places behind it
struct LinearCrossEntropyPlaces {
  std::int64_t N, V;
  const std::int64_t* target;  // (N), or null: with probabilities
  const std::int64_t* sorted;  // (N) the row at each place, ignored ones last; null with those
  std::int64_t ignore_index;
  const double* class_weight;  // (V), or null: 1
  double label_smoothing;
  std::int64_t* order;      // (N) as PackRows wants it; null with probabilities
  std::int32_t* target_at;  // (padded N) the index of the row at a place, or one of the above
  double* kept;             // (padded N) (1 - e) c of it, else 0; NaN where it is out of range
};

// What the kernels of tiles read.
struct LinearCrossEntropyTable {
  PackedRows input, weight;
  const void* shift;  // of LinearCrossEntropyClasses
  const void* share;
  const void* uniform;
  const std::int64_t* order;  // of LinearCrossEntropyPlaces
  const std::int32_t* target_at;
  const double* kept;
  const void* probability;  // (N, V) working, rows stride apart, or null
  std::int64_t stride;
  double softcap;  // > 0, or 0: none
  double label_smoothing;
};

// dot_i = sum_j t_ij x_ij but for the term of a target index, mass_i = sum_j t_ij of probabilities.
struct LinearCrossEntropySums {
  LinearCrossEntropyTable in;
  std::int64_t splits;      // > 0
  void* partial;            // (splits, padded N, 2) working: largest x and sum of 2^(x - largest)
  void* logit;              // (padded N) working: x of the target index
  double* dot;              // (splits, padded N); with smoothing or probabilities
  double* mass;             // (splits, padded N); with probabilities
  const double* class_sum;  // scalar, sum of c_j; null: V
  void* loss;               // (N) working, by row
  double* wide;             // (N) the same, by place
  double* stats;            // (N, 2) lse_i log2(e) and m_i, by row; zeros where ignored
};

// What the gradient tiles read of the row at a place, in units of `unit` times `unit_mass`:
// m_i p_ij g_i = 2^(x_ij - shift_i) fine_i.
struct LinearCrossEntropyWeights {
  std::int64_t N;
  const double* stats;      // (N, 2), by row
  const void* grad_loss;    // (N) working, by row, or null: 1
  const double* unit;       // scalar, or null: 1
  const double* unit_mass;  // scalar
  const std::int64_t* order;
  const std::int32_t* target_at;
  const double* kept;
  Dtype dtype;
  void* shift;     // (padded N) working
  void* fine;      // (padded N) working
  void* gradient;  // (padded N) working: g_i
  void* hit;       // (padded N) working: g_i kept_i
};

// Places first_row .. first_row + rows of G, times gradient_scale(dtype), and sums of its columns
// before anything is rounded.
struct LinearCrossEntropyTiles {
  LinearCrossEntropyTable in;
  const void* shift;  // of LinearCrossEntropyWeights
  const void* fine;
  const void* gradient;
  const void* hit;
  std::int64_t first_row, rows;  // multiples of kPackedTile
  std::int64_t splits;           // > 0
  void* out;                     // (rows, padded V) of dtype
  void* column_sums;             // (rows / column_part, padded V) working, or null
};

// sum_j (+)= unit unit_mass sum over parts.
struct LinearCrossEntropyBias {
  const void* column_sums;  // (parts, padded V) working
  std::int64_t parts, V;
  const double* unit;       // scalar, or null: 1
  const double* unit_mass;  // scalar
  Dtype dtype;
  bool add;
  double* sum;  // (V)
};

namespace cpu {
std::int64_t linear_cross_entropy_fwd_workspace(const LinearCrossEntropyFwd&);
std::int64_t linear_cross_entropy_bwd_workspace(const LinearCrossEntropyBwd&);
void linear_cross_entropy_fwd(const LinearCrossEntropyFwd&);
void linear_cross_entropy_bwd(const LinearCrossEntropyBwd&);
}  // namespace cpu

namespace cuda {
void linear_cross_entropy_classes(const LinearCrossEntropyClasses&, const Launch&);
void linear_cross_entropy_places(const LinearCrossEntropyPlaces&, const Launch&);
void linear_cross_entropy_fwd(const LinearCrossEntropySums&, const Launch&);
void linear_cross_entropy_weights(const LinearCrossEntropyWeights&, const Launch&);
void linear_cross_entropy_tiles(const LinearCrossEntropyTiles&, const Launch&);
void linear_cross_entropy_bias(const LinearCrossEntropyBias&, const Launch&);
}  // namespace cuda

}  // namespace sslkern
