// What every op needs of the backend: the dtype mapping, the thread count and memory.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <cstdint>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "contract/types.h"

namespace sslkern::ops {

// For dtypes that check_float_tensor has accepted.
inline Dtype to_dtype(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
      return Dtype::kFloat64;
    case at::kBFloat16:
      return Dtype::kBFloat16;
    case at::kHalf:
      return Dtype::kFloat16;
    default:
      return Dtype::kFloat32;
  }
}

// The dtype of statistics, sums and losses.
inline at::ScalarType accumulate_dtype(at::ScalarType dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}

// Asks for huge pages where a system offers them. Large memory comes fresh from it each time, and
// touching 51 MB in pages of 4 KiB took 24 ms, in pages of 2 MiB 4 ms.
inline void prefer_huge_pages([[maybe_unused]] const at::Tensor& t) {
#if defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t kHuge = std::uintptr_t(2) << 20;
  if (!t.is_cpu() || t.nbytes() < 2 * kHuge) return;
  const auto begin = reinterpret_cast<std::uintptr_t>(t.data_ptr());
  const std::uintptr_t first = (begin + kHuge - 1) / kHuge * kHuge;
  const std::uintptr_t last = (begin + t.nbytes()) / kHuge * kHuge;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

inline at::Tensor empty(at::IntArrayRef sizes, at::ScalarType dtype, const at::Tensor& like) {
  const auto options = like.options().dtype(dtype).layout(at::kStrided);
  const at::Tensor t = at::empty(sizes, options.memory_format(c10::nullopt));
  prefer_huge_pages(t);
  return t;
}

// Numbers as the kernels read them: float64, on the device of `like`, wherever they were given. One
// number of the CPU goes to a device as the argument of a kernel: a copy would wait, and could not
// be captured in a graph.
inline at::Tensor as_double(const at::Tensor& value, const at::Tensor& like) {
  if (value.is_cpu() && !like.is_cpu() && value.numel() == 1) {
    return at::full(value.sizes(), value.item<double>(), like.options().dtype(at::kDouble));
  }
  return value.to(like.device(), at::kDouble).contiguous();
}

// What was computed wide, and on the device of the rows, as the gradient of an input: numbers may
// have been given on the CPU. One that is not wanted has no elements, and keeps that shape.
inline at::Tensor as_gradient_of(const at::Tensor& input, const at::Tensor& grad) {
  const at::Tensor result = grad.to(input.options());
  return grad.numel() == 0 ? result : result.reshape(input.sizes());
}

// Rows with adjacent columns: the tensor itself where it is so already, whatever the distance of
// its rows.
inline at::Tensor with_adjacent_columns(const at::Tensor& t) {
  return t.stride(1) == 1 || t.size(1) == 1 ? t : t.contiguous();
}

// Threads for a loss over so many rows: beyond 32 rows each they cost more to start than they
// compute.
inline int thread_count(int64_t rows) {
  return int(std::clamp<int64_t>(rows / 32, 1, at::get_num_threads()));
}

// Threads for what memory limits, of so many elements, in at most so many parts: with fewer
// elements each they cost more to start than they take to read.
inline int thread_count_of_elements(int64_t elements, int64_t parts) {
  constexpr int64_t kElements = 1 << 14;
  return int(std::clamp<int64_t>(std::min(elements / kElements, parts), 1, at::get_num_threads()));
}

}  // namespace sslkern::ops
