// What losses over columns of a batch share: sums of squares of the products of the columns x_i of
// one view with the columns y_j of another (or of the same), all N long, and their gradient.
//
//   sum_ij (x_i . y_j)^2 = sum_mn A_mn B_mn    A = X X^T, B = Y Y^T: N x N, products of the rows
//
// so the D x D products of columns are needed only where D <= N ("direct"); elsewhere the N x N
// products of rows ("gram") hold the same.
#pragma once
#include <cstdint>

#include "contract/cuda.h"
#include "contract/types.h"

namespace sslkern {

// Views as the user gave them.
struct GramInput {
  const void* z[2];        // (N, D) of dtype, columns adjacent; the second is null for one view
  std::int64_t stride[2];  // elements from row to row
  std::int64_t N, D;       // > 1, > 0
  Dtype dtype;
  bool gram;  // products of rows, else of columns
  bool wide;  // all arithmetic in float64 whatever the dtype

  std::int64_t side() const { return gram ? N : D; }
};

// Elements of a matrix of products in the layout of the kernels, whatever the instruction set:
// strips of columns, of rows_padded + 12 rows each.
constexpr std::int64_t gram_elements(std::int64_t side) {
  const std::int64_t padded = (side + 95) / 96 * 96;
  return padded * (padded + 12);
}

// ---- CUDA. Working: float64 for float64, else float32. Views are packed as working matrices,
// which the library multiplies; matrix m of the products is row-major, from element m side^2 on.
// Rows are split among blocks, whose partial sums a second kernel merges in their order.
//
// Where the sum without its diagonal is a small difference, float32 products are not enough. Only
// the device knows: kernels in float64 stand by, which do nothing where the scalar `wide` is 0.

// A view as the losses see it: x_nj = (z_nj - mean_j) scale_j, in float64 before it is rounded.
struct ColumnView {
  const void* z;               // (N, D) of dtype, columns adjacent
  std::int64_t stride;         // elements from row to row
  const double *mean, *scale;  // (D)
  std::int64_t N, D;
  Dtype dtype;
};

// Rows that a block adds up, and how many blocks share a column: of sizes alone, enough for a large
// device.
constexpr std::int64_t split_rows(std::int64_t N, std::int64_t D) {
  constexpr std::int64_t kBlocks = 1024, kColumns = 32, kLeast = 128, kMost = 64;
  const std::int64_t wanted = kBlocks * kColumns / D;
  const std::int64_t parts = wanted < 1 ? 1 : wanted > kMost ? kMost : wanted;
  return ((N + parts - 1) / parts + kLeast - 1) / kLeast * kLeast;
}
constexpr std::int64_t column_parts(std::int64_t N, std::int64_t D) {
  return (N + split_rows(N, D) - 1) / split_rows(N, D);
}

// Per part and column: mean and sum of squared distances from it, of one view or both; of both then
// the sum of (a - mean_a) (b - mean_b), or of (a - b)^2.
struct ColumnMoments {
  static constexpr int kMean = 0, kSquares = 2, kPair = 4, kRows = 5;
  GramInput in;
  bool differences;
  double* partial;  // (parts, kRows, D)
};

struct PackColumns {
  ColumnView view;
  void* x;             // (N, pitch) working, of which D are written
  std::int64_t pitch;  // elements
};

// Partial sums of x_i y_i, one for each of `parts` blocks.
struct ProductSums {
  const void *x, *y;  // (count) working
  std::int64_t count;
  Dtype dtype;
  std::int64_t parts;  // > 0
  double* partial;     // (parts)
};
constexpr std::int64_t product_parts(std::int64_t count) {
  constexpr std::int64_t kEach = 4096, kMost = 1024;
  return count > kEach * kMost ? kMost : (count + kEach - 1) / kEach;
}

constexpr std::int64_t kWideTile = 64;
constexpr std::int64_t wide_tiles(std::int64_t side) { return (side + kWideTile - 1) / kWideTile; }

// Partial sums of A_mn B_mn over all m, n: A = x x^T and B = y y^T in float64, neither in memory.
// One for each tile on and above the diagonal; those above it count twice.
struct WideSums {
  ColumnView x, y;  // y.z null: B = A
  const double* wide;
  double* partial;  // (tiles (tiles + 1) / 2)
};

// x y^T in float64.
struct WideGram {
  ColumnView x, y;
  const double* wide;
  double* gram;  // (x.N, y.N)
};

// product = gram^T x - y diag(own_j own_scale_j^2 own_factor), the difference in float64. Only some
// rows at a time: those of y.
struct WideRows {
  ColumnView x, y;
  const double* wide;
  const double* gram;       // (x.N, y.N) of WideGram
  const double* own;        // (D)
  const double* own_scale;  // (D) or null: 1
  double own_factor;
  float* product;  // (y.N, D)
};

// Per part and column: sums of v and of v x.
struct ColumnDots {
  ColumnView x;
  const void* v;    // (N, D) working
  double* partial;  // (parts, 2, D)
};

namespace cuda {
void column_moments(const ColumnMoments&, const Launch&);
void pack_columns(const PackColumns&, const Launch&);
void product_sums(const ProductSums&, const Launch&);
void wide_sums(const WideSums&, const Launch&);
void wide_gram(const WideGram&, const Launch&);
void wide_rows(const WideRows&, const Launch&);
void column_dots(const ColumnDots&, const Launch&);
}  // namespace cuda

}  // namespace sslkern
