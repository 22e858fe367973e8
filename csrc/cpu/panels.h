// The two packed copies of a matrix Z (N rows, D columns) that the tile products read, both zero
// padded to whole micro-tiles.
//
//   panels  [N / NR][D][NR]          k-major panels of NR rows: B of S = Z Z^T. Scaled, so that S
//                                    comes out in the unit that the epilogue wants.
//   strips  [N / T][D / NR][SR][NR]  blocks of T rows cut into strips of NR columns: A of S (by
//                                    broadcasts) and B of G Z. Gradients have this layout too.
//
// SR = T + MR rows a strip: without the MR extra ones, the parts of all strips that MR rows of A
// touch would lie a multiple of 4 KiB apart, in the same few sets of L1.
#pragma once
#include "cpu/micro.h"
#include "math/half.h"

namespace sslkern::cpu::SSLKERN_ISA {

// Largest T. G (T x T float32, 350 KiB) and a strip of either block then share L2. Measured on 1
// MiB of L2, time relative to 288: 96 1.35 to 1.6, 192 1.08, 384 1.00.
constexpr int kMaxTile = 288;
constexpr int kTileUnit =
    96;  // whole micro-tiles in both directions for every type and instruction set
static_assert(kTileUnit % kMicroRows == 0 && kTileUnit % kMicroCols<float> == 0);

constexpr double kNormEps = 1e-12;

SSLKERN_INLINE std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
SSLKERN_INLINE std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }
SSLKERN_INLINE std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

template <class T>
struct Packed {
  static constexpr int NR = kMicroCols<T>;
  std::int64_t rows, dims, tile;
  T* panels;
  T* strips;

  // Small problems get small tiles, for the sake of the threads; a function of the size alone, so
  // that the result does not depend on the number of threads.
  static Packed sized(std::int64_t rows, std::int64_t dims) {
    const std::int64_t tile = rows < 8 * kTileUnit    ? kTileUnit
                              : rows < 16 * kTileUnit ? 2 * kTileUnit
                                                      : kMaxTile;
    return {rows, dims, tile, nullptr, nullptr};
  }

  std::int64_t blocks() const { return ceil_div(rows, tile); }
  std::int64_t strip_count() const { return ceil_div(dims, NR); }
  std::int64_t strip_size() const { return (tile + kMicroRows) * NR; }
  std::int64_t block_size() const { return strip_count() * strip_size(); }
  T* panel(std::int64_t row) const { return panels + row / NR * dims * NR; }
  T* block(std::int64_t b) const { return strips + b * block_size(); }
  // Element (row, 0) of strip 0; the next strip lies strip_size() further.
  T* row(std::int64_t row) const { return block(row / tile) + row % tile * NR; }
  // Rows of block b, rounded up to a multiple of `unit`.
  std::int64_t block_rows(std::int64_t b, int unit) const {
    return round_up(smaller(tile, rows - b * tile), unit);
  }

  // Rows that exist in memory, zeros past the last.
  std::int64_t padded_rows() const { return round_up(rows, kTileUnit); }
  std::int64_t panels_size() const { return padded_rows() * dims; }
  std::int64_t strips_size() const { return blocks() * block_size(); }
};

// sqrt of the sum of squares in double; scaled by a power of two where the squares overflow.
template <class E>
SSLKERN_INLINE double row_norm(const E* z, std::int64_t dims) {
  constexpr int kLanes = 16;
  const auto sum_of_squares = [&](double scale) {
    double part[kLanes] = {}, sum = 0;
    std::int64_t d = 0;
    for (; d + kLanes <= dims; d += kLanes) {
      for (int l = 0; l < kLanes; ++l) {
        const double x = double(math::to_float(z[d + l])) * scale;
        part[l] += x * x;
      }
    }
    for (; d < dims; ++d) {
      const double x = double(math::to_float(z[d])) * scale;
      part[0] += x * x;
    }
    for (int l = 0; l < kLanes; ++l) sum += part[l];
    return sum;
  };
  const double sum = sum_of_squares(1.0);
  if (!(sum > __DBL_MAX__)) return __builtin_sqrt(sum);
  return __builtin_sqrt(sum_of_squares(0x1p-600)) * 0x1p600;
}

