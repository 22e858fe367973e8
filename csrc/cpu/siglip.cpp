// SigLIP on the CPU, on the blocks and tiles of query_key.h. No pair needs to know of another, so
// loss and gradient come from the same tiles in one pass.
//
// Operations: F = 2 N M D. F for the tiles, F for the gradient of the queries and F for that of the
// keys, where wanted, whether in the forward or in the backward pass; and per pair one exponential,
// one division and the polynomial of the logarithm. What that costs beside the products falls
// with D.
#include "contract/siglip.h"

#include "cpu/dtype.h"
#include "cpu/log1p.h"
#include "cpu/query_key.h"

namespace sslkern::cpu::SSLKERN_ISA {
namespace {

// The elements of a micro-tile that are inside N x M: `rows` and `cols` are left from its first.
template <class T>
struct Inside {
  static constexpr bool kAll = false;
  std::int64_t rows, cols;

  bool whole() const { return rows >= kMicroRows && cols >= kMicroCols<T>; }
  SSLKERN_INLINE auto operator()(int r, int q) const {
    using Int = typename Simd<T>::Int;
    const std::int64_t left = r < rows ? cols - q : 0;
    return lane_index<T>() < IntVec<T>{} + Int(smaller(kWidth<T>, left));
  }
};

// What one tile adds to its rows.
template <class T>
struct TileRows {
  alignas(kVectorBytes) T loss[kMaxTile][kWidth<T>];  // log2 units; vectors until the tile is done
  double gradient[kMaxTile];                          // sum_j G_ij
};

// What one row collects over its tiles.
struct Collected {
  double loss;  // log2 units
  double gradient;
};

// What a pass is to compute: losses, the gradients of their sum, or of the sum weighted by g.
struct Task {
  const SiglipInput& in;
  Wanted wanted;  // but for the bias: column sums are not needed, its gradient is one number
  bool loss, bias;

  bool gradient() const { return wanted.query || wanted.key || bias; }
};

template <class T>
struct Pass {
  struct Scratch;
  Queries<T> q;
  T* g;             // (padded N) upstream gradients; backward alone
  Collected* rows;  // (lanes, N)
  GradientSums<T> sums;
  PerThread<Scratch> scratches;

  struct Scratch {
    GradientScratch<T> gradient;
    TileRows<T>* rows;

    static Scratch take(Arena& arena, const Queries<T>& q, Wanted wanted) {
      return {GradientScratch<T>::take(arena, q, wanted), arena.take<TileRows<T>>(1)};
    }
  };

  static Pass take(Arena& arena, const Task& task, int threads) {
    Pass p{};
    p.q = Queries<T>::take(arena, task.in);
    p.g = arena.take<T>(task.loss ? 0 : p.q.padded_rows());
    p.rows = arena.take<Collected>(p.q.lanes * task.in.N);
    p.sums = GradientSums<T>::take(arena, p.q, task.in, task.wanted);
    p.scratches = PerThread<Scratch>::take(arena, threads, p.q, task.wanted);
    return p;
  }

