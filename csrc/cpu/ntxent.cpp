// NT-Xent on the CPU, on the tiles of self_similarity.h. A tile lives in registers and L1 (forward)
// or L2 (backward).
//
// Operations: F = 2 N N D. Forward 0.5 F; backward 0.5 F for the tiles again and F for G Z: 2 F in
// all.
//
// Two ways to the row sums. When every |x_ij| <= kBound (|z|^2 log2(e) / tau, by Cauchy-Schwarz;
// tau >= 0.018 for unit rows) 2^x needs no shift at all: one exponential serves the row and the
// column. Otherwise each tile gets its own row and column maxima, and the partial sums are merged
// with their exponents.
#include "contract/ntxent.h"

#include "cpu/dtype.h"
#include "cpu/self_similarity.h"

namespace sslkern::cpu::SSLKERN_ISA {
namespace {

// Calls visit(r, q) for the elements of a micro-tile at (row, column) that are positive pairs (i, i
// + B).
template <class T, class Visit>
SSLKERN_INLINE void for_positives(std::int64_t row, std::int64_t column, std::int64_t b,
                                  const Visit& visit) {
  const std::int64_t shift = row + b - column;  // q of the positive of the first row
  if (shift <= -kMicroRows || shift >= kMicroCols<T>) return;
  for (int r = 0; r < kMicroRows && row + r < b; ++r) {
    if (shift + r >= 0 && shift + r < kMicroCols<T>) visit(r, int(shift) + r);
  }
}

RowSource source_of(const NtxentInput& in) {
  return {in.z_a, in.z_b, in.stride_a, in.stride_b, in.B};
}

template <class T>
struct Forward {
  SelfRows<T> rows;
  math::OnlineLse* lse;  // (N)
  T* positive;           // (N) x of row i and its partner
  T* tiles;              // one tile per thread

