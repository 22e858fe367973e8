// InfoNCE on the CPU. The queries are packed once; a block of keys is packed by the thread that has
// drawn it and meets all blocks of queries while it is in that thread's cache. Memory beyond inputs
// and results: the queries once, their gradient a few times, and a few tiles per thread; it does
// not grow with the number of keys beyond a few numbers each, so a queue of any length is read in
// place.
//
// Operations: F = 2 N M D. Forward F, both directions of softmax from the same tiles. Backward F
// for the tiles again, F for the gradient of the queries and F for that of the keys, where wanted.
//
// Everything is in base 2: x_ij = s_ij log2(e). See softmax.h for the two ways to the sums.
//
// Additions into rows of queries happen in the order of the key blocks, so no bit depends on the
// number of threads. So that threads do not queue up behind each other when there are few blocks of
// queries, what the queries collect has several partial sums (lanes): key block J adds to lane
// J mod lanes, and the lanes are added in order at the end.
#include "contract/info_nce.h"

#include "cpu/arena.h"
#include "cpu/dtype.h"
#include "cpu/schedule.h"
#include "cpu/softmax.h"

namespace sslkern::cpu::SSLKERN_ISA {
namespace {

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

  static Queries take(Arena& arena, const InfoNceInput& in) {
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
    *ticket = 0;
    largest[0] = largest[1] = 0;
    for (std::int64_t n = 0; n < lanes * x.blocks(); ++n) turn[n] = 0;
  }

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
  void load_block(const InfoNceInput& in, const Queries<T>& q, std::int64_t block) {
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
      bias[j] = in.bias != nullptr && j < y.rows ? T(in.bias[first + j] * kLog2E) : T(0);
    }
  }
};

// The elements of a micro-tile at (row, column) that are inside N x M and not excluded by their
// ids.
template <class T>
struct Allowed {
  static constexpr bool kAll = false;
  const InfoNceInput& in;
  std::int64_t row, column;

  SSLKERN_INLINE auto operator()(int r, int q) const {
    using Int = typename Simd<T>::Int;
    const std::int64_t i = row + r, j = column + q;
    const IntVec<T> lane = lane_index<T>(), zero{};
    const std::int64_t inside = i < in.N && j < in.M ? in.M - j : 0;
    IntVec<T> allowed = lane < zero + Int(inside < kWidth<T> ? inside : kWidth<T>);
    if (in.query_ids == nullptr || inside <= 0) return allowed;
    IntVec<T> ids{};
    const int count = int(smaller(kWidth<T>, inside));
    for (int l = 0; l < count; ++l) ids[l] = Int(in.key_ids[j + l]);
    IntVec<T> other = ids != zero + Int(in.query_ids[i]);
    const std::int64_t target = in.target == nullptr ? -1 : in.target[i] - j;
    if (target >= 0 && target < count) other[target] = Int(-1);
    return allowed & other;
  }
};

template <class T>
SSLKERN_INLINE bool needs_mask(const InfoNceInput& in, std::int64_t row, std::int64_t column) {
  return in.query_ids != nullptr || row + kMicroRows > in.N || column + kMicroCols<T> > in.M;
}

// Calls visit(r, q) for the targets of rows row .. row + MR that lie in the micro-tile.
template <class T, class Visit>
SSLKERN_INLINE void for_targets(const InfoNceInput& in, std::int64_t row, std::int64_t column,
                                const Visit& visit) {
  if (in.target == nullptr) return;
  const std::int64_t count = smaller(kMicroRows, in.N - row);
  for (std::int64_t r = 0; r < count; ++r) {
    const std::int64_t q = in.target[row + r] - column;
    if (q >= 0 && q < kMicroCols<T>) visit(int(r), int(q));
  }
}

template <class T>
SSLKERN_INLINE void add_bias(const InfoNceInput& in, const KeyBlock<T>& k, const MicroTile<T>& m) {
  if (in.bias == nullptr) return;
  for (int q = 0; q < kMicroCols<T>; q += kWidth<T>) {
    const Vec<T> b = load(k.bias + m.j + q);
    for (int r = 0; r < kMicroRows; ++r) {
      T* c = m.c + r * m.ldc + q;
      store(c, load(c) + b);
    }
  }
}

