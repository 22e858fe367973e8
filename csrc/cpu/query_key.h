// Queries against keys, without their matrix: what the losses of this family share. The queries are
// packed once; a block of keys is packed by the thread that has drawn it and meets all blocks of
// queries while it is in that thread's cache. Memory beyond inputs and results: the queries once,
// their gradient a few times, and a few tiles per thread; it does not grow with the number of keys
// beyond a few numbers each, so a queue of any length is read in place.
//
// Everything is in base 2: x_ij = s_ij log2(e).
//
// Additions into rows of queries happen in the order of the key blocks, so no bit depends on the
// number of threads. So that threads do not queue up behind each other when there are few blocks of
// queries, what the queries collect has several partial sums (lanes): key block J adds to lane
// J mod lanes, and the lanes are added in order at the end.
#pragma once
#include "contract/query_key.h"
#include "cpu/arena.h"
#include "cpu/schedule.h"
#include "cpu/softmax.h"

namespace sslkern::cpu::SSLKERN_ISA {

// Blocks of queries times lanes: as many threads can add at once.
constexpr std::int64_t kAdders = 16;

// The packed queries and what all threads share.
template <class T>
struct Queries {
  Packed<T> x;           // strips only
  double* inv_norm;      // (N)
  double* largest;       // (2) largest squared norm of a query, of a scaled key
  std::int64_t* ticket;  // the next block of keys to hand out
  std::int64_t key_tile, key_blocks;
  std::int64_t lanes;  // partial sums for the queries
  std::int64_t* turn;  // (lanes, query blocks) key blocks added so far

  static Queries take(Arena& arena, const QueryKey& in) {
    Queries q{};
    const std::int64_t tile = Packed<T>::sized(in.N < in.M ? in.M : in.N, in.D).tile;
    q.x = Packed<T>::sized(in.N, in.D);
    q.x.tile = smaller(tile, round_up(in.N, kTileUnit));
    q.key_tile = smaller(tile, round_up(in.M, kTileUnit));
    q.x.strips = arena.take<T>(q.x.strips_size());
    q.inv_norm = arena.take<double>(in.N);
    q.largest = arena.take<double>(2);
    q.ticket = arena.take<std::int64_t>(1);
    q.key_blocks = ceil_div(in.M, q.key_tile);
    q.lanes = smaller(q.key_blocks, ceil_div(kAdders, q.x.blocks()));
    q.turn = arena.take<std::int64_t>(q.lanes * q.x.blocks());
    return q;
  }

  void reset() const {
    rewind();
    largest[0] = largest[1] = 0;
  }

  // For another pass over the same queries.
  void rewind() const {
    *ticket = 0;
    for (std::int64_t n = 0; n < lanes * x.blocks(); ++n) turn[n] = 0;
  }

  std::int64_t padded_rows() const { return x.blocks() * x.tile; }
  std::int64_t padded_keys() const { return key_blocks * key_tile; }
  // Rows of query block I that exist.
  std::int64_t rows_of(std::int64_t I) const { return smaller(x.tile, x.rows - I * x.tile); }

  // Waits until all earlier key blocks of the lane of J have added to query block I; says whether
  // there were any.
  bool wait_for(std::int64_t J, std::int64_t I) const {
    wait_turn(turn + J % lanes * x.blocks() + I, J / lanes);
    return J >= lanes;
  }
  void pass(std::int64_t J, std::int64_t I) const { pass_turn(turn + J % lanes * x.blocks() + I); }
};

// One block of keys, packed by its thread.
template <class T>
struct KeyBlock {
  Packed<T> y;
  double* inv_norm;  // (tile)
  T* bias;           // (padded tile) bias log2(e), zeros without
  std::int64_t J, first;

  static KeyBlock take(Arena& arena, const Queries<T>& q, bool strips) {
    KeyBlock k{};
    k.y = q.x;
    k.y.rows = k.y.tile = q.key_tile;
    k.y.panels = arena.take<T>(k.y.panels_size());
    k.y.strips = strips ? arena.take<T>(k.y.strips_size()) : nullptr;
    k.inv_norm = arena.take<double>(q.key_tile);
    k.bias = arena.take<T>(q.key_tile);
    return k;
  }

