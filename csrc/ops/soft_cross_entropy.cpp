#include "contract/soft_cross_entropy.h"

#include <torch/library.h>

#include <optional>
#include <tuple>

#include "ops/autocast.h"
#include "ops/backend.h"
#include "ops/check.h"

namespace sslkern::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr const char* kOp = "soft_cross_entropy";

constexpr int64_t kRowDoubles = sizeof(SoftCrossEntropyRow) / sizeof(double);
static_assert(sizeof(SoftCrossEntropyRow) == kRowDoubles * sizeof(double));

// The arguments that both directions take, as the user gave them. Without a teacher_temperature the
// teacher holds probabilities.
struct Arguments {
  Tensor student, teacher, student_temperature;
  OptionalTensor teacher_temperature, center;
};

// The same, in the layout that the kernels read; keeps the tensors alive.
struct Prepared {
  Tensor student, teacher, center, student_temperature, teacher_temperature;
};

void check_center(const Arguments& a) {
  if (!a.center) return;
  SSLKERN_CHECK(VALUE, a.teacher_temperature, kOp, "center", "None with probabilities", "a tensor");
  const Tensor& center = *a.center;
  check_float_tensor(kOp, "center", center);
  check_same_device(kOp, "center", center, "student", a.student);
  const int64_t classes = a.teacher.size(1);
  const bool row = center.dim() == 1 || (center.dim() == 2 && center.size(0) == 1);
  SSLKERN_CHECK(VALUE, row && center.numel() == classes, kOp, "center",
                c10::str("of shape (K,) or (1, K) with K = ", classes), "shape ",
                shape_name(center));
}

void check_arguments(const Arguments& a) {
  check_matrix(kOp, "student", "(N, K)", a.student);
  check_float_tensor(kOp, "teacher", a.teacher);
  check_like(kOp, "teacher", a.teacher, "student", a.student);
  check_scalar_tensor(kOp, "student_temperature", a.student_temperature);
  if (a.teacher_temperature) {
    check_scalar_tensor(kOp, "teacher_temperature", *a.teacher_temperature);
  }
  check_center(a);
}

// Checks that read values.
void check_temperatures(const Arguments& a) {
  if (!values_are_checked(a.student)) return;
  check_positive(kOp, "student_temperature", a.student_temperature.item<double>());
  if (a.teacher_temperature) {
    check_positive(kOp, "teacher_temperature", a.teacher_temperature->item<double>());
  }
}

Prepared prepare(const Arguments& a) {
  const auto accumulate = accumulate_dtype(a.student.scalar_type());
  return {with_adjacent_columns(a.student), with_adjacent_columns(a.teacher),
          a.center ? a.center->to(accumulate).contiguous() : Tensor(),
          as_double(a.student_temperature, a.student),
          a.teacher_temperature ? as_double(*a.teacher_temperature, a.student) : Tensor()};
}

// read(tensor) gives the address that the kernels read it at.
template <class Read>
SoftCrossEntropyInput input_of(const Prepared& p, const Read& read) {
  const auto address = [&](const Tensor& t) { return t.defined() ? read(t) : nullptr; };
  return {read(p.student),
          read(p.teacher),
          p.student.stride(0),
          p.teacher.stride(0),
          p.student.size(0),
          p.student.size(1),
          address(p.center),
          static_cast<const double*>(read(p.student_temperature)),
          static_cast<const double*>(address(p.teacher_temperature)),
          to_dtype(p.student.scalar_type()),
          !p.teacher_temperature.defined()};
}

SoftCrossEntropyInput input_on_cpu(const Prepared& p) {
  return input_of(p, [](const Tensor& t) { return t.const_data_ptr(); });
}
SoftCrossEntropyInput input_on_cuda(CudaCall& call, const Prepared& p) {
  return input_of(p, [&](const Tensor& t) { return call.read(t); });
}

int threads_for(const SoftCrossEntropyInput& in) {
  return thread_count_of_elements(in.N * in.K, in.N);
}

