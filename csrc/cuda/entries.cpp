// The table of this library's entries (contract/entries.h). Of the emulation, too, which says where
// the memory is that kernels may touch.
#include "contract/entries.h"

#if !defined(SSLKERN_ON_HARDWARE)
#include "platform/simt/runtime.h"
#endif

namespace sslkern::cuda {
namespace {

#if defined(SSLKERN_ON_HARDWARE)
constexpr Memory kMemory{nullptr, nullptr};
#else
constexpr Memory kMemory{[](const void* data, std::int64_t bytes, bool initialised) -> void* {
                           return new simt::KnownMemory(data, std::size_t(bytes), initialised);
                         },
                         [](void* known) { delete static_cast<simt::KnownMemory*>(known); }};
#endif

constexpr Entries kEntries{sizeof(Entries), kMemory,
#define SSLKERN_ENTRY_OF(NAME, PARAMS) &cuda::NAME,
                           SSLKERN_CUDA_ENTRIES(SSLKERN_ENTRY_OF)
#undef SSLKERN_ENTRY_OF
};

}  // namespace
}  // namespace sslkern::cuda

extern "C" __attribute__((visibility("default"))) const sslkern::cuda::Entries*
sslkern_cuda_entries() {
  return &sslkern::cuda::kEntries;
}
