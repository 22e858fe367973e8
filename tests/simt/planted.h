// The kernels of planted.cuh, launched: what the driver and the kernels' translation unit share.
#pragma once
#include <cstdint>

void run_block_sum(int fault, const float* x, float* out, int n, unsigned blocks, unsigned threads);
void run_similarity(int fault, const std::uint16_t* a, const std::uint16_t* b, float* s, int m,
                    int n, int d);
void run_rotate(int fault, const float* x, float* out, int n, unsigned blocks, unsigned threads);
void run_fragments(int fault, std::uint16_t* x, unsigned* words);
