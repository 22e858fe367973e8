#include "contract/sampled_logits.h"

#include <ATen/ops/aminmax.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
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
  check_same_device(kOp, "index", index, "query", query);
  SSLKERN_CHECK(VALUE, index.dim() == 2 && index.size(0) == query.size(0) && index.size(1) > 0, kOp,
                "index",
                c10::str("of shape (N, K) with the N of query, ", query.size(0), ", and K > 0"),
                "shape ", shape_name(index));
}

void check_index_values(const Tensor& index, int64_t rows) {
  if (!values_are_checked(index)) return;
  const auto [low, high] = at::aminmax(index);
  for (const int64_t value : {low.item<int64_t>(), high.item<int64_t>()}) {
    SSLKERN_CHECK(VALUE, value >= 0 && value < rows, kOp, "index",
                  c10::str("of values in [0, ", rows, "), the rows of table"), value);
  }
}

// The arguments in the layout that the kernels read.
struct Prepared {
  Tensor query, table, index;
};

Prepared prepare(const Tensor& query, const Tensor& table, const Tensor& index) {
  return {with_adjacent_columns(query), with_adjacent_columns(table), index.contiguous()};
}

// read(tensor) gives the address that the kernels read it at.
template <class Read>
SampledLogitsInput input_of(const Prepared& x, const Read& read) {
  return {read(x.query),
          read(x.table),
          x.query.stride(0),
          x.table.stride(0),
          static_cast<const int64_t*>(read(x.index)),
          x.index.size(0),
          x.index.size(1),
          x.table.size(0),
          x.table.size(1),
          to_dtype(x.query.scalar_type())};
}

SampledLogitsInput input_on_cpu(const Prepared& x) {
  return input_of(x, [](const Tensor& t) { return t.const_data_ptr(); });
}
SampledLogitsInput input_on_cuda(CudaCall& call, const Prepared& x) {
  return input_of(x, [&](const Tensor& t) { return call.read(t); });
}

// Below so many multiply-adds each, threads cost more to start than they compute.
int threads_for(const SampledLogitsInput& in, int64_t rows) {
  constexpr int64_t kLeast = int64_t(1) << 15;
  return int(std::clamp<int64_t>(rows * in.D / kLeast, 1, at::get_num_threads()));
}

void fwd_on_cpu(const Prepared& x, const Tensor& logits) {
  SampledLogitsFwd p{};
  p.in = input_on_cpu(x);
  p.logits = logits.mutable_data_ptr();
  p.threads = threads_for(p.in, x.index.numel());
  const Tensor workspace = empty({cpu::sampled_logits_fwd_workspace(p)}, at::kByte, x.query);
  p.workspace = workspace.mutable_data_ptr();
  cpu::sampled_logits_fwd(p);
}

void fwd_on_cuda(const Prepared& x, const Tensor& logits) {
  CudaCall call(x.query);
  SampledLogitsDots p{};
  p.in = input_on_cuda(call, x);
  p.logits = call.write(logits);
  call->sampled_logits_fwd(p, call.launch());
}

Tensor sampled_logits_fwd(const Tensor& query, const Tensor& table, const Tensor& index) {
  check_arguments(query, table, index);
  check_index_values(index, table.size(0));
  const Prepared x = prepare(query, table, index);
  Tensor logits = empty(index.sizes(), accumulate_dtype(query.scalar_type()), query);
  runs_on_cuda(query) ? fwd_on_cuda(x, logits) : fwd_on_cpu(x, logits);
  return logits;
}

// The gradients of query and table, without rows where they are not wanted.
struct Wanted {
  bool query, table;
};
using Gradients = std::tuple<Tensor, Tensor>;

Gradients bwd_on_cpu(const Prepared& x, const Tensor& g, Wanted wanted) {
  const auto dtype = x.query.scalar_type();
  Tensor grad_query = empty({wanted.query ? x.query.size(0) : 0, x.query.size(1)}, dtype, x.query),
         grad_table = empty({wanted.table ? x.table.size(0) : 0, x.table.size(1)}, dtype, x.query);
  SampledLogitsBwd p{};
  p.in = input_on_cpu(x);
  p.grad_logits = g.const_data_ptr();
  p.grad_query = wanted.query ? grad_query.mutable_data_ptr() : nullptr;
  p.grad_table = wanted.table ? grad_table.mutable_data_ptr() : nullptr;
  p.threads = threads_for(p.in, x.index.numel() + (wanted.table ? x.table.size(0) : 0));
  const Tensor workspace = empty({cpu::sampled_logits_bwd_workspace(p)}, at::kByte, x.query);
  p.workspace = workspace.mutable_data_ptr();
  cpu::sampled_logits_bwd(p);
  return {grad_query, grad_table};
}

