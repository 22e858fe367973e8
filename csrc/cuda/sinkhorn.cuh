// The kernels of Sinkhorn-Knopp; see contract/sinkhorn.h for the formulas and letters, and
// cuda/assignment.cuh for teams and what their threads own.
//
// B K elements are read T + 1 times, the plan is written once. An iteration is one pass: a row gets
// its f from the g before it, and what it then assigns is added to the sums for the next g, in the
// registers that own the columns. Rows longer than a block's registers are read twice a pass.
//
// Sums are relative to a largest element: of its column the first time, of its row from then on,
// when no row gives a prototype more than its own mass. They are finite at any epsilon, and of the
// working type within a chunk, float64 across chunks; potentials are float64.
#pragma once
#include "contract/sinkhorn.h"
#include "cuda/assignment.cuh"

namespace sslkern::cuda {

// ---- a problem, as a block sees it

// Rows of the batch, then of the queue.
template <class E>
struct DeviceRows {
  const E *scores, *queue;
  std::int64_t stride, stride_queue, B, n;
  const double* weight;

  // All rows, or with unit masses those of the batch alone.
  SSLKERN_DEVICE DeviceRows(const Sinkhorn& p, std::int64_t problem, bool batch_alone)
      : scores(static_cast<const E*>(p.scores.data) + problem * p.scores.stride_problem),
        queue(static_cast<const E*>(p.queue.data) + problem * p.queue.stride_problem),
        stride(p.scores.stride_row),
        stride_queue(p.queue.stride_row),
        B(p.B),
        n(batch_alone ? p.B : p.B + p.L),
        weight(p.weight == nullptr || batch_alone ? nullptr : p.weight + problem * n) {}

  SSLKERN_DEVICE const E* row(std::int64_t i) const {
    return i < B ? scores + i * stride : queue + (i - B) * stride_queue;
  }
  // Weights times n: 1 where all are equal. Rows without are left out of all sums, whatever they
  // hold.
  SSLKERN_DEVICE double mass(std::int64_t i) const {
    return weight == nullptr ? 1 : weight[i] * double(n);
  }
};

// The rows of a block.
struct Chunk {
  std::int64_t problem, number, begin, end;

  static SSLKERN_DEVICE Chunk of(std::int64_t block, const SinkhornChunks& chunks,
                                 std::int64_t rows) {
    const std::int64_t problem = block / chunks.count, number = block % chunks.count;
    const std::int64_t begin = number * chunks.size, end = begin + chunks.size;
    return {problem, number, begin, end < rows ? end : rows};
  }
};

// What f is, and how far it has moved, which is 0 before the first time.
SSLKERN_DEVICE double move_potential(double* f, double next, std::int64_t turn) {
  const double before = turn == 1 ? 0 : *f;
  *f = next;
  return fabs(exp2(before - next) - 1);
}

// f, log2, and whether it is finite.
template <class T>
SSLKERN_DEVICE double potential_of(const RowSum<T>& row) {
  return -(double(row.shift) + log2(double(row.sum)));
}
template <class T>
SSLKERN_DEVICE bool is_finite(const RowSum<T>& row) {
  return row.sum > 0 && row.sum < T(INFINITY) && row.shift < T(INFINITY);
}

// The mass that a prototype is to get, in the unit of those of the rows.
SSLKERN_DEVICE double wanted_mass(const Sinkhorn& p, std::int64_t problem, std::int64_t k,
                                  std::int64_t rows) {
  const double share = p.marginal == nullptr ? 1.0 / double(p.K) : p.marginal[problem * p.K + k];
  return share * double(rows);
}

// g_k from what k should get over what it got: infinity or NaN where that is nothing. The first
// time that is what it would get of X, over the exponential of the largest score.
template <class T>
SSLKERN_DEVICE double next_potential(const Sinkhorn& p, std::int64_t problem, std::int64_t k,
                                     std::int64_t turn, T largest, double got) {
  const double ratio = log2(wanted_mass(p, problem, k, p.B + p.L) / got);
  if (turn > 0) return p.results.potential[problem * p.K + k] + ratio * kLn2;
  const double shift = p.probabilities ? 0 : double(T(kLog2E / p.epsilon)) * double(largest);
  return (ratio - shift) * kLn2;
}

// Sums of columns of all teams of a block, and in the first iteration their largest scores.
template <class E, int kTeam>
struct TeamSums {
  using T = typename ElementOf<E>::Working;
  static constexpr int kWidth = kTeamColumns<E, kTeam>, kTotal = kWidth * Team<kTeam>::kCount;
  T* sums;     // (teams, kWidth) in shared memory
  T* largest;  // likewise