// What one row or column collects over its tiles.
struct Collected {
  math::OnlineLse lse;
  double logits;   // sum of x over the allowed elements, where label smoothing asks for it
  double allowed;  // their number
};

// Sums of x and of ones over the allowed elements of a tile, for label smoothing and ids.
template <class T>
struct TileLogits {
  T row_logits[kMaxTile], row_allowed[kMaxTile];
  alignas(kVectorBytes) T col_logits[kMaxTile], col_allowed[kMaxTile];
};

template <class T>
void add_logits(const MicroTile<T>& m, const Allowed<T>& allowed, TileLogits<T>& sums) {
  constexpr int W = kWidth<T>;
  for (int r = 0; r < kMicroRows; ++r) {
    for (int q = 0; q < kMicroCols<T>; q += W) {
      const auto mask = allowed(r, q);
      const Vec<T> x = mask ? load(m.c + r * m.ldc + q) : Vec<T>{};
      const Vec<T> one = mask ? splat(T(1)) : Vec<T>{};
      sums.row_logits[m.i + r] += horizontal_sum<T>(x);
      sums.row_allowed[m.i + r] += horizontal_sum<T>(one);
      store(sums.col_logits + m.j + q, load(sums.col_logits + m.j + q) + x);
      store(sums.col_allowed + m.j + q, load(sums.col_allowed + m.j + q) + one);
    }
  }
}

template <class T>
struct Forward {
  Queries<T> q;
  Collected* rows;  // (lanes, N)
  Collected* cols;  // (M) symmetric only
  T* target_logit;  // (N) x of row i and its target
  char* per_thread;
  std::int64_t thread_bytes;

  static Forward take(Arena& arena, const InfoNceInput& in, int threads) {
    Forward f{};
    f.q = Queries<T>::take(arena, in);
    f.rows = arena.take<Collected>(f.q.lanes * in.N);
    f.cols = arena.take<Collected>(in.symmetric ? in.M : 0);
    f.target_logit = arena.take<T>(in.N);
    Arena own(nullptr);
    Scratch::take(own, f.q);
    f.thread_bytes = own.used();
    f.per_thread = arena.take<char>(threads * f.thread_bytes);
    return f;
  }

  struct Scratch {
    KeyBlock<T> k;
    T* tile;
    TileSums<T>* sums;
    TileLogits<T>* logits;

    static Scratch take(Arena& arena, const Queries<T>& q) {
      return {KeyBlock<T>::take(arena, q, false), arena.take<T>(kTileSize<T>),
              arena.take<TileSums<T>>(1), arena.take<TileLogits<T>>(1)};
    }
  };

  Scratch scratch() const {
    Arena own(per_thread + thread_number() * thread_bytes);
    return Scratch::take(own, q);
  }
};

SSLKERN_INLINE bool counts_logits(const InfoNceInput& in) {
  return in.label_smoothing > 0 || in.query_ids != nullptr;
}

// Sums of tile (I, J).
template <class T>
void sum_tile(const InfoNceInput& in, const Forward<T>& f, const typename Forward<T>::Scratch& s,
              std::int64_t I, bool bounded) {
  const std::int64_t row0 = I * f.q.x.tile, col0 = s.k.first;
  __builtin_memset(s.sums, 0, sizeof(*s.sums));
  if (counts_logits(in)) __builtin_memset(s.logits, 0, sizeof(*s.logits));
  const auto visit = [&](const MicroTile<T>& m) __attribute__((always_inline)) {
    const std::int64_t row = row0 + m.i, column = col0 + m.j;
    add_bias<T>(in, s.k, m);
    for_targets<T>(in, row, column,
                   [&](int r, int q) { f.target_logit[row + r] = m.c[r * m.ldc + q]; });
    if (counts_logits(in)) add_logits<T>(m, Allowed<T>{in, row, column}, *s.logits);
  };
  const auto skip = [](int, int) {};
  if (bounded) {
    const auto finish = [&](const MicroTile<T>& m) __attribute__((always_inline)) {
      visit(m);
      const std::int64_t row = row0 + m.i, column = col0 + m.j;
      if (needs_mask<T>(in, row, column)) {
        add_powers<T>(m, Allowed<T>{in, row, column}, *s.sums);
      } else {
        add_powers<T>(m, AllLanes{}, *s.sums);
      }
    };
    similarity_tile<T, false>(f.q.x, s.k.y, I, 0, false, s.tile, finish, skip);
  } else {
    const auto finish = [&](const MicroTile<T>& m) __attribute__((always_inline)) {
      visit(m);
      const std::int64_t row = row0 + m.i, column = col0 + m.j;
      if (needs_mask<T>(in, row, column)) hide_masked<T>(m, Allowed<T>{in, row, column});
    };
    similarity_tile<T, true>(f.q.x, s.k.y, I, 0, false, s.tile, finish, skip);
    reduce_tile<T>(s.tile, int(f.q.x.block_rows(I, kMicroRows)),
                   int(s.k.y.block_rows(0, kMicroCols<T>)), *s.sums);
  }
}

