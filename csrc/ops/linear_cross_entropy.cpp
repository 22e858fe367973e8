#include "contract/linear_cross_entropy.h"

#include <ATen/ops/aminmax.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/ne.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <optional>
#include <tuple>
#include <vector>

#include "ops/autocast.h"
#include "ops/backend.h"
#include "ops/check.h"
#include "ops/formed.h"
#include "ops/query_key.h"

namespace sslkern::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr const char* kOp = "linear_cross_entropy";

// The arguments that both directions take, as the user gave them.
struct Arguments {
  Tensor input, weight;
  OptionalTensor bias;
  Tensor target;
  OptionalTensor class_weight;
  int64_t ignore_index;
  double label_smoothing, softcap;

  bool by_index() const { return !target.is_floating_point(); }
};

void check_per_class(const char* name, const Tensor& t, const Arguments& a) {
  check_float_tensor(kOp, name, t);
  SSLKERN_CHECK(VALUE, t.dim() == 1 && t.size(0) == a.weight.size(0), kOp, name,
                c10::str("of shape (V,) = (", a.weight.size(0), ",)"), "shape ", shape_name(t));
}

void check_target(const Arguments& a) {
  const Tensor& t = a.target;
  SSLKERN_CHECK(TYPE, t.layout() == at::kStrided, kOp, "target", "a dense tensor", "layout ",
                t.layout(), ". Call .to_dense() first.");
  SSLKERN_CHECK(VALUE, t.device() == a.input.device(), kOp, "target",
                c10::str("on the device of input, ", a.input.device().str()), t.device().str());
  SSLKERN_CHECK(TYPE, t.scalar_type() == at::kLong || is_supported_float(t.scalar_type()), kOp,
                "target", "of dtype torch.int64, or floating-point probabilities",
                dtype_name(t.scalar_type()));
  const int64_t rows = a.input.size(0), classes = a.weight.size(0);
  if (a.by_index()) {
    SSLKERN_CHECK(VALUE, t.dim() == 1 && t.size(0) == rows, kOp, "target",
                  c10::str("of shape (N,) = (", rows, ",)"), "shape ", shape_name(t));
  } else {
    SSLKERN_CHECK(VALUE, t.dim() == 2 && t.size(0) == rows && t.size(1) == classes, kOp, "target",
                  c10::str("of shape (N, V) = (", rows, ", ", classes, ")"), "shape ",
                  shape_name(t));
  }
}

void check_arguments(const Arguments& a) {
  check_matrix(kOp, "input", "(N, D)", a.input);
  check_matrix(kOp, "weight", "(V, D)", a.weight);
  check_same_columns(kOp, "weight", "(V, D)", a.weight, "input", a.input);
  check_row_counts(kOp, "input and weight", a.input, a.weight);
  check_target(a);
  if (a.bias) check_per_class("bias", *a.bias, a);
  if (a.class_weight) check_per_class("class_weight", *a.class_weight, a);
  SSLKERN_CHECK(VALUE, a.label_smoothing >= 0 && a.label_smoothing <= 1, kOp, "label_smoothing",
                "in [0, 1]", a.label_smoothing);
  // What its float32 reciprocal can hold.
  SSLKERN_CHECK(VALUE, a.softcap == 0 || (a.softcap >= 1e-30 && a.softcap <= 1e30), kOp, "softcap",
                "in [1e-30, 1e30]", a.softcap);
}

// What the kernels read; keeps the tensors alive. Rows to be ignored are gone.
struct Prepared {
  OptionalTensor rows;  // the rows that remain, where not all do
  Tensor input, weight, bias, target, class_weight;
  double scale;
  LinearCrossEntropyInput in;

  Tensor select(const Tensor& t) const {
    return rows ? at::index_select(t, 0, *rows) : t.contiguous();
  }
};

void check_target_values(const Tensor& target, int64_t classes) {
  if (target.numel() == 0) return;
  const auto [low, high] = at::aminmax(target);
  for (const int64_t value : {low.item<int64_t>(), high.item<int64_t>()}) {
    SSLKERN_CHECK(VALUE, value >= 0 && value < classes, kOp, "target",
                  c10::str("of values in [0, ", classes, ") or ignore_index"), value);
  }
}

void check_class_weight(const OptionalTensor& class_weight) {
  if (!class_weight) return;
  const auto [low, high] = at::aminmax(*class_weight);
  for (const double value : {low.item<double>(), high.item<double>()}) {
    SSLKERN_CHECK(VALUE, value >= 0 && value <= std::numeric_limits<double>::max(), kOp,
                  "class_weight", "of finite values >= 0", value);
  }
}

