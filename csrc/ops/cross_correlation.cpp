#include "contract/cross_correlation.h"

#include <torch/library.h>

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

Forward fwd_on_cpu(const Arguments& a, const Prepared& prepared, bool keep) {
  const Tensor terms = empty({3}, at::kDouble, a.z_a);
  const Tensor columns = empty({CrossCorrelationColumns::kRows, prepared.in.D}, at::kDouble, a.z_a);
  const auto accumulate = accumulate_dtype(a.z_a.scalar_type());
  Tensor products = run_forward(a, prepared, false, keep, terms, columns);
  double* term = terms.mutable_data_ptr<double>();
  const bool wide = term[2] != 0;
  // The backward pass computes wide products again: the ones that it is given are float32.
  if (wide) run_forward(a, prepared, true, false, terms, columns);
  term[2] = wide;
  Tensor loss = empty({}, at::kDouble, a.z_a);
  *loss.mutable_data_ptr<double>() = term[0] + a.lambda * term[1];
  if (!keep) products = empty({0}, accumulate, a.z_a);
  return {loss.to(accumulate), terms, columns, products};
}

// View v, standardised.
ColumnView standardized(const GramInput& in, int v, const double* columns) {
  using Row = CrossCorrelationColumns;
  return column_view(in, v, columns + (Row::kMean + v) * in.D, columns + (Row::kScale + v) * in.D);
}

const double* correlation_of(const GramInput& in, const double* columns) {
  return columns + CrossCorrelationColumns::kCorrelation * in.D;
}

// The products, that of columns without its diagonal.
Tensor products_on_cuda(CudaCall& call, const Arguments& a, const GramInput& in,
                        const double* columns, bool keep) {
  const int matrices = cross_correlation_matrices(in.gram);
  const Tensor products = empty_products(in, matrices, a.z_a);
  if (keep) clear_behind_products(products, in, matrices);
  const Tensor x = pack_columns(call, standardized(in, 0, columns), a.z_a),
               y = pack_columns(call, standardized(in, 1, columns), a.z_a);
  if (in.gram) {
    product_into(product_matrix(products, in, 0), x, x.t(), false);
    product_into(product_matrix(products, in, 1), y, y.t(), false);
  } else {
    const Tensor c = product_matrix(products, in, 0);
    product_into(c, x.t(), y, false);
    c.fill_diagonal_(0);
  }
  return products;
}

// Where the terms say so, those of products in float64.
void redo_terms(CudaCall& call, CrossCorrelationTerms t, const GramInput& in, const Tensor& like) {
  const Scratch partial(call, {wide_parts(in)}, like);
  const WideSums w{standardized(in, 0, t.columns), standardized(in, 1, t.columns), t.terms + 2,
                   partial.data};
  call->wide_sums(w, call.launch());
  t.again = true;
  t.partial = partial.data;
  t.parts = wide_parts(in);
  call->cross_correlation_terms(t, call.launch());
}

Forward fwd_on_cuda(const Arguments& a, const Prepared& prepared, bool keep) {
  CudaCall call(a.z_a);
  const GramInput in = read_views(call, prepared.in, prepared.z_a, prepared.z_b);
  const auto accumulate = accumulate_dtype(a.z_a.scalar_type());
  const Tensor terms = empty({3}, at::kDouble, a.z_a), loss = empty({}, accumulate, a.z_a);
  const Scratch columns(call, {CrossCorrelationColumns::kRows, in.D}, a.z_a);
  const Scratch moments = moments_of(call, in, false, a.z_a);
  const CrossCorrelationStatistics s{in.N, in.D, a.eps, moments.data, columns.data};
  call->cross_correlation_statistics(s, call.launch());

  const Tensor products = products_on_cuda(call, a, in, columns.data, keep);
  const Scratch partial(call, {product_parts(in.side() * in.side())}, a.z_a);
  const void* first = call.read(product_matrix(products, in, 0));
  const void* second = in.gram ? call.read(product_matrix(products, in, 1)) : first;
  sum_products(call, first, second, in, partial.data);

  CrossCorrelationTerms t{};
  t.N = in.N;
  t.D = in.D;
  t.gram = in.gram;
  t.lambda = a.lambda;
  t.dtype = in.dtype;
  t.columns = columns.data;
  t.partial = partial.data;
  t.parts = partial.tensor.numel();
  t.terms = call.write<double>(terms);
  t.loss = call.write(loss);
  call->cross_correlation_terms(t, call.launch());
  if (may_be_wide(in)) redo_terms(call, t, in, a.z_a);
  return {loss, terms, columns.tensor, keep ? products : empty({0}, accumulate, a.z_a)};
}

