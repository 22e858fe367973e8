// Which thread computes which tile, and in which order tiles add into shared rows.
//
// The tiles I <= J of nb x nb blocks go in rounds: round r holds the tiles with I + J = r (mod nb).
// Every block takes part in exactly one tile of a round, so the tiles of a round never meet, and
// "all rounds before r are done for block b" is one counter. Threads draw tiles by ticket (dynamic
// balance) and add to a block when its turn has come: the order of all additions is fixed, and with
// it every bit of the result, whatever the number of threads.
#pragma once
#ifdef _OPENMP
#include <omp.h>
#endif
#include <time.h>

#include <cstdint>

#include "cpu/simd.h"

namespace sslkern::cpu::SSLKERN_ISA {

// Without OpenMP every team has one thread.
inline int thread_number() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

inline int thread_count() {
#ifdef _OPENMP
  return omp_get_num_threads();
#else
  return 1;
#endif
}

struct Tile {
  std::int64_t i, j, round;
};

// Turns tickets into tiles. Tickets must come in ascending order (as they do within one thread).
class SymmetricRounds {
 public:
  explicit SymmetricRounds(std::int64_t blocks) : blocks_(blocks) {}

  std::int64_t tiles() const { return blocks_ * (blocks_ + 1) / 2; }

  Tile at(std::int64_t ticket) {
    while (ticket >= start_ + low(round_) + high(round_)) {
      start_ += low(round_) + high(round_);
      ++round_;
    }
    const std::int64_t n = ticket - start_;
    if (n < low(round_)) return {n, round_ - n, round_};
    const std::int64_t i = round_ + 1 + n - low(round_);
    return {i, round_ + blocks_ - i, round_};
  }

 private:
  // Tiles of round r with I + J = r, and with I + J = r + nb.
  std::int64_t low(std::int64_t r) const { return r / 2 + 1; }
  std::int64_t high(std::int64_t r) const { return (r + blocks_) / 2 - r; }

  std::int64_t blocks_, round_ = 0, start_ = 0;
};

SSLKERN_INLINE std::int64_t next_ticket(std::int64_t* counter) {
  return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

// A thread waits only for tiles of lower tickets, so the lowest unfinished one always runs: no
// deadlock. It spins for about as long as an even start lets two threads drift apart, then sleeps:
// where other work holds the cores, a spinning thread would keep from running the one it waits for.
SSLKERN_INLINE void wait_turn(const std::int64_t* turn, std::int64_t round) {
  constexpr int kSpins = 4096;
  constexpr timespec kNap{0, 50000};
  for (int spins = 0; __atomic_load_n(turn, __ATOMIC_ACQUIRE) != round; ++spins) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
    if (spins > kSpins) nanosleep(&kNap, nullptr);
  }
}

SSLKERN_INLINE void pass_turn(std::int64_t* turn) { __atomic_fetch_add(turn, 1, __ATOMIC_RELEASE); }

}  // namespace sslkern::cpu::SSLKERN_ISA
