// The kernels of soft cross entropy; see contract/soft_cross_entropy.h for formulas and letters.
//
// Floor: the forward pass reads both matrices once, the backward pass reads them again and writes
// the gradient. A row comes by once: the largest elements are running ones, so nothing of a row is
// kept, in registers or elsewhere, and K has no limit. Per pair of elements and pass two powers and
// about 16 operations of the working type (one power with probabilities); in bfloat16, where that
// weighs most, half of what a multiprocessor can do while 4 bytes of either pass come from memory.
#pragma once
#include "contract/soft_cross_entropy.h"
#include "cuda/block.cuh"
#include "cuda/dtype.cuh"
#include "cuda/vector.cuh"
#include "math/functions.h"

namespace sslkern::cuda {

constexpr int kSoftThreads = 256, kSoftWarps = kSoftThreads / 32;
// Of a multiprocessor, at least: 128 registers for a thread, and 32 KiB of both matrices on their
// way.
constexpr int kSoftBlocks = 2;

// What a thread takes of a row at a time: vectors of 16 bytes, the next a whole team further, so
// that neighbours read adjacent memory. Rows that have no vectors, for they are not aligned, are
// read element by element by the same threads: an element is always added by the same thread at the
// same time, so results have the same bits wherever a matrix lies.
template <class E>
struct SoftStep {
  using T = typename ElementOf<E>::Working;
  static constexpr int kWidth = kVectorBytes / int(sizeof(E)), kVectors = 2;
  static constexpr int kElements = kWidth * kVectors;
  using Values = T[kElements];
};

// Where a thread works: kTeam threads, a warp or a block, share a piece of a row.
template <int kTeam>
struct SoftPlace {
  std::int64_t row, piece, pieces;
  int member;  // of the team

  static SSLKERN_DEVICE SoftPlace here() {
    constexpr int kTeams = kSoftThreads / kTeam;
    const int team = int(threadIdx.x) / kTeam;
    return {std::int64_t(blockIdx.x) * kTeams + team, std::int64_t(blockIdx.y),
            std::int64_t(gridDim.y), int(threadIdx.x) % kTeam};
  }
};

// The piece of a row that a team reads, step by step.
template <class E, int kTeam, bool kProbabilities, bool kAligned>
struct SoftPiece {
  using Step = SoftStep<E>;
  using T = typename Step::T;
  using Values = typename Step::Values;
  using V = Vector<E, Step::kWidth>;
  static constexpr int kStride = kTeam * Step::kWidth;  // between vectors of a thread

  const E *student, *teacher;
  const T* center;
  std::int64_t begin, end;  // of the piece
  int lead;                 // what other threads of the team read before this one

  SSLKERN_DEVICE SoftPiece(const SoftCrossEntropyInput& in, const SoftPlace<kTeam>& at)
      : student(static_cast<const E*>(in.student) + at.row * in.stride_student),
        teacher(static_cast<const E*>(in.teacher) + at.row * in.stride_teacher),
        center(static_cast<const T*>(in.center)) {
    constexpr std::int64_t kWhole = 16;  // a multiple of every width
    const std::int64_t size = ((in.K + at.pieces - 1) / at.pieces + kWhole - 1) / kWhole * kWhole;
    begin = at.piece * size;
    lead = at.member * Step::kWidth;
    end = min((at.piece + 1) * size, in.K);
  }

  // Calls f(first) for the steps of the team; vector q of a step begins at first + q kStride, which
  // may be behind the end.
  template <class F>
  SSLKERN_DEVICE void for_each_step(const F& f) const {
    for (std::int64_t base = begin; base < end; base += kStride * Step::kVectors) f(base + lead);
  }