void drop_ignored_rows(const Arguments& a, Prepared& p) {
  p.input = with_adjacent_columns(a.input);
  p.target = a.target;
  if (!a.by_index()) return;
  const Tensor keep = at::nonzero(at::ne(a.target, a.ignore_index)).squeeze(1);
  if (keep.size(0) == a.target.size(0)) return;
  p.rows = keep;
  p.input = at::index_select(p.input, 0, keep);
  p.target = at::index_select(p.target, 0, keep);
}

// Read in place where it is in the precision of the arithmetic.
void prepare_probabilities(const Arguments& a, Prepared& p) {
  p.target = with_adjacent_columns(a.target.to(accumulate_dtype(a.input.scalar_type())));
  p.in.probability = p.target.const_data_ptr();
  p.in.stride = p.target.stride(0);
}

void prepare(const Arguments& a, Prepared& p) {
  drop_ignored_rows(a, p);
  if (a.by_index()) check_target_values(p.target, a.weight.size(0));
  check_class_weight(a.class_weight);
  p.weight = with_adjacent_columns(a.weight);
  if (a.bias) p.bias = a.bias->to(at::kDouble).contiguous();
  if (a.class_weight) p.class_weight = a.class_weight->to(at::kDouble).contiguous();
  p.scale = 1.0;
  static_cast<QueryKey&>(p.in) =
      query_key_of(p.input, p.weight, &p.scale, a.bias ? p.bias.const_data_ptr<double>() : nullptr,
                   {false, false, false});
  if (a.by_index()) {
    p.target = p.target.contiguous();
    p.in.target = p.target.const_data_ptr<int64_t>();
  } else {
    prepare_probabilities(a, p);
  }
  p.in.class_weight = a.class_weight ? p.class_weight.const_data_ptr<double>() : nullptr;
  p.in.label_smoothing = a.label_smoothing;
  p.in.softcap = a.softcap;
}

// Rows as the user numbered them, zero where ignored.
Tensor restore(const Prepared& p, const Tensor& compact, int64_t rows) {
  if (!p.rows) return compact;
  std::vector<int64_t> shape = compact.sizes().vec();
  shape[0] = rows;
  return at::zeros(shape, compact.options()).index_copy_(0, *p.rows, compact);
}

// Which gradients are wanted.
struct Needs {
  bool input, weight, bias;
};

using Gradients = std::tuple<Tensor, Tensor, Tensor>;

Gradients allocate(const Arguments& a, Needs needs, int64_t rows, at::ScalarType dtype) {
  const int64_t classes = a.weight.size(0), dims = a.input.size(1);
  return {empty({needs.input ? rows : 0, dims}, dtype, a.input),
          empty({needs.weight ? classes : 0, dims}, dtype, a.input),
          empty({needs.bias ? classes : 0}, at::kDouble, a.input)};
}

template <class Params>
void point_to(Gradients& g, Params& p) {
  auto& [input, weight, bias] = g;
  p.grad_input = input.numel() > 0 ? input.mutable_data_ptr() : nullptr;
  p.grad_weight = weight.numel() > 0 ? weight.mutable_data_ptr() : nullptr;
  p.grad_bias = bias.numel() > 0 ? bias.mutable_data_ptr<double>() : nullptr;
}

// What the forward pass leaves, of the rows that are not ignored.
struct Results {
  Tensor loss, sum, stats;
  Gradients grads;
};

Results forward(const Arguments& a, const Prepared& prepared, int64_t chunk, Needs needs) {
  const auto accumulate = accumulate_dtype(a.input.scalar_type());
  const int64_t rows = prepared.in.N;
  Results r{empty({rows}, accumulate, a.input), at::zeros({}, a.input.options().dtype(at::kDouble)),
            empty({rows, 2}, at::kDouble, a.input), allocate(a, needs, rows, accumulate)};
  auto& [grad_input, grad_weight, grad_bias] = r.grads;
  if (rows == 0) {
    grad_weight.zero_();
    grad_bias.zero_();
    return r;
  }
  LinearCrossEntropyFwd p{};
  p.in = prepared.in;
  p.loss = r.loss.mutable_data_ptr();
  p.sum = r.sum.mutable_data_ptr<double>();
  p.stats = r.stats.mutable_data_ptr<double>();
  p.chunk = chunk;
  point_to(r.grads, p);
  p.threads = threads_for(p.in);
  const Tensor workspace = empty({cpu::linear_cross_entropy_fwd_workspace(p)}, at::kByte, a.input);
  p.workspace = workspace.mutable_data_ptr();
  cpu::linear_cross_entropy_fwd(p);
  return r;
}

