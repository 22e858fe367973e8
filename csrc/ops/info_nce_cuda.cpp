// The CUDA side of InfoNCE: scratch memory, and which kernels run in which order.
#include <ATen/ops/cat.h>
#include <ATen/ops/sum.h>

#include "contract/info_nce.h"
#include "ops/info_nce.h"
#include "ops/packed.h"

namespace sslkern::ops::info_nce {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// The arguments as the kernels read them; keeps the tensors alive.
struct Prepared {
  Packed query, key;
  Tensor slope, offset;
  const double* scale;
  bool scale_per_key;
  InfoNcePacked in;

  int64_t splits() const { return column_splits(in.query.N, in.key.N); }
};

const int64_t* read_index(CudaCall& call, const OptionalTensor& t) {
  return t ? call.read<int64_t>(call.keep(t->contiguous())) : nullptr;
}

const double* read_double(CudaCall& call, const Tensor& t, const Tensor& like) {
  return call.read<double>(call.keep(as_double(t, like)));
}

Prepared prepare(CudaCall& call, const Arguments& a) {
  Prepared p;
  p.query = pack(call, with_adjacent_columns(a.query), {}, a.normalize);
  p.key = pack(call, with_adjacent_columns(a.key), {}, a.normalize);
  const int64_t columns = p.key.view.padded_N();
  p.slope = empty({columns}, accumulate_dtype(a.key.scalar_type()), a.key);
  p.offset = empty({columns}, accumulate_dtype(a.key.scalar_type()), a.key);
  p.scale = read_double(call, a.scale, a.query);
  p.scale_per_key = a.scale.numel() > 1;
  InfoNceColumns c{};
  c.in.query = p.query.view;
  c.in.key = p.key.view;
  c.in.scale = p.scale;
  c.in.scale_per_key = p.scale_per_key;
  c.in.bias = a.bias ? read_double(call, *a.bias, a.query) : nullptr;
  c.slope = call.write(p.slope);
  c.offset = call.write(p.offset);
  call->info_nce_columns(c, call.launch());
  p.in = {p.query.view,
          p.key.view,
          c.slope,
          c.offset,
          read_index(call, a.target),
          read_index(call, a.query_ids),
          read_index(call, a.key_ids)};
  return p;
}

// What one side collects; `loss` and `stats` are its results.
InfoNceSide side_of(CudaCall& call, const PackedRows& rows, int64_t parts, bool counted,
                    const Tensor& loss, const Tensor& stats) {
  const Tensor partial = empty({parts, rows.padded_N(), 2}, loss.scalar_type(), loss);
  InfoNceSide side{};
  side.count = rows.N;
  side.padded = rows.padded_N();
  side.parts = parts;
  side.partial = call.scratch(partial);
  if (counted) {
    side.logits = call.scratch<double>(empty({parts, rows.padded_N(), 2}, at::kDouble, loss));
  }
  side.loss = call.write(loss);
  side.stats = call.write<double>(stats);
  return side;
}

// The terms of one side, from its upstream gradient.
InfoNceTerms terms_of(CudaCall& call, InfoNceWeights w, const PackedRows& rows,
                      const Tensor& like) {
  const auto working = accumulate_dtype(like.scalar_type());
  const auto term = [&] { return call.scratch(empty({rows.padded_N()}, working, like)); };
  w.count = rows.N;
  w.padded = rows.padded_N();
  w.dtype = rows.dtype;
  w.to = {term(), term(), term(), w.middle == nullptr ? nullptr : term(), term()};
  call->info_nce_weights(w, call.launch());
  return w.to;
}

// What is differentiated, and what is wanted of it.
struct Task {
  const double *stats, *stats_col;           // stats_col null unless symmetric
  const void *g, *h;                         // null: all 1
  const double* unit;                        // null: 1
  bool wide;                                 // gradients of rows of the working type
  Tensor grad_query, grad_key;               // undefined where not wanted
  double *row_dot, *grad_scale, *grad_bias;  // null where not wanted
};

const double* middle_of(CudaCall& call, const Task& task, const Prepared& p, const Tensor& like) {
  InfoNceMiddle m{task.stats, task.stats_col, p.in.query.N, p.in.key.N,
                  call.scratch<double>(empty({2}, at::kDouble, like))};
  call->info_nce_middle(m, call.launch());
  return m.middle;
}

// With so many rows of G at a time.
InfoNceTiles tiles_of(CudaCall& call, const Arguments& a, const Prepared& p, const Task& task,
                      int64_t chunk) {
  const auto working = accumulate_dtype(a.query.scalar_type());
  InfoNceTiles t{};
  t.in = p.in;
  t.symmetric = a.symmetric;
  t.label_smoothing = a.label_smoothing;
  t.middle = a.symmetric ? middle_of(call, task, p, a.query) : nullptr;
  InfoNceWeights w{};
  w.unit = task.unit;
  w.middle = t.middle;
  w.label_smoothing = a.label_smoothing;
  w.stats = task.stats;
  w.grad_loss = task.g;
  t.row = terms_of(call, w, p.in.query, a.query);
  if (a.symmetric) {
    w.stats = task.stats_col;
    w.grad_loss = task.h;
    t.col = terms_of(call, w, p.in.key, a.query);
  }
  t.scale_unit = p.scale;
  if (p.scale_per_key) {
    t.scale_unit = unit_of(call, p.scale, p.in.key.N, Dtype::kFloat64,
                           call.keep(empty({}, at::kDouble, a.query)));
  }
  t.splits = column_splits(chunk, p.in.key.N);
  t.row_sum = call.scratch(empty({t.splits, p.in.query.padded_N()}, working, a.query));
  if (task.grad_bias != nullptr || (task.grad_scale != nullptr && p.scale_per_key)) {
    const int64_t parts = chunk / column_part(p.in.key.dtype);
    t.column_sum = call.scratch(empty({parts, p.in.key.padded_N(), 2}, working, a.query));
  }
  return t;
}

void finish(CudaCall& call, const Arguments& a, const Packed& rows, const Tensor& product,
            const Tensor& grad, const InfoNceTiles& t, const Task& task) {
  FinishRows f = finish_of(call, rows, product);
  f.unit = task.unit;
  f.multiplier = t.scale_unit;
  f.normalize = a.normalize;
  f.over_factor = true;
  f.wide = task.wide;
  f.grad_first = call.write(grad);
  call->finish_rows(f, call.launch());
}

// What a column's rows have of the gradients of its scale and bias.
InfoNceColumnGradients columns_of(const Prepared& p, const InfoNceTiles& t, const Task& task) {
  InfoNceColumnGradients c{};
  c.M = p.in.key.N;
  c.dtype = p.in.key.dtype;
  c.column_sum = t.column_sum;
  c.unit = task.unit;
  c.scale = p.scale;
  c.grad_scale = p.scale_per_key ? task.grad_scale : nullptr;
  c.grad_bias = task.grad_bias;
  return c;
}

void finish_row_dots(CudaCall& call, const Prepared& p, const InfoNceTiles& t, const Task& task,
                     const Tensor& like) {
  const bool one_scale = task.grad_scale != nullptr && !p.scale_per_key;
  if (!one_scale && task.row_dot == nullptr) return;
  InfoNceRowDots d{p.in.query.N, t.splits, p.in.key.dtype, t.row_sum, task.unit, task.row_dot};
  if (one_scale) d.row_dot = call.scratch<double>(empty({d.N}, at::kDouble, like));
  call->info_nce_row_dots(d, call.launch());
  if (one_scale) sum_in_order(call, d.row_dot, d.N, task.grad_scale, 1, nullptr, p.scale);
}

void differentiate(CudaCall& call, const Arguments& a, const Prepared& p, const Task& task) {
  const int64_t chunk = gradient_rows(p.in.query, p.in.key.N, task.grad_key.defined());
  InfoNceTiles t = tiles_of(call, a, p, task, chunk);
  InfoNceColumnGradients columns = columns_of(p, t, task);
  const auto product = [&](const PackedRows& rows) {
    return empty({rows.padded_N(), rows.padded_D()}, accumulate_dtype(a.query.scalar_type()),
                 a.query);
  };
  GradientProducts to{p.key.rows, {}, p.query.rows, {}};
  if (task.grad_query.defined()) to.row_product = product(p.in.query);
  if (task.grad_key.defined()) to.column_product = product(p.in.key);
  const auto write_tiles = [&](int64_t first, int64_t count, void* gradient) {
    t.first_row = first;
    t.rows = count;
    t.gradient = gradient;
    call->info_nce_tiles(t, call.launch());
    if (t.column_sum == nullptr) return;
    columns.parts = count / column_part(p.in.key.dtype);
    columns.add = first > 0;
    call->info_nce_column_gradients(columns, call.launch());
  };
  if (to.row_product.defined() || to.column_product.defined()) {
    multiply_gradient(call, to, p.in.query, p.in.key.N, chunk, write_tiles);
  } else {
    for_each_part(p.in.query, chunk,
                  [&](int64_t first, int64_t count) { write_tiles(first, count, nullptr); });
  }
  if (task.grad_query.defined()) {
    finish(call, a, p.query, to.row_product, task.grad_query, t, task);
  }
  if (task.grad_key.defined()) finish(call, a, p.key, to.column_product, task.grad_key, t, task);
  finish_row_dots(call, p, t, task, a.query);
}

// What the columns collect of so many rows at a time.
InfoNceSide columns_side(CudaCall& call, const PackedRows& keys, int64_t rows, bool carries,
                         bool counted, const Tensor& loss, const Tensor& stats) {
  InfoNceSide side = side_of(call, keys, rows / column_part(keys.dtype), counted, loss, stats);
  if (carries) side.carried = call.scratch<double>(empty({keys.N, 4}, at::kDouble, loss));
  return side;
}

}  // namespace

