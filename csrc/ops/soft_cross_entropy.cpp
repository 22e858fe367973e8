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
  Tensor student, teacher, center;
  SoftCrossEntropyInput in;
};

void check_center(const Arguments& a) {
  if (!a.center) return;
  SSLKERN_CHECK(VALUE, a.teacher_temperature, kOp, "center", "None with probabilities", "a tensor");
  const Tensor& center = *a.center;
  check_float_tensor(kOp, "center", center);
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

// Checks that read values; on the CPU that costs no synchronisation.
void check_values(const Arguments& a) {
  check_positive(kOp, "student_temperature", a.student_temperature.item<double>());
  if (a.teacher_temperature) {
    check_positive(kOp, "teacher_temperature", a.teacher_temperature->item<double>());
  }
}

Prepared prepare(const Arguments& a) {
  Prepared p{};
  p.student = with_adjacent_columns(a.student);
  p.teacher = with_adjacent_columns(a.teacher);
  const auto accumulate = accumulate_dtype(a.student.scalar_type());
  if (a.center) p.center = a.center->to(accumulate).contiguous();
  p.in = {p.student.const_data_ptr(),
          p.teacher.const_data_ptr(),
          p.student.stride(0),
          p.teacher.stride(0),
          p.student.size(0),
          p.student.size(1),
          a.center ? p.center.const_data_ptr() : nullptr,
          a.student_temperature.item<double>(),
          a.teacher_temperature ? a.teacher_temperature->item<double>() : 1.0,
          to_dtype(p.student.scalar_type()),
          !a.teacher_temperature.has_value()};
  return p;
}

int threads_for(const SoftCrossEntropyInput& in) {
  return thread_count_of_elements(in.N * in.K, in.N);
}

std::tuple<Tensor, Tensor> soft_cross_entropy_fwd(const Tensor& student, const Tensor& teacher,
                                                  const Tensor& student_temperature,
                                                  const OptionalTensor& teacher_temperature,
                                                  const OptionalTensor& center) {
  const Arguments a{student, teacher, student_temperature, teacher_temperature, center};
  check_arguments(a);
  check_values(a);
  const Prepared prepared = prepare(a);
  const int64_t rows = student.size(0);
  const Tensor loss = empty({rows}, accumulate_dtype(student.scalar_type()), student);
  const Tensor stats = empty({rows, kRowDoubles}, at::kDouble, student);
  SoftCrossEntropyFwd p{};
  p.in = prepared.in;
  p.loss = loss.mutable_data_ptr();
  p.row = reinterpret_cast<SoftCrossEntropyRow*>(stats.mutable_data_ptr<double>());
  p.threads = threads_for(p.in);
  cpu::soft_cross_entropy_fwd(p);
  return {loss, stats};
}

std::tuple<Tensor, Tensor> soft_cross_entropy_bwd(const Tensor& grad_loss, const Tensor& student,
                                                  const Tensor& teacher,
                                                  const Tensor& student_temperature,
                                                  const OptionalTensor& teacher_temperature,
                                                  const OptionalTensor& center, const Tensor& stats,
                                                  bool need_temperature) {
  const Arguments a{student, teacher, student_temperature, teacher_temperature, center};
  check_arguments(a);
  const Prepared prepared = prepare(a);
  const int64_t rows = student.size(0);
  const auto accumulate = accumulate_dtype(student.scalar_type());
  const Tensor g = check_upstream(kOp, "grad_loss", grad_loss, rows, accumulate);
  SSLKERN_CHECK(VALUE, stats.is_contiguous() && stats.numel() == rows * kRowDoubles, kOp, "stats",
                "what the forward pass returned", "shape ", shape_name(stats));
  const Tensor grad_student = empty(student.sizes(), student.scalar_type(), student);
  const Tensor slope = empty({need_temperature ? rows : 0}, at::kDouble, student);
  const Tensor grad_temperature = empty({need_temperature ? 1 : 0}, at::kDouble, student);
  SoftCrossEntropyBwd p{};
  p.in = prepared.in;
  p.row = reinterpret_cast<const SoftCrossEntropyRow*>(stats.const_data_ptr<double>());
  p.grad_loss = g.const_data_ptr();
  p.grad_student = grad_student.mutable_data_ptr();
  p.row_slope = need_temperature ? slope.mutable_data_ptr<double>() : nullptr;
  p.grad_temperature = need_temperature ? grad_temperature.mutable_data_ptr<double>() : nullptr;
  p.threads = threads_for(p.in);
  cpu::soft_cross_entropy_bwd(p);
  const Tensor grad_tau = grad_temperature.to(student_temperature.scalar_type());
  return {grad_student,
          need_temperature ? grad_tau.reshape(student_temperature.sizes()) : grad_tau};
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

TORCH_LIBRARY_IMPL(sslkern, CPU, m) {
  m.impl("soft_cross_entropy_fwd", &soft_cross_entropy_fwd);
  m.impl("soft_cross_entropy_bwd", &soft_cross_entropy_bwd);
}

TORCH_LIBRARY_IMPL(sslkern, CompositeExplicitAutograd, m) {
  m.impl("soft_cross_entropy_fwd", &soft_cross_entropy_fwd_unsupported);
}

TORCH_LIBRARY_IMPL(sslkern, AutocastCPU, m) {
  m.impl("soft_cross_entropy_fwd", &soft_cross_entropy_fwd_autocast);
}

}  // namespace
}  // namespace sslkern::ops
