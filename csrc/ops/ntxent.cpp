#include "contract/ntxent.h"

#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <tuple>

#include "ops/autocast.h"
#include "ops/backend.h"
#include "ops/check.h"
#include "ops/packed.h"

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

std::tuple<Tensor, Tensor> fwd_on_cpu(const Tensor& a, const Tensor& b, const Tensor& tau,
                                      bool normalize) {
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

std::tuple<Tensor, Tensor> fwd_on_cuda(const Tensor& a, const Tensor& b, const Tensor& tau,
                                       bool normalize) {
  CudaCall call(a);
  const Packed z = pack(call, a, b, normalize);
  const int64_t rows = z.view.N, padded = z.view.padded_N();
  const auto working = accumulate_dtype(a.scalar_type());
  const int64_t splits = column_splits(rows, rows);
  const Tensor partial = empty({splits, padded, 2}, working, a),
               positive = empty({padded}, working, a);
  Tensor loss = empty({rows}, working, a), lse = empty({rows}, at::kDouble, a);
  NtxentSums p{};
  p.z = z.view;
  p.B = a.size(0);
  p.temperature = call.read<double>(tau);
  p.splits = splits;
  p.partial = call.write(partial);
  p.positive = call.write(positive);
  p.loss = call.write(loss);
  p.lse = call.write<double>(lse);
  call->ntxent_fwd(p, call.launch());
  return {loss, lse};
}

std::tuple<Tensor, Tensor> ntxent_fwd(const Tensor& z_a, const Tensor& z_b,
                                      const Tensor& temperature, bool normalize) {
  check_inputs(z_a, z_b, temperature);
  if (values_are_checked(temperature)) {
    check_positive(kOp, "temperature", temperature.item<double>());
  }
  const Tensor a = with_adjacent_columns(z_a), b = with_adjacent_columns(z_b),
               tau = as_double(temperature, a);
  return runs_on_cuda(a) ? fwd_on_cuda(a, b, tau, normalize) : fwd_on_cpu(a, b, tau, normalize);
}

// What both backends take and give, once checked: a, b, tau, upstream gradient, lse.
struct Backward {
  Tensor a, b, tau, g, lse;
  bool normalize;
};
struct Gradients {
  Tensor a, b, temperature;
};

Gradients bwd_on_cpu(const Backward& x) {
  Gradients grad{empty(x.a.sizes(), x.a.scalar_type(), x.a),
                 empty(x.b.sizes(), x.b.scalar_type(), x.b), at::empty_like(x.tau)};
  NtxentBwd p{};
  p.in = input_of(x.a, x.b, x.tau, x.normalize);
  p.threads = thread_count(2 * x.a.size(0));
  const Tensor workspace = empty({cpu::ntxent_bwd_workspace(p)}, at::kByte, x.a);
  p.lse = x.lse.const_data_ptr<double>();
  p.grad_loss = x.g.const_data_ptr();
  p.grad_z_a = grad.a.mutable_data_ptr();
  p.grad_z_b = grad.b.mutable_data_ptr();
  p.grad_temperature = grad.temperature.mutable_data_ptr<double>();
  p.workspace = workspace.mutable_data_ptr();
  cpu::ntxent_bwd(p);
  return grad;
}

Gradients bwd_on_cuda(const Backward& x) {
  CudaCall call(x.a);
  const Packed z = pack(call, x.a, x.b, x.normalize);
  const int64_t rows = z.view.N;
  const auto working = accumulate_dtype(x.a.scalar_type());
  const Tensor unit = empty({}, at::kDouble, x.a),
               weights = empty({4, z.view.padded_N()}, working, x.a),
               product = empty({z.view.padded_N(), z.view.padded_D()}, working, x.a);
  NtxentWeights w{};
  w.B = x.a.size(0);
  w.N = rows;
  w.padded_N = z.view.padded_N();
  w.dtype = z.view.dtype;
  w.lse = call.read<double>(x.lse);
  w.grad_loss = call.read(x.g);
  w.unit = unit_of(call, w.grad_loss, rows, w.dtype, unit);
  w.both = call.write(weights[0]);
  w.shift = call.write(weights[1]);
  w.fine = call.write(weights[2]);
  w.coarse = call.write(weights[3]);
  call->ntxent_weights(w, call.launch());

  NtxentTiles t{};
  t.z = z.view;
  t.B = x.a.size(0);
  t.temperature = call.read<double>(x.tau);
  t.normalized = x.normalize;
  t.both = w.both;
  t.shift = w.shift;
  t.fine = w.fine;
  t.coarse = w.coarse;
  const int64_t chunk = gradient_rows(z.view, rows, false);
  t.splits = column_splits(chunk, rows);
  const Tensor slope = empty_slopes(z.view, t.splits, x.a);
  t.slope = call.write<double>(slope);
  multiply_gradient(call, {z.rows, product, {}, {}}, z.view, rows, chunk,
                    [&](int64_t first, int64_t count, void* gradient) {
                      t.first_row = first;
                      t.rows = count;
                      t.gradient = gradient;
                      call->ntxent_tiles(t, call.launch());
                    });

  Gradients grad{empty(x.a.sizes(), x.a.scalar_type(), x.a),
                 empty(x.b.sizes(), x.b.scalar_type(), x.b), at::empty_like(x.tau)};
  FinishRows f = finish_of(call, z, product);
  f.unit = w.unit;
  f.divisor = t.temperature;
  f.normalize = x.normalize;
  f.first_rows = x.a.size(0);
  f.grad_first = call.write(grad.a);
  f.grad_second = call.write(grad.b);
  call->finish_rows(f, call.launch());
  sum_in_order(call, t.slope, slope.numel(), call.write<double>(grad.temperature),
               -0.5 * 0.69314718055994530942, w.unit, t.temperature);
  return grad;
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
  const Backward x{
      with_adjacent_columns(z_a), with_adjacent_columns(z_b), as_double(temperature, z_a),
      grad_loss.contiguous(),     lse.contiguous(),           normalize};
  const Gradients grad = runs_on_cuda(x.a) ? bwd_on_cuda(x) : bwd_on_cpu(x);
  return {grad.a, grad.b, as_gradient_of(temperature, grad.temperature)};
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

void register_kernels(torch::Library& m) {
  m.impl("ntxent_fwd", &ntxent_fwd);
  m.impl("ntxent_bwd", &ntxent_bwd);
}
TORCH_LIBRARY_IMPL(sslkern, CPU, m) { register_kernels(m); }
TORCH_LIBRARY_IMPL(sslkern, CUDA, m) { register_kernels(m); }

TORCH_LIBRARY_IMPL(sslkern, CompositeExplicitAutograd, m) {
  m.impl("ntxent_fwd", &ntxent_fwd_unsupported);
}

TORCH_LIBRARY_IMPL(sslkern, AutocastCPU, m) { m.impl("ntxent_fwd", &ntxent_fwd_autocast); }
TORCH_LIBRARY_IMPL(sslkern, AutocastCUDA, m) { m.impl("ntxent_fwd", &ntxent_fwd_autocast); }

}  // namespace
}  // namespace sslkern::ops
