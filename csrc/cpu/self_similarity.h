// The similarities of a set of rows with itself, without their matrix. S is symmetric: only tiles
// on and above its diagonal are computed, and each serves the two blocks of rows it belongs to.
//
// Everything is in base 2: the panels carry log2(e) / tau, so x_ij = s_ij log2(e) comes out of the
// product.
#pragma once
#include "cpu/arena.h"
#include "cpu/schedule.h"
#include "cpu/softmax.h"

namespace sslkern::cpu::SSLKERN_ISA {

// The packed rows, and the state of the tile schedule.
template <class T>
struct SelfRows {
  Packed<T> z;
  double* inv_norm;      // (N)
  std::int64_t* turn;    // (blocks) rounds that are finished for each block
  std::int64_t* ticket;  // the next tile to hand out
  double* largest;       // largest squared norm of any row, infinity if one is not finite

  static SelfRows take(Arena& arena, std::int64_t n, std::int64_t d) {
    SelfRows rows{};
    rows.z = Packed<T>::sized(n, d);
    rows.z.panels = arena.take<T>(rows.z.panels_size());
    rows.z.strips = arena.take<T>(rows.z.strips_size());
    rows.inv_norm = arena.take<double>(n);
    rows.turn = arena.take<std::int64_t>(rows.z.blocks());
    rows.ticket = arena.take<std::int64_t>(1);
    rows.largest = arena.take<double>(1);
    return rows;
  }

  void reset() const {
    rewind();
    *largest = 0;
  }

  // For another pass over the tiles of the same rows.
  void rewind() const {
    for (std::int64_t b = 0; b < z.blocks(); ++b) turn[b] = 0;
    *ticket = 0;
  }

  std::int64_t padded_rows() const { return z.blocks() * z.tile; }
  std::int64_t first(std::int64_t block) const { return block * z.tile; }
  // Rows of a block that exist.
  std::int64_t rows_of(std::int64_t block) const { return smaller(z.tile, z.rows - first(block)); }

  // Whether no |x_ij| exceeds kBound, by Cauchy-Schwarz.
  bool bounded(double scale) const { return *largest * scale <= kBound; }
};

// To be called by all threads of a team; ends with a barrier.
template <class T, class E>
void pack_rows(const RowSource& source, bool normalize, const SelfRows<T>& rows, double scale) {
  const std::int64_t panels = rows.z.padded_rows() / kMicroCols<T>;
  double largest = 0;
#pragma omp for schedule(static) nowait
  for (std::int64_t q = 0; q < panels; ++q) {
    const double squared = pack_panel<T, E>(source, q * kMicroCols<T>, normalize, RowFactor{},
                                            T(scale), rows.z, rows.inv_norm);
    largest = squared > largest ? squared : largest;
  }
#pragma omp critical(sslkern_self_similarity_largest)
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

// Calls visit(tile) for the tiles that this thread draws.
template <class T, class Visit>
void draw_tiles(const SelfRows<T>& rows, const Visit& visit) {
  SymmetricRounds rounds(rows.z.blocks());
  for (std::int64_t q = next_ticket(rows.ticket); q < rounds.tiles();
       q = next_ticket(rows.ticket)) {
    visit(rounds.at(q));
  }
}

// Calls as_rows(fresh) when the turn of the tile has come for block I, then as_columns(fresh) for
// block J; fresh: nothing was added to the block before.
template <class T, class AsRows, class AsColumns>
void in_turn(const SelfRows<T>& rows, const Tile& t, const AsRows& as_rows,
             const AsColumns& as_columns) {
  wait_turn(rows.turn + t.i, t.round);
  as_rows(t.round == 0);
  if (t.i != t.j) {
    pass_turn(rows.turn + t.i);
    wait_turn(rows.turn + t.j, t.round);
  }
  as_columns(t.round == 0 && t.i != t.j);
  pass_turn(rows.turn + t.j);
}

// What the products of G collect, in units of `unit`: see gradient_unit.
template <class T>
struct SelfGradient {
  T* strips;        // sum_j G_ij zh_j as strips
  double* row_dot;  // (N) zh_i . grad_zh_i
  double unit;

  static SelfGradient take(Arena& arena, const SelfRows<T>& rows) {
    return {arena.take<T>(rows.z.strips_size()), arena.take<double>(rows.z.rows), 1.0};
  }
};

// Adds G zh_J to the gradient of block I and G^T zh_I to that of block J. G is zero on and below
// the diagonal.
template <class T>
void apply_gradient_tile(const SelfRows<T>& rows, const SelfGradient<T>& grad, const Tile& t,
                         const T* g) {
  constexpr int MR = kMicroRows, NR = kMicroCols<T>, P = kTilePitch<T>;
  const Packed<T>& z = rows.z;
  const bool diagonal = t.i == t.j;
  const int i_rows = int(z.block_rows(t.i, MR)), j_rows = int(z.block_rows(t.j, MR));
  const int j_cols = int(z.block_rows(t.j, NR));
  const StripSizes sizes{z.strip_size(), z.strip_size()};
  const auto block = [&](std::int64_t b) { return grad.strips + b * z.block_size(); };
  const auto as_rows = [&](bool fresh) {
    gradient_product<T, P, 1>(g, z.block(t.j), block(t.i), z.strip_count(), sizes, i_rows, !fresh,
                              [&](int i) { return Span{diagonal ? i / NR * NR : 0, j_cols}; });
  };
  const auto as_columns = [&](bool fresh) {
    const auto range = [&](int j) {
      return Span{0, diagonal ? int(smaller(i_rows, j + MR)) : i_rows};
    };
    gradient_product<T, 1, P>(g, z.block(t.i), block(t.j), z.strip_count(), sizes, j_rows, !fresh,
                              range);
  };
  in_turn(rows, t, as_rows, as_columns);
}

// Zeros for a micro-tile below the diagonal, for apply_gradient_tile.
template <class T>
SSLKERN_INLINE void clear_micro_tile(T* tile, int i, int j) {
  for (int r = 0; r < kMicroRows; ++r) {
    __builtin_memset(tile + (i + r) * kTilePitch<T> + j, 0, kMicroCols<T> * sizeof(T));
  }
}

// -infinity for a micro-tile below the diagonal, for reduce_tile.
template <class T>
SSLKERN_INLINE void hide_micro_tile(T* tile, int i, int j) {
  const Vec<T> hidden = splat(-T(__builtin_inf()));
  for (int r = 0; r < kMicroRows; ++r) {
    for (int q = 0; q < kMicroCols<T>; q += kWidth<T>) {
      store(tile + (i + r) * kTilePitch<T> + j + q, hidden);
    }
  }
}

// Row i of the gradient, back through the scale 1/tau and the normalisation.
template <class T, class E>
void finish_row(const SelfRows<T>& rows, const SelfGradient<T>& grad, bool normalize, double tau,
                std::int64_t i, E* out) {
  const T* z = rows.z.row(i);
  const double scale = grad.unit / tau;
  grad.row_dot[i] =
      scale * write_gradient_row<T, E>(z, grad.strips + (z - rows.z.strips), rows.z.strip_size(),
                                       rows.z.dims, normalize, 1.0, scale * rows.inv_norm[i], out);
}

// The gradient of the temperature: S depends on zh / sqrt(tau) alone.
template <class T>
double temperature_gradient(const SelfRows<T>& rows, const SelfGradient<T>& grad, double tau) {
  double sum = 0;
  for (std::int64_t i = 0; i < rows.z.rows; ++i) sum += grad.row_dot[i];
  return -sum / (2 * tau);
}

}  // namespace sslkern::cpu::SSLKERN_ISA
