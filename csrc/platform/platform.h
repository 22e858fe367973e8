// What kernels are written in: CUDA's own names, and those of this project for what a kernel may
// not spell itself (shared memory, launches, instructions in assembly). nvcc reads nvcc.h, g++
// simt.h: the same names twice.
//
//   SSLKERN_SHARED(T, name, [N])         a variable in shared memory
//   SSLKERN_DYNAMIC_SHARED(T, name)      the dynamic part, as T*
//   SSLKERN_LAUNCH(kernel, grid, block, bytes, stream, arguments...)
//   platform::most_shared_bytes()        that the dynamic part can have
//   platform::mma_bf16(c, a, b)          m16n8k16, also mma_f16; mma_tf32: m16n8k8; c += a b
//   platform::load_matrix_x4(r, p)       four 8 x 8 matrices of 16-bit elements; _transposed
//   platform::copy_async(to, from, n)    16 bytes to shared memory, the first n of them from `from`
//   platform::commit_copies(), wait_for_copies<groups left>()
//   platform::store_words(p, v)          16 bytes to global memory, never in parts
//   platform::exp2_approximate(x), log2_approximate(x)
#pragma once

#if defined(__CUDACC__)
#include "platform/nvcc.h"
#else
#include "platform/simt.h"
#if defined(SSLKERN_PTX)
#include "platform/ptx/launch.h"  // the host's code of g++, the kernels' of nvcc
#endif
#endif
