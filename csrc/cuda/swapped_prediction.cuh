// The kernels of swapped prediction; see contract/swapped_prediction.h for the formulas and
// letters, and cuda/assignment.cuh for teams.
//
// A team takes a row of the batch and a group of its views, all of them where there are rows
// enough. Its threads own columns, of all views alike: targets never leave them. Each view comes
// from memory once. Targets follow from the exponents of the assigned views and one sum of a row
// each: of at most two views, as many as SwAV assigns, the exponents of a row stay in shared memory
// if it has no more columns than the team holds at once; others are read again, with their
// potentials, from the first-level cache.
#pragma once
#include "contract/swapped_prediction.h"
#include "cuda/assignment.cuh"

namespace sslkern::cuda {

// Of a multiprocessor: as many as have registers for all that a row needs, which is what nvcc is
// told. Shared memory is enough for as many, but of sm_120 for two.
template <class E>
constexpr int kBlocksOfRows = sizeof(E) == 8 ? 2 : 3;

// What a block shares: of each assigned view's row how its exponentials become shares; the
// exponents of two, and then, in the place of the first, the sum of all targets, for the views that
// are not assigned. A thread reads of these what it wrote, 16 bytes in one request. Pieces of one
// vector lie apart: lanes that are neighbours meet neighbouring banks.
template <class E, int kTeam>
struct SharedTargets {
  using T = typename ElementOf<E>::Working;
  static constexpr int kColumns = kTeamColumns<E, kTeam>, kViews = 2;
  static constexpr int kPerPiece = kVectorBytes / int(sizeof(T)), kPieces = kVector<E> / kPerPiece;
  T shift[Team<kTeam>::kCount][kMostViewsOnDevice];
  T factor[Team<kTeam>::kCount][kMostViewsOnDevice];
  uint4 kept[Team<kTeam>::kCount][kViews][kPieces][kColumns / kVector<E>];
  T largest[kAssignWarps];
  double sums[kAssignWarps];
};

template <int kTeam>
SSLKERN_DEVICE void synchronize_team() {
  if (kTeam == 32) {
    __syncwarp();
  } else {
    __syncthreads();
  }
}

// What a team does: a row of the batch, and views [first_view, last_view).
template <class E, int kTeam>
struct SwappedRow {
  using T = typename ElementOf<E>::Working;
  using Shared = SharedTargets<E, kTeam>;
  static constexpr int kStep = kTeam * kVector<E>;

  const SwappedPredictionInput& in;
  const SwappedPredictionView* view;
  Shared& shared;
  std::int64_t b, groups, group;
  Team<kTeam> team;

  SSLKERN_DEVICE SwappedRow(const SwappedPredictionInput& in, const SwappedPredictionView* view,
                            std::int64_t groups, Shared& shared)
      : in(in), view(view), shared(shared), groups(groups), team(Team<kTeam>::here()) {
    const std::int64_t item = std::int64_t(blockIdx.x) * Team<kTeam>::kCount + team.number;
    b = item / groups;
    group = item % groups;
  }

  SSLKERN_DEVICE bool exists() const { return b < in.B; }
  SSLKERN_DEVICE std::int64_t first_view() const { return in.V * group / groups; }
  SSLKERN_DEVICE std::int64_t last_view() const { return in.V * (group + 1) / groups; }
  SSLKERN_DEVICE std::int64_t first_column() const {
    return std::int64_t(team.thread) * kVector<E>;
  }
  SSLKERN_DEVICE double targets_of(std::int64_t v) const {
    return double(v < in.A ? in.A - 1 : in.A);
  }
  SSLKERN_DEVICE const E* row_of(std::int64_t v) const {
    return static_cast<const E*>(view[v].scores) + b * view[v].stride;
  }
  SSLKERN_DEVICE RowReader<E> assigned(std::int64_t i) const {
    return {row_of(i), in.potential + i * in.K, in.K, T(kLog2E / in.epsilon), false};
  }

