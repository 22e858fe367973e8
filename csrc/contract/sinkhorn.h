// Sinkhorn-Knopp: the assignment of rows of scores to prototypes of given shares, for P independent
// problems.
//
//   n      = B + L rows: those of the batch, then those of the queue
//   X_bk   = exp(s_bk / epsilon), or s_bk itself with probabilities
//   w_b      weight of a row, divided by their sum: they sum to 1
//   m_k      share of a prototype; they sum to 1
//
//   g_k = f_b = 0, then T times:
//     g_k = log m_k - log sum_b w_b X_bk exp(f_b)      prototypes first
//     f_b =         - log sum_k     X_bk exp(g_k)
//   Q_bk = X_bk exp(g_k + f_b)                         rows sum to 1
//
// The potentials g are all that is kept of the iterations: f, and with it the plan Q, follows from
// g and the row. T = 0 leaves g = 0: the softmax of the scores.
//
// With a start g is that at first, and f follows from it before the first iteration: T iterations
// are any number of calls that each start where the one before has ended. So rows may be in several
// processes, which put together between calls of T = 1 what prototypes got from theirs: of g_k =
// inf that is nothing.
//
// Source: Cuturi, "Sinkhorn Distances", 2013; with prototypes: Caron et al., "Unsupervised Learning
// of Visual Features by Contrasting Cluster Assignments", 2020.
#pragma once
#include <cstdint>

#include "contract/cuda.h"
#include "contract/types.h"

namespace sslkern {

// P matrices of rows with adjacent columns.
struct SinkhornRows {
  const void* data;             // (P, rows, K) of dtype; null: no rows
  std::int64_t stride_problem;  // elements
  std::int64_t stride_row;      // elements
};

// What is written, each null if not wanted.
struct SinkhornResults {
  double* potential;                 // (P, K) g
  void* plan;                        // (P, B, K) of dtype, columns adjacent
  std::int64_t stride_plan_problem;  // elements
  std::int64_t stride_plan_row;      // elements
  double* row_potential;             // (P, B) f
  double* usage;                     // (P, K) mean of Q over the rows of the batch, and
  double* entropy;                   // (P) mean of -sum_k Q log Q: both or none
};

// Memory for exponentials, to compute them once: where the plan is going to be, or more. null:
// none. Only for scores of float32 or float64, T > 0, without a queue or a start, and apart from
// the scores.
struct SinkhornKept {
  void* data;                   // (P, B, K) of dtype, columns adjacent
  std::int64_t stride_problem;  // elements
  std::int64_t stride_row;      // elements
};

struct Sinkhorn {
  SinkhornRows scores;      // B rows a problem
  SinkhornRows queue;       // L rows a problem
  std::int64_t P, B, L, K;  // > 0, but L >= 0
  const double* marginal;   // (P, K) m; null: 1 / K each
  const double* weight;     // (P, n) w, summing to 1; null: 1 / n each
  const double* start;      // (P, K) g to start from; null: g = f = 0
  double epsilon;           // > 0; not read with probabilities
  double tolerance;  // stop when sum_b |exp(f_b before - f_b) - 1| is less; 0: never, as it is
                     // with a start: f before it is not known
  std::int64_t iterations;  // T >= 0
  Dtype dtype;
  bool probabilities;
  bool hard;  // the plan is 1 at the largest element of a row, the first of equal ones
  SinkhornKept kept;
  SinkhornResults results;
  void* workspace;  // sinkhorn_workspace() bytes
  int threads;      // > 0
};

// ---- CUDA: a row is read by a warp or a block, which holds it in registers if it is not too long;
// each block adds up what its chunk of the rows assigns, column by column, and a second kernel
// merges the chunks in their order.

// Elements of a row that a warp, or a block, holds.
constexpr std::int64_t sinkhorn_warp_columns(Dtype dtype) {
  return dtype == Dtype::kFloat64 ? 256 : 512;
}
constexpr std::int64_t sinkhorn_block_columns(Dtype dtype) {
  return 8 * sinkhorn_warp_columns(dtype);
}

// One block does all iterations of a problem of up to this size: less time than a launch takes.
constexpr bool sinkhorn_fits_a_block(std::int64_t rows, std::int64_t K, Dtype dtype) {
  return K <= sinkhorn_block_columns(dtype) && rows * K <= 1 << 14;
}

// How blocks share the rows of a problem: by sizes alone, so that no bit of a result depends on the
// device or on other problems.
struct SinkhornChunks {
  std::int64_t size, count;

  static constexpr SinkhornChunks of(std::int64_t rows, std::int64_t K, Dtype dtype) {
    constexpr std::int64_t kMost = 256, kWarps = 8;
    const std::int64_t least = K <= sinkhorn_warp_columns(dtype) ? 2 * kWarps : kWarps;
    const std::int64_t even = (rows + kMost - 1) / kMost;
    const std::int64_t size = even > least ? even : least;
    return {size, (rows + size - 1) / size};
  }
};

// Scratch memory beside the arguments, of which `kept`, `workspace` and `threads` are not read, and
// results.potential is there: it holds g throughout. Working: float64 for float64, else float32.
struct SinkhornOnDevice {
  Sinkhorn in;
  void* partial;  // (2, P, most chunks, K) working: sums of columns; largest scores, the first time
  std::int64_t most_chunks;  // of n rows or of B
  // With a tolerance, else null.
  double* f;              // (P, n) log2
  double* moved;          // (P, n): how far f has, by chunks or, for long rows, by rows
  std::int32_t* settled;  // (2, P): whether to go on no more, after odd and after even iterations
  // Of rows longer than sinkhorn_block_columns, else null: v_k = 2^(log2(X_k e^g_k) - shift), Q_k =
  // v_k factor.
  void* shift;          // (P, n) working
  void* factor;         // (P, n) working
  std::int64_t* place;  // (P, n) of the largest element
  // With diagnostics, else null.
  double* row_entropy;  // (P, B)
};

namespace cpu {
std::int64_t sinkhorn_workspace(const Sinkhorn&);
void sinkhorn(const Sinkhorn&);
}  // namespace cpu

namespace cuda {
void sinkhorn(const SinkhornOnDevice&, const Launch&);
}  // namespace cuda

}  // namespace sslkern
