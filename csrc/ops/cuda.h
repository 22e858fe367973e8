// The CUDA side of an op: which tensors take it, where its kernels come from, and the call itself.
//
// The kernels are in a library of their own (contract/entries.h), loaded when the first CUDA tensor
// comes. Tests load the same kernels on an emulation instead; CPU tensors then take the CUDA side.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>

#include <optional>
#include <string>
#include <vector>

#include "contract/entries.h"

namespace sslkern::ops {

// Whether an op with this tensor runs on CUDA kernels: of a device, or emulated.
bool runs_on_cuda(const at::Tensor& t);

// Whether there are kernels for CUDA tensors. Loads them if need be.
bool has_cuda_kernels();
// Why there are none; empty if there are.
std::string cuda_kernels_error();

// Where the library of the kernels is; empty: this build has none.
void set_cuda_library(const std::string& path);
// Has CPU tensors take the CUDA side, on the emulation that this library holds; empty: no longer.
void set_emulation(const std::string& path);

// Whether values of this tensor are looked at: always where that costs nothing, on a device, where
// it waits for all its work, only inside sslkern.check_values(). So it is on the emulation.
bool values_are_checked(const at::Tensor& t);
bool check_values();
void set_check_values(bool on);

// Blocks that column_splits (packed.h) aims at, so that a large device has work for all of it. A
// model of large sizes sets another number to have small ones walk as those do.
inline constexpr int64_t kColumnBlocks = 1024;
int64_t column_blocks();
void set_column_blocks(int64_t count);

// Bytes that a part may have of what grows with rows times columns: what may lie in the cache of a
// large device between the kernel that writes it and what reads it; more where that is `worth`
// more. Tests set another number to have small sizes in parts.
inline constexpr int64_t kPartBytes = int64_t(64) << 20;
int64_t part_bytes(int64_t worth = 0);
void set_part_bytes(std::optional<int64_t> count);

// One call: the device is current and its stream known while this lives, and so is, to the
// emulation, the memory that was asked for.
class CudaCall {
 public:
  explicit CudaCall(const at::Tensor& like);
  ~CudaCall();
  CudaCall(const CudaCall&) = delete;
  CudaCall& operator=(const CudaCall&) = delete;

  const cuda::Entries* operator->() const { return entries_; }
  const cuda::Launch& launch() const { return launch_; }

  // What kernels read: written before this call, or by torch within it. On the device of the call.
  const void* read(const at::Tensor& t);
  template <class T>
  const T* read(const at::Tensor& t) {
    return static_cast<const T*>(read(t));
  }
  // What kernels write, and may read afterwards. Of one tensor only once in a call.
  void* write(const at::Tensor& t);
  template <class T>
  T* write(const at::Tensor& t) {
    return static_cast<T*>(write(t));
  }
  // What kernels change: written by torch within this call. Of one tensor only once in a call.
  void* update(const at::Tensor& t);

  // Keeps a tensor for as long as the call: memory that kernels still have to read or write must
  // not become that of another tensor.
  at::Tensor keep(const at::Tensor& t) {
    kept_.push_back(t);
    return t;
  }
  // What kernels write and read and nobody else.
  void* scratch(const at::Tensor& t) { return write(keep(t)); }
  template <class T>
  T* scratch(const at::Tensor& t) {
    return static_cast<T*>(scratch(t));
  }

 private:
  void* know_in_place(const at::Tensor& t, bool initialised);

  const cuda::Entries* entries_;
  at::Device device_;
  c10::OptionalDeviceGuard guard_;
  cuda::Launch launch_{};
  std::vector<void*> known_;
  std::vector<at::Tensor> kept_;  // and for the emulation copies of inputs, and what is written
};

// The product of two matrices with float32 (or float64) results, added to `out` where asked.
void product_into(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool add);

// What SumInOrder says, into *sum; null: 1.
void sum_in_order(const CudaCall& call, const double* x, int64_t count, double* sum,
                  double constant = 1, const double* unit = nullptr,
                  const double* divisor = nullptr);

// Multiplications and additions that product_into has asked for so far.
int64_t product_flop();

}  // namespace sslkern::ops