SSLKERN_INLINE void merge(Collected& to, math::OnlineLse lse, double logits, double allowed,
                          bool fresh) {
  if (fresh) to = Collected{{0, 0}, 0, 0};
  to.lse = math::lse_merge(to.lse, lse);
  to.logits += logits;
  to.allowed += allowed;
}

// Merges the sums of a tile into those of its queries, in the order of the key blocks, and into
// those of its keys, which belong to this thread.
template <class T>
void merge_tile(const InfoNceInput& in, const Forward<T>& f, const typename Forward<T>::Scratch& s,
                std::int64_t I) {
  const bool counted = counts_logits(in);
  const std::int64_t row0 = I * f.q.x.tile, rows = smaller(f.q.x.tile, in.N - row0);
  if (in.symmetric) {
    for (std::int64_t j = 0; j < s.k.y.rows; ++j) {
      merge(f.cols[s.k.first + j], s.sums->column(j), counted ? s.logits->col_logits[j] : 0,
            counted ? double(s.logits->col_allowed[j]) : double(rows), I == 0);
    }
  }
  const bool fresh = !f.q.wait_for(s.k.J, I);
  Collected* lane = f.rows + s.k.J % f.q.lanes * in.N + row0;
  for (std::int64_t i = 0; i < rows; ++i) {
    merge(lane[i], s.sums->row(i), counted ? s.logits->row_logits[i] : 0,
          counted ? double(s.logits->row_allowed[i]) : double(s.k.y.rows), fresh);
  }
  f.q.pass(s.k.J, I);
}

// To be called by all threads of a team; ends with a barrier. Without normalisation the norms of
// the keys are read first: the bound must be known before the first tile.
template <class T, class E>
void pack_queries(const InfoNceInput& in, const Queries<T>& q) {
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
#pragma omp critical(sslkern_info_nce_largest)
  {
    q.largest[0] = query > q.largest[0] ? query : q.largest[0];
    q.largest[1] = key > q.largest[1] ? key : q.largest[1];
  }
#pragma omp barrier
}

// Whether no |x_ij| exceeds kBound; a NaN or an infinity anywhere says no, or shows in every sum.
template <class T>
bool is_bounded(const InfoNceInput& in, const Queries<T>& q) {
  double bias = 0;
  for (std::int64_t j = 0; in.bias != nullptr && j < in.M; ++j) {
    const double magnitude = __builtin_fabs(in.bias[j]);
    if (!(magnitude <= kBound)) return false;
    bias = magnitude > bias ? magnitude : bias;
  }
  return (__builtin_sqrt(q.largest[0] * q.largest[1]) + bias) * kLog2E <= kBound;
}

template <class T, class E>
void sum_tiles(const InfoNceInput& in, const Forward<T>& f) {
  auto s = f.scratch();
  const bool bounded = is_bounded<T>(in, f.q);
  for (std::int64_t J = next_ticket(f.q.ticket); J < f.q.key_blocks; J = next_ticket(f.q.ticket)) {
    s.k.template load_block<E>(in, f.q, J);
    for (std::int64_t I = 0; I < f.q.x.blocks(); ++I) {
      sum_tile<T>(in, f, s, I, bounded);
      merge_tile<T>(in, f, s, I);
    }
  }
}

// loss = lse - (1 - e) target - e mean of the allowed logits, from log2 units.
template <class T>
void write_loss(const InfoNceInput& in, const Collected& c, double target, double* stats, T* loss) {
  const double lse = math::lse_log2(c.lse), e = in.label_smoothing;
  double value = in.target == nullptr ? lse : e == 0 ? lse - target : lse - (1 - e) * target;
  if (e > 0) value -= e * c.logits / c.allowed;
  *loss = T(value * kLn2);
  stats[0] = lse * kLn2;
  stats[1] = c.allowed;
}

