#include "contract/sinkhorn.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/min.h>
#include <ATen/ops/where.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "ops/autocast.h"
#include "ops/backend.h"
#include "ops/check.h"

namespace sslkern::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr const char* kOp = "sinkhorn";
constexpr double kLargest = std::numeric_limits<double>::max();

// The arguments of the potentials, as the user gave them.
struct Arguments {
  Tensor scores;
  OptionalTensor queue, prototype_marginal, row_weight, start;
  double epsilon;
  int64_t iterations;
  std::optional<double> tolerance;
  bool from_probabilities;
};

void check_scores(const Tensor& scores, double epsilon) {
  check_float_tensor(kOp, "scores", scores);
  SSLKERN_CHECK(VALUE, scores.dim() == 2 || scores.dim() == 3, kOp, "scores",
                "of shape (B, K) or (P, B, K)", "shape ", shape_name(scores));
  SSLKERN_CHECK(VALUE, scores.numel() > 0, kOp, "scores",
                "of shape (B, K) or (P, B, K) with no empty dimension", "shape ",
                shape_name(scores));
  check_positive(kOp, "epsilon", epsilon);
}

// The queue must agree with the scores in all but the number of rows.
void check_queue(const Tensor& queue, const Tensor& scores) {
  check_float_tensor(kOp, "queue", queue);
  check_same_device(kOp, "queue", queue, "scores", scores);
  SSLKERN_CHECK(TYPE, queue.scalar_type() == scores.scalar_type(), kOp, "queue",
                c10::str("of the dtype of scores, ", dtype_name(scores.scalar_type())),
                dtype_name(queue.scalar_type()));
  const bool fits = queue.dim() == scores.dim() && queue.size(-1) == scores.size(-1) &&
                    (queue.dim() == 2 || queue.size(0) == scores.size(0));
  SSLKERN_CHECK(VALUE, fits, kOp, "queue",
                c10::str(scores.dim() == 2 ? "of shape (L, K)" : "of shape (P, L, K)",
                         " to go with scores of shape ", shape_name(scores)),
                "shape ", shape_name(queue));
}

// One number for each of `count`, or that for each of the problems.
void check_shares(const char* name, const char* letter, const Tensor& t, int64_t count,
                  const Tensor& scores) {
  check_float_tensor(kOp, name, t);
  check_same_device(kOp, name, t, "scores", scores);
  const bool fits =
      t.dim() == 1 || (t.dim() == 2 && scores.dim() == 3 && t.size(0) == scores.size(0));
  SSLKERN_CHECK(VALUE, fits && t.size(-1) == count, kOp, name,
                c10::str("of shape (", letter, ",)",
                         scores.dim() == 3 ? c10::str(" or (P, ", letter, ")") : "", " with ",
                         letter, " = ", count),
                "shape ", shape_name(t));
}

int64_t rows_of(const Arguments& a) {
  return a.scores.size(-2) + (a.queue ? a.queue->size(-2) : 0);
}

// How far f moves in the first iteration after a start nobody knows: who iterates that way has to
// decide when to stop.
void check_start(const Arguments& a) {
  check_shares("start", "K", *a.start, a.scores.size(-1), a.scores);
  SSLKERN_CHECK(TYPE, a.start->scalar_type() == at::kDouble, kOp, "start", "of dtype torch.float64",
                dtype_name(a.start->scalar_type()));
  SSLKERN_CHECK(VALUE, !a.tolerance, kOp, "tolerance", "None with a start", *a.tolerance);
}

void check_arguments(const Arguments& a) {
  check_scores(a.scores, a.epsilon);
  if (a.queue) check_queue(*a.queue, a.scores);
  if (a.prototype_marginal) {
    check_shares("prototype_marginal", "K", *a.prototype_marginal, a.scores.size(-1), a.scores);
  }
  if (a.row_weight) {
    check_shares("row_weight", a.queue ? "B + L" : "B", *a.row_weight, rows_of(a), a.scores);
  }
  SSLKERN_CHECK(VALUE, a.iterations >= 0, kOp, "iterations", "at least 0", a.iterations);
  if (a.tolerance) check_positive(kOp, "tolerance", *a.tolerance);
  if (a.start) check_start(a);
}

