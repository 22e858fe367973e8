// The kernels of SigLIP; see contract/siglip.h for the formulas and letters.
#pragma once
#include "contract/siglip.h"
#include "cuda/functions.cuh"
#include "cuda/packed.cuh"
#include "cuda/row_sums.cuh"

namespace sslkern::cuda {

// A thread per row.
template <class T>
__global__ void __launch_bounds__(256) siglip_weights_kernel(SiglipWeights p) {
  const std::int64_t i = std::int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i >= padded_rows(p.N)) return;
  const T* g = static_cast<const T*>(p.grad_loss);
  static_cast<T*>(p.weights)[i] = i < p.N ? T(double(g[i]) / *p.unit) : T(0);
}

// Grid ((N + M) / kRowWarps), a warp per row, of the queries first. Squares of float16 do not
// overflow float32.
__global__ void __launch_bounds__(kRowThreads) siglip_norms_kernel(SiglipLift p) {
  const int lane = int(threadIdx.x) % 32;
  const std::int64_t row = std::int64_t(blockIdx.x) * kRowWarps + threadIdx.x / 32;
  if (row >= p.in.query.N + p.in.key.N) return;
  const bool is_query = row < p.in.query.N;
  const PackedRows& z = is_query ? p.in.query : p.in.key;
  const std::int64_t padded = z.padded_D();
  const Float16* x =
      static_cast<const Float16*>(z.rows) + (is_query ? row : row - p.in.query.N) * padded;
  float sum = 0;
  for (std::int64_t d = lane; d < padded; d += 32) sum += to_working(x[d]) * to_working(x[d]);
  sum = warp_sum(sum);
  if (lane == 0) p.norm[row] = sqrtf(sum);
}

// One block: where |s_ij - bias| is at most scale max |x_i| max |t_j|, G_ij is at most 2^most.
__global__ void __launch_bounds__(kOneBlock) siglip_lift_kernel(SiglipLift p) {
  SSLKERN_SHARED(double, scratch, [2][kOneBlock / 32]);
  const std::int64_t N = p.in.query.N, count = N + p.in.key.N;
  double query = 0, key = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += kOneBlock) {
    (i < N ? query : key) = larger(i < N ? query : key, double(p.norm[i]));
  }
  const auto of_warp = [](double x) { return warp_max(x); };
  query = block_reduce<kOneBlock>(query, 0.0, scratch[0], of_warp);
  key = block_reduce<kOneBlock>(key, 0.0, scratch[1], of_warp);
  if (threadIdx.x != 0) return;
  constexpr double kLeast = -100;  // float32 has no more to lift
  const double bias = p.in.bias == nullptr ? 0 : *p.in.bias, range = *p.in.scale * query * key;
  const double negative = (range + bias) * kLog2E, positive = (range - bias) * kLog2E;
  const double most = fmax(fmin(p.positives ? larger(negative, positive) : negative, 0.0), kLeast);
  *p.lift = gradient_scale(Dtype::kFloat16) * exp2(-ceil(most));
}

// Where two tiles of queries and keys meet: whether pairs on the diagonal, or behind the last of
// either, are in it.
struct SiglipMeeting {
  int row, column;  // first of each
  int N, M;
  bool positives;

  template <class P>
  SSLKERN_DEVICE bool is_plain() const {
    return row <= N - P::kSide && column <= M - P::kSide && !(positives && row == column);
  }
};

// What a block does with a tile of products x_i . t_j. A positive pair is a negative one of the
// opposite logit, and its G has the opposite sign. e = 2^-|u| serves the loss,
// max(u, 0) + log2(1 + e), and its derivative, (u < 0 ? e : 1) / (1 + e): nothing overflows, and
// small terms keep their digits.
template <class P, bool kLoss, bool kGradient>
struct SiglipPairs {
  using T = typename P::Working;
  const SiglipTiles& p;
  const Place<P>& at;
  const RowSums<P>& losses;
  T scale, bias;  // times log2(e)
  T lift;

  struct Sums {
    T slope, total;  // of G_ij x_i . t_j and G_ij
  };

