#include "contract/linear_cross_entropy.h"

#include <ATen/ops/aminmax.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/masked_fill.h>
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
#include "ops/packed.h"
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
  check_same_device(kOp, name, t, "input", a.input);
  SSLKERN_CHECK(VALUE, t.dim() == 1 && t.size(0) == a.weight.size(0), kOp, name,
                c10::str("of shape (V,) = (", a.weight.size(0), ",)"), "shape ", shape_name(t));
}

void check_target(const Arguments& a) {
  const Tensor& t = a.target;
  SSLKERN_CHECK(TYPE, t.layout() == at::kStrided, kOp, "target", "a dense tensor", "layout ",
                t.layout(), ". Call .to_dense() first.");
  check_same_device(kOp, "target", t, "input", a.input);
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

// What the kernels read; keeps the tensors alive. Rows to be ignored are gone; for the CUDA
// kernels, which see them for themselves, they are there.
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
  if (target.numel() == 0 || !values_are_checked(target)) return;
  const auto [low, high] = at::aminmax(target);
  for (const int64_t value : {low.item<int64_t>(), high.item<int64_t>()}) {
    SSLKERN_CHECK(VALUE, value >= 0 && value < classes, kOp, "target",
                  c10::str("of values in [0, ", classes, ") or ignore_index"), value);
  }
}

void check_class_weight(const OptionalTensor& class_weight) {
  if (!class_weight || !values_are_checked(*class_weight)) return;
  const auto [low, high] = at::aminmax(*class_weight);
  for (const double value : {low.item<double>(), high.item<double>()}) {
    SSLKERN_CHECK(VALUE, value >= 0 && value <= std::numeric_limits<double>::max(), kOp,
                  "class_weight", "of finite values >= 0", value);
  }
}

void drop_ignored_rows(const Arguments& a, Prepared& p) {
  const Tensor keep = at::nonzero(at::ne(a.target, a.ignore_index)).squeeze(1);
  if (keep.size(0) == a.target.size(0)) return;
  p.rows = keep;
  p.input = at::index_select(p.input, 0, keep);
  p.target = at::index_select(p.target, 0, keep);
}

void prepare_indices(const Arguments& a, Prepared& p) {
  if (!runs_on_cuda(a.input)) {
    drop_ignored_rows(a, p);
    check_target_values(p.target, a.weight.size(0));
  } else if (values_are_checked(a.target)) {
    const Tensor ignored = at::eq(a.target, a.ignore_index);
    check_target_values(at::masked_fill(a.target, ignored, 0), a.weight.size(0));
  }
  p.target = p.target.contiguous();
  p.in.target = p.target.const_data_ptr<int64_t>();
}

// Read in place where it is in the precision of the arithmetic.
void prepare_probabilities(const Arguments& a, Prepared& p) {
  p.target = with_adjacent_columns(a.target.to(accumulate_dtype(a.input.scalar_type())));
  p.in.probability = p.target.const_data_ptr();
  p.in.stride = p.target.stride(0);
}

