#include "planted.cuh"
#include "planted.h"

namespace {

template <Fault kFault>
void block_sum_with(const float* x, float* out, int n, unsigned blocks, unsigned threads) {
  SSLKERN_LAUNCH(block_sum<kFault>, dim3(blocks), dim3(threads), 0, nullptr, x, out, n);
}

template <Fault kFault>
void similarity_with(const std::uint16_t* a, const std::uint16_t* b, float* s, int m, int n,
                     int d) {
  const dim3 grid(unsigned(n + 63) / 64, unsigned(m + 63) / 64);
  const unsigned bytes = 2 * 2 * 64 * 40 * sizeof(std::uint16_t);
  SSLKERN_LAUNCH(similarity<kFault>, grid, dim3(128), bytes, nullptr, a, b, s, m, n, d);
}

}  // namespace

#define SSLKERN_CASE(RUN, FAULT, ...) \
  case int(Fault::FAULT):             \
    return RUN##_with<Fault::FAULT>(__VA_ARGS__);

void run_block_sum(int fault, const float* x, float* out, int n, unsigned blocks,
                   unsigned threads) {
  switch (fault) {
    SSLKERN_CASE(block_sum, kNone, x, out, n, blocks, threads)
    SSLKERN_CASE(block_sum, kNoBarrier, x, out, n, blocks, threads)
    SSLKERN_CASE(block_sum, kReadBeyondEnd, x, out, n, blocks, threads)
    SSLKERN_CASE(block_sum, kWriteBeyondShared, x, out, n, blocks, threads)
    SSLKERN_CASE(block_sum, kBarrierInBranch, x, out, n, blocks, threads)
    SSLKERN_CASE(block_sum, kReadUnwritten, x, out, n, blocks, threads)
    SSLKERN_CASE(block_sum, kShuffleInBranch, x, out, n, blocks, threads)
    SSLKERN_CASE(block_sum, kAddWithoutAtomic, x, out, n, blocks, threads)
    SSLKERN_CASE(block_sum, kExitBeforeBarrier, x, out, n, blocks, threads)
    SSLKERN_CASE(block_sum, kTwoBarriers, x, out, n, blocks, threads)
    SSLKERN_CASE(block_sum, kShuffleFromOutside, x, out, n, blocks, threads)
  }
}

void run_similarity(int fault, const std::uint16_t* a, const std::uint16_t* b, float* s, int m,
                    int n, int d) {
  switch (fault) {
    SSLKERN_CASE(similarity, kNone, a, b, s, m, n, d)
    SSLKERN_CASE(similarity, kWaitForTooFew, a, b, s, m, n, d)
    SSLKERN_CASE(similarity, kNoBarrierBeforeReuse, a, b, s, m, n, d)
    SSLKERN_CASE(similarity, kNoCommit, a, b, s, m, n, d)
    SSLKERN_CASE(similarity, kSwappedRegisters, a, b, s, m, n, d)
    SSLKERN_CASE(similarity, kReadRowsBeyondEnd, a, b, s, m, n, d)
    SSLKERN_CASE(similarity, kNoBarrierAfterWait, a, b, s, m, n, d)
    SSLKERN_CASE(similarity, kMisalignedCopy, a, b, s, m, n, d)
    SSLKERN_CASE(similarity, kEndBeforeWait, a, b, s, m, n, d)
  }
}