  // Whether shared memory has a row of sums, and of the exponents of all assigned views.
  SSLKERN_DEVICE bool fits() const { return in.K <= Shared::kColumns; }
  SSLKERN_DEVICE bool keeps_exponents() const { return fits() && in.A <= Shared::kViews; }

  SSLKERN_DEVICE void keep(std::int64_t i, std::int64_t k, const T (&x)[kVector<E>]) const {
#pragma unroll
    for (int piece = 0; piece < Shared::kPieces; ++piece) {
      uint4 words;
      memcpy(&words, x + piece * Shared::kPerPiece, kVectorBytes);
      shared.kept[team.number][i][piece][k / kVector<E>] = words;
    }
  }
  SSLKERN_DEVICE void recall(std::int64_t i, std::int64_t k, T (&x)[kVector<E>]) const {
#pragma unroll
    for (int piece = 0; piece < Shared::kPieces; ++piece) {
      const uint4 words = shared.kept[team.number][i][piece][k / kVector<E>];
      memcpy(x + piece * Shared::kPerPiece, &words, kVectorBytes);
    }
  }

  // The shift and factor of every assigned view.
  SSLKERN_DEVICE void assign() const {
    for (std::int64_t i = 0; i < in.A; ++i) {
      const RowReader<E> reader = assigned(i);
      OnlineRow<T> seen{Lowest<T>::value, 0};
      for (std::int64_t k = first_column(); k < in.K; k += kStep) {
        T x[kVector<E>];
        reader.read(k, x);
        if (keeps_exponents()) keep(i, k, x);
        seen.add(x);
      }
      seen = row_of_team<kTeam>(seen, shared.largest, shared.sums);
      if (team.thread == 0) {
        shared.shift[team.number][i] = seen.largest;
        shared.factor[team.number][i] = T(1 / seen.sum);
      }
    }
    synchronize_team<kTeam>();
  }

  // Q of the columns from k on: what view v is to predict.
  SSLKERN_DEVICE void add_targets(std::int64_t v, std::int64_t k, T (&sum)[kVector<E>]) const {
#pragma unroll
    for (int q = 0; q < kVector<E>; ++q) sum[q] = 0;
    for (std::int64_t i = 0; i < in.A; ++i) {
      if (i == v) continue;
      const T shift = shared.shift[team.number][i], factor = shared.factor[team.number][i];
      T x[kVector<E>];
      keeps_exponents() ? recall(i, k, x) : assigned(i).read(k, x);
#pragma unroll
      for (int q = 0; q < kVector<E>; ++q) sum[q] += power_of_two(x[q] - shift) * factor;
    }
  }

  // The same; from shared memory for all views that are not assigned but the first of them.
  SSLKERN_DEVICE void targets(std::int64_t v, std::int64_t k, T (&sum)[kVector<E>]) const {
    const bool is_shared = v >= in.A && fits();
    if (is_shared && v > in.A && v > first_view()) return recall(0, k, sum);
    add_targets(v, k, sum);
    if (is_shared) keep(0, k, sum);
  }

  // Scores of a view from k on; behind the last, ones that have no part in a softmax.
  SSLKERN_DEVICE void scores(const E* row, std::int64_t k, T (&z)[kVector<E>]) const {
    const Unpacked<E> score(load_of_row(row, k, in.K));
#pragma unroll
    for (int q = 0; q < kVector<E>; ++q) z[q] = k + q < in.K ? score.at[q] : T(-INFINITY);
  }
};

// Of a view's row, as far as a thread has seen it: sum of 2^(a (z - largest)), of q (largest - z)
// and of q. The loss is made of differences to a largest score: nothing in it cancels.
template <class T>
struct OnlinePrediction {
  T largest;
  double sum, distance, mass;

