#include "contract/ntxent.h"

#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <tuple>

#include "ops/autocast.h"
#include "ops/backend.h"
#include "ops/check.h"

namespace sslkern::ops {
namespace {

using at::Tensor;

constexpr const char* kOp = "ntxent";

void check_inputs(const Tensor& z_a, const Tensor& z_b, const Tensor& temperature) {
  check_matrix(kOp, "z_a", "(B, D)", z_a);
  check_float_tensor(kOp, "z_b", z_b);
  check_like(kOp, "z_b", z_b, "z_a", z_a);
  SSLKERN_CHECK(VALUE, z_a.size(0) < (int64_t(1) << 30), kOp, "z_a", "of at most 2**30 - 1 rows",
                z_a.size(0));
  check_scalar_tensor(kOp, "temperature", temperature);
}

// The temperature as the kernels read it.
Tensor as_double(const Tensor& temperature) { return temperature.to(at::kDouble).contiguous(); }

NtxentInput input_of(const Tensor& z_a, const Tensor& z_b, const Tensor& temperature,
                     bool normalize) {
  return {z_a.const_data_ptr(),
          z_b.const_data_ptr(),
          z_a.stride(0),
          z_b.stride(0),
          z_a.size(0),
          z_a.size(1),
          temperature.const_data_ptr<double>(),
          to_dtype(z_a.scalar_type()),
          normalize};
}

std::tuple<Tensor, Tensor> ntxent_fwd(const Tensor& z_a, const Tensor& z_b,
                                      const Tensor& temperature, bool normalize) {
  check_inputs(z_a, z_b, temperature);
  check_positive(kOp, "temperature", temperature.item<double>());
  const Tensor a = with_adjacent_columns(z_a), b = with_adjacent_columns(z_b),
               tau = as_double(temperature);
  const int64_t rows = 2 * a.size(0);
  Tensor loss = empty({rows}, accumulate_dtype(a.scalar_type()), a),
         lse = empty({rows}, at::kDouble, a);
  NtxentFwd p{};
  p.in = input_of(a, b, tau, normalize);
  p.threads = thread_count(rows);
  const Tensor workspace = empty({cpu::ntxent_fwd_workspace(p)}, at::kByte, a);
  p.loss = loss.mutable_data_ptr();
  p.lse = lse.mutable_data_ptr<double>();
  p.workspace = workspace.mutable_data_ptr();
  cpu::ntxent_fwd(p);
  return {loss, lse};
}

std::tuple<Tensor, Tensor, Tensor> ntxent_bwd(const Tensor& grad_loss, const Tensor& z_a,
                                              const Tensor& z_b, const Tensor& temperature,
                                              const Tensor& lse, bool normalize) {
  check_inputs(z_a, z_b, temperature);
  const int64_t rows = 2 * z_a.size(0);
  SSLKERN_CHECK(VALUE, grad_loss.dim() == 1 && grad_loss.numel() == rows, kOp, "grad_loss",
                "of shape (2B,)", "shape ", shape_name(grad_loss));
  SSLKERN_CHECK(TYPE, grad_loss.scalar_type() == accumulate_dtype(z_a.scalar_type()), kOp,
                "grad_loss", dtype_name(accumulate_dtype(z_a.scalar_type())),
                dtype_name(grad_loss.scalar_type()));
  SSLKERN_CHECK(VALUE, lse.dim() == 1 && lse.numel() == rows && lse.scalar_type() == at::kDouble,
                kOp, "lse", "of shape (2B,) and dtype torch.float64", "shape ", shape_name(lse));
  const Tensor a = with_adjacent_columns(z_a), b = with_adjacent_columns(z_b),
               tau = as_double(temperature);
  const Tensor g = grad_loss.contiguous(), l = lse.contiguous();
  Tensor grad_a = empty(a.sizes(), a.scalar_type(), a),
         grad_b = empty(b.sizes(), b.scalar_type(), b);
  Tensor grad_temperature = at::empty_like(tau);
  NtxentBwd p{};
  p.in = input_of(a, b, tau, normalize);
  p.threads = thread_count(rows);
  const Tensor workspace = empty({cpu::ntxent_bwd_workspace(p)}, at::kByte, a);
  p.lse = l.const_data_ptr<double>();
  p.grad_loss = g.const_data_ptr();
  p.grad_z_a = grad_a.mutable_data_ptr();
  p.grad_z_b = grad_b.mutable_data_ptr();
  p.grad_temperature = grad_temperature.mutable_data_ptr<double>();
  p.workspace = workspace.mutable_data_ptr();
  cpu::ntxent_bwd(p);
  return {grad_a, grad_b,
          grad_temperature.to(temperature.scalar_type()).reshape(temperature.sizes())};
}

// Any layout or device without a kernel ends here: the checks say which, in the same words as
// everywhere.
std::tuple<Tensor, Tensor> ntxent_fwd_unsupported(const Tensor& z_a, const Tensor& z_b,
                                                  const Tensor& temperature, bool) {
  check_inputs(z_a, z_b, temperature);
  TORCH_CHECK_NOT_IMPLEMENTED(false, "sslkern::ntxent: no kernel for ", z_a.device().str());
}

std::tuple<Tensor, Tensor> ntxent_fwd_autocast(const Tensor& z_a, const Tensor& z_b,
                                               const Tensor& temperature, bool normalize) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  Tensor a = z_a, b = z_b;
  promote({&a, &b});
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("sslkern::ntxent_fwd", "")
                             .typed<decltype(ntxent_fwd)>();
  return op.call(a, b, temperature, normalize);
}

TORCH_LIBRARY_FRAGMENT(sslkern, m) {
  m.def(
      "ntxent_fwd(Tensor z_a, Tensor z_b, Tensor temperature, bool normalize) -> (Tensor loss, "
      "Tensor lse)");
  m.def(
      "ntxent_bwd(Tensor grad_loss, Tensor z_a, Tensor z_b, Tensor temperature, Tensor lse, bool "
      "normalize)"
      " -> (Tensor grad_z_a, Tensor grad_z_b, Tensor grad_temperature)");
}

TORCH_LIBRARY_IMPL(sslkern, CPU, m) {
  m.impl("ntxent_fwd", &ntxent_fwd);
  m.impl("ntxent_bwd", &ntxent_bwd);
}

TORCH_LIBRARY_IMPL(sslkern, CompositeExplicitAutograd, m) {
  m.impl("ntxent_fwd", &ntxent_fwd_unsupported);
}

TORCH_LIBRARY_IMPL(sslkern, AutocastCPU, m) { m.impl("ntxent_fwd", &ntxent_fwd_autocast); }

}  // namespace
}  // namespace sslkern::ops