  SSLKERN_DEVICE static void write(T* area, const Items<E>& items,
                                   const Columns<E, kTeam>& columns) {
    const Team<kTeam> team = Team<kTeam>::here();
    T* const to = area + team.number * kWidth;
    columns.for_slots([&](int i) {
#pragma unroll
      for (int q = 0; q < kVector<E>; ++q) {
        to[(i * kTeam + team.thread) * kVector<E> + q] = items[i * kVector<E> + q];
      }
    });
  }

  // Of all teams in their order.
  SSLKERN_DEVICE T total(int column) const {
    T total = 0;
    for (int t = 0; t < Team<kTeam>::kCount; ++t) total += sums[t * kWidth + column];
    return total;
  }
  SSLKERN_DEVICE T largest_of_all(int column) const {
    T best = Lowest<T>::value;
    for (int t = 0; t < Team<kTeam>::kCount; ++t) best = larger(best, largest[t * kWidth + column]);
    return best;
  }
  SSLKERN_DEVICE T total_from(int column, T best, T a) const {
    T total = 0;
    for (int t = 0; t < Team<kTeam>::kCount; ++t) {
      const int at = t * kWidth + column;
      total += sums[at] * power_of_two((largest[at] - best) * a);
    }
    return total;
  }
};

// ---- what a team does with its rows

// Sums of columns of X, relative to their largest scores.
template <class E, int kTeam>
SSLKERN_DEVICE void add_first(const DeviceRows<E>& rows, const Chunk& chunk,
                              const Columns<E, kTeam>& columns, Items<E>& sums, Items<E>& largest) {
  using T = typename ElementOf<E>::Working;
  const Team<kTeam> team = Team<kTeam>::here();
#pragma unroll
  for (int item = 0; item < kItems<E>; ++item) {
    sums[item] = 0;
    largest[item] = columns.linear ? T(0) : Lowest<T>::value;
  }
  for (std::int64_t i = chunk.begin + team.number; i < chunk.end; i += team.kCount) {
    const T mass = T(rows.mass(i));
    if (!(mass > 0)) continue;
    RawRow<E> row;
    row.load(rows.row(i), columns);
    columns.for_slots([&](int slot) {
      const Unpacked<E> score(row.slot[slot]);
#pragma unroll
      for (int q = 0; q < kVector<E>; ++q) {
        const int item = slot * kVector<E> + q;
        const T s = score.at[q];
        if (columns.linear) {
          sums[item] += mass * probability(s);
        } else {
          // One of the two is the largest, and its power 1.
          const T power = power_of_two(-fabs((s - largest[item]) * columns.a));
          const bool rises = s > largest[item];
          sums[item] = rises ? sums[item] * power + mass : sums[item] + mass * power;
          largest[item] = rises ? s : largest[item];
        }
      }
    });
  }
}

// What the rows assign, added up in `sums`; f where there is a tolerance. Returns how far the f of
// this thread's rows have moved. The next row is on its way while one is worked on.
template <class E, int kTeam>
SSLKERN_DEVICE double add_assigned(const DeviceRows<E>& rows, const Chunk& chunk,
                                   const Columns<E, kTeam>& columns, double* f, std::int64_t turn,
                                   typename ElementOf<E>::Working* scratch, Items<E>& sums) {
  using T = typename ElementOf<E>::Working;
  const Team<kTeam> team = Team<kTeam>::here();
  double moved = 0;
  int parity = 0;
#pragma unroll
  for (int item = 0; item < kItems<E>; ++item) sums[item] = 0;
  RawRow<E> next{};
  std::int64_t i = chunk.begin + team.number;
  if (i < chunk.end) next.load(rows.row(i), columns);
  for (; i < chunk.end; i += team.kCount) {
    const RawRow<E> row = next;
    if (i + team.kCount < chunk.end) next.load(rows.row(i + team.kCount), columns);
    const double mass = rows.mass(i);
    if (!(mass > 0)) continue;
    Items<E> v;
    const RowSum<T> sum = assign_row(row, columns, v, scratch, parity);
    parity ^= 1;
    const T factor = sum.rescale * (T(mass) / sum.sum);
    columns.for_slots([&](int slot) {
#pragma unroll
      for (int q = 0; q < kVector<E>; ++q) {
        sums[slot * kVector<E> + q] += v[slot * kVector<E> + q] * factor;
      }
    });
    if (f != nullptr && team.thread == 0) {
      moved += move_potential(f + i, potential_of(sum), turn);
    }
  }
  return moved;
}

// ---- many blocks

// What the launches of one call differ in.
struct SinkhornStep {
  SinkhornOnDevice d;
  std::int64_t turn;  // iterations that are done
  bool batch_alone;   // with unit masses: for the usage
  SinkhornChunks chunks;
};

SSLKERN_DEVICE std::int32_t* settled_flag(const SinkhornOnDevice& d, std::int64_t problem,
                                          std::int64_t turn) {
  return d.settled + turn % 2 * d.in.P + problem;
}
SSLKERN_DEVICE bool has_settled_before(const SinkhornOnDevice& d, std::int64_t problem,
                                       std::int64_t turn) {
  return d.settled != nullptr && turn > 1 && *settled_flag(d, problem, turn - 1) != 0;
}

// Of a chunk's partial sums, and of largest scores behind all of them.
template <class T>
SSLKERN_DEVICE T* partial_sums(const SinkhornOnDevice& d, std::int64_t problem, std::int64_t chunk,
                               bool largest) {
  const std::int64_t part = (largest ? d.in.P : 0) + problem;
  return static_cast<T*>(d.partial) + (part * d.most_chunks + chunk) * d.in.K;
}

// Grid (P chunks, segments of a row), block kAssignThreads, 32 KiB of shared memory: the sums of
// teams. Thread: its columns, of the rows that its team takes in turn. Per element: one
// exponential, five operations, its bytes once.
template <class E, int kTeam>
__global__ void __launch_bounds__(kAssignThreads, 2) sinkhorn_first_kernel(SinkhornStep p) {
  using T = typename ElementOf<E>::Working;
  using Sums = TeamSums<E, kTeam>;
  SSLKERN_SHARED(T, area, [2 * Sums::kTotal]);
  const Sinkhorn& in = p.d.in;
  const Chunk chunk = Chunk::of(blockIdx.x, p.chunks, in.B + in.L);
  const DeviceRows<E> rows(in, chunk.problem, false);
  const std::int64_t first = std::int64_t(blockIdx.y) * Sums::kWidth;
  const Columns<E, kTeam> columns(in.epsilon, in.probabilities, first, in.K);
  const Sums all{area, area + Sums::kTotal};
  Items<E> sums, largest;
  add_first(rows, chunk, columns, sums, largest);
  Sums::write(all.sums, sums, columns);
  Sums::write(all.largest, largest, columns);
  __syncthreads();
  T* const sums_to = partial_sums<T>(p.d, chunk.problem, chunk.number, false) + first;
  T* const largest_to = partial_sums<T>(p.d, chunk.problem, chunk.number, true) + first;
  for (int k = int(threadIdx.x); k < Sums::kWidth && first + k < in.K; k += kAssignThreads) {
    const T best = all.largest_of_all(k);
    sums_to[k] = in.probabilities ? all.total(k) : all.total_from(k, best, columns.a);
    largest_to[k] = best;
  }
}

// Grid (P chunks), block kAssignThreads, 16 KiB of shared memory. Thread: its columns, of the rows
// that its team takes in turn. Per element: one exponential, six operations, its bytes once; per
// row of a block one barrier, of a warp ten shuffles.
template <class E, int kTeam>
__global__ void __launch_bounds__(kAssignThreads, 2) sinkhorn_pass_kernel(SinkhornStep p) {
  using T = typename ElementOf<E>::Working;
  using Sums = TeamSums<E, kTeam>;
  SSLKERN_SHARED(T, area, [Sums::kTotal]);
  SSLKERN_SHARED(T, scratch, [4 * kAssignWarps]);
  SSLKERN_SHARED(double, moved_scratch, [kAssignWarps]);
  const Sinkhorn& in = p.d.in;
  const std::int64_t n = in.B + in.L;
  const Chunk chunk = Chunk::of(blockIdx.x, p.chunks, p.batch_alone ? in.B : n);
  if (!p.batch_alone && has_settled_before(p.d, chunk.problem, p.turn)) return;
  const DeviceRows<E> rows(in, chunk.problem, p.batch_alone);
  Columns<E, kTeam> columns(in.epsilon, in.probabilities, 0, in.K);
  columns.load(in.results.potential + chunk.problem * in.K);
  double* const f = p.d.f == nullptr || p.batch_alone ? nullptr : p.d.f + chunk.problem * n;
  Items<E> sums;
  double moved = add_assigned(rows, chunk, columns, f, p.turn, scratch, sums);
  Sums::write(area, sums, columns);
  __syncthreads();
  const Sums all{area, nullptr};
  T* const to = partial_sums<T>(p.d, chunk.problem, chunk.number, false);
  for (int k = int(threadIdx.x); k < in.K; k += kAssignThreads) to[k] = all.total(k);
  if (f == nullptr) return;
  moved =
      block_reduce<kAssignThreads>(moved, 0.0, moved_scratch, [](double x) { return warp_sum(x); });
  if (threadIdx.x == 0) p.d.moved[chunk.problem * n + chunk.number] = moved;
}

// ---- merging

constexpr int kMergeColumns = 32, kMergeGroups = kAssignThreads / kMergeColumns;

// Of the chunks of a column, in their order: those of one group of threads after the other.
SSLKERN_DEVICE double sum_of_groups(double x, double* scratch) {
  const int column = int(threadIdx.x) % kMergeColumns, group = int(threadIdx.x) / kMergeColumns;
  scratch[group * kMergeColumns + column] = x;
  __syncthreads();
  double total = 0;
#pragma unroll
  for (int g = 0; g < kMergeGroups; ++g) total += scratch[g * kMergeColumns + column];
  return total;
}

template <class T>
SSLKERN_DEVICE T largest_of_groups(T x, T* scratch) {
  const int column = int(threadIdx.x) % kMergeColumns, group = int(threadIdx.x) / kMergeColumns;
  scratch[group * kMergeColumns + column] = x;
  __syncthreads();
  T best = scratch[column];
#pragma unroll
  for (int g = 1; g < kMergeGroups; ++g) best = larger(best, scratch[g * kMergeColumns + column]);
  return best;
}

// A block's columns: 32 of one problem, eight groups of threads for each.
struct MergeColumns {
  std::int64_t problem, block, k;
  int group;