  Scratch scratch() const { return scratches.of_thread(thread_number(), q, sums.wanted); }
};

template <class T>
SSLKERN_INLINE Vec<T> minus_magnitude(Vec<T> x) {
  using Int = typename Simd<T>::Int;
  constexpr Int kSign = Int(std::uint64_t(1) << (8 * sizeof(T) - 1));
  return reinterpret_cast<Vec<T>>(reinterpret_cast<IntVec<T>>(x) | (IntVec<T>{} + kSign));
}

// Takes every pair of a micro-tile for a negative one: adds log(1 + exp(s)) to its row, and puts
// G = g / (1 + exp(-s)) in the place of x. e = exp(-|s|) serves both, and nothing overflows.
template <class T, bool kLoss, bool kGradient, class Mask>
SSLKERN_INLINE void classify(const MicroTile<T>& m, const Mask& mask, const T* g,
                             TileRows<T>& sums) {
  const Vec<T> zero{}, one = splat(T(1));
  for (int r = 0; r < kMicroRows; ++r) {
    Vec<T> loss{};
#pragma GCC unroll 2
    for (int q = 0; q < kMicroCols<T>; q += kWidth<T>) {
      T* c = m.c + r * m.ldc + q;
      const Vec<T> x = load(c), e = exp2_or_zero<T>(minus_magnitude<T>(x));
      if constexpr (kLoss) {
        loss += masked<T>(mask, r, q, maximum<T>(x, zero) + log2_1p<T>(e), zero);
      }
      if constexpr (kGradient) {
        Vec<T> p = (x < zero ? e : one) / (one + e);
        if constexpr (!kLoss) p *= splat(g[r]);
        store(c, masked<T>(mask, r, q, p, zero));
      }
    }
    if constexpr (kLoss) store(sums.loss[m.i + r], load(sums.loss[m.i + r]) + loss);
  }
}

// Calls visit(r, q) for the elements of a micro-tile on the diagonal of the matrix.
template <class T, class Visit>
SSLKERN_INLINE void for_positives(const SiglipInput& in, std::int64_t row, std::int64_t column,
                                  const Visit& visit) {
  if (!in.positives || row >= column + kMicroCols<T> || column >= row + kMicroRows) return;
  const std::int64_t count = smaller(kMicroRows, in.N - row);
  for (std::int64_t r = 0; r < count; ++r) {
    const std::int64_t q = row + r - column;
    if (q >= 0 && q < kMicroCols<T>) visit(int(r), int(q));
  }
}

// Tile (I, J): the losses of its rows and, in its place, G. A positive pair is a negative one of
// the opposite logit, and its G has the opposite sign.
template <class T, bool kLoss, bool kGradient>
void make_tile(const SiglipInput& in, const Pass<T>& p, const typename Pass<T>::Scratch& s,
               std::int64_t I) {
  const std::int64_t row0 = I * p.q.x.tile, col0 = s.gradient.k.first;
  __builtin_memset(s.rows->loss, 0, kLoss ? sizeof(s.rows->loss) : 0);
  const auto finish = [&](const MicroTile<T>& m) __attribute__((always_inline)) {
    const std::int64_t row = row0 + m.i, column = col0 + m.j;
    const Inside<T> inside{in.N - row, in.M - column};
    const T* g = kLoss ? nullptr : p.g + row;
    add_bias<T>(in, s.gradient.k, m);
    for_positives<T>(in, row, column, [&](int r, int q) { m.c[r * m.ldc + q] *= T(-1); });
    if (inside.whole()) {
      classify<T, kLoss, kGradient>(m, AllLanes{}, g, *s.rows);
    } else {
      classify<T, kLoss, kGradient>(m, inside, g, *s.rows);
    }
    if constexpr (kGradient) {
      for_positives<T>(in, row, column, [&](int r, int q) { m.c[r * m.ldc + q] *= T(-1); });
    }
  };
  similarity_tile<T, kGradient>(p.q.x, s.gradient.k.y, I, 0, false, s.gradient.tile, finish,
                                [](int, int) {});
}

template <class T>
void sum_rows(const typename Pass<T>::Scratch& s, std::int64_t rows) {
  const int cols = int(s.gradient.k.y.block_rows(0, kWidth<T>));
  for (std::int64_t i = 0; i < rows; ++i) {
    const T* g = s.gradient.tile + i * kTilePitch<T>;
    Vec<T> sum{};
    for (int j = 0; j < cols; j += kWidth<T>) sum += load(g + j);
    s.rows->gradient[i] = double(horizontal_sum<T>(sum));
  }
}

template <class T>
void make_tile(const Task& task, const Pass<T>& p, const typename Pass<T>::Scratch& s,
               std::int64_t I) {
  if (!task.gradient()) return make_tile<T, true, false>(task.in, p, s, I);
  task.loss ? make_tile<T, true, true>(task.in, p, s, I)
            : make_tile<T, false, true>(task.in, p, s, I);
  if (task.bias) sum_rows<T>(s, p.q.rows_of(I));
}

// Adds what the tile has given its rows; to be called in the order of the key blocks.
template <class T>
void collect(const Task& task, const Pass<T>& p, const typename Pass<T>::Scratch& s, std::int64_t I,
             bool fresh) {
  Collected* lane = p.rows + s.gradient.k.J % p.q.lanes * task.in.N + I * p.q.x.tile;
  for (std::int64_t i = 0; i < p.q.rows_of(I); ++i) {
    if (fresh) lane[i] = {0, 0};
    if (task.loss) lane[i].loss += double(horizontal_sum<T>(load(s.rows->loss[i])));
    if (task.bias) lane[i].gradient += s.rows->gradient[i];
  }
}

template <class T>
Collected add_lanes(const SiglipInput& in, const Pass<T>& p, std::int64_t i) {
  Collected sum{0, 0};
  for (std::int64_t lane = 0; lane < p.q.lanes; ++lane) {
    sum.loss += p.rows[lane * in.N + i].loss;
    sum.gradient += p.rows[lane * in.N + i].gradient;
  }
  return sum;
}

// Gradients go out in elements E, inputs come in elements Input. g: see Task.
template <class T, class E, class Input>
void run(const Task& task, const T* g, T* loss, double* sum, const Results<E>& out, void* workspace,
         int threads) {
  const SiglipInput& in = task.in;
  Arena arena(workspace);
  auto p = Pass<T>::take(arena, task, threads);
  p.sums.unit = g == nullptr ? 1.0 : gradient_unit(largest_gradient(g, in.N));
  p.q.reset();
#pragma omp parallel num_threads(threads)
  {
    pack_queries<T, Input>(in, p.q);
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < (g == nullptr ? 0 : p.q.padded_rows()); ++i) {
      p.g[i] = i < in.N ? T(double(g[i]) / p.sums.unit) : T(0);
    }
    auto s = p.scratch();
    const auto tile = [&](const GradientScratch<T>&, std::int64_t I) {
      make_tile<T>(task, p, s, I);
    };
    const auto in_turn = [&](const GradientScratch<T>&, std::int64_t I, bool fresh) {
      collect<T>(task, p, s, I, fresh);
    };
    accumulate_gradient<T, E, Input>(in, p.q, p.sums, s.gradient, out, tile, in_turn);
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < in.N; ++i) {
      p.rows[i] = add_lanes<T>(in, p, i);
      if (task.loss) loss[i] = T(p.rows[i].loss * kLn2);
    }
  }
  Collected total{0, 0};
  for (std::int64_t i = 0; i < in.N; ++i) {
    total.loss += p.rows[i].loss;
    total.gradient += p.rows[i].gradient;
  }
  if (task.loss) *sum = total.loss * kLn2;
  const Results<E> without_bias{out.grad_query, out.grad_key, out.grad_scale, nullptr, nullptr};
  write_small_gradients<T, E>(in, p.sums, without_bias);
  if (out.grad_bias != nullptr) *out.grad_bias = p.sums.unit * total.gradient;
}

