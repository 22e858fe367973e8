// InfoNCE on the CPU, on the blocks and tiles of query_key.h. See softmax.h for the two ways to the
// sums.
//
// Operations: F = 2 N M D. Forward F, both directions of softmax from the same tiles. Backward F
// for the tiles again, F for the gradient of the queries and F for that of the keys, where wanted.
#include "contract/info_nce.h"

#include "cpu/dtype.h"
#include "cpu/query_key.h"

namespace sslkern::cpu::SSLKERN_ISA {
namespace {

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
  struct Scratch;
  Queries<T> q;
  Collected* rows;  // (lanes, N)
  Collected* cols;  // (M) symmetric only
  T* target_logit;  // (N) x of row i and its target
  PerThread<Scratch> scratches;

  static Forward take(Arena& arena, const InfoNceInput& in, int threads) {
    Forward f{};
    f.q = Queries<T>::take(arena, in);
    f.rows = arena.take<Collected>(f.q.lanes * in.N);
    f.cols = arena.take<Collected>(in.symmetric ? in.M : 0);
    f.target_logit = arena.take<T>(in.N);
    f.scratches = PerThread<Scratch>::take(arena, threads, f.q);
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

  Scratch scratch() const { return scratches.of_thread(thread_number(), q); }
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
  stats[0] = lse;
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
    }
#pragma omp for schedule(static)
    for (std::int64_t j = 0; j < (in.symmetric ? in.M : 0); ++j) {
      const double target = in.target == nullptr ? 0.0 : double(f.target_logit[j]);
      write_loss<T>(in, f.cols[j], target, p.stats_col + 2 * j, static_cast<T*>(p.loss_col) + j);
    }
  }
  if (p.grad_query != nullptr) form_grad_query<T, E>(p);
}

// What the backward pass is to compute, whether it runs as such or inside the forward pass.
struct Task {
  const InfoNceInput& in;
  const double *stats, *stats_col;
  Wanted wanted;
};

template <class T>
struct Backward {
  Queries<T> q;
  SoftmaxRows<T> rows, cols;     // (padded N), (padded M) with both directions
  T *row_uniform, *col_uniform;  // g_i e / |A_i| likewise, with label smoothing
  GradientSums<T> sums;
  PerThread<GradientScratch<T>> scratches;

  static Backward take(Arena& arena, const Task& task, int threads) {
    Backward b{};
    b.q = Queries<T>::take(arena, task.in);
    const std::int64_t rows = b.q.padded_rows();
    const std::int64_t cols = task.in.symmetric ? b.q.padded_keys() : 0;
    b.rows = SoftmaxRows<T>::take(arena, rows);
    b.cols = SoftmaxRows<T>::take(arena, cols);
    b.row_uniform = arena.take<T>(rows);
    b.col_uniform = arena.take<T>(cols);
    b.sums = GradientSums<T>::take(arena, b.q, task.in, task.wanted);
    b.scratches = PerThread<GradientScratch<T>>::take(arena, threads, b.q, task.wanted);
    return b;
  }

  GradientScratch<T> scratch() const {
    return scratches.of_thread(thread_number(), q, sums.wanted);
  }
};

template <class T>
void prepare(const SoftmaxRows<T>& rows, T* uniform, std::int64_t i, std::int64_t count, double g,
             const double* stats, double label_smoothing) {
  if (i >= count) {
    uniform[i] = T(0);
    return rows.clear(i);
  }
  rows.set_log2(i, g, stats[2 * i]);
  uniform[i] = label_smoothing > 0 ? T(g * label_smoothing / stats[2 * i + 1]) : T(0);
}

template <class T>
void subtract_uniform(const InfoNceInput& in, const Backward<T>& b, const MicroTile<T>& m,
                      std::int64_t row, std::int64_t column) {
  const Allowed<T> allowed{in, row, column};
  for (int r = 0; r < kMicroRows; ++r) {
    for (int q = 0; q < kMicroCols<T>; q += kWidth<T>) {
      T* c = m.c + r * m.ldc + q;
      Vec<T> uniform = splat(b.row_uniform[row + r]);
      if (in.symmetric) uniform += load(b.col_uniform + column + q);
      store(c, allowed(r, q) ? load(c) - uniform : load(c));
    }
  }
}

