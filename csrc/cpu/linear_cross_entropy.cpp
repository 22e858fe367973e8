// Softmax cross entropy over a vocabulary on the CPU, on the blocks and tiles of query_key.h: the
// rows of input are the queries, those of the weight the keys.
//
// Operations: F = 2 N V D. Forward F; backward F for the tiles again, F for the gradient of the
// input and F for that of the weight, where wanted: 4 F. Where the forward pass forms the gradients
// the tiles are kept, and it is 3 F; each chunk of rows then packs the weight twice.
#include "contract/linear_cross_entropy.h"

#include "cpu/dtype.h"
#include "cpu/query_key.h"
#include "cpu/tanh.h"

namespace sslkern::cpu::SSLKERN_ISA {
namespace {

using Input = LinearCrossEntropyInput;

// The elements of a micro-tile at (row, column) inside N x V.
template <class T>
struct Inside {
  static constexpr bool kAll = false;
  std::int64_t row, column, rows, columns;

  SSLKERN_INLINE auto operator()(int r, int q) const {
    using Int = typename Simd<T>::Int;
    const std::int64_t left = row + r < rows ? columns - column - q : 0;
    return lane_index<T>() < IntVec<T>{} + Int(left < kWidth<T> ? left : kWidth<T>);
  }
};

template <class T>
SSLKERN_INLINE bool on_edge(const Input& in, std::int64_t row, std::int64_t column) {
  return row + kMicroRows > in.N || column + kMicroCols<T> > in.M;
}

// The coefficients t_ij.
template <class T>
struct Targets {
  T* kept;      // (padded N) (1 - e) c of the target of the row; 0 with probabilities
  T* share;     // (padded V) (1 - e) c_j, for probabilities
  T* uniform;   // (padded V) c_j e / V
  double mass;  // sum over uniform

  static Targets take(Arena& arena, const Queries<T>& q) {
    return {arena.take<T>(q.padded_rows()), arena.take<T>(q.padded_keys()),
            arena.take<T>(q.padded_keys()), 0};
  }

  void fill(const Input& in, const Queries<T>& q) {
    const double e = in.label_smoothing;
    const auto weight = [&](std::int64_t j) {
      return in.class_weight == nullptr ? 1.0 : in.class_weight[j];
    };
    double total = 0;
    for (std::int64_t j = 0; j < q.padded_keys(); ++j) {
      const double c = j < in.M ? weight(j) : 0.0;
      share[j] = T((1 - e) * c);
      uniform[j] = T(c * e / double(in.M));
      total += c;  // exact without class weights; a sum of e / V would drift by V roundings
    }
    mass = total * e / double(in.M);
    for (std::int64_t i = 0; i < q.padded_rows(); ++i) {
      const bool given = i < in.N && in.target != nullptr;
      kept[i] = given ? T((1 - e) * weight(in.target[i])) : T(0);
    }
  }
};

template <class T>
SSLKERN_INLINE Vec<T> probabilities(const Input& in, std::int64_t i, std::int64_t j) {
  Vec<T> q{};
  if (i >= in.N || j >= in.M) return q;
  const T* row = static_cast<const T*>(in.probability) + i * in.stride + j;
  if (j + kWidth<T> <= in.M) {
    __builtin_memcpy(&q, row, sizeof(q));
  } else {
    for (std::int64_t lane = 0; lane < in.M - j; ++lane) q[lane] = row[lane];
  }
  return q;
}

// Which lane of the vector at (i, j) is the target.
template <class T>
SSLKERN_INLINE auto is_target(const Input& in, std::int64_t i, std::int64_t j) {
  using Int = typename Simd<T>::Int;
  const Int lane = Int((i < in.N ? in.target[i] : std::int64_t(-1)) - j);
  return lane_index<T>() == IntVec<T>{} + lane;
}

// t_ij of one vector.
template <class T>
SSLKERN_INLINE Vec<T> target_vector(const Input& in, const Targets<T>& t, std::int64_t i,
                                    std::int64_t j) {
  Vec<T> result{};
  if (in.target == nullptr) {
    result = probabilities<T>(in, i, j) * load(t.share + j);
  } else {
    result = is_target<T>(in, i, j) ? splat(t.kept[i]) : result;
  }
  return in.label_smoothing > 0 ? result + load(t.uniform + j) : result;
}

template <class T>
SSLKERN_INLINE void cap(const Input& in, const MicroTile<T>& m) {
  if (in.softcap == 0) return;
  const Vec<T> most = splat(T(in.softcap * kLog2E)), inverse = splat(T(1 / (in.softcap * kLog2E)));
  for (int r = 0; r < kMicroRows; ++r) {
    for (int q = 0; q < kMicroCols<T>; q += kWidth<T>) {
      T* c = m.c + r * m.ldc + q;
      store(c, most * tanh_of<T>(load(c) * inverse));
    }
  }
}

template <class T>
bool stays_bounded(const Input& in, const Queries<T>& q) {
  return (in.softcap > 0 && in.softcap * kLog2E <= kBound) || is_bounded<T>(in, q);
}

// What one row collects over its exponentials and targets. With a target index its logit comes
// without its coefficient, which multiplies it in double at last: lse and logit nearly cancel.
struct Collected {
  math::OnlineLse lse;
  double dot;    // sum_j t_ij x_ij, but for the target index
  double other;  // sum_j t_ij, or the logit of the target index
};

template <class T>
struct TargetSums {
  alignas(kVectorBytes) T dot[kMaxTile][kWidth<T>], other[kMaxTile][kWidth<T>];
};

template <class T>
struct Forward {
  struct Scratch;
  Queries<T> q;
  Targets<T> targets;
  Collected* rows;  // (lanes, N)
  PerThread<Scratch> scratches;