template <class T, class E>
void form_grad_query(const InfoNceFwd& p);

template <class T, class E>
void forward(const InfoNceFwd& p) {
  const InfoNceInput& in = p.in;
  Arena arena(p.workspace);
  const auto f = Forward<T>::take(arena, in, p.threads);
  f.q.reset();
#pragma omp parallel num_threads(p.threads)
  {
    pack_queries<T, E>(in, f.q);
    sum_tiles<T, E>(in, f);
#pragma omp barrier
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < in.N; ++i) {
      const double target = in.target == nullptr ? 0.0 : double(f.target_logit[i]);
      for (std::int64_t lane = 1; lane < f.q.lanes; ++lane) {
        const Collected& c = f.rows[lane * in.N + i];
        merge(f.rows[i], c.lse, c.logits, c.allowed, false);
      }
      write_loss<T>(in, f.rows[i], target, p.stats + 2 * i, static_cast<T*>(p.loss) + i);
      if (in.symmetric) {
        write_loss<T>(in, f.cols[i], target, p.stats_col + 2 * i, static_cast<T*>(p.loss_col) + i);
      }
    }
  }
  if (p.grad_query != nullptr) form_grad_query<T, E>(p);
}

// What the backward pass is to compute, whether it runs as such or inside the forward pass.
struct Wanted {
  const InfoNceInput& in;
  const double *stats, *stats_col;
  bool query, key, bias;
};

template <class T>
struct Backward {
  Queries<T> q;
  SoftmaxRows<T> rows, cols;     // (padded N), (padded M; padded tile where there is one direction)
  T *row_uniform, *col_uniform;  // g_i e / |A_i| likewise, with label smoothing
  T* grad_strips;                // (lanes) sum_j G_ij scale_j yh_j as strips
  double *row_dot, *col_dot;     // (N) xh_i . grad_xh_i, (M) scale_j yh_j . sum_i G_ij xh_i
  char* per_thread;
  std::int64_t thread_bytes;

  static Backward take(Arena& arena, const Wanted& w, int threads) {
    Backward b{};
    b.q = Queries<T>::take(arena, w.in);
    const std::int64_t blocks = b.q.x.blocks();
    const std::int64_t rows = blocks * b.q.x.tile, cols = b.q.key_blocks * b.q.key_tile;
    b.rows = SoftmaxRows<T>::take(arena, rows);
    b.cols = SoftmaxRows<T>::take(arena, w.in.symmetric ? cols : 0);
    b.row_uniform = arena.take<T>(rows);
    b.col_uniform = arena.take<T>(w.in.symmetric ? cols : 0);
    b.grad_strips = arena.take<T>(w.query ? b.q.lanes * b.q.x.strips_size() : 0);
    b.row_dot = arena.take<double>(w.in.N);
    b.col_dot = arena.take<double>(w.key ? w.in.M : 0);
    Arena own(nullptr);
    Scratch::take(own, b.q, w);
    b.thread_bytes = own.used();
    b.per_thread = arena.take<char>(threads * b.thread_bytes);
    return b;
  }

  struct Scratch {
    KeyBlock<T> k;
    T* tile;
    T* grad_keys;       // sum_i G_ij xh_i of the block as strips
    double* grad_bias;  // (tile)

    static Scratch take(Arena& arena, const Queries<T>& q, const Wanted& w) {
      Scratch s{};
      s.k = KeyBlock<T>::take(arena, q, true);
      s.tile = arena.take<T>(kTileSize<T>);
      s.grad_keys = arena.take<T>(w.key ? s.k.y.strips_size() : 0);
      s.grad_bias = arena.take<double>(q.key_tile);
      return s;
    }
  };

  Scratch scratch(const Wanted& w) const {
    Arena own(per_thread + thread_number() * thread_bytes);
    return Scratch::take(own, q, w);
  }

  T* grad_block(std::int64_t lane, std::int64_t I) const {
    return grad_strips + lane * q.x.strips_size() + I * q.x.block_size();
  }
};

