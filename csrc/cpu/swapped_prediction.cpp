// Swapped prediction on the CPU. Floor: each pass reads all views once, the backward pass writes
// their gradients; targets and log-softmax exist for one row at a time. What is left above the
// floor are the exponentials, one per element of a view and one per element of an assigned view.
//
// Rows are independent of each other, so no bit depends on the number of threads; their losses are
// added up in order.
#include "contract/swapped_prediction.h"

#include "cpu/assignment.h"
#include "cpu/dtype.h"
#include "cpu/schedule.h"

namespace sslkern::cpu::SSLKERN_ISA {
namespace {

// Targets of one row of the batch: q of each view that is assigned.
template <class T>
struct Targets {
  AssignedRow<T> row;  // of the view at hand
  T* q;                // (A + 1, K), the last the sum for views that are not assigned
  T* others;           // (K) the sum for one that is
  std::int64_t A, K;   // K in whole vectors

  static Targets take(Arena& arena, const SwappedPredictionInput& in) {
    const std::int64_t K = round_up(in.K, kWidth<T>);
    return {AssignedRow<T>::take(arena, in.K), arena.take<T>((in.A + 1) * K), arena.take<T>(K),
            in.A, K};
  }

  template <class E>
  void assign(const SwappedPredictionInput& in, const LogPotentials<T>* g, std::int64_t b) const {
    for (std::int64_t i = 0; i < A; ++i) {
      const E* z = static_cast<const E*>(in.view[i].scores) + b * in.view[i].stride;
      assign_row<T, E>(z, in.K, g[i], 1.0, row);
      for (std::int64_t k = 0; k < K; k += kWidth<T>) store(q + i * K + k, row.at(k));
    }
    add_all_but(A, q + A * K);
  }

  void add_all_but(std::int64_t v, T* sum) const {
    for (std::int64_t k = 0; k < K; k += kWidth<T>) {
      Vec<T> total{};
      for (std::int64_t i = 0; i < A; ++i) total += i == v ? Vec<T>{} : load(q + i * K + k);
      store(sum + k, total);
    }
  }

  // What view v is to predict: the sum of q over the others.
  const T* of(std::int64_t v) const {
    if (v >= A) return q + A * K;
    if (A == 2) return q + (1 - v) * K;
    add_all_but(v, others);
    return others;
  }
};

template <class T>
struct Workspace {
  LogPotentials<T>* g;  // (A), shared
  PerThread<Targets<T>> targets;

  static Workspace take(Arena& arena, const SwappedPredictionInput& in, int threads) {
    const auto g = arena.take<LogPotentials<T>>(in.A);
    return {g, PerThread<Targets<T>>::take(arena, threads, in)};
  }

  // The potentials behind all else, set.
  void set_potentials(Arena& arena, const SwappedPredictionInput& in) const {
    for (std::int64_t i = 0; i < in.A; ++i) {
      g[i] = LogPotentials<T>::take(arena, in.K);
      g[i].a = T(kLog2E / in.epsilon);
      for (std::int64_t k = 0; k < in.K; ++k) g[i].set(k, in.potential[i * in.K + k] * kLog2E);
      g[i].pad(in.K);
    }
  }
};

// One row of one view, block by block.
template <class T, class E>
struct ViewRow {
  const E* z;
  alignas(kVectorBytes) T buffer[kRowBlock];

  ViewRow(const SwappedPredictionInput& in, std::int64_t v, std::int64_t b)
      : z(static_cast<const E*>(in.view[v].scores) + b * in.view[v].stride) {}