void prepare(const Arguments& a, Prepared& p) {
  p.input = with_adjacent_columns(a.input);
  p.target = a.target;
  a.by_index() ? prepare_indices(a, p) : prepare_probabilities(a, p);
  check_class_weight(a.class_weight);
  p.weight = with_adjacent_columns(a.weight);
  if (a.bias) p.bias = a.bias->to(at::kDouble).contiguous();
  if (a.class_weight) p.class_weight = a.class_weight->to(at::kDouble).contiguous();
  p.scale = 1.0;
  static_cast<QueryKey&>(p.in) =
      query_key_of(p.input, p.weight, &p.scale, a.bias ? p.bias.const_data_ptr<double>() : nullptr,
                   {false, false, false});
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
void point_to(const Gradients& g, Params& p) {
  const auto& [input, weight, bias] = g;
  p.grad_input = input.numel() > 0 ? input.mutable_data_ptr() : nullptr;
  p.grad_weight = weight.numel() > 0 ? weight.mutable_data_ptr() : nullptr;
  p.grad_bias = bias.numel() > 0 ? bias.mutable_data_ptr<double>() : nullptr;
}

// What the forward pass leaves, of the rows that are not ignored.
struct Results {
  Tensor loss, sum, stats;
  Gradients grads;
};

void fwd_on_cpu(const Prepared& prepared, int64_t chunk, const Results& r) {
  LinearCrossEntropyFwd p{};
  p.in = prepared.in;
  p.loss = r.loss.mutable_data_ptr();
  p.sum = r.sum.mutable_data_ptr<double>();
  p.stats = r.stats.mutable_data_ptr<double>();
  p.chunk = chunk;
  point_to(r.grads, p);
  p.threads = threads_for(p.in);
  const Tensor workspace = empty({cpu::linear_cross_entropy_fwd_workspace(p)}, at::kByte, r.loss);
  p.workspace = workspace.mutable_data_ptr();
  cpu::linear_cross_entropy_fwd(p);
}

void bwd_on_cpu(const Prepared& prepared, const Tensor& g, const Tensor& stats,
                const Gradients& grads) {
  LinearCrossEntropyBwd p{};
  p.in = prepared.in;
  p.stats = stats.const_data_ptr<double>();
  p.grad_loss = g.const_data_ptr();
  point_to(grads, p);
  p.threads = threads_for(p.in);
  const Tensor workspace = empty({cpu::linear_cross_entropy_bwd_workspace(p)}, at::kByte, g);
  p.workspace = workspace.mutable_data_ptr();
  cpu::linear_cross_entropy_bwd(p);
}

// ---- CUDA

// Rows, logits and targets as the kernels of tiles read them; keeps the tensors alive.
struct OnCuda {
  Packed input, weight;
  Tensor classes, order, target_at, kept;
  LinearCrossEntropyTable table;
  const double* class_weight;
};

void describe_classes(CudaCall& call, const Prepared& x, const double* bias, OnCuda& c) {
  const int64_t padded = c.weight.view.padded_N();
  c.classes = empty({3, padded}, accumulate_dtype(x.input.scalar_type()), x.input);
  LinearCrossEntropyClasses p{};
  p.V = x.in.M;
  p.bias = bias;
  p.class_weight = c.class_weight;
  p.label_smoothing = x.in.label_smoothing;
  p.dtype = x.in.dtype;
  p.shift = call.write(c.classes[0]);
  p.share = call.write(c.classes[1]);
  p.uniform = call.write(c.classes[2]);
  call->linear_cross_entropy_classes(p, call.launch());
  c.table.shift = p.shift;
  c.table.share = p.share;
  c.table.uniform = p.uniform;
}

// Ignored rows go behind the others, which keep their order.
void describe_targets(CudaCall& call, const Prepared& x, int64_t ignore_index, OnCuda& c) {
  const int64_t padded = padded_rows(x.in.N);
  c.target_at = empty({padded}, at::kInt, x.input);
  c.kept = empty({padded}, at::kDouble, x.input);
  LinearCrossEntropyPlaces p{};
  p.N = x.in.N;
  p.V = x.in.M;
  if (x.in.target != nullptr) {
    const Tensor ignored = at::eq(x.target, ignore_index);
    c.order = empty({x.in.N}, at::kLong, x.input);
    p.target = call.read<int64_t>(x.target);
    p.sorted = call.read<int64_t>(
        call.keep(at::argsort(ignored, /*stable=*/true, /*dim=*/0, /*descending=*/false)));
    p.order = call.write<int64_t>(c.order);
  }
  p.ignore_index = ignore_index;
  p.class_weight = c.class_weight;
  p.label_smoothing = x.in.label_smoothing;
  p.target_at = call.write<int32_t>(c.target_at);
  p.kept = call.write<double>(c.kept);
  call->linear_cross_entropy_places(p, call.launch());
  c.table.order = p.order;
  c.table.target_at = p.target_at;
  c.table.kept = p.kept;
}

OnCuda start(CudaCall& call, const Prepared& x, int64_t ignore_index) {
  OnCuda c{};
  const double* bias = x.bias.defined() ? call.read<double>(x.bias) : nullptr;
  c.class_weight = x.class_weight.defined() ? call.read<double>(x.class_weight) : nullptr;
  describe_targets(call, x, ignore_index, c);
  c.input = pack(call, x.input, {}, false, c.table.order);
  c.weight = pack(call, x.weight, {}, false);
  c.table.input = c.input.view;
  c.table.weight = c.weight.view;
  describe_classes(call, x, bias, c);
  c.table.probability = x.in.probability != nullptr ? call.read(x.target) : nullptr;
  c.table.stride = x.in.stride;
  c.table.softcap = x.in.softcap;
  c.table.label_smoothing = x.in.label_smoothing;
  return c;
}

// Of the class weights; null where there are none or nobody asks.
const double* sum_class_weights(CudaCall& call, const Prepared& x, const OnCuda& c,
                                const Tensor& sum) {
  if (c.class_weight == nullptr || c.table.label_smoothing == 0) return nullptr;
  double* const to = call.write<double>(sum);
  sum_in_order(call, c.class_weight, x.in.M, to);
  return to;
}

// Returns the statistics for the kernels.
const double* sum_rows(CudaCall& call, const Prepared& x, const OnCuda& c, const Results& r) {
  const int64_t rows = x.in.N, padded = c.table.input.padded_N();
  const auto working = r.loss.scalar_type();
  LinearCrossEntropySums p{};
  p.in = c.table;
  p.splits = column_splits(rows, x.in.M);
  const bool dense = p.in.probability != nullptr, smooth = dense || p.in.label_smoothing > 0;
  const Tensor partial = empty({p.splits, padded, 2}, working, r.loss),
               logit = empty({padded}, working, r.loss),
               dot = empty({smooth ? p.splits : 0, padded}, at::kDouble, r.loss),
               mass = empty({dense ? p.splits : 0, padded}, at::kDouble, r.loss),
               class_sum = empty({}, at::kDouble, r.loss),
               wide = empty({rows}, at::kDouble, r.loss);
  p.partial = call.write(partial);
  p.logit = call.write(logit);
  p.dot = smooth ? call.write<double>(dot) : nullptr;
  p.mass = dense ? call.write<double>(mass) : nullptr;
  p.class_sum = sum_class_weights(call, x, c, class_sum);
  p.loss = call.write(r.loss);
  p.wide = call.write<double>(wide);
  p.stats = call.write<double>(r.stats);
  call->linear_cross_entropy_fwd(p, call.launch());
  sum_in_order(call, p.wide, rows, call.write<double>(r.sum));
  return p.stats;
}

// The units of upstream gradients and masses, and what comes of both for each row.
struct RowWeights {
  Tensor unit, masses, unit_mass, values;
  LinearCrossEntropyWeights view;
};

// `stats` for the kernels: those of the forward pass. `all` are the same as a tensor. Without g all
// upstream gradients are 1.
RowWeights weigh_rows(CudaCall& call, const OnCuda& c, const Tensor& g, const double* stats,
                      const Tensor& all) {
  RowWeights w;
  const PackedRows& rows = c.table.input;
  const auto working = accumulate_dtype(c.input.rows.scalar_type());
  w.unit = empty({}, at::kDouble, all);
  w.unit_mass = empty({}, at::kDouble, all);
  w.masses = all.select(1, 1).contiguous();
  w.values = empty({4, rows.padded_N()}, working, all);
  LinearCrossEntropyWeights p{};
  p.N = rows.N;
  p.stats = stats;
  p.grad_loss = g.defined() ? call.read(g) : nullptr;
  p.unit = g.defined() ? unit_of(call, p.grad_loss, rows.N, rows.dtype, w.unit) : nullptr;
  p.unit_mass = unit_of(call, call.read(w.masses), rows.N, Dtype::kFloat64, w.unit_mass);
  p.order = c.table.order;
  p.target_at = c.table.target_at;
  p.kept = c.table.kept;
  p.dtype = rows.dtype;
  p.shift = call.write(w.values[0]);
  p.fine = call.write(w.values[1]);
  p.gradient = call.write(w.values[2]);
  p.hit = call.write(w.values[3]);
  call->linear_cross_entropy_weights(p, call.launch());
  w.view = p;
  return w;
}

void finish_side(CudaCall& call, const RowWeights& w, const Packed& z, const int64_t* order,
                 const Tensor& product, const Tensor& grad) {
  if (grad.numel() == 0) return;
  FinishRows f = finish_of(call, z, product);
  f.unit = w.view.unit;
  f.multiplier = w.view.unit_mass;
  f.wide = grad.scalar_type() != z.rows.scalar_type();
  f.order = order;
  f.grad_first = call.write(grad);
  call->finish_rows(f, call.launch());
}

// The gradients, from what weigh_rows gave. Where that of the bias alone is wanted, G is written
// all the same.
void differentiate(CudaCall& call, const OnCuda& c, const RowWeights& w, const Gradients& grads) {
  const auto& [input, weight, bias] = grads;
  const PackedRows &x = c.table.input, &y = c.table.weight;
  const Tensor& like = c.input.rows;
  const auto working = w.values.scalar_type();
  const int64_t chunk = gradient_rows(x, y.N, weight.numel() > 0);
  const int64_t parts = chunk / column_part(x.dtype);
  const Tensor column_sums = empty({bias.numel() > 0 ? parts : 0, y.padded_N()}, working, like);
  LinearCrossEntropyTiles t{};
  t.in = c.table;
  t.shift = w.view.shift;
  t.fine = w.view.fine;
  t.gradient = w.view.gradient;
  t.hit = w.view.hit;
  t.splits = column_splits(chunk, y.N);
  t.column_sums = bias.numel() > 0 ? call.write(column_sums) : nullptr;
  LinearCrossEntropyBias b{};
  b.column_sums = t.column_sums;
  b.V = y.N;
  b.unit = w.view.unit;
  b.unit_mass = w.view.unit_mass;
  b.dtype = x.dtype;
  b.sum = bias.numel() > 0 ? call.write<double>(bias) : nullptr;
  GradientProducts to{c.weight.rows, {}, c.input.rows, {}};
  if (input.numel() > 0) to.row_product = empty({x.padded_N(), x.padded_D()}, working, like);
  if (weight.numel() > 0) to.column_product = empty({y.padded_N(), y.padded_D()}, working, like);
  multiply_gradient(call, to, x, y.N, chunk, [&](int64_t first, int64_t count, void* gradient) {
    t.first_row = first;
    t.rows = count;
    t.out = gradient;
    call->linear_cross_entropy_tiles(t, call.launch());
    if (b.sum == nullptr) return;
    b.parts = count / column_part(x.dtype);
    b.add = first > 0;
    call->linear_cross_entropy_bias(b, call.launch());
  });
  finish_side(call, w, c.input, c.table.order, to.row_product, input);
  finish_side(call, w, c.weight, nullptr, to.column_product, weight);
}

bool wants_any(const Gradients& grads) {
  const auto& [input, weight, bias] = grads;
  return input.numel() > 0 || weight.numel() > 0 || bias.numel() > 0;
}

// Gradients are recomputed here as well, in one call.
void fwd_on_cuda(const Prepared& x, int64_t ignore_index, const Results& r) {
  CudaCall call(x.input);
  const OnCuda c = start(call, x, ignore_index);
  const double* stats = sum_rows(call, x, c, r);
  if (!wants_any(r.grads)) return;
  differentiate(call, c, weigh_rows(call, c, {}, stats, r.stats), r.grads);
}

void bwd_on_cuda(const Prepared& x, int64_t ignore_index, const Tensor& g, const Tensor& stats,
                 const Gradients& grads) {
  CudaCall call(x.input);
  const OnCuda c = start(call, x, ignore_index);
  // An ignored row's must not be the largest, which is the unit of all.
  const Tensor upstream =
      x.in.target == nullptr ? g : at::masked_fill(g, at::eq(x.target, ignore_index), 0);
  differentiate(call, c, weigh_rows(call, c, upstream, call.read<double>(stats), stats), grads);
}

Results forward(const Arguments& a, const Prepared& prepared, int64_t chunk, Needs needs) {
  const auto accumulate = accumulate_dtype(a.input.scalar_type());
  const int64_t rows = prepared.in.N;
  Results r{empty({rows}, accumulate, a.input), at::zeros({}, a.input.options().dtype(at::kDouble)),
            empty({rows, 2}, at::kDouble, a.input), allocate(a, needs, rows, accumulate)};
  auto& [grad_input, grad_weight, grad_bias] = r.grads;
  if (rows == 0) {
    grad_weight.zero_();
    grad_bias.zero_();
  } else if (runs_on_cuda(a.input)) {
    fwd_on_cuda(prepared, a.ignore_index, r);
  } else {
    fwd_on_cpu(prepared, chunk, r);
  }
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
  if (runs_on_cuda(input)) {
    bwd_on_cuda(prepared, ignore_index, g, s, grads);
  } else {
    bwd_on_cpu(prepared, g, s, grads);
  }
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

void register_kernels(torch::Library& m) {
  m.impl("linear_cross_entropy_fwd", &linear_cross_entropy_fwd);
  m.impl("linear_cross_entropy_sum_fwd", &linear_cross_entropy_sum_fwd);
  m.impl("linear_cross_entropy_bwd", &linear_cross_entropy_bwd);
}
TORCH_LIBRARY_IMPL(sslkern, CPU, m) { register_kernels(m); }
TORCH_LIBRARY_IMPL(sslkern, CUDA, m) { register_kernels(m); }

TORCH_LIBRARY_IMPL(sslkern, CompositeExplicitAutograd, m) {
  m.impl("linear_cross_entropy_fwd", &linear_cross_entropy_fwd_unsupported);
  m.impl("linear_cross_entropy_sum_fwd", &linear_cross_entropy_sum_fwd_unsupported);
  m.impl("linear_cross_entropy_formed_bwd", &multiply_formed);
}

void register_autocast(torch::Library& m) {
  m.impl("linear_cross_entropy_fwd", &linear_cross_entropy_fwd_autocast);
  m.impl("linear_cross_entropy_sum_fwd", &linear_cross_entropy_sum_fwd_autocast);
}
TORCH_LIBRARY_IMPL(sslkern, AutocastCPU, m) { register_autocast(m); }
TORCH_LIBRARY_IMPL(sslkern, AutocastCUDA, m) { register_autocast(m); }

}  // namespace
}  // namespace sslkern::ops