  template <bool kPlain>
  SSLKERN_DEVICE Sums visit(Results<P>& c, const SiglipMeeting& m) const {
    Sums sums{0, 0};
    auto loss = losses.cursor();
    const std::int64_t pitch = p.in.key.padded_N();
    const std::int64_t first = (m.row - p.first_row) * pitch + m.column;
    RowPointer<P> pointer(static_cast<typename P::Element*>(p.gradient) + first, pitch, at);
    for_each_row<P>(c, at, [&](int row, RowResults<P>& x) {
      const int i = m.row + row;
      const T g = kLoss ? T(1) : static_cast<const T*>(p.weights)[i];
      // Of the lane's columns, counted from its first: how many exist, and which one is the match.
      const int first_column = m.column + at.column_of(0, 0);
      const int existing = i < m.N ? m.M - first_column : 0;
      const int match = m.positives ? i - first_column : -1;
      T row_loss = 0, slope = 0, total = 0;
#pragma unroll
      for (int q = 0; q < 2 * P::kN; ++q) {
        const int column = P::column_of(q / 2, q % 2, 0);
        const bool counts = kPlain || column < existing, matches = !kPlain && column == match;
        const T dot = x[q], s = dot * scale + bias, u = matches ? -s : s;
        const T e = power_of_two(-fabs(u));
        if constexpr (kLoss) {
          const T term = larger(u, T(0)) + log2_1p(e);
          row_loss += counts ? term : T(0);
        }
        if constexpr (kGradient) {
          const T probability = quotient(u < T(0) ? e : T(1), T(1) + e) * g;
          const T value = counts ? (matches ? -probability : probability) : T(0);
          total += value;
          slope += counts ? value * dot : T(0);
          x[q] = value * lift;
        }
      }
      if constexpr (kLoss) loss.add(row_loss);
      if constexpr (kGradient) {
        sums.slope += slope;
        sums.total += total;
        pointer.store(x);
      }
    });
    return sums;
  }
};

// Grid (tiles of the given rows, splits), block P::kThreads, dynamic shared memory of shared_need,
// with losses RowSums besides. A block owns the queries of its tile and walks along its share of
// the keys. Per pair D multiply-adds and one exponential; for the loss the 10 multiply-adds of a
// logarithm; for the gradient one reciprocal, and G written once.
template <class P, bool kResident, bool kLoss, bool kGradient>
__global__ void __launch_bounds__(P::kThreads, kResident && !kGradient ? P::kMinBlocks : 1)
    siglip_tiles_kernel(SiglipTiles p) {
  using T = typename P::Working;
  SSLKERN_DYNAMIC_SHARED(unsigned char, shared);
  const Place<P> at = Place<P>::here();
  const Walk walk = walk_of<P>(p.in.query, p.first_row, p.in.key, p.splits);
  const RowSums<P> losses{reinterpret_cast<double*>(behind_tiles<P, kResident>(shared, walk)), at};
  if constexpr (kLoss) losses.clear();
  const double scale = positive_or_nan(*p.in.scale) * kLog2E;
  const double bias = p.in.bias == nullptr ? 0 : *p.in.bias * kLog2E;
  const T lift = kGradient && p.lift != nullptr ? T(*p.lift) : T(1);
  const SiglipPairs<P, kLoss, kGradient> pairs{p, at, losses, T(scale), T(bias), lift};
  const int row = int(p.first_row) + int(blockIdx.x) * P::kSide;
  double slope = 0, total = 0;
  for_each_tile<P, kResident>(walk, shared, [&](Results<P>& c, int tile) {
    const SiglipMeeting m{row, tile * P::kSide, int(p.in.query.N), int(p.in.key.N), p.positives};
    const auto sums =
        m.is_plain<P>() ? pairs.template visit<true>(c, m) : pairs.template visit<false>(c, m);
    slope += double(sums.slope);
    total += double(sums.total);
  });
  if constexpr (kLoss) {
    losses.write(p.loss + blockIdx.y * p.in.query.padded_N() + row);
  }
  if constexpr (kGradient) {
    const std::int64_t blocks = p.in.query.padded_N() / P::kSide * p.splits;
    const std::int64_t block = row / P::kSide * p.splits + blockIdx.y;
    write_block_sum<P>(slope, p.sums + block, shared);
    write_block_sum<P>(total, p.sums + blocks + block, shared);
  }
}

// A thread per row.
template <class T>
__global__ void __launch_bounds__(256) siglip_losses_kernel(SiglipLosses p) {
  const std::int64_t i = std::int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i >= p.N) return;
  double sum = 0;
  for (std::int64_t s = 0; s < p.splits; ++s) sum += p.partial[s * p.padded_N + i];
  p.wide[i] = sum * kLn2;
  static_cast<T*>(p.loss)[i] = T(sum * kLn2);
}

}  // namespace sslkern::cuda