// The samples by row of the table, in 32 bits where these number the rows: half the sort.
Gradients sorted_samples(const Tensor& index, int64_t rows) {
  const bool narrow = rows < std::numeric_limits<int32_t>::max();
  const Tensor bounded = at::clamp(index.flatten(), -1, rows);
  return at::sort(narrow ? bounded.to(at::kInt) : bounded, /*stable=*/true, /*dim=*/0,
                  /*descending=*/false);
}

void grad_table_on_cuda(CudaCall& call, const Prepared& x, const SampledLogitsInput& in,
                        const void* grad_logits, const Tensor& grad_table) {
  const auto [row, order] = sorted_samples(x.index, in.V);
  const Tensor open = empty({sorted_tiles(row.numel()), 2, padded_sum_dims(in.D)},
                            accumulate_dtype(x.query.scalar_type()), x.query);
  SampledLogitsTableGradient p{};
  p.in = in;
  p.row = call.read(call.keep(row));
  p.wide = row.scalar_type() == at::kLong;
  p.order = call.read<int64_t>(call.keep(order));
  p.grad_logits = grad_logits;
  p.open = call.scratch(open);
  p.grad_table = call.write(grad_table);
  call->sampled_logits_grad_table(p, call.launch());
}

Gradients bwd_on_cuda(const Prepared& x, const Tensor& g, Wanted wanted) {
  const auto dtype = x.query.scalar_type();
  Tensor grad_query = empty({wanted.query ? x.query.size(0) : 0, x.query.size(1)}, dtype, x.query),
         grad_table =
             at::zeros({wanted.table ? x.table.size(0) : 0, x.table.size(1)}, x.query.options());
  CudaCall call(x.query);
  const SampledLogitsInput in = input_on_cuda(call, x);
  const void* grad_logits = call.read(g);
  if (wanted.query) {
    SampledLogitsQueryGradient p{};
    p.in = in;
    p.grad_logits = grad_logits;
    p.grad_query = call.write(grad_query);
    call->sampled_logits_grad_query(p, call.launch());
  }
  if (wanted.table) grad_table_on_cuda(call, x, in, grad_logits, grad_table);
  return {grad_query, grad_table};
}

Gradients sampled_logits_bwd(const Tensor& grad_logits, const Tensor& query, const Tensor& table,
                             const Tensor& index, bool need_query, bool need_table) {
  check_arguments(query, table, index);
  check_index_values(index, table.size(0));
  const auto accumulate = accumulate_dtype(query.scalar_type());
  SSLKERN_CHECK(VALUE, grad_logits.sizes() == index.sizes(), kOp, "grad_logits",
                c10::str("of the shape of index, ", shape_name(index)), "shape ",
                shape_name(grad_logits));
  SSLKERN_CHECK(TYPE, grad_logits.scalar_type() == accumulate, kOp, "grad_logits",
                c10::str("of dtype ", dtype_name(accumulate)),
                dtype_name(grad_logits.scalar_type()));
  const Prepared x = prepare(query, table, index);
  const Tensor g = grad_logits.contiguous();
  const Wanted wanted{need_query, need_table};
  return runs_on_cuda(query) ? bwd_on_cuda(x, g, wanted) : bwd_on_cpu(x, g, wanted);
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

void register_kernels(torch::Library& m) {
  m.impl("sampled_logits_fwd", &sampled_logits_fwd);
  m.impl("sampled_logits_bwd", &sampled_logits_bwd);
}
TORCH_LIBRARY_IMPL(sslkern, CPU, m) { register_kernels(m); }
TORCH_LIBRARY_IMPL(sslkern, CUDA, m) { register_kernels(m); }

TORCH_LIBRARY_IMPL(sslkern, CompositeExplicitAutograd, m) {
  m.impl("sampled_logits_fwd", &sampled_logits_fwd_unsupported);
}

void register_autocast(torch::Library& m) {
  m.impl("sampled_logits_fwd", &sampled_logits_fwd_autocast);
}
TORCH_LIBRARY_IMPL(sslkern, AutocastCPU, m) { register_autocast(m); }
TORCH_LIBRARY_IMPL(sslkern, AutocastCUDA, m) { register_autocast(m); }

}  // namespace
}  // namespace sslkern::ops
