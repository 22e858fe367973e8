// One instruction or one feature of the platform to a kernel; units.cpp says what must come out.
#include "platform/platform.h"
#include "units.h"

namespace platform = sslkern::platform;

namespace {

// Registers are filled element by element, as the tables of the PTX ISA number them.
__device__ inline unsigned pack(std::uint16_t low, std::uint16_t high) {
  return unsigned(low) | unsigned(high) << 16;
}

template <class Multiply>
__device__ inline void multiply_16(const std::uint16_t* A, const std::uint16_t* B, const float* C,
                                   float* D, const Multiply& multiply) {
  const int lane = int(threadIdx.x), group = lane / 4, place = lane % 4;
  const auto a_of = [&](int i) {
    const int row = i / 2 % 2 == 0 ? group : group + 8;
    return A[row * 16 + place * 2 + i % 2 + (i < 4 ? 0 : 8)];
  };
  const auto b_of = [&](int i) { return B[(place * 2 + i % 2 + (i < 2 ? 0 : 8)) * 8 + group]; };
  unsigned a[4], b[2];
  float c[4];
  for (int i = 0; i < 4; ++i) a[i] = pack(a_of(2 * i), a_of(2 * i + 1));
  for (int i = 0; i < 2; ++i) b[i] = pack(b_of(2 * i), b_of(2 * i + 1));
  for (int i = 0; i < 4; ++i) c[i] = C[(i < 2 ? group : group + 8) * 8 + place * 2 + i % 2];
  multiply(c, a, b);
  for (int i = 0; i < 4; ++i) D[(i < 2 ? group : group + 8) * 8 + place * 2 + i % 2] = c[i];
}

__global__ void mma_bf16(const std::uint16_t* A, const std::uint16_t* B, const float* C, float* D) {
  multiply_16(A, B, C, D, [](auto& c, auto& a, auto& b) { platform::mma_bf16(c, a, b); });
}

__global__ void mma_f16(const std::uint16_t* A, const std::uint16_t* B, const float* C, float* D) {
  multiply_16(A, B, C, D, [](auto& c, auto& a, auto& b) { platform::mma_f16(c, a, b); });
}

__global__ void mma_tf32(const unsigned* A, const unsigned* B, const float* C, float* D) {
  const int lane = int(threadIdx.x), group = lane / 4, place = lane % 4;
  unsigned a[4], b[2];
  float c[4];
  for (int i = 0; i < 4; ++i) {
    a[i] = A[(i % 2 == 0 ? group : group + 8) * 8 + (i < 2 ? place : place + 4)];
  }
  for (int i = 0; i < 2; ++i) b[i] = B[(place + 4 * i) * 8 + group];
  for (int i = 0; i < 4; ++i) c[i] = C[(i < 2 ? group : group + 8) * 8 + place * 2 + i % 2];
  platform::mma_tf32(c, a, b);
  for (int i = 0; i < 4; ++i) D[(i < 2 ? group : group + 8) * 8 + place * 2 + i % 2] = c[i];
}

__global__ void load_matrix(const std::uint16_t* matrices, unsigned* words, bool transposed) {
  SSLKERN_SHARED(std::uint16_t, rows, [256]);
  const int lane = int(threadIdx.x);
  for (int i = lane; i < 256; i += 32) rows[i] = matrices[i];
  __syncwarp();
  unsigned r[4];
  if (transposed) {
    platform::load_matrix_x4_transposed(r, rows + 8 * lane);
  } else {
    platform::load_matrix_x4(r, rows + 8 * lane);
  }
  for (int q = 0; q < 4; ++q) words[4 * lane + q] = r[q];
}

// Threads may end in the middle of a warp: the last one reads only lanes that it has.
__global__ void shuffles(double* out, unsigned* votes) {
  const int thread = int(threadIdx.x), lane = thread % 32;
  const int lanes = min(32, int(blockDim.x) - (thread - lane));
  const bool whole = lanes == 32;
  double* own = out + kShuffles * thread;
  own[0] = __shfl_sync(~0u, 1.5 * thread, (7 * lane + 3) % lanes);
  own[1] = __shfl_xor_sync(~0u, thread * thread, lanes % 2 == 0 ? 1 : 0);
  own[2] = double(__shfl_up_sync(~0u, float(thread) + 0.25f, 3u));
  own[3] = whole ? double(__shfl_down_sync(~0u, (long long)thread << 33, 5u)) : 0.0;
  own[4] = lane < 4 ? double(__shfl_sync(0xfu, unsigned(thread), 3 - lane)) : 0.0;
  unsigned* vote = votes + 5 * thread;
  vote[0] = __ballot_sync(~0u, lane % 3 == 0);
  vote[1] = unsigned(__any_sync(~0u, lane == 5));
  vote[2] = unsigned(__any_sync(~0u, lane == 99));
  vote[3] = unsigned(__all_sync(~0u, lane < 99));
  vote[4] = unsigned(__all_sync(~0u, lane != 5));
}

__global__ void atomics(int* counters, int* before, float* sum) {
  SSLKERN_SHARED(int, in_block, [1]);
  if (threadIdx.x == 0) in_block[0] = 0;
  __syncthreads();
  atomicAdd(in_block, 1);
  __syncthreads();
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  before[i] = atomicAdd(&counters[0], 2);
  atomicMax(&counters[1], i);
  atomicExch(&counters[2], in_block[0]);
  atomicAdd(sum, 0.5f);
}

__global__ void copies(const unsigned char* from, unsigned char* to) {
  SSLKERN_SHARED(unsigned char, rows, [17 * 16]);
  const int n = int(threadIdx.x);
  platform::copy_async(rows + 16 * n, from + 16 * n, n);
  platform::commit_copies();
  platform::wait_for_copies<0>();
  for (int i = 0; i < 16; ++i) to[16 * n + i] = rows[16 * n + i];
}

__global__ void two_groups(const unsigned char* from, unsigned char* to) {
  SSLKERN_SHARED(unsigned char, rows, [2 * 512]);
  const int offset = 16 * int(threadIdx.x), next = (offset + 16) % 512;
  platform::copy_async(rows + offset, from + offset, 16);
  platform::commit_copies();
  platform::copy_async(rows + 512 + offset, from + 512 + offset, 16);
  platform::commit_copies();
  platform::wait_for_copies<1>();
  __syncthreads();
  for (int i = 0; i < 16; ++i) to[offset + i] = rows[next + i];
  platform::wait_for_copies<0>();
  __syncthreads();
  for (int i = 0; i < 16; ++i) to[512 + offset + i] = rows[512 + next + i];
}

__global__ void shared_parts(int* sums) {
  SSLKERN_DYNAMIC_SHARED(int, dynamic);
  SSLKERN_SHARED(int, first, [64]);
  SSLKERN_SHARED(int, second, [64][2]);
  SSLKERN_SHARED(int, one, );
  const int t = int(threadIdx.x), other = int(blockDim.x) - 1 - t;
  dynamic[t] = t;
  first[t] = 1000 * t;
  second[t][0] = 1000000 * t;
  second[t][1] = 7;
  if (t == 0) one = 3;
  __syncthreads();
  sums[t] = dynamic[other] + first[other] + second[other][0] + second[other][1] + one;
}

__global__ void positions(int* blocks, int* threads) {
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned i = block * blockDim.x * blockDim.y * blockDim.z + thread;
  blocks[i] = int(blockIdx.x + 10 * blockIdx.y + 100 * blockIdx.z);
  threads[i] = int(threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z);
}

// Every other pair of numbers as the halves of a word.
__global__ void narrow(const float* x, __nv_bfloat16* bf16, __half* f16, int n) {
  for (int i = 2 * int(threadIdx.x); i < n; i += 2 * int(blockDim.x)) {
    const bool both = i + 1 < n && i % 4 == 0;
    if (both) {
      *reinterpret_cast<unsigned*>(bf16 + i) = platform::pack_bf16(x[i], x[i + 1]);
      *reinterpret_cast<unsigned*>(f16 + i) = platform::pack_f16(x[i], x[i + 1]);
    }
    for (int k = i; !both && k < n && k < i + 2; ++k) {
      bf16[k] = __float2bfloat16(x[k]);
      f16[k] = __float2half(x[k]);
    }
  }
}

__global__ void widen(const __nv_bfloat16* as_bf16, const __half* as_f16, float* bf16, float* f16,
                      int n) {
  for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) {
    bf16[i] = __bfloat162float(as_bf16[i]);
    f16[i] = __half2float(as_f16[i]);
  }
}

