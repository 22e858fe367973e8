#include "contract/supcon.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/sort.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

#include "ops/autocast.h"
#include "ops/backend.h"
#include "ops/check.h"
#include "ops/packed.h"

namespace sslkern::ops {
namespace {

using at::Tensor;

constexpr const char* kOp = "supcon";

void check_inputs(const Tensor& z, const Tensor& labels, const Tensor& temperature) {
  check_matrix(kOp, "z", "(N, D)", z);
  SSLKERN_CHECK(VALUE, z.size(0) < (int64_t(1) << 31), kOp, "z", "of less than 2**31 rows",
                z.size(0));
  SSLKERN_CHECK(TYPE, labels.scalar_type() == at::kLong, kOp, "labels", "of dtype torch.int64",
                dtype_name(labels.scalar_type()));
  check_same_device(kOp, "labels", labels, "z", z);
  SSLKERN_CHECK(VALUE, labels.dim() == 1 && labels.size(0) == z.size(0), kOp, "labels",
                c10::str("of shape (N,) = (", z.size(0), ",)"), "shape ", shape_name(labels));
  check_scalar_tensor(kOp, "temperature", temperature);
}

// The rows in the order of their classes, where the class of each place ends, and the number of
// positives of each row.
std::tuple<Tensor, Tensor, Tensor> sort_by_class(const Tensor& labels) {
  const auto [sorted, order] = at::sort(labels, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const int64_t rows = labels.size(0);
  Tensor end = empty({rows}, at::kInt, labels), positives = empty({rows}, at::kLong, labels);
  const int64_t* label = sorted.const_data_ptr<int64_t>();
  const int64_t* row = order.const_data_ptr<int64_t>();
  for (int64_t first = 0, last; first < rows; first = last) {
    last = std::find_if(label + first, label + rows,
                        [&](int64_t other) { return other != label[first]; }) -
           label;
    std::fill(end.mutable_data_ptr<int32_t>() + first, end.mutable_data_ptr<int32_t>() + last,
              int32_t(last));
    for (int64_t place = first; place < last; ++place) {
      positives.mutable_data_ptr<int64_t>()[row[place]] = last - first - 1;
    }
  }
  return {order, end, positives};
}

SupconInput input_of(const Tensor& z, const Tensor& order, const Tensor& end, const Tensor& tau,
                     bool normalize, bool pairs) {
  return {z.const_data_ptr(),
          z.stride(0),
          z.size(0),
          z.size(1),
          order.const_data_ptr<int64_t>(),
          end.const_data_ptr<int32_t>(),
          tau.const_data_ptr<double>(),
          to_dtype(z.scalar_type()),
          normalize,
          pairs};
}

// What the operator gives, (N) each; those of pairs are empty without.
struct Statistics {
  Tensor negative, positive, sum, pair_loss, pair_weight;  // float64
  Tensor positives, order, end;
};

Statistics empty_statistics(const Tensor& z, bool pairs) {
  const int64_t rows = z.size(0), pair_rows = pairs ? rows : 0;
  Statistics s;
  for (Tensor* t : {&s.negative, &s.positive, &s.sum}) *t = empty({rows}, at::kDouble, z);
  for (Tensor* t : {&s.pair_loss, &s.pair_weight}) *t = empty({pair_rows}, at::kDouble, z);
  return s;
}

Statistics fwd_on_cpu(const Tensor& z, const Tensor& labels, const Tensor& tau, bool normalize,
                      bool pairs) {
  Statistics s = empty_statistics(z, pairs);
  std::tie(s.order, s.end, s.positives) = sort_by_class(labels);
  SupconFwd p{};
  p.in = input_of(z, s.order, s.end, tau, normalize, pairs);
  p.lse_negative = s.negative.mutable_data_ptr<double>();
  p.lse_positive = s.positive.mutable_data_ptr<double>();
  p.sum_positive = s.sum.mutable_data_ptr<double>();
  p.pair_loss = pairs ? s.pair_loss.mutable_data_ptr<double>() : nullptr;
  p.pair_weight = pairs ? s.pair_weight.mutable_data_ptr<double>() : nullptr;
  p.threads = thread_count(z.size(0));
  const Tensor workspace = empty({cpu::supcon_fwd_workspace(p)}, at::kByte, z);
  p.workspace = workspace.mutable_data_ptr();
  cpu::supcon_fwd(p);
  return s;
}

// Nothing here waits for the device: neither sorting does, nor the search for the classes.
Statistics fwd_on_cuda(const Tensor& z, const Tensor& labels, const Tensor& tau, bool normalize,
                       bool pairs) {
  CudaCall call(z);
  const int64_t rows = z.size(0);
  Statistics s = empty_statistics(z, pairs);
  const auto [sorted, order] = at::sort(labels, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const Tensor begin = empty({rows}, at::kInt, z);
  s.order = order;
  s.end = empty({rows}, at::kInt, z);
  s.positives = empty({rows}, at::kLong, z);
  SupconClasses c{};
  c.labels = call.read<int64_t>(sorted);
  c.order = call.read<int64_t>(order);
  c.N = rows;
  c.begin = call.write<int32_t>(begin);
  c.end = call.write<int32_t>(s.end);
  c.positives = call.write<int64_t>(s.positives);
  call->supcon_classes(c, call.launch());

  const Packed packed = pack(call, z, {}, normalize, c.order);
  const auto working = accumulate_dtype(z.scalar_type());
  const int64_t padded = packed.view.padded_N(), splits = column_splits(rows, rows);
  const SupconRows in{packed.view, call.read<double>(tau), c.order, c.begin, c.end, pairs};
  const Tensor partial = empty({2, splits, padded, 2}, working, z),
               lse = empty({2, pairs ? padded : 0}, working, z),
               sums = empty({splits, supcon_sums(pairs), padded}, working, z);
  SupconNegatives n{};
  n.in = in;
  n.splits = splits;
  n.partial = call.write(partial[0]);
  n.high = pairs ? call.write(lse[0]) : nullptr;
  n.low = pairs ? call.write(lse[1]) : nullptr;
  n.lse_negative = call.write<double>(s.negative);
  call->supcon_negatives(n, call.launch());
  SupconPositives q{};
  q.in = in;
  q.high = n.high;
  q.low = n.low;
  q.splits = splits;
  q.partial = call.write(partial[1]);
  q.sums = call.write(sums);
  q.lse_positive = call.write<double>(s.positive);
  q.sum_positive = call.write<double>(s.sum);
  q.pair_loss = pairs ? call.write<double>(s.pair_loss) : nullptr;
  q.pair_weight = pairs ? call.write<double>(s.pair_weight) : nullptr;
  call->supcon_positives(q, call.launch());
  return s;
}

using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Forward supcon_fwd(const Tensor& z, const Tensor& labels, const Tensor& temperature, bool normalize,
                   bool pairs) {
  check_inputs(z, labels, temperature);
  if (values_are_checked(temperature)) {
    check_positive(kOp, "temperature", temperature.item<double>());
  }
  const Tensor x = with_adjacent_columns(z), tau = as_double(temperature, z);
  const Statistics s = runs_on_cuda(x) ? fwd_on_cuda(x, labels, tau, normalize, pairs)
                                       : fwd_on_cpu(x, labels, tau, normalize, pairs);
  return {s.negative, s.positive, s.sum, s.pair_loss, s.pair_weight, s.positives, s.order, s.end};
}

// What both backends take, once checked: the upstream gradients of the statistics, and what the
// forward pass has left.
struct Backward {
  Tensor negative_grad, positive_grad, sum_grad, pair_grad;
  Tensor z, tau, negative, positive, pair_weight, order, end;
  bool normalize, pairs;
};
struct Gradients {
  Tensor z, temperature;
};

Gradients empty_gradients(const Backward& x) {
  return {empty(x.z.sizes(), x.z.scalar_type(), x.z), at::empty_like(x.tau)};
}

Gradients bwd_on_cpu(const Backward& x) {
  const Gradients grad = empty_gradients(x);
  SupconBwd p{};
  p.in = input_of(x.z, x.order, x.end, x.tau, x.normalize, x.pairs);
  p.lse_negative = x.negative.const_data_ptr<double>();
  p.lse_positive = x.positive.const_data_ptr<double>();
  p.pair_weight = x.pairs ? x.pair_weight.const_data_ptr<double>() : nullptr;
  p.grad_lse_negative = x.negative_grad.const_data_ptr<double>();
  p.grad_lse_positive = x.positive_grad.const_data_ptr<double>();
  p.grad_sum_positive = x.sum_grad.const_data_ptr<double>();
  p.grad_pair_loss = x.pairs ? x.pair_grad.const_data_ptr<double>() : nullptr;
  p.grad_z = grad.z.mutable_data_ptr();
  p.grad_temperature = grad.temperature.mutable_data_ptr<double>();
  p.threads = thread_count(x.z.size(0));
  const Tensor workspace = empty({cpu::supcon_bwd_workspace(p)}, at::kByte, x.z);
  p.workspace = workspace.mutable_data_ptr();
  cpu::supcon_bwd(p);
  return grad;
}

// `unit` and `upstream` are memory for what their names say.
SupconWeights weights_on_cuda(CudaCall& call, const Backward& x, const PackedRows& z,
                              const std::int64_t* order, const Tensor& unit, const Tensor& upstream,
                              const Tensor& weights) {
  SupconUpstream u{};
  u.N = z.N;
  u.order = order;
  u.pair_weight = x.pairs ? call.read<double>(x.pair_weight) : nullptr;
  u.grad_lse_negative = call.read<double>(x.negative_grad);
  u.grad_lse_positive = call.read<double>(x.positive_grad);
  u.grad_sum_positive = call.read<double>(x.sum_grad);
  u.grad_pair_loss = x.pairs ? call.read<double>(x.pair_grad) : nullptr;
  u.upstream = call.write<double>(upstream);
  call->supcon_upstream(u, call.launch());

  SupconWeights w{};
  w.N = z.N;
  w.padded_N = z.padded_N();
  w.order = order;
  w.lse_negative = call.read<double>(x.negative);
  w.lse_positive = call.read<double>(x.positive);
  w.upstream = u.upstream;
  w.unit = unit_of(call, u.upstream, upstream.numel(), Dtype::kFloat64, unit);
  w.dtype = z.dtype;
  w.pairs = x.pairs;
  const auto row = [&](int64_t k) { return call.write(weights[k]); };
  w.negative = {row(0), row(1), row(2)};
  w.positive = {row(3), row(4), row(5)};
  w.logit = row(6);
  w.pair = x.pairs ? row(7) : nullptr;
  w.low = x.pairs ? row(8) : nullptr;
  call->supcon_weights(w, call.launch());
  return w;
}

Gradients bwd_on_cuda(const Backward& x) {
  CudaCall call(x.z);
  const std::int64_t* order = call.read<int64_t>(x.order);
  const Packed z = pack(call, x.z, {}, x.normalize, order);
  const int64_t rows = z.view.N;
  const auto working = accumulate_dtype(x.z.scalar_type());
  const Tensor unit = empty({}, at::kDouble, x.z), upstream = empty({4, rows}, at::kDouble, x.z),
               weights = empty({x.pairs ? 9 : 7, z.view.padded_N()}, working, x.z),
               product = empty({z.view.padded_N(), z.view.padded_D()}, working, x.z);
  const SupconWeights w = weights_on_cuda(call, x, z.view, order, unit, upstream, weights);

  SupconTiles t{};
  t.in = {z.view, call.read<double>(x.tau), order, nullptr, call.read<int32_t>(x.end), x.pairs};
  t.normalized = x.normalize;
  t.negative = w.negative;
  t.positive = w.positive;
  t.logit = w.logit;
  t.pair = w.pair;
  t.low = w.low;
  const int64_t chunk = gradient_rows(z.view, rows, false);
  t.splits = column_splits(chunk, rows);
  const Tensor slope = empty_slopes(z.view, t.splits, x.z);
  t.slope = call.write<double>(slope);
  multiply_gradient(call, {z.rows, product, {}, {}}, z.view, rows, chunk,
                    [&](int64_t first, int64_t count, void* gradient) {
                      t.first_row = first;
                      t.rows = count;
                      t.gradient = gradient;
                      call->supcon_tiles(t, call.launch());
                    });

  const Gradients grad = empty_gradients(x);
  FinishRows f = finish_of(call, z, product);
  f.unit = w.unit;
  f.divisor = t.in.temperature;
  f.normalize = x.normalize;
  f.order = order;
  f.grad_first = call.write(grad.z);
  call->finish_rows(f, call.launch());
  sum_in_order(call, t.slope, slope.numel(), call.write<double>(grad.temperature),
               -0.5 * 0.69314718055994530942, w.unit, t.in.temperature);
  return grad;
}

// A statistic of the forward pass, or the gradient of one.
Tensor check_rows(const char* name, const Tensor& t, int64_t rows) {
  SSLKERN_CHECK(VALUE, t.dim() == 1 && t.size(0) == rows && t.scalar_type() == at::kDouble, kOp,
                name, c10::str("of shape (", rows, ",) and dtype torch.float64"), "shape ",
                shape_name(t), " and dtype ", dtype_name(t.scalar_type()));
  return t.contiguous();
}

std::tuple<Tensor, Tensor> supcon_bwd(const Tensor& grad_negative, const Tensor& grad_positive,
                                      const Tensor& grad_sum, const Tensor& grad_pair_loss,
                                      const Tensor& z, const Tensor& temperature,
                                      const Tensor& negative, const Tensor& positive,
                                      const Tensor& pair_weight, const Tensor& order,
                                      const Tensor& end, bool normalize, bool pairs) {
  check_inputs(z, order, temperature);
  const int64_t rows = z.size(0), pair_rows = pairs ? rows : 0;
  const Backward x{check_rows("grad_lse_negative", grad_negative, rows),
                   check_rows("grad_lse_positive", grad_positive, rows),
                   check_rows("grad_sum_positive", grad_sum, rows),
                   check_rows("grad_pair_loss", grad_pair_loss, pair_rows),
                   with_adjacent_columns(z),
                   as_double(temperature, z),
                   check_rows("lse_negative", negative, rows),
                   check_rows("lse_positive", positive, rows),
                   check_rows("pair_weight", pair_weight, pair_rows),
                   order.contiguous(),
                   end.contiguous(),
                   normalize,
                   pairs};
  const Gradients grad = runs_on_cuda(x.z) ? bwd_on_cuda(x) : bwd_on_cpu(x);
  return {grad.z, as_gradient_of(temperature, grad.temperature)};
}

// Any layout or device without a kernel ends here: the checks say which, in the same words as
// everywhere.
Forward supcon_fwd_unsupported(const Tensor& z, const Tensor& labels, const Tensor& temperature,
                               bool, bool) {
  check_inputs(z, labels, temperature);
  TORCH_CHECK_NOT_IMPLEMENTED(false, "sslkern::supcon: no kernel for ", z.device().str());
}

Forward supcon_fwd_autocast(const Tensor& z, const Tensor& labels, const Tensor& temperature,
                            bool normalize, bool pairs) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  Tensor x = z;
  promote({&x});
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("sslkern::supcon_fwd", "")
                             .typed<decltype(supcon_fwd)>();
  return op.call(x, labels, temperature, normalize, pairs);
}

TORCH_LIBRARY_FRAGMENT(sslkern, m) {
  m.def(
      "supcon_fwd(Tensor z, Tensor labels, Tensor temperature, bool normalize, bool pairs) -> "
      "(Tensor lse_negative, Tensor lse_positive, Tensor sum_positive, Tensor pair_loss, "
      "Tensor pair_weight, Tensor positives, Tensor order, Tensor end)");
  m.def(
      "supcon_bwd(Tensor grad_lse_negative, Tensor grad_lse_positive, Tensor grad_sum_positive, "
      "Tensor grad_pair_loss, Tensor z, Tensor temperature, Tensor lse_negative, "
      "Tensor lse_positive, Tensor pair_weight, Tensor order, Tensor end, bool normalize, "
      "bool pairs) -> (Tensor grad_z, Tensor grad_temperature)");
}

void register_kernels(torch::Library& m) {
  m.impl("supcon_fwd", &supcon_fwd);
  m.impl("supcon_bwd", &supcon_bwd);
}
TORCH_LIBRARY_IMPL(sslkern, CPU, m) { register_kernels(m); }
TORCH_LIBRARY_IMPL(sslkern, CUDA, m) { register_kernels(m); }

TORCH_LIBRARY_IMPL(sslkern, CompositeExplicitAutograd, m) {
  m.impl("supcon_fwd", &supcon_fwd_unsupported);
}

TORCH_LIBRARY_IMPL(sslkern, AutocastCPU, m) { m.impl("supcon_fwd", &supcon_fwd_autocast); }
TORCH_LIBRARY_IMPL(sslkern, AutocastCUDA, m) { m.impl("supcon_fwd", &supcon_fwd_autocast); }

}  // namespace
}  // namespace sslkern::ops