// Exponentials have no sign; probabilities that have one are a mistake.
void check_probabilities(const char* name, const Tensor& t) {
  if (t.numel() == 0) return;
  const double least = t.min().item<double>();
  SSLKERN_CHECK(VALUE, !(least < 0), kOp, name, "non-negative with from_probabilities", least);
}

// (P, count) in float64, of what is (count) or (P, count); a copy, as `out` may have its memory.
Tensor for_each_problem(const Tensor& t, int64_t problems) {
  const Tensor each = t.dim() == 2 ? t : t.unsqueeze(0).expand({problems, t.size(0)});
  return empty(each.sizes(), at::kDouble, t).copy_(each);
}

// NaN in the place of what has no meaning: what nobody has looked at shows in the result.
Tensor where_or_nan(const Tensor& condition, const Tensor& t) {
  return at::where(condition, t,
                   at::full({}, std::numeric_limits<double>::quiet_NaN(), t.options()));
}

// How far the sum of shares may be from 1, as far as their dtype can tell.
double slack_of(at::ScalarType dtype) {
  return dtype == at::kDouble ? 1e-8 : dtype == at::kFloat ? 1e-4 : 2e-2;
}

void check_marginal(const Tensor& m, double slack) {
  const Tensor host = m.cpu();
  const double* p = host.const_data_ptr<double>();
  for (int64_t i = 0; i < m.size(0); ++i) {
    double sum = 0;
    for (int64_t k = 0; k < m.size(1); ++k) {
      const double share = p[i * m.size(1) + k];
      SSLKERN_CHECK(VALUE, share > 0 && share <= kLargest, kOp, "prototype_marginal",
                    "positive and finite everywhere", share, " at ", k,
                    ". Leave out the prototypes that are to get nothing.");
      sum += share;
    }
    SSLKERN_CHECK(VALUE, std::abs(sum - 1) <= slack, kOp, "prototype_marginal", "of sum 1", sum);
  }
}

// Shares as they are: positive and summing to 1.
Tensor checked_marginal(const Tensor& marginal, int64_t problems) {
  const Tensor m = for_each_problem(marginal, problems);
  const double slack = slack_of(marginal.scalar_type());
  if (values_are_checked(marginal)) {
    check_marginal(m, slack);
    return m;
  }
  const Tensor is_one = (m.sum(1, true) - 1).abs() <= slack;
  return where_or_nan((m > 0).logical_and(m <= kLargest).logical_and(is_one), m);
}

void check_weight(const Tensor& w) {
  const Tensor host = w.cpu();
  const double* p = host.const_data_ptr<double>();
  for (int64_t i = 0; i < w.size(0); ++i, p += w.size(1)) {
    double sum = 0;
    for (int64_t b = 0; b < w.size(1); ++b) {
      SSLKERN_CHECK(VALUE, p[b] >= 0 && p[b] <= kLargest, kOp, "row_weight",
                    "non-negative and finite everywhere", p[b], " at ", b);
      sum += p[b];
    }
    SSLKERN_CHECK(VALUE, sum > 0 && sum <= kLargest, kOp, "row_weight", "of a positive, finite sum",
                  sum);
  }
}

// Weights divided by their sum, which is NaN for all where one has no meaning.
Tensor checked_weight(const Tensor& weight, int64_t problems) {
  const Tensor w = for_each_problem(weight, problems);
  if (values_are_checked(weight)) {
    check_weight(w);
    return w / w.sum(1, true);
  }
  const Tensor sum = where_or_nan(w >= 0, w).sum(1, true);
  return w / where_or_nan((sum > 0).logical_and(sum <= kLargest), sum);
}

Tensor as_problems(const Tensor& t) {
  const Tensor problems = t.dim() == 2 ? t.unsqueeze(0) : t;
  return problems.stride(2) == 1 || problems.size(2) == 1 ? problems : problems.contiguous();
}

int threads_for(int64_t problems, int64_t rows, int64_t columns) {
  constexpr int64_t kRows = 8;  // of a part, at least
  return thread_count_of_elements(problems * rows * columns, problems * rows / kRows);
}

// What the plan is to be, and what else is wanted; `plan` is undefined where it is not.
struct Wanted {
  Tensor plan;
  bool hard = false, in_place = false, potentials = false, diagnostics = false;
};

struct Results {
  Tensor potential, row_potential, usage, entropy;
};

