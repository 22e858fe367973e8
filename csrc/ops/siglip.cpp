#include "contract/siglip.h"

#include <torch/library.h>

#include <optional>
#include <tuple>

#include "ops/autocast.h"
#include "ops/backend.h"
#include "ops/check.h"
#include "ops/formed.h"
#include "ops/query_key.h"

namespace sslkern::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using Summed = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

constexpr const char* kOp = "siglip";

// The arguments that all directions take, as the user gave them.
struct Arguments {
  const Tensor &query, &key, &scale;
  const OptionalTensor& bias;
  bool positives;
};

// Which gradients are wanted.
struct Needs {
  bool query, key, scale, bias;
};

void check_features(const Tensor& image, const Tensor& text, bool positives) {
  check_matrix(kOp, "image_features", "(N, D)", image);
  check_matrix(kOp, "text_features", "(M, D)", text);
  check_same_columns(kOp, "text_features", "(M, D)", text, "image_features", image);
  SSLKERN_CHECK(VALUE, !positives || text.size(0) == image.size(0), kOp, "text_features",
                c10::str("one row for each of the ", image.size(0),
                         " of image_features (or negative_only given)"),
                text.size(0), " rows");
  check_row_counts(kOp, "image_features and text_features", image, text);
}

void check_arguments(const Arguments& a) {
  check_features(a.query, a.key, a.positives);
  check_scalar_tensor(kOp, "logit_scale", a.scale);
  if (a.bias) check_scalar_tensor(kOp, "logit_bias", *a.bias);
}

// Checks that read values, where that costs no synchronisation.
void check_values(const Arguments& a) {
  if (values_are_checked(a.scale)) check_positive(kOp, "logit_scale", a.scale.item<double>());
}

// The arguments in the layout that the kernels read; keeps the tensors alive.
struct Prepared {
  Tensor query, key, scale, bias;
  SiglipInput in;
};

Prepared prepare(const Arguments& a) {
  Prepared p{};
  p.query = with_adjacent_columns(a.query);
  p.key = with_adjacent_columns(a.key);
  p.scale = as_double(a.scale, a.query);
  if (a.bias) p.bias = as_double(*a.bias, a.query);
  const QueryKey rows =
      query_key_of(p.query, p.key, p.scale.const_data_ptr<double>(),
                   a.bias ? p.bias.const_data_ptr<double>() : nullptr, {false, true, false});
  p.in = {rows, a.positives};
  return p;
}

// Room for what is needed. That of the scale comes with that of either side.
Gradients allocate(const Arguments& a, Needs needs, at::ScalarType dtype) {
  const bool query = needs.query || (needs.scale && !needs.key);
  const int64_t dims = a.query.size(1);
  return {empty({query ? a.query.size(0) : 0, dims}, dtype, a.query),
          empty({needs.key ? a.key.size(0) : 0, dims}, dtype, a.query),
          empty({needs.scale ? 1 : 0}, at::kDouble, a.query),
          empty({needs.bias ? 1 : 0}, at::kDouble, a.query)};
}

template <class Params>
void point_to(const Gradients& g, Params& p) {
  const auto& [query, key, scale, bias] = g;
  p.grad_query = query.numel() > 0 ? query.mutable_data_ptr() : nullptr;
  p.grad_key = key.numel() > 0 ? key.mutable_data_ptr() : nullptr;
  p.grad_scale = scale.numel() > 0 ? scale.mutable_data_ptr<double>() : nullptr;
  p.grad_bias = bias.numel() > 0 ? bias.mutable_data_ptr<double>() : nullptr;
}

// What the forward pass gives: loss of every row and its sum; with it the gradients of the sum,
// float32 for the half types.
struct Forward {
  Tensor loss, sum;
  Gradients grads;
};

void fwd_on_cpu(const Prepared& prepared, const Forward& r) {
  SiglipFwd p{};
  p.in = prepared.in;
  p.loss = r.loss.mutable_data_ptr();
  p.sum = r.sum.mutable_data_ptr<double>();
  point_to(r.grads, p);
  p.threads = threads_for(p.in);
  const Tensor workspace = empty({cpu::siglip_fwd_workspace(p)}, at::kByte, r.loss);
  p.workspace = workspace.mutable_data_ptr();
  cpu::siglip_fwd(p);
}

