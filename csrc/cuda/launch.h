// Launch shapes that several rows share.
#pragma once
#include <type_traits>

#include "cuda/tile.cuh"

namespace sslkern::cuda {

// Blocks of `threads` for `count` of them, one dimension.
inline dim3 blocks_for(std::int64_t count, int threads) {
  return dim3(unsigned((count + threads - 1) / threads));
}

// Calls f with the flag as a type, whose value a kernel can have for a template argument.
template <class F>
void with_flag(bool flag, const F& f) {
  flag ? f(std::true_type{}) : f(std::false_type{});
}

// The grid of a walk: tiles of rows by splits of the columns' tiles.
template <class P>
dim3 walk_grid(std::int64_t rows, std::int64_t splits) {
  return dim3(unsigned(rows / P::kSide), unsigned(splits));
}

}  // namespace sslkern::cuda
