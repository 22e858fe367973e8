// What losses over columns of a batch share: which products they take, and memory for them.
#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "contract/gram.h"
#include "ops/backend.h"
#include "ops/check.h"

namespace sslkern::ops {

// A view: statistics over its rows need two of them.
inline void check_view(const char* op, const char* name, const at::Tensor& z) {
  check_matrix(op, name, "(N, D)", z);
  SSLKERN_CHECK(VALUE, z.size(0) > 1, op, name,
                "of at least two rows, for the statistics of its columns", z.size(0));
}

inline void check_finite(const char* op, const char* name, double value) {
  SSLKERN_CHECK(VALUE, std::isfinite(value), op, name, "finite", value);
}

// Products of rows cost 6 N^2 D operations with the gradients, those of columns 6 N D^2.
inline bool takes_products_of_rows(const char* op, std::string_view route, const at::Tensor& z) {
  SSLKERN_CHECK(VALUE, route == "auto" || route == "gram" || route == "direct", op, "route",
                "'auto', 'gram' or 'direct'", "'", route, "'");
  return route == "gram" || (route == "auto" && z.size(1) > z.size(0));
}

// Tensors must have adjacent columns and outlive the result; z_b may be undefined.
inline GramInput gram_input_of(const at::Tensor& z_a, const at::Tensor& z_b, bool gram) {
  GramInput in{};
  in.z[0] = z_a.const_data_ptr();
  in.stride[0] = z_a.stride(0);
  if (z_b.defined()) {
    in.z[1] = z_b.const_data_ptr();
    in.stride[1] = z_b.stride(0);
  }
  in.N = z_a.size(0);
  in.D = z_a.size(1);
  in.dtype = to_dtype(z_a.scalar_type());
  in.gram = gram;
  return in;
}

inline at::Tensor empty_products(const GramInput& in, int matrices, const at::Tensor& like) {
  const auto dtype = in.wide ? at::kDouble : accumulate_dtype(like.scalar_type());
  return empty({matrices * gram_elements(in.side())}, dtype, like);
}

inline int threads_for(const GramInput& in) { return thread_count(std::max(in.N, in.D)); }

// The upstream gradient of a loss that is one number, as kernels read it.
inline at::Tensor upstream_of(const char* op, const at::Tensor& grad_loss, const at::Tensor& like) {
  SSLKERN_CHECK(VALUE, grad_loss.numel() == 1, op, "grad_loss", "one number", "shape ",
                shape_name(grad_loss));
  return grad_loss.to(like.options().dtype(at::kDouble)).contiguous();
}

}  // namespace sslkern::ops