void bwd_on_cpu(const Prepared& prepared, const Tensor& g, const Gradients& grads) {
  SiglipBwd p{};
  p.in = prepared.in;
  p.grad_loss = g.const_data_ptr();
  point_to(grads, p);
  p.threads = threads_for(p.in);
  const Tensor workspace = empty({cpu::siglip_bwd_workspace(p)}, at::kByte, g);
  p.workspace = workspace.mutable_data_ptr();
  cpu::siglip_bwd(p);
}

// ---- CUDA

// The rows, the numbers that multiply them, and what multiplies the products of G: `unit` of the
// upstream gradients (null: those are 1), divided by `lift` (null: 1).
struct OnCuda {
  PackedSides rows;
  SiglipTiles tiles;
  const double* unit;
  Tensor norm, lift;
  int64_t chunk;  // rows of tiles at a time
};

OnCuda start(CudaCall& call, const Prepared& x) {
  OnCuda c{};
  const double* scale = call.read<double>(x.scale);
  const double* bias = x.bias.defined() ? call.read<double>(x.bias) : nullptr;
  c.rows = pack_sides(call, x.query, x.key, scale, bias, {false, true, false});
  c.tiles.in = c.rows.view;
  c.tiles.positives = x.in.positives;
  return c;
}

const double* find_lift(CudaCall& call, OnCuda& c) {
  if (c.tiles.in.query.dtype != Dtype::kFloat16) return nullptr;
  const Tensor& like = c.rows.query.rows;
  c.norm = empty({c.tiles.in.query.N + c.tiles.in.key.N}, at::kFloat, like);
  c.lift = empty({}, at::kDouble, like);
  const SiglipLift p{c.tiles.in, c.tiles.positives, call.write<float>(c.norm),
                     call.write<double>(c.lift)};
  call->siglip_lift(p, call.launch());
  return p.lift;
}

// A number of the partial sums of the tiles, `which` 0 or 1.
void add_up(CudaCall& call, const OnCuda& c, int64_t which, const Tensor& sum) {
  if (sum.numel() == 0) return;
  const PackedRows& rows = c.tiles.in.query;
  const int64_t count = rows.padded_N() / tile_side(rows.dtype) * c.tiles.splits;
  sum_in_order(call, c.tiles.sums + which * count, count, call.write<double>(sum), 1, c.unit);
}

void finish_side(CudaCall& call, const OnCuda& c, const Packed& z, const Tensor& product,
                 const Tensor& grad) {
  if (grad.numel() == 0) return;
  FinishRows f = finish_of(call, z, product);
  f.unit = c.unit;
  f.multiplier = c.tiles.in.scale;
  f.divisor = c.tiles.lift;
  f.constant = 1;  // the lift is in the divisor
  f.wide = grad.scalar_type() != z.rows.scalar_type();
  f.grad_first = call.write(grad);
  call->finish_rows(f, call.launch());
}

// Where nothing but a sum of G is wanted it is written all the same: a kernel that does not would
// save little of what remains.
void differentiate(CudaCall& call, OnCuda& c, const Gradients& grads) {
  const auto& [query, key, scale, bias] = grads;
  const PackedRows &x = c.tiles.in.query, &t = c.tiles.in.key;
  const Tensor& like = c.rows.query.rows;
  const auto working = accumulate_dtype(like.scalar_type());
  c.tiles.lift = find_lift(call, c);
  const Tensor sums =
      empty({2, x.padded_N() / tile_side(x.dtype), c.tiles.splits}, at::kDouble, like);
  c.tiles.sums = call.write<double>(sums);
  GradientProducts to{c.rows.key.rows, {}, c.rows.query.rows, {}};
  if (query.numel() > 0) to.row_product = empty({x.padded_N(), x.padded_D()}, working, like);
  if (key.numel() > 0) to.column_product = empty({t.padded_N(), t.padded_D()}, working, like);
  multiply_gradient(call, to, x, t.N, c.chunk, [&](int64_t first, int64_t count, void* gradient) {
    c.tiles.first_row = first;
    c.tiles.rows = count;
    c.tiles.gradient = gradient;
    call->siglip_tiles(c.tiles, call.launch());
  });
  finish_side(call, c, c.rows.query, to.row_product, query);
  finish_side(call, c, c.rows.key, to.column_product, key);
  add_up(call, c, 0, scale);
  add_up(call, c, 1, bias);
}

