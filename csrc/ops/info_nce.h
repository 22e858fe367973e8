// What the two backends of InfoNCE take, once checked, and give.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace sslkern::ops::info_nce {

// The arguments that both directions take, as the user gave them.
struct Arguments {
  at::Tensor query, key;
  std::optional<at::Tensor> target;
  at::Tensor scale;
  std::optional<at::Tensor> bias, query_ids, key_ids;
  bool normalize, symmetric;
  double label_smoothing;
};

// loss, loss_col, stats, stats_col, grad_query, query_dot
using Forward = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// What the backward pass takes besides: upstream gradients, contiguous, the statistics, and which
// gradients are wanted.
struct Upstream {
  at::Tensor g, h, stats, stats_col;
  bool need_query, need_key, need_scale, need_bias;
};

// Those of the scale and the bias are float64; what is not wanted is empty.
struct Gradients {
  at::Tensor query, key, scale, bias;
};

// Results without values yet.
Forward empty_forward(const Arguments& a, bool form_grad);
Gradients empty_gradients(const Arguments& a, const Upstream& u);

Forward fwd_on_cuda(const Arguments& a, bool form_grad);
Gradients bwd_on_cuda(const Arguments& a, const Upstream& u);
at::Tensor rank_on_cuda(const Arguments& a, const std::optional<at::Tensor>& threshold);

}  // namespace sslkern::ops::info_nce