template <class T>
void prepare(const SoftmaxRows<T>& rows, T* uniform, std::int64_t i, std::int64_t count, double g,
             const double* stats, double label_smoothing) {
  if (i >= count) {
    uniform[i] = T(0);
    return rows.clear(i);
  }
  rows.set(i, g, stats[2 * i]);
  uniform[i] = label_smoothing > 0 ? T(g * label_smoothing / stats[2 * i + 1]) : T(0);
}

template <class T>
void subtract_uniform(const Wanted& w, const Backward<T>& b, const MicroTile<T>& m,
                      std::int64_t row, std::int64_t column) {
  const Allowed<T> allowed{w.in, row, column};
  for (int r = 0; r < kMicroRows; ++r) {
    for (int q = 0; q < kMicroCols<T>; q += kWidth<T>) {
      T* c = m.c + r * m.ldc + q;
      Vec<T> uniform = splat(b.row_uniform[row + r]);
      if (w.in.symmetric) uniform += load(b.col_uniform + column + q);
      store(c, allowed(r, q) ? load(c) - uniform : load(c));
    }
  }
}

// Tile (I, J) of G.
template <class T, bool kBounded, bool kSymmetric>
void gradient_tile(const Wanted& w, const Backward<T>& b, const typename Backward<T>::Scratch& s,
                   std::int64_t I) {
  const InfoNceInput& in = w.in;
  const std::int64_t row0 = I * b.q.x.tile, col0 = s.k.first;
  const auto finish = [&](const MicroTile<T>& m) __attribute__((always_inline)) {
    const std::int64_t row = row0 + m.i, column = col0 + m.j;
    const auto gradient = [&](int r, int q, Vec<T> x) __attribute__((always_inline)) {
      if constexpr (kSymmetric) {
        return pair_gradient<T, kBounded>(b.rows, b.cols, x, row + r, column + q);
      } else {
        return row_gradient<T, kBounded>(b.rows, x, row + r);
      }
    };
    add_bias<T>(in, s.k, m);
    if (needs_mask<T>(in, row, column)) {
      replace_by_gradient<T>(m, Allowed<T>{in, row, column}, gradient);
    } else {
      replace_by_gradient<T>(m, AllLanes{}, gradient);
    }
    if (in.label_smoothing > 0) subtract_uniform<T>(w, b, m, row, column);
    const T kept = T(1 - in.label_smoothing);
    for_targets<T>(in, row, column, [&](int r, int q) {
      m.c[r * m.ldc + q] -= kept * (b.rows.g[row + r] + (kSymmetric ? b.cols.g[column + q] : T(0)));
    });
  };
  similarity_tile<T, true>(b.q.x, s.k.y, I, 0, false, s.tile, finish, [](int, int) {});
}

template <class T>
void gradient_tile(const Wanted& w, const Backward<T>& b, const typename Backward<T>::Scratch& s,
                   std::int64_t I, bool bounded) {
  if (w.in.symmetric) {
    bounded ? gradient_tile<T, true, true>(w, b, s, I) : gradient_tile<T, false, true>(w, b, s, I);
  } else {
    bounded ? gradient_tile<T, true, false>(w, b, s, I)
            : gradient_tile<T, false, false>(w, b, s, I);
  }
}

// Adds tile (I, J) of G to whatever is wanted of it.
template <class T>
void apply_gradient_tile(const Wanted& w, const Backward<T>& b,
                         const typename Backward<T>::Scratch& s, std::int64_t I) {
  constexpr int MR = kMicroRows, NR = kMicroCols<T>, P = kTilePitch<T>;
  const Packed<T>& x = b.q.x;
  const int rows = int(x.block_rows(I, MR)), cols = int(s.k.y.block_rows(0, NR));
  if (w.key) {
    gradient_product<T, 1, P>(s.tile, x.block(I), s.grad_keys, x.strip_count(),
                              {x.strip_size(), s.k.y.strip_size()}, int(s.k.y.block_rows(0, MR)),
                              I != 0, [&](int) { return Span{0, rows}; });
  }
  if (w.bias) {
    for (int i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < s.k.y.rows; ++j) s.grad_bias[j] += s.tile[i * P + j];
    }
  }
  if (w.query) {
    const bool fresh = !b.q.wait_for(s.k.J, I);
    gradient_product<T, P, 1>(s.tile, s.k.y.block(0), b.grad_block(s.k.J % b.q.lanes, I),
                              x.strip_count(), {s.k.y.strip_size(), x.strip_size()}, rows, !fresh,
                              [&](int) { return Span{0, cols}; });
    b.q.pass(s.k.J, I);
  }
}

