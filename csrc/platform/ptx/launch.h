// SSLKERN_LAUNCH on the PTX of kernels: the launchers are compiled by g++, which names an
// instantiation of a kernel as nvcc does, and the kernel of this name is run.
#pragma once
#include <dlfcn.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "platform/ptx/module.h"
#include "platform/simt/runtime.h"

namespace sslkern::ptx {

// Runs the kernel of this mangled name, out of whatever modules there are.
bool run(const std::string& kernel, dim3 grid, dim3 block, std::size_t dynamic_bytes,
         const std::vector<unsigned char>& arguments);

inline std::string mangled_name(const void* function) {
  Dl_info info;
  if (dladdr(function, &info) == 0 || info.dli_sname == nullptr) {
    throw std::invalid_argument("a kernel without a name: it has to have external linkage");
  }
  return info.dli_sname;
}

template <class... P, class... A>
bool launch(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t bytes, const A&... given) {
  const std::string name = mangled_name(reinterpret_cast<const void*>(kernel));
  return run(name, grid, block, bytes, arguments(P(given)...));
}

}  // namespace sslkern::ptx

#undef SSLKERN_LAUNCH
#define SSLKERN_LAUNCH(kernel, grid, block, bytes, stream, ...) \
  (void(stream), ::sslkern::ptx::launch(kernel, grid, block, bytes, __VA_ARGS__))
