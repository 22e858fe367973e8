// Elements that are read and written as one.
#pragma once
#include "cuda/dtype.cuh"

namespace sslkern::cuda {

constexpr int kVectorBytes = 16;  // the most that a thread reads at once

template <class E, int kCount>
struct alignas(kCount * sizeof(E)) Vector {
  static_assert(kCount * sizeof(E) <= kVectorBytes);
  E x[kCount];
};

template <class V, class E>
SSLKERN_DEVICE V load_vector(const E* from) {
  return *reinterpret_cast<const V*>(from);
}

// Vector `index` of a row whose vectors are 16 bytes, in one instruction: of a pointer to which an
// offset in elements leads nvcc does not see the alignment, and splits the store.
template <class V, class E>
SSLKERN_DEVICE void store_vector(const V& v, E* row, std::int64_t index) {
  if constexpr (sizeof(V) == sizeof(uint4)) {
    uint4 words;
    memcpy(&words, &v, sizeof(v));
    reinterpret_cast<uint4*>(row)[index] = words;
  } else {
    reinterpret_cast<V*>(row)[index] = v;
  }
}

template <class V, class E>
SSLKERN_DEVICE V filled_vector(E x) {
  V v;
#pragma unroll
  for (E& element : v.x) element = x;
  return v;
}

// Whether all rows of a matrix may be read so, `count` elements at a time: their begin, their
// distance and their length.
template <class E>
bool rows_have_vectors(const void* rows, std::int64_t stride, std::int64_t columns,
                       std::int64_t count) {
  return reinterpret_cast<std::uintptr_t>(rows) % (count * sizeof(E)) == 0 && stride % count == 0 &&
         columns % count == 0;
}

}  // namespace sslkern::cuda