  struct Scratch {
    KeyBlock<T> k;
    T* tile;
    TileSums<T>* sums;
    TargetSums<T>* target;

    static Scratch take(Arena& arena, const Queries<T>& q) {
      return {KeyBlock<T>::take(arena, q, false), arena.take<T>(kTileSize<T>),
              arena.take<TileSums<T>>(1), arena.take<TargetSums<T>>(1)};
    }
  };

  static Forward take(Arena& arena, const Input& in, int threads) {
    Forward f{};
    f.q = Queries<T>::take(arena, in);
    f.targets = Targets<T>::take(arena, f.q);
    f.rows = arena.take<Collected>(f.q.lanes * in.N);
    f.scratches = PerThread<Scratch>::take(arena, threads, f.q);
    return f;
  }

  Scratch scratch() const { return scratches.of_thread(thread_number(), q); }
};

// A term whose coefficient is 0 is 0, also where the logit is infinite.
template <class T>
void add_targets(const Input& in, const Forward<T>& f, const MicroTile<T>& m, std::int64_t row,
                 std::int64_t column, TargetSums<T>& sums) {
  const Vec<T> zero{};
  for (int r = 0; r < kMicroRows; ++r) {
    Vec<T> dot = load(sums.dot[m.i + r]), other = load(sums.other[m.i + r]);
    for (int q = 0; q < kMicroCols<T>; q += kWidth<T>) {
      const Vec<T> x = load(m.c + r * m.ldc + q);
      Vec<T> t = load(f.targets.uniform + column + q);
      if (in.target == nullptr) {
        other += t = target_vector<T>(in, f.targets, row + r, column + q);
      } else {
        other += is_target<T>(in, row + r, column + q) ? x : zero;
      }
      dot += t != zero ? t * x : zero;
    }
    store(sums.dot[m.i + r], dot);
    store(sums.other[m.i + r], other);
  }
}

// Sums of tile (I, J).
template <class T, bool kKeep>
void sum_tile(const Input& in, const Forward<T>& f, const typename Forward<T>::Scratch& s,
              std::int64_t I, bool bounded, T* tile) {
  const std::int64_t row0 = I * f.q.x.tile, col0 = s.k.first;
  __builtin_memset(s.sums, 0, sizeof(*s.sums));
  __builtin_memset(s.target, 0, sizeof(*s.target));
  const auto visit = [&](const MicroTile<T>& m) __attribute__((always_inline)) {
    add_bias<T>(in, s.k, m);
    cap<T>(in, m);
    add_targets<T>(in, f, m, row0 + m.i, col0 + m.j, *s.target);
  };
  const auto skip = [](int, int) {};
  if (bounded) {
    const auto finish = [&](const MicroTile<T>& m) __attribute__((always_inline)) {
      visit(m);
      const std::int64_t row = row0 + m.i, column = col0 + m.j;
      if (on_edge<T>(in, row, column)) {
        add_powers<T>(m, Inside<T>{row, column, in.N, in.M}, *s.sums);
      } else {
        add_powers<T>(m, AllLanes{}, *s.sums);
      }
    };
    similarity_tile<T, kKeep>(f.q.x, s.k.y, I, 0, false, tile, finish, skip);
  } else {
    const auto finish = [&](const MicroTile<T>& m) __attribute__((always_inline)) {
      visit(m);
      const std::int64_t row = row0 + m.i, column = col0 + m.j;
      if (on_edge<T>(in, row, column)) hide_masked<T>(m, Inside<T>{row, column, in.N, in.M});
    };
    similarity_tile<T, true>(f.q.x, s.k.y, I, 0, false, tile, finish, skip);
    reduce_tile<T>(tile, int(f.q.x.block_rows(I, kMicroRows)),
                   int(s.k.y.block_rows(0, kMicroCols<T>)), *s.sums);
  }
}

SSLKERN_INLINE void merge(Collected& to, const Collected& from, bool fresh) {
  if (fresh) to = Collected{{0, 0}, 0, 0};
  to.lse = math::lse_merge(to.lse, from.lse);
  to.dot += from.dot;
  to.other += from.other;
}

// The logits of all tiles of some rows.
template <class T>
struct Kept {
  T* tiles;  // (query blocks, key blocks); null: not kept
  std::int64_t key_blocks, tile_size;

