#include "contract/supcon.h"

#include <ATen/ops/sort.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

#include "ops/autocast.h"
#include "ops/backend.h"
#include "ops/check.h"

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
  SSLKERN_CHECK(VALUE, labels.device() == z.device(), kOp, "labels",
                c10::str("on the device of z, ", z.device().str()), labels.device().str());
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

// What the kernels read; keeps the tensors alive.
struct Prepared {
  Tensor z, order, end, temperature;
  SupconInput in;
};

Prepared prepare(const Tensor& z, const Tensor& order, const Tensor& end, const Tensor& temperature,
                 bool normalize, bool pairs) {
  Prepared p{with_adjacent_columns(z), order, end, temperature.to(at::kDouble).contiguous(), {}};
  p.in = {p.z.const_data_ptr(),
          p.z.stride(0),
          p.z.size(0),
          p.z.size(1),
          p.order.const_data_ptr<int64_t>(),
          p.end.const_data_ptr<int32_t>(),
          p.temperature.const_data_ptr<double>(),
          to_dtype(p.z.scalar_type()),
          normalize,
          pairs};
  return p;
}

using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Forward supcon_fwd(const Tensor& z, const Tensor& labels, const Tensor& temperature, bool normalize,
                   bool pairs) {
  check_inputs(z, labels, temperature);
  check_positive(kOp, "temperature", temperature.item<double>());
  const auto [order, end, positives] = sort_by_class(labels);
  const Prepared prepared = prepare(z, order, end, temperature, normalize, pairs);
  const int64_t rows = z.size(0), pair_rows = pairs ? rows : 0;
  Tensor negative = empty({rows}, at::kDouble, z), positive = empty({rows}, at::kDouble, z),
         sum = empty({rows}, at::kDouble, z);
  Tensor loss = empty({pair_rows}, at::kDouble, z), weight = empty({pair_rows}, at::kDouble, z);
  SupconFwd p{};
  p.in = prepared.in;
  p.lse_negative = negative.mutable_data_ptr<double>();
  p.lse_positive = positive.mutable_data_ptr<double>();
  p.sum_positive = sum.mutable_data_ptr<double>();
  p.pair_loss = pairs ? loss.mutable_data_ptr<double>() : nullptr;
  p.pair_weight = pairs ? weight.mutable_data_ptr<double>() : nullptr;
  p.threads = thread_count(rows);
  const Tensor workspace = empty({cpu::supcon_fwd_workspace(p)}, at::kByte, z);
  p.workspace = workspace.mutable_data_ptr();
  cpu::supcon_fwd(p);
  return {negative, positive, sum, loss, weight, positives, order, end};
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
  const Tensor a = check_rows("grad_lse_negative", grad_negative, rows),
               b = check_rows("grad_lse_positive", grad_positive, rows),
               c = check_rows("grad_sum_positive", grad_sum, rows),
               d = check_rows("grad_pair_loss", grad_pair_loss, pair_rows),
               n = check_rows("lse_negative", negative, rows),
               q = check_rows("lse_positive", positive, rows),
               w = check_rows("pair_weight", pair_weight, pair_rows);
  const Prepared prepared = prepare(z, order, end, temperature, normalize, pairs);
  Tensor grad_z = empty(z.sizes(), z.scalar_type(), z);
  Tensor grad_temperature = empty({}, at::kDouble, z);
  SupconBwd p{};
  p.in = prepared.in;
  p.lse_negative = n.const_data_ptr<double>();
  p.lse_positive = q.const_data_ptr<double>();
  p.pair_weight = pairs ? w.const_data_ptr<double>() : nullptr;
  p.grad_lse_negative = a.const_data_ptr<double>();
  p.grad_lse_positive = b.const_data_ptr<double>();
  p.grad_sum_positive = c.const_data_ptr<double>();
  p.grad_pair_loss = pairs ? d.const_data_ptr<double>() : nullptr;
  p.grad_z = grad_z.mutable_data_ptr();
  p.grad_temperature = grad_temperature.mutable_data_ptr<double>();
  p.threads = thread_count(rows);
  const Tensor workspace = empty({cpu::supcon_bwd_workspace(p)}, at::kByte, z);
  p.workspace = workspace.mutable_data_ptr();
  cpu::supcon_bwd(p);
  return {grad_z, grad_temperature.to(temperature.scalar_type()).reshape(temperature.sizes())};
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

TORCH_LIBRARY_IMPL(sslkern, CPU, m) {
  m.impl("supcon_fwd", &supcon_fwd);
  m.impl("supcon_bwd", &supcon_bwd);
}

TORCH_LIBRARY_IMPL(sslkern, CompositeExplicitAutograd, m) {
  m.impl("supcon_fwd", &supcon_fwd_unsupported);
}

TORCH_LIBRARY_IMPL(sslkern, AutocastCPU, m) { m.impl("supcon_fwd", &supcon_fwd_autocast); }

}  // namespace
}  // namespace sslkern::ops