Forward fwd_on_cuda(const Arguments& a, bool form_grad) {
  CudaCall call(a.query);
  const Prepared p = prepare(call, a);
  Forward result = empty_forward(a, form_grad);
  const auto& [loss, loss_col, stats, stats_col, grad_query, query_dot] = result;
  const bool counted = a.label_smoothing > 0 || a.query_ids;
  InfoNceSums s{};
  s.in = p.in;
  s.label_smoothing = a.label_smoothing;
  s.symmetric = a.symmetric;
  const int64_t every = p.in.query.padded_N();
  const int64_t chunk =
      a.symmetric ? column_rows(p.in.query.N, p.in.key.N, p.in.key.dtype, counted) : every;
  s.splits = column_splits(chunk, p.in.key.N);
  s.row = side_of(call, p.in.query, s.splits, counted, loss, stats);
  if (a.symmetric) {
    s.col = columns_side(call, p.in.key, chunk, chunk < every, counted, loss_col, stats_col);
  }
  if (a.target) s.positive = call.scratch(empty({p.in.query.N}, loss.scalar_type(), loss));
  for_each_part(p.in.query, chunk, [&](int64_t first, int64_t count) {
    s.first_row = first;
    s.rows = count;
    s.col.parts = count / column_part(p.in.key.dtype);
    call->info_nce_fwd(s, call.launch());
  });
  if (form_grad) {
    Task task{};
    task.stats = s.row.stats;
    task.wide = true;
    task.grad_query = grad_query;
    task.row_dot = call.write<double>(query_dot);
    differentiate(call, a, p, task);
  }
  return result;
}