  template <class E>
  void load_block(const QueryKey& in, const Queries<T>& q, std::int64_t block) {
    J = block;
    first = block * q.key_tile;
    y.rows = smaller(q.key_tile, in.M - first);
    const E* keys = static_cast<const E*>(in.key) + first * in.stride_key;
    const RowSource source{keys, nullptr, in.stride_key, 0, y.rows};
    const RowFactor factor{in.scale + (in.scale_per_key ? first : 0), in.scale_per_key};
    for (std::int64_t row = 0; row < y.padded_rows(); row += kMicroCols<T>) {
      pack_panel<T, E>(source, row, in.normalize, factor, T(kLog2E), y, inv_norm);
    }
    for (std::int64_t j = 0; j < q.key_tile; ++j) {
      const bool given = in.bias != nullptr && j < y.rows;
      bias[j] = given ? T(in.bias[in.one_bias ? 0 : first + j] * kLog2E) : T(0);
    }
  }
};

// To be called by all threads of a team; ends with a barrier. Without normalisation the norms of
// the keys are read first: the bound must be known before the first tile.
template <class T, class E>
void pack_queries(const QueryKey& in, const Queries<T>& q) {
  const RowSource source{in.query, nullptr, in.stride_query, 0, in.N};
  double query = 0, key = 0;
#pragma omp for schedule(static) nowait
  for (std::int64_t p = 0; p < q.x.padded_rows() / kMicroCols<T>; ++p) {
    const double squared = pack_panel<T, E>(source, p * kMicroCols<T>, in.normalize, RowFactor{},
                                            T(1), q.x, q.inv_norm);
    query = squared > query ? squared : query;
  }
#pragma omp for schedule(static) nowait
  for (std::int64_t j = 0; j < in.M; ++j) {
    const double scale = RowFactor{in.scale, in.scale_per_key}[j];
    const double norm =
        in.normalize ? 1.0 : row_norm(static_cast<const E*>(in.key) + j * in.stride_key, in.D);
    const double squared = norm * norm * scale * scale;
    key = !(squared <= key) ? (squared == squared ? squared : __builtin_inf()) : key;
  }
#pragma omp critical(sslkern_query_key_largest)
  {
    q.largest[0] = query > q.largest[0] ? query : q.largest[0];
    q.largest[1] = key > q.largest[1] ? key : q.largest[1];
  }
#pragma omp barrier
}

// Whether no |x_ij| exceeds kBound; a NaN or an infinity anywhere says no, or shows in every sum.
template <class T>
bool is_bounded(const QueryKey& in, const Queries<T>& q) {
  double bias = 0;
  const std::int64_t biases = in.bias == nullptr ? 0 : in.one_bias ? 1 : in.M;
  for (std::int64_t j = 0; j < biases; ++j) {
    const double magnitude = __builtin_fabs(in.bias[j]);
    if (!(magnitude <= kBound)) return false;
    bias = magnitude > bias ? magnitude : bias;
  }
  return (__builtin_sqrt(q.largest[0] * q.largest[1]) + bias) * kLog2E <= kBound;
}

template <class T>
SSLKERN_INLINE void add_bias(const QueryKey& in, const KeyBlock<T>& k, const MicroTile<T>& m) {
  if (in.bias == nullptr) return;
  for (int q = 0; q < kMicroCols<T>; q += kWidth<T>) {
    const Vec<T> b = load(k.bias + m.j + q);
    for (int r = 0; r < kMicroRows; ++r) {
      T* c = m.c + r * m.ldc + q;
      store(c, load(c) + b);
    }
  }
}

// Which of the products of G_ij = dL/ds_ij are wanted: with the keys, with the queries, its column
// sums.
struct Wanted {
  bool query, key, bias;
};

// Where the results go; E is the element type of the gradients. Null where not wanted.
template <class E>
struct Results {
  E *grad_query, *grad_key;
  double *grad_scale, *grad_bias, *query_dot;
};

// What the products of G collect. All gradients are in units of `unit`: see gradient_unit.
template <class T>
struct GradientSums {
  Wanted wanted;
  double unit;
  T* strips;                  // (lanes) sum_j G_ij scale_j yh_j as strips
  double *row_dot, *col_dot;  // (N) xh_i . grad_xh_i, (M) scale_j yh_j . sum_i G_ij xh_i
  double* col_sum;            // (M) sum_i G_ij
  bool add;  // to the gradients of keys and bias that are there, of other queries; rows as they are

