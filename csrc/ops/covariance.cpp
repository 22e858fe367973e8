#include "contract/covariance.h"

#include <torch/library.h>

#include <optional>
#include <string_view>
#include <tuple>

#include "ops/autocast.h"
#include "ops/backend.h"
#include "ops/check.h"
#include "ops/gram.h"
#include "ops/gram_cuda.h"

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

Forward fwd_on_cpu(const Arguments& a, const Prepared& prepared, bool keep) {
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

// A row of the statistics of view v.
const double* row_of(const CovarianceInput& of, const double* columns, int v, int row) {
  return columns + (v * CovarianceColumns::kRows + row) * of.in.D;
}

// View v, centered and scaled.
ColumnView centered(const CovarianceInput& of, int v, const double* columns) {
  return column_view(of.in, v, row_of(of, columns, v, CovarianceColumns::kMean),
                     row_of(of, columns, v, CovarianceColumns::kScale));
}

// The products of every view, those of columns without their diagonal.
Tensor products_on_cuda(CudaCall& call, const Arguments& a, const CovarianceInput& of,
                        const double* columns, bool keep) {
  const Tensor products = empty_products(of.in, of.views(), a.z_a);
  if (keep) clear_behind_products(products, of.in, of.views());
  for (int v = 0; v < of.views(); ++v) {
    const Tensor x = pack_columns(call, centered(of, v, columns), a.z_a);
    const Tensor matrix = product_matrix(products, of.in, v);
    of.in.gram ? product_into(matrix, x, x.t(), false) : product_into(matrix, x.t(), x, false);
    if (!of.in.gram) matrix.fill_diagonal_(0);
  }
  return products;
}

// Where the terms say so, those of products in float64.
void redo_terms(CudaCall& call, CovarianceTerms t, const CovarianceInput& of, const Tensor& like) {
  t.parts = wide_parts(of.in);
  const Scratch partial(call, {t.views, t.parts}, like);
  for (int v = 0; v < t.views; ++v) {
    const WideSums w{centered(of, v, t.columns), {}, t.terms + 3, partial.data + v * t.parts};
    call->wide_sums(w, call.launch());
  }
  t.again = true;
  t.partial = partial.data;
  call->covariance_terms(t, call.launch());
}

// Sums over the products, then the terms and the loss.
void terms_on_cuda(CudaCall& call, CovarianceTerms t, const CovarianceInput& of,
                   const Tensor& products, const Tensor& like) {
  t.parts = of.covariance ? product_parts(of.in.side() * of.in.side()) : 0;
  const Scratch partial(call, {t.views, t.parts}, like);
  for (int v = 0; of.covariance && v < t.views; ++v) {
    const void* matrix = call.read(product_matrix(products, of.in, v));
    sum_products(call, matrix, matrix, of.in, partial.data + v * t.parts);
  }
  t.partial = partial.data;
  call->covariance_terms(t, call.launch());
  if (of.covariance && may_be_wide(of.in)) redo_terms(call, t, of, like);
}

Forward fwd_on_cuda(const Arguments& a, const Prepared& prepared, bool keep) {
  CudaCall call(a.z_a);
  CovarianceInput of = prepared.of;
  of.in = read_views(call, of.in, prepared.z_a, prepared.z_b);
  const auto accumulate = accumulate_dtype(a.z_a.scalar_type());
  const Tensor terms = empty({kTerms}, at::kDouble, a.z_a), loss = empty({}, accumulate, a.z_a);
  const Scratch columns(call, {of.views() * CovarianceColumns::kRows, of.in.D}, a.z_a);
  const Scratch distance(call, {of.views() == 2 ? of.in.D : 0}, a.z_a);
  const Scratch moments = moments_of(call, of.in, true, a.z_a);
  const CovarianceStatistics s{of.views(),   of.in.N,      of.in.D,      of.normalize,
                               moments.data, columns.data, distance.data};
  call->covariance_statistics(s, call.launch());

  Tensor products = empty({0}, accumulate, a.z_a);
  if (of.covariance) products = products_on_cuda(call, a, of, columns.data, keep);
  CovarianceTerms t{};
  t.of = of;
  t.views = of.views();
  t.invariance = a.weights.invariance;
  t.variance = a.weights.variance;
  t.covariance = a.weights.covariance;
  t.columns = columns.data;
  t.distance = distance.data;
  t.terms = call.write<double>(terms);
  t.loss = call.write(loss);
  terms_on_cuda(call, t, of, products, a.z_a);
  return {loss, terms, columns.tensor, keep ? products : empty({0}, accumulate, a.z_a)};
}

Forward forward(const Arguments& a, bool keep) {
  check_arguments(a);
  const Prepared prepared = prepare(a);
  return runs_on_cuda(a.z_a) ? fwd_on_cuda(a, prepared, keep) : fwd_on_cpu(a, prepared, keep);
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

// What both backends take, once checked.
struct Backward {
  Tensor upstream, terms, columns, products;
  bool need[2];
};

// Of view v; without elements where it is not wanted.
Tensor empty_gradient(const Arguments& a, const Backward& x, int v) {
  return empty({x.need[v] ? a.z_a.size(0) : 0, a.z_a.size(1)}, a.z_a.scalar_type(), a.z_a);
}

Gradients bwd_on_cpu(const Arguments& a, const Prepared& prepared, const Backward& x) {
  Tensor kept = x.products;
  CovarianceBwd p{};
  p.of = prepared.of;
  p.of.in.wide = x.terms.const_data_ptr<double>()[3] != 0;
  if (p.of.in.wide) kept = run_forward(a, prepared, true, true, x.terms.clone(), x.columns.clone());
  p.invariance = a.weights.invariance;
  p.variance = a.weights.variance;
  p.covariance = a.weights.covariance;
  p.grad_loss = x.upstream.const_data_ptr<double>();
  p.columns = x.columns.const_data_ptr<double>();
  p.products = p.of.covariance ? kept.const_data_ptr() : nullptr;
  Tensor grad[] = {empty_gradient(a, x, 0), empty_gradient(a, x, 1)};
  for (int v = 0; v < 2; ++v) p.grad_z[v] = x.need[v] ? grad[v].mutable_data_ptr() : nullptr;
  p.threads = threads_for(p.of.in);
  const Tensor workspace = empty({cpu::covariance_bwd_workspace(p)}, at::kByte, a.z_a);
  p.workspace = workspace.mutable_data_ptr();
  cpu::covariance_bwd(p);
  return {grad[0], grad[1]};
}

// v of the contract for view number v, as the library gives it.
Tensor product_of_view(CudaCall& call, const Arguments& a, const CovarianceInput& of,
                       const Tensor& products, int v, const ColumnView& view) {
  const Tensor x = pack_columns(call, view, a.z_a);
  const Tensor product = empty({of.in.N, of.in.D}, x.scalar_type(), a.z_a);
  const Tensor matrix = product_matrix(products, of.in, v);
  of.in.gram ? product_into(product, matrix, x, false) : product_into(product, x, matrix, false);
  return product;
}

void gradient_on_cuda(CudaCall& call, const Arguments& a, int v, const Tensor& products,
                      CovarianceGradient p, const double* columns, const Tensor& grad) {
  const CovarianceInput& of = p.of;
  p.x = centered(of, v, columns);
  p.column_variance = row_of(of, columns, v, CovarianceColumns::kVariance);
  p.other = of.in.z[1 - v];
  p.other_stride = of.in.stride[1 - v];
  if (of.views() == 1) p.other = nullptr;
  Tensor product;
  std::optional<Scratch> dots;
  if (of.covariance) {
    product = product_of_view(call, a, of, products, v, p.x);
    void* data = call.update(product);
    if (may_be_wide(of.in)) {
      const WideRows w{p.x,
                       p.x,
                       p.wide,
                       nullptr,
                       p.column_variance,
                       p.x.scale,
                       double(of.in.N - 1),
                       static_cast<float*>(data)};
      redo_in_float64(call, w, a.z_a);
    }
    dots.emplace(dots_of(call, p.x, data, a.z_a));
    p.v = data;
    p.dots = dots->data;
  }
  const Scratch factors(call, {CovarianceGradient::kFactors, of.in.D}, a.z_a);
  p.factors = factors.data;
  p.grad_z = call.write(grad);
  call->covariance_gradient(p, call.launch());
}

Gradients bwd_on_cuda(const Arguments& a, const Prepared& prepared, const Backward& x) {
  CudaCall call(a.z_a);
  CovarianceGradient p{};
  p.of = prepared.of;
  p.of.in = read_views(call, p.of.in, prepared.z_a, prepared.z_b);
  p.invariance = a.weights.invariance;
  p.variance = a.weights.variance;
  p.covariance = a.weights.covariance;
  p.grad_loss = call.read<double>(x.upstream);
  p.wide = call.read<double>(x.terms) + 3;
  const auto* columns = call.read<double>(x.columns);
  Tensor grad[] = {empty_gradient(a, x, 0), empty_gradient(a, x, 1)};
  for (int v = 0; v < 2; ++v) {
    if (x.need[v]) gradient_on_cuda(call, a, v, x.products, p, columns, grad[v]);
  }
  return {grad[0], grad[1]};
}

Gradients backward(const Tensor& grad_loss, const Arguments& a, const Tensor& terms,
                   const Tensor& columns, const Tensor& products, bool need_a, bool need_b) {
  check_arguments(a);
  SSLKERN_CHECK(VALUE, a.z_b || !need_b, kOp, "need_b", "False without z_b", "True");
  const Prepared prepared = prepare(a);
  check_saved(prepared, terms, columns, products);
  const Backward x{upstream_of(kOp, grad_loss, a.z_a),
                   terms.contiguous(),
                   columns.contiguous(),
                   products.contiguous(),
                   {need_a, need_b}};
  return runs_on_cuda(a.z_a) ? bwd_on_cuda(a, prepared, x) : bwd_on_cpu(a, prepared, x);
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

void register_kernels(torch::Library& m) {
  m.impl("covariance_fwd", &covariance_fwd);
  m.impl("covariance_bwd", &covariance_bwd);
}
TORCH_LIBRARY_IMPL(sslkern, CPU, m) { register_kernels(m); }
TORCH_LIBRARY_IMPL(sslkern, CUDA, m) { register_kernels(m); }

TORCH_LIBRARY_IMPL(sslkern, CompositeExplicitAutograd, m) {
  m.impl("covariance_fwd", &covariance_fwd_unsupported);
}

TORCH_LIBRARY_IMPL(sslkern, AutocastCPU, m) { m.impl("covariance_fwd", &covariance_fwd_autocast); }
TORCH_LIBRARY_IMPL(sslkern, AutocastCUDA, m) { m.impl("covariance_fwd", &covariance_fwd_autocast); }

}  // namespace
}  // namespace sslkern::ops