Gradients bwd_on_cuda(const Arguments& a, const Upstream& u) {
  CudaCall call(a.query);
  const Prepared p = prepare(call, a);
  Gradients grad = empty_gradients(a, u);
  const Tensor both = a.symmetric ? at::cat({u.g, u.h}) : u.g;
  Task task{};
  task.stats = call.read<double>(u.stats);
  task.stats_col = a.symmetric ? call.read<double>(u.stats_col) : nullptr;
  task.g = call.read(u.g);
  task.h = a.symmetric ? call.read(u.h) : nullptr;
  task.unit = unit_of(call, call.read(both), both.numel(), p.in.key.dtype,
                      call.keep(empty({}, at::kDouble, a.query)));
  if (u.need_query) task.grad_query = grad.query;
  if (u.need_key) task.grad_key = grad.key;
  task.grad_scale = u.need_scale ? call.write<double>(grad.scale) : nullptr;
  task.grad_bias = u.need_bias ? call.write<double>(grad.bias) : nullptr;
  differentiate(call, a, p, task);
  return grad;
}

Tensor rank_on_cuda(const Arguments& a, const OptionalTensor& threshold) {
  CudaCall call(a.query);
  const Prepared p = prepare(call, a);
  const int64_t rows = p.in.query.padded_N();
  InfoNceCounts c{};
  c.in = p.in;
  c.splits = p.splits();
  if (threshold) c.threshold = read_double(call, *threshold, a.query);
  if (a.target)
    c.limit = call.scratch(empty({rows}, accumulate_dtype(a.query.scalar_type()), a.query));
  const Tensor larger = empty({c.splits, rows}, at::kInt, a.query);
  c.larger = call.write<std::int32_t>(larger);
  call->info_nce_rank(c, call.launch());
  return larger.narrow(1, 0, p.in.query.N).sum(0);
}

}  // namespace sslkern::ops::info_nce