  static SSLKERN_DEVICE MergeColumns here(std::int64_t K) {
    const std::int64_t blocks = (K + kMergeColumns - 1) / kMergeColumns;
    const std::int64_t block = blockIdx.x % blocks;
    return {blockIdx.x / blocks, block, block * kMergeColumns + threadIdx.x % kMergeColumns,
            int(threadIdx.x) / kMergeColumns};
  }
};

// Whether the sum of what `count` chunks or rows have moved is below the tolerance, for all
// threads. Every block adds up the same numbers in the same order.
SSLKERN_DEVICE bool settles(const SinkhornOnDevice& d, std::int64_t problem, std::int64_t count,
                            double* scratch, int* shared_answer) {
  const double* const moved = d.moved + problem * (d.in.B + d.in.L);
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += kAssignThreads) sum += moved[i];
  sum = block_reduce<kAssignThreads>(sum, 0.0, scratch, [](double x) { return warp_sum(x); });
  if (threadIdx.x == 0) *shared_answer = sum < d.in.tolerance;
  __syncthreads();
  return *shared_answer != 0;
}

// Grid (P blocks of 32 prototypes), block kAssignThreads. Reads the chunks' sums, most_chunks / n
// of what a pass reads, from the second-level cache.
template <class T>
__global__ void __launch_bounds__(kAssignThreads) sinkhorn_potentials_kernel(SinkhornStep p) {
  SSLKERN_SHARED(double, scratch, [kAssignThreads]);
  SSLKERN_SHARED(T, largest_scratch, [kAssignThreads]);
  SSLKERN_SHARED(double, moved_scratch, [kAssignWarps]);
  SSLKERN_SHARED(int, answer, [1]);
  const Sinkhorn& in = p.d.in;
  const MergeColumns at = MergeColumns::here(in.K);
  if (p.turn > 0 && p.d.settled != nullptr) {
    const std::int64_t moves = p.d.shift == nullptr ? p.chunks.count : in.B + in.L;
    const bool before = has_settled_before(p.d, at.problem, p.turn);
    const bool settled = before || settles(p.d, at.problem, moves, moved_scratch, answer);
    if (at.block == 0 && threadIdx.x == 0) *settled_flag(p.d, at.problem, p.turn) = settled;
    if (settled) return;
  }
  const bool exists = at.k < in.K, first = p.turn == 0 && !in.probabilities;
  T best = Lowest<T>::value;
  if (first) {
    for (std::int64_t c = at.group; exists && c < p.chunks.count; c += kMergeGroups) {
      best = larger(best, partial_sums<T>(p.d, at.problem, c, true)[at.k]);
    }
    best = largest_of_groups(best, largest_scratch);
  }
  const T a = T(kLog2E / in.epsilon);
  double got = 0;
  for (std::int64_t c = at.group; exists && c < p.chunks.count; c += kMergeGroups) {
    T sum = partial_sums<T>(p.d, at.problem, c, false)[at.k];
    if (first) sum *= power_of_two((partial_sums<T>(p.d, at.problem, c, true)[at.k] - best) * a);
    got += double(sum);
  }
  got = sum_of_groups(got, scratch);
  if (!exists || at.group > 0) return;
  in.results.potential[at.problem * in.K + at.k] =
      next_potential(in, at.problem, at.k, p.turn, best, got);
}

