// Gradients that a forward pass has formed: wide until the upstream gradient has multiplied them.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/mul.h>

#include "ops/backend.h"

namespace sslkern::ops {

// The gradient of `input`. It is an argument so that differentiating the result again is noticed.
inline at::Tensor multiply_formed(const at::Tensor& grad_sum, const at::Tensor& input,
                                  const at::Tensor& formed) {
  return as_gradient_of(input, at::mul(formed, grad_sum.to(formed.scalar_type())));
}

}  // namespace sslkern::ops
