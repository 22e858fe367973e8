// The element types that kernels accept. Statistics and accumulation are float32 for the half types
// and for float32, float64 for float64.
#pragma once
#include <cstdint>

namespace sslkern {

enum class Dtype : std::int32_t { kFloat64, kFloat32, kBFloat16, kFloat16 };

}  // namespace sslkern
