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

// What a launch is refused for, or a block that is smaller than the kernel needs.
constexpr unsigned threads_of(Fault fault, unsigned threads) {
  if (fault == Fault::kTooManyThreads) return 1056;
  return fault == Fault::kLaneThatIsNotThere || fault == Fault::kPartOfAWarp ? 16 : threads;
}

template <Fault kFault>
void rotate_with(const float* x, float* out, int n, unsigned blocks, unsigned threads) {
  static float elsewhere;
  const dim3 grid(blocks, kFault == Fault::kTooManyRowsOfBlocks ? 1u << 16 : 1u);
  const unsigned kib = kFault == Fault::kTooMuchDynamicShared ? 100
                       : kFault == Fault::kTooMuchShared      ? 80
                                                              : 0;
  SSLKERN_LAUNCH(rotate<kFault>, grid, dim3(threads_of(kFault, threads)), kib << 10, nullptr, x,
                 out, &elsewhere, n);
}

template <Fault kFault>
void fragments_with(std::uint16_t* x, unsigned* words) {
  SSLKERN_LAUNCH(fragments<kFault>, dim3(1), dim3(threads_of(kFault, 32)), 0, nullptr, x, words);
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
    SSLKERN_CASE(block_sum, kInitialiseBesideAtomics, x, out, n, blocks, threads)
    SSLKERN_CASE(block_sum, kReadBesideAtomics, x, out, n, blocks, threads)
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

void run_rotate(int fault, const float* x, float* out, int n, unsigned blocks, unsigned threads) {
  switch (fault) {
    SSLKERN_CASE(rotate, kNone, x, out, n, blocks, threads)
    SSLKERN_CASE(rotate, kNoSyncwarp, x, out, n, blocks, threads)
    SSLKERN_CASE(rotate, kNoSyncwarpBeforeReuse, x, out, n, blocks, threads)
    SSLKERN_CASE(rotate, kSyncwarpOfHalves, x, out, n, blocks, threads)
    SSLKERN_CASE(rotate, kLaneOutsideMask, x, out, n, blocks, threads)
    SSLKERN_CASE(rotate, kLaneThatIsNotThere, x, out, n, blocks, threads)
    SSLKERN_CASE(rotate, kMismatchedCollectives, x, out, n, blocks, threads)
    SSLKERN_CASE(rotate, kBlocksWriteTheSame, x, out, n, blocks, threads)
    SSLKERN_CASE(rotate, kReadUnwrittenGlobal, x, out, n, blocks, threads)
    SSLKERN_CASE(rotate, kWriteBeyondEnd, x, out, n, blocks, threads)
    SSLKERN_CASE(rotate, kWriteStaticVariable, x, out, n, blocks, threads)
    SSLKERN_CASE(rotate, kMisalignedVector, x, out, n, blocks, threads)
    SSLKERN_CASE(rotate, kTooManyThreads, x, out, n, blocks, threads)
    SSLKERN_CASE(rotate, kTooManyRowsOfBlocks, x, out, n, blocks, threads)
    SSLKERN_CASE(rotate, kTooMuchDynamicShared, x, out, n, blocks, threads)
    SSLKERN_CASE(rotate, kTooMuchShared, x, out, n, blocks, threads)
  }
}

void run_fragments(int fault, std::uint16_t* x, unsigned* words) {
  switch (fault) {
    SSLKERN_CASE(fragments, kNone, x, words)
    SSLKERN_CASE(fragments, kWriteWhileCopying, x, words)
    SSLKERN_CASE(fragments, kCopyTwice, x, words)
    SSLKERN_CASE(fragments, kWriteSource, x, words)
    SSLKERN_CASE(fragments, kWriteSourceAfterBarrier, x, words)
    SSLKERN_CASE(fragments, kCopyTooMuch, x, words)
    SSLKERN_CASE(fragments, kCopyToGlobal, x, words)
    SSLKERN_CASE(fragments, kMisalignedMatrix, x, words)
    SSLKERN_CASE(fragments, kMatrixInGlobal, x, words)
    SSLKERN_CASE(fragments, kPartOfAWarp, x, words)
    SSLKERN_CASE(fragments, kLeaveNewest, x, words)
  }
}