// Tile (I, J) of G.
template <class T, bool kBounded, bool kSymmetric>
void gradient_tile(const InfoNceInput& in, const Backward<T>& b, const GradientScratch<T>& s,
                   std::int64_t I) {
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
    if (in.label_smoothing > 0) subtract_uniform<T>(in, b, m, row, column);
    const T kept = T(1 - in.label_smoothing);
    for_targets<T>(in, row, column, [&](int r, int q) {
      m.c[r * m.ldc + q] -= kept * (b.rows.g[row + r] + (kSymmetric ? b.cols.g[column + q] : T(0)));
    });
  };
  similarity_tile<T, true>(b.q.x, s.k.y, I, 0, false, s.tile, finish, [](int, int) {});
}

template <class T>
void gradient_tile(const InfoNceInput& in, const Backward<T>& b, const GradientScratch<T>& s,
                   std::int64_t I, bool bounded) {
  if (in.symmetric) {
    bounded ? gradient_tile<T, true, true>(in, b, s, I)
            : gradient_tile<T, false, true>(in, b, s, I);
  } else {
    bounded ? gradient_tile<T, true, false>(in, b, s, I)
            : gradient_tile<T, false, false>(in, b, s, I);
  }
}

// The gradient for upstream gradients g (null: all 1) and h, in elements E, of inputs in elements
// Input.
template <class T, class E, class Input>
void differentiate(const Task& task, const T* g, const T* h, const Results<E>& out, void* workspace,
                   int threads) {
  const InfoNceInput& in = task.in;
  Arena arena(workspace);
  auto b = Backward<T>::take(arena, task, threads);
  const double g_largest = g == nullptr ? 1.0 : largest_gradient(g, in.N);
  const double h_largest = h == nullptr ? 0.0 : largest_gradient(h, in.M);
  const double unit = gradient_unit(g_largest > h_largest ? g_largest : h_largest);
  b.sums.unit = unit;
  b.q.reset();
#pragma omp parallel num_threads(threads)
  {
    pack_queries<T, Input>(in, b.q);
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < b.q.padded_rows(); ++i) {
      const double gradient = i < in.N ? (g == nullptr ? 1.0 : double(g[i])) / unit : 0.0;
      prepare<T>(b.rows, b.row_uniform, i, in.N, gradient, task.stats, in.label_smoothing);
    }
#pragma omp for schedule(static)
    for (std::int64_t j = 0; j < (in.symmetric ? b.q.padded_keys() : 0); ++j) {
      const double gradient = j < in.M ? double(h[j]) / unit : 0.0;
      prepare<T>(b.cols, b.col_uniform, j, in.M, gradient, task.stats_col, in.label_smoothing);
    }
    const bool bounded = is_bounded<T>(in, b.q);
    auto scratch = b.scratch();
    const auto make_tile = [&](const GradientScratch<T>& s, std::int64_t I) {
      gradient_tile<T>(in, b, s, I, bounded);
    };
    accumulate_gradient<T, E, Input>(in, b.q, b.sums, scratch, out, make_tile, Nothing{});
  }
  write_small_gradients<T, E>(in, b.sums, out);
}

Task task_of(const InfoNceBwd& p) {
  const Wanted wanted{p.grad_query != nullptr, p.grad_key != nullptr, p.grad_bias != nullptr};
  return {p.in, p.stats, p.stats_col, wanted};
}

Task task_of(const InfoNceFwd& p) { return {p.in, p.stats, nullptr, {true, false, false}}; }

template <class T, class E>
void form_grad_query(const InfoNceFwd& p) {
  const Results<T> out{static_cast<T*>(p.grad_query), nullptr, nullptr, nullptr, p.query_dot};
  differentiate<T, T, E>(task_of(p), nullptr, nullptr, out, p.workspace, p.threads);
}

