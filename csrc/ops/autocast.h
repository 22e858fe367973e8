// The autocast rule of every op: floating tensors that differ in dtype are cast to the widest of
// them, and the op runs as it would outside autocast. Nothing is narrowed: the kernels read half
// inputs as they are and compute in float32.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/ArrayRef.h>

namespace sslkern::ops {

inline void promote(c10::ArrayRef<at::Tensor*> tensors) {
  auto widest = at::kHalf;
  bool mixed = false, found = false;
  for (const at::Tensor* t : tensors) {
    if (!t->is_floating_point()) continue;
    mixed |= found && t->scalar_type() != widest;
    widest = found ? c10::promoteTypes(widest, t->scalar_type()) : t->scalar_type();
    found = true;
  }
  if (!mixed) return;
  for (at::Tensor* t : tensors) {
    if (t->is_floating_point()) *t = t->to(widest);
  }
}

}  // namespace sslkern::ops