// Where exponentials may be kept: in the plan, or for potentials alone in memory of their own,
// while that is small. The gain is that of 2 T - 2 multiply-adds over T exponentials an element.
Tensor memory_for_exponentials(const Arguments& a, const Wanted& wanted) {
  constexpr size_t kMostBytes = size_t(64) << 20;
  const auto dtype = a.scores.scalar_type();
  const bool queued = a.queue && a.queue->numel() > 0;
  if (a.from_probabilities || a.iterations == 0) return Tensor();  // nothing is computed twice
  if (a.start) return Tensor();  // nor is it in the one iteration that a start mostly is for
  if (accumulate_dtype(dtype) != dtype || queued || wanted.in_place) return Tensor();
  if (wanted.plan.defined()) return wanted.plan;
  if (a.iterations == 1) return Tensor();
  return a.scores.nbytes() <= kMostBytes ? empty(a.scores.sizes(), dtype, a.scores) : Tensor();
}

// All that a backend needs, in the layout that the kernels read. Sizes and numbers are set in
// `call`, its pointers not yet.
struct Prepared {
  Tensor scores, queue, marginal, weight, start, plan;  // all but the first may be undefined
  Results results;
  Sinkhorn call;
};

void check_values_of(const Arguments& a) {
  if (!a.from_probabilities || !values_are_checked(a.scores)) return;
  check_probabilities("scores", a.scores);
  if (a.queue) check_probabilities("queue", *a.queue);
}

Results results_of(const Arguments& a, const Wanted& wanted) {
  std::vector<int64_t> each;  // (P,), where there is a P
  if (a.scores.dim() == 3) each.push_back(a.scores.size(0));
  const auto sized = [&](bool given, std::optional<int64_t> last) {
    std::vector<int64_t> shape(each);
    if (last) shape.push_back(*last);
    return empty(given ? shape : std::vector<int64_t>{0}, at::kDouble, a.scores);
  };
  const bool alone = !wanted.plan.defined();
  return {sized(alone || wanted.potentials, a.scores.size(-1)),
          sized(wanted.potentials, a.scores.size(-2)), sized(wanted.diagnostics, a.scores.size(-1)),
          sized(wanted.diagnostics, std::nullopt)};
}

Prepared prepare(const Arguments& a, const Wanted& wanted) {
  check_values_of(a);
  Prepared x{};
  x.scores = as_problems(a.scores);
  Sinkhorn& p = x.call;
  p.P = x.scores.size(0);
  p.B = x.scores.size(1);
  p.K = x.scores.size(2);
  if (a.prototype_marginal) x.marginal = checked_marginal(*a.prototype_marginal, p.P);
  if (a.row_weight) x.weight = checked_weight(*a.row_weight, p.P);
  if (a.start) x.start = for_each_problem(*a.start, p.P);
  if (a.queue && a.queue->numel() > 0) x.queue = as_problems(*a.queue);
  if (wanted.plan.defined()) {
    x.plan = wanted.plan.dim() == 2 ? wanted.plan.unsqueeze(0) : wanted.plan;
    p.results.stride_plan_problem = x.plan.stride(0);
    p.results.stride_plan_row = x.plan.stride(1);
  }
  p.L = x.queue.defined() ? x.queue.size(1) : 0;
  p.epsilon = a.epsilon;
  p.tolerance = a.tolerance.value_or(0.0);
  p.iterations = a.iterations;
  p.dtype = to_dtype(x.scores.scalar_type());
  p.probabilities = a.from_probabilities;
  p.hard = wanted.hard;
  x.results = results_of(a, wanted);
  return x;
}

// Where kernels find a tensor and where they write one, null without elements.
template <class Read>
void set_inputs(const Prepared& x, Sinkhorn& p, const Read& read) {
  const auto rows_in = [&](const Tensor& t) {
    return SinkhornRows{read(t), t.stride(0), t.stride(1)};
  };
  p.scores = rows_in(x.scores);
  if (x.queue.defined()) p.queue = rows_in(x.queue);
  if (x.marginal.defined()) p.marginal = static_cast<const double*>(read(x.marginal));
  if (x.weight.defined()) p.weight = static_cast<const double*>(read(x.weight));
  if (x.start.defined()) p.start = static_cast<const double*>(read(x.start));
}