  static Kept take(Arena& arena, const Queries<T>& q) {
    const std::int64_t tile_size = q.x.tile * kTilePitch<T>;
    return {arena.take<T>(q.x.blocks() * q.key_blocks * tile_size), q.key_blocks, tile_size};
  }

  T* tile(std::int64_t I, std::int64_t J) const { return tiles + (I * key_blocks + J) * tile_size; }
};

template <class T, class E>
void sum_tiles(const Input& in, const Forward<T>& f, const Kept<T>& kept) {
  auto s = f.scratch();
  const bool bounded = stays_bounded<T>(in, f.q);
  for (std::int64_t J = next_ticket(f.q.ticket); J < f.q.key_blocks; J = next_ticket(f.q.ticket)) {
    s.k.template load_block<E>(in, f.q, J);
    for (std::int64_t I = 0; I < f.q.x.blocks(); ++I) {
      if (kept.tiles == nullptr) {
        sum_tile<T, false>(in, f, s, I, bounded, s.tile);
      } else {
        sum_tile<T, true>(in, f, s, I, bounded, kept.tile(I, J));
      }
      const bool fresh = !f.q.wait_for(J, I);
      Collected* lane = f.rows + J % f.q.lanes * in.N + I * f.q.x.tile;
      for (std::int64_t i = 0; i < f.q.rows_of(I); ++i) {
        merge(lane[i],
              {s.sums->row(i), horizontal_sum<T>(load(s.target->dot[i])),
               horizontal_sum<T>(load(s.target->other[i]))},
              fresh);
      }
      f.q.pass(J, I);
    }
  }
}

// With a target index the mass is known better than as a sum over the vocabulary.
template <class T>
void write_row(const LinearCrossEntropyFwd& p, const Forward<T>& f, std::int64_t i) {
  Collected& c = f.rows[i];
  for (std::int64_t lane = 1; lane < f.q.lanes; ++lane) merge(c, f.rows[lane * p.in.N + i], false);
  const double lse = math::lse_log2(c.lse);
  double mass = c.other, dot = c.dot;
  if (p.in.target != nullptr) {
    mass = double(f.targets.kept[i]) + f.targets.mass;
    dot += double(f.targets.kept[i]) * c.other;
  }
  static_cast<T*>(p.loss)[i] = T((mass * lse - dot) * kLn2);
  p.stats[2 * i] = lse;
  p.stats[2 * i + 1] = mass;
}

// The losses of all rows; the queries stay packed.
template <class T, class E>
void sum_all(const LinearCrossEntropyFwd& p, Forward<T>& f, const Kept<T>& kept) {
  f.q.reset();
  f.targets.fill(p.in, f.q);
#pragma omp parallel num_threads(p.threads)
  {
    pack_queries<T, E>(p.in, f.q);
    sum_tiles<T, E>(p.in, f, kept);
#pragma omp barrier
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < p.in.N; ++i) write_row<T>(p, f, i);
  }
}

template <class Params>
Wanted wanted_of(const Params& p) {
  return {p.grad_input != nullptr, p.grad_weight != nullptr, p.grad_bias != nullptr};
}

template <class T>
struct Backward {
  Queries<T> q;
  Targets<T> targets;
  SoftmaxRows<T> rows;  // (padded N) of g_i m_i
  T* gradient;          // (padded N) g_i
  GradientSums<T> sums;
  PerThread<GradientScratch<T>> scratches;

