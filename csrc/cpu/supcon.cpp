// Contrast by label on the CPU, on the tiles of self_similarity.h. With the rows in the order of
// their classes, positives fill squares along the diagonal: a micro-tile holds negatives alone
// (nearly all of them, and those cost what they do in NT-Xent), positives alone, or is cut by
// masks.
//
// Operations: F = 2 N N D. Forward 0.5 F, with pairs the tiles that hold positives once more;
// backward 0.5 F for the tiles again and F for G Z: 2 F in all.
#include "contract/supcon.h"

#include "cpu/dtype.h"
#include "cpu/log1p.h"
#include "cpu/self_similarity.h"

namespace sslkern::cpu::SSLKERN_ISA {
namespace {

RowSource source_of(const SupconInput& in) { return {in.z, nullptr, in.stride, 0, in.N, in.order}; }

// The pairs above the diagonal of a micro-tile at (row, column) that are positive, or negative.
template <class T, bool kPositive>
struct Pairs {
  static constexpr bool kAll = false;
  const SupconInput& in;
  std::int64_t row, column;

  SSLKERN_INLINE auto operator()(int r, int q) const {
    using Int = typename Simd<T>::Int;
    const IntVec<T> lane = lane_index<T>(), zero{};
    const std::int64_t i = row + r, j = column + q;
    const IntVec<T> above = AboveDiagonal<T>{row, column, in.N}(r, q);
    const IntVec<T> end = zero + Int(i < in.N ? in.end[i] - j : 0);
    return above & (kPositive ? lane < end : lane >= end);
  }
};

enum class Kind { kNegative, kPositive, kMixed };

template <class T>
SSLKERN_INLINE Kind kind_of(const SupconInput& in, std::int64_t row, std::int64_t column) {
  if (on_edge<T>(row, column, in.N)) return Kind::kMixed;
  if (column >= in.end[row + kMicroRows - 1]) return Kind::kNegative;
  return column + kMicroCols<T> <= in.end[row] ? Kind::kPositive : Kind::kMixed;
}

// Whether any pair of the tile is positive.
template <class T>
bool has_positives(const SupconInput& in, const SelfRows<T>& rows, const Tile& t) {
  return rows.first(t.j) < in.end[rows.first(t.i) + rows.rows_of(t.i) - 1];
}

// What the rows and columns of one tile sum over their pairs.
template <class T>
struct PairSums {
  T row[kMaxTile];
  alignas(kVectorBytes) T col[kMaxTile];
};

// Adds value(r, q, x) of the pairs of a micro-tile: `row` to its rows, `column` to its columns.
template <class T>
struct PairValue {
  Vec<T> row, column;
};
template <class T, class Mask, class Value>
SSLKERN_INLINE void add_pairs(const MicroTile<T>& m, const Mask& mask, const Value& value,
                              PairSums<T>& sums) {
  for (int r = 0; r < kMicroRows; ++r) {
    Vec<T> row{};
    for (int q = 0; q < kMicroCols<T>; q += kWidth<T>) {
      const PairValue<T> v = value(r, q, load(m.c + r * m.ldc + q));
      row += masked<T>(mask, r, q, v.row, Vec<T>{});
      T* col = sums.col + m.j + q;
      store(col, load(col) + masked<T>(mask, r, q, v.column, Vec<T>{}));
    }
    sums.row[m.i + r] += horizontal_sum<T>(row);
  }
}

template <class T>
struct ForwardScratch {
  T *negative, *positive;  // a tile each
  TileSums<T>*negatives, *positives;
  PairSums<T>*logits, *weights;

  static ForwardScratch take(Arena& arena) {
    return {arena.take<T>(kTileSize<T>), arena.take<T>(kTileSize<T>), arena.take<TileSums<T>>(1),
            arena.take<TileSums<T>>(1),  arena.take<PairSums<T>>(1),  arena.take<PairSums<T>>(1)};
  }
};

// What a row collects.
struct Collected {
  math::OnlineLse negative, positive;
  double logits;  // sum of x over the positives
};

template <class T>
struct Forward {
  SelfRows<T> rows;
  Collected* collected;             // (N)
  double *loss, *weight;            // (N) of the pairs, in the first one's case in log2 units
  T *negative_high, *negative_low;  // (padded N) log2 of the sum over the negatives, in two parts
  PerThread<ForwardScratch<T>> scratches;

