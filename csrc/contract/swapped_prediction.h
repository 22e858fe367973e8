// Swapped prediction (SwAV): each of V views predicts how Sinkhorn-Knopp assigned the others. The
// first A views are assigned, with the potentials g_i of their prototypes (contract/sinkhorn.h).
//
//   q_ibk = exp(z_ibk / epsilon + g_ik) / sum_l exp(z_ibl / epsilon + g_il)       i < A, a constant
//   Q_vb  = sum_{i < A, i != v} q_ib,     n_v = how many that are
//   lse_vb = log sum_k exp(z_vbk / tau)
//   loss  = w sum_v sum_b [n_v lse_vb - <Q_vb, z_vb> / tau],     w = 1 / (A (V - 1) B)
//
// The cross entropy is linear in its targets: each view meets all its targets at once, with one
// log-sum-exp. With the upstream gradient g:
//
//   grad_z_vbk = (g w / tau) (n_v softmax(z_vb / tau)_k - Q_vbk)
//
// Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster
// Assignments", 2020.
#pragma once
#include <cstdint>

#include "contract/cuda.h"
#include "contract/types.h"

namespace sslkern {

struct SwappedPredictionView {
  const void* scores;   // (B, K) of dtype, columns adjacent
  std::int64_t stride;  // elements
};

struct SwappedPredictionInput {
  const SwappedPredictionView* view;  // (V), those that are assigned first
  const double* potential;            // (A, K) g
  std::int64_t V, A, B, K;            // > 0, A <= V, V > 1
  double temperature;                 // > 0, tau
  double epsilon;                     // > 0
  Dtype dtype;
};

// What the backward pass keeps of a row of a view: n_v softmax(z / tau) = 2^(a (z - max)) weight
// with a = 1 / (tau ln 2).
struct SwappedPredictionRow {
  double max, weight;
};

// What the size of the workspace depends on.
struct SwappedPredictionWorkspace {
  SwappedPredictionInput in;
  int threads;  // > 0
};

struct SwappedPredictionFwd {
  SwappedPredictionInput in;
  SwappedPredictionRow* row;  // (B, V)
  double* row_loss;           // (B) scratch
  void* loss;                 // (1) float64 for float64, else float32
  void* workspace;            // swapped_prediction_workspace() bytes
  int threads;                // > 0
};

struct SwappedPredictionBwd {
  SwappedPredictionInput in;
  const SwappedPredictionRow* row;  // (B, V) from the forward pass
  const double* grad_loss;          // scalar
  void* const* grad_view;           // (V) of (B, K) of dtype, contiguous
  void* workspace;                  // swapped_prediction_workspace() bytes
  int threads;                      // > 0
};

// w, the share of one target of one row in the loss.
constexpr double swapped_prediction_weight(const SwappedPredictionInput& in) {
  return 1.0 / (double(in.A) * double(in.V - 1) * double(in.B));
}

// ---- CUDA: where the views are goes to the kernels by value. `view` of the input is not read.

constexpr int kMostViewsOnDevice = 64;

// Views of a row are dealt to so many teams: all to one, unless there are few rows.
constexpr std::int64_t swapped_prediction_groups(const SwappedPredictionInput& in) {
  constexpr std::int64_t kRows = 512;
  const std::int64_t groups = kRows / in.B;
  return groups < 1 ? 1 : groups < in.V ? groups : in.V;
}

struct SwappedPredictionLosses {
  SwappedPredictionInput in;
  SwappedPredictionView view[kMostViewsOnDevice];
  std::int64_t groups;
  SwappedPredictionRow* row;  // (B, V)
  double* row_loss;           // (B, V), in units of w
};

struct SwappedPredictionGradients {
  SwappedPredictionInput in;
  SwappedPredictionView view[kMostViewsOnDevice];
  std::int64_t groups;
  const SwappedPredictionRow* row;  // (B, V) from the forward pass
  const double* grad_loss;          // scalar
  void* grad_view[kMostViewsOnDevice];
};

namespace cpu {
std::int64_t swapped_prediction_workspace(const SwappedPredictionWorkspace&);
void swapped_prediction_fwd(const SwappedPredictionFwd&);
void swapped_prediction_bwd(const SwappedPredictionBwd&);
}  // namespace cpu

namespace cuda {
void swapped_prediction_fwd(const SwappedPredictionLosses&, const Launch&);
void swapped_prediction_bwd(const SwappedPredictionGradients&, const Launch&);
}  // namespace cuda

}  // namespace sslkern