  const T* block(std::int64_t first, int count) {
    return read_block<T>(z + first, static_cast<const T*>(nullptr), count, -T(__builtin_inf()),
                         buffer);
  }
  auto ahead(std::int64_t first) const {
    return [z = z + first](int k) __attribute__((always_inline)) { __builtin_prefetch(z + k); };
  }
};

// The targets of a block as the loops of rows.h want them.
template <class T>
SSLKERN_INLINE auto from(const T* target) {
  return [target](int k) __attribute__((always_inline)) { return load(target + k); };
}

// How many views are targets of view v.
SSLKERN_INLINE double targets_of(const SwappedPredictionInput& in, std::int64_t v) {
  return double(v < in.A ? in.A - 1 : in.A);
}

// The part of the loss of one row of a view, but for the factor of all.
template <class T, class E>
double forward_row(const SwappedPredictionInput& in, const Targets<T>& targets, std::int64_t v,
                   std::int64_t b, SwappedPredictionRow* row) {
  const T a = T(kLog2E / in.temperature);
  ViewRow<T, E> z(in, v, b);
  const T* target = targets.of(v);
  SoftTargetSums sums{double(kLowest<T>), 0, 0, 0, 0};
  for (std::int64_t first = 0; first < in.K; first += kRowBlock) {
    const int count = int(smaller(kRowBlock, in.K - first));
    const T* s = z.block(first, count);
    const int padded = whole_vectors(count, kWidth<T>);
    sums.raise_student(double(largest_element<T>(s, padded)), double(a));
    add_block<T>(s, padded, a, from<T>(target + first), z.ahead(first + kRowBlock), sums);
  }
  *row = {sums.student_max, targets_of(in, v) / sums.student_sum};
  return targets_of(in, v) * __builtin_log(sums.student_sum) + sums.distance / in.temperature;
}

template <class T, class E>
void backward_row(const SwappedPredictionInput& in, const Targets<T>& targets, std::int64_t v,
                  std::int64_t b, const SwappedPredictionRow& row, T factor, E* grad) {
  const T a = T(kLog2E / in.temperature);
  ViewRow<T, E> z(in, v, b);
  const T* target = targets.of(v);
  alignas(kVectorBytes) T buffer[kRowBlock];
  for (std::int64_t first = 0; first < in.K; first += kRowBlock) {
    const int count = int(smaller(kRowBlock, in.K - first));
    const T* s = z.block(first, count);
    T* out = result_block<T>(grad + first, count, buffer);
    gradient_block<false, T>(s, whole_vectors(count, kWidth<T>), T(row.max), a, T(row.weight),
                             from<T>(target + first), factor, z.ahead(first + kRowBlock), out);
    write_block<T>(out, count, grad + first);
  }
}

template <class T, class E>
void forward(const SwappedPredictionFwd& p) {
  const SwappedPredictionInput& in = p.in;
  Arena arena(p.workspace);
  const auto w = Workspace<T>::take(arena, in, p.threads);
  w.set_potentials(arena, in);
#pragma omp parallel for schedule(dynamic) num_threads(p.threads)
  for (std::int64_t b = 0; b < in.B; ++b) {
    const Targets<T> targets = w.targets.of_thread(thread_number(), in);
    targets.template assign<E>(in, w.g, b);
    double loss = 0;
    for (std::int64_t v = 0; v < in.V; ++v) {
      loss += forward_row<T, E>(in, targets, v, b, p.row + b * in.V + v);
    }
    p.row_loss[b] = loss;
  }
  double sum = 0;
  for (std::int64_t b = 0; b < in.B; ++b) sum += p.row_loss[b];
  *static_cast<T*>(p.loss) = T(sum * swapped_prediction_weight(in));
}

template <class T, class E>
void backward(const SwappedPredictionBwd& p) {
  const SwappedPredictionInput& in = p.in;
  Arena arena(p.workspace);
  const auto w = Workspace<T>::take(arena, in, p.threads);
  w.set_potentials(arena, in);
  const T factor = T(*p.grad_loss * swapped_prediction_weight(in) / in.temperature);
#pragma omp parallel for schedule(dynamic) num_threads(p.threads)
  for (std::int64_t b = 0; b < in.B; ++b) {
    const Targets<T> targets = w.targets.of_thread(thread_number(), in);
    targets.template assign<E>(in, w.g, b);
    for (std::int64_t v = 0; v < in.V; ++v) {
      backward_row<T, E>(in, targets, v, b, p.row[b * in.V + v], factor,
                         static_cast<E*>(p.grad_view[v]) + b * in.K);
    }
  }
}

template <class T>
std::int64_t workspace(const SwappedPredictionInput& in, int threads) {
  Arena arena(nullptr);
  Workspace<T>::take(arena, in, threads);
  for (std::int64_t i = 0; i < in.A; ++i) LogPotentials<T>::take(arena, in.K);
  return arena.used();
}

}  // namespace

std::int64_t swapped_prediction_workspace(const SwappedPredictionWorkspace& p) {
  return p.in.dtype == Dtype::kFloat64 ? workspace<double>(p.in, p.threads)
                                       : workspace<float>(p.in, p.threads);
}

void swapped_prediction_fwd(const SwappedPredictionFwd& p) {
  with_types(p.in.dtype, [&]<class T, class E>() { forward<T, E>(p); });
}

void swapped_prediction_bwd(const SwappedPredictionBwd& p) {
  with_types(p.in.dtype, [&]<class T, class E>() { backward<T, E>(p); });
}

}  // namespace sslkern::cpu::SSLKERN_ISA

SSLKERN_ENTRY(std::int64_t, swapped_prediction_workspace, const SwappedPredictionWorkspace&)
SSLKERN_ENTRY(void, swapped_prediction_fwd, const SwappedPredictionFwd&)
SSLKERN_ENTRY(void, swapped_prediction_bwd, const SwappedPredictionBwd&)