  static Forward take(Arena& arena, const SupconInput& in, int threads) {
    Forward f{};
    f.rows = SelfRows<T>::take(arena, in.N, in.D);
    f.collected = arena.take<Collected>(in.N);
    f.loss = arena.take<double>(in.pairs ? in.N : 0);
    f.weight = arena.take<double>(in.pairs ? in.N : 0);
    f.negative_high = arena.take<T>(in.pairs ? f.rows.padded_rows() : 0);
    f.negative_low = arena.take<T>(in.pairs ? f.rows.padded_rows() : 0);
    f.scratches = PerThread<ForwardScratch<T>>::take(arena, threads);
    return f;
  }

  ForwardScratch<T> scratch() const { return scratches.of_thread(thread_number()); }
};

template <class T, class Mask>
SSLKERN_INLINE void add_logits(const MicroTile<T>& m, const Mask& mask, PairSums<T>& sums) {
  add_pairs<T>(m, mask, [](int, int, Vec<T> x) { return PairValue<T>{x, x}; }, sums);
}

template <class T>
void sum_tile_bounded(const SupconInput& in, const Forward<T>& f, const ForwardScratch<T>& s,
                      const Tile& t, bool positives) {
  const std::int64_t row0 = f.rows.first(t.i), col0 = f.rows.first(t.j);
  const auto finish = [&](const MicroTile<T>& m) __attribute__((always_inline)) {
    const std::int64_t row = row0 + m.i, column = col0 + m.j;
    const Kind kind = kind_of<T>(in, row, column);
    if (kind == Kind::kNegative) return add_powers<T>(m, AllLanes{}, *s.negatives);
    if (kind == Kind::kPositive) {
      add_logits<T>(m, AllLanes{}, *s.logits);
      return add_powers<T>(m, AllLanes{}, *s.positives);
    }
    add_powers<T>(m, Pairs<T, false>{in, row, column}, *s.negatives);
    if (!positives) return;
    const Pairs<T, true> positive{in, row, column};
    add_logits<T>(m, positive, *s.logits);
    add_powers<T>(m, positive, *s.positives);
  };
  similarity_tile<T, false>(f.rows.z, f.rows.z, t.i, t.j, t.i == t.j, s.negative, finish,
                            [](int, int) {});
}

// The tile twice, each with the other kind of pairs at -infinity.
template <class T>
void sum_tile_shifted(const SupconInput& in, const Forward<T>& f, const ForwardScratch<T>& s,
                      const Tile& t, bool positives) {
  const std::int64_t row0 = f.rows.first(t.i), col0 = f.rows.first(t.j);
  const auto finish = [&](const MicroTile<T>& m) __attribute__((always_inline)) {
    const std::int64_t row = row0 + m.i, column = col0 + m.j;
    if (positives) {
      const Pairs<T, true> positive{in, row, column};
      const MicroTile<T> copy{s.positive + m.i * kTilePitch<T> + m.j, kTilePitch<T>, m.i, m.j};
      for (int r = 0; r < kMicroRows; ++r) {
        __builtin_memcpy(copy.c + r * copy.ldc, m.c + r * m.ldc, kMicroCols<T> * sizeof(T));
      }
      add_logits<T>(copy, positive, *s.logits);
      hide_masked<T>(copy, positive);
    }
    if (kind_of<T>(in, row, column) != Kind::kNegative) {
      hide_masked<T>(m, Pairs<T, false>{in, row, column});
    }
  };
  const auto skip = [&](int i, int j) {
    hide_micro_tile<T>(s.negative, i, j);
    if (positives) hide_micro_tile<T>(s.positive, i, j);
  };
  similarity_tile<T, true>(f.rows.z, f.rows.z, t.i, t.j, t.i == t.j, s.negative, finish, skip);
  const int rows = int(f.rows.z.block_rows(t.i, kMicroRows));
  const int cols = int(f.rows.z.block_rows(t.j, kMicroCols<T>));
  reduce_tile<T>(s.negative, rows, cols, *s.negatives);
  if (positives) reduce_tile<T>(s.positive, rows, cols, *s.positives);
}

// Merges the sums of a tile into those of its rows.
template <class T>
void merge_sums(const Forward<T>& f, const ForwardScratch<T>& s, const Tile& t, bool positives) {
  const auto merge = [&](std::int64_t row, bool fresh, math::OnlineLse negative,
                         math::OnlineLse positive, T logits) {
    Collected& c = f.collected[row];
    if (fresh) c = Collected{{0, 0}, {0, 0}, 0};
    c.negative = math::lse_merge(c.negative, negative);
    if (!positives) return;
    c.positive = math::lse_merge(c.positive, positive);
    c.logits += logits;
  };
  const auto as_rows = [&](bool fresh) {
    for (std::int64_t i = 0; i < f.rows.rows_of(t.i); ++i) {
      merge(f.rows.first(t.i) + i, fresh, s.negatives->row(i), s.positives->row(i),
            s.logits->row[i]);
    }
  };
  const auto as_columns = [&](bool fresh) {
    for (std::int64_t j = 0; j < f.rows.rows_of(t.j); ++j) {
      merge(f.rows.first(t.j) + j, fresh, s.negatives->column(j), s.positives->column(j),
            s.logits->col[j]);
    }
  };
  in_turn(f.rows, t, as_rows, as_columns);
}

template <class T>
void sum_tiles(const SupconInput& in, const Forward<T>& f, bool bounded) {
  const auto s = f.scratch();
  draw_tiles(f.rows, [&](const Tile& t) {
    const bool positives = has_positives(in, f.rows, t);
    __builtin_memset(s.negatives, 0, sizeof(*s.negatives));
    if (positives) {
      __builtin_memset(s.positives, 0, sizeof(*s.positives));
      __builtin_memset(s.logits, 0, sizeof(*s.logits));
    }
    bounded ? sum_tile_bounded<T>(in, f, s, t, positives)
            : sum_tile_shifted<T>(in, f, s, t, positives);
    merge_sums<T>(f, s, t, positives);
  });
}

// 1 / (1 + 2^(x - lse)) where lse has two parts, exactly 0 for a sum over nothing; NaN stays NaN.
template <class T>
SSLKERN_INLINE Vec<T> sigmoid_log2(Vec<T> x, Vec<T> high, Vec<T> low) {
  const Vec<T> one = splat(T(1)), zero{}, d = (high - x) + low, magnitude = d < zero ? -d : d;
  const Vec<T> small = exp2_or_zero<T>(-magnitude);
  return (d < zero ? small : one) / (one + small);
}

// log2(1 + 2^(lse - x)).
template <class T>
SSLKERN_INLINE Vec<T> softplus_log2(Vec<T> x, Vec<T> high, Vec<T> low) {
  const Vec<T> zero{}, d = (high - x) + low, magnitude = d < zero ? -d : d;
  const Vec<T> small = log2_1p<T>(exp2_or_zero<T>(-magnitude));
  return (d < zero ? zero : d) + small;
}

// The terms of the pairs in a tile, once the sums over the negatives are known.
template <class T>
void sum_pairs(const SupconInput& in, const Forward<T>& f, const ForwardScratch<T>& s,
               const Tile& t) {
  const std::int64_t row0 = f.rows.first(t.i), col0 = f.rows.first(t.j);
  const auto finish = [&](const MicroTile<T>& m) __attribute__((always_inline)) {
    const std::int64_t row = row0 + m.i, column = col0 + m.j;
    if (kind_of<T>(in, row, column) == Kind::kNegative) return;
    const auto each = [&](const auto& function) {
      return [&](int r, int q, Vec<T> x) __attribute__((always_inline)) {
        const T *high = f.negative_high, *low = f.negative_low;
        return PairValue<T>{function(x, splat(high[row + r]), splat(low[row + r])),
                            function(x, load(high + column + q), load(low + column + q))};
      };
    };
    const Pairs<T, true> positive{in, row, column};
    const auto loss = [](Vec<T> x, Vec<T> high, Vec<T> low) {
      return softplus_log2<T>(x, high, low);
    };
    const auto weight = [](Vec<T> x, Vec<T> high, Vec<T> low) {
      return sigmoid_log2<T>(x, high, low);
    };
    add_pairs<T>(m, positive, each(loss), *s.logits);
    add_pairs<T>(m, positive, each(weight), *s.weights);
  };
  similarity_tile<T, false>(f.rows.z, f.rows.z, t.i, t.j, t.i == t.j, s.negative, finish,
                            [](int, int) {});
}

template <class T>
void sum_pair_tiles(const SupconInput& in, const Forward<T>& f) {
  const auto s = f.scratch();
  draw_tiles(f.rows, [&](const Tile& t) {
    const bool positives = has_positives(in, f.rows, t);
    if (positives) {
      __builtin_memset(s.logits, 0, sizeof(*s.logits));
      __builtin_memset(s.weights, 0, sizeof(*s.weights));
      sum_pairs<T>(in, f, s, t);
    }
    const auto merge = [&](std::int64_t row, bool fresh, T loss, T weight) {
      f.loss[row] = (fresh ? 0.0 : f.loss[row]) + (positives ? double(loss) : 0.0);
      f.weight[row] = (fresh ? 0.0 : f.weight[row]) + (positives ? double(weight) : 0.0);
    };
    const auto as_rows = [&](bool fresh) {
      for (std::int64_t i = 0; i < f.rows.rows_of(t.i); ++i) {
        merge(f.rows.first(t.i) + i, fresh, s.logits->row[i], s.weights->row[i]);
      }
    };
    const auto as_columns = [&](bool fresh) {
      for (std::int64_t j = 0; j < f.rows.rows_of(t.j); ++j) {
        merge(f.rows.first(t.j) + j, fresh, s.logits->col[j], s.weights->col[j]);
      }
    };
    in_turn(f.rows, t, as_rows, as_columns);
  });
}

// `value` in two parts of type T.
template <class T>
SSLKERN_INLINE void split(double value, T& high, T& low) {
  high = T(value);
  low = __builtin_isinf(value) ? T(0) : T(value - double(high));
}

template <class T>
void write_row(const SupconFwd& p, const Forward<T>& f, std::int64_t place) {
  const Collected& c = f.collected[place];
  const std::int64_t row = p.in.order[place];
  const double negative = math::lse_log2(c.negative);
  p.lse_negative[row] = negative * kLn2;
  p.lse_positive[row] = math::lse_log2(c.positive) * kLn2;
  p.sum_positive[row] = c.logits * kLn2;
  if (p.in.pairs) split<T>(negative, f.negative_high[place], f.negative_low[place]);
}

template <class T, class E>
void forward(const SupconFwd& p) {
  const SupconInput& in = p.in;
  Arena arena(p.workspace);
  const auto f = Forward<T>::take(arena, in, p.threads);
  const double scale = kLog2E / *in.temperature;
  f.rows.reset();
#pragma omp parallel num_threads(p.threads)
  {
    pack_rows<T, E>(source_of(in), in.normalize, f.rows, scale);
    sum_tiles<T>(in, f, f.rows.bounded(scale));
#pragma omp barrier
#pragma omp for schedule(static)
    for (std::int64_t place = 0; place < in.N; ++place) write_row<T>(p, f, place);
  }
  if (!in.pairs) return;
  for (std::int64_t n = in.N; n < f.rows.padded_rows(); ++n) {
    f.negative_high[n] = f.negative_low[n] = T(0);
  }
  f.rows.rewind();
#pragma omp parallel num_threads(p.threads)
  sum_pair_tiles<T>(in, f);
  for (std::int64_t place = 0; place < in.N; ++place) {
    p.pair_loss[in.order[place]] = f.loss[place] * kLn2;
    p.pair_weight[in.order[place]] = f.weight[place];
  }
}

template <class T>
struct Backward {
  SelfRows<T> rows;
  SelfGradient<T> grad;
  SoftmaxRows<T> negative, positive;  // (padded N)
  T *positive_logit, *pair;           // (padded N) upstream of sum_positive and of pair_loss
  T* tiles;                           // one tile per thread