  // What is behind the end adds nothing to any sum. All that comes from memory is asked for before
  // any of it is used.
  SSLKERN_DEVICE void read(std::int64_t first, Values& s, Values& u) const {
    const T nothing = kProbabilities ? T(0) : T(-INFINITY);
    if constexpr (kAligned) {
      V a[Step::kVectors], b[Step::kVectors];
#pragma unroll
      for (int q = 0; q < Step::kVectors; ++q) {
        const std::int64_t k = first + q * kStride;
        a[q] = filled_vector<V>(Rounded<E>::from(T(-INFINITY)));
        b[q] = filled_vector<V>(Rounded<E>::from(nothing));
        if (k < end) {
          a[q] = load_vector<V>(student + k);
          b[q] = load_vector<V>(teacher + k);
        }
      }
#pragma unroll
      for (int j = 0; j < Step::kElements; ++j) {
        s[j] = to_working(a[j / Step::kWidth].x[j % Step::kWidth]);
        u[j] = to_working(b[j / Step::kWidth].x[j % Step::kWidth]);
      }
    } else {
#pragma unroll
      for (int j = 0; j < Step::kElements; ++j) {
        const std::int64_t k = element(first, j);
        s[j] = k < end ? to_working(student[k]) : T(-INFINITY);
        u[j] = k < end ? to_working(teacher[k]) : nothing;
      }
    }
    if (!kProbabilities && center != nullptr) subtract_center(first, u);
  }

  SSLKERN_DEVICE void write(std::int64_t first, const Values& x, E* row) const {
    if constexpr (kAligned) {
#pragma unroll
      for (int q = 0; q < Step::kVectors; ++q) {
        V v;
#pragma unroll
        for (int i = 0; i < Step::kWidth; ++i) v.x[i] = Rounded<E>::from(x[q * Step::kWidth + i]);
        if (first + q * kStride < end) store_vector(v, row, first / Step::kWidth + q * kTeam);
      }
    } else {
#pragma unroll
      for (int j = 0; j < Step::kElements; ++j) {
        if (element(first, j) < end) row[element(first, j)] = Rounded<E>::from(x[j]);
      }
    }
  }

 private:
  SSLKERN_DEVICE std::int64_t element(std::int64_t first, int j) const {
    return first + j / Step::kWidth * kStride + j % Step::kWidth;
  }

  // The center is read by every row and stays in the second-level cache.
  SSLKERN_DEVICE void subtract_center(std::int64_t first, Values& u) const {
    constexpr int kCount = kVectorBytes / int(sizeof(T));
    using C = Vector<T, kCount>;
    if constexpr (kAligned) {
#pragma unroll
      for (int j = 0; j < Step::kElements; j += kCount) {
        const std::int64_t k = element(first, j);
        const C c = k < end ? load_vector<C>(center + k) : filled_vector<C>(T(0));
#pragma unroll
        for (int i = 0; i < kCount; ++i) u[j + i] -= c.x[i];
      }
    } else {
#pragma unroll
      for (int j = 0; j < Step::kElements; ++j) {
        const std::int64_t k = element(first, j);
        if (k < end) u[j] -= center[k];
      }
    }
  }
};

// The base 2 scales of the scores; b is of no use with probabilities.
struct SoftScales {
  double tau, a, b;

  explicit SSLKERN_DEVICE SoftScales(const SoftCrossEntropyInput& in)
      : tau(positive_or_nan(*in.student_temperature)),
        a(kLog2E / tau),
        b(in.probabilities ? 0 : kLog2E / positive_or_nan(*in.teacher_temperature)) {}
};

// 2^(scale (x - max)). The difference first: it is exact where it matters, while scale x may have
// lost all its digits.
template <class T>
SSLKERN_DEVICE T power_below(T x, T max, T scale) {
  return power_of_two((x - max) * scale);
}

// weight * distance, and 0 where the weight is 0 whatever the distance is. A NaN weight stays NaN.
template <class T>
SSLKERN_DEVICE T weighted(T weight, T distance) {
  return weight == 0 ? T(0) : weight * distance;
}

// SoftCrossEntropyPart of what was seen so far. NaN is passed over by the maxima and shows in the
// sums.
template <class T, bool kProbabilities>
struct SoftSums {
  T student_max, student_sum, teacher_max, teacher_sum, distance;