template <class T, class E>
void backward(const InfoNceBwd& p) {
  const Results<E> out{static_cast<E*>(p.grad_query), static_cast<E*>(p.grad_key), p.grad_scale,
                       p.grad_bias, nullptr};
  differentiate<T, E, E>(task_of(p), static_cast<const T*>(p.grad_loss),
                         static_cast<const T*>(p.grad_loss_col), out, p.workspace, p.threads);
}

template <class T>
std::int64_t forward_bytes(const InfoNceFwd& p) {
  Arena forward(nullptr), backward(nullptr);
  Forward<T>::take(forward, p.in, p.threads);
  if (p.grad_query != nullptr) Backward<T>::take(backward, task_of(p), p.threads);
  return forward.used() > backward.used() ? forward.used() : backward.used();
}

template <class T>
std::int64_t backward_bytes(const InfoNceBwd& p) {
  Arena arena(nullptr);
  Backward<T>::take(arena, task_of(p), p.threads);
  return arena.used();
}

template <class T>
struct Rank {
  struct Scratch;
  Queries<T> q;
  T* limit;  // (padded N) x of row i and its target
  PerThread<Scratch> scratches;

  struct Scratch {
    KeyBlock<T> k;
    T* tile;
    T (*larger)[kWidth<T>];  // (tile) columns with a larger logit, as vectors

    static Scratch take(Arena& arena, const Queries<T>& q) {
      return {KeyBlock<T>::take(arena, q, false), arena.take<T>(kTileSize<T>),
              arena.take<T[kWidth<T>]>(kMaxTile)};
    }
  };

  static Rank take(Arena& arena, const InfoNceRank& p) {
    Rank r{};
    r.q = Queries<T>::take(arena, p.in);
    r.limit = arena.take<T>(r.q.padded_rows());
    r.scratches = PerThread<Scratch>::take(arena, p.threads, r.q);
    return r;
  }

  Scratch scratch() const { return scratches.of_thread(thread_number(), q); }
};

// Calls visit(scratch, I) for every tile that this thread draws.
template <class T, class E, class Visit>
void visit_tiles(const InfoNceInput& in, const Rank<T>& r, const Visit& visit) {
  auto s = r.scratch();
  for (std::int64_t J = next_ticket(r.q.ticket); J < r.q.key_blocks; J = next_ticket(r.q.ticket)) {
    s.k.template load_block<E>(in, r.q, J);
    for (std::int64_t I = 0; I < r.q.x.blocks(); ++I) visit(s, I);
  }
}

// The logits of the targets, from the same products as all others: equal keys have equal logits.
template <class T>
void find_limits(const InfoNceInput& in, const Rank<T>& r, const typename Rank<T>::Scratch& s,
                 std::int64_t I) {
  const std::int64_t row0 = I * r.q.x.tile, col0 = s.k.first;
  bool any = false;
  for (std::int64_t i = 0; i < r.q.rows_of(I); ++i) {
    const std::int64_t j = in.target[row0 + i] - col0;
    any |= j >= 0 && j < s.k.y.rows;
  }
  if (!any) return;
  const auto finish = [&](const MicroTile<T>& m) __attribute__((always_inline)) {
    const std::int64_t row = row0 + m.i, column = col0 + m.j;
    add_bias<T>(in, s.k, m);
    for_targets<T>(in, row, column, [&](int t, int q) { r.limit[row + t] = m.c[t * m.ldc + q]; });
  };
  similarity_tile<T, false>(r.q.x, s.k.y, I, 0, false, s.tile, finish, [](int, int) {});
}