// Where the results go; E is the element type of the gradients.
template <class E>
struct Results {
  E *grad_query, *grad_key;
  double *grad_scale, *grad_bias, *query_dot;
};

template <class T, class E>
void finish_keys(const Wanted& w, const Backward<T>& b, const typename Backward<T>::Scratch& s,
                 double unit, E* grad_key) {
  const InfoNceInput& in = w.in;
  for (std::int64_t j = 0; j < s.k.y.rows; ++j) {
    const std::int64_t key = s.k.first + j;
    const double scale = RowFactor{in.scale, in.scale_per_key}[key];
    const T* y = s.k.y.row(j);
    const T* grad = s.grad_keys + (y - s.k.y.strips);
    E* out = grad_key + key * in.D;
    b.col_dot[key] =
        unit * write_gradient_row<T, E>(y, grad, s.k.y.strip_size(), in.D, in.normalize, scale,
                                        unit * scale * s.k.inv_norm[j], out);
  }
}

template <class T, class E, class Input>
void accumulate(const Wanted& w, const Backward<T>& b, double unit, const Results<E>& out) {
  auto s = b.scratch(w);
  const bool bounded = is_bounded<T>(w.in, b.q);
  for (std::int64_t J = next_ticket(b.q.ticket); J < b.q.key_blocks; J = next_ticket(b.q.ticket)) {
    s.k.template load_block<Input>(w.in, b.q, J);
    for (std::int64_t j = 0; j < b.q.key_tile; ++j) s.grad_bias[j] = 0;
    for (std::int64_t I = 0; I < b.q.x.blocks(); ++I) {
      gradient_tile<T>(w, b, s, I, bounded);
      apply_gradient_tile<T>(w, b, s, I);
    }
    if (w.key) finish_keys<T, E>(w, b, s, unit, out.grad_key);
    for (std::int64_t j = 0; w.bias && j < s.k.y.rows; ++j) {
      out.grad_bias[s.k.first + j] = unit * s.grad_bias[j];
    }
  }
}

// Row i of the gradient of the queries: the lanes in order, then back through the normalisation.
template <class T, class E>
void finish_query(const Wanted& w, const Backward<T>& b, double unit, std::int64_t i,
                  E* grad_query) {
  constexpr int NR = kMicroCols<T>;
  const Packed<T>& x = b.q.x;
  const T* row = x.row(i);
  const std::int64_t offset = row - x.strips, lane_size = x.strips_size();
  T* sum = b.grad_strips + offset;
  for (std::int64_t lane = 1; lane < b.q.lanes; ++lane) {
    for (std::int64_t s = 0; s < x.strip_count(); ++s) {
      T* to = sum + s * x.strip_size();
      for (int c = 0; c < NR; ++c) to[c] += to[lane * lane_size + c];
    }
  }
  b.row_dot[i] =
      unit * write_gradient_row<T, E>(row, sum, x.strip_size(), w.in.D, w.in.normalize, 1.0,
                                      unit * b.q.inv_norm[i], grad_query + i * w.in.D);
}

template <class T>
void write_grad_scale(const Wanted& w, const Backward<T>& b, double* grad_scale) {
  const InfoNceInput& in = w.in;
  if (in.scale_per_key) {
    for (std::int64_t j = 0; j < in.M; ++j) grad_scale[j] = b.col_dot[j] / in.scale[j];
    return;
  }
  double sum = 0;
  for (std::int64_t i = 0; i < in.N; ++i) sum += b.row_dot[i];
  *grad_scale = sum / *in.scale;
}

