// The table of all CUDA entries. The kernels live in a library of their own, so that one module
// serves machines with and without them: nvcc's (csrc/cuda for hardware) or, for tests, the same
// sources on the emulation of csrc/platform. Either exports
//
//   extern "C" const sslkern::cuda::Entries* sslkern_cuda_entries();
#pragma once
#include "contract/covariance.h"
#include "contract/cross_correlation.h"
#include "contract/cuda.h"
#include "contract/gram.h"
#include "contract/info_nce.h"
#include "contract/linear_cross_entropy.h"
#include "contract/ntxent.h"
#include "contract/packed.h"
#include "contract/sampled_logits.h"
#include "contract/siglip.h"
#include "contract/sinkhorn.h"
#include "contract/soft_cross_entropy.h"
#include "contract/supcon.h"
#include "contract/swapped_prediction.h"

#define SSLKERN_CUDA_ENTRIES(X)                               \
  X(pack_rows, PackRows)                                      \
  X(largest_magnitude, LargestMagnitude)                      \
  X(finish_rows, FinishRows)                                  \
  X(sum_in_order, SumInOrder)                                 \
  X(ntxent_fwd, NtxentSums)                                   \
  X(ntxent_weights, NtxentWeights)                            \
  X(ntxent_tiles, NtxentTiles)                                \
  X(column_moments, ColumnMoments)                            \
  X(pack_columns, PackColumns)                                \
  X(product_sums, ProductSums)                                \
  X(wide_sums, WideSums)                                      \
  X(wide_gram, WideGram)                                      \
  X(wide_rows, WideRows)                                      \
  X(column_dots, ColumnDots)                                  \
  X(cross_correlation_statistics, CrossCorrelationStatistics) \
  X(cross_correlation_terms, CrossCorrelationTerms)           \
  X(cross_correlation_gradient, CrossCorrelationGradient)     \
  X(covariance_statistics, CovarianceStatistics)              \
  X(covariance_terms, CovarianceTerms)                        \
  X(covariance_gradient, CovarianceGradient)                  \
  X(info_nce_columns, InfoNceColumns)                         \
  X(info_nce_fwd, InfoNceSums)                                \
  X(info_nce_middle, InfoNceMiddle)                           \
  X(info_nce_weights, InfoNceWeights)                         \
  X(info_nce_tiles, InfoNceTiles)                             \
  X(info_nce_row_dots, InfoNceRowDots)                        \
  X(info_nce_column_gradients, InfoNceColumnGradients)        \
  X(info_nce_rank, InfoNceCounts)                             \
  X(siglip_weights, SiglipWeights)                            \
  X(siglip_lift, SiglipLift)                                  \
  X(siglip_tiles, SiglipTiles)                                \
  X(siglip_losses, SiglipLosses)                              \
  X(supcon_classes, SupconClasses)                            \
  X(supcon_negatives, SupconNegatives)                        \
  X(supcon_positives, SupconPositives)                        \
  X(supcon_upstream, SupconUpstream)                          \
  X(supcon_weights, SupconWeights)                            \
  X(supcon_tiles, SupconTiles)                                \
  X(soft_cross_entropy_fwd, SoftCrossEntropySums)             \
  X(soft_cross_entropy_bwd, SoftCrossEntropyGradient)         \
  X(sampled_logits_fwd, SampledLogitsDots)                    \
  X(sampled_logits_grad_query, SampledLogitsQueryGradient)    \
  X(sampled_logits_grad_table, SampledLogitsTableGradient)    \
  X(sinkhorn, SinkhornOnDevice)                               \
  X(swapped_prediction_fwd, SwappedPredictionLosses)          \
  X(swapped_prediction_bwd, SwappedPredictionGradients)       \
  X(linear_cross_entropy_classes, LinearCrossEntropyClasses)  \
  X(linear_cross_entropy_places, LinearCrossEntropyPlaces)    \
  X(linear_cross_entropy_fwd, LinearCrossEntropySums)         \
  X(linear_cross_entropy_weights, LinearCrossEntropyWeights)  \
  X(linear_cross_entropy_tiles, LinearCrossEntropyTiles)      \
  X(linear_cross_entropy_bias, LinearCrossEntropyBias)

namespace sslkern::cuda {

struct Entries {
  std::int64_t bytes;  // of this table: that of another version is refused
  Memory memory;
#define SSLKERN_MEMBER(NAME, PARAMS) void (*NAME)(const PARAMS&, const Launch&);
  SSLKERN_CUDA_ENTRIES(SSLKERN_MEMBER)
#undef SSLKERN_MEMBER
};

}  // namespace sslkern::cuda