__global__ void powers(const float* x, float* exp2, float* log2, float* reciprocal, int n) {
  for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) {
    exp2[i] = platform::exp2_approximate(x[i]);
    log2[i] = platform::log2_approximate(x[i]);
    reciprocal[i] = platform::reciprocal_approximate(x[i]);
  }
}

}  // namespace

void run_mma_bf16(const std::uint16_t* A, const std::uint16_t* B, const float* C, float* D) {
  SSLKERN_LAUNCH(mma_bf16, dim3(1), dim3(32), 0, nullptr, A, B, C, D);
}
void run_mma_f16(const std::uint16_t* A, const std::uint16_t* B, const float* C, float* D) {
  SSLKERN_LAUNCH(mma_f16, dim3(1), dim3(32), 0, nullptr, A, B, C, D);
}
void run_mma_tf32(const unsigned* A, const unsigned* B, const float* C, float* D) {
  SSLKERN_LAUNCH(mma_tf32, dim3(1), dim3(32), 0, nullptr, A, B, C, D);
}
void run_load_matrix(const std::uint16_t* matrices, unsigned* words, bool transposed) {
  SSLKERN_LAUNCH(load_matrix, dim3(1), dim3(32), 0, nullptr, matrices, words, transposed);
}
void run_shuffles(double* out, unsigned* votes, unsigned threads) {
  SSLKERN_LAUNCH(shuffles, dim3(1), dim3(threads), 0, nullptr, out, votes);
}
void run_atomics(int* counters, int* before, float* sum, unsigned blocks, unsigned threads) {
  SSLKERN_LAUNCH(atomics, dim3(blocks), dim3(threads), 0, nullptr, counters, before, sum);
}
void run_copies(const unsigned char* from, unsigned char* to) {
  SSLKERN_LAUNCH(copies, dim3(1), dim3(17), 0, nullptr, from, to);
}
void run_two_groups(const unsigned char* from, unsigned char* to) {
  SSLKERN_LAUNCH(two_groups, dim3(1), dim3(32), 0, nullptr, from, to);
}
void run_shared_parts(int* sums, unsigned threads) {
  SSLKERN_LAUNCH(shared_parts, dim3(1), dim3(threads), threads * sizeof(int), nullptr, sums);
}
void run_positions(int* blocks, int* threads) {
  const dim3 grid(kGrid3[0], kGrid3[1], kGrid3[2]), block(kBlock3[0], kBlock3[1], kBlock3[2]);
  SSLKERN_LAUNCH(positions, grid, block, 0, nullptr, blocks, threads);
}
void run_narrow(const float* x, std::uint16_t* bf16, std::uint16_t* f16, int n) {
  auto* as_bf16 = reinterpret_cast<__nv_bfloat16*>(bf16);
  auto* as_f16 = reinterpret_cast<__half*>(f16);
  SSLKERN_LAUNCH(narrow, dim3(1), dim3(64), 0, nullptr, x, as_bf16, as_f16, n);
}
void run_widen(const std::uint16_t* bits, float* bf16, float* f16, int n) {
  auto* as_bf16 = reinterpret_cast<const __nv_bfloat16*>(bits);
  auto* as_f16 = reinterpret_cast<const __half*>(bits);
  SSLKERN_LAUNCH(widen, dim3(1), dim3(64), 0, nullptr, as_bf16, as_f16, bf16, f16, n);
}
void run_powers(const float* x, float* exp2, float* log2, float* reciprocal, int n) {
  SSLKERN_LAUNCH(powers, dim3(1), dim3(64), 0, nullptr, x, exp2, log2, reciprocal, n);
}