// The loss of every row. Its gradients are recomputed: each row may have an upstream gradient of
// its own.
std::tuple<Tensor, Tensor> linear_cross_entropy_fwd(const Tensor& input, const Tensor& weight,
                                                    const OptionalTensor& bias,
                                                    const Tensor& target,
                                                    const OptionalTensor& class_weight,
                                                    int64_t ignore_index, double label_smoothing,
                                                    double softcap) {
  const Arguments a{input,        weight,          bias,   target, class_weight,
                    ignore_index, label_smoothing, softcap};
  check_arguments(a);
  Prepared prepared{};
  prepare(a, prepared);
  const Results r = forward(a, prepared, 0, Needs{});
  return {restore(prepared, r.loss, input.size(0)), restore(prepared, r.stats, input.size(0))};
}

using Summed = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// The sum of the losses. Whatever its upstream gradient, a number, is going to be, its gradients
// are known up to that factor.
Summed linear_cross_entropy_sum_fwd(const Tensor& input, const Tensor& weight,
                                    const OptionalTensor& bias, const Tensor& target,
                                    const OptionalTensor& class_weight, int64_t ignore_index,
                                    double label_smoothing, double softcap, int64_t chunk,
                                    bool form_input, bool form_weight, bool form_bias) {
  const Arguments a{input,        weight,          bias,   target, class_weight,
                    ignore_index, label_smoothing, softcap};
  check_arguments(a);
  SSLKERN_CHECK(VALUE, chunk > 0, kOp, "chunk", "positive", chunk);
  SSLKERN_CHECK(VALUE, !form_bias || bias, kOp, "form_bias", "False without bias", "True");
  Prepared prepared{};
  prepare(a, prepared);
  Results r = forward(a, prepared, chunk, {form_input, form_weight, form_bias});
  auto& [grad_input, grad_weight, grad_bias] = r.grads;
  if (form_input) grad_input = restore(prepared, grad_input, input.size(0));
  return {r.sum.to(r.loss.scalar_type()), grad_input, grad_weight, grad_bias};
}

std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy_bwd(
    const Tensor& grad_loss, const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
    const Tensor& target, const OptionalTensor& class_weight, const Tensor& stats,
    int64_t ignore_index, double label_smoothing, double softcap, bool need_input, bool need_weight,
    bool need_bias) {
  const Arguments a{input,        weight,          bias,   target, class_weight,
                    ignore_index, label_smoothing, softcap};
  check_arguments(a);
  const int64_t all = input.size(0), classes = weight.size(0), dims = input.size(1);
  const auto dtype = input.scalar_type(), accumulate = accumulate_dtype(dtype);
  const Tensor upstream = check_upstream(kOp, "grad_loss", grad_loss, all, accumulate);
  SSLKERN_CHECK(VALUE, stats.dim() == 2 && stats.size(0) == all && stats.size(1) == 2, kOp, "stats",
                "what the forward pass returned", "shape ", shape_name(stats));
  Prepared prepared{};
  prepare(a, prepared);
  const int64_t rows = prepared.in.N;
  if (rows == 0) {
    return {at::zeros({need_input ? all : 0, dims}, input.options()),
            at::zeros({need_weight ? classes : 0, dims}, weight.options()),
            at::zeros({need_bias ? classes : 0}, (bias ? *bias : weight).options())};
  }
  const Tensor g = prepared.select(upstream), s = prepared.select(stats);
  Gradients grads = allocate(a, {need_input, need_weight, need_bias}, rows, dtype);
  LinearCrossEntropyBwd p{};
  p.in = prepared.in;
  p.stats = s.const_data_ptr<double>();
  p.grad_loss = g.const_data_ptr();
  point_to(grads, p);
  p.threads = threads_for(p.in);
  const Tensor workspace = empty({cpu::linear_cross_entropy_bwd_workspace(p)}, at::kByte, input);
  p.workspace = workspace.mutable_data_ptr();
  cpu::linear_cross_entropy_bwd(p);
  auto& [grad_input, grad_weight, grad_bias] = grads;
  if (need_input) grad_input = restore(prepared, grad_input, all);
  if (need_bias) grad_bias = grad_bias.to(bias->scalar_type());
  return grads;
}

// Any layout or device without a kernel ends here: the checks say which, in the same words as
// everywhere.
[[noreturn]] void refuse(const Arguments& a) {
  check_arguments(a);
  TORCH_CHECK_NOT_IMPLEMENTED(false, "sslkern::linear_cross_entropy: no kernel for ",
                              a.input.device().str());
}

