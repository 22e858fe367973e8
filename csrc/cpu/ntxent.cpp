// NT-Xent on the CPU. Only tiles on and above the diagonal of S are computed; a tile lives in
// registers and L1 (forward) or L2 (backward), and its row sums and column sums serve the two
// blocks of rows that it belongs to.
//
// Operations: F = 2 N N D. Forward 0.5 F; backward 0.5 F for the tiles again and F for G Z: 2 F in
// all. Everything is in base 2: the panels carry log2(e) / tau, so x_ij = s_ij log2(e) comes out of
// the product.
//
// Two ways to the row sums. When every |x_ij| <= kBound (|z|^2 log2(e) / tau, by Cauchy-Schwarz;
// tau >= 0.018 for unit rows) 2^x needs no shift at all: one exponential serves the row and the
// column. Otherwise each tile gets its own row and column maxima, and the partial sums are merged
// with their exponents.
#include "contract/ntxent.h"

#include "cpu/arena.h"
#include "cpu/dtype.h"
#include "cpu/schedule.h"
#include "cpu/softmax.h"

namespace sslkern::cpu::SSLKERN_ISA {
namespace {

// What forward and backward share: the packed rows, and the state of the tile schedule.
template <class T>
struct Rows {
  Packed<T> z;
  double* inv_norm;      // (N)
  std::int64_t* turn;    // (blocks) rounds that are finished for each block
  std::int64_t* ticket;  // the next tile to hand out
  double* largest;       // largest squared norm of any row, infinity if one is not finite
  T* tiles;              // one tile per thread

  static Rows take(Arena& arena, std::int64_t n, std::int64_t d, int threads) {
    Rows rows{};
    rows.z = Packed<T>::sized(n, d);
    rows.z.panels = arena.take<T>(rows.z.panels_size());
    rows.z.strips = arena.take<T>(rows.z.strips_size());
    rows.inv_norm = arena.take<double>(n);
    rows.turn = arena.take<std::int64_t>(rows.z.blocks());
    rows.ticket = arena.take<std::int64_t>(1);
    rows.largest = arena.take<double>(1);
    rows.tiles = arena.take<T>(threads * kTileSize<T>);
    return rows;
  }

  void reset() const {
    for (std::int64_t b = 0; b < z.blocks(); ++b) turn[b] = 0;
    *ticket = 0;
    *largest = 0;
  }

  // No |x_ij| exceeds this.
  double bound(double scale) const { return *largest * scale; }

  T* tile_of_thread() const { return tiles + thread_number() * kTileSize<T>; }
};

// To be called by all threads of a team; ends with a barrier.
template <class T, class E>
void pack(const NtxentInput& in, const Rows<T>& rows, double scale) {
  const RowSource source{in.z_a, in.z_b, in.stride_a, in.stride_b, in.B};
  const std::int64_t panels = rows.z.padded_rows() / kMicroCols<T>;
  double largest = 0;
#pragma omp for schedule(static) nowait
  for (std::int64_t q = 0; q < panels; ++q) {
    const double squared = pack_panel<T, E>(source, q * kMicroCols<T>, in.normalize, RowFactor{},
                                            T(scale), rows.z, rows.inv_norm);
    largest = squared > largest ? squared : largest;
  }
#pragma omp critical(sslkern_ntxent_largest)
  *rows.largest = largest > *rows.largest ? largest : *rows.largest;
#pragma omp barrier
}

// The pairs of a micro-tile at (row, column) that lie above the diagonal and inside N x N.
template <class T>
struct AboveDiagonal {
  static constexpr bool kAll = false;
  std::int64_t row, column, n;

  SSLKERN_INLINE auto operator()(int r, int q) const {
    using Int = typename Simd<T>::Int;
    const IntVec<T> lane = lane_index<T>(), zero{};
    const std::int64_t i = row + r, j = column + q;
    return (lane > zero + Int(i - j)) & (lane < zero + Int(i < n ? n - j : 0));
  }
};

// Whether a micro-tile at global (row, column) touches the diagonal, the last row or the last
// column.
template <class T>
SSLKERN_INLINE bool on_edge(std::int64_t row, std::int64_t column, std::int64_t n) {
  return column < row + kMicroRows || column + kMicroCols<T> > n || row + kMicroRows > n;
}

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

template <class T>
struct Forward {
  Rows<T> rows;
  math::OnlineLse* lse;  // (N)
  T* positive;           // (N) x of row i and its partner