  static Backward take(Arena& arena, const Input& in, Wanted wanted, int threads) {
    const auto q = Queries<T>::take(arena, in);
    return after(arena, in, wanted, threads, q, Targets<T>::take(arena, q));
  }

  // On the queries and targets of a forward pass.
  static Backward after(Arena& arena, const Input& in, Wanted wanted, int threads,
                        const Queries<T>& q, const Targets<T>& targets) {
    Backward b{};
    b.q = q;
    b.targets = targets;
    b.rows = SoftmaxRows<T>::take(arena, q.padded_rows());
    b.gradient = arena.take<T>(q.padded_rows());
    b.sums = GradientSums<T>::take(arena, q, in, wanted);
    b.scratches = PerThread<GradientScratch<T>>::take(arena, threads, q, wanted);
    return b;
  }

  GradientScratch<T> scratch() const {
    return scratches.of_thread(thread_number(), q, sums.wanted);
  }
};

// g: upstream gradients, null: all 1.
template <class T>
void prepare_row(const Input& in, const Backward<T>& b, const T* g, const double* stats,
                 std::int64_t i) {
  if (i >= in.N) {
    b.gradient[i] = T(0);
    return b.rows.clear(i);
  }
  const double gradient = g == nullptr ? 1.0 : double(g[i]) / b.sums.unit;
  b.gradient[i] = T(gradient);
  b.rows.set_log2(i, gradient * stats[2 * i + 1], stats[2 * i]);
}

// Tile (I, J) of G, from its logits where those were kept.
template <class T, bool kBounded, bool kKept>
void gradient_tile(const Input& in, const Backward<T>& b, const GradientScratch<T>& s,
                   std::int64_t I, const T* kept) {
  const std::int64_t row0 = I * b.q.x.tile, col0 = s.k.first;
  const bool capped = in.softcap > 0;
  const Vec<T> one = splat(T(1)), inverse = splat(T(capped ? 1 / (in.softcap * kLog2E) : 0));
  const auto finish = [&](const MicroTile<T>& m) __attribute__((always_inline)) {
    const std::int64_t row = row0 + m.i, column = col0 + m.j;
    const auto gradient = [&](int r, int q, Vec<T> x) __attribute__((always_inline)) {
      const Vec<T> g =
          row_gradient<T, kBounded>(b.rows, x, row + r) -
          splat(b.gradient[row + r]) * target_vector<T>(in, b.targets, row + r, column + q);
      const Vec<T> ratio = x * inverse;
      return capped ? g * (one - ratio * ratio) : g;
    };
    if constexpr (!kKept) {
      add_bias<T>(in, s.k, m);
      cap<T>(in, m);
    }
    if (on_edge<T>(in, row, column)) {
      replace_by_gradient<T>(m, Inside<T>{row, column, in.N, in.M}, gradient);
    } else {
      replace_by_gradient<T>(m, AllLanes{}, gradient);
    }
  };
  if constexpr (kKept) {
    const int rows = int(b.q.x.block_rows(I, kMicroRows));
    const int cols = int(s.k.y.block_rows(0, kMicroCols<T>));
    constexpr int P = kTilePitch<T>;
    for (int i = 0; i < rows; i += kMicroRows) {
      for (int j = 0; j < cols; j += kMicroCols<T>) {
        // A copy in the cache: G in the place of the logits would have to go back to memory.
        for (int r = i; r < i + kMicroRows; ++r) {
          __builtin_memcpy(s.tile + r * P + j, kept + r * P + j, kMicroCols<T> * sizeof(T));
        }
        finish(MicroTile<T>{s.tile + i * P + j, P, i, j});
      }
    }
  } else {
    similarity_tile<T, true>(b.q.x, s.k.y, I, 0, false, s.tile, finish, [](int, int) {});
  }
}

// To be called by all threads of a team, with the queries packed.
template <class T, class E, class Element, bool kKept>
void differentiate(const Input& in, const Backward<T>& b, const Kept<T>& kept, const T* g,
                   const double* stats, const Results<E>& out) {
#pragma omp for schedule(static)
  for (std::int64_t i = 0; i < b.q.padded_rows(); ++i) prepare_row<T>(in, b, g, stats, i);
  const bool bounded = stays_bounded<T>(in, b.q);
  auto scratch = b.scratch();
  const auto make_tile = [&](const GradientScratch<T>& s, std::int64_t I) {
    const T* logits = kKept ? kept.tile(I, s.k.J) : nullptr;
    bounded ? gradient_tile<T, true, kKept>(in, b, s, I, logits)
            : gradient_tile<T, false, kKept>(in, b, s, I, logits);
  };
  accumulate_gradient<T, E, Element>(in, b.q, b.sums, scratch, out, make_tile, Nothing{});
}

// The part of p that concerns the rows from `first` on, a chunk of them at most.
template <class T, class E>
LinearCrossEntropyFwd chunk_of(LinearCrossEntropyFwd p, std::int64_t first) {
  Input& in = p.in;
  in.query = static_cast<const E*>(in.query) + first * in.stride_query;
  in.N = smaller(p.chunk, in.N - first);
  if (in.target != nullptr) in.target += first;
  if (in.probability != nullptr) {
    in.probability = static_cast<const T*>(in.probability) + first * in.stride;
  }
  p.loss = static_cast<T*>(p.loss) + first;
  p.stats += 2 * first;
  if (p.grad_input != nullptr) p.grad_input = static_cast<T*>(p.grad_input) + first * in.D;
  return p;
}

// The losses of some rows, and their part of the gradients.
template <class T, class E>
void form_chunk(const LinearCrossEntropyFwd& p, bool add) {
  Arena arena(p.workspace);
  auto f = Forward<T>::take(arena, p.in, p.threads);
  const auto kept = Kept<T>::take(arena, f.q);
  sum_all<T, E>(p, f, kept);
  auto b = Backward<T>::after(arena, p.in, wanted_of(p), p.threads, f.q, f.targets);
  b.sums.add = add;
  f.q.rewind();
  const Results<T> out{static_cast<T*>(p.grad_input), static_cast<T*>(p.grad_weight), nullptr,
                       p.grad_bias, nullptr};
#pragma omp parallel num_threads(p.threads)
  differentiate<T, T, E, true>(p.in, b, kept, nullptr, p.stats, out);
  write_small_gradients<T, T>(p.in, b.sums, out);
}

template <class T, class E>
void forward(const LinearCrossEntropyFwd& p) {
  for (std::int64_t row = 0; p.chunk > 0 && row < p.in.N; row += p.chunk) {
    form_chunk<T, E>(chunk_of<T, E>(p, row), row > 0);
  }
  if (p.chunk == 0) {
    Arena arena(p.workspace);
    auto f = Forward<T>::take(arena, p.in, p.threads);
    sum_all<T, E>(p, f, Kept<T>{});
  }
  *p.sum = 0;
  for (std::int64_t i = 0; i < p.in.N; ++i) *p.sum += double(static_cast<const T*>(p.loss)[i]);
}

template <class T, class E>
void backward(const LinearCrossEntropyBwd& p) {
  const Input& in = p.in;
  Arena arena(p.workspace);
  auto b = Backward<T>::take(arena, in, wanted_of(p), p.threads);
  b.sums.unit = gradient_unit(largest_gradient(static_cast<const T*>(p.grad_loss), in.N));
  b.q.reset();
  b.targets.fill(in, b.q);
  const Results<E> out{static_cast<E*>(p.grad_input), static_cast<E*>(p.grad_weight), nullptr,
                       p.grad_bias, nullptr};
#pragma omp parallel num_threads(p.threads)
  {
    pack_queries<T, E>(in, b.q);
    differentiate<T, E, E, false>(in, b, Kept<T>{}, static_cast<const T*>(p.grad_loss), p.stats,
                                  out);
  }
  write_small_gradients<T, E>(in, b.sums, out);
}

template <class T>
std::int64_t forward_bytes(const LinearCrossEntropyFwd& p) {
  Arena arena(nullptr);
  Input in = p.in;
  if (p.chunk > 0) in.N = smaller(p.chunk, in.N);
  const auto f = Forward<T>::take(arena, in, p.threads);
  if (p.chunk == 0) return arena.used();
  Kept<T>::take(arena, f.q);
  Backward<T>::after(arena, in, wanted_of(p), p.threads, f.q, f.targets);
  return arena.used();
}

template <class T>
std::int64_t backward_bytes(const LinearCrossEntropyBwd& p) {
  Arena arena(nullptr);
  Backward<T>::take(arena, p.in, wanted_of(p), p.threads);
  return arena.used();
}

}  // namespace

