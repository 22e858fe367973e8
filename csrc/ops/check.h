// The one way to phrase an error:
//   sslkern::<op>: expected <argument> to be <requirement>, got <what it was>. <remedy>
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <limits>
#include <sstream>
#include <string>

#include "ops/cuda.h"

// KIND is VALUE, TYPE or NOT_IMPLEMENTED, after the Python exception that it raises.
#define SSLKERN_CHECK(KIND, CONDITION, OP, ARGUMENT, REQUIREMENT, ...)                            \
  TORCH_CHECK_##KIND(CONDITION, "sslkern::", OP, ": expected ", ARGUMENT, " to be ", REQUIREMENT, \
                     ", got ", __VA_ARGS__)

namespace sslkern::ops {

// torch.float32, as users write it.
inline const char* dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
      return "torch.float64";
    case at::kFloat:
      return "torch.float32";
    case at::kBFloat16:
      return "torch.bfloat16";
    case at::kHalf:
      return "torch.float16";
    case at::kLong:
      return "torch.int64";
    case at::kInt:
      return "torch.int32";
    case at::kShort:
      return "torch.int16";
    case at::kChar:
      return "torch.int8";
    case at::kByte:
      return "torch.uint8";
    case at::kBool:
      return "torch.bool";
    case at::kComplexFloat:
      return "torch.complex64";
    case at::kComplexDouble:
      return "torch.complex128";
    default:
      return c10::toString(dtype);
  }
}

// (3, 128), as users write it.
inline std::string shape_name(const at::Tensor& t) {
  std::ostringstream out;
  out << '(';
  for (int64_t i = 0; i < t.dim(); ++i) out << (i ? ", " : "") << t.size(i);
  out << (t.dim() == 1 ? ",)" : ")");
  return out.str();
}

inline bool is_supported_float(at::ScalarType dtype) {
  return dtype == at::kDouble || dtype == at::kFloat || dtype == at::kBFloat16 ||
         dtype == at::kHalf;
}

// A device that there are kernels for.
inline void check_device(const char* op, const char* name, const at::Tensor& t) {
  SSLKERN_CHECK(VALUE, t.is_cpu() || t.is_cuda(), op, name, "on the CPU or on a CUDA device",
                t.device().str());
  if (!t.is_cuda()) return;
  SSLKERN_CHECK(NOT_IMPLEMENTED, has_cuda_kernels(), op, name,
                "on the CPU, the only device that this installation has kernels for",
                t.device().str(), ": ", cuda_kernels_error(), ". Rebuild where nvcc is found.");
}

// A dense floating-point tensor on such a device.
inline void check_float_tensor(const char* op, const char* name, const at::Tensor& t) {
  SSLKERN_CHECK(TYPE, t.layout() == at::kStrided, op, name, "a dense tensor", "layout ", t.layout(),
                ". Call .to_dense() first.");
  check_device(op, name, t);
  SSLKERN_CHECK(TYPE, is_supported_float(t.scalar_type()), op, name,
                "of dtype torch.float64, torch.float32, torch.bfloat16 or torch.float16",
                dtype_name(t.scalar_type()));
}

// A (rows, columns) matrix with at least one of each.
inline void check_matrix(const char* op, const char* name, const char* shape, const at::Tensor& t) {
  check_float_tensor(op, name, t);
  SSLKERN_CHECK(VALUE, t.dim() == 2, op, name, c10::str("of shape ", shape), "shape ",
                shape_name(t));
  SSLKERN_CHECK(VALUE, t.size(0) > 0 && t.size(1) > 0, op, name,
                c10::str("of shape ", shape, " with no empty dimension"), "shape ", shape_name(t));
}

// Kernels read it where `other` lies.
inline void check_same_device(const char* op, const char* name, const at::Tensor& t,
                              const char* other_name, const at::Tensor& other) {
  SSLKERN_CHECK(VALUE, t.device() == other.device(), op, name,
                c10::str("on the device of ", other_name, ", ", other.device().str()),
                t.device().str());
}

// `t` must have what `other` has.
inline void check_like(const char* op, const char* name, const at::Tensor& t,
                       const char* other_name, const at::Tensor& other) {
  check_same_device(op, name, t, other_name, other);
  SSLKERN_CHECK(TYPE, t.scalar_type() == other.scalar_type(), op, name,
                c10::str("of the dtype of ", other_name, ", ", dtype_name(other.scalar_type())),
                dtype_name(t.scalar_type()));
  SSLKERN_CHECK(VALUE, t.sizes() == other.sizes(), op, name,
                c10::str("of the shape of ", other_name, ", ", shape_name(other)), "shape ",
                shape_name(t));
}

// A second matrix for the products with the rows of `other`: what they must share.
inline void check_same_columns(const char* op, const char* name, const char* shape,
                               const at::Tensor& t, const char* other_name,
                               const at::Tensor& other) {
  check_same_device(op, name, t, other_name, other);
  SSLKERN_CHECK(TYPE, t.scalar_type() == other.scalar_type(), op, name,
                c10::str("of the dtype of ", other_name, ", ", dtype_name(other.scalar_type())),
                dtype_name(t.scalar_type()));
  SSLKERN_CHECK(VALUE, t.size(1) == other.size(1), op, name,
                c10::str("of shape ", shape, " with the D of ", other_name, ", ", other.size(1)),
                "shape ", shape_name(t));
}

// Kernels number rows in 32 bits.
inline void check_row_counts(const char* op, const char* names, const at::Tensor& a,
                             const at::Tensor& b) {
  constexpr int64_t kMost = int64_t(1) << 31;
  SSLKERN_CHECK(VALUE, a.size(0) < kMost && b.size(0) < kMost, op, names, "of less than 2**31 rows",
                a.size(0), " and ", b.size(0));
}

// One upstream gradient per loss, in the dtype of the losses.
inline at::Tensor check_upstream(const char* op, const char* name, const at::Tensor& g,
                                 int64_t rows, at::ScalarType dtype) {
  SSLKERN_CHECK(VALUE, g.dim() == 1 && g.numel() == rows && g.scalar_type() == dtype, op, name,
                c10::str("of shape (", rows, ",) and dtype ", dtype_name(dtype)), "shape ",
                shape_name(g), " and dtype ", dtype_name(g.scalar_type()));
  return g.contiguous();
}

// A Python number or a tensor with one element, to be read as float64.
inline void check_scalar_tensor(const char* op, const char* name, const at::Tensor& t) {
  check_float_tensor(op, name, t);
  SSLKERN_CHECK(VALUE, t.numel() == 1, op, name, "a number or a tensor with one element", "shape ",
                shape_name(t));
}

// Its value must be positive and finite. Reads it: only where that does not synchronise with a
// device.
inline void check_positive(const char* op, const char* name, double value) {
  SSLKERN_CHECK(VALUE, value > 0 && value <= std::numeric_limits<double>::max(), op, name,
                "positive and finite", value);
}

}  // namespace sslkern::ops