  static Backward take(Arena& arena, const SupconInput& in, int threads) {
    Backward b{};
    b.rows = SelfRows<T>::take(arena, in.N, in.D);
    b.grad = SelfGradient<T>::take(arena, b.rows);
    b.negative = SoftmaxRows<T>::take(arena, b.rows.padded_rows());
    b.positive = SoftmaxRows<T>::take(arena, b.rows.padded_rows());
    b.positive_logit = arena.take<T>(b.rows.padded_rows());
    b.pair = arena.take<T>(b.rows.padded_rows());
    b.tiles = arena.take<T>(threads * kTileSize<T>);
    return b;
  }
};

// Upstream gradients of a row of z.
struct Upstream {
  double negative, positive, logit, pair;
};

Upstream upstream_of(const SupconBwd& p, std::int64_t row) {
  const double pair = p.in.pairs ? p.grad_pair_loss[row] : 0.0;
  const double through_pairs = pair == 0 ? 0.0 : pair * p.pair_weight[row];
  return {p.grad_lse_negative[row] + through_pairs, p.grad_lse_positive[row],
          p.grad_sum_positive[row], pair};
}

double largest_upstream(const SupconBwd& p) {
  double largest = 0;
  for (std::int64_t row = 0; row < p.in.N; ++row) {
    const Upstream u = upstream_of(p, row);
    const double values[] = {u.negative, u.positive, u.logit, u.pair};
    const double most = largest_gradient(values, 4);
    largest = most > largest ? most : largest;
  }
  return largest;
}

// A sum over nothing has no gradient.
template <class T>
void set_softmax(const SoftmaxRows<T>& rows, std::int64_t n, double gradient, double lse) {
  if (lse != -__builtin_inf()) return rows.set(n, gradient, lse);
  rows.clear(n);
  rows.lse_high[n] = T(lse);
}

template <class T>
void prepare_row(const Backward<T>& b, const SupconBwd& p, std::int64_t place) {
  if (place >= p.in.N) {
    b.negative.clear(place);
    b.positive.clear(place);
    b.positive_logit[place] = b.pair[place] = T(0);
    return;
  }
  const std::int64_t row = p.in.order[place];
  const Upstream u = upstream_of(p, row);
  set_softmax(b.negative, place, u.negative / b.grad.unit, p.lse_negative[row]);
  set_softmax(b.positive, place, u.positive / b.grad.unit, p.lse_positive[row]);
  b.positive_logit[place] = T(u.logit / b.grad.unit);
  b.pair[place] = T(u.pair / b.grad.unit);
}

// d_i sigmoid(lse_negative_i - s_ij) and the same of j.
template <class T>
SSLKERN_INLINE Vec<T> pair_term(const Backward<T>& b, Vec<T> x, std::int64_t row,
                                std::int64_t column) {
  const SoftmaxRows<T>& n = b.negative;
  const Vec<T> i = sigmoid_log2<T>(x, splat(n.lse_high[row]), splat(n.lse_low[row]));
  const Vec<T> j = sigmoid_log2<T>(x, load(n.lse_high + column), load(n.lse_low + column));
  return splat(b.pair[row]) * i + load(b.pair + column) * j;
}

// Tile (I, J) of G_ij = H_ij + H_ji, strictly above the diagonal; zero elsewhere.
template <class T, bool kBounded>
void gradient_tile(const SupconInput& in, const Backward<T>& b, const Tile& t, T* tile) {
  const std::int64_t row0 = b.rows.first(t.i), col0 = b.rows.first(t.j);
  const auto finish = [&](const MicroTile<T>& m) __attribute__((always_inline)) {
    const std::int64_t row = row0 + m.i, column = col0 + m.j;
    const auto negative = [&](int r, int q, Vec<T> x) __attribute__((always_inline)) {
      return pair_gradient<T, kBounded>(b.negative, b.negative, x, row + r, column + q);
    };
    const auto positive = [&](int r, int q, Vec<T> x) __attribute__((always_inline)) {
      const Vec<T> p = pair_gradient<T, kBounded>(b.positive, b.positive, x, row + r, column + q) +
                       (splat(b.positive_logit[row + r]) + load(b.positive_logit + column + q));
      return in.pairs ? p - pair_term<T>(b, x, row + r, column + q) : p;
    };
    const Kind kind = kind_of<T>(in, row, column);
    if (kind == Kind::kNegative) return replace_by_gradient<T>(m, AllLanes{}, negative);
    if (kind == Kind::kPositive) return replace_by_gradient<T>(m, AllLanes{}, positive);
    const Pairs<T, true> is_positive{in, row, column};
    const auto either = [&](int r, int q, Vec<T> x) {
      return is_positive(r, q) ? positive(r, q, x) : negative(r, q, x);
    };
    replace_by_gradient<T>(m, AboveDiagonal<T>{row, column, in.N}, either);
  };
  const auto skip = [&](int i, int j) { clear_micro_tile<T>(tile, i, j); };
  similarity_tile<T, true>(b.rows.z, b.rows.z, t.i, t.j, t.i == t.j, tile, finish, skip);
}

template <class T, class E>
void backward(const SupconBwd& p) {
  const SupconInput& in = p.in;
  Arena arena(p.workspace);
  auto b = Backward<T>::take(arena, in, p.threads);
  const double tau = *in.temperature;
  b.grad.unit = gradient_unit(largest_upstream(p));
  b.rows.reset();
#pragma omp parallel num_threads(p.threads)
  {
    pack_rows<T, E>(source_of(in), in.normalize, b.rows, kLog2E / tau);
#pragma omp for schedule(static)
    for (std::int64_t place = 0; place < b.rows.padded_rows(); ++place) {
      prepare_row<T>(b, p, place);
    }
    const bool bounded = b.rows.bounded(kLog2E / tau);
    T* tile = b.tiles + thread_number() * kTileSize<T>;
    draw_tiles(b.rows, [&](const Tile& t) {
      bounded ? gradient_tile<T, true>(in, b, t, tile) : gradient_tile<T, false>(in, b, t, tile);
      apply_gradient_tile<T>(b.rows, b.grad, t, tile);
    });
#pragma omp barrier
#pragma omp for schedule(static)
    for (std::int64_t place = 0; place < in.N; ++place) {
      E* out = static_cast<E*>(p.grad_z) + in.order[place] * in.D;
      finish_row<T, E>(b.rows, b.grad, in.normalize, tau, place, out);
    }
  }
  *p.grad_temperature = temperature_gradient(b.rows, b.grad, tau);
}

template <template <class> class Pass>
std::int64_t workspace(const SupconInput& in, int threads) {
  Arena arena(nullptr);
  in.dtype == Dtype::kFloat64 ? void(Pass<double>::take(arena, in, threads))
                              : void(Pass<float>::take(arena, in, threads));
  return arena.used();
}

}  // namespace

std::int64_t supcon_fwd_workspace(const SupconFwd& p) {
  return workspace<Forward>(p.in, p.threads);
}

std::int64_t supcon_bwd_workspace(const SupconBwd& p) {
  return workspace<Backward>(p.in, p.threads);
}

void supcon_fwd(const SupconFwd& p) {
  with_types(p.in.dtype, [&]<class T, class E>() { forward<T, E>(p); });
}

void supcon_bwd(const SupconBwd& p) {
  with_types(p.in.dtype, [&]<class T, class E>() { backward<T, E>(p); });
}

}  // namespace sslkern::cpu::SSLKERN_ISA

SSLKERN_ENTRY(std::int64_t, supcon_fwd_workspace, const SupconFwd&)
SSLKERN_ENTRY(std::int64_t, supcon_bwd_workspace, const SupconBwd&)
SSLKERN_ENTRY(void, supcon_fwd, const SupconFwd&)
SSLKERN_ENTRY(void, supcon_bwd, const SupconBwd&)
