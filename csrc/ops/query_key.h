// From tensors to the part of the parameters that all losses of queries against keys share.
#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>

#include "contract/query_key.h"
#include "ops/backend.h"
#include "ops/packed.h"

namespace sslkern::ops {

struct QueryKeyOptions {
  bool scale_per_key, one_bias, normalize;
};

// Rows have adjacent columns; all tensors must outlive the result.
inline QueryKey query_key_of(const at::Tensor& query, const at::Tensor& key, const double* scale,
                             const double* bias, QueryKeyOptions options) {
  return {query.const_data_ptr(),
          key.const_data_ptr(),
          query.stride(0),
          key.stride(0),
          query.size(0),
          key.size(0),
          query.size(1),
          scale,
          bias,
          to_dtype(query.scalar_type()),
          options.scale_per_key,
          options.one_bias,
          options.normalize};
}

// The rows of both sides on a device.
struct PackedSides {
  Packed query, key;
  PackedQueryKey view;
};

inline PackedSides pack_sides(CudaCall& call, const at::Tensor& query, const at::Tensor& key,
                              const double* scale, const double* bias, QueryKeyOptions options) {
  PackedSides z{
      pack(call, query, {}, options.normalize), pack(call, key, {}, options.normalize), {}};
  z.view = {z.query.view, z.key.view, scale, bias, options.scale_per_key, options.one_bias};
  return z;
}

inline int threads_for(const QueryKey& in) { return thread_count(std::max(in.N, in.M)); }

}  // namespace sslkern::ops
