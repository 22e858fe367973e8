// Gradients that a forward pass has formed: wide until the upstream gradient has multiplied them.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/mul.h>

namespace sslkern::ops {

// The gradient of `input`. It is an argument so that differentiating the result again is noticed.
inline at::Tensor multiply_formed(const at::Tensor& grad_sum, const at::Tensor& input,
                                  const at::Tensor& formed) {
  const auto wide = formed.scalar_type();
  return at::mul(formed, grad_sum.to(wide)).to(input.scalar_type()).reshape(input.sizes());
}

}  // namespace sslkern::ops
