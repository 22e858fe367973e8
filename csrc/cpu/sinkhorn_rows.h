// The rows of a problem of Sinkhorn-Knopp, in chunks that depend on the sizes alone. Each chunk has
// sums of its own, and those are added up in the order of the chunks: no bit of the result depends
// on the number of threads.
#pragma once
#include "contract/sinkhorn.h"
#include "cpu/rows.h"

namespace sslkern::cpu::SSLKERN_ISA {

constexpr int kColumnRows = 8;  // rows of a column whose largest element is looked for together
constexpr int kGroup = 4;       // rows whose parts are added to the sums together
constexpr std::int64_t kMostChunks = 64;

// Sums of prototypes lie in whole vectors of any type.
inline std::int64_t padded(std::int64_t K) { return round_up(K, kVectorBytes / 4); }

struct Chunks {
  std::int64_t rows, size, count;

  static Chunks of(std::int64_t rows) {
    const std::int64_t size = round_up(ceil_div(rows, kMostChunks), kColumnRows);
    return {rows, size, ceil_div(rows, size)};
  }
  std::int64_t begin(std::int64_t c) const { return c * size; }
  std::int64_t end(std::int64_t c) const { return smaller((c + 1) * size, rows); }
};

// All rows of a problem: the batch's, then the queue's. E: type of the elements.
template <class E>
struct ProblemRows {
  const E *scores, *queue;
  std::int64_t stride, stride_queue, B, n;
  const double* weight;

  ProblemRows(const Sinkhorn& p, std::int64_t problem)
      : scores(static_cast<const E*>(p.scores.data) + problem * p.scores.stride_problem),
        queue(static_cast<const E*>(p.queue.data) + problem * p.queue.stride_problem),
        stride(p.scores.stride_row),
        stride_queue(p.queue.stride_row),
        B(p.B),
        n(p.B + p.L),
        weight(p.weight == nullptr ? nullptr : p.weight + problem * n) {}

  // The same with the batch's rows elsewhere.
  ProblemRows moved_to(const E* data, std::int64_t new_stride) const {
    ProblemRows rows = *this;
    rows.scores = data;
    rows.stride = new_stride;
    return rows;
  }

  const E* row(std::int64_t i) const {
    return i < B ? scores + i * stride : queue + (i - B) * stride_queue;
  }
  // Weights times n: 1 where all are equal, so that sums of them keep their digits.
  double mass(std::int64_t i) const { return weight == nullptr ? 1.0 : weight[i] * double(n); }
};

// visit(indices, rows, masses, count) for groups of at most kMost rows of [begin, end). Rows
// without weight have no part in any sum, whatever they hold, and are left out.
template <int kMost, class E, class Visit>
SSLKERN_INLINE void for_groups(const ProblemRows<E>& rows, std::int64_t begin, std::int64_t end,
                               const Visit& visit) {
  for (std::int64_t i = begin; i < end;) {
    std::int64_t index[kMost];
    const E* row[kMost];
    double mass[kMost];
    int count = 0;
    for (; i < end && count < kMost; ++i) {
      if (!(rows.mass(i) > 0)) continue;
      index[count] = i;
      row[count] = rows.row(i);
      mass[count++] = rows.mass(i);
    }
    if (count > 0) visit(index, row, mass, count);
  }
}

}  // namespace sslkern::cpu::SSLKERN_ISA