// A thread per prototype and problem: g before an iteration.
__global__ void __launch_bounds__(kAssignThreads) sinkhorn_start_kernel(SinkhornOnDevice d) {
  const std::int64_t i = std::int64_t(blockIdx.x) * kAssignThreads + threadIdx.x;
  if (i >= d.in.P * d.in.K) return;
  d.in.results.potential[i] = d.in.start == nullptr ? 0 : d.in.start[i];
}

// ---- the plan

template <class T>
constexpr T kLeastNormal = T(sizeof(T) == 8 ? 2.2250738585072014e-308 : 1.1754943508222875e-38);

// -Q log2 Q. What is below the normal numbers counts as nothing: to the logarithm it is zero.
template <class T>
SSLKERN_DEVICE T bits_of(T q) {
  return q < kLeastNormal<T> ? T(0) : -q * log2_of(q);
}

template <class E>
SSLKERN_DEVICE E* plan_row(const SinkhornResults& out, std::int64_t problem, std::int64_t i) {
  return static_cast<E*>(out.plan) + problem * out.stride_plan_problem + i * out.stride_plan_row;
}

// Of a hard plan. Where f is not finite the row is not either.
template <class T>
SSLKERN_DEVICE T chosen(bool finite, bool here) {
  return finite ? T(here) : T(NAN);
}