// How many rows of G at a time, if that is wanted, and the blocks that share a row of tiles.
void divide(OnCuda& c, const Gradients& grads, bool forms) {
  const PackedRows &x = c.tiles.in.query, &t = c.tiles.in.key;
  c.chunk = forms ? gradient_rows(x, t.N, std::get<1>(grads).numel() > 0) : x.padded_N();
  c.tiles.splits = column_splits(c.chunk, t.N);
}

void fwd_on_cuda(const Prepared& x, const Forward& r, bool forms) {
  CudaCall call(x.query);
  OnCuda c = start(call, x);
  const PackedRows& rows = c.tiles.in.query;
  divide(c, r.grads, forms);
  const Tensor partial = empty({c.tiles.splits, rows.padded_N()}, at::kDouble, x.query),
               wide = empty({rows.N}, at::kDouble, x.query);
  c.tiles.loss = call.write<double>(partial);
  if (forms) {
    differentiate(call, c, r.grads);
  } else {
    c.tiles.rows = c.chunk;
    call->siglip_tiles(c.tiles, call.launch());
  }
  const SiglipLosses l{c.tiles.loss,      c.tiles.splits, rows.N,
                       rows.padded_N(),   rows.dtype,     call.write<double>(wide),
                       call.write(r.loss)};
  call->siglip_losses(l, call.launch());
  sum_in_order(call, l.wide, rows.N, call.write<double>(r.sum));
}

void bwd_on_cuda(const Prepared& x, const Tensor& g, const Gradients& grads) {
  CudaCall call(x.query);
  OnCuda c = start(call, x);
  const PackedRows& rows = c.tiles.in.query;
  const Tensor unit = empty({}, at::kDouble, x.query),
               weights = empty({rows.padded_N()}, g.scalar_type(), x.query);
  const void* upstream = call.read(g);
  c.unit = unit_of(call, upstream, rows.N, rows.dtype, unit);
  const SiglipWeights w{rows.N, upstream, c.unit, rows.dtype, call.write(weights)};
  call->siglip_weights(w, call.launch());
  c.tiles.weights = w.weights;
  divide(c, grads, true);
  differentiate(call, c, grads);
}

Forward forward(const Arguments& a, Needs needs) {
  check_arguments(a);
  check_values(a);
  SSLKERN_CHECK(VALUE, !needs.bias || a.bias, kOp, "form_bias", "False without logit_bias", "True");
  const Prepared prepared = prepare(a);
  const auto accumulate = accumulate_dtype(a.query.scalar_type());
  Forward r{empty({a.query.size(0)}, accumulate, a.query), empty({}, at::kDouble, a.query),
            allocate(a, needs, accumulate)};
  if (runs_on_cuda(a.query)) {
    fwd_on_cuda(prepared, r, needs.query || needs.key || needs.scale || needs.bias);
  } else {
    fwd_on_cpu(prepared, r);
  }
  r.sum = r.sum.to(accumulate);
  return r;
}

// The loss of every row. Its gradients are recomputed: each row may have an upstream gradient of
// its own.
Tensor siglip_fwd(const Tensor& query, const Tensor& key, const Tensor& scale,
                  const OptionalTensor& bias, bool positives) {
  return forward({query, key, scale, bias, positives}, Needs{}).loss;
}

// The sum of the losses. Whatever its upstream gradient, a number, is going to be, its gradients
// are known up to that factor.
Summed siglip_sum_fwd(const Tensor& query, const Tensor& key, const Tensor& scale,
                      const OptionalTensor& bias, bool positives, bool form_query, bool form_key,
                      bool form_scale, bool form_bias) {
  const Forward r =
      forward({query, key, scale, bias, positives}, {form_query, form_key, form_scale, form_bias});
  return std::tuple_cat(std::make_tuple(r.sum), r.grads);
}

Gradients siglip_bwd(const Tensor& grad_loss, const Tensor& query, const Tensor& key,
                     const Tensor& scale, const OptionalTensor& bias, bool positives,
                     bool need_query, bool need_key, bool need_scale, bool need_bias) {
  const Arguments a{query, key, scale, bias, positives};
  check_arguments(a);
  const auto dtype = query.scalar_type(), accumulate = accumulate_dtype(dtype);
  const Tensor g = check_upstream(kOp, "grad_loss", grad_loss, query.size(0), accumulate);
  SSLKERN_CHECK(VALUE, !need_bias || bias, kOp, "need_bias", "False without logit_bias", "True");
  const Prepared prepared = prepare(a);
  Gradients grads = allocate(a, {need_query, need_key, need_scale, need_bias}, dtype);
  runs_on_cuda(query) ? bwd_on_cuda(prepared, g, grads) : bwd_on_cpu(prepared, g, grads);
  auto& [grad_query, grad_key, grad_scale, grad_bias] = grads;
  if (need_scale) grad_scale = as_gradient_of(scale, grad_scale);
  if (need_bias) grad_bias = as_gradient_of(*bias, grad_bias);
  return grads;
}

