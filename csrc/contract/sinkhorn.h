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
// Source: Cuturi, "Sinkhorn Distances", 2013; with prototypes: Caron et al., "Unsupervised Learning
// of Visual Features by Contrasting Cluster Assignments", 2020.
#pragma once
#include <cstdint>

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
// none. Only for scores of float32 or float64, T > 0, without a queue, and apart from the scores.
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
  double epsilon;           // > 0; not read with probabilities
  double tolerance;         // stop when sum_b |exp(f_b before - f_b) - 1| is less; 0: never
  std::int64_t iterations;  // T >= 0
  Dtype dtype;
  bool probabilities;
  bool hard;  // the plan is 1 at the largest element of a row, the first of equal ones
  SinkhornKept kept;
  SinkhornResults results;
  void* workspace;  // sinkhorn_workspace() bytes
  int threads;      // > 0
};

namespace cpu {
std::int64_t sinkhorn_workspace(const Sinkhorn&);
void sinkhorn(const Sinkhorn&);
}  // namespace cpu

}  // namespace sslkern