// Shared memory of assign_rows, beside that of a row's sums.
template <class T>
struct PlanScratch {
  double bits[kAssignWarps];
  Choice<T> choice[kAssignWarps];
};

// What is asked for of the rows of a chunk of the batch, each row read whole before it is written.
template <class E, int kTeam>
SSLKERN_DEVICE void assign_rows(const SinkhornOnDevice& d, const DeviceRows<E>& rows,
                                const Chunk& chunk, const Columns<E, kTeam>& columns,
                                typename ElementOf<E>::Working* scratch,
                                PlanScratch<typename ElementOf<E>::Working>& more) {
  using T = typename ElementOf<E>::Working;
  const Sinkhorn& in = d.in;
  const SinkhornResults& out = in.results;
  const Team<kTeam> team = Team<kTeam>::here();
  int parity = 0;
  for (std::int64_t i = chunk.begin + team.number; i < chunk.end; i += team.kCount) {
    RawRow<E> row;
    row.load(rows.row(i), columns);
    Items<E> v;
    const RowSum<T> sum = assign_row(row, columns, v, scratch, parity);
    parity ^= 1;
    const T factor = sum.rescale / sum.sum;
    const std::int64_t index = chunk.problem * in.B + i;
    if (out.row_potential != nullptr && team.thread == 0) {
      out.row_potential[index] = potential_of(sum) * kLn2;
    }
    if (d.row_entropy != nullptr) {
      T bits = 0;
      columns.for_slots([&](int slot) {
#pragma unroll
        for (int q = 0; q < kVector<E>; ++q) bits += bits_of(v[slot * kVector<E> + q] * factor);
      });
      const double total = sum_of_team<kTeam>(double(bits), more.bits);
      if (team.thread == 0) d.row_entropy[index] = total * kLn2;
    }
    if (out.plan == nullptr) continue;
    E* const to = plan_row<E>(out, chunk.problem, i);
    if (!in.hard) {
      columns.for_slots([&](int slot) {
        store_to_row(to, columns.column(slot), in.K,
                     [&](int q) { return v[slot * kVector<E> + q] * factor; });
      });
      continue;
    }
    const bool finite = is_finite(sum);
    Choice<T> best{T(-1), in.K};
    columns.for_slots([&](int slot) {
#pragma unroll
      for (int q = 0; q < kVector<E>; ++q) {
        const std::int64_t k = columns.column(slot) + q;
        if (k < in.K) best.take(v[slot * kVector<E> + q] * factor, k);
      }
    });
    const std::int64_t place = choice_of_team<kTeam>(best, more.choice);
    columns.for_slots([&](int slot) {
      store_to_row(to, columns.column(slot), in.K,
                   [&](int q) { return chosen<T>(finite, columns.column(slot) + q == place); });
    });
  }
}

