// The launchers of soft cross entropy.
#include "cuda/launch.h"
#include "cuda/soft_cross_entropy.cuh"

namespace sslkern::cuda {
namespace {

// Whether threads read and write 16 bytes at a time.
template <class E>
bool has_vectors(const SoftCrossEntropyInput& in) {
  const std::int64_t count = kVectorBytes / sizeof(E);
  return rows_have_vectors<E>(in.student, in.stride_student, in.K, count) &&
         rows_have_vectors<E>(in.teacher, in.stride_teacher, in.K, count) &&
         reinterpret_cast<std::uintptr_t>(in.center) % kVectorBytes == 0;
}

// The grid of teams of kTeam threads. Rows that take a block each have so many elements that there
// are less than 2^31 of them in any memory.
template <int kTeam>
dim3 team_grid(std::int64_t rows, std::int64_t pieces) {
  constexpr int kTeams = kSoftThreads / kTeam;
  return dim3(unsigned((rows + kTeams - 1) / kTeams), unsigned(pieces));
}

template <class E, bool kProbabilities, bool kAligned>
void forward(const SoftCrossEntropySums& p, const Launch& how) {
  const std::int64_t pieces = soft_target_pieces(p.in.K);
  const dim3 warps = team_grid<32>(p.in.N, 1), block(kSoftThreads);
  if (p.in.K <= kSoftTargetsOfWarp) {
    SSLKERN_LAUNCH((soft_cross_entropy_fwd_kernel<E, 32, kProbabilities, kAligned>), warps, block,
                   0, how.stream, p);
    return;
  }
  const dim3 blocks = team_grid<kSoftThreads>(p.in.N, pieces);
  SSLKERN_LAUNCH((soft_cross_entropy_fwd_kernel<E, kSoftThreads, kProbabilities, kAligned>), blocks,
                 block, 0, how.stream, p);
  if (pieces == 1) return;
  using T = typename ElementOf<E>::Working;
  SSLKERN_LAUNCH((soft_cross_entropy_merge_kernel<T, kProbabilities>), warps, block, 0, how.stream,
                 p, pieces);
}

template <class E, bool kProbabilities, bool kAligned>
void backward(const SoftCrossEntropyGradient& p, const Launch& how) {
  const dim3 block(kSoftThreads);
  if (p.in.K <= kSoftTargetsOfWarp) {
    SSLKERN_LAUNCH((soft_cross_entropy_bwd_kernel<E, 32, kProbabilities, kAligned>),
                   team_grid<32>(p.in.N, 1), block, 0, how.stream, p);
  } else {
    SSLKERN_LAUNCH((soft_cross_entropy_bwd_kernel<E, kSoftThreads, kProbabilities, kAligned>),
                   team_grid<kSoftThreads>(p.in.N, soft_target_pieces(p.in.K)), block, 0,
                   how.stream, p);
  }
}

// Calls f(element type, whether probabilities, whether aligned).
template <class F>
void with_form(const SoftCrossEntropyInput& in, const F& f) {
  with_element(in.dtype, [&](auto of) {
    const bool aligned = has_vectors<typename decltype(of)::Element>(in);
    with_flag(in.probabilities, [&](auto probabilities) {
      with_flag(aligned, [&](auto vectors) { f(of, probabilities, vectors); });
    });
  });
}

}  // namespace

void soft_cross_entropy_fwd(const SoftCrossEntropySums& p, const Launch& how) {
  with_form(p.in, [&](auto of, auto probabilities, auto aligned) {
    using E = typename decltype(of)::Element;
    forward<E, decltype(probabilities)::value, decltype(aligned)::value>(p, how);
  });
}

void soft_cross_entropy_bwd(const SoftCrossEntropyGradient& p, const Launch& how) {
  with_form(p.in, [&](auto of, auto probabilities, auto aligned) {
    using E = typename decltype(of)::Element;
    backward<E, decltype(probabilities)::value, decltype(aligned)::value>(p, how);
  });
}

}  // namespace sslkern::cuda
