// Launch shapes of the kernels over columns.
#pragma once
#include "cuda/columns.cuh"

namespace sslkern::cuda {

// Parts of the rows by groups of columns, one dimension.
inline dim3 column_grid(std::int64_t parts, std::int64_t D) {
  return dim3(unsigned(parts * ((D + kColumns - 1) / kColumns)));
}

inline dim3 element_grid(std::int64_t N, std::int64_t D) {
  return column_grid((N + kElementRows - 1) / kElementRows, D);
}

}  // namespace sslkern::cuda