// Grid (P chunks of the batch), block kAssignThreads. Thread: its columns, of the rows that its
// team takes in turn. One read and one write of B K elements; the plan may be the scores. Two
// blocks would leave float64 too few registers.
template <class E, int kTeam>
__global__ void __launch_bounds__(kAssignThreads, sizeof(E) == 8 ? 1 : 2)
    sinkhorn_plan_kernel(SinkhornStep p) {
  using T = typename ElementOf<E>::Working;
  SSLKERN_SHARED(T, scratch, [4 * kAssignWarps]);
  SSLKERN_SHARED(PlanScratch<T>, more, [1]);
  const Sinkhorn& in = p.d.in;
  const Chunk chunk = Chunk::of(blockIdx.x, p.chunks, in.B);
  const DeviceRows<E> rows(in, chunk.problem, true);
  Columns<E, kTeam> columns(in.epsilon, in.probabilities, 0, in.K);
  columns.load(in.results.potential + chunk.problem * in.K);
  assign_rows(p.d, rows, chunk, columns, scratch, more[0]);
}

// ---- one block

// Grid (P), block kAssignThreads, 33 KiB of shared memory: all iterations of a problem, and its
// plan if nothing has to read the scores after that. Its rows are in the first-level cache after
// the first iteration. With a start g is there.
template <class E, int kTeam>
__global__ void __launch_bounds__(kAssignThreads, 1) sinkhorn_block_kernel(SinkhornOnDevice d) {
  using T = typename ElementOf<E>::Working;
  using Sums = TeamSums<E, kTeam>;
  SSLKERN_SHARED(T, area, [2 * Sums::kTotal]);
  SSLKERN_SHARED(T, scratch, [4 * kAssignWarps]);
  SSLKERN_SHARED(double, moved_scratch, [kAssignWarps]);
  SSLKERN_SHARED(int, answer, [1]);
  SSLKERN_SHARED(PlanScratch<T>, more, [1]);
  const Sinkhorn& in = d.in;
  const std::int64_t problem = blockIdx.x, n = in.B + in.L;
  const DeviceRows<E> rows(in, problem, false);
  const Chunk chunk{problem, 0, 0, n};
  double* const g = in.results.potential + problem * in.K;
  double* const f = d.f == nullptr ? nullptr : d.f + problem * n;
  Columns<E, kTeam> columns(in.epsilon, in.probabilities, 0, in.K);
  const Sums all{area, area + Sums::kTotal};
  Items<E> sums;
  if (in.start == nullptr) {
    Items<E> largest;
    add_first(rows, chunk, columns, sums, largest);
    Sums::write(all.sums, sums, columns);
    Sums::write(all.largest, largest, columns);
    __syncthreads();
    for (int k = int(threadIdx.x); k < in.K; k += kAssignThreads) {
      const T best = all.largest_of_all(k);
      const T got = in.probabilities ? all.total(k) : all.total_from(k, best, columns.a);
      g[k] = next_potential(in, problem, k, 0, best, double(got));
    }
  }
  // The first of them is over, unless there is a start.
  const std::int64_t last = in.iterations - (in.start == nullptr ? 1 : 0);
  for (std::int64_t turn = 1; turn <= last; ++turn) {
    __syncthreads();  // g is there, and what shared memory held has been read
    columns.load(g);
    const double moved = add_assigned(rows, chunk, columns, f, turn, scratch, sums);
    Sums::write(all.sums, sums, columns);
    double sum = INFINITY;
    if (f != nullptr) {
      sum = block_reduce<kAssignThreads>(moved, 0.0, moved_scratch,
                                         [](double x) { return warp_sum(x); });
    }
    if (threadIdx.x == 0) *answer = sum < in.tolerance;
    __syncthreads();
    if (*answer != 0) break;
    for (int k = int(threadIdx.x); k < in.K; k += kAssignThreads) {
      g[k] = next_potential(in, problem, k, turn, T(0), double(all.total(k)));
    }
  }
  const SinkhornResults& out = in.results;
  if (out.usage != nullptr || (out.plan == nullptr && out.row_potential == nullptr)) return;
  __syncthreads();
  columns.load(g);
  assign_rows(d, DeviceRows<E>(in, problem, true), Chunk{problem, 0, 0, in.B}, columns, scratch,
              more[0]);
}