  static SSLKERN_DEVICE SoftSums nothing() {
    return {Lowest<T>::value, 0, kProbabilities ? T(0) : Lowest<T>::value, 0, 0};
  }
  static SSLKERN_DEVICE SoftSums of(const SoftCrossEntropyPart& x) {
    return {T(x.student_max), T(x.student_sum), T(x.teacher_max), T(x.teacher_sum), T(x.distance)};
  }
  SSLKERN_DEVICE SoftCrossEntropyPart part() const {
    return {double(student_max), double(student_sum), double(teacher_max), double(teacher_sum),
            double(distance)};
  }

  // A distance may be infinite: that of a class which the student excludes, and of which the
  // teacher may think nothing once its largest score is known.
  SSLKERN_DEVICE void raise(T student_to, T teacher_to, T a, T b) {
    student_sum *= power_below(student_max, student_to, a);
    distance += weighted(teacher_sum, student_to - student_max);
    student_max = student_to;
    if constexpr (!kProbabilities) {
      const T factor = power_below(teacher_max, teacher_to, b);
      teacher_sum *= factor;
      distance = weighted(factor, distance);
      teacher_max = teacher_to;
    }
  }

  template <int kCount>
  SSLKERN_DEVICE void add(const T (&s)[kCount], const T (&u)[kCount], T a, T b) {
    T student_to = student_max, teacher_to = teacher_max;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      student_to = larger(student_to, s[j]);
      if (!kProbabilities) teacher_to = larger(teacher_to, u[j]);
    }
    raise(student_to, teacher_to, a, b);
    T student = 0, teacher = 0, far = 0;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const T w = kProbabilities ? u[j] : power_below(u[j], teacher_max, b);
      student += power_below(s[j], student_max, a);
      teacher += w;
      far += weighted(w, student_max - s[j]);
    }
    student_sum += student;
    teacher_sum += teacher;
    distance += far;
  }

  SSLKERN_DEVICE void add(SoftSums other, T a, T b) {
    const T student_to = larger(student_max, other.student_max);
    const T teacher_to = larger(teacher_max, other.teacher_max);
    raise(student_to, teacher_to, a, b);
    other.raise(student_to, teacher_to, a, b);
    student_sum += other.student_sum;
    teacher_sum += other.teacher_sum;
    distance += other.distance;
  }

  // Of all lanes, in every lane.
  SSLKERN_DEVICE void merge_lanes(T a, T b) {
    raise(warp_max(student_max), kProbabilities ? T(0) : warp_max(teacher_max), a, b);
    student_sum = warp_sum(student_sum);
    teacher_sum = warp_sum(teacher_sum);
    distance = warp_sum(distance);
  }
};

// A row is done: its loss, and what the backward pass keeps.
template <class T, bool kProbabilities>
SSLKERN_DEVICE void finish_soft_row(const SoftCrossEntropySums& p, std::int64_t row, double tau,
                                    const SoftSums<double, kProbabilities>& x) {
  const double teacher_weight = kProbabilities ? 1 : 1 / x.teacher_sum;
  const double mass = kProbabilities ? x.teacher_sum : 1;
  const double entropy = mass * (math::log2(x.student_sum) * kLn2);
  static_cast<T*>(p.loss)[row] = T(entropy + x.distance * teacher_weight / tau);
  p.row[row] = {x.student_max, mass / x.student_sum, x.teacher_max, teacher_weight};
}

// Grid (rows, pieces of a row), block kSoftThreads of kTeam threads per piece. Threads add in the
// working type, at most 2^13 / kTeam elements each up to 2^23 classes; lanes are merged in it, too,
// warps and pieces in float64. A row in one piece is finished here.
template <class E, int kTeam, bool kProbabilities, bool kAligned>
__global__ void __launch_bounds__(kSoftThreads, kSoftBlocks)
    soft_cross_entropy_fwd_kernel(SoftCrossEntropySums p) {
  using T = typename ElementOf<E>::Working;
  using Piece = SoftPiece<E, kTeam, kProbabilities, kAligned>;
  const auto at = SoftPlace<kTeam>::here();
  const SoftScales scale(p.in);
  auto sums = SoftSums<T, kProbabilities>::nothing();
  if (at.row < p.in.N) {
    const Piece piece(p.in, at);
    piece.for_each_step([&](std::int64_t first) {
      typename Piece::Values s, u;
      piece.read(first, s, u);
      sums.add(s, u, T(scale.a), T(scale.b));
    });
  }
  sums.merge_lanes(T(scale.a), T(scale.b));
  auto whole = SoftSums<double, kProbabilities>::of(sums.part());
  if constexpr (kTeam == kSoftThreads) {
    SSLKERN_SHARED(SoftCrossEntropyPart, of_warps, [kSoftWarps]);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    if (lane == 0) of_warps[warp] = sums.part();
    __syncthreads();
    if (warp != 0) return;
    whole = SoftSums<double, kProbabilities>::nothing();
    if (lane < kSoftWarps) whole = SoftSums<double, kProbabilities>::of(of_warps[lane]);
    whole.merge_lanes(scale.a, scale.b);
  }
  if (at.member != 0 || at.row >= p.in.N) return;
  if (at.pieces == 1) {
    finish_soft_row<T>(p, at.row, scale.tau, whole);
  } else {
    p.part[at.row * at.pieces + at.piece] = whole.part();
  }
}

