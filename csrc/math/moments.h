// Moments of the columns of one view or two over a part of the rows, and the merge of two such
// parts.
//
// Source: Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample
// Variances", 1979.
#pragma once
#include "math/functions.h"

namespace sslkern::math {

template <int kViews>
struct Moments {
  double rows;
  double mean[kViews], squares[kViews];  // squared distances from the mean, summed
  double pair;                           // of two views: products of distances, or what is given
};

// differences: `pair` is a sum that does not depend on the means.
template <int kViews>
SSLKERN_MATH Moments<kViews> merge_moments(const Moments<kViews>& a, const Moments<kViews>& b,
                                           bool differences) {
  if (a.rows == 0) return b;
  if (b.rows == 0) return a;
  Moments<kViews> merged{a.rows + b.rows, {}, {}, a.pair + b.pair};
  const double share = b.rows / merged.rows, weight = a.rows * share;
  double apart[kViews];
  for (int v = 0; v < kViews; ++v) {
    apart[v] = b.mean[v] - a.mean[v];
    merged.mean[v] = a.mean[v] + apart[v] * share;
    merged.squares[v] = a.squares[v] + b.squares[v] + apart[v] * apart[v] * weight;
  }
  if (kViews == 2 && !differences) merged.pair += apart[0] * apart[kViews - 1] * weight;
  return merged;
}

}  // namespace sslkern::math