  static Forward take(Arena& arena, std::int64_t n, std::int64_t d, int threads) {
    Forward f{};
    f.rows = Rows<T>::take(arena, n, d, threads);
    f.lse = arena.take<math::OnlineLse>(n);
    f.positive = arena.take<T>(n);
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
  const std::int64_t n = f.rows.z.rows, row0 = t.i * f.rows.z.tile, col0 = t.j * f.rows.z.tile;
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
  const std::int64_t n = f.rows.z.rows, row0 = t.i * f.rows.z.tile, col0 = t.j * f.rows.z.tile;
  const Vec<T> hidden = splat(-T(__builtin_inf()));
  const auto finish = [&](const MicroTile<T>& m) __attribute__((always_inline)) {
    const std::int64_t row = row0 + m.i, column = col0 + m.j;
    capture_positives<T>(m, row, column, b, f.positive);
    if (on_edge<T>(row, column, n)) hide_masked<T>(m, AboveDiagonal<T>{row, column, n});
  };
  const auto skip = [&](int i, int j) __attribute__((always_inline)) {
    for (int r = 0; r < kMicroRows; ++r) {
      for (int q = 0; q < kMicroCols<T>; q += kWidth<T>)
        store(buffer + (i + r) * kTilePitch<T> + j + q, hidden);
    }
  };
  similarity_tile<T, true>(f.rows.z, f.rows.z, t.i, t.j, t.i == t.j, buffer, finish, skip);
  reduce_tile<T>(buffer, int(f.rows.z.block_rows(t.i, kMicroRows)),
                 int(f.rows.z.block_rows(t.j, kMicroCols<T>)), sums);
}

// Merges the sums of a tile into those of its rows, block I first, each when its turn has come.
template <class T>
void merge_sums(const Forward<T>& f, const Tile& t, const TileSums<T>& sums) {
  const std::int64_t n = f.rows.z.rows, tile = f.rows.z.tile;
  wait_turn(f.rows.turn + t.i, t.round);
  for (std::int64_t i = 0; i < smaller(tile, n - t.i * tile); ++i) {
    math::OnlineLse& lse = f.lse[t.i * tile + i];
    lse = math::lse_merge(t.round == 0 ? math::OnlineLse{0, 0} : lse, sums.row(i));
  }
  if (t.i != t.j) {
    pass_turn(f.rows.turn + t.i);
    wait_turn(f.rows.turn + t.j, t.round);
  }
  for (std::int64_t j = 0; j < smaller(tile, n - t.j * tile); ++j) {
    math::OnlineLse& lse = f.lse[t.j * tile + j];
    const bool fresh = t.round == 0 && t.i != t.j;
    lse = math::lse_merge(fresh ? math::OnlineLse{0, 0} : lse, sums.column(j));
  }
  pass_turn(f.rows.turn + t.j);
}

template <class T>
void sum_tiles(const Forward<T>& f, std::int64_t b, bool bounded) {
  T* buffer = f.rows.tile_of_thread();
  TileSums<T> sums;
  SymmetricRounds rounds(f.rows.z.blocks());
  for (std::int64_t q = next_ticket(f.rows.ticket); q < rounds.tiles();
       q = next_ticket(f.rows.ticket)) {
    const Tile t = rounds.at(q);
    __builtin_memset(&sums, 0, sizeof(sums));
    bounded ? sum_tile_bounded<T>(f, t, b, sums, buffer)
            : sum_tile_shifted<T>(f, t, b, sums, buffer);
    merge_sums<T>(f, t, sums);
  }
}

template <class T, class E>
void forward(const NtxentFwd& p) {
  Arena arena(p.workspace);
  const std::int64_t n = 2 * p.in.B;
  const auto f = Forward<T>::take(arena, n, p.in.D, p.threads);
  const double scale = kLog2E / *p.in.temperature;
  f.rows.reset();
#pragma omp parallel num_threads(p.threads)
  {
    pack<T, E>(p.in, f.rows, scale);
    sum_tiles<T>(f, p.in.B, f.rows.bound(scale) <= kBound);
#pragma omp barrier
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < n; ++i) {
      const double lse = math::lse_log2(f.lse[i]);
      p.lse[i] = lse * kLn2;
      static_cast<T*>(p.loss)[i] = T((lse - double(f.positive[i])) * kLn2);
    }
  }
}

template <class T>
struct Backward {
  Rows<T> rows;
  T* grad_strips;          // sum_j G_ij zh_j as strips, divided by g_max
  SoftmaxRows<T> softmax;  // (padded N), gradients divided by g_max
  double* row_dot;         // (N) zh_i . grad_zh_i

  static Backward take(Arena& arena, std::int64_t n, std::int64_t d, int threads) {
    Backward w{};
    w.rows = Rows<T>::take(arena, n, d, threads);
    w.grad_strips = arena.take<T>(w.rows.z.strips_size());
    w.softmax = SoftmaxRows<T>::take(arena, w.padded_rows());
    w.row_dot = arena.take<double>(n);
    return w;
  }