// Where the rows come from: the rows of a, then those of b, in the order given or their own.
struct RowSource {
  const void* a;
  const void* b;
  std::int64_t stride_a, stride_b;  // elements
  std::int64_t rows_a;
  const std::int64_t* order = nullptr;

  template <class E>
  const E* row(std::int64_t n) const {
    const std::int64_t i = order == nullptr ? n : order[n];
    return i < rows_a ? static_cast<const E*>(a) + i * stride_a
                      : static_cast<const E*>(b) + (i - rows_a) * stride_b;
  }
};

// What the packed rows are multiplied by after normalisation: one number, or one per row.
struct RowFactor {
  const double* factor;  // null: 1
  bool per_row;

  double operator[](std::int64_t i) const {
    return factor == nullptr ? 1.0 : factor[per_row ? i : 0];
  }
};

// Packs rows [first, first + NR) of the source, zero rows past its end; `out` may lack panels or
// strips. inv_norm[i] = 1/|z_i|, 0 for a zero row, NaN for a non-finite one, 1 without
// normalisation. Returns the largest squared norm of the packed rows, infinity where one is not
// finite.
template <class T, class E>
double pack_panel(const RowSource& source, std::int64_t first, bool normalize, RowFactor factor,
                  T panel_scale, const Packed<T>& out, double* inv_norm) {
  constexpr int NR = kMicroCols<T>, W = kWidth<T>;
  const E* rows[NR];
  double scale[NR], largest = 0;
  const std::int64_t count = smaller(NR, out.rows - first);
  for (std::int64_t r = 0; r < count; ++r) {
    const std::int64_t i = first + r;
    rows[r] = source.row<E>(i);
    const double norm = row_norm(rows[r], out.dims);
    const bool finite = norm <= __DBL_MAX__;
    inv_norm[i] = !normalize        ? 1.0
                  : !finite         ? __builtin_nan("")
                  : norm < kNormEps ? 0.0
                                    : 1.0 / norm;
    scale[r] = inv_norm[i] * factor[i];
    const double length = (normalize ? 1.0 : norm) * factor[i];
    const double squared = finite ? length * length : __builtin_inf();
    largest = squared > largest ? squared : largest;
  }
  for (std::int64_t s = 0; s < out.strip_count(); ++s) {
    alignas(kVectorBytes) T block[NR * NR], turned[NR * NR];
    T* strip = out.strips == nullptr ? block : out.row(first) + s * out.strip_size();
    const int cols = int(smaller(NR, out.dims - s * NR));
    for (std::int64_t r = 0; r < NR; ++r) {
      T* to = strip + r * NR;
      const bool zero = r >= count || scale[r] == 0.0;
      const int used = zero ? 0 : cols;
      const E* from = zero ? nullptr : rows[r] + s * NR;
      // The product in double: 1/|z_i| may be subnormal in float32.
      for (int c = 0; c < used; ++c) to[c] = T(double(math::to_float(from[c])) * scale[r]);
      for (int c = used; c < NR; ++c) to[c] = T(0);
    }
    if (out.panels == nullptr) continue;
    for (int i = 0; i < NR; i += W) {
      for (int j = 0; j < NR; j += W) {
        transpose_block<T>(strip + i * NR + j, NR, turned + j * NR + i, NR);
      }
    }
    T* panel = out.panel(first) + s * NR * NR;
    for (int i = 0; i < cols * NR; i += W) {
      store<T>(panel + i, load(turned + i) * splat(panel_scale));
    }
  }
  return largest;
}

}  // namespace sslkern::cpu::SSLKERN_ISA