// Loss, its terms, statistics of the columns, and with keep what the backward pass needs of the
// products.
Forward cross_correlation_fwd(const Tensor& z_a, const Tensor& z_b, double lambda_param, double eps,
                              c10::string_view route, bool keep) {
  const Arguments a{z_a, z_b, lambda_param, eps, {route.data(), route.size()}};
  check_arguments(a);
  const Prepared prepared = prepare(a);
  return runs_on_cuda(z_a) ? fwd_on_cuda(a, prepared, keep) : fwd_on_cpu(a, prepared, keep);
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
  CrossCorrelationBwd p{};
  p.in = prepared.in;
  p.in.wide = x.terms.const_data_ptr<double>()[2] != 0;
  if (p.in.wide) kept = run_forward(a, prepared, true, true, x.terms.clone(), x.columns.clone());
  p.lambda = a.lambda;
  p.grad_loss = x.upstream.const_data_ptr<double>();
  p.columns = x.columns.const_data_ptr<double>();
  p.products = kept.const_data_ptr();
  Tensor grad[] = {empty_gradient(a, x, 0), empty_gradient(a, x, 1)};
  for (int v = 0; v < 2; ++v) p.grad_z[v] = x.need[v] ? grad[v].mutable_data_ptr() : nullptr;
  p.threads = threads_for(p.in);
  const Tensor workspace = empty({cpu::cross_correlation_bwd_workspace(p)}, at::kByte, a.z_a);
  p.workspace = workspace.mutable_data_ptr();
  cpu::cross_correlation_bwd(p);
  return {grad[0], grad[1]};
}

// v of the contract for view number v, as the library gives it.
Tensor product_of_view(CudaCall& call, const Arguments& a, const GramInput& in,
                       const Tensor& products, int v, const double* columns) {
  const int factor = in.gram ? v : 1 - v;
  const Tensor x = pack_columns(call, standardized(in, factor, columns), a.z_a);
  const Tensor product = empty({in.N, in.D}, x.scalar_type(), a.z_a);
  if (in.gram) {
    product_into(product, product_matrix(products, in, 1 - v), x, false);
  } else {
    const Tensor c = product_matrix(products, in, 0);
    product_into(product, x, v == 0 ? c.t() : c, false);
  }
  return product;
}

void gradient_on_cuda(CudaCall& call, const Arguments& a, const GramInput& in, int v,
                      const Tensor& products, CrossCorrelationGradient p, const double* columns,
                      const Tensor& grad) {
  p.x = standardized(in, v, columns);
  p.y = standardized(in, 1 - v, columns);
  const Tensor product = product_of_view(call, a, in, products, v, columns);
  void* data = call.update(product);
  if (may_be_wide(in)) {
    const WideRows w{p.x,           p.y,     p.wide,       nullptr,
                     p.correlation, nullptr, double(in.N), static_cast<float*>(data)};
    redo_in_float64(call, w, a.z_a);
  }
  const Scratch dots = dots_of(call, p.x, data, a.z_a);
  const Scratch factors(call, {CrossCorrelationGradient::kFactors, in.D}, a.z_a);
  p.v = data;
  p.dots = dots.data;
  p.factors = factors.data;
  p.grad_z = call.write(grad);
  call->cross_correlation_gradient(p, call.launch());
}

Gradients bwd_on_cuda(const Arguments& a, const Prepared& prepared, const Backward& x) {
  CudaCall call(a.z_a);
  const GramInput in = read_views(call, prepared.in, prepared.z_a, prepared.z_b);
  const auto* columns = call.read<double>(x.columns);
  CrossCorrelationGradient p{};
  p.gram = in.gram;
  p.lambda = a.lambda;
  p.grad_loss = call.read<double>(x.upstream);
  p.wide = call.read<double>(x.terms) + 2;
  p.correlation = correlation_of(in, columns);
  Tensor grad[] = {empty_gradient(a, x, 0), empty_gradient(a, x, 1)};
  for (int v = 0; v < 2; ++v) {
    if (x.need[v]) gradient_on_cuda(call, a, in, v, x.products, p, columns, grad[v]);
  }
  return {grad[0], grad[1]};
}

Gradients cross_correlation_bwd(const Tensor& grad_loss, const Tensor& z_a, const Tensor& z_b,
                                double lambda_param, double eps, c10::string_view route,
                                const Tensor& terms, const Tensor& columns, const Tensor& products,
                                bool need_a, bool need_b) {
  const Arguments a{z_a, z_b, lambda_param, eps, {route.data(), route.size()}};
  check_arguments(a);
  const Prepared prepared = prepare(a);
  check_saved(prepared, terms, columns, products);
  const Backward x{upstream_of(kOp, grad_loss, z_a),
                   terms.contiguous(),
                   columns.contiguous(),
                   products.contiguous(),
                   {need_a, need_b}};
  return runs_on_cuda(z_a) ? bwd_on_cuda(a, prepared, x) : bwd_on_cpu(a, prepared, x);
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

void register_kernels(torch::Library& m) {
  m.impl("cross_correlation_fwd", &cross_correlation_fwd);
  m.impl("cross_correlation_bwd", &cross_correlation_bwd);
}
TORCH_LIBRARY_IMPL(sslkern, CPU, m) { register_kernels(m); }
TORCH_LIBRARY_IMPL(sslkern, CUDA, m) { register_kernels(m); }

TORCH_LIBRARY_IMPL(sslkern, CompositeExplicitAutograd, m) {
  m.impl("cross_correlation_fwd", &cross_correlation_fwd_unsupported);
}

TORCH_LIBRARY_IMPL(sslkern, AutocastCPU, m) {
  m.impl("cross_correlation_fwd", &cross_correlation_fwd_autocast);
}
TORCH_LIBRARY_IMPL(sslkern, AutocastCUDA, m) {
  m.impl("cross_correlation_fwd", &cross_correlation_fwd_autocast);
}

}  // namespace
}  // namespace sslkern::ops
