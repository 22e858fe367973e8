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
// symmetric adds the other direction: loss_col_j is the same over the rows i with j in A_i, of
// column j of S. With targets N = M and t_i = i; without, as for a block of a larger matrix, any N
// and M.
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

#include "contract/cuda.h"
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

// ---- CUDA: rows packed, c_ij their products, and
//
//   x_ij = s_ij log2(e) = d_ij + offset_j,    d_ij = c_ij factor_i slope_j
//
// Rows are split among blocks, and the keys among `splits` blocks of each tile of rows. What rows
// collect comes in one part per split, what columns collect in one part per kColumnPart rows: the
// rows of a warp. A second kernel merges the parts in their order. Parts of columns are as many as
// rows times columns: as many rows are taken at a time as they fit into bounded memory for.

// What scales and biases make of the columns.
struct InfoNceColumns {
  PackedQueryKey in;
  void* slope;   // (padded M) working: scale_j log2(e) times the factor of the packed key
  void* offset;  // (padded M) working: bias_j log2(e), -infinity where there is no key
};

// What the kernels of tiles read.
struct InfoNcePacked {
  PackedRows query, key;
  const void* slope;              // of InfoNceColumns
  const void* offset;             // likewise
  const std::int64_t* target;     // (N) or null
  const std::int64_t* query_ids;  // (N) or null: as given, for making them smaller would read them
  const std::int64_t* key_ids;    // (M), null exactly if query_ids is
};

// What the rows, or the columns, collect in the forward pass, and what becomes of it.
struct InfoNceSide {
  std::int64_t count, padded, parts;
  void* partial;    // (parts, padded, 2) working: largest x and sum of 2^(x - largest)
  double* logits;   // (parts, padded, 2) sum and number of the x that count; null where all count
                    // and nobody asks for their sum
  double* carried;  // (count, 4) all these, of the parts of earlier launches; null without such
  void* loss;       // (count) working
  double* stats;    // (count, 2) lse log2(e) and |A|
};

// Of rows first_row .. first_row + rows; the launch of the last rows gives the results.
struct InfoNceSums {
  InfoNcePacked in;
  double label_smoothing;
  bool symmetric;
  std::int64_t first_row, rows;  // multiples of kPackedTile; all rows unless symmetric
  std::int64_t splits;           // > 0
  InfoNceSide row, col;          // col only if symmetric
  void* positive;                // (N) working: x_{i,t_i}; null without targets
};

// The middle of all lse, and the largest distance to it: infinity where one is not finite.
struct InfoNceMiddle {
  const double* stats;      // (N, 2)
  const double* stats_col;  // (M, 2)
  std::int64_t N, M;
  double* middle;  // (2)
};

// What the gradient tiles read of a row or a column, in units of `unit`. p_ij g_i =
// 2^(x_ij - shift_i) fine_i; while no lse is far from the middle of all also
// 2^(x_ij - middle) coarse_i, one exponential for p_ij and q_ij together.
struct InfoNceTerms {
  void* g;        // (padded) working: upstream gradient
  void* shift;    // (padded) working
  void* fine;     // (padded) working
  void* coarse;   // (padded) working; null without middle
  void* uniform;  // (padded) working: g_i e / |A_i|, 0 without label smoothing
};
struct InfoNceWeights {
  std::int64_t count, padded;
  const double* stats;    // (count, 2)
  const void* grad_loss;  // (count) working; null: all 1
  const double* unit;     // scalar, or null: 1
  const double* middle;   // of InfoNceMiddle, or null
  double label_smoothing;
  Dtype dtype;
  InfoNceTerms to;
};

// Rows first_row .. first_row + rows of
//
//   G_ij factor_i (slope_j / log2(e)) gradient_scale(dtype) / *scale_unit
//
// whose product with the packed keys has the factor of the query and whose transpose's product with
// the packed queries has the factor and the scale of the key: FinishRows.over_factor. Besides, sums
// of G_ij and of G_ij d_ij before anything is rounded: of them come the gradients of scale and
// bias.
struct InfoNceTiles {
  InfoNcePacked in;
  InfoNceTerms row, col;  // col only if symmetric
  const double* middle;   // null unless symmetric
  const double* scale_unit;
  double label_smoothing;
  bool symmetric;
  std::int64_t first_row, rows;  // multiples of kPackedTile
  std::int64_t splits;           // > 0
  void* gradient;                // (rows, padded M) of dtype; null if not wanted
  void* row_sum;                 // (splits, padded N) working: of G_ij d_ij
  void* column_sum;  // (rows / column_part, padded M, 2) working: of G_ij and of G_ij d_ij; null
                     // if not wanted
};

// xh_i . grad_xh_i, from the sums of the tiles.
struct InfoNceRowDots {
  std::int64_t N, splits;
  Dtype dtype;
  const void* row_sum;  // of InfoNceTiles
  const double* unit;   // scalar, or null: 1
  double* row_dot;      // (N)
};

// The gradients of keys' scales and biases, from the sums of so many parts of columns; added to
// those of earlier rows if asked.
struct InfoNceColumnGradients {
  std::int64_t M, parts;
  Dtype dtype;
  bool add;
  const void* column_sum;  // (parts, padded M, 2), of InfoNceTiles
  const double* unit;      // scalar, or null: 1
  const double* scale;     // (M); read for grad_scale alone
  double* grad_scale;      // (M); null if not wanted
  double* grad_bias;       // (M); null if not wanted
};

struct InfoNceCounts {
  InfoNcePacked in;
  const double* threshold;  // (N), null exactly if in.target is given
  std::int64_t splits;      // > 0
  void* limit;              // (N) working: the logits of the targets; null without
  std::int32_t* larger;     // (splits, padded N) how many keys of the split are
};

namespace cpu {
std::int64_t info_nce_fwd_workspace(const InfoNceFwd&);
std::int64_t info_nce_bwd_workspace(const InfoNceBwd&);
std::int64_t info_nce_rank_workspace(const InfoNceRank&);
void info_nce_fwd(const InfoNceFwd&);
void info_nce_bwd(const InfoNceBwd&);
void info_nce_rank(const InfoNceRank&);
}  // namespace cpu

namespace cuda {
void info_nce_columns(const InfoNceColumns&, const Launch&);
void info_nce_fwd(const InfoNceSums&, const Launch&);
void info_nce_middle(const InfoNceMiddle&, const Launch&);
void info_nce_weights(const InfoNceWeights&, const Launch&);
void info_nce_tiles(const InfoNceTiles&, const Launch&);
void info_nce_row_dots(const InfoNceRowDots&, const Launch&);
void info_nce_column_gradients(const InfoNceColumnGradients&, const Launch&);
void info_nce_rank(const InfoNceCounts&, const Launch&);
}  // namespace cuda

}  // namespace sslkern
