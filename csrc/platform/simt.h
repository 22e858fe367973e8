// The names of platform.h, and those of CUDA, for g++ on the emulation of simt/runtime.h. Functions
// of the emulation itself are not instrumented: what they read and write is not the kernel's.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "platform/simt/fragments.h"
#include "platform/simt/runtime.h"
#include "platform/simt/types.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define SSLKERN_DEVICE inline
#define SSLKERN_UNSEEN __attribute__((no_sanitize("thread"), noinline))
// Where a call stands, for the functions that take it as their last argument.
#define SSLKERN_AT const char *file = __builtin_FILE(), int line = __builtin_LINE()

#define threadIdx (::sslkern::simt::here->thread)
#define blockIdx (::sslkern::simt::here->block)
#define blockDim (::sslkern::simt::here->block_size)
#define gridDim (::sslkern::simt::here->grid_size)
constexpr int warpSize = 32;

#define SSLKERN_SHARED(T, name, extent)           \
  static char name##_site;                        \
  using name##_type = T extent;                   \
  name##_type& name = *static_cast<name##_type*>( \
      ::sslkern::simt::shared_variable(&name##_site, sizeof(name##_type), 16, #name))
#define SSLKERN_DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(::sslkern::simt::dynamic_shared())
#if defined(__SANITIZE_THREAD__)
#define SSLKERN_ACCESSES_ARE_SEEN true
#else
#define SSLKERN_ACCESSES_ARE_SEEN false
#endif
#define SSLKERN_LAUNCH(kernel, grid, block, bytes, stream, ...)                     \
  (void(stream), ::sslkern::simt::every_access_is_seen = SSLKERN_ACCESSES_ARE_SEEN, \
   ::sslkern::simt::launch(#kernel, grid, block, bytes, [=]() { kernel(__VA_ARGS__); }))

// ---- barriers, warp collectives

inline void __syncthreads(SSLKERN_AT) { sslkern::simt::barrier({file, line}); }

namespace sslkern::simt {

inline void combine_nothing(const LaneData*, unsigned, unsigned, const void*, void*) {}

SSLKERN_UNSEEN inline void combine_ballot(const LaneData* in, unsigned mask, unsigned, const void*,
                                          void* out) {
  unsigned votes = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    int vote = 0;
    if (mask >> lane & 1) std::memcpy(&vote, in[lane], sizeof(vote));
    votes |= unsigned(vote != 0) << lane;
  }
  std::memcpy(out, &votes, sizeof(votes));
}

// A value and the lane that its owner reads.
template <class T>
struct Shuffle {
  T value;
  int from;
};

template <class T>
SSLKERN_UNSEEN void combine_shuffle(const LaneData* in, unsigned mask, unsigned lane,
                                    const void* at, void* out) {
  Shuffle<T> own, other;
  std::memcpy(&own, in[lane], sizeof(own));
  if (own.from < 0 || own.from > 31) own.from = int(lane);  // up and down keep what is there
  if ((mask >> own.from & 1) == 0) {
    report_at("shuffle", {nullptr, *static_cast<const At*>(at)},
              "lane %u reads lane %d, which mask %08x leaves out", lane, own.from, mask);
    own.from = int(lane);
  }
  std::memcpy(&other, in[own.from], sizeof(other));
  std::memcpy(out, &other.value, sizeof(T));
}

template <class T>
SSLKERN_UNSEEN T shuffle(const char* kind, unsigned mask, T value, int from, At at) {
  static_assert(sizeof(Shuffle<T>) <= kMostLaneBytes && std::is_trivially_copyable_v<T>);
  const Shuffle<T> own{value, from};
  T result;
  collective({kind, at, mask, false, combine_shuffle<T>, &at}, &own, sizeof(own), &result);
  return result;
}

SSLKERN_UNSEEN inline unsigned ballot(const char* kind, unsigned mask, int vote, At at) {
  unsigned votes;
  collective({kind, at, mask, false, combine_ballot, nullptr}, &vote, sizeof(vote), &votes);
  return votes;
}

SSLKERN_UNSEEN inline int own_lane() { return int(here->lane); }

}  // namespace sslkern::simt

inline void __syncwarp(unsigned mask = ~0u, SSLKERN_AT) {
  using namespace sslkern::simt;
  collective({"__syncwarp", {file, line}, mask, true, combine_nothing, nullptr}, nullptr, 0,
             nullptr);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, SSLKERN_AT) {
  return sslkern::simt::shuffle<T>("__shfl_sync", mask, value, lane & 31, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, SSLKERN_AT) {
  const int from = sslkern::simt::own_lane() ^ bits;
  return sslkern::simt::shuffle<T>("__shfl_xor_sync", mask, value, from, {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, SSLKERN_AT) {
  const int from = sslkern::simt::own_lane() - int(distance);
  return sslkern::simt::shuffle<T>("__shfl_up_sync", mask, value, from, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, SSLKERN_AT) {
  const int from = sslkern::simt::own_lane() + int(distance);
  return sslkern::simt::shuffle<T>("__shfl_down_sync", mask, value, from, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int vote, SSLKERN_AT) {
  return sslkern::simt::ballot("__ballot_sync", mask, vote, {file, line});
}
inline int __any_sync(unsigned mask, int vote, SSLKERN_AT) {
  return sslkern::simt::ballot("__any_sync", mask, vote, {file, line}) != 0;
}
inline int __all_sync(unsigned mask, int vote, SSLKERN_AT) {
  return sslkern::simt::ballot("__all_sync", mask, vote == 0, {file, line}) == 0;
}

// ---- atomics

namespace sslkern::simt {

template <class T>
struct Exactly {
  using type = T;
};

template <class T, class F>
SSLKERN_UNSEEN T update(T* p, At at, const F& f) {
  note_access(p, sizeof(T), Access::kAtomic, {nullptr, at});
  const T before = *p;
  *p = f(before);
  return before;
}

}  // namespace sslkern::simt

template <class T>
SSLKERN_UNSEEN T atomicAdd(T* p, typename sslkern::simt::Exactly<T>::type x, SSLKERN_AT) {
  return sslkern::simt::update(p, {file, line}, [x](T before) { return T(before + x); });
}
template <class T>
SSLKERN_UNSEEN T atomicMax(T* p, typename sslkern::simt::Exactly<T>::type x, SSLKERN_AT) {
  return sslkern::simt::update(p, {file, line}, [x](T before) { return before < x ? x : before; });
}
template <class T>
SSLKERN_UNSEEN T atomicExch(T* p, typename sslkern::simt::Exactly<T>::type x, SSLKERN_AT) {
  return sslkern::simt::update(p, {file, line}, [x](T) { return x; });
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- numbers

template <class T>
inline T __ldg(const T* p) {
  return *p;
}
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
inline double __longlong_as_double(long long x) { return __builtin_bit_cast(double, x); }
inline long long __double_as_longlong(double x) { return __builtin_bit_cast(long long, x); }
using std::max;
using std::min;

struct __nv_bfloat16 {
  std::uint16_t bits;
};
struct __half {
  std::uint16_t bits;
};
inline __nv_bfloat16 __float2bfloat16(float x) { return {sslkern::simt::to_bf16(x)}; }
inline float __bfloat162float(__nv_bfloat16 x) { return sslkern::simt::from_bf16(x.bits); }
inline __half __float2half(float x) { return {sslkern::simt::to_f16(x)}; }
inline float __half2float(__half x) { return sslkern::simt::from_f16(x.bits); }

// ---- instructions

namespace sslkern::platform {

SSLKERN_UNSEEN inline void multiply(const char* kind, simt::Prepare prepare, float (&c)[4],
                                    const unsigned (&a)[4], const unsigned (&b)[2], simt::At at) {
  simt::MmaLane own;
  std::memcpy(own.a, a, sizeof(a));
  std::memcpy(own.b, b, sizeof(b));
  std::memcpy(own.c, c, sizeof(c));
  simt::collective({kind, at, ~0u, false, simt::combine_mma, nullptr, true, prepare}, &own,
                   sizeof(own), c);
}
inline void mma_bf16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], SSLKERN_AT) {
  multiply("mma_bf16", simt::multiply_bf16, c, a, b, {file, line});
}
inline void mma_f16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], SSLKERN_AT) {
  multiply("mma_f16", simt::multiply_f16, c, a, b, {file, line});
}
inline void mma_tf32(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], SSLKERN_AT) {
  multiply("mma_tf32", simt::multiply_tf32, c, a, b, {file, line});
}

SSLKERN_UNSEEN inline void load_matrices(const char* kind, bool transposed, unsigned (&r)[4],
                                         const void* p, simt::At at) {
  if (std::uintptr_t(p) % 16 != 0) {
    simt::report_at("alignment", {nullptr, at}, "%s of a row off its boundary of 16 bytes", kind);
  }
  const simt::MatrixLoad load{4, transposed, at};
  simt::collective({kind, at, ~0u, false, simt::combine_matrix_load, &load, true}, &p, sizeof(p),
                   r);
}
inline void load_matrix_x4(unsigned (&r)[4], const void* p, SSLKERN_AT) {
  load_matrices("load_matrix_x4", false, r, p, {file, line});
}
inline void load_matrix_x4_transposed(unsigned (&r)[4], const void* p, SSLKERN_AT) {
  load_matrices("load_matrix_x4_transposed", true, r, p, {file, line});
}

inline void copy_async(void* to, const void* from, int bytes_read, SSLKERN_AT) {
  simt::copy_async(to, from, 16, bytes_read, {file, line});
}
inline void commit_copies() { simt::commit_copies(); }
template <int kGroupsLeft>
void wait_for_copies() {
  simt::wait_for_copies(kGroupsLeft);
}

inline unsigned pack_bf16(float low, float high) {
  return unsigned(simt::to_bf16(low)) | unsigned(simt::to_bf16(high)) << 16;
}
inline unsigned pack_f16(float low, float high) {
  return unsigned(simt::to_f16(low)) | unsigned(simt::to_f16(high)) << 16;
}

inline std::int64_t most_shared_bytes() { return std::int64_t(simt::config().limits.shared_bytes); }

// The approximations know no subnormal numbers: neither arguments nor results.
inline float without_subnormals(float x) {
  return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x;
}
inline float exp2_approximate(float x) { return without_subnormals(std::exp2(x)); }
inline float reciprocal_approximate(float x) {
  return without_subnormals(1 / without_subnormals(x));
}
inline float log2_approximate(float x) { return std::log2(without_subnormals(x)); }

}  // namespace sslkern::platform