// Grid (rows / kSoftWarps), a warp per row: merges its pieces.
template <class T, bool kProbabilities>
__global__ void __launch_bounds__(kSoftThreads, kSoftBlocks)
    soft_cross_entropy_merge_kernel(SoftCrossEntropySums p, std::int64_t pieces) {
  const auto at = SoftPlace<32>::here();
  if (at.row >= p.in.N) return;
  const SoftScales scale(p.in);
  auto sums = SoftSums<double, kProbabilities>::nothing();
  for (std::int64_t piece = at.member; piece < pieces; piece += 32) {
    sums.add(SoftSums<double, kProbabilities>::of(p.part[at.row * pieces + piece]), scale.a,
             scale.b);
  }
  sums.merge_lanes(scale.a, scale.b);
  if (at.member == 0) finish_soft_row<T>(p, at.row, scale.tau, sums);
}

// Grid and block as in the forward pass. A thread adds its part of the slope in the working type,
// those of threads are added in float64.
template <class E, int kTeam, bool kProbabilities, bool kAligned>
__global__ void __launch_bounds__(kSoftThreads, kSoftBlocks)
    soft_cross_entropy_bwd_kernel(SoftCrossEntropyGradient p) {
  using T = typename ElementOf<E>::Working;
  using Piece = SoftPiece<E, kTeam, kProbabilities, kAligned>;
  const auto at = SoftPlace<kTeam>::here();
  T slope = 0;
  double outer = 0;  // g / tau
  if (at.row < p.in.N) {
    const SoftScales scale(p.in);
    const SoftCrossEntropyRow row = p.row[at.row];
    const Piece piece(p.in, at);
    outer = double(static_cast<const T*>(p.grad_loss)[at.row]) / scale.tau;
    const T a = T(scale.a), b = T(scale.b), factor = T(outer);
    const T student_max = T(row.student_max), student_weight = T(row.student_weight);
    const T teacher_max = T(row.teacher_max), teacher_weight = T(row.teacher_weight);
    E* to = static_cast<E*>(p.grad_student) + at.row * p.in.K;
    piece.for_each_step([&](std::int64_t first) {
      typename Piece::Values s, u;
      piece.read(first, s, u);
#pragma unroll
      for (int j = 0; j < Piece::Step::kElements; ++j) {
        const T q = kProbabilities ? u[j] : power_below(u[j], teacher_max, b) * teacher_weight;
        const T gradient = power_below(s[j], student_max, a) * student_weight - q;
        slope += weighted(gradient, s[j] - student_max);
        s[j] = gradient * factor;
      }
      piece.write(first, s, to);
    });
  }
  if (p.row_slope == nullptr) return;
  double total = double(slope);
  if constexpr (kTeam == kSoftThreads) {
    SSLKERN_SHARED(double, scratch, [kSoftWarps]);
    total = block_reduce<kSoftThreads>(total, 0.0, scratch, [](double x) { return warp_sum(x); });
  } else {
    total = warp_sum(total);
  }
  if (at.member == 0 && at.row < p.in.N) {
    p.row_slope[at.row * at.pieces + at.piece] = total * outer;
  }
}

}  // namespace sslkern::cuda
