#include "contract/covariance.h"

#include <torch/library.h>

#include <optional>
#include <string_view>
#include <tuple>

#include "ops/autocast.h"
#include "ops/backend.h"
#include "ops/check.h"
#include "ops/gram.h"

namespace sslkern::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using Gradients = std::tuple<Tensor, Tensor>;

constexpr const char* kOp = "covariance";
constexpr int kTerms = 4;

// What the terms count.
struct Weights {
  double invariance, variance, covariance;
};

// The arguments that both directions take, as the user gave them.
struct Arguments {
  const Tensor& z_a;
  const OptionalTensor& z_b;
  Weights weights;
  double eps;
  bool normalize_columns, with_covariance;
  std::string_view route;
};

void check_arguments(const Arguments& a) {
  check_view(kOp, a.z_b ? "z_a" : "z", a.z_a);
  if (a.z_b) {
    check_float_tensor(kOp, "z_b", *a.z_b);
    check_like(kOp, "z_b", *a.z_b, "z_a", a.z_a);
  }
  check_finite(kOp, "lambda_param", a.weights.invariance);
  check_finite(kOp, "mu_param", a.weights.variance);
  check_finite(kOp, "nu_param", a.weights.covariance);
  check_positive(kOp, "eps", a.eps);
}

// The views in the layout that the kernels read; keeps the tensors alive.
struct Prepared {
  Tensor z_a, z_b;
  CovarianceInput of;

  int64_t elements() const { return of.covariance ? of.views() * gram_elements(of.in.side()) : 0; }
};

Prepared prepare(const Arguments& a) {
  Prepared p{with_adjacent_columns(a.z_a), a.z_b ? with_adjacent_columns(*a.z_b) : Tensor(), {}};
  p.of.in = gram_input_of(p.z_a, p.z_b, takes_products_of_rows(kOp, a.route, a.z_a));
  p.of.eps = a.eps;
  p.of.normalize = a.normalize_columns;
  p.of.covariance = a.with_covariance;
  return p;
}

// Fills terms and columns; returns the products, none without covariance.
Tensor run_forward(const Arguments& a, const Prepared& prepared, bool wide, bool keep,
                   const Tensor& terms, const Tensor& columns) {
  CovarianceFwd p{};
  p.of = prepared.of;
  p.of.in.wide = wide;
  p.terms = terms.mutable_data_ptr<double>();
  p.columns = columns.mutable_data_ptr<double>();
  Tensor products = empty({0}, accumulate_dtype(a.z_a.scalar_type()), a.z_a);
  if (p.of.covariance) products = empty_products(p.of.in, p.of.views(), a.z_a);
  p.products = p.of.covariance ? products.mutable_data_ptr() : nullptr;
  p.keep = keep;
  p.threads = threads_for(p.of.in);
  const Tensor workspace = empty({cpu::covariance_fwd_workspace(p)}, at::kByte, a.z_a);
  p.workspace = workspace.mutable_data_ptr();
  cpu::covariance_fwd(p);
  return products;
}

Forward forward(const Arguments& a, bool keep) {
  check_arguments(a);
  const Prepared prepared = prepare(a);
  const Tensor terms = empty({kTerms}, at::kDouble, a.z_a);
  const Tensor columns =
      empty({prepared.of.views() * CovarianceColumns::kRows, a.z_a.size(1)}, at::kDouble, a.z_a);
  const auto accumulate = accumulate_dtype(a.z_a.scalar_type());
  Tensor products = run_forward(a, prepared, false, keep, terms, columns);
  double* term = terms.mutable_data_ptr<double>();
  const bool wide = term[3] != 0;
  // The backward pass computes wide products again: the ones that it is given are float32.
  if (wide) run_forward(a, prepared, true, false, terms, columns);
  term[3] = wide;
  Tensor loss = empty({}, at::kDouble, a.z_a);
  *loss.mutable_data_ptr<double>() = a.weights.invariance * term[0] + a.weights.variance * term[1] +
                                     a.weights.covariance * term[2];
  if (!keep) products = empty({0}, accumulate, a.z_a);
  return {loss.to(accumulate), terms, columns, products};
}

// Loss, its terms, statistics of the columns, and with keep what the backward pass needs of the
// products.
Forward covariance_fwd(const Tensor& z_a, const OptionalTensor& z_b, double lambda_param,
                       double mu_param, double nu_param, double eps, bool normalize_columns,
                       bool with_covariance, c10::string_view route, bool keep) {
  return forward({z_a,
                  z_b,
                  {lambda_param, mu_param, nu_param},
                  eps,
                  normalize_columns,
                  with_covariance,
                  {route.data(), route.size()}},
                 keep);
}

void check_saved(const Prepared& p, const Tensor& terms, const Tensor& columns,
                 const Tensor& products) {
  SSLKERN_CHECK(VALUE, terms.numel() == kTerms && terms.scalar_type() == at::kDouble, kOp, "terms",
                "of shape (4,) and dtype torch.float64", "shape ", shape_name(terms));
  const int64_t rows = p.of.views() * CovarianceColumns::kRows;
  SSLKERN_CHECK(VALUE, columns.numel() == rows * p.of.in.D && columns.scalar_type() == at::kDouble,
                kOp, "columns", c10::str("of shape (", rows, ", D) and dtype torch.float64"),
                "shape ", shape_name(columns));
  SSLKERN_CHECK(VALUE,
                products.numel() == p.elements() &&
                    products.scalar_type() == accumulate_dtype(p.z_a.scalar_type()),
                kOp, "products",
                c10::str("of ", p.elements(), " elements, as the forward pass keeps them"),
                products.numel());
}

