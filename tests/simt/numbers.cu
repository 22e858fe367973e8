// What nvcc makes of CUDA's own functions and types: each kernel takes a word of the first array
// for each thread and writes results to the second, one word each.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

using Word = unsigned long long;

namespace {

__device__ Word word_of(float x) { return __float_as_uint(x); }
__device__ float float_of(Word x) { return __uint_as_float(unsigned(x)); }

}  // namespace

constexpr int kFunctions = 16;

__global__ void functions(const Word* in, Word* out) {
  const float x = float_of(in[threadIdx.x]);
  const float results[kFunctions] = {
      expf(x),  logf(x),  tanhf(x),      log1pf(x), expm1f(x), 1.0f / x,  sqrtf(x), rsqrtf(x),
      exp2f(x), log2f(x), powf(x, 1.7f), sinf(x),   x / 3.1f,  floorf(x), rintf(x), erff(x),
  };
  for (int k = 0; k < kFunctions; ++k) out[threadIdx.x * kFunctions + k] = word_of(results[k]);
}

__global__ void doubles(const Word* in, Word* out) {
  const double x = __longlong_as_double(in[threadIdx.x]);
  const double results[] = {exp(x), log(x), x / 3.1, sqrt(x)};
  for (int k = 0; k < 4; ++k) out[threadIdx.x * 4 + k] = __double_as_longlong(results[k]);
}

__global__ void halves(const Word* in, Word* out) {
  const float x = float_of(in[threadIdx.x]);
  out[threadIdx.x * 4] = __bfloat16_as_ushort(__float2bfloat16(x));
  out[threadIdx.x * 4 + 1] = __half_as_ushort(__float2half(x));
  const __nv_bfloat162 pair = __floats2bfloat162_rn(x, 2 * x);
  out[threadIdx.x * 4 + 2] = word_of(__bfloat162float(pair.y));
  out[threadIdx.x * 4 + 3] = word_of(__half2float(__float2half(x)));
}

// Quotients by constants and by variables, fields, products of 64 and 128 bits.
__global__ void integers(const Word* in, Word* out) {
  const Word x = in[threadIdx.x];
  const auto n = unsigned(threadIdx.x) + 3;
  Word* results = out + threadIdx.x * 8;
  results[0] = Word(static_cast<long long>(x) / 7);
  results[1] = x % n;
  results[2] = __umul64hi(x, x);
  results[3] = Word(static_cast<long long>(x) >> 5);
  results[4] = Word(__popcll(x)) * 100 + Word(__clzll(static_cast<long long>(x)));
  results[5] = __byte_perm(unsigned(x), unsigned(x >> 32), 0x4061);
  results[6] = __funnelshift_l(unsigned(x), unsigned(x >> 32), n);
  const auto wide = static_cast<unsigned __int128>(x) * n + x;
  results[7] = Word(wide >> 64);
}

__constant__ float table[4] = {1, 20, 300, 4000};

// An array that has to be in memory, and constant memory.
__global__ void arrays(const Word* in, Word* out) {
  float local[8];
  for (int k = 0; k < 8; ++k) local[k] = float(k * k);
  const auto x = unsigned(in[threadIdx.x]);
  local[x % 8] += 0.5f;
  out[threadIdx.x] = word_of(local[(x + threadIdx.x) % 8] + table[x % 4]);
}

// Atomics, of shared and of global memory, by blocks of whole warps.
__global__ void atomics(const Word* in, Word* out) {
  __shared__ unsigned counts[4];
  if (threadIdx.x < 4) counts[threadIdx.x] = 0;
  if (threadIdx.x < 4) out[threadIdx.x] = 0;
  __syncthreads();
  const auto x = unsigned(in[threadIdx.x]);
  atomicAdd(&counts[x % 4], 1u);
  atomicMax(out, Word(x));
  atomicAdd(out + 1, Word(x));
  atomicXor(out + 2, Word(x));
  if (__any_sync(~0u, x == 5)) atomicOr(out + 3, 1ull << (threadIdx.x / 32));
  __syncthreads();
  if (threadIdx.x < 4) out[4 + threadIdx.x] = counts[threadIdx.x];
}