// The gradient for upstream gradients g (null: all 1) and h, in elements E, of inputs in elements
// Input.
template <class T, class E, class Input>
void differentiate(const Wanted& w, const T* g, const T* h, const Results<E>& out, void* workspace,
                   int threads) {
  const InfoNceInput& in = w.in;
  Arena arena(workspace);
  const auto b = Backward<T>::take(arena, w, threads);
  const double g_largest = g == nullptr ? 1.0 : largest_gradient(g, in.N);
  const double h_largest = h == nullptr ? 0.0 : largest_gradient(h, in.M);
  const double unit = gradient_unit(g_largest > h_largest ? g_largest : h_largest);
  b.q.reset();
#pragma omp parallel num_threads(threads)
  {
    pack_queries<T, Input>(in, b.q);
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < b.q.x.blocks() * b.q.x.tile; ++i) {
      const double gradient = i < in.N ? (g == nullptr ? 1.0 : double(g[i])) / unit : 0.0;
      prepare<T>(b.rows, b.row_uniform, i, in.N, gradient, w.stats, in.label_smoothing);
    }
#pragma omp for schedule(static)
    for (std::int64_t j = 0; j < (in.symmetric ? b.q.key_blocks * b.q.key_tile : 0); ++j) {
      const double gradient = j < in.M ? double(h[j]) / unit : 0.0;
      prepare<T>(b.cols, b.col_uniform, j, in.M, gradient, w.stats_col, in.label_smoothing);
    }
    accumulate<T, E, Input>(w, b, unit, out);
#pragma omp barrier
    if (w.query) {
#pragma omp for schedule(static)
      for (std::int64_t i = 0; i < in.N; ++i) finish_query<T, E>(w, b, unit, i, out.grad_query);
    }
  }
  if (out.grad_scale != nullptr) write_grad_scale<T>(w, b, out.grad_scale);
  for (std::int64_t i = 0; out.query_dot != nullptr && i < in.N; ++i)
    out.query_dot[i] = b.row_dot[i];
}

Wanted wanted_of(const InfoNceBwd& p) {
  return {p.in,
          p.stats,
          p.stats_col,
          p.grad_query != nullptr,
          p.grad_key != nullptr,
          p.grad_bias != nullptr};
}

Wanted wanted_of(const InfoNceFwd& p) { return {p.in, p.stats, nullptr, true, false, false}; }

template <class T, class E>
void form_grad_query(const InfoNceFwd& p) {
  const Results<T> out{static_cast<T*>(p.grad_query), nullptr, nullptr, nullptr, p.query_dot};
  differentiate<T, T, E>(wanted_of(p), nullptr, nullptr, out, p.workspace, p.threads);
}

template <class T, class E>
void backward(const InfoNceBwd& p) {
  const Results<E> out{static_cast<E*>(p.grad_query), static_cast<E*>(p.grad_key), p.grad_scale,
                       p.grad_bias, nullptr};
  differentiate<T, E, E>(wanted_of(p), static_cast<const T*>(p.grad_loss),
                         static_cast<const T*>(p.grad_loss_col), out, p.workspace, p.threads);
}

template <class T>
std::int64_t forward_bytes(const InfoNceFwd& p) {
  Arena forward(nullptr), backward(nullptr);
  Forward<T>::take(forward, p.in, p.threads);
  if (p.grad_query != nullptr) Backward<T>::take(backward, wanted_of(p), p.threads);
  return forward.used() > backward.used() ? forward.used() : backward.used();
}

template <class T>
std::int64_t backward_bytes(const InfoNceBwd& p) {
  Arena arena(nullptr);
  Backward<T>::take(arena, wanted_of(p), p.threads);
  return arena.used();
}

}  // namespace

std::int64_t info_nce_fwd_workspace(const InfoNceFwd& p) {
  return p.in.dtype == Dtype::kFloat64 ? forward_bytes<double>(p) : forward_bytes<float>(p);
}

std::int64_t info_nce_bwd_workspace(const InfoNceBwd& p) {
  return p.in.dtype == Dtype::kFloat64 ? backward_bytes<double>(p) : backward_bytes<float>(p);
}

void info_nce_fwd(const InfoNceFwd& p) {
  with_types(p.in.dtype, [&]<class T, class E>() { forward<T, E>(p); });
}

void info_nce_bwd(const InfoNceBwd& p) {
  with_types(p.in.dtype, [&]<class T, class E>() { backward<T, E>(p); });
}

}  // namespace sslkern::cpu::SSLKERN_ISA

SSLKERN_ENTRY(std::int64_t, info_nce_fwd_workspace, const InfoNceFwd&)
SSLKERN_ENTRY(std::int64_t, info_nce_bwd_workspace, const InfoNceBwd&)
SSLKERN_ENTRY(void, info_nce_fwd, const InfoNceFwd&)
SSLKERN_ENTRY(void, info_nce_bwd, const InfoNceBwd&)