  static Forward take(Arena& arena, const NtxentInput& in, int threads) {
    Forward f{};
    f.rows = SelfRows<T>::take(arena, 2 * in.B, in.D);
    f.lse = arena.take<math::OnlineLse>(2 * in.B);
    f.positive = arena.take<T>(2 * in.B);
    f.tiles = arena.take<T>(threads * kTileSize<T>);
    return f;
  }
};

template <class T>
void capture_positives(const MicroTile<T>& m, std::int64_t row, std::int64_t column, std::int64_t b,
                       T* positive) {
  for_positives<T>(row, column, b, [&](int r, int q) {
    positive[row + r] = positive[row + r + b] = m.c[r * m.ldc + q];
  });
}

template <class T>
void sum_tile_bounded(const Forward<T>& f, const Tile& t, std::int64_t b, TileSums<T>& sums,
                      T* buffer) {
  const std::int64_t n = f.rows.z.rows, row0 = f.rows.first(t.i), col0 = f.rows.first(t.j);
  const auto finish = [&](const MicroTile<T>& m) __attribute__((always_inline)) {
    const std::int64_t row = row0 + m.i, column = col0 + m.j;
    if (on_edge<T>(row, column, n)) {
      add_powers<T>(m, AboveDiagonal<T>{row, column, n}, sums);
    } else {
      add_powers<T>(m, AllLanes{}, sums);
    }
    capture_positives<T>(m, row, column, b, f.positive);
  };
  similarity_tile<T, false>(f.rows.z, f.rows.z, t.i, t.j, t.i == t.j, buffer, finish,
                            [](int, int) {});
}

template <class T>
void sum_tile_shifted(const Forward<T>& f, const Tile& t, std::int64_t b, TileSums<T>& sums,
                      T* buffer) {
  const std::int64_t n = f.rows.z.rows, row0 = f.rows.first(t.i), col0 = f.rows.first(t.j);
  const auto finish = [&](const MicroTile<T>& m) __attribute__((always_inline)) {
    const std::int64_t row = row0 + m.i, column = col0 + m.j;
    capture_positives<T>(m, row, column, b, f.positive);
    if (on_edge<T>(row, column, n)) hide_masked<T>(m, AboveDiagonal<T>{row, column, n});
  };
  const auto skip = [&](int i, int j) { hide_micro_tile<T>(buffer, i, j); };
  similarity_tile<T, true>(f.rows.z, f.rows.z, t.i, t.j, t.i == t.j, buffer, finish, skip);
  reduce_tile<T>(buffer, int(f.rows.z.block_rows(t.i, kMicroRows)),
                 int(f.rows.z.block_rows(t.j, kMicroCols<T>)), sums);
}

// Merges the sums of a tile into those of its rows.
template <class T>
void merge_sums(const Forward<T>& f, const Tile& t, const TileSums<T>& sums) {
  const auto merge = [&](std::int64_t row, bool fresh, math::OnlineLse added) {
    f.lse[row] = math::lse_merge(fresh ? math::OnlineLse{0, 0} : f.lse[row], added);
  };
  const auto as_rows = [&](bool fresh) {
    for (std::int64_t i = 0; i < f.rows.rows_of(t.i); ++i) {
      merge(f.rows.first(t.i) + i, fresh, sums.row(i));
    }
  };
  const auto as_columns = [&](bool fresh) {
    for (std::int64_t j = 0; j < f.rows.rows_of(t.j); ++j) {
      merge(f.rows.first(t.j) + j, fresh, sums.column(j));
    }
  };
  in_turn(f.rows, t, as_rows, as_columns);
}

template <class T>
void sum_tiles(const Forward<T>& f, std::int64_t b, bool bounded) {
  T* buffer = f.tiles + thread_number() * kTileSize<T>;
  TileSums<T> sums;
  draw_tiles(f.rows, [&](const Tile& t) {
    __builtin_memset(&sums, 0, sizeof(sums));
    bounded ? sum_tile_bounded<T>(f, t, b, sums, buffer)
            : sum_tile_shifted<T>(f, t, b, sums, buffer);
    merge_sums<T>(f, t, sums);
  });
}

template <class T, class E>
void forward(const NtxentFwd& p) {
  Arena arena(p.workspace);
  const auto f = Forward<T>::take(arena, p.in, p.threads);
  const double scale = kLog2E / *p.in.temperature;
  f.rows.reset();
#pragma omp parallel num_threads(p.threads)
  {
    pack_rows<T, E>(source_of(p.in), p.in.normalize, f.rows, scale);
    sum_tiles<T>(f, p.in.B, f.rows.bounded(scale));
#pragma omp barrier
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < 2 * p.in.B; ++i) {
      const double lse = math::lse_log2(f.lse[i]);
      p.lse[i] = lse;
      static_cast<T*>(p.loss)[i] = T((lse - double(f.positive[i])) * kLn2);
    }
  }
}

template <class T>
struct Backward {
  SelfRows<T> rows;
  SelfGradient<T> grad;
  SoftmaxRows<T> softmax;  // (padded N)
  T* tiles;                // one tile per thread

