// Soft cross entropy on the CPU. Floor: the forward pass reads both matrices once, the backward
// pass reads them again and writes the gradient; nothing else of their size exists. What is left
// above the floor are two exponentials per element and pass (one with probabilities): where a core
// reads 45 GB/s, the forward pass in float32 takes about 3 times as long as the reading with
// AVX-512, 5 times with AVX2.
//
// Rows are independent of each other, so no bit depends on the number of threads; the gradient of
// the temperature is added up in the order of the rows.
#include "contract/soft_cross_entropy.h"

#include "cpu/dtype.h"
#include "cpu/rows.h"

namespace sslkern::cpu::SSLKERN_ISA {
namespace {

// Rows that a thread takes at a time: enough elements to be worth the asking.
std::int64_t rows_at_a_time(std::int64_t K) { return ceil_div(1 << 15, K); }

// The constants of a call in the type of its arithmetic.
template <class T>
struct Scales {
  T a, b;

  explicit Scales(const SoftCrossEntropyInput& in)
      : a(T(kLog2E / *in.student_temperature)),
        b(in.probabilities ? T(0) : T(kLog2E / *in.teacher_temperature)) {}
};

// Rows of both matrices, block by block.
template <class T, class E, bool kProbabilities>
struct RowPair {
  const E *student, *teacher;
  const T* center;
  alignas(kVectorBytes) T student_buffer[kRowBlock], teacher_buffer[kRowBlock];

  RowPair(const SoftCrossEntropyInput& in, std::int64_t i)
      : student(static_cast<const E*>(in.student) + i * in.stride_student),
        teacher(static_cast<const E*>(in.teacher) + i * in.stride_teacher),
        center(static_cast<const T*>(in.center)) {}

  // Padding adds nothing to any sum.
  const T* student_block(std::int64_t first, int count) {
    return read_block<T>(student + first, static_cast<const T*>(nullptr), count,
                         -T(__builtin_inf()), student_buffer);
  }
  const T* teacher_block(std::int64_t first, int count) {
    return read_block<T>(teacher + first, center == nullptr ? nullptr : center + first, count,
                         kProbabilities ? T(0) : -T(__builtin_inf()), teacher_buffer);
  }

  // Asks for the elements from `first` on, vector by vector.
  auto ahead(std::int64_t first) const {
    return [s = student + first, t = teacher + first](int k) __attribute__((always_inline)) {
      __builtin_prefetch(s + k);
      __builtin_prefetch(t + k);
    };
  }
};

// The targets of a block, k -> weight 2^(b (u_k - max)), or the probability t_k, of a vector.
template <class T, bool kProbabilities>
struct Targets {
  const T* u;
  T max, b, weight;

