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

// Checks that read values; on the CPU that costs no synchronisation.
void check_values(const Arguments& a) {
  check_positive(kOp, "logit_scale", a.scale.item<double>());
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
  p.scale = a.scale.to(at::kDouble).contiguous();
  if (a.bias) p.bias = a.bias->to(at::kDouble).contiguous();
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
void point_to(Gradients& g, Params& p) {
  auto& [query, key, scale, bias] = g;
  p.grad_query = query.numel() > 0 ? query.mutable_data_ptr() : nullptr;
  p.grad_key = key.numel() > 0 ? key.mutable_data_ptr() : nullptr;
  p.grad_scale = scale.numel() > 0 ? scale.mutable_data_ptr<double>() : nullptr;
  p.grad_bias = bias.numel() > 0 ? bias.mutable_data_ptr<double>() : nullptr;
}

// Loss of every row and its sum; with it the gradients of the sum, float32 for the half types.
std::tuple<Tensor, Tensor, Gradients> forward(const Arguments& a, Needs needs) {
  check_arguments(a);
  check_values(a);
  SSLKERN_CHECK(VALUE, !needs.bias || a.bias, kOp, "form_bias", "False without logit_bias", "True");
  const Prepared prepared = prepare(a);
  const auto accumulate = accumulate_dtype(a.query.scalar_type());
  Tensor loss = empty({a.query.size(0)}, accumulate, a.query);
  Tensor sum = empty({}, at::kDouble, a.query);
  Gradients grads = allocate(a, needs, accumulate);
  SiglipFwd p{};
  p.in = prepared.in;
  p.loss = loss.mutable_data_ptr();
  p.sum = sum.mutable_data_ptr<double>();
  point_to(grads, p);
  p.threads = threads_for(p.in);
  const Tensor workspace = empty({cpu::siglip_fwd_workspace(p)}, at::kByte, a.query);
  p.workspace = workspace.mutable_data_ptr();
  cpu::siglip_fwd(p);
  return {loss, sum.to(accumulate), grads};
}

// The loss of every row. Its gradients are recomputed: each row may have an upstream gradient of
// its own.
Tensor siglip_fwd(const Tensor& query, const Tensor& key, const Tensor& scale,
                  const OptionalTensor& bias, bool positives) {
  return std::get<0>(forward({query, key, scale, bias, positives}, Needs{}));
}

// The sum of the losses. Whatever its upstream gradient, a number, is going to be, its gradients
// are known up to that factor.
Summed siglip_sum_fwd(const Tensor& query, const Tensor& key, const Tensor& scale,
                      const OptionalTensor& bias, bool positives, bool form_query, bool form_key,
                      bool form_scale, bool form_bias) {
  const auto [loss, sum, grads] =
      forward({query, key, scale, bias, positives}, {form_query, form_key, form_scale, form_bias});
  return std::tuple_cat(std::make_tuple(sum), grads);
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
  SiglipBwd p{};
  p.in = prepared.in;
  p.grad_loss = g.const_data_ptr();
  point_to(grads, p);
  p.threads = threads_for(p.in);
  const Tensor workspace = empty({cpu::siglip_bwd_workspace(p)}, at::kByte, query);
  p.workspace = workspace.mutable_data_ptr();
  cpu::siglip_bwd(p);
  auto& [grad_query, grad_key, grad_scale, grad_bias] = grads;
  if (need_scale) grad_scale = grad_scale.to(scale.scalar_type()).reshape(scale.sizes());
  if (need_bias) grad_bias = grad_bias.to(bias->scalar_type()).reshape(bias->sizes());
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

TORCH_LIBRARY_IMPL(sslkern, CPU, m) {
  m.impl("siglip_fwd", &siglip_fwd);
  m.impl("siglip_sum_fwd", &siglip_sum_fwd);
  m.impl("siglip_bwd", &siglip_bwd);
}

TORCH_LIBRARY_IMPL(sslkern, CompositeExplicitAutograd, m) {
  m.impl("siglip_fwd", &siglip_fwd_unsupported);
  m.impl("siglip_sum_fwd", &siglip_sum_fwd_unsupported);
  m.impl("siglip_formed_bwd", &multiply_formed);
}

TORCH_LIBRARY_IMPL(sslkern, AutocastCPU, m) {
  m.impl("siglip_fwd", &siglip_fwd_autocast);
  m.impl("siglip_sum_fwd", &siglip_sum_fwd_autocast);
}

}  // namespace
}  // namespace sslkern::ops
