// From the dtype of a call to the types of a kernel.
#pragma once
#include "contract/types.h"
#include "cpu/isa.h"
#include "math/half.h"

namespace sslkern::cpu::SSLKERN_ISA {

// Calls f<T, E>() with E the element type of the inputs and T the type of all arithmetic.
template <class F>
void with_types(Dtype dtype, const F& f) {
  switch (dtype) {
    case Dtype::kFloat64:
      return f.template operator()<double, double>();
    case Dtype::kFloat32:
      return f.template operator()<float, float>();
    case Dtype::kBFloat16:
      return f.template operator()<float, BFloat16>();
    case Dtype::kFloat16:
      return f.template operator()<float, Float16>();
  }
}

}  // namespace sslkern::cpu::SSLKERN_ISA