  std::int64_t padded_rows() const { return rows.z.blocks() * rows.z.tile; }
  T* grad_block(std::int64_t b) const { return grad_strips + b * rows.z.block_size(); }
};

template <class T>
void prepare_row(const Backward<T>& w, const NtxentBwd& p, double g_max, std::int64_t i) {
  if (i >= w.rows.z.rows) return w.softmax.clear(i);
  w.softmax.set(i, double(static_cast<const T*>(p.grad_loss)[i]) / g_max, p.lse[i]);
}

// Tile (I, J) of G, strictly above the diagonal; zero elsewhere.
template <class T, bool kBounded>
void gradient_tile(const Backward<T>& w, const Tile& t, std::int64_t b, T* buffer) {
  const std::int64_t n = w.rows.z.rows, row0 = t.i * w.rows.z.tile, col0 = t.j * w.rows.z.tile;
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
  const auto skip = [&](int i, int j) __attribute__((always_inline)) {
    for (int r = 0; r < kMicroRows; ++r) {
      __builtin_memset(buffer + (i + r) * kTilePitch<T> + j, 0, kMicroCols<T> * sizeof(T));
    }
  };
  similarity_tile<T, true>(w.rows.z, w.rows.z, t.i, t.j, t.i == t.j, buffer, finish, skip);
}

// Adds G zh_J to the gradient of block I and G^T zh_I to that of block J.
template <class T>
void apply_gradient_tile(const Backward<T>& w, const Tile& t, const T* g) {
  constexpr int MR = kMicroRows, NR = kMicroCols<T>, P = kTilePitch<T>;
  const Packed<T>& z = w.rows.z;
  const bool diagonal = t.i == t.j, first = t.round == 0;
  const int rows = int(z.block_rows(t.i, MR)), cols = int(z.block_rows(t.j, NR));
  wait_turn(w.rows.turn + t.i, t.round);
  gradient_product<T, P, 1>(g, z.block(t.j), w.grad_block(t.i), z.strip_count(),
                            {z.strip_size(), z.strip_size()}, rows, !first,
                            [&](int i) { return Span{diagonal ? i / NR * NR : 0, cols}; });
  if (!diagonal) {
    pass_turn(w.rows.turn + t.i);
    wait_turn(w.rows.turn + t.j, t.round);
  }
  gradient_product<T, 1, P>(
      g, z.block(t.i), w.grad_block(t.j), z.strip_count(), {z.strip_size(), z.strip_size()},
      int(z.block_rows(t.j, MR)), !first || diagonal,
      [&](int j) { return Span{0, diagonal ? int(smaller(rows, j + MR)) : rows}; });
  pass_turn(w.rows.turn + t.j);
}

template <class T>
void accumulate_gradient(const Backward<T>& w, std::int64_t b, bool bounded) {
  T* buffer = w.rows.tile_of_thread();
  SymmetricRounds rounds(w.rows.z.blocks());
  for (std::int64_t q = next_ticket(w.rows.ticket); q < rounds.tiles();
       q = next_ticket(w.rows.ticket)) {
    const Tile t = rounds.at(q);
    bounded ? gradient_tile<T, true>(w, t, b, buffer) : gradient_tile<T, false>(w, t, b, buffer);
    apply_gradient_tile<T>(w, t, buffer);
  }
}

template <class T, class E>
void finish_row(const Backward<T>& w, const NtxentBwd& p, double scale, std::int64_t i) {
  const Packed<T>& packed = w.rows.z;
  const T* z = packed.row(i);
  const T* grad = w.grad_strips + (z - packed.strips);
  E* out = i < p.in.B ? static_cast<E*>(p.grad_z_a) + i * p.in.D
                      : static_cast<E*>(p.grad_z_b) + (i - p.in.B) * p.in.D;
  w.row_dot[i] =
      scale * write_gradient_row<T, E>(z, grad, packed.strip_size(), p.in.D, p.in.normalize, 1.0,
                                       scale * w.rows.inv_norm[i], out);
}

template <class T, class E>
void backward(const NtxentBwd& p) {
  Arena arena(p.workspace);
  const std::int64_t n = 2 * p.in.B;
  const auto w = Backward<T>::take(arena, n, p.in.D, p.threads);
  const double tau = *p.in.temperature,
               g_max = gradient_unit(largest_gradient(static_cast<const T*>(p.grad_loss), n));
  w.rows.reset();
#pragma omp parallel num_threads(p.threads)
  {
    pack<T, E>(p.in, w.rows, kLog2E / tau);
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < w.padded_rows(); ++i) prepare_row<T>(w, p, g_max, i);
    accumulate_gradient<T>(w, p.in.B, w.rows.bound(kLog2E / tau) <= kBound);
#pragma omp barrier
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < n; ++i) finish_row<T, E>(w, p, g_max / tau, i);
  }
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += w.row_dot[i];
  *p.grad_temperature = -sum / (2 * tau);
}

}  // namespace

std::int64_t ntxent_fwd_workspace(const NtxentFwd& p) {
  Arena arena(nullptr);
  p.in.dtype == Dtype::kFloat64 ? void(Forward<double>::take(arena, 2 * p.in.B, p.in.D, p.threads))
                                : void(Forward<float>::take(arena, 2 * p.in.B, p.in.D, p.threads));
  return arena.used();
}

std::int64_t ntxent_bwd_workspace(const NtxentBwd& p) {
  Arena arena(nullptr);
  p.in.dtype == Dtype::kFloat64 ? void(Backward<double>::take(arena, 2 * p.in.B, p.in.D, p.threads))
                                : void(Backward<float>::take(arena, 2 * p.in.B, p.in.D, p.threads));
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
