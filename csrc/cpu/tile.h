// Tile products: S = X Y^T with an epilogue on each finished micro-tile, and the gradient products
// G Y and G^T X.
#pragma once
#include "cpu/panels.h"

namespace sslkern::cpu::SSLKERN_ISA {

// Columns of a T x T tile buffer: an odd number of cache lines a row, so that a column walk visits
// all L1 sets.
template <class T>
constexpr int kTilePitch = kMaxTile + kCacheLine / int(sizeof(T));
static_assert(kTilePitch<float> * 4 / kCacheLine % 2 == 1 &&
              kTilePitch<double> * 8 / kCacheLine % 2 == 1);

template <class T>
constexpr std::int64_t kTileSize = std::int64_t(kMaxTile) * kTilePitch<T>;

// Dimensions per pass of the S product: a panel of B (NR x 256 x 4 bytes) then stays in L1.
constexpr std::int64_t kDimsPerPass = 256;

// A finished micro-tile: values c[r * ldc + q], r < MR, q < NR, at row i + r and column j + q of
// the tile.
template <class T>
struct MicroTile {
  T* c;
  std::int64_t ldc;
  int i, j;
};

// Computes tile (I, J) of X Y^T, row block I against row block J, micro-tile by micro-tile.
// finish(MicroTile) sees each one while it is in L1. With kKeep all of it is written to `tile`;
// without, only when the dimensions need several passes. On a diagonal tile micro-tiles that lie
// wholly on or below the diagonal are not computed: skip(i, j).
template <class T, bool kKeep, class Finish, class Skip>
SSLKERN_INLINE void similarity_tile(const Packed<T>& x, const Packed<T>& y, std::int64_t I,
                                    std::int64_t J, bool diagonal, T* tile, const Finish& finish,
                                    const Skip& skip) {
  constexpr int NR = kMicroCols<T>, MR = kMicroRows;
  alignas(kVectorBytes) T small[MR * NR];
  const int rows = int(x.block_rows(I, MR)), cols = int(y.block_rows(J, NR));
  for (std::int64_t k = 0; k < x.dims; k += kDimsPerPass) {
    const std::int64_t dims = smaller(kDimsPerPass, x.dims - k);
    const bool first = k == 0, last = k + dims == x.dims;
    const bool in_small = !kKeep && first && last;
    const T* a = x.block(I) + k / NR * x.strip_size();
    for (int j = 0; j < cols; j += NR) {
      const T* b = y.panel(J * y.tile + j) + k * NR;
      for (int i = 0; i < rows; i += MR) {
        if (diagonal && j + NR - 1 <= i) {
          if (last) skip(i, j);
          continue;
        }
        T* c = in_small ? small : tile + i * kTilePitch<T> + j;
        const std::int64_t ldc = in_small ? NR : kTilePitch<T>;
        micro_product<T, NR, 1>(a + i * NR, x.strip_size(), b, dims / NR, int(dims % NR), c, ldc,
                                !first);
        if (last) finish(MicroTile<T>{c, ldc, i, j});
      }
    }
  }
}

struct StripSizes {
  std::int64_t from, to;
};

// to (+)= op(G) from, for all dimensions: `from` and `to` are blocks of strips; `to` gets `rows`
// rows. G(r, k) lies at g[r * RS + k * KS]; range(i) gives the k in [begin, end) that are not zero
// in rows i .. i + MR.
template <class T, int RS, int KS, class Range>
SSLKERN_INLINE void gradient_product(const T* g, const T* from, T* to, std::int64_t strips,
                                     StripSizes size, int rows, bool accumulate,
                                     const Range& range) {
  constexpr int NR = kMicroCols<T>, MR = kMicroRows;
  for (std::int64_t s = 0; s < strips; ++s) {
    const T* b = from + s * size.from;
    T* c = to + s * size.to;
    for (int i = 0; i < rows; i += MR) {
      const auto [begin, end] = range(i);
      micro_product<T, RS, KS>(g + std::int64_t(i) * RS + std::int64_t(begin) * KS, NR * KS,
                               b + begin * NR, (end - begin) / NR, (end - begin) % NR, c + i * NR,
                               NR, accumulate);
    }
  }
}

struct Span {
  int begin, end;
};

}  // namespace sslkern::cpu::SSLKERN_ISA
