// A sum of powers of two with its own exponent, 2^max * sum, and the merge of two such: the state
// of a streamed log-sum-exp in base 2.
#pragma once
#include "math/functions.h"

namespace sslkern::math {

struct OnlineLse {
  double max;  // log2 units
  double sum;  // 0 where nothing was added yet; NaN stays NaN
};

SSLKERN_MATH OnlineLse lse_merge(OnlineLse a, OnlineLse b) {
  if (b.sum == 0) return a;
  if (a.sum == 0) return b;
  const double max = a.max > b.max ? a.max : b.max;
  return {max, a.sum * exp2(a.max - max) + b.sum * exp2(b.max - max)};
}

// log2 of the whole.
SSLKERN_MATH double lse_log2(OnlineLse s) { return s.max + log2(s.sum); }

}  // namespace sslkern::math
