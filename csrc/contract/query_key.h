// What the losses of N queries against M keys read: the rows, and how a logit comes of two of them.
//
//   xh_i, yh_j = query_i / |query_i|, key_j / |key_j|    normalize; zero when the norm is < 1e-12.
//                                                        Otherwise the rows as they are
//   s_ij       = scale_j xh_i . yh_j + bias_j            scale_j = scale for all j, or one per key
#pragma once
#include <cstdint>

#include "contract/packed.h"
#include "contract/types.h"

namespace sslkern {

struct QueryKey {
  const void* query;          // (N, D) of dtype, rows stride_query apart, columns adjacent
  const void* key;            // (M, D) of dtype, rows stride_key apart, columns adjacent
  std::int64_t stride_query;  // elements
  std::int64_t stride_key;    // elements
  std::int64_t N, M, D;       // > 0
  const double* scale;        // (1), or (M) with scale_per_key; > 0
  const double* bias;         // (M), or (1) with one_bias, or null
  Dtype dtype;
  bool scale_per_key;
  bool one_bias;
  bool normalize;
};

// The same for the CUDA kernels, whose rows are packed.
struct PackedQueryKey {
  PackedRows query, key;  // N and M rows, of the same D and dtype
  const double* scale;
  const double* bias;
  bool scale_per_key;
  bool one_bias;
};

}  // namespace sslkern