struct Forward {
  Tensor loss, stats;
};

void fwd_on_cpu(const Prepared& x, const Forward& out) {
  SoftCrossEntropyFwd p{};
  p.in = input_on_cpu(x);
  p.loss = out.loss.mutable_data_ptr();
  p.row = reinterpret_cast<SoftCrossEntropyRow*>(out.stats.mutable_data_ptr<double>());
  p.threads = threads_for(p.in);
  cpu::soft_cross_entropy_fwd(p);
}

void fwd_on_cuda(const Prepared& x, const Forward& out) {
  constexpr int64_t kPartDoubles = sizeof(SoftCrossEntropyPart) / sizeof(double);
  CudaCall call(x.student);
  SoftCrossEntropySums p{};
  p.in = input_on_cuda(call, x);
  const int64_t pieces = soft_target_pieces(p.in.K);
  if (pieces > 1) {
    const Tensor part = empty({p.in.N * pieces, kPartDoubles}, at::kDouble, x.student);
    p.part = static_cast<SoftCrossEntropyPart*>(call.scratch(part));
  }
  p.loss = call.write(out.loss);
  p.row = static_cast<SoftCrossEntropyRow*>(call.write(out.stats));
  call->soft_cross_entropy_fwd(p, call.launch());
}

std::tuple<Tensor, Tensor> soft_cross_entropy_fwd(const Tensor& student, const Tensor& teacher,
                                                  const Tensor& student_temperature,
                                                  const OptionalTensor& teacher_temperature,
                                                  const OptionalTensor& center) {
  const Arguments a{student, teacher, student_temperature, teacher_temperature, center};
  check_arguments(a);
  check_temperatures(a);
  const Prepared x = prepare(a);
  const int64_t rows = student.size(0);
  const Forward out{empty({rows}, accumulate_dtype(student.scalar_type()), student),
                    empty({rows, kRowDoubles}, at::kDouble, student)};
  runs_on_cuda(student) ? fwd_on_cuda(x, out) : fwd_on_cpu(x, out);
  return {out.loss, out.stats};
}

// What both backends take besides, and what they give; without elements where it is not wanted.
struct Backward {
  Tensor g, stats, grad_student, grad_temperature;
  bool need_temperature;
};

void bwd_on_cpu(const Prepared& x, const Backward& b) {
  SoftCrossEntropyBwd p{};
  p.in = input_on_cpu(x);
  const Tensor slope = empty({b.need_temperature ? p.in.N : 0}, at::kDouble, x.student);
  p.row = reinterpret_cast<const SoftCrossEntropyRow*>(b.stats.const_data_ptr<double>());
  p.grad_loss = b.g.const_data_ptr();
  p.grad_student = b.grad_student.mutable_data_ptr();
  p.row_slope = b.need_temperature ? slope.mutable_data_ptr<double>() : nullptr;
  p.grad_temperature = b.need_temperature ? b.grad_temperature.mutable_data_ptr<double>() : nullptr;
  p.threads = threads_for(p.in);
  cpu::soft_cross_entropy_bwd(p);
}

void bwd_on_cuda(const Prepared& x, const Backward& b) {
  CudaCall call(x.student);
  SoftCrossEntropyGradient p{};
  p.in = input_on_cuda(call, x);
  const int64_t slopes = p.in.N * soft_target_pieces(p.in.K);
  p.row = static_cast<const SoftCrossEntropyRow*>(call.read(b.stats));
  p.grad_loss = call.read(b.g);
  p.grad_student = call.write(b.grad_student);
  if (b.need_temperature) {
    p.row_slope = call.scratch<double>(empty({slopes}, at::kDouble, x.student));
  }
  call->soft_cross_entropy_bwd(p, call.launch());
  if (!b.need_temperature) return;
  sum_in_order(call, p.row_slope, slopes, call.write<double>(b.grad_temperature), -1, nullptr,
               p.in.student_temperature);
}