Gradients backward(const Tensor& grad_loss, const Arguments& a, const Tensor& terms,
                   const Tensor& columns, const Tensor& products, bool need_a, bool need_b) {
  check_arguments(a);
  SSLKERN_CHECK(VALUE, a.z_b || !need_b, kOp, "need_b", "False without z_b", "True");
  const Prepared prepared = prepare(a);
  check_saved(prepared, terms, columns, products);
  const Tensor t = terms.contiguous(), statistics = columns.contiguous();
  Tensor kept = products.contiguous();
  CovarianceBwd p{};
  p.of = prepared.of;
  p.of.in.wide = t.const_data_ptr<double>()[3] != 0;
  if (p.of.in.wide) kept = run_forward(a, prepared, true, true, t.clone(), statistics.clone());
  const Tensor upstream = upstream_of(kOp, grad_loss, a.z_a);
  p.invariance = a.weights.invariance;
  p.variance = a.weights.variance;
  p.covariance = a.weights.covariance;
  p.grad_loss = upstream.const_data_ptr<double>();
  p.columns = statistics.const_data_ptr<double>();
  p.products = p.of.covariance ? kept.const_data_ptr() : nullptr;
  const auto dtype = a.z_a.scalar_type();
  Tensor grad_a = empty({need_a ? p.of.in.N : 0, p.of.in.D}, dtype, a.z_a);
  Tensor grad_b = empty({need_b ? p.of.in.N : 0, p.of.in.D}, dtype, a.z_a);
  p.grad_z[0] = need_a ? grad_a.mutable_data_ptr() : nullptr;
  p.grad_z[1] = need_b ? grad_b.mutable_data_ptr() : nullptr;
  p.threads = threads_for(p.of.in);
  const Tensor workspace = empty({cpu::covariance_bwd_workspace(p)}, at::kByte, a.z_a);
  p.workspace = workspace.mutable_data_ptr();
  cpu::covariance_bwd(p);
  return {grad_a, grad_b};
}

Gradients covariance_bwd(const Tensor& grad_loss, const Tensor& z_a, const OptionalTensor& z_b,
                         double lambda_param, double mu_param, double nu_param, double eps,
                         bool normalize_columns, bool with_covariance, c10::string_view route,
                         const Tensor& terms, const Tensor& columns, const Tensor& products,
                         bool need_a, bool need_b) {
  return backward(grad_loss,
                  {z_a,
                   z_b,
                   {lambda_param, mu_param, nu_param},
                   eps,
                   normalize_columns,
                   with_covariance,
                   {route.data(), route.size()}},
                  terms, columns, products, need_a, need_b);
}

// Any layout or device without a kernel ends here: the checks say which, in the same words as
// everywhere.
Forward covariance_fwd_unsupported(const Tensor& z_a, const OptionalTensor& z_b,
                                   double lambda_param, double mu_param, double nu_param,
                                   double eps, bool, bool, c10::string_view, bool) {
  check_arguments({z_a, z_b, {lambda_param, mu_param, nu_param}, eps, false, false, {}});
  TORCH_CHECK_NOT_IMPLEMENTED(false, "sslkern::covariance: no kernel for ", z_a.device().str());
}

Forward covariance_fwd_autocast(const Tensor& z_a, const OptionalTensor& z_b, double lambda_param,
                                double mu_param, double nu_param, double eps,
                                bool normalize_columns, bool with_covariance,
                                c10::string_view route, bool keep) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  Tensor a = z_a;
  OptionalTensor b = z_b;
  if (b) promote({&a, &*b});
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("sslkern::covariance_fwd", "")
                             .typed<decltype(covariance_fwd)>();
  return op.call(a, b, lambda_param, mu_param, nu_param, eps, normalize_columns, with_covariance,
                 route, keep);
}

TORCH_LIBRARY_FRAGMENT(sslkern, m) {
  m.def(
      "covariance_fwd(Tensor z_a, Tensor? z_b, float lambda_param, float mu_param, "
      "float nu_param, float eps, bool normalize_columns, bool with_covariance, str route, "
      "bool keep) -> (Tensor loss, Tensor terms, Tensor columns, Tensor products)");
  m.def(
      "covariance_bwd(Tensor grad_loss, Tensor z_a, Tensor? z_b, float lambda_param, "
      "float mu_param, float nu_param, float eps, bool normalize_columns, bool with_covariance, "
      "str route, Tensor terms, Tensor columns, Tensor products, bool need_a, bool need_b) "
      "-> (Tensor grad_z_a, Tensor grad_z_b)");
}

TORCH_LIBRARY_IMPL(sslkern, CPU, m) {
  m.impl("covariance_fwd", &covariance_fwd);
  m.impl("covariance_bwd", &covariance_bwd);
}

TORCH_LIBRARY_IMPL(sslkern, CompositeExplicitAutograd, m) {
  m.impl("covariance_fwd", &covariance_fwd_unsupported);
}

TORCH_LIBRARY_IMPL(sslkern, AutocastCPU, m) { m.impl("covariance_fwd", &covariance_fwd_autocast); }

}  // namespace
}  // namespace sslkern::ops