  static GradientSums take(Arena& arena, const Queries<T>& q, const QueryKey& in, Wanted w) {
    GradientSums s{w, 1.0, nullptr, nullptr, nullptr, nullptr, false};
    s.strips = arena.take<T>(w.query ? q.lanes * q.x.strips_size() : 0);
    s.row_dot = arena.take<double>(w.query ? in.N : 0);
    s.col_dot = arena.take<double>(w.key ? in.M : 0);
    s.col_sum = arena.take<double>(w.bias ? in.M : 0);
    return s;
  }
};

// A thread's block of keys, its tile of G, and what the block collects.
template <class T>
struct GradientScratch {
  KeyBlock<T> k;
  T* tile;
  T* grad_keys;     // sum_i G_ij xh_i of the block as strips
  double* col_sum;  // (tile)

  static GradientScratch take(Arena& arena, const Queries<T>& q, Wanted w) {
    GradientScratch s{};
    s.k = KeyBlock<T>::take(arena, q, w.query || w.key);
    s.tile = arena.take<T>(kTileSize<T>);
    s.grad_keys = arena.take<T>(w.key ? s.k.y.strips_size() : 0);
    s.col_sum = arena.take<double>(w.bias ? q.key_tile : 0);
    return s;
  }
};

template <class T>
void add_column_sums(const GradientScratch<T>& s, int rows, bool fresh) {
  for (std::int64_t j = 0; fresh && j < s.k.y.rows; ++j) s.col_sum[j] = 0;
  for (int i = 0; i < rows; ++i) {
    const T* g = s.tile + i * kTilePitch<T>;
    for (std::int64_t j = 0; j < s.k.y.rows; ++j) s.col_sum[j] += g[j];
  }
}

// In place of an in_turn that has nothing to do.
struct Nothing {
  template <class... Arguments>
  void operator()(const Arguments&...) const {}
};
template <class F>
constexpr bool kIsNothing = false;
template <>
inline constexpr bool kIsNothing<Nothing> = true;

// Adds tile (I, J) of G to whatever is wanted of it. in_turn(scratch, I, fresh) runs when all
// earlier key blocks of the lane have added to query block I; fresh says that there were none.
template <class T, class InTurn>
void apply_gradient_tile(const Queries<T>& q, const GradientSums<T>& sums,
                         const GradientScratch<T>& s, std::int64_t I, const InTurn& in_turn) {
  constexpr int MR = kMicroRows, NR = kMicroCols<T>, P = kTilePitch<T>;
  const Packed<T>& x = q.x;
  const int rows = int(x.block_rows(I, MR)), cols = int(s.k.y.block_rows(0, NR));
  if (sums.wanted.key) {
    gradient_product<T, 1, P>(s.tile, x.block(I), s.grad_keys, x.strip_count(),
                              {x.strip_size(), s.k.y.strip_size()}, int(s.k.y.block_rows(0, MR)),
                              I != 0, [&](int) { return Span{0, rows}; });
  }
  if (sums.wanted.bias) add_column_sums<T>(s, int(q.rows_of(I)), I == 0);
  if (kIsNothing<InTurn> && !sums.wanted.query) return;
  const bool fresh = !q.wait_for(s.k.J, I);
  if (sums.wanted.query) {
    T* to = sums.strips + s.k.J % q.lanes * x.strips_size() + I * x.block_size();
    gradient_product<T, P, 1>(s.tile, s.k.y.block(0), to, x.strip_count(),
                              {s.k.y.strip_size(), x.strip_size()}, rows, !fresh,
                              [&](int) { return Span{0, cols}; });
  }
  in_turn(s, I, fresh);
  q.pass(s.k.J, I);
}

// Adds a row of the result, from its strips.
template <class T, class E>
void add_gradient_row(const T* grad, std::int64_t strip_size, std::int64_t dims, double outer,
                      E* out) {
  constexpr int NR = kMicroCols<T>;
  for (std::int64_t d = 0; d < dims; d += NR) {
    const T* gs = grad + d / NR * strip_size;
    for (int c = 0; c < smaller(NR, dims - d); ++c) {
      out[d + c] = math::Rounded<E>::from(T(math::to_float(out[d + c])) + gs[c] * T(outer));
    }
  }
}

// Writes what a block of keys has collected over all queries.
template <class T, class E>
void finish_keys(const QueryKey& in, const GradientSums<T>& sums, const GradientScratch<T>& s,
                 E* grad_key) {
  for (std::int64_t j = 0; j < s.k.y.rows; ++j) {
    const std::int64_t key = s.k.first + j;
    if (sums.wanted.bias) sums.col_sum[key] = sums.unit * s.col_sum[j];
    if (!sums.wanted.key) continue;
    const double scale = RowFactor{in.scale, in.scale_per_key}[key];
    const T* y = s.k.y.row(j);
    const T* grad = s.grad_keys + (y - s.k.y.strips);
    if (sums.add) {
      add_gradient_row<T, E>(grad, s.k.y.strip_size(), in.D, sums.unit * scale,
                             grad_key + key * in.D);
      continue;
    }
    sums.col_dot[key] = sums.unit * write_gradient_row<T, E>(
                                        y, grad, s.k.y.strip_size(), in.D, in.normalize, scale,
                                        sums.unit * scale * s.k.inv_norm[j], grad_key + key * in.D);
  }
}

// Row i of the gradient of the queries: the lanes in order, then back through the normalisation.
template <class T, class E>
void finish_query(const QueryKey& in, const Queries<T>& q, const GradientSums<T>& sums,
                  std::int64_t i, E* grad_query) {
  constexpr int NR = kMicroCols<T>;
  const Packed<T>& x = q.x;
  const T* row = x.row(i);
  T* sum = sums.strips + (row - x.strips);
  for (std::int64_t lane = 1; lane < q.lanes; ++lane) {
    for (std::int64_t s = 0; s < x.strip_count(); ++s) {
      T* to = sum + s * x.strip_size();
      for (int c = 0; c < NR; ++c) to[c] += to[lane * x.strips_size() + c];
    }
  }
  sums.row_dot[i] =
      sums.unit * write_gradient_row<T, E>(row, sum, x.strip_size(), in.D, in.normalize, 1.0,
                                           sums.unit * q.inv_norm[i], grad_query + i * in.D);
}

// The gradients of the scale and of the bias, from what rows and columns have collected.
template <class T, class E>
void write_small_gradients(const QueryKey& in, const GradientSums<T>& sums, const Results<E>& out) {
  for (std::int64_t i = 0; out.query_dot != nullptr && i < in.N; ++i) {
    out.query_dot[i] = sums.row_dot[i];
  }
  if (out.grad_scale != nullptr && in.scale_per_key) {
    for (std::int64_t j = 0; j < in.M; ++j) out.grad_scale[j] = sums.col_dot[j] / in.scale[j];
  } else if (out.grad_scale != nullptr) {
    // The products of either side give it: sum_ij G_ij s_ij without the bias.
    const double* dot = sums.wanted.query ? sums.row_dot : sums.col_dot;
    const std::int64_t count = sums.wanted.query ? in.N : in.M;
    double sum = 0;
    for (std::int64_t i = 0; i < count; ++i) sum += dot[i];
    *out.grad_scale = sum / *in.scale;
  }
  if (out.grad_bias == nullptr) return;
  double total = 0;
  for (std::int64_t j = 0; j < in.M; ++j) {
    total += sums.col_sum[j];
    if (!in.one_bias) out.grad_bias[j] = sums.col_sum[j] + (sums.add ? out.grad_bias[j] : 0.0);
  }
  if (in.one_bias) *out.grad_bias = total + (sums.add ? *out.grad_bias : 0.0);
}

// The whole pass: make_tile(scratch, I) leaves tile (I, J) of G in scratch.tile, in_turn adds what
// else belongs to the queries. To be called by all threads of a team, after
// pack_queries.
template <class T, class E, class Input, class MakeTile, class InTurn>
void accumulate_gradient(const QueryKey& in, const Queries<T>& q, const GradientSums<T>& sums,
                         GradientScratch<T>& s, const Results<E>& out, const MakeTile& make_tile,
                         const InTurn& in_turn) {
  for (std::int64_t J = next_ticket(q.ticket); J < q.key_blocks; J = next_ticket(q.ticket)) {
    s.k.template load_block<Input>(in, q, J);
    for (std::int64_t I = 0; I < q.x.blocks(); ++I) {
      make_tile(s, I);
      apply_gradient_tile<T>(q, sums, s, I, in_turn);
    }
    finish_keys<T, E>(in, sums, s, out.grad_key);
  }
#pragma omp barrier
  if (!sums.wanted.query) return;
#pragma omp for schedule(static)
  for (std::int64_t i = 0; i < in.N; ++i) finish_query<T, E>(in, q, sums, i, out.grad_query);
}

}  // namespace sslkern::cpu::SSLKERN_ISA
