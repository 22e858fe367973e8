#include "contract/cross_correlation.h"

#include <torch/library.h>

#include <string_view>
#include <tuple>

#include "ops/autocast.h"
#include "ops/backend.h"
#include "ops/check.h"
#include "ops/gram.h"

namespace sslkern::ops {
namespace {

using at::Tensor;
using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using Gradients = std::tuple<Tensor, Tensor>;

constexpr const char* kOp = "cross_correlation";

// The arguments that both directions take, as the user gave them.
struct Arguments {
  const Tensor &z_a, &z_b;
  double lambda, eps;
  std::string_view route;
};

void check_arguments(const Arguments& a) {
  check_view(kOp, "z_a", a.z_a);
  check_float_tensor(kOp, "z_b", a.z_b);
  check_like(kOp, "z_b", a.z_b, "z_a", a.z_a);
  check_finite(kOp, "lambda_param", a.lambda);
  check_positive(kOp, "eps", a.eps);
}

// The views in the layout that the kernels read; keeps the tensors alive.
struct Prepared {
  Tensor z_a, z_b;
  GramInput in;
};

Prepared prepare(const Arguments& a) {
  Prepared p{with_adjacent_columns(a.z_a), with_adjacent_columns(a.z_b), {}};
  p.in = gram_input_of(p.z_a, p.z_b, takes_products_of_rows(kOp, a.route, a.z_a));
  return p;
}

// Fills terms and columns; returns the products.
Tensor run_forward(const Arguments& a, const Prepared& prepared, bool wide, bool keep,
                   const Tensor& terms, const Tensor& columns) {
  CrossCorrelationFwd p{};
  p.in = prepared.in;
  p.in.wide = wide;
  p.lambda = a.lambda;
  p.eps = a.eps;
  p.terms = terms.mutable_data_ptr<double>();
  p.columns = columns.mutable_data_ptr<double>();
  const Tensor products = empty_products(p.in, cross_correlation_matrices(p.in.gram), a.z_a);
  p.products = products.mutable_data_ptr();
  p.keep = keep;
  p.threads = threads_for(p.in);
  const Tensor workspace = empty({cpu::cross_correlation_fwd_workspace(p)}, at::kByte, a.z_a);
  p.workspace = workspace.mutable_data_ptr();
  cpu::cross_correlation_fwd(p);
  return products;
}

// Loss, its terms, statistics of the columns, and with keep what the backward pass needs of the
// products.
Forward cross_correlation_fwd(const Tensor& z_a, const Tensor& z_b, double lambda_param, double eps,
                              c10::string_view route, bool keep) {
  const Arguments a{z_a, z_b, lambda_param, eps, {route.data(), route.size()}};
  check_arguments(a);
  const Prepared prepared = prepare(a);
  const Tensor terms = empty({3}, at::kDouble, z_a);
  const Tensor columns = empty({CrossCorrelationColumns::kRows, z_a.size(1)}, at::kDouble, z_a);
  const auto accumulate = accumulate_dtype(z_a.scalar_type());
  Tensor products = run_forward(a, prepared, false, keep, terms, columns);
  double* term = terms.mutable_data_ptr<double>();
  const bool wide = term[2] != 0;
  // The backward pass computes wide products again: the ones that it is given are float32.
  if (wide) run_forward(a, prepared, true, false, terms, columns);
  term[2] = wide;
  Tensor loss = empty({}, at::kDouble, z_a);
  *loss.mutable_data_ptr<double>() = term[0] + lambda_param * term[1];
  if (!keep) products = empty({0}, accumulate, z_a);
  return {loss.to(accumulate), terms, columns, products};
}

void check_saved(const Prepared& p, const Tensor& terms, const Tensor& columns,
                 const Tensor& products) {
  SSLKERN_CHECK(VALUE, terms.numel() == 3 && terms.scalar_type() == at::kDouble, kOp, "terms",
                "of shape (3,) and dtype torch.float64", "shape ", shape_name(terms));
  SSLKERN_CHECK(VALUE,
                columns.numel() == CrossCorrelationColumns::kRows * p.in.D &&
                    columns.scalar_type() == at::kDouble,
                kOp, "columns", "of shape (5, D) and dtype torch.float64", "shape ",
                shape_name(columns));
  const int64_t elements = cross_correlation_matrices(p.in.gram) * gram_elements(p.in.side());
  SSLKERN_CHECK(VALUE,
                products.numel() == elements &&
                    products.scalar_type() == accumulate_dtype(p.z_a.scalar_type()),
                kOp, "products",
                c10::str("of ", elements, " elements, as the forward pass keeps them"),
                products.numel());
}

Gradients cross_correlation_bwd(const Tensor& grad_loss, const Tensor& z_a, const Tensor& z_b,
                                double lambda_param, double eps, c10::string_view route,
                                const Tensor& terms, const Tensor& columns, const Tensor& products,
                                bool need_a, bool need_b) {
  const Arguments a{z_a, z_b, lambda_param, eps, {route.data(), route.size()}};
  check_arguments(a);
  const Prepared prepared = prepare(a);
  check_saved(prepared, terms, columns, products);
  const Tensor t = terms.contiguous(), statistics = columns.contiguous();
  Tensor kept = products.contiguous();
  CrossCorrelationBwd p{};
  p.in = prepared.in;
  p.in.wide = t.const_data_ptr<double>()[2] != 0;
  if (p.in.wide) kept = run_forward(a, prepared, true, true, t.clone(), statistics.clone());
  p.lambda = lambda_param;
  p.grad_loss = upstream_of(kOp, grad_loss);
  p.columns = statistics.const_data_ptr<double>();
  p.products = kept.const_data_ptr();
  Tensor grad_a = empty({need_a ? p.in.N : 0, p.in.D}, z_a.scalar_type(), z_a);
  Tensor grad_b = empty({need_b ? p.in.N : 0, p.in.D}, z_a.scalar_type(), z_a);
  p.grad_z[0] = need_a ? grad_a.mutable_data_ptr() : nullptr;
  p.grad_z[1] = need_b ? grad_b.mutable_data_ptr() : nullptr;
  p.threads = threads_for(p.in);
  const Tensor workspace = empty({cpu::cross_correlation_bwd_workspace(p)}, at::kByte, z_a);
  p.workspace = workspace.mutable_data_ptr();
  cpu::cross_correlation_bwd(p);
  return {grad_a, grad_b};
}

// Any layout or device without a kernel ends here: the checks say which, in the same words as
// everywhere.
Forward cross_correlation_fwd_unsupported(const Tensor& z_a, const Tensor& z_b, double lambda_param,
                                          double eps, c10::string_view, bool) {
  check_arguments({z_a, z_b, lambda_param, eps, {}});
  TORCH_CHECK_NOT_IMPLEMENTED(false, "sslkern::cross_correlation: no kernel for ",
                              z_a.device().str());
}

Forward cross_correlation_fwd_autocast(const Tensor& z_a, const Tensor& z_b, double lambda_param,
                                       double eps, c10::string_view route, bool keep) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  Tensor a = z_a, b = z_b;
  promote({&a, &b});
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("sslkern::cross_correlation_fwd", "")
                             .typed<decltype(cross_correlation_fwd)>();
  return op.call(a, b, lambda_param, eps, route, keep);
}

TORCH_LIBRARY_FRAGMENT(sslkern, m) {
  m.def(
      "cross_correlation_fwd(Tensor z_a, Tensor z_b, float lambda_param, float eps, str route, "
      "bool keep) -> (Tensor loss, Tensor terms, Tensor columns, Tensor products)");
  m.def(
      "cross_correlation_bwd(Tensor grad_loss, Tensor z_a, Tensor z_b, float lambda_param, "
      "float eps, str route, Tensor terms, Tensor columns, Tensor products, bool need_a, "
      "bool need_b) -> (Tensor grad_z_a, Tensor grad_z_b)");
}

TORCH_LIBRARY_IMPL(sslkern, CPU, m) {
  m.impl("cross_correlation_fwd", &cross_correlation_fwd);
  m.impl("cross_correlation_bwd", &cross_correlation_bwd);
}

TORCH_LIBRARY_IMPL(sslkern, CompositeExplicitAutograd, m) {
  m.impl("cross_correlation_fwd", &cross_correlation_fwd_unsupported);
}

TORCH_LIBRARY_IMPL(sslkern, AutocastCPU, m) {
  m.impl("cross_correlation_fwd", &cross_correlation_fwd_autocast);
}

}  // namespace
}  // namespace sslkern::ops
