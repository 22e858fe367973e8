// Sampled logits: inner products of each of N queries with K rows of a table, which an index names.
//
//   N queries, K samples each, V rows of the table, D dims
//   logit_ik = query_i . table[index_ik]
//
// With upstream gradients g_ik:
//
//   grad_query_i = sum_k g_ik table[index_ik]
//   grad_table_v = sum_{(i, k): index_ik = v} g_ik query_i    in the order of the samples (i, k)
//
// The rows are read where they lie: there is no N x K x D gather. Floor: the bytes of N K rows of
// the table in either direction, and for grad_table as many rows of queries, which a cache may
// hold, and V rows written.
//
// Source: Mikolov et al., "Distributed Representations of Words and Phrases and their
// Compositionality", 2013; Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
// Discrimination", 2018.
#pragma once
#include <cstdint>

#include "contract/cuda.h"
#include "contract/types.h"

namespace sslkern {

// What both directions of differentiation read.
struct SampledLogitsInput {
  const void* query;          // (N, D) of dtype, rows stride_query apart, columns adjacent
  const void* table;          // (V, D) of dtype, rows stride_table apart, columns adjacent
  std::int64_t stride_query;  // elements
  std::int64_t stride_table;  // elements
  const std::int64_t* index;  // (N, K) in [0, V), contiguous
  std::int64_t N, K, V, D;    // > 0
  Dtype dtype;
};

struct SampledLogitsFwd {
  SampledLogitsInput in;
  void* logits;     // (N, K) float64 for float64, else float32
  void* workspace;  // sampled_logits_fwd_workspace() bytes, aligned to a cache line
  int threads;      // > 0
};

struct SampledLogitsBwd {
  SampledLogitsInput in;
  const void* grad_logits;  // (N, K) float64 for float64, else float32
  void* grad_query;         // (N, D) of dtype, contiguous; null if not wanted
  void* grad_table;         // (V, D) of dtype, contiguous; null if not wanted
  void* workspace;          // sampled_logits_bwd_workspace() bytes, aligned to a cache line
  int threads;              // > 0
};

// ---- CUDA: an index that names no row gives NaN for its logit and the gradient of its query; the
// gradient of the table leaves it out.

struct SampledLogitsDots {
  SampledLogitsInput in;
  void* logits;  // (N, K) float64 for float64, else float32
};

struct SampledLogitsQueryGradient {
  SampledLogitsInput in;
  const void* grad_logits;  // (N, K) float64 for float64, else float32
  void* grad_query;         // (N, D) of dtype, contiguous
};

// Sorted samples are summed in tiles of so many; what goes beyond a tile is summed in a second
// kernel, so that a row which many samples name keeps no single warp busy.
constexpr std::int64_t kSortedTile = 64;

constexpr std::int64_t sorted_tiles(std::int64_t samples) {
  return (samples + kSortedTile - 1) / kSortedTile;
}
// Of D in sums of tiles: whole chunks of a warp, of every dtype.
constexpr std::int64_t padded_sum_dims(std::int64_t D) { return (D + 127) / 128 * 128; }

struct SampledLogitsTableGradient {
  SampledLogitsInput in;  // index is not read
  const void* row;        // (N K) int64 if wide, else int32: index in order; outside [0, V): none
  bool wide;
  const std::int64_t* order;  // (N K) the samples of `row`: of a row in the order of the samples
  const void* grad_logits;    // (N, K) float64 for float64, else float32
  void* open;        // (sorted_tiles(N K), 2, padded_sum_dims(D)) float64 for float64, else
                     // float32
  void* grad_table;  // (V, D) of dtype, contiguous, zeros
};

namespace cpu {
std::int64_t sampled_logits_fwd_workspace(const SampledLogitsFwd&);
std::int64_t sampled_logits_bwd_workspace(const SampledLogitsBwd&);
void sampled_logits_fwd(const SampledLogitsFwd&);
void sampled_logits_bwd(const SampledLogitsBwd&);
}  // namespace cpu

namespace cuda {
void sampled_logits_fwd(const SampledLogitsDots&, const Launch&);
void sampled_logits_grad_query(const SampledLogitsQueryGradient&, const Launch&);
void sampled_logits_grad_table(const SampledLogitsTableGradient&, const Launch&);
}  // namespace cuda

}  // namespace sslkern