std::int64_t linear_cross_entropy_fwd_workspace(const LinearCrossEntropyFwd& p) {
  return p.in.dtype == Dtype::kFloat64 ? forward_bytes<double>(p) : forward_bytes<float>(p);
}

std::int64_t linear_cross_entropy_bwd_workspace(const LinearCrossEntropyBwd& p) {
  return p.in.dtype == Dtype::kFloat64 ? backward_bytes<double>(p) : backward_bytes<float>(p);
}

void linear_cross_entropy_fwd(const LinearCrossEntropyFwd& p) {
  with_types(p.in.dtype, [&]<class T, class E>() { forward<T, E>(p); });
}

void linear_cross_entropy_bwd(const LinearCrossEntropyBwd& p) {
  with_types(p.in.dtype, [&]<class T, class E>() { backward<T, E>(p); });
}

}  // namespace sslkern::cpu::SSLKERN_ISA

SSLKERN_ENTRY(std::int64_t, linear_cross_entropy_fwd_workspace, const LinearCrossEntropyFwd&)
SSLKERN_ENTRY(std::int64_t, linear_cross_entropy_bwd_workspace, const LinearCrossEntropyBwd&)
SSLKERN_ENTRY(void, linear_cross_entropy_fwd, const LinearCrossEntropyFwd&)
SSLKERN_ENTRY(void, linear_cross_entropy_bwd, const LinearCrossEntropyBwd&)