// Grid (P blocks of 32 prototypes), block kAssignThreads: means over the rows of the batch.
template <class T>
__global__ void __launch_bounds__(kAssignThreads) sinkhorn_diagnostics_kernel(SinkhornStep p) {
  SSLKERN_SHARED(double, scratch, [kAssignThreads]);
  SSLKERN_SHARED(double, entropy_scratch, [kAssignWarps]);
  const Sinkhorn& in = p.d.in;
  const MergeColumns at = MergeColumns::here(in.K);
  const bool exists = at.k < in.K;
  const double rows = double(in.B);
  double used = 0;
  for (std::int64_t c = at.group; exists && c < p.chunks.count; c += kMergeGroups) {
    used += double(partial_sums<T>(p.d, at.problem, c, false)[at.k]);
  }
  used = sum_of_groups(used, scratch);
  if (exists && at.group == 0) in.results.usage[at.problem * in.K + at.k] = used / rows;
  if (at.block > 0) return;
  const double* const row_entropy = p.d.row_entropy + at.problem * in.B;
  double entropy = 0;
  for (std::int64_t i = threadIdx.x; i < in.B; i += kAssignThreads) entropy += row_entropy[i];
  entropy = block_reduce<kAssignThreads>(entropy, 0.0, entropy_scratch,
                                         [](double x) { return warp_sum(x); });
  if (threadIdx.x == 0) in.results.entropy[at.problem] = entropy / rows;
}

// ---- long rows: one read for the sums of rows, and one for what is done with them

constexpr int kLongThreads = 512;

template <class E>
SSLKERN_DEVICE RowReader<E> reader_of(const Sinkhorn& p, const E* row, std::int64_t problem) {
  using T = typename ElementOf<E>::Working;
  return {row, p.results.potential + problem * p.K, p.K, T(kLog2E / p.epsilon), p.probabilities};
}

// Grid (P rows), block kLongThreads, a row each: shift and factor, and what else is asked for. Per
// element one exponential, its bytes once, and those of g from a cache; again for an entropy.
template <class E>
__global__ void __launch_bounds__(kLongThreads, 1) sinkhorn_row_kernel(SinkhornStep p) {
  using T = typename ElementOf<E>::Working;
  constexpr int kWarps = kLongThreads / 32, kStep = kLongThreads * kVector<E>;
  SSLKERN_SHARED(T, shifts, [kWarps]);
  SSLKERN_SHARED(double, scratch, [kWarps]);
  SSLKERN_SHARED(Choice<T>, choices, [kWarps]);
  const Sinkhorn& in = p.d.in;
  const std::int64_t n = in.B + in.L, count = p.batch_alone ? in.B : n;
  const std::int64_t problem = blockIdx.x / count, i = blockIdx.x % count;
  if (!p.batch_alone && has_settled_before(p.d, problem, p.turn)) return;
  const DeviceRows<E> rows(in, problem, p.batch_alone);
  const double mass = rows.mass(i);
  const std::int64_t index = problem * n + i;
  if (!(mass > 0)) {
    if (p.d.moved != nullptr && threadIdx.x == 0) p.d.moved[index] = 0;
    return;
  }
  const RowReader<E> reader = reader_of(in, rows.row(i), problem);
  const std::int64_t own = std::int64_t(threadIdx.x) * kVector<E>;
  OnlineRow<T> seen{in.probabilities ? T(0) : Lowest<T>::value, 0};
  Choice<T> best{T(-INFINITY), in.K};
  for (std::int64_t k = own; k < in.K; k += kStep) {
    T x[kVector<E>];
    reader.read(k, x);
#pragma unroll
    for (int q = 0; q < kVector<E>; ++q) {
      if (k + q < in.K) best.take(x[q], k + q);
    }
    if (in.probabilities) {
      T part = 0;
#pragma unroll
      for (int q = 0; q < kVector<E>; ++q) part += x[q];
      seen.sum += double(part);
    } else {
      seen.add(x);
    }
  }
  const auto [shift, sum] = row_of_team<kLongThreads>(seen, shifts, scratch);
  const T factor = T(mass / sum);
  const RowSum<double> whole{double(shift), sum, 1};
  const double f = potential_of(whole);
  const std::int64_t place = in.hard ? choice_of_team<kLongThreads>(best, choices) : 0;
  if (threadIdx.x == 0) {
    static_cast<T*>(p.d.shift)[index] = shift;
    static_cast<T*>(p.d.factor)[index] = factor;
    p.d.place[index] = is_finite(whole) ? place : -1;
    if (p.batch_alone && in.results.row_potential != nullptr) {
      in.results.row_potential[problem * in.B + i] = f * kLn2;
    }
    if (!p.batch_alone && p.d.f != nullptr) {
      p.d.moved[index] = move_potential(p.d.f + index, f, p.turn);
    }
  }
  if (!p.batch_alone || p.d.row_entropy == nullptr) return;
  double bits = 0;
  for (std::int64_t k = own; k < in.K; k += kStep) {
    T x[kVector<E>], part = 0;
    reader.read(k, x);
#pragma unroll
    for (int q = 0; q < kVector<E>; ++q) part += bits_of(reader.relative(x[q], shift) * factor);
    bits += double(part);
  }
  bits = sum_of_team<kLongThreads>(bits, scratch);
  if (threadIdx.x == 0) p.d.row_entropy[problem * in.B + i] = bits * kLn2;
}

