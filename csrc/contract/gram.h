// What losses over columns of a batch share: sums of squares of the products of the columns x_i of
// one view with the columns y_j of another (or of the same), all N long, and their gradient.
//
//   sum_ij (x_i . y_j)^2 = sum_mn A_mn B_mn    A = X X^T, B = Y Y^T: N x N, products of the rows
//
// so the D x D products of columns are needed only where D <= N ("direct"); elsewhere the N x N
// products of rows ("gram") hold the same.
#pragma once
#include <cstdint>

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

}  // namespace sslkern