  static Backward take(Arena& arena, const NtxentInput& in, int threads) {
    Backward w{};
    w.rows = SelfRows<T>::take(arena, 2 * in.B, in.D);
    w.grad = SelfGradient<T>::take(arena, w.rows);
    w.softmax = SoftmaxRows<T>::take(arena, w.rows.padded_rows());
    w.tiles = arena.take<T>(threads * kTileSize<T>);
    return w;
  }
};

template <class T>
void prepare_row(const Backward<T>& w, const NtxentBwd& p, std::int64_t i) {
  if (i >= w.rows.z.rows) return w.softmax.clear(i);
  w.softmax.set_log2(i, double(static_cast<const T*>(p.grad_loss)[i]) / w.grad.unit, p.lse[i]);
}

// Tile (I, J) of G, strictly above the diagonal; zero elsewhere.
template <class T, bool kBounded>
void gradient_tile(const Backward<T>& w, const Tile& t, std::int64_t b, T* buffer) {
  const std::int64_t n = w.rows.z.rows, row0 = w.rows.first(t.i), col0 = w.rows.first(t.j);
  const auto finish = [&](const MicroTile<T>& m) __attribute__((always_inline)) {
    const std::int64_t row = row0 + m.i, column = col0 + m.j;
    const auto gradient = [&](int r, int q, Vec<T> x) __attribute__((always_inline)) {
      return pair_gradient<T, kBounded>(w.softmax, w.softmax, x, row + r, column + q);
    };
    if (on_edge<T>(row, column, n)) {
      replace_by_gradient<T>(m, AboveDiagonal<T>{row, column, n}, gradient);
    } else {
      replace_by_gradient<T>(m, AllLanes{}, gradient);
    }
    for_positives<T>(row, column, b, [&](int r, int q) {
      m.c[r * m.ldc + q] -= w.softmax.g[row + r] + w.softmax.g[row + r + b];
    });
  };
  const auto skip = [&](int i, int j) { clear_micro_tile<T>(buffer, i, j); };
  similarity_tile<T, true>(w.rows.z, w.rows.z, t.i, t.j, t.i == t.j, buffer, finish, skip);
}

template <class T>
void accumulate_gradient(const Backward<T>& w, std::int64_t b, bool bounded) {
  T* buffer = w.tiles + thread_number() * kTileSize<T>;
  draw_tiles(w.rows, [&](const Tile& t) {
    bounded ? gradient_tile<T, true>(w, t, b, buffer) : gradient_tile<T, false>(w, t, b, buffer);
    apply_gradient_tile<T>(w.rows, w.grad, t, buffer);
  });
}

// Where row i of the gradient goes.
template <class E>
E* gradient_row(const NtxentBwd& p, std::int64_t i) {
  return i < p.in.B ? static_cast<E*>(p.grad_z_a) + i * p.in.D
                    : static_cast<E*>(p.grad_z_b) + (i - p.in.B) * p.in.D;
}

template <class T, class E>
void backward(const NtxentBwd& p) {
  Arena arena(p.workspace);
  const std::int64_t n = 2 * p.in.B;
  auto w = Backward<T>::take(arena, p.in, p.threads);
  const double tau = *p.in.temperature;
  w.grad.unit = gradient_unit(largest_gradient(static_cast<const T*>(p.grad_loss), n));
  w.rows.reset();
#pragma omp parallel num_threads(p.threads)
  {
    pack_rows<T, E>(source_of(p.in), p.in.normalize, w.rows, kLog2E / tau);
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < w.rows.padded_rows(); ++i) prepare_row<T>(w, p, i);
    accumulate_gradient<T>(w, p.in.B, w.rows.bounded(kLog2E / tau));
#pragma omp barrier
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < n; ++i) {
      finish_row<T, E>(w.rows, w.grad, p.in.normalize, tau, i, gradient_row<E>(p, i));
    }
  }
  *p.grad_temperature = temperature_gradient(w.rows, w.grad, tau);
}

}  // namespace

std::int64_t ntxent_fwd_workspace(const NtxentFwd& p) {
  Arena arena(nullptr);
  p.in.dtype == Dtype::kFloat64 ? void(Forward<double>::take(arena, p.in, p.threads))
                                : void(Forward<float>::take(arena, p.in, p.threads));
  return arena.used();
}

std::int64_t ntxent_bwd_workspace(const NtxentBwd& p) {
  Arena arena(nullptr);
  p.in.dtype == Dtype::kFloat64 ? void(Backward<double>::take(arena, p.in, p.threads))
                                : void(Backward<float>::take(arena, p.in, p.threads));
  return arena.used();
}

void ntxent_fwd(const NtxentFwd& p) {
  with_types(p.in.dtype, [&]<class T, class E>() { forward<T, E>(p); });
}

void ntxent_bwd(const NtxentBwd& p) {
  with_types(p.in.dtype, [&]<class T, class E>() { backward<T, E>(p); });
}

}  // namespace sslkern::cpu::SSLKERN_ISA

SSLKERN_ENTRY(std::int64_t, ntxent_fwd_workspace, const NtxentFwd&)
SSLKERN_ENTRY(std::int64_t, ntxent_bwd_workspace, const NtxentBwd&)
SSLKERN_ENTRY(void, ntxent_fwd, const NtxentFwd&)
SSLKERN_ENTRY(void, ntxent_bwd, const NtxentBwd&)
