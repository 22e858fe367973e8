// Packing rows, finishing their gradients, and the small reductions beside; see contract/packed.h.
// All of it reads or writes N x D once: nothing beside N x N products.
#pragma once
#include "contract/packed.h"
#include "cuda/block.cuh"
#include "cuda/dtype.cuh"

namespace sslkern::cuda {

constexpr int kRowThreads = 256, kRowWarps = kRowThreads / 32;
constexpr double kSmallestNorm = 1e-12;

// The power of two with the exponent of x, positive and normal; its double is not less than x. At
// most 2^1022, so that its inverse is a normal number, too.
SSLKERN_DEVICE double exponent_of(double x) {
  const long long bits = __double_as_longlong(x) & 0x7ff0000000000000ll;
  return __longlong_as_double(min(bits, 2045ll << 52));
}

// Of a power of two that is normal, as is the result.
SSLKERN_DEVICE double inverse_of(double power) {
  return __longlong_as_double((2046ll << 52) - __double_as_longlong(power));
}

// Of a warp's row: how it is packed.
struct RowScale {
  double packed, factor, inv_norm;
};

// Squares of a row's elements are summed in units of its largest: they neither overflow nor vanish.
template <class E>
SSLKERN_DEVICE RowScale row_scale(const E* from, std::int64_t dims, int lane) {
  double largest = 0, sum = 0;
  for (std::int64_t d = lane; d < dims; d += 32) {
    largest = larger(largest, fabs(double(to_working(from[d]))));
  }
  largest = warp_max(largest);
  const double unit = largest > 1e-300 ? exponent_of(largest) : 1, inverse = inverse_of(unit);
  for (std::int64_t d = lane; d < dims; d += 32) {
    const double x = double(to_working(from[d])) * inverse;
    sum += x * x;
  }
  sum = warp_sum(sum);
  if (!(sum < INFINITY)) return {NAN, NAN, NAN};  // no direction: the row says so
  const double inv = rsqrt(sum);
  if (sum == 0 || sum * inv * unit < kSmallestNorm) return {0, 0, 0};
  const bool half = sizeof(E) == 2;
  return {half ? inverse : inv * inverse, half ? inv : 1, inv * inverse};
}

// Grid (padded rows / kRowWarps), a warp per row.
template <class E>
__global__ void __launch_bounds__(kRowThreads) pack_rows_kernel(PackRows p) {
  using T = typename ElementOf<E>::Working;
  const int lane = int(threadIdx.x) % 32;
  const std::int64_t row = std::int64_t(blockIdx.x) * kRowWarps + threadIdx.x / 32;
  const std::int64_t padded = padded_dims(p.D, p.dtype);
  E* to = static_cast<E*>(p.rows) + row * padded;
  const std::int64_t source = row < p.N && p.order != nullptr ? p.order[row] : row;
  const bool exists = row < p.N && source >= 0;
  const E* from = source < p.first_rows
                      ? static_cast<const E*>(p.first) + source * p.stride_first
                      : static_cast<const E*>(p.second) + (source - p.first_rows) * p.stride_second;
  RowScale scale{1, exists ? 1.0 : 0.0, 1};
  if (exists && p.normalize) scale = row_scale(from, p.D, lane);
  for (std::int64_t d = lane; d < padded; d += 32) {
    const bool inside = exists && d < p.D;
    const double x = inside ? double(to_working(from[d])) * scale.packed : 0;
    to[d] = Rounded<E>::from(T(scale.packed == 0 ? 0 : x));
  }
  if (lane == 0) static_cast<T*>(p.factor)[row] = T(scale.factor);
  if (lane == 0 && row < p.N) p.inv_norm[row] = scale.inv_norm;
}

// Of what is multiplied by numbers that only the device knows.
template <class Params>
SSLKERN_DEVICE double whole_scale(const Params& p) {
  double scale = p.constant;
  if (p.unit != nullptr) scale *= *p.unit;
  if (p.multiplier != nullptr) scale *= *p.multiplier;
  if (p.divisor != nullptr) scale /= *p.divisor;
  return scale;
}

// Grid (N / kRowWarps), a warp per row. The dot product is in float64: what the projection leaves
// may be much less than it takes. Out: of the gradients.
template <class E, class Out>
__global__ void __launch_bounds__(kRowThreads) finish_rows_kernel(FinishRows p) {
  using T = typename ElementOf<E>::Working;
  const int lane = int(threadIdx.x) % 32;
  const std::int64_t row = std::int64_t(blockIdx.x) * kRowWarps + threadIdx.x / 32;
  if (row >= p.z.N) return;
  const std::int64_t padded = p.z.padded_D();
  const E* z = static_cast<const E*>(p.z.rows) + row * padded;
  const T* product = static_cast<const T*>(p.product) + row * padded;
  const double factor = double(static_cast<const T*>(p.z.factor)[row]);
  double scale = whole_scale(p);
  if (p.over_factor) scale = factor == 0 ? 0 : scale / factor;
  const bool wants_dot = p.normalize || p.row_dot != nullptr;
  double dot = 0;
  for (std::int64_t d = lane; wants_dot && d < p.z.D; d += 32) {
    dot += double(to_working(z[d])) * double(product[d]);
  }
  dot = warp_sum(dot) * factor * scale;
  if (lane == 0 && p.row_dot != nullptr) p.row_dot[row] = dot;
  const std::int64_t ordered = p.order == nullptr ? row : p.order[row];
  const std::int64_t place = ordered < 0 ? ~ordered : ordered;
  const bool first = place < p.first_rows;
  Out* to = static_cast<Out*>(first ? p.grad_first : p.grad_second);
  if (to == nullptr) return;
  to += (first ? place : place - p.first_rows) * p.z.D;
  const double along = dot * factor, outer = p.normalize ? p.inv_norm[row] : 1;
  for (std::int64_t d = lane; d < p.z.D; d += 32) {
    double g = double(product[d]) * scale;
    if (p.normalize) g = (g - double(to_working(z[d])) * along) * outer;
    to[d] = Rounded<Out>::from(T(ordered < 0 ? 0 : g));
  }
}

constexpr int kOneBlock = 1024;

// One block.
template <class T>
__global__ void __launch_bounds__(kOneBlock) largest_magnitude_kernel(LargestMagnitude p) {
  SSLKERN_SHARED(double, scratch, [kOneBlock / 32]);
  double largest = 0;
  for (std::int64_t i = threadIdx.x; i < p.count; i += kOneBlock) {
    const double x = fabs(double(static_cast<const T*>(p.x)[i]));
    largest = larger(largest, x < INFINITY ? x : 0);
  }
  largest = block_reduce<kOneBlock>(largest, 0.0, scratch, [](double x) { return warp_max(x); });
  if (threadIdx.x == 0) *p.unit = largest > 1e-300 ? 2 * exponent_of(largest) : 1;
}

// One block: every thread adds what is kOneBlock apart, then they are added as a tree.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) sum_in_order_kernel(SumInOrder p) {
  SSLKERN_SHARED(double, scratch, [kThreads / 32]);
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < p.count; i += kThreads) sum += p.x[i];
  sum = block_reduce<kThreads>(sum, 0.0, scratch, [](double x) { return warp_sum(x); });
  if (threadIdx.x == 0) *p.sum = sum * whole_scale(p);
}

}  // namespace sslkern::cuda
