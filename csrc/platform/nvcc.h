// The names of platform.h for nvcc. One instruction for each.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#define SSLKERN_SHARED(T, name, extent) __shared__ __align__(16) T name extent
#define SSLKERN_DYNAMIC_SHARED(T, name)                            \
  extern __shared__ __align__(16) unsigned char sslkern_dynamic[]; \
  T* name = reinterpret_cast<T*>(sslkern_dynamic)
#define SSLKERN_LAUNCH(kernel, grid, block, bytes, stream, ...) \
  ::sslkern::platform::launch(#kernel, kernel, grid, block, bytes, stream, __VA_ARGS__)

#define SSLKERN_DEVICE __device__ __forceinline__

namespace sslkern::platform {

inline std::string describe(dim3 d) {
  return std::to_string(d.x) + " x " + std::to_string(d.y) + " x " + std::to_string(d.z);
}

// The one place where a launch is looked at. Its error is forgotten by the runtime: the next launch
// has none of it.
inline void check_launch(cudaError_t error, const char* kernel, dim3 grid, dim3 block,
                         std::size_t bytes) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string("sslkern: ") + kernel + " with a grid of " + describe(grid) +
                           " blocks of " + describe(block) + " threads and " +
                           std::to_string(bytes) +
                           " bytes of dynamic shared memory: " + cudaGetErrorString(error));
}

// Of shared memory that a block of the current device can have.
inline std::int64_t most_shared_bytes() {
  int device = 0, bytes = 48 << 10;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return bytes;
}

// Lets a kernel have as much dynamic shared memory as there is, in every launch alike: what one
// thread allows for its own must not be too little for another's.
inline cudaError_t allow_shared_memory(const void* kernel) {
  cudaFuncAttributes found{};
  const cudaError_t error = cudaFuncGetAttributes(&found, kernel);
  if (error != cudaSuccess) return error;
  const std::int64_t most = most_shared_bytes() - std::int64_t(found.sharedSizeBytes);
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(most));
}

template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, std::size_t bytes,
            void* stream, const A&... arguments) {
  constexpr std::size_t kWithoutAsking = 48 << 10;
  if (bytes > kWithoutAsking) {
    const auto error = allow_shared_memory(reinterpret_cast<const void*>(kernel));
    check_launch(error, name, grid, block, bytes);
  }
  kernel<<<grid, block, bytes, static_cast<cudaStream_t>(stream)>>>(P(arguments)...);
  check_launch(cudaGetLastError(), name, grid, block, bytes);
}

#define SSLKERN_MMA(NAME, SHAPE, TYPE)                                                      \
  SSLKERN_DEVICE void NAME(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { \
    asm volatile("mma.sync.aligned." SHAPE ".row.col.f32." TYPE "." TYPE                    \
                 ".f32 "                                                                    \
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"                  \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                           \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));       \
  }
SSLKERN_MMA(mma_bf16, "m16n8k16", "bf16")
SSLKERN_MMA(mma_f16, "m16n8k16", "f16")
SSLKERN_MMA(mma_tf32, "m16n8k8", "tf32")
#undef SSLKERN_MMA

SSLKERN_DEVICE unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

SSLKERN_DEVICE void load_matrix_x4(unsigned (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p))
               : "memory");
}
SSLKERN_DEVICE void load_matrix_x4_transposed(unsigned (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p))
               : "memory");
}

SSLKERN_DEVICE void copy_async(void* to, const void* from, int bytes_read) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)),
               "l"(from), "r"(bytes_read)
               : "memory");
}
SSLKERN_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
template <int kGroupsLeft>
SSLKERN_DEVICE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kGroupsLeft) : "memory");
}

// The halves of a word, low first, rounded to nearest even.
SSLKERN_DEVICE unsigned pack_bf16(float low, float high) {
  unsigned word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
SSLKERN_DEVICE unsigned pack_f16(float low, float high) {
  unsigned word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

SSLKERN_DEVICE float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}
SSLKERN_DEVICE float reciprocal_approximate(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}
SSLKERN_DEVICE float log2_approximate(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace sslkern::platform