// Any layout or device without a kernel ends here: the checks say which, in the same words as
// everywhere.
[[noreturn]] void refuse(const Arguments& a) {
  check_arguments(a);
  TORCH_CHECK_NOT_IMPLEMENTED(false, "sslkern::siglip: no kernel for ", a.query.device().str());
}

Tensor siglip_fwd_unsupported(const Tensor& query, const Tensor& key, const Tensor& scale,
                              const OptionalTensor& bias, bool positives) {
  refuse({query, key, scale, bias, positives});
}

Summed siglip_sum_fwd_unsupported(const Tensor& query, const Tensor& key, const Tensor& scale,
                                  const OptionalTensor& bias, bool positives, bool, bool, bool,
                                  bool) {
  refuse({query, key, scale, bias, positives});
}

template <class Function>
auto find_op(const char* name, Function*) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Function>();
}

Tensor siglip_fwd_autocast(const Tensor& query, const Tensor& key, const Tensor& scale,
                           const OptionalTensor& bias, bool positives) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  Tensor x = query, y = key;
  promote({&x, &y});
  static const auto op = find_op("sslkern::siglip_fwd", &siglip_fwd);
  return op.call(x, y, scale, bias, positives);
}

Summed siglip_sum_fwd_autocast(const Tensor& query, const Tensor& key, const Tensor& scale,
                               const OptionalTensor& bias, bool positives, bool form_query,
                               bool form_key, bool form_scale, bool form_bias) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  Tensor x = query, y = key;
  promote({&x, &y});
  static const auto op = find_op("sslkern::siglip_sum_fwd", &siglip_sum_fwd);
  return op.call(x, y, scale, bias, positives, form_query, form_key, form_scale, form_bias);
}

TORCH_LIBRARY_FRAGMENT(sslkern, m) {
  m.def(
      "siglip_fwd(Tensor query, Tensor key, Tensor scale, Tensor? bias, bool positives) "
      "-> Tensor");
  m.def(
      "siglip_sum_fwd(Tensor query, Tensor key, Tensor scale, Tensor? bias, bool positives, "
      "bool form_query, bool form_key, bool form_scale, bool form_bias) "
      "-> (Tensor loss, Tensor grad_query, Tensor grad_key, Tensor grad_scale, Tensor grad_bias)");
  m.def(
      "siglip_bwd(Tensor grad_loss, Tensor query, Tensor key, Tensor scale, Tensor? bias, "
      "bool positives, bool need_query, bool need_key, bool need_scale, bool need_bias) "
      "-> (Tensor grad_query, Tensor grad_key, Tensor grad_scale, Tensor grad_bias)");
  m.def("siglip_formed_bwd(Tensor grad_sum, Tensor input, Tensor formed) -> Tensor");
}

void register_kernels(torch::Library& m) {
  m.impl("siglip_fwd", &siglip_fwd);
  m.impl("siglip_sum_fwd", &siglip_sum_fwd);
  m.impl("siglip_bwd", &siglip_bwd);
}
TORCH_LIBRARY_IMPL(sslkern, CPU, m) { register_kernels(m); }
TORCH_LIBRARY_IMPL(sslkern, CUDA, m) { register_kernels(m); }

TORCH_LIBRARY_IMPL(sslkern, CompositeExplicitAutograd, m) {
  m.impl("siglip_fwd", &siglip_fwd_unsupported);
  m.impl("siglip_sum_fwd", &siglip_sum_fwd_unsupported);
  m.impl("siglip_formed_bwd", &multiply_formed);
}

void register_autocast(torch::Library& m) {
  m.impl("siglip_fwd", &siglip_fwd_autocast);
  m.impl("siglip_sum_fwd", &siglip_sum_fwd_autocast);
}
TORCH_LIBRARY_IMPL(sslkern, AutocastCPU, m) { register_autocast(m); }
TORCH_LIBRARY_IMPL(sslkern, AutocastCUDA, m) { register_autocast(m); }

}  // namespace
}  // namespace sslkern::ops
