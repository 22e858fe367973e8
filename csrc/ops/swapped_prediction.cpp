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
  check_positive(kOp, "temperature", a.temperature);
  check_positive(kOp, "epsilon", a.epsilon);
}

// The same, in the layout that the kernels read; keeps the tensors alive.
struct Prepared {
  std::vector<Tensor> views;
  Tensor potential;
  std::vector<SwappedPredictionView> view;
  SwappedPredictionInput in;
};

Prepared prepare(const Arguments& a) {
  Prepared p{};
  for (const Tensor& view : a.views) {
    p.views.push_back(with_adjacent_columns(view));
    p.view.push_back({p.views.back().const_data_ptr(), p.views.back().stride(0)});
  }
  p.potential = a.potential.contiguous();
  const Tensor& first = p.views[0];
  p.in = {p.view.data(),
          p.potential.const_data_ptr<double>(),
          int64_t(p.views.size()),
          p.potential.size(0),
          first.size(0),
          first.size(1),
          a.temperature,
          a.epsilon,
          to_dtype(first.scalar_type())};
  return p;
}

int threads_for(const SwappedPredictionInput& in) {
  return thread_count_of_elements(in.V * in.B * in.K, in.B);
}

Tensor workspace_for(const SwappedPredictionInput& in, int threads, const Tensor& like) {
  return empty({cpu::swapped_prediction_workspace({in, threads})}, at::kByte, like);
}

std::tuple<Tensor, Tensor> swapped_prediction_fwd(const c10::List<Tensor>& views,
                                                  const Tensor& potential, double temperature,
                                                  double epsilon) {
  const std::vector<Tensor> list = views.vec();
  const Arguments a{list, potential, temperature, epsilon};
  check_arguments(a);
  const Prepared prepared = prepare(a);
  const SwappedPredictionInput& in = prepared.in;
  const Tensor& like = list[0];
  const Tensor loss = empty({}, accumulate_dtype(like.scalar_type()), like);
  const Tensor stats = empty({in.B, in.V, kRowDoubles}, at::kDouble, like);
  const Tensor row_loss = empty({in.B}, at::kDouble, like);
  SwappedPredictionFwd p{};
  p.in = in;
  p.row = reinterpret_cast<SwappedPredictionRow*>(stats.mutable_data_ptr<double>());
  p.row_loss = row_loss.mutable_data_ptr<double>();
  p.loss = loss.mutable_data_ptr();
  p.threads = threads_for(in);
  const Tensor workspace = workspace_for(in, p.threads, like);
  p.workspace = workspace.mutable_data_ptr();
  cpu::swapped_prediction_fwd(p);
  return {loss, stats};
}

c10::List<Tensor> swapped_prediction_bwd(const Tensor& grad_loss, const c10::List<Tensor>& views,
                                         const Tensor& potential, const Tensor& stats,
                                         double temperature, double epsilon) {
  const std::vector<Tensor> list = views.vec();
  const Arguments a{list, potential, temperature, epsilon};
  check_arguments(a);
  const Prepared prepared = prepare(a);
  const SwappedPredictionInput& in = prepared.in;
  const Tensor& like = list[0];
  check_scalar_tensor(kOp, "grad_loss", grad_loss);
  SSLKERN_CHECK(VALUE, stats.is_contiguous() && stats.numel() == in.B * in.V * kRowDoubles, kOp,
                "stats", "what the forward pass returned", "shape ", shape_name(stats));
  c10::List<Tensor> grads;
  std::vector<void*> grad_view;
  for (size_t v = 0; v < list.size(); ++v) {
    grads.push_back(empty(like.sizes(), like.scalar_type(), like));
    grad_view.push_back(grads.get(v).mutable_data_ptr());
  }
  SwappedPredictionBwd p{};
  p.in = in;
  p.row = reinterpret_cast<const SwappedPredictionRow*>(stats.const_data_ptr<double>());
  p.grad_loss = grad_loss.item<double>();
  p.grad_view = grad_view.data();
  p.threads = threads_for(in);
  const Tensor workspace = workspace_for(in, p.threads, like);
  p.workspace = workspace.mutable_data_ptr();
  cpu::swapped_prediction_bwd(p);
  return grads;
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

TORCH_LIBRARY_IMPL(sslkern, CPU, m) {
  m.impl("swapped_prediction_fwd", &swapped_prediction_fwd);
  m.impl("swapped_prediction_bwd", &swapped_prediction_bwd);
}

TORCH_LIBRARY_IMPL(sslkern, CompositeExplicitAutograd, m) {
  m.impl("swapped_prediction_fwd", &swapped_prediction_fwd_unsupported);
}

TORCH_LIBRARY_IMPL(sslkern, AutocastCPU, m) {
  m.impl("swapped_prediction_fwd", &swapped_prediction_fwd_autocast);
}

}  // namespace
}  // namespace sslkern::ops