// Grid (P chunks, segments of a row), block kAssignThreads. Thread: its columns, of all rows of the
// chunk, whose shift and factor are known. Per element one exponential, five operations, its bytes
// once, which the second-level cache may still hold.
template <class E>
__global__ void __launch_bounds__(kAssignThreads, 2) sinkhorn_columns_kernel(SinkhornStep p) {
  using T = typename ElementOf<E>::Working;
  constexpr int kTeam = kAssignThreads;
  const Sinkhorn& in = p.d.in;
  const std::int64_t n = in.B + in.L;
  const Chunk chunk = Chunk::of(blockIdx.x, p.chunks, p.batch_alone ? in.B : n);
  if (!p.batch_alone && has_settled_before(p.d, chunk.problem, p.turn)) return;
  const DeviceRows<E> rows(in, chunk.problem, p.batch_alone);
  const std::int64_t first = std::int64_t(blockIdx.y) * kTeamColumns<E, kTeam>;
  Columns<E, kTeam> columns(in.epsilon, in.probabilities, first, in.K);
  columns.load(in.results.potential + chunk.problem * in.K);
  Items<E> sums;
#pragma unroll
  for (int item = 0; item < kItems<E>; ++item) sums[item] = 0;
  for (std::int64_t i = chunk.begin; i < chunk.end; ++i) {
    if (!(rows.mass(i) > 0)) continue;
    const T shift = static_cast<const T*>(p.d.shift)[chunk.problem * n + i];
    const T factor = static_cast<const T*>(p.d.factor)[chunk.problem * n + i];
    RawRow<E> row;
    row.load(rows.row(i), columns);
    columns.for_slots([&](int slot) {
      const Unpacked<E> score(row.slot[slot]);
#pragma unroll
      for (int q = 0; q < kVector<E>; ++q) {
        const int item = slot * kVector<E> + q;
        const T v = columns.linear ? probability(score.at[q]) * columns.high[item]
                                   : power_of_two(columns.exponent(score.at[q], item) - shift);
        sums[item] += v * factor;
      }
    });
  }
  T* const to = partial_sums<T>(p.d, chunk.problem, chunk.number, false);
  columns.for_slots([&](int slot) {
#pragma unroll
    for (int q = 0; q < kVector<E>; ++q) {
      const std::int64_t k = columns.column(slot) + q;
      if (k < in.K) to[k] = sums[slot * kVector<E> + q];
    }
  });
}

// Grid (P rows of the batch, segments of a row), block kAssignThreads, a vector for each thread and
// slot. One read and one write, each element by the same thread: the plan may be the scores.
template <class E>
__global__ void __launch_bounds__(kAssignThreads, 2) sinkhorn_long_plan_kernel(SinkhornStep p) {
  using T = typename ElementOf<E>::Working;
  const Sinkhorn& in = p.d.in;
  const std::int64_t problem = blockIdx.x / in.B, i = blockIdx.x % in.B;
  const std::int64_t index = problem * (in.B + in.L) + i;
  const DeviceRows<E> rows(in, problem, true);
  const RowReader<E> reader = reader_of(in, rows.row(i), problem);
  const T shift = static_cast<const T*>(p.d.shift)[index];
  const T factor = static_cast<const T*>(p.d.factor)[index];
  const std::int64_t place = p.d.place[index];
  const std::int64_t first = std::int64_t(blockIdx.y) * kTeamColumns<E, kAssignThreads>;
  E* const to = plan_row<E>(in.results, problem, i);
#pragma unroll
  for (int slot = 0; slot < kSlots<E>; ++slot) {
    const std::int64_t k = first + (std::int64_t(slot) * kAssignThreads + threadIdx.x) * kVector<E>;
    if (k >= in.K) continue;
    T x[kVector<E>];
    if (!in.hard) reader.read(k, x);
    store_to_row(to, k, in.K, [&](int q) {
      if (in.hard) return chosen<T>(place >= 0, k + q == place);
      return reader.relative(x[q], shift) * factor;
    });
  }
}

}  // namespace sslkern::cuda
