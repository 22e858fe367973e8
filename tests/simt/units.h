// The kernels of units.cu, launched.
#pragma once
#include <cstdint>

// D = C + A B of one instruction: A (16, 16 or 8), B (16 or 8, 8), C and D (16, 8), row-major;
// elements of 16 bits, or of 32 for tf32.
void run_mma_bf16(const std::uint16_t* A, const std::uint16_t* B, const float* C, float* D);
void run_mma_f16(const std::uint16_t* A, const std::uint16_t* B, const float* C, float* D);
void run_mma_tf32(const unsigned* A, const unsigned* B, const float* C, float* D);

// words[4 lane + q] of four matrices of 8 x 8, one after the other.
void run_load_matrix(const std::uint16_t* matrices, unsigned* words, bool transposed);

// What a thread gets of values that are a function of the sender: see units.cu.
constexpr int kShuffles = 5;
void run_shuffles(double* out, unsigned* votes, unsigned threads);

// counters: a sum, a maximum, the last of the exchanged; before: what each atomicAdd returned.
void run_atomics(int* counters, int* before, float* sum, unsigned blocks, unsigned threads);

// Row n of `to`, 16 bytes each: n bytes of row n of `from`; for n = 0 .. 16.
void run_copies(const unsigned char* from, unsigned char* to);

// Rows 0 and 1 of `from`, 512 bytes each, copied as two groups, one used while the other is open.
void run_two_groups(const unsigned char* from, unsigned char* to);

// The sums of what lies in a dynamic and two static parts of shared memory, for each thread.
void run_shared_parts(int* sums, unsigned threads);

// x + 10 y + 100 z of block and thread, at the thread's position in the whole.
constexpr unsigned kGrid3[3] = {3, 2, 4}, kBlock3[3] = {5, 3, 2};
void run_positions(int* blocks, int* threads);

void run_narrow(const float* x, std::uint16_t* bf16, std::uint16_t* f16, int n);
void run_widen(const std::uint16_t* bits, float* bf16, float* f16, int n);
void run_powers(const float* x, float* exp2, float* log2, float* reciprocal, int n);