template <class Write>
void set_results(const Prepared& x, Sinkhorn& p, const Write& write) {
  const auto doubles = [&](const Tensor& t) {
    return t.numel() > 0 ? static_cast<double*>(write(t)) : nullptr;
  };
  if (x.plan.defined()) p.results.plan = write(x.plan);
  p.results.potential = doubles(x.results.potential);
  p.results.row_potential = doubles(x.results.row_potential);
  p.results.usage = doubles(x.results.usage);
  p.results.entropy = doubles(x.results.entropy);
}

void run_on_cpu(const Arguments& a, const Wanted& wanted, const Prepared& x) {
  Sinkhorn p = x.call;
  set_inputs(x, p, [](const Tensor& t) { return t.const_data_ptr(); });
  set_results(x, p, [](const Tensor& t) { return t.mutable_data_ptr(); });
  const Tensor kept = memory_for_exponentials(a, wanted);
  if (kept.defined()) {
    const Tensor each = kept.dim() == 2 ? kept.unsqueeze(0) : kept;
    p.kept = {each.mutable_data_ptr(), each.stride(0), each.stride(1)};
  }
  p.threads = threads_for(p.P, p.B + p.L, p.K);
  const Tensor workspace = empty({cpu::sinkhorn_workspace(p)}, at::kByte, a.scores);
  p.workspace = workspace.mutable_data_ptr();
  cpu::sinkhorn(p);
}

void run_on_cuda(const Prepared& x) {
  CudaCall call(x.scores);
  const auto memory = [&](std::vector<int64_t> shape, at::ScalarType dtype) {
    return call.scratch(empty(shape, dtype, x.scores));
  };
  const bool in_place = x.plan.defined() && x.plan.data_ptr() == x.scores.data_ptr();
  void* const changed = in_place ? call.update(x.plan) : nullptr;
  SinkhornOnDevice d{};
  d.in = x.call;
  Sinkhorn& p = d.in;
  const int64_t n = p.B + p.L;
  const auto working = accumulate_dtype(x.scores.scalar_type());
  set_inputs(x, p, [&](const Tensor& t) -> const void* {
    return in_place && t.is_same(x.scores) ? changed : call.read(t);
  });
  set_results(x, p, [&](const Tensor& t) {
    return in_place && t.is_same(x.plan) ? changed : call.write(t);
  });
  if (p.results.potential == nullptr) {
    p.results.potential = static_cast<double*>(memory({p.P, p.K}, at::kDouble));
  }
  d.most_chunks = std::max(SinkhornChunks::of(n, p.K, p.dtype).count,
                           SinkhornChunks::of(p.B, p.K, p.dtype).count);
  d.partial = memory({2, p.P, d.most_chunks, p.K}, working);
  if (p.tolerance > 0) {
    d.f = static_cast<double*>(memory({p.P, n}, at::kDouble));
    d.moved = static_cast<double*>(memory({p.P, n}, at::kDouble));
    d.settled = static_cast<int32_t*>(memory({2, p.P}, at::kInt));
  }
  if (p.K > sinkhorn_block_columns(p.dtype)) {
    d.shift = memory({p.P, n}, working);
    d.factor = memory({p.P, n}, working);
    d.place = static_cast<int64_t*>(memory({p.P, n}, at::kLong));
  }
  if (p.results.usage != nullptr) {
    d.row_entropy = static_cast<double*>(memory({p.P, p.B}, at::kDouble));
  }
  call->sinkhorn(d, call.launch());
}

// Runs the kernels on arguments that have been checked.
Results run(const Arguments& a, const Wanted& wanted) {
  const Prepared x = prepare(a, wanted);
  runs_on_cuda(a.scores) ? run_on_cuda(x) : run_on_cpu(a, wanted, x);
  return x.results;
}

// From the first byte of a tensor to behind its last one.
std::pair<const char*, const char*> memory_of(const Tensor& t) {
  int64_t last = 0;
  for (int64_t d = 0; d < t.dim(); ++d) last += (t.size(d) - 1) * t.stride(d);
  const auto* begin = static_cast<const char*>(t.const_data_ptr());
  return {begin, t.numel() == 0 ? begin : begin + (last + 1) * int64_t(t.element_size())};
}

// Slices side by side of one matrix are refused, too: their rows take turns in memory.
void check_apart(const Tensor& out, const char* name, const Tensor& other, const char* besides) {
  const auto [begin, end] = memory_of(out);
  const auto [other_begin, other_end] = memory_of(other);
  SSLKERN_CHECK(VALUE, end <= other_begin || other_end <= begin, kOp, "out",
                c10::str("apart from ", name, besides), "one in the midst of its memory");
}

