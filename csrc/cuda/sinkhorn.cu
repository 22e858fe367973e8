// The launcher of Sinkhorn-Knopp: which kernels, and how often. How many iterations a tolerance
// takes is known to the device alone: launches after the last one return at once.
#include "cuda/launch.h"
#include "cuda/sinkhorn.cuh"

namespace sslkern::cuda {
namespace {

struct Call {
  const SinkhornOnDevice& d;
  void* stream;
  std::int64_t rows;             // n
  SinkhornChunks chunks, batch;  // of all rows, of the batch
};

SinkhornStep step_of(const Call& c, std::int64_t turn, bool batch_alone) {
  return {c.d, turn, batch_alone, batch_alone ? c.batch : c.chunks};
}

dim3 blocks_of_problems(const Call& c, std::int64_t each, std::int64_t segments = 1) {
  return dim3(unsigned(c.d.in.P * each), unsigned(segments));
}

dim3 merge_grid(const Call& c) {
  return blocks_of_problems(c, (c.d.in.K + kMergeColumns - 1) / kMergeColumns);
}

template <class E>
std::int64_t segments(const Call& c) {
  constexpr std::int64_t kWidth = kTeamColumns<E, kAssignThreads>;
  return (c.d.in.K + kWidth - 1) / kWidth;
}

template <class T>
void next_potentials(const Call& c, std::int64_t turn) {
  const SinkhornStep step = step_of(c, turn, false);
  SSLKERN_LAUNCH(sinkhorn_potentials_kernel<T>, merge_grid(c), dim3(kAssignThreads), 0, c.stream,
                 step);
}

template <class T>
void diagnose(const Call& c) {
  const SinkhornStep step = step_of(c, 0, true);
  SSLKERN_LAUNCH(sinkhorn_diagnostics_kernel<T>, merge_grid(c), dim3(kAssignThreads), 0, c.stream,
                 step);
}

// Turns after the first kernel's, which there is none of with a start.
std::int64_t last_turn(const Sinkhorn& in) { return in.iterations - (in.start == nullptr ? 1 : 0); }

// Rows that a team holds.
template <class E, int kTeam>
struct Held {
  using T = typename ElementOf<E>::Working;

  static void iterate(const Call& c) {
    const Sinkhorn& in = c.d.in;
    const SinkhornOnDevice d = c.d;
    if (is_one_block(c)) {
      SSLKERN_LAUNCH((sinkhorn_block_kernel<E, kTeam>), blocks_of_problems(c, 1),
                     dim3(kAssignThreads), 0, c.stream, d);
      return;
    }
    if (in.start == nullptr) {
      const SinkhornStep first = step_of(c, 0, false);
      SSLKERN_LAUNCH((sinkhorn_first_kernel<E, kTeam>), blocks_of_problems(c, c.chunks.count),
                     dim3(kAssignThreads), 0, c.stream, first);
      next_potentials<T>(c, 0);
    }
    for (std::int64_t turn = 1; turn <= last_turn(in); ++turn) {
      assign(c, turn, false);
      next_potentials<T>(c, turn);
    }
  }

  static void finish(const Call& c) {
    const Sinkhorn& in = c.d.in;
    const bool diagnosed = in.results.usage != nullptr;
    if (is_one_block(c) && in.iterations > 0 && !diagnosed) return;  // all is there
    if (diagnosed) assign(c, 0, true);  // before the plan, which may replace the scores
    const SinkhornStep step = step_of(c, 0, true);
    SSLKERN_LAUNCH((sinkhorn_plan_kernel<E, kTeam>), blocks_of_problems(c, c.batch.count),
                   dim3(kAssignThreads), 0, c.stream, step);
    if (diagnosed) diagnose<T>(c);
  }

 private:
  static bool is_one_block(const Call& c) {
    return sinkhorn_fits_a_block(c.rows, c.d.in.K, c.d.in.dtype);
  }
  static void assign(const Call& c, std::int64_t turn, bool batch_alone) {
    const SinkhornStep step = step_of(c, turn, batch_alone);
    SSLKERN_LAUNCH((sinkhorn_pass_kernel<E, kTeam>), blocks_of_problems(c, step.chunks.count),
                   dim3(kAssignThreads), 0, c.stream, step);
  }
};

// Longer ones.
template <class E>
struct Long {
  using T = typename ElementOf<E>::Working;

  static void iterate(const Call& c) {
    if (c.d.in.start == nullptr) {
      const SinkhornStep first = step_of(c, 0, false);
      SSLKERN_LAUNCH((sinkhorn_first_kernel<E, kAssignThreads>),
                     blocks_of_problems(c, c.chunks.count, segments<E>(c)), dim3(kAssignThreads), 0,
                     c.stream, first);
      next_potentials<T>(c, 0);
    }
    for (std::int64_t turn = 1; turn <= last_turn(c.d.in); ++turn) {
      sum_rows(c, turn, false);
      sum_columns(c, turn, false);
      next_potentials<T>(c, turn);
    }
  }

  static void finish(const Call& c) {
    sum_rows(c, 0, true);
    if (c.d.in.results.usage != nullptr) {
      sum_columns(c, 0, true);
      diagnose<T>(c);
    }
    if (c.d.in.results.plan == nullptr) return;
    const SinkhornStep step = step_of(c, 0, true);
    SSLKERN_LAUNCH(sinkhorn_long_plan_kernel<E>, blocks_of_problems(c, c.d.in.B, segments<E>(c)),
                   dim3(kAssignThreads), 0, c.stream, step);
  }

 private:
  static void sum_rows(const Call& c, std::int64_t turn, bool batch_alone) {
    const SinkhornStep step = step_of(c, turn, batch_alone);
    SSLKERN_LAUNCH(sinkhorn_row_kernel<E>, blocks_of_problems(c, batch_alone ? c.d.in.B : c.rows),
                   dim3(kLongThreads), 0, c.stream, step);
  }
  static void sum_columns(const Call& c, std::int64_t turn, bool batch_alone) {
    const SinkhornStep step = step_of(c, turn, batch_alone);
    SSLKERN_LAUNCH(sinkhorn_columns_kernel<E>,
                   blocks_of_problems(c, step.chunks.count, segments<E>(c)), dim3(kAssignThreads),
                   0, c.stream, step);
  }
};

template <class Way>
void run(const Call& c) {
  const SinkhornResults& out = c.d.in.results;
  if (c.d.in.iterations == 0 || c.d.in.start != nullptr) {
    const SinkhornOnDevice d = c.d;
    SSLKERN_LAUNCH(sinkhorn_start_kernel, blocks_for(c.d.in.P * c.d.in.K, kAssignThreads),
                   dim3(kAssignThreads), 0, c.stream, d);
  }
  if (c.d.in.iterations > 0) Way::iterate(c);
  if (out.plan != nullptr || out.row_potential != nullptr || out.usage != nullptr) Way::finish(c);
}

}  // namespace

void sinkhorn(const SinkhornOnDevice& d, const Launch& how) {
  const Sinkhorn& in = d.in;
  const std::int64_t rows = in.B + in.L;
  const Call c{d, how.stream, rows, SinkhornChunks::of(rows, in.K, in.dtype),
               SinkhornChunks::of(in.B, in.K, in.dtype)};
  with_element(in.dtype, [&](auto of) {
    using E = typename decltype(of)::Element;
    if (in.K <= sinkhorn_warp_columns(in.dtype)) return run<Held<E, 32>>(c);
    if (in.K <= sinkhorn_block_columns(in.dtype)) return run<Held<E, kAssignThreads>>(c);
    run<Long<E>>(c);
  });
}

}  // namespace sslkern::cuda