std::tuple<Tensor, Tensor> linear_cross_entropy_fwd_unsupported(
    const Tensor& input, const Tensor& weight, const OptionalTensor& bias, const Tensor& target,
    const OptionalTensor& class_weight, int64_t ignore_index, double label_smoothing,
    double softcap) {
  refuse({input, weight, bias, target, class_weight, ignore_index, label_smoothing, softcap});
}

Summed linear_cross_entropy_sum_fwd_unsupported(const Tensor& input, const Tensor& weight,
                                                const OptionalTensor& bias, const Tensor& target,
                                                const OptionalTensor& class_weight,
                                                int64_t ignore_index, double label_smoothing,
                                                double softcap, int64_t, bool, bool, bool) {
  refuse({input, weight, bias, target, class_weight, ignore_index, label_smoothing, softcap});
}

std::tuple<Tensor, Tensor> linear_cross_entropy_fwd_autocast(
    const Tensor& input, const Tensor& weight, const OptionalTensor& bias, const Tensor& target,
    const OptionalTensor& class_weight, int64_t ignore_index, double label_smoothing,
    double softcap) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  Tensor x = input, w = weight;
  promote({&x, &w});
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("sslkern::linear_cross_entropy_fwd", "")
                             .typed<decltype(linear_cross_entropy_fwd)>();
  return op.call(x, w, bias, target, class_weight, ignore_index, label_smoothing, softcap);
}

Summed linear_cross_entropy_sum_fwd_autocast(const Tensor& input, const Tensor& weight,
                                             const OptionalTensor& bias, const Tensor& target,
                                             const OptionalTensor& class_weight,
                                             int64_t ignore_index, double label_smoothing,
                                             double softcap, int64_t chunk, bool form_input,
                                             bool form_weight, bool form_bias) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  Tensor x = input, w = weight;
  promote({&x, &w});
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("sslkern::linear_cross_entropy_sum_fwd", "")
                             .typed<decltype(linear_cross_entropy_sum_fwd)>();
  return op.call(x, w, bias, target, class_weight, ignore_index, label_smoothing, softcap, chunk,
                 form_input, form_weight, form_bias);
}

TORCH_LIBRARY_FRAGMENT(sslkern, m) {
  m.def(
      "linear_cross_entropy_sum_fwd(Tensor input, Tensor weight, Tensor? bias, Tensor target, "
      "Tensor? class_weight, int ignore_index, float label_smoothing, float softcap, int chunk, "
      "bool form_input, bool form_weight, bool form_bias) -> "
      "(Tensor sum, Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
  m.def("linear_cross_entropy_formed_bwd(Tensor grad_sum, Tensor input, Tensor formed) -> Tensor");
  m.def(
      "linear_cross_entropy_fwd(Tensor input, Tensor weight, Tensor? bias, Tensor target, "
      "Tensor? class_weight, int ignore_index, float label_smoothing, float softcap) -> "
      "(Tensor loss, Tensor stats)");
  m.def(
      "linear_cross_entropy_bwd(Tensor grad_loss, Tensor input, Tensor weight, Tensor? bias, "
      "Tensor target, Tensor? class_weight, Tensor stats, int ignore_index, "
      "float label_smoothing, float softcap, bool need_input, bool need_weight, bool need_bias) "
      "-> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
}

TORCH_LIBRARY_IMPL(sslkern, CPU, m) {
  m.impl("linear_cross_entropy_fwd", &linear_cross_entropy_fwd);
  m.impl("linear_cross_entropy_sum_fwd", &linear_cross_entropy_sum_fwd);
  m.impl("linear_cross_entropy_bwd", &linear_cross_entropy_bwd);
}

TORCH_LIBRARY_IMPL(sslkern, CompositeExplicitAutograd, m) {
  m.impl("linear_cross_entropy_fwd", &linear_cross_entropy_fwd_unsupported);
  m.impl("linear_cross_entropy_sum_fwd", &linear_cross_entropy_sum_fwd_unsupported);
  m.impl("linear_cross_entropy_formed_bwd", &multiply_formed);
}

TORCH_LIBRARY_IMPL(sslkern, AutocastCPU, m) {
  m.impl("linear_cross_entropy_fwd", &linear_cross_entropy_fwd_autocast);
  m.impl("linear_cross_entropy_sum_fwd", &linear_cross_entropy_sum_fwd_autocast);
}

}  // namespace
}  // namespace sslkern::ops
