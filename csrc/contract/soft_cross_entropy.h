// Cross entropy of rows of scores against soft targets: another network's softmax of the same
// classes, or rows of probabilities as they are.
//
//   u_ik   = t_ik - c_k                                t: scores of the teacher, c: center, or 0
//   q_ik   = exp(u_ik / tau_t) / sum_l exp(u_il / tau_t), or t_ik with probabilities
//   m_i    = sum_k q_ik                                1, or any mass with probabilities
//   lse_i  = log sum_k exp(s_ik / tau)                 s: scores of the student
//   loss_i = m_i lse_i - sum_k q_ik s_ik / tau         where q_ik = 0, s_ik may be -infinity
//
// With the upstream gradient g_i and p_ik = exp(s_ik / tau - lse_i):
//
//   grad_s_ik = (g_i / tau) (m_i p_ik - q_ik)
//   grad_tau  = -(1 / tau^2) sum_ik g_i (m_i p_ik - q_ik) s_ik
//
// The kernels take differences to the largest element of a row before anything else, so scores of
// any size and low temperatures cost no digits, with a = 1 / (tau ln 2), b = 1 / (tau_t ln 2):
//
//   S_i = sum_k 2^(a (s_ik - max s_i)),    Q_i = sum_k 2^(b (u_ik - max u_i))
//   loss_i = m_i log S_i + sum_k q_ik (max s_i - s_ik) / tau
//
// Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021; with
// temperatures alone: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.
#pragma once
#include <cstdint>

#include "contract/cuda.h"
#include "contract/types.h"

namespace sslkern {

// What both directions of differentiation read.
struct SoftCrossEntropyInput {
  const void* student;          // (N, K) of dtype, rows stride_student apart, columns adjacent
  const void* teacher;          // (N, K) of dtype, rows stride_teacher apart, columns adjacent
  std::int64_t stride_student;  // elements
  std::int64_t stride_teacher;  // elements
  std::int64_t N, K;            // > 0
  const void* center;           // (K) float64 for float64, else float32; null: none.
                                // Not with probabilities
  const double* student_temperature;  // scalar, > 0
  const double* teacher_temperature;  // scalar, > 0; null with probabilities
  Dtype dtype;
  bool probabilities;
};

// What the backward pass keeps of a row: p_ik m_i = 2^(a (s_ik - student_max)) student_weight and
// q_ik = 2^(b (u_ik - teacher_max)) teacher_weight.
struct SoftCrossEntropyRow {
  double student_max;     // max s_i
  double student_weight;  // m_i / S_i
  double teacher_max;     // max u_i; 0 with probabilities
  double teacher_weight;  // 1 / Q_i; 1 with probabilities
};

struct SoftCrossEntropyFwd {
  SoftCrossEntropyInput in;
  void* loss;                // (N) float64 for float64, else float32
  SoftCrossEntropyRow* row;  // (N)
  int threads;               // > 0
};

struct SoftCrossEntropyBwd {
  SoftCrossEntropyInput in;
  const SoftCrossEntropyRow* row;  // (N) from the forward pass
  const void* grad_loss;           // (N) float64 for float64, else float32
  void* grad_student;              // (N, K) of dtype, contiguous
  double* row_slope;               // (N) scratch, and
  double* grad_temperature;        // (1); both null if not wanted
  int threads;                     // > 0
};

// ---- CUDA: a row belongs to a warp, or its pieces to a block each. How it is cut depends on K
// alone, and so does every bit of what comes of it.

constexpr std::int64_t kSoftTargetsOfWarp = 1024;  // a row up to here is a warp's
constexpr std::int64_t kSoftTargetsOfBlock = 8192;
constexpr std::int64_t kMostSoftTargetPieces = 1024;

constexpr std::int64_t soft_target_pieces(std::int64_t K) {
  const std::int64_t pieces = (K + kSoftTargetsOfBlock - 1) / kSoftTargetsOfBlock;
  return pieces < kMostSoftTargetPieces ? pieces : kMostSoftTargetPieces;
}

// The sums of the contract over a piece of a row, relative to its largest elements.
struct SoftCrossEntropyPart {
  double student_max;  // max s_i, and
  double student_sum;  // S_i
  double teacher_max;  // max u_i; 0 with probabilities
  double teacher_sum;  // Q_i, or m_i with probabilities
  double distance;     // of terms of teacher_sum, each times max s_i - s_ik
};

struct SoftCrossEntropySums {
  SoftCrossEntropyInput in;
  SoftCrossEntropyPart* part;  // (N, pieces), null for one piece
  void* loss;                  // (N) float64 for float64, else float32
  SoftCrossEntropyRow* row;    // (N)
};

// With row_slope: partial sums whose total is -grad_tau tau.
struct SoftCrossEntropyGradient {
  SoftCrossEntropyInput in;
  const SoftCrossEntropyRow* row;  // (N) of SoftCrossEntropySums
  const void* grad_loss;           // (N) float64 for float64, else float32
  void* grad_student;              // (N, K) of dtype, contiguous
  double* row_slope;               // (N, pieces), null if not wanted
};

namespace cpu {
void soft_cross_entropy_fwd(const SoftCrossEntropyFwd&);
void soft_cross_entropy_bwd(const SoftCrossEntropyBwd&);
}  // namespace cpu

namespace cuda {
void soft_cross_entropy_fwd(const SoftCrossEntropySums&, const Launch&);
void soft_cross_entropy_bwd(const SoftCrossEntropyGradient&, const Launch&);
}  // namespace cuda

}  // namespace sslkern
