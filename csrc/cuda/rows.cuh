// Rows of a matrix, 16 bytes at a time. Rows that do not begin at a multiple of 16 bytes, and what
// is left at the end of one, are read element by element, by the same threads: the bits of a result
// do not depend on where its rows are. What comes from memory is the same then, but takes kVector
// requests of the first-level cache.
#pragma once
#include "cuda/block.cuh"
#include "cuda/vector.cuh"

namespace sslkern::cuda {

template <class E>
constexpr int kVector = kVectorBytes / int(sizeof(E));

SSLKERN_DEVICE bool is_aligned(const void* p) { return std::uintptr_t(p) % kVectorBytes == 0; }

// Elements k, k + 1, .. of a row of K, zero behind its end; k is a multiple of kVector. As they
// are: what waits for memory is the conversion.
template <class E>
SSLKERN_DEVICE uint4 load_of_row(const E* row, std::int64_t k, std::int64_t K) {
  if (is_aligned(row) && k + kVector<E> <= K) return *reinterpret_cast<const uint4*>(row + k);
  E each[kVector<E>];
#pragma unroll
  for (int q = 0; q < kVector<E>; ++q) each[q] = k + q < K ? row[k + q] : Rounded<E>::from(0);
  uint4 vector;
  memcpy(&vector, each, kVectorBytes);
  return vector;
}

template <class E>
struct Unpacked {
  typename ElementOf<E>::Working at[kVector<E>];

  explicit SSLKERN_DEVICE Unpacked(const uint4& vector) {
    E each[kVector<E>];
    memcpy(each, &vector, kVectorBytes);
#pragma unroll
    for (int q = 0; q < kVector<E>; ++q) at[q] = to_working(each[q]);
  }
};

// The elements value(0), value(1), .. from k on; nothing behind the end.
template <class E, class Value>
SSLKERN_DEVICE void store_to_row(E* row, std::int64_t k, std::int64_t K, const Value& value) {
  Vector<E, kVector<E>> vector;
#pragma unroll
  for (int q = 0; q < kVector<E>; ++q) vector.x[q] = Rounded<E>::from(value(q));
  if (is_aligned(row) && k + kVector<E> <= K)
    return store_vector(vector, row, std::uint64_t(k) / kVector<E>);
#pragma unroll
  for (int q = 0; q < kVector<E>; ++q) {
    if (k + q < K) row[k + q] = vector.x[q];
  }
}

}  // namespace sslkern::cuda