Task task_of(const SiglipFwd& p) {
  const Wanted wanted{p.grad_query != nullptr, p.grad_key != nullptr, false};
  return {p.in, wanted, true, p.grad_bias != nullptr};
}

Task task_of(const SiglipBwd& p) {
  const Wanted wanted{p.grad_query != nullptr, p.grad_key != nullptr, false};
  return {p.in, wanted, false, p.grad_bias != nullptr};
}

template <class T, class E>
void forward(const SiglipFwd& p) {
  const Results<T> out{static_cast<T*>(p.grad_query), static_cast<T*>(p.grad_key), p.grad_scale,
                       p.grad_bias, nullptr};
  run<T, T, E>(task_of(p), nullptr, static_cast<T*>(p.loss), p.sum, out, p.workspace, p.threads);
}

template <class T, class E>
void backward(const SiglipBwd& p) {
  const Results<E> out{static_cast<E*>(p.grad_query), static_cast<E*>(p.grad_key), p.grad_scale,
                       p.grad_bias, nullptr};
  run<T, E, E>(task_of(p), static_cast<const T*>(p.grad_loss), nullptr, nullptr, out, p.workspace,
               p.threads);
}

template <class Params>
std::int64_t bytes(const Params& p) {
  Arena arena(nullptr);
  if (p.in.dtype == Dtype::kFloat64) {
    Pass<double>::take(arena, task_of(p), p.threads);
  } else {
    Pass<float>::take(arena, task_of(p), p.threads);
  }
  return arena.used();
}

}  // namespace

std::int64_t siglip_fwd_workspace(const SiglipFwd& p) { return bytes(p); }
std::int64_t siglip_bwd_workspace(const SiglipBwd& p) { return bytes(p); }

void siglip_fwd(const SiglipFwd& p) {
  with_types(p.in.dtype, [&]<class T, class E>() { forward<T, E>(p); });
}

void siglip_bwd(const SiglipBwd& p) {
  with_types(p.in.dtype, [&]<class T, class E>() { backward<T, E>(p); });
}

}  // namespace sslkern::cpu::SSLKERN_ISA

SSLKERN_ENTRY(std::int64_t, siglip_fwd_workspace, const SiglipFwd&)
SSLKERN_ENTRY(std::int64_t, siglip_bwd_workspace, const SiglipBwd&)
SSLKERN_ENTRY(void, siglip_fwd, const SiglipFwd&)
SSLKERN_ENTRY(void, siglip_bwd, const SiglipBwd&)