void check_out(const Tensor& out, const Tensor& scores) {
  check_float_tensor(kOp, "out", out);
  check_like(kOp, "out", out, "scores", scores);
  SSLKERN_CHECK(VALUE, out.stride(-1) == 1 || out.size(-1) == 1, kOp, "out", "of adjacent columns",
                "columns ", out.stride(-1), " elements apart");
  SSLKERN_CHECK(VALUE, at::has_internal_overlap(out) != at::MemOverlap::Yes, kOp, "out",
                "a tensor whose elements have memory of their own", "an expanded one");
  const bool same = out.data_ptr() == scores.data_ptr() && out.strides() == scores.strides();
  if (!same) check_apart(out, "scores", scores, ", or scores itself");
}

Tensor sinkhorn_potential(const Tensor& scores, const OptionalTensor& queue,
                          const OptionalTensor& prototype_marginal,
                          const OptionalTensor& row_weight, const OptionalTensor& start,
                          double epsilon, int64_t iterations, std::optional<double> tolerance,
                          bool from_probabilities) {
  const Arguments a{scores,  queue,      prototype_marginal, row_weight,        start,
                    epsilon, iterations, tolerance,          from_probabilities};
  check_arguments(a);
  return run(a, {}).potential;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> sinkhorn_plan(
    const Tensor& scores, const OptionalTensor& queue, const OptionalTensor& prototype_marginal,
    const OptionalTensor& row_weight, const OptionalTensor& start, double epsilon,
    int64_t iterations, std::optional<double> tolerance, bool from_probabilities, bool hard,
    bool potentials, bool diagnostics) {
  const Arguments a{scores,  queue,      prototype_marginal, row_weight,        start,
                    epsilon, iterations, tolerance,          from_probabilities};
  check_arguments(a);
  const Tensor plan = empty(scores.sizes(), scores.scalar_type(), scores);
  const Results r = run(a, {plan, hard, false, potentials, diagnostics});
  return {plan, r.potential, r.row_potential, r.usage, r.entropy};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sinkhorn_plan_out(
    const Tensor& scores, const OptionalTensor& queue, const OptionalTensor& prototype_marginal,
    const OptionalTensor& row_weight, const OptionalTensor& start, double epsilon,
    int64_t iterations, std::optional<double> tolerance, bool from_probabilities, bool hard,
    bool potentials, bool diagnostics, const Tensor& out) {
  const Arguments a{scores,  queue,      prototype_marginal, row_weight,        start,
                    epsilon, iterations, tolerance,          from_probabilities};
  check_arguments(a);
  check_out(out, scores);
  if (queue) check_apart(out, "queue", *queue, "");
  const bool in_place = out.data_ptr() == scores.data_ptr();
  const Results r = run(a, {out, hard, in_place, potentials, diagnostics});
  return {r.potential, r.row_potential, r.usage, r.entropy};
}

// Any layout or device without a kernel ends here: the checks say which, in the same words as
// everywhere.
[[noreturn]] void refuse_device(const Arguments& a) {
  check_arguments(a);
  TORCH_CHECK_NOT_IMPLEMENTED(false, "sslkern::sinkhorn: no kernel for ", a.scores.device().str());
}

Tensor sinkhorn_potential_unsupported(const Tensor& scores, const OptionalTensor& queue,
                                      const OptionalTensor& prototype_marginal,
                                      const OptionalTensor& row_weight, const OptionalTensor& start,
                                      double epsilon, int64_t iterations,
                                      std::optional<double> tolerance, bool from_probabilities) {
  refuse_device({scores, queue, prototype_marginal, row_weight, start, epsilon, iterations,
                 tolerance, from_probabilities});
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> sinkhorn_plan_unsupported(
    const Tensor& scores, const OptionalTensor& queue, const OptionalTensor& prototype_marginal,
    const OptionalTensor& row_weight, const OptionalTensor& start, double epsilon,
    int64_t iterations, std::optional<double> tolerance, bool from_probabilities, bool, bool,
    bool) {
  refuse_device({scores, queue, prototype_marginal, row_weight, start, epsilon, iterations,
                 tolerance, from_probabilities});
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sinkhorn_plan_out_unsupported(
    const Tensor& scores, const OptionalTensor& queue, const OptionalTensor& prototype_marginal,
    const OptionalTensor& row_weight, const OptionalTensor& start, double epsilon,
    int64_t iterations, std::optional<double> tolerance, bool from_probabilities, bool, bool, bool,
    const Tensor& out) {
  check_float_tensor(kOp, "out", out);
  refuse_device({scores, queue, prototype_marginal, row_weight, start, epsilon, iterations,
                 tolerance, from_probabilities});
}

Tensor sinkhorn_potential_autocast(const Tensor& scores, const OptionalTensor& queue,
                                   const OptionalTensor& prototype_marginal,
                                   const OptionalTensor& row_weight, const OptionalTensor& start,
                                   double epsilon, int64_t iterations,
                                   std::optional<double> tolerance, bool from_probabilities) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  Tensor s = scores;
  OptionalTensor q = queue;
  if (q) promote({&s, &*q});
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("sslkern::sinkhorn_potential", "")
                             .typed<decltype(sinkhorn_potential)>();
  return op.call(s, q, prototype_marginal, row_weight, start, epsilon, iterations, tolerance,
                 from_probabilities);
}

// The plan is of the promoted dtype. With `out`, whose dtype is given, nothing is promoted.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> sinkhorn_plan_autocast(
    const Tensor& scores, const OptionalTensor& queue, const OptionalTensor& prototype_marginal,
    const OptionalTensor& row_weight, const OptionalTensor& start, double epsilon,
    int64_t iterations, std::optional<double> tolerance, bool from_probabilities, bool hard,
    bool potentials, bool diagnostics) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  Tensor s = scores;
  OptionalTensor q = queue;
  if (q) promote({&s, &*q});
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("sslkern::sinkhorn_plan", "")
                             .typed<decltype(sinkhorn_plan)>();
  return op.call(s, q, prototype_marginal, row_weight, start, epsilon, iterations, tolerance,
                 from_probabilities, hard, potentials, diagnostics);
}

TORCH_LIBRARY_FRAGMENT(sslkern, m) {
  m.def(
      "sinkhorn_potential(Tensor scores, Tensor? queue, Tensor? prototype_marginal, "
      "Tensor? row_weight, Tensor? start, float epsilon, int iterations, float? tolerance, "
      "bool from_probabilities) -> Tensor");
  m.def(
      "sinkhorn_plan(Tensor scores, Tensor? queue, Tensor? prototype_marginal, "
      "Tensor? row_weight, Tensor? start, float epsilon, int iterations, float? tolerance, "
      "bool from_probabilities, bool hard, bool potentials, bool diagnostics) -> (Tensor plan, "
      "Tensor potential, "
      "Tensor row_potential, Tensor usage, Tensor entropy)");
  m.def(
      "sinkhorn_plan_out(Tensor scores, Tensor? queue, Tensor? prototype_marginal, "
      "Tensor? row_weight, Tensor? start, float epsilon, int iterations, float? tolerance, "
      "bool from_probabilities, bool hard, bool potentials, bool diagnostics, Tensor(a!) out) -> "
      "(Tensor potential, Tensor row_potential, Tensor usage, Tensor entropy)");
}

void register_kernels(torch::Library& m) {
  m.impl("sinkhorn_potential", &sinkhorn_potential);
  m.impl("sinkhorn_plan", &sinkhorn_plan);
  m.impl("sinkhorn_plan_out", &sinkhorn_plan_out);
}
TORCH_LIBRARY_IMPL(sslkern, CPU, m) { register_kernels(m); }
TORCH_LIBRARY_IMPL(sslkern, CUDA, m) { register_kernels(m); }

TORCH_LIBRARY_IMPL(sslkern, CompositeExplicitAutograd, m) {
  m.impl("sinkhorn_potential", &sinkhorn_potential_unsupported);
  m.impl("sinkhorn_plan", &sinkhorn_plan_unsupported);
  m.impl("sinkhorn_plan_out", &sinkhorn_plan_out_unsupported);
}

void register_autocast(torch::Library& m) {
  m.impl("sinkhorn_potential", &sinkhorn_potential_autocast);
  m.impl("sinkhorn_plan", &sinkhorn_plan_autocast);
}
TORCH_LIBRARY_IMPL(sslkern, AutocastCPU, m) { register_autocast(m); }
TORCH_LIBRARY_IMPL(sslkern, AutocastCUDA, m) { register_autocast(m); }

}  // namespace
}  // namespace sslkern::ops
