// The functions of the standard library that both processors have, under names of our own: the CPU
// kernels may not use the library's headers (cpu/isa.h), nvcc not the compiler's builtins.
#pragma once

#if defined(__CUDACC__)
#define SSLKERN_MATH static __host__ __device__ __forceinline__
#else
#define SSLKERN_MATH static inline __attribute__((always_inline))
#endif

namespace sslkern::math {

#if defined(__CUDACC__)
SSLKERN_MATH double exp2(double x) { return ::exp2(x); }
SSLKERN_MATH double log2(double x) { return ::log2(x); }
#else
SSLKERN_MATH double exp2(double x) { return __builtin_exp2(x); }
SSLKERN_MATH double log2(double x) { return __builtin_log2(x); }
#endif

}  // namespace sslkern::math
