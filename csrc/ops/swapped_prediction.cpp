#include "contract/swapped_prediction.h"

#include <ATen/core/List.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "ops/autocast.h"
#include "ops/backend.h"
#include "ops/check.h"

namespace sslkern::ops {
namespace {

using at::Tensor;

constexpr const char* kOp = "swapped_prediction";

constexpr int64_t kRowDoubles = sizeof(SwappedPredictionRow) / sizeof(double);
static_assert(sizeof(SwappedPredictionRow) == kRowDoubles * sizeof(double));

// The arguments that both directions take.
struct Arguments {
  const std::vector<Tensor>& views;
  const Tensor& potential;
  double temperature, epsilon;
};

void check_views(const std::vector<Tensor>& views) {
  SSLKERN_CHECK(VALUE, views.size() > 1, kOp, "views", "at least two", views.size());
  check_matrix(kOp, "view 0", "(B, K)", views[0]);
  SSLKERN_CHECK(
      NOT_IMPLEMENTED, !runs_on_cuda(views[0]) || int64_t(views.size()) <= kMostViewsOnDevice, kOp,
      "views", c10::str("at most ", kMostViewsOnDevice, " on a CUDA device"), views.size());
  for (size_t v = 1; v < views.size(); ++v) {
    const auto name = c10::str("view ", v);
    check_float_tensor(kOp, name.c_str(), views[v]);
    check_like(kOp, name.c_str(), views[v], "view 0", views[0]);
  }
}

void check_arguments(const Arguments& a) {
  check_views(a.views);
  const int64_t columns = a.views[0].size(1);
  const Tensor& g = a.potential;
  SSLKERN_CHECK(VALUE,
                g.dim() == 2 && g.scalar_type() == at::kDouble && g.size(1) == columns &&
                    g.size(0) > 0 && g.size(0) <= int64_t(a.views.size()),
                kOp, "potential",
                c10::str("of shape (A, K) with K = ", columns, ", A at most the number of views, ",
                         "and dtype torch.float64"),
                "shape ", shape_name(g), " and dtype ", dtype_name(g.scalar_type()));
  check_same_device(kOp, "potential", g, "view 0", a.views[0]);
  check_positive(kOp, "temperature", a.temperature);
  check_positive(kOp, "epsilon", a.epsilon);
}

// The same, in the layout that the kernels read; keeps the tensors alive. `view` and `potential`
// of the input are for either backend to set.
struct Prepared {
  std::vector<Tensor> views;
  Tensor potential;
  SwappedPredictionInput in;
};

Prepared prepare(const Arguments& a) {
  Prepared p{};
  for (const Tensor& view : a.views) p.views.push_back(with_adjacent_columns(view));
  p.potential = a.potential.contiguous();
  const Tensor& first = p.views[0];
  p.in.V = int64_t(p.views.size());
  p.in.A = p.potential.size(0);
  p.in.B = first.size(0);
  p.in.K = first.size(1);
  p.in.temperature = a.temperature;
  p.in.epsilon = a.epsilon;
  p.in.dtype = to_dtype(first.scalar_type());
  return p;
}

struct Forward {
  Tensor loss, stats;
};

// ---- CPU

std::vector<SwappedPredictionView> rows_of(const Prepared& x) {
  std::vector<SwappedPredictionView> view;
  for (const Tensor& t : x.views) view.push_back({t.const_data_ptr(), t.stride(0)});
  return view;
}

int threads_for(const SwappedPredictionInput& in) {
  return thread_count_of_elements(in.V * in.B * in.K, in.B);
}

Tensor workspace_for(const SwappedPredictionInput& in, int threads, const Tensor& like) {
  return empty({cpu::swapped_prediction_workspace({in, threads})}, at::kByte, like);
}

Forward fwd_on_cpu(const Prepared& x) {
  const Tensor& like = x.views[0];
  const Tensor loss = empty({}, accumulate_dtype(like.scalar_type()), like),
               stats = empty({x.in.B, x.in.V, kRowDoubles}, at::kDouble, like),
               row_loss = empty({x.in.B}, at::kDouble, like);
  const auto view = rows_of(x);
  SwappedPredictionFwd p{};
  p.in = x.in;
  p.in.view = view.data();
  p.in.potential = x.potential.const_data_ptr<double>();
  p.row = reinterpret_cast<SwappedPredictionRow*>(stats.mutable_data_ptr<double>());
  p.row_loss = row_loss.mutable_data_ptr<double>();
  p.loss = loss.mutable_data_ptr();
  p.threads = threads_for(x.in);
  const Tensor workspace = workspace_for(p.in, p.threads, like);
  p.workspace = workspace.mutable_data_ptr();
  cpu::swapped_prediction_fwd(p);
  return {loss, stats};
}

void bwd_on_cpu(const Prepared& x, const Tensor& grad_loss, const Tensor& stats,
                const std::vector<Tensor>& grads) {
  const auto view = rows_of(x);
  std::vector<void*> grad_view;
  for (const Tensor& grad : grads) grad_view.push_back(grad.mutable_data_ptr());
  SwappedPredictionBwd p{};
  p.in = x.in;
  p.in.view = view.data();
  p.in.potential = x.potential.const_data_ptr<double>();
  p.row = reinterpret_cast<const SwappedPredictionRow*>(stats.const_data_ptr<double>());
  p.grad_loss = grad_loss.const_data_ptr<double>();
  p.grad_view = grad_view.data();
  p.threads = threads_for(x.in);
  const Tensor workspace = workspace_for(p.in, p.threads, x.views[0]);
  p.workspace = workspace.mutable_data_ptr();
  cpu::swapped_prediction_bwd(p);
}

// ---- CUDA

// Sets what both directions read.
template <class Params>
void set_inputs(CudaCall& call, const Prepared& x, Params& p) {
  p.in = x.in;
  p.in.potential = call.read<double>(x.potential);
  p.groups = swapped_prediction_groups(x.in);
  for (size_t v = 0; v < x.views.size(); ++v) {
    p.view[v] = {call.read(x.views[v]), x.views[v].stride(0)};
  }
}

Forward fwd_on_cuda(const Prepared& x) {
  const Tensor& like = x.views[0];
  CudaCall call(like);
  const Tensor loss = empty({}, at::kDouble, like),
               stats = empty({x.in.B, x.in.V, kRowDoubles}, at::kDouble, like),
               row_loss = empty({x.in.B, x.in.V}, at::kDouble, like);
  SwappedPredictionLosses p{};
  set_inputs(call, x, p);
  p.row = reinterpret_cast<SwappedPredictionRow*>(call.write<double>(stats));
  p.row_loss = call.write<double>(row_loss);
  call->swapped_prediction_fwd(p, call.launch());
  sum_in_order(call, p.row_loss, row_loss.numel(), call.write<double>(loss),
               swapped_prediction_weight(x.in));
  return {loss.to(accumulate_dtype(like.scalar_type())), stats};
}

void bwd_on_cuda(const Prepared& x, const Tensor& grad_loss, const Tensor& stats,
                 const std::vector<Tensor>& grads) {
  CudaCall call(x.views[0]);
  SwappedPredictionGradients p{};
  set_inputs(call, x, p);
  p.row = reinterpret_cast<const SwappedPredictionRow*>(call.read<double>(stats));
  p.grad_loss = call.read<double>(grad_loss);
  for (size_t v = 0; v < grads.size(); ++v) p.grad_view[v] = call.write(grads[v]);
  call->swapped_prediction_bwd(p, call.launch());
}

// ---- both

std::tuple<Tensor, Tensor> swapped_prediction_fwd(const c10::List<Tensor>& views,
                                                  const Tensor& potential, double temperature,
                                                  double epsilon) {
  const std::vector<Tensor> list = views.vec();
  const Arguments a{list, potential, temperature, epsilon};
  check_arguments(a);
  const Prepared x = prepare(a);
  const Forward result = runs_on_cuda(list[0]) ? fwd_on_cuda(x) : fwd_on_cpu(x);
  return {result.loss, result.stats};
}

c10::List<Tensor> swapped_prediction_bwd(const Tensor& grad_loss, const c10::List<Tensor>& views,
                                         const Tensor& potential, const Tensor& stats,
                                         double temperature, double epsilon) {
  const std::vector<Tensor> list = views.vec();
  const Arguments a{list, potential, temperature, epsilon};
  check_arguments(a);
  const Prepared x = prepare(a);
  check_scalar_tensor(kOp, "grad_loss", grad_loss);
  SSLKERN_CHECK(VALUE, stats.is_contiguous() && stats.numel() == x.in.B * x.in.V * kRowDoubles, kOp,
                "stats", "what the forward pass returned", "shape ", shape_name(stats));
  const Tensor upstream = grad_loss.to(at::kDouble).contiguous();
  std::vector<Tensor> grads;
  for (const Tensor& view : list) grads.push_back(empty(view.sizes(), view.scalar_type(), view));
  runs_on_cuda(list[0]) ? bwd_on_cuda(x, upstream, stats, grads)
                        : bwd_on_cpu(x, upstream, stats, grads);
  return c10::List<Tensor>(c10::ArrayRef<Tensor>(grads));
}

// Any layout or device without a kernel ends here: the checks say which, in the same words as
// everywhere.
std::tuple<Tensor, Tensor> swapped_prediction_fwd_unsupported(const c10::List<Tensor>& views,
                                                              const Tensor& potential,
                                                              double temperature, double epsilon) {
  const std::vector<Tensor> list = views.vec();
  check_arguments({list, potential, temperature, epsilon});
  TORCH_CHECK_NOT_IMPLEMENTED(false, "sslkern::swapped_prediction: no kernel for ",
                              list[0].device().str());
}

std::tuple<Tensor, Tensor> swapped_prediction_fwd_autocast(const c10::List<Tensor>& views,
                                                           const Tensor& potential,
                                                           double temperature, double epsilon) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  std::vector<Tensor> list = views.vec();
  std::vector<Tensor*> each;
  for (Tensor& view : list) each.push_back(&view);
  promote(each);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("sslkern::swapped_prediction_fwd", "")
                             .typed<decltype(swapped_prediction_fwd)>();
  return op.call(c10::List<Tensor>(c10::ArrayRef<Tensor>(list)), potential, temperature, epsilon);
}

TORCH_LIBRARY_FRAGMENT(sslkern, m) {
  m.def(
      "swapped_prediction_fwd(Tensor[] views, Tensor potential, float temperature, "
      "float epsilon) -> (Tensor loss, Tensor stats)");
  m.def(
      "swapped_prediction_bwd(Tensor grad_loss, Tensor[] views, Tensor potential, Tensor stats, "
      "float temperature, float epsilon) -> Tensor[]");
}

void register_kernels(torch::Library& m) {
  m.impl("swapped_prediction_fwd", &swapped_prediction_fwd);
  m.impl("swapped_prediction_bwd", &swapped_prediction_bwd);
}
TORCH_LIBRARY_IMPL(sslkern, CPU, m) { register_kernels(m); }
TORCH_LIBRARY_IMPL(sslkern, CUDA, m) { register_kernels(m); }

TORCH_LIBRARY_IMPL(sslkern, CompositeExplicitAutograd, m) {
  m.impl("swapped_prediction_fwd", &swapped_prediction_fwd_unsupported);
}

void register_autocast(torch::Library& m) {
  m.impl("swapped_prediction_fwd", &swapped_prediction_fwd_autocast);
}
TORCH_LIBRARY_IMPL(sslkern, AutocastCPU, m) { register_autocast(m); }
TORCH_LIBRARY_IMPL(sslkern, AutocastCUDA, m) { register_autocast(m); }

}  // namespace
}  // namespace sslkern::ops