  template <int kCount>
  SSLKERN_DEVICE void add(const T (&z)[kCount], const T (&target)[kCount], T a) {
    T next = largest, part = 0, part_distance = 0, part_mass = 0;
#pragma unroll
    for (int q = 0; q < kCount; ++q) next = larger(next, z[q]);
#pragma unroll
    for (int q = 0; q < kCount; ++q) {
      const T below = next - z[q];
      part += power_of_two(-below * a);
      part_distance += target[q] == 0 ? T(0) : target[q] * below;  // 0 where both are excluded
      part_mass += target[q];
    }
    sum = sum * double(power_of_two((largest - next) * a)) + double(part);
    distance += (double(next) - double(largest)) * mass + double(part_distance);
    mass += double(part_mass);
    largest = next;
  }
};

// Grid (rows x groups / teams), block kAssignThreads, 33 to 41 KiB of shared memory. Per element of
// a view: its bytes once, one exponential, and for its targets at most one more for each assigned
// view; of an assigned view one more exponential, its bytes and 8 of a potential from a cache.
template <class E, int kTeam>
__global__ void __launch_bounds__(kAssignThreads, kBlocksOfRows<E>)
    swapped_prediction_fwd_kernel(SwappedPredictionLosses p) {
  using T = typename ElementOf<E>::Working;
  using Targets = SharedTargets<E, kTeam>;
  SSLKERN_SHARED(Targets, shared, [1]);
  const SwappedRow<E, kTeam> row(p.in, p.view, p.groups, shared[0]);
  if (!row.exists()) return;
  row.assign();
  const T a = T(kLog2E / p.in.temperature);
  for (std::int64_t v = row.first_view(); v < row.last_view(); ++v) {
    const E* const from = row.row_of(v);
    OnlinePrediction<T> own{Lowest<T>::value, 0, 0, 0};
    for (std::int64_t k = row.first_column(); k < p.in.K; k += row.kStep) {
      T z[kVector<E>], target[kVector<E>];
      row.scores(from, k, z);
      row.targets(v, k, target);
      own.add(z, target, a);
    }
    const T largest = largest_of_team<kTeam>(own.largest, shared[0].largest);
    const double rise = double(largest) - double(own.largest);
    const double sum = sum_of_team<kTeam>(
        own.sum * double(power_of_two((own.largest - largest) * a)), shared[0].sums);
    const double distance = sum_of_team<kTeam>(own.distance + rise * own.mass, shared[0].sums);
    if (row.team.thread > 0) continue;
    const double count = row.targets_of(v);
    p.row[row.b * p.in.V + v] = {double(largest), count / sum};
    p.row_loss[row.b * p.in.V + v] = count * log(sum) + distance / p.in.temperature;
  }
}

// The same grid. Per element of a view its bytes once and those of its gradient, and exponentials
// as above; a column's targets are in registers for all views that are not assigned.
template <class E, int kTeam>
__global__ void __launch_bounds__(kAssignThreads, kBlocksOfRows<E>)
    swapped_prediction_bwd_kernel(SwappedPredictionGradients p) {
  using T = typename ElementOf<E>::Working;
  using Targets = SharedTargets<E, kTeam>;
  SSLKERN_SHARED(Targets, shared, [1]);
  const SwappedRow<E, kTeam> row(p.in, p.view, p.groups, shared[0]);
  if (!row.exists()) return;
  row.assign();
  const SwappedPredictionInput& in = p.in;
  const T a = T(kLog2E / in.temperature);
  const T factor = T(*p.grad_loss * swapped_prediction_weight(in) / in.temperature);
  for (std::int64_t k = row.first_column(); k < in.K; k += row.kStep) {
    T target[kVector<E>];
    for (std::int64_t v = row.first_view(); v < row.last_view(); ++v) {
      if (v <= in.A || v == row.first_view()) row.add_targets(v, k, target);
      const SwappedPredictionRow softmax = p.row[row.b * in.V + v];
      const T largest = T(softmax.max), weight = T(softmax.weight);
      T z[kVector<E>];
      row.scores(row.row_of(v), k, z);
      E* const to = static_cast<E*>(p.grad_view[v]) + row.b * in.K;
      store_to_row(to, k, in.K, [&](int q) {
        return factor * (power_of_two((z[q] - largest) * a) * weight - target[q]);
      });
    }
  }
}

}  // namespace sslkern::cuda
