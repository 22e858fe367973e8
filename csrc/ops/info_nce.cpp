#include "ops/info_nce.h"

#include <ATen/ops/_unique2.h>
#include <ATen/ops/aminmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/div.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sum.h>
#include <torch/library.h>

#include <cmath>
#include <limits>
#include <utility>

#include "contract/info_nce.h"
#include "ops/autocast.h"
#include "ops/backend.h"
#include "ops/check.h"
#include "ops/query_key.h"

namespace sslkern::ops {
namespace info_nce {

Forward empty_forward(const Arguments& a, bool form_grad) {
  const at::Tensor& query = a.query;
  const int64_t rows = query.size(0), cols = a.symmetric ? a.key.size(0) : 0;
  const int64_t formed = form_grad ? rows : 0;
  const auto accumulate = accumulate_dtype(query.scalar_type());
  return {empty({rows}, accumulate, query),
          empty({cols}, accumulate, query),
          empty({rows, 2}, at::kDouble, query),
          empty({cols, 2}, at::kDouble, query),
          empty({formed, query.size(1)}, accumulate, query),
          empty({formed}, at::kDouble, query)};
}

Gradients empty_gradients(const Arguments& a, const Upstream& u) {
  const auto dtype = a.query.scalar_type();
  const int64_t dims = a.query.size(1), keys = a.key.size(0);
  return {empty({u.need_query ? a.query.size(0) : 0, dims}, dtype, a.query),
          empty({u.need_key ? keys : 0, dims}, dtype, a.query),
          empty({u.need_scale ? a.scale.numel() : 0}, at::kDouble, a.query),
          empty({u.need_bias ? keys : 0}, at::kDouble, a.query)};
}

}  // namespace info_nce

namespace {

using at::Tensor;
using info_nce::Arguments;
using info_nce::Forward;
using info_nce::Gradients;
using info_nce::Upstream;
using OptionalTensor = std::optional<Tensor>;

constexpr const char* kOp = "info_nce";

// The arguments in the layout that the CPU kernels read; keeps the tensors alive.
struct Prepared {
  Tensor query, key, target, scale, bias, query_ids, key_ids;
  InfoNceInput in;
};

void check_vector(const char* name, const Tensor& t, int64_t length, const char* shape,
                  const Tensor& like) {
  check_same_device(kOp, name, t, "query", like);
  SSLKERN_CHECK(VALUE, t.dim() == 1 && t.numel() == length, kOp, name,
                c10::str("of shape ", shape, " = (", length, ",)"), "shape ", shape_name(t));
}

void check_index(const char* name, const Tensor& t, int64_t length, const char* shape,
                 const Tensor& like) {
  SSLKERN_CHECK(TYPE, t.scalar_type() == at::kLong, kOp, name, "of dtype torch.int64",
                dtype_name(t.scalar_type()));
  check_vector(name, t, length, shape, like);
}

void check_matrices(const Tensor& query, const Tensor& key) {
  check_matrix(kOp, "query", "(N, D)", query);
  check_matrix(kOp, "key", "(M, D)", key);
  check_same_columns(kOp, "key", "(M, D)", key, "query", query);
  check_row_counts(kOp, "query and key", query, key);
}

void check_scale(const Tensor& scale, int64_t keys) {
  check_float_tensor(kOp, "scale", scale);
  SSLKERN_CHECK(VALUE, scale.numel() == 1 || (scale.dim() == 1 && scale.numel() == keys), kOp,
                "temperature", c10::str("one number, or one per column, (", keys, ",)"), "shape ",
                shape_name(scale));
}

void check_scale_values(const Tensor& scale) {
  const auto [low, high] = at::aminmax(scale);
  for (const double value : {low.item<double>(), high.item<double>()}) {
    check_positive(kOp, "scale (the inverse of temperature)", value);
  }
}

void check_target_values(const Tensor& target, int64_t keys) {
  const auto [low, high] = at::aminmax(target);
  for (const int64_t value : {low.item<int64_t>(), high.item<int64_t>()}) {
    SSLKERN_CHECK(VALUE, value >= 0 && value < keys, kOp, "target",
                  c10::str("of values in [0, ", keys, ")"), value);
  }
}

void check_arguments(const Arguments& a) {
  check_matrices(a.query, a.key);
  const int64_t rows = a.query.size(0), keys = a.key.size(0);
  check_scale(a.scale, keys);
  if (a.target) check_index("target", *a.target, rows, "(N,)", a.query);
  if (a.bias) {
    check_float_tensor(kOp, "bias", *a.bias);
    check_vector("bias", *a.bias, keys, "(columns,)", a.query);
  }
  SSLKERN_CHECK(VALUE, a.query_ids.has_value() == a.key_ids.has_value(), kOp, "key_ids",
                "given exactly when ids is", a.key_ids ? "key_ids alone" : "ids alone");
  if (a.query_ids) {
    check_index("ids", *a.query_ids, rows, "(N,)", a.query);
    check_index("key_ids", *a.key_ids, keys, "(columns,)", a.query);
  }
  SSLKERN_CHECK(VALUE, !a.symmetric || !a.target || rows == keys, kOp, "symmetric",
                "False unless there are as many queries as keys", rows, " and ", keys);
  SSLKERN_CHECK(VALUE, a.label_smoothing >= 0 && a.label_smoothing <= 1, kOp, "label_smoothing",
                "in [0, 1]", a.label_smoothing);
}

// Checks that read values.
void check_values(const Arguments& a) {
  if (values_are_checked(a.scale)) check_scale_values(a.scale);
  if (a.target && values_are_checked(*a.target)) check_target_values(*a.target, a.key.size(0));
}

// Ids as int32: themselves where they fit, else numbered.
std::pair<Tensor, Tensor> compact_ids(const Tensor& query_ids, const Tensor& key_ids) {
  const Tensor all = at::cat({query_ids, key_ids});
  const auto [low, high] = at::aminmax(all);
  const bool fits = low.item<int64_t>() >= std::numeric_limits<int32_t>::min() &&
                    high.item<int64_t>() <= std::numeric_limits<int32_t>::max();
  const Tensor codes = (fits ? all : std::get<1>(at::_unique2(all, false, true))).to(at::kInt);
  return {codes.narrow(0, 0, query_ids.numel()).contiguous(),
          codes.narrow(0, query_ids.numel(), key_ids.numel()).contiguous()};
}

Prepared prepare(const Arguments& a) {
  Prepared p{};
  p.query = with_adjacent_columns(a.query);
  p.key = with_adjacent_columns(a.key);
  p.scale = a.scale.to(at::kDouble).contiguous();
  if (a.target) p.target = a.target->contiguous();
  if (a.bias) p.bias = a.bias->to(at::kDouble).contiguous();
  if (a.query_ids) std::tie(p.query_ids, p.key_ids) = compact_ids(*a.query_ids, *a.key_ids);
  const QueryKey rows = query_key_of(p.query, p.key, p.scale.const_data_ptr<double>(),
                                     a.bias ? p.bias.const_data_ptr<double>() : nullptr,
                                     {a.scale.numel() > 1, false, a.normalize});
  p.in = {rows,
          a.target ? p.target.const_data_ptr<int64_t>() : nullptr,
          a.query_ids ? p.query_ids.const_data_ptr<int32_t>() : nullptr,
          a.query_ids ? p.key_ids.const_data_ptr<int32_t>() : nullptr,
          a.label_smoothing,
          a.symmetric};
  return p;
}

Forward fwd_on_cpu(const Arguments& a, bool form_grad) {
  const Prepared prepared = prepare(a);
  Forward result = info_nce::empty_forward(a, form_grad);
  const auto& [loss, loss_col, stats, stats_col, grad_query, query_dot] = result;
  InfoNceFwd p{};
  p.in = prepared.in;
  p.loss = loss.mutable_data_ptr();
  p.loss_col = a.symmetric ? loss_col.mutable_data_ptr() : nullptr;
  p.stats = stats.mutable_data_ptr<double>();
  p.stats_col = a.symmetric ? stats_col.mutable_data_ptr<double>() : nullptr;
  p.grad_query = form_grad ? grad_query.mutable_data_ptr() : nullptr;
  p.query_dot = form_grad ? query_dot.mutable_data_ptr<double>() : nullptr;
  p.threads = threads_for(p.in);
  const Tensor workspace = empty({cpu::info_nce_fwd_workspace(p)}, at::kByte, a.query);
  p.workspace = workspace.mutable_data_ptr();
  cpu::info_nce_fwd(p);
  return result;
}

Forward info_nce_fwd(const Tensor& query, const Tensor& key, const OptionalTensor& target,
                     const Tensor& scale, const OptionalTensor& bias,
                     const OptionalTensor& query_ids, const OptionalTensor& key_ids, bool normalize,
                     bool symmetric, double label_smoothing, bool form_grad) {
  const Arguments a{query,     key,     target,    scale,     bias,
                    query_ids, key_ids, normalize, symmetric, label_smoothing};
  check_arguments(a);
  check_values(a);
  SSLKERN_CHECK(VALUE, !(form_grad && symmetric), kOp, "form_grad", "False with symmetric", "True");
  return runs_on_cuda(query) ? info_nce::fwd_on_cuda(a, form_grad) : fwd_on_cpu(a, form_grad);
}

Gradients bwd_on_cpu(const Arguments& a, const Upstream& u) {
  const Prepared prepared = prepare(a);
  Gradients grad = info_nce::empty_gradients(a, u);
  InfoNceBwd p{};
  p.in = prepared.in;
  p.stats = u.stats.const_data_ptr<double>();
  p.stats_col = a.symmetric ? u.stats_col.const_data_ptr<double>() : nullptr;
  p.grad_loss = u.g.const_data_ptr();
  p.grad_loss_col = a.symmetric ? u.h.const_data_ptr() : nullptr;
  p.grad_query = u.need_query ? grad.query.mutable_data_ptr() : nullptr;
  p.grad_key = u.need_key ? grad.key.mutable_data_ptr() : nullptr;
  p.grad_scale = u.need_scale ? grad.scale.mutable_data_ptr<double>() : nullptr;
  p.grad_bias = u.need_bias ? grad.bias.mutable_data_ptr<double>() : nullptr;
  p.threads = threads_for(p.in);
  const Tensor workspace = empty({cpu::info_nce_bwd_workspace(p)}, at::kByte, a.query);
  p.workspace = workspace.mutable_data_ptr();
  cpu::info_nce_bwd(p);
  return grad;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> info_nce_bwd(
    const Tensor& grad_loss, const Tensor& grad_loss_col, const Tensor& query, const Tensor& key,
    const OptionalTensor& target, const Tensor& scale, const OptionalTensor& bias,
    const OptionalTensor& query_ids, const OptionalTensor& key_ids, const Tensor& stats,
    const Tensor& stats_col, bool normalize, bool symmetric, double label_smoothing,
    bool need_query, bool need_key, bool need_scale, bool need_bias) {
  const Arguments a{query,     key,     target,    scale,     bias,
                    query_ids, key_ids, normalize, symmetric, label_smoothing};
  check_arguments(a);
  const int64_t rows = query.size(0), keys = key.size(0);
  const auto accumulate = accumulate_dtype(query.scalar_type());
  const Tensor g = check_upstream(kOp, "grad_loss", grad_loss, rows, accumulate);
  const Tensor h =
      check_upstream(kOp, "grad_loss_col", grad_loss_col, symmetric ? keys : 0, accumulate);
  SSLKERN_CHECK(VALUE, stats.is_contiguous() && stats.numel() == 2 * rows, kOp, "stats",
                "what the forward pass returned", "shape ", shape_name(stats));
  const bool per_key = scale.numel() > 1;
  const Upstream u{g,
                   h,
                   stats,
                   stats_col,
                   need_query || (need_scale && !per_key),
                   need_key || (need_scale && per_key),
                   need_scale,
                   need_bias};
  Gradients grad = runs_on_cuda(query) ? info_nce::bwd_on_cuda(a, u) : bwd_on_cpu(a, u);
  grad.scale = as_gradient_of(scale, grad.scale);
  if (need_bias) grad.bias = grad.bias.to(bias->scalar_type());
  return {grad.query, grad.key, grad.scale, grad.bias};
}

// The backward pass where the forward pass has formed the gradient: float32 until it is multiplied
// by the upstream one. The query is an argument so that differentiating the result again is
// noticed. One scale per key has no gradient here.
std::tuple<Tensor, Tensor> info_nce_formed_bwd(const Tensor& grad_loss, const Tensor& query,
                                               const Tensor& scale, const Tensor& grad_query,
                                               const Tensor& query_dot) {
  const Tensor grad = at::mul(grad_query, grad_loss.unsqueeze(1)).to(query.scalar_type());
  if (scale.numel() != 1) return {grad, empty({0}, scale.scalar_type(), scale)};
  const Tensor terms = at::mul(grad_loss.to(at::kDouble), query_dot);
  // On the CPU not a plain sum, whose order depends on the number of threads.
  const Tensor total = terms.is_cuda() ? at::sum(terms) : at::cumsum(terms, 0).select(0, -1);
  const Tensor grad_scale = at::div(total, scale.to(at::kDouble).reshape({}));
  return {grad, as_gradient_of(scale, grad_scale)};
}

Tensor rank_on_cpu(const Arguments& a, const OptionalTensor& threshold) {
  const Prepared prepared = prepare(a);
  const Tensor limit = threshold ? threshold->to(at::kDouble).contiguous() : Tensor();
  Tensor rank = empty({a.query.size(0)}, at::kLong, a.query);
  InfoNceRank p{};
  p.in = prepared.in;
  p.threshold = threshold ? limit.const_data_ptr<double>() : nullptr;
  p.rank = rank.mutable_data_ptr<int64_t>();
  p.threads = threads_for(p.in);
  const Tensor workspace = empty({cpu::info_nce_rank_workspace(p)}, at::kByte, a.query);
  p.workspace = workspace.mutable_data_ptr();
  cpu::info_nce_rank(p);
  return rank;
}

// Places of the targets (or of given logits, the threshold) among the logits of their rows.
Tensor info_nce_rank(const Tensor& query, const Tensor& key, const OptionalTensor& target,
                     const OptionalTensor& threshold, const OptionalTensor& query_ids,
                     const OptionalTensor& key_ids, bool normalize) {
  const Tensor scale = at::ones({}, query.options().dtype(at::kDouble));
  const Arguments a{query,     key,     target,    scale, std::nullopt,
                    query_ids, key_ids, normalize, false, 0};
  check_arguments(a);
  check_values(a);
  SSLKERN_CHECK(VALUE, target.has_value() != threshold.has_value(), kOp, "target",
                "given exactly when threshold is not", target ? "both" : "neither");
  if (threshold) check_vector("threshold", *threshold, query.size(0), "(N,)", query);
  return runs_on_cuda(query) ? info_nce::rank_on_cuda(a, threshold) : rank_on_cpu(a, threshold);
}

// Any layout or device without a kernel ends here: the checks say which, in the same words as
// everywhere.
Forward info_nce_fwd_unsupported(const Tensor& query, const Tensor& key,
                                 const OptionalTensor& target, const Tensor& scale,
                                 const OptionalTensor& bias, const OptionalTensor& query_ids,
                                 const OptionalTensor& key_ids, bool normalize, bool symmetric,
                                 double label_smoothing, bool) {
  check_arguments(
      {query, key, target, scale, bias, query_ids, key_ids, normalize, symmetric, label_smoothing});
  TORCH_CHECK_NOT_IMPLEMENTED(false, "sslkern::info_nce: no kernel for ", query.device().str());
}

Tensor info_nce_rank_unsupported(const Tensor& query, const Tensor& key,
                                 const OptionalTensor& target, const OptionalTensor&,
                                 const OptionalTensor& query_ids, const OptionalTensor& key_ids,
                                 bool normalize) {
  const Tensor scale = at::ones({}, query.options().dtype(at::kDouble));
  check_arguments(
      {query, key, target, scale, std::nullopt, query_ids, key_ids, normalize, false, 0});
  TORCH_CHECK_NOT_IMPLEMENTED(false, "sslkern::info_nce: no kernel for ", query.device().str());
}

Forward info_nce_fwd_autocast(const Tensor& query, const Tensor& key, const OptionalTensor& target,
                              const Tensor& scale, const OptionalTensor& bias,
                              const OptionalTensor& query_ids, const OptionalTensor& key_ids,
                              bool normalize, bool symmetric, double label_smoothing,
                              bool form_grad) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  Tensor x = query, y = key;
  promote({&x, &y});
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("sslkern::info_nce_fwd", "")
                             .typed<decltype(info_nce_fwd)>();
  return op.call(x, y, target, scale, bias, query_ids, key_ids, normalize, symmetric,
                 label_smoothing, form_grad);
}

TORCH_LIBRARY_FRAGMENT(sslkern, m) {
  m.def(
      "info_nce_fwd(Tensor query, Tensor key, Tensor? target, Tensor scale, Tensor? bias, "
      "Tensor? query_ids, Tensor? key_ids, bool normalize, bool symmetric, float label_smoothing, "
      "bool form_grad) -> (Tensor loss, Tensor loss_col, Tensor stats, Tensor stats_col, "
      "Tensor grad_query, Tensor query_dot)");
  m.def(
      "info_nce_bwd(Tensor grad_loss, Tensor grad_loss_col, Tensor query, Tensor key, "
      "Tensor? target, Tensor scale, Tensor? bias, Tensor? query_ids, Tensor? key_ids, "
      "Tensor stats, Tensor stats_col, bool normalize, bool symmetric, float label_smoothing, "
      "bool need_query, bool need_key, bool need_scale, bool need_bias) "
      "-> (Tensor grad_query, Tensor grad_key, Tensor grad_scale, Tensor grad_bias)");
  m.def(
      "info_nce_rank(Tensor query, Tensor key, Tensor? target, Tensor? threshold, "
      "Tensor? query_ids, Tensor? key_ids, bool normalize) -> Tensor");
  m.def(
      "info_nce_formed_bwd(Tensor grad_loss, Tensor query, Tensor scale, Tensor grad_query, "
      "Tensor query_dot) -> (Tensor grad_query_out, Tensor grad_scale)");
}

void register_kernels(torch::Library& m) {
  m.impl("info_nce_fwd", &info_nce_fwd);
  m.impl("info_nce_bwd", &info_nce_bwd);
  m.impl("info_nce_rank", &info_nce_rank);
}
TORCH_LIBRARY_IMPL(sslkern, CPU, m) { register_kernels(m); }
TORCH_LIBRARY_IMPL(sslkern, CUDA, m) { register_kernels(m); }

TORCH_LIBRARY_IMPL(sslkern, CompositeExplicitAutograd, m) {
  m.impl("info_nce_fwd", &info_nce_fwd_unsupported);
  m.impl("info_nce_formed_bwd", &info_nce_formed_bwd);
  m.impl("info_nce_rank", &info_nce_rank_unsupported);
}

TORCH_LIBRARY_IMPL(sslkern, AutocastCPU, m) { m.impl("info_nce_fwd", &info_nce_fwd_autocast); }
TORCH_LIBRARY_IMPL(sslkern, AutocastCUDA, m) { m.impl("info_nce_fwd", &info_nce_fwd_autocast); }

}  // namespace
}  // namespace sslkern::ops