template <class T>
void count_larger(const InfoNceRank& p, const Rank<T>& r, const typename Rank<T>::Scratch& s,
                  std::int64_t I) {
  const std::int64_t row0 = I * r.q.x.tile, col0 = s.k.first;
  __builtin_memset(s.larger, 0, kMaxTile * sizeof(*s.larger));
  const auto finish = [&](const MicroTile<T>& m) __attribute__((always_inline)) {
    add_bias<T>(p.in, s.k, m);
    const Allowed<T> allowed{p.in, row0 + m.i, col0 + m.j};
    const Vec<T> one = splat(T(1));
    for (int t = 0; t < kMicroRows; ++t) {
      Vec<T> count = load(s.larger[m.i + t]);
      for (int q = 0; q < kMicroCols<T>; q += kWidth<T>) {
        const auto smaller_or_equal = load(m.c + t * m.ldc + q) <= splat(r.limit[row0 + m.i + t]);
        count += (~smaller_or_equal & allowed(t, q)) ? one : Vec<T>{};
      }
      store(s.larger[m.i + t], count);
    }
  };
  similarity_tile<T, false>(r.q.x, s.k.y, I, 0, false, s.tile, finish, [](int, int) {});
  for (std::int64_t i = 0; i < r.q.rows_of(I); ++i) {
    const auto larger = std::int64_t(horizontal_sum<T>(load(s.larger[i])));
    __atomic_fetch_add(p.rank + row0 + i, larger, __ATOMIC_RELAXED);
  }
}

template <class T, class E>
void rank(const InfoNceRank& p) {
  const InfoNceInput& in = p.in;
  Arena arena(p.workspace);
  const auto r = Rank<T>::take(arena, p);
  for (std::int64_t i = 0; i < r.q.padded_rows(); ++i) {
    r.limit[i] = p.threshold != nullptr && i < in.N ? T(p.threshold[i] * kLog2E) : T(0);
  }
  for (std::int64_t i = 0; i < in.N; ++i) p.rank[i] = 0;
  r.q.reset();
#pragma omp parallel num_threads(p.threads)
  {
    pack_queries<T, E>(in, r.q);
    if (in.target != nullptr) {
      visit_tiles<T, E>(in, r, [&](const auto& s, std::int64_t I) { find_limits<T>(in, r, s, I); });
    }
#pragma omp barrier
#pragma omp single
    *r.q.ticket = 0;
    visit_tiles<T, E>(in, r, [&](const auto& s, std::int64_t I) { count_larger<T>(p, r, s, I); });
  }
}

template <class T>
std::int64_t rank_bytes(const InfoNceRank& p) {
  Arena arena(nullptr);
  Rank<T>::take(arena, p);
  return arena.used();
}

}  // namespace

std::int64_t info_nce_fwd_workspace(const InfoNceFwd& p) {
  return p.in.dtype == Dtype::kFloat64 ? forward_bytes<double>(p) : forward_bytes<float>(p);
}

std::int64_t info_nce_bwd_workspace(const InfoNceBwd& p) {
  return p.in.dtype == Dtype::kFloat64 ? backward_bytes<double>(p) : backward_bytes<float>(p);
}

std::int64_t info_nce_rank_workspace(const InfoNceRank& p) {
  return p.in.dtype == Dtype::kFloat64 ? rank_bytes<double>(p) : rank_bytes<float>(p);
}

void info_nce_fwd(const InfoNceFwd& p) {
  with_types(p.in.dtype, [&]<class T, class E>() { forward<T, E>(p); });
}

void info_nce_bwd(const InfoNceBwd& p) {
  with_types(p.in.dtype, [&]<class T, class E>() { backward<T, E>(p); });
}

void info_nce_rank(const InfoNceRank& p) {
  with_types(p.in.dtype, [&]<class T, class E>() { rank<T, E>(p); });
}

}  // namespace sslkern::cpu::SSLKERN_ISA

SSLKERN_ENTRY(std::int64_t, info_nce_fwd_workspace, const InfoNceFwd&)
SSLKERN_ENTRY(std::int64_t, info_nce_bwd_workspace, const InfoNceBwd&)
SSLKERN_ENTRY(std::int64_t, info_nce_rank_workspace, const InfoNceRank&)
SSLKERN_ENTRY(void, info_nce_fwd, const InfoNceFwd&)
SSLKERN_ENTRY(void, info_nce_bwd, const InfoNceBwd&)
SSLKERN_ENTRY(void, info_nce_rank, const InfoNceRank&)