  SSLKERN_INLINE Vec<T> operator()(int k) const {
    const Vec<T> x = load_unaligned(u + k);
    return kProbabilities ? x : power_below<T>(x, max, b) * splat(weight);
  }
};

template <class T, class E, bool kProbabilities>
void forward_row(const SoftCrossEntropyInput& in, Scales<T> scale, std::int64_t i, T* loss,
                 SoftCrossEntropyRow* row) {
  RowPair<T, E, kProbabilities> pair(in, i);
  SoftTargetSums sums{double(kLowest<T>), kProbabilities ? 0.0 : double(kLowest<T>), 0, 0, 0};
  for (std::int64_t first = 0; first < in.K; first += kRowBlock) {
    const int count = int(smaller(kRowBlock, in.K - first));
    const T* s = pair.student_block(first, count);
    const T* u = pair.teacher_block(first, count);
    const int padded = whole_vectors(count, kWidth<T>);
    sums.raise_student(double(largest_element<T>(s, padded)), double(scale.a));
    if constexpr (!kProbabilities) {
      sums.raise_teacher(double(largest_element<T>(u, padded)), double(scale.b));
    }
    const Targets<T, kProbabilities> w{u, T(sums.teacher_max), scale.b, T(1)};
    add_block<T>(s, padded, scale.a, w, pair.ahead(first + kRowBlock), sums);
  }
  const double teacher_weight = kProbabilities ? 1.0 : 1.0 / sums.teacher_sum;
  const double mass = kProbabilities ? sums.teacher_sum : 1.0;
  const double distance = sums.distance * teacher_weight / *in.student_temperature;
  *loss = T(mass * __builtin_log(sums.student_sum) + distance);
  *row = {sums.student_max, mass / sums.student_sum, sums.teacher_max, teacher_weight};
}

template <class T, class E, bool kProbabilities, bool kSlope>
double backward_row(const SoftCrossEntropyInput& in, Scales<T> scale, std::int64_t i,
                    const SoftCrossEntropyRow& row, T factor, E* grad_student) {
  RowPair<T, E, kProbabilities> pair(in, i);
  alignas(kVectorBytes) T buffer[kRowBlock];
  double slope = 0;
  for (std::int64_t first = 0; first < in.K; first += kRowBlock) {
    const int count = int(smaller(kRowBlock, in.K - first));
    const T* s = pair.student_block(first, count);
    const T* u = pair.teacher_block(first, count);
    const Targets<T, kProbabilities> q{u, T(row.teacher_max), scale.b, T(row.teacher_weight)};
    T* out = result_block<T>(grad_student + first, count, buffer);
    slope += gradient_block<kSlope, T>(s, whole_vectors(count, kWidth<T>), T(row.student_max),
                                       scale.a, T(row.student_weight), q, factor,
                                       pair.ahead(first + kRowBlock), out);
    write_block<T>(out, count, grad_student + first);
  }
  return slope;
}

template <class T, class E, bool kProbabilities>
void forward(const SoftCrossEntropyFwd& p) {
  const Scales<T> scale(p.in);
  const std::int64_t turn = rows_at_a_time(p.in.K);
#pragma omp parallel for schedule(dynamic, turn) num_threads(p.threads)
  for (std::int64_t i = 0; i < p.in.N; ++i) {
    forward_row<T, E, kProbabilities>(p.in, scale, i, static_cast<T*>(p.loss) + i, p.row + i);
  }
}

template <class T, class E, bool kProbabilities, bool kSlope>
void backward(const SoftCrossEntropyBwd& p) {
  const Scales<T> scale(p.in);
  const T* g = static_cast<const T*>(p.grad_loss);
  const double tau = *p.in.student_temperature;
  const std::int64_t turn = rows_at_a_time(p.in.K);
#pragma omp parallel for schedule(dynamic, turn) num_threads(p.threads)
  for (std::int64_t i = 0; i < p.in.N; ++i) {
    const double slope =
        backward_row<T, E, kProbabilities, kSlope>(p.in, scale, i, p.row[i], T(double(g[i]) / tau),
                                                   static_cast<E*>(p.grad_student) + i * p.in.K);
    if constexpr (kSlope) p.row_slope[i] = double(g[i]) * slope;
  }
  if constexpr (kSlope) {
    double sum = 0;
    for (std::int64_t i = 0; i < p.in.N; ++i) sum += p.row_slope[i];
    *p.grad_temperature = -sum / (tau * tau);
  }
}

template <class T, class E, bool kProbabilities>
void backward(const SoftCrossEntropyBwd& p) {
  p.grad_temperature != nullptr ? backward<T, E, kProbabilities, true>(p)
                                : backward<T, E, kProbabilities, false>(p);
}

}  // namespace

void soft_cross_entropy_fwd(const SoftCrossEntropyFwd& p) {
  with_types(p.in.dtype, [&]<class T, class E>() {
    p.in.probabilities ? forward<T, E, true>(p) : forward<T, E, false>(p);
  });
}

void soft_cross_entropy_bwd(const SoftCrossEntropyBwd& p) {
  with_types(p.in.dtype, [&]<class T, class E>() {
    p.in.probabilities ? backward<T, E, true>(p) : backward<T, E, false>(p);
  });
}

}  // namespace sslkern::cpu::SSLKERN_ISA

SSLKERN_ENTRY(void, soft_cross_entropy_fwd, const SoftCrossEntropyFwd&)
SSLKERN_ENTRY(void, soft_cross_entropy_bwd, const SoftCrossEntropyBwd&)
