#include "contract/sampled_logits.h"

#include <ATen/ops/aminmax.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

#include "ops/autocast.h"
#include "ops/backend.h"
#include "ops/check.h"

namespace sslkern::ops {
namespace {

using at::Tensor;

constexpr const char* kOp = "sampled_logits";

void check_arguments(const Tensor& query, const Tensor& table, const Tensor& index) {
  check_matrix(kOp, "query", "(N, D)", query);
  check_matrix(kOp, "table", "(V, D)", table);
  check_same_columns(kOp, "table", "(V, D)", table, "query", query);
  SSLKERN_CHECK(TYPE, index.layout() == at::kStrided, kOp, "index", "a dense tensor", "layout ",
                index.layout());
  SSLKERN_CHECK(TYPE, index.scalar_type() == at::kLong, kOp, "index", "of dtype torch.int64",
                dtype_name(index.scalar_type()));
  SSLKERN_CHECK(VALUE, index.device() == query.device(), kOp, "index",
                c10::str("on the device of query, ", query.device().str()), index.device().str());
  SSLKERN_CHECK(VALUE, index.dim() == 2 && index.size(0) == query.size(0) && index.size(1) > 0, kOp,
                "index",
                c10::str("of shape (N, K) with the N of query, ", query.size(0), ", and K > 0"),
                "shape ", shape_name(index));
}

// Reads values: only where that does not synchronise with a device.
void check_index_values(const Tensor& index, int64_t rows) {
  const auto [low, high] = at::aminmax(index);
  for (const int64_t value : {low.item<int64_t>(), high.item<int64_t>()}) {
    SSLKERN_CHECK(VALUE, value >= 0 && value < rows, kOp, "index",
                  c10::str("of values in [0, ", rows, "), the rows of table"), value);
  }
}

// The arguments in the layout that the kernels read; keeps the tensors alive.
struct Prepared {
  Tensor query, table, index;
  SampledLogitsInput in;
};

Prepared prepare(const Tensor& query, const Tensor& table, const Tensor& index) {
  Prepared p{with_adjacent_columns(query), with_adjacent_columns(table), index.contiguous(), {}};
  p.in = {p.query.const_data_ptr(),
          p.table.const_data_ptr(),
          p.query.stride(0),
          p.table.stride(0),
          p.index.const_data_ptr<int64_t>(),
          p.index.size(0),
          p.index.size(1),
          p.table.size(0),
          p.table.size(1),
          to_dtype(p.query.scalar_type())};
  return p;
}

// Below so many multiply-adds each, threads cost more to start than they compute.
int threads_for(const SampledLogitsInput& in, int64_t rows) {
  constexpr int64_t kLeast = int64_t(1) << 15;
  return int(std::clamp<int64_t>(rows * in.D / kLeast, 1, at::get_num_threads()));
}

Tensor sampled_logits_fwd(const Tensor& query, const Tensor& table, const Tensor& index) {
  check_arguments(query, table, index);
  check_index_values(index, table.size(0));
  const Prepared prepared = prepare(query, table, index);
  Tensor logits = empty(index.sizes(), accumulate_dtype(query.scalar_type()), query);
  SampledLogitsFwd p{};
  p.in = prepared.in;
  p.logits = logits.mutable_data_ptr();
  p.threads = threads_for(p.in, index.numel());
  const Tensor workspace = empty({cpu::sampled_logits_fwd_workspace(p)}, at::kByte, query);
  p.workspace = workspace.mutable_data_ptr();
  cpu::sampled_logits_fwd(p);
  return logits;
}

std::tuple<Tensor, Tensor> sampled_logits_bwd(const Tensor& grad_logits, const Tensor& query,
                                              const Tensor& table, const Tensor& index,
                                              bool need_query, bool need_table) {
  check_arguments(query, table, index);
  check_index_values(index, table.size(0));
  const auto dtype = query.scalar_type(), accumulate = accumulate_dtype(dtype);
  SSLKERN_CHECK(VALUE, grad_logits.sizes() == index.sizes(), kOp, "grad_logits",
                c10::str("of the shape of index, ", shape_name(index)), "shape ",
                shape_name(grad_logits));
  SSLKERN_CHECK(TYPE, grad_logits.scalar_type() == accumulate, kOp, "grad_logits",
                c10::str("of dtype ", dtype_name(accumulate)),
                dtype_name(grad_logits.scalar_type()));
  const Prepared prepared = prepare(query, table, index);
  const Tensor g = grad_logits.contiguous();
  Tensor grad_query = empty({need_query ? query.size(0) : 0, query.size(1)}, dtype, query);
  Tensor grad_table = empty({need_table ? table.size(0) : 0, table.size(1)}, dtype, query);
  SampledLogitsBwd p{};
  p.in = prepared.in;
  p.grad_logits = g.const_data_ptr();
  p.grad_query = need_query ? grad_query.mutable_data_ptr() : nullptr;
  p.grad_table = need_table ? grad_table.mutable_data_ptr() : nullptr;
  p.threads = threads_for(p.in, index.numel() + (need_table ? table.size(0) : 0));
  const Tensor workspace = empty({cpu::sampled_logits_bwd_workspace(p)}, at::kByte, query);
  p.workspace = workspace.mutable_data_ptr();
  cpu::sampled_logits_bwd(p);
  return {grad_query, grad_table};
}

// Any layout or device without a kernel ends here: the checks say which, in the same words as
// everywhere.
Tensor sampled_logits_fwd_unsupported(const Tensor& query, const Tensor& table,
                                      const Tensor& index) {
  check_arguments(query, table, index);
  TORCH_CHECK_NOT_IMPLEMENTED(false, "sslkern::sampled_logits: no kernel for ",
                              query.device().str());
}

Tensor sampled_logits_fwd_autocast(const Tensor& query, const Tensor& table, const Tensor& index) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  Tensor q = query, t = table;
  promote({&q, &t});
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("sslkern::sampled_logits_fwd", "")
                             .typed<decltype(sampled_logits_fwd)>();
  return op.call(q, t, index);
}

TORCH_LIBRARY_FRAGMENT(sslkern, m) {
  m.def("sampled_logits_fwd(Tensor query, Tensor table, Tensor index) -> Tensor");
  m.def(
      "sampled_logits_bwd(Tensor grad_logits, Tensor query, Tensor table, Tensor index, "
      "bool need_query, bool need_table) -> (Tensor grad_query, Tensor grad_table)");
}

TORCH_LIBRARY_IMPL(sslkern, CPU, m) {
  m.impl("sampled_logits_fwd", &sampled_logits_fwd);
  m.impl("sampled_logits_bwd", &sampled_logits_bwd);
}

TORCH_LIBRARY_IMPL(sslkern, CompositeExplicitAutograd, m) {
  m.impl("sampled_logits_fwd", &sampled_logits_fwd_unsupported);
}

TORCH_LIBRARY_IMPL(sslkern, AutocastCPU, m) {
  m.impl("sampled_logits_fwd", &sampled_logits_fwd_autocast);
}

}  // namespace
}  // namespace sslkern::ops