std::tuple<Tensor, Tensor> soft_cross_entropy_bwd(const Tensor& grad_loss, const Tensor& student,
                                                  const Tensor& teacher,
                                                  const Tensor& student_temperature,
                                                  const OptionalTensor& teacher_temperature,
                                                  const OptionalTensor& center, const Tensor& stats,
                                                  bool need_temperature) {
  const Arguments a{student, teacher, student_temperature, teacher_temperature, center};
  check_arguments(a);
  const Prepared x = prepare(a);
  const int64_t rows = student.size(0);
  const auto accumulate = accumulate_dtype(student.scalar_type());
  const Tensor g = check_upstream(kOp, "grad_loss", grad_loss, rows, accumulate);
  SSLKERN_CHECK(VALUE, stats.is_contiguous() && stats.numel() == rows * kRowDoubles, kOp, "stats",
                "what the forward pass returned", "shape ", shape_name(stats));
  const Backward b{g, stats, empty(student.sizes(), student.scalar_type(), student),
                   empty({need_temperature ? 1 : 0}, at::kDouble, student), need_temperature};
  runs_on_cuda(student) ? bwd_on_cuda(x, b) : bwd_on_cpu(x, b);
  return {b.grad_student, as_gradient_of(student_temperature, b.grad_temperature)};
}

// Any layout or device without a kernel ends here: the checks say which, in the same words as
// everywhere.
std::tuple<Tensor, Tensor> soft_cross_entropy_fwd_unsupported(
    const Tensor& student, const Tensor& teacher, const Tensor& student_temperature,
    const OptionalTensor& teacher_temperature, const OptionalTensor& center) {
  check_arguments({student, teacher, student_temperature, teacher_temperature, center});
  TORCH_CHECK_NOT_IMPLEMENTED(false, "sslkern::soft_cross_entropy: no kernel for ",
                              student.device().str());
}

std::tuple<Tensor, Tensor> soft_cross_entropy_fwd_autocast(
    const Tensor& student, const Tensor& teacher, const Tensor& student_temperature,
    const OptionalTensor& teacher_temperature, const OptionalTensor& center) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  Tensor s = student, t = teacher;
  promote({&s, &t});
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("sslkern::soft_cross_entropy_fwd", "")
                             .typed<decltype(soft_cross_entropy_fwd)>();
  return op.call(s, t, student_temperature, teacher_temperature, center);
}

TORCH_LIBRARY_FRAGMENT(sslkern, m) {
  m.def(
      "soft_cross_entropy_fwd(Tensor student, Tensor teacher, Tensor student_temperature, "
      "Tensor? teacher_temperature, Tensor? center) -> (Tensor loss, Tensor stats)");
  m.def(
      "soft_cross_entropy_bwd(Tensor grad_loss, Tensor student, Tensor teacher, "
      "Tensor student_temperature, Tensor? teacher_temperature, Tensor? center, Tensor stats, "
      "bool need_temperature) -> (Tensor grad_student, Tensor grad_temperature)");
}

void register_kernels(torch::Library& m) {
  m.impl("soft_cross_entropy_fwd", &soft_cross_entropy_fwd);
  m.impl("soft_cross_entropy_bwd", &soft_cross_entropy_bwd);
}
TORCH_LIBRARY_IMPL(sslkern, CPU, m) { register_kernels(m); }
TORCH_LIBRARY_IMPL(sslkern, CUDA, m) { register_kernels(m); }

TORCH_LIBRARY_IMPL(sslkern, CompositeExplicitAutograd, m) {
  m.impl("soft_cross_entropy_fwd", &soft_cross_entropy_fwd_unsupported);
}

void register_autocast(torch::Library& m) {
  m.impl("soft_cross_entropy_fwd", &soft_cross_entropy_fwd_autocast);
}
TORCH_LIBRARY_IMPL(sslkern, AutocastCPU, m) { register_autocast(m); }
TORCH_LIBRARY_IMPL(sslkern, AutocastCUDA, m) { register_autocast(m); }

}  // namespace
}  // namespace sslkern::ops
