#include "ops/cuda.h"

#include <ATen/Context.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <stdexcept>

namespace sslkern::ops {
namespace {

struct Library {
  const cuda::Entries* entries = nullptr;
  std::string error;
};

Library load(const std::string& path) {
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return {nullptr, dlerror()};
  using Function = const cuda::Entries* (*)();
  const auto entries = reinterpret_cast<Function>(dlsym(handle, "sslkern_cuda_entries"));
  if (entries == nullptr) return {nullptr, path + " has no sslkern_cuda_entries"};
  if (entries()->bytes != int64_t(sizeof(cuda::Entries))) {
    return {nullptr, path + " was built for another version of sslkern. Rebuild both."};
  }
  return {entries(), ""};
}

std::string& cuda_path() {
  static std::string path;
  return path;
}

const Library& cuda_library() {
  static std::once_flag once;
  static Library library;
  std::call_once(once, [] {
    library =
        cuda_path().empty() ? Library{nullptr, "it was built without nvcc"} : load(cuda_path());
  });
  return library;
}

const cuda::Entries* emulation = nullptr;
bool device_values_are_checked = false;
std::atomic<int64_t> asked_product_flop = 0;
int64_t wanted_column_blocks = kColumnBlocks;
std::optional<int64_t> wanted_part_bytes;

// The bytes from the first element to behind the last one.
int64_t extent_bytes(const at::Tensor& t) {
  if (t.numel() == 0) return 0;
  int64_t last = 0;
  for (int64_t d = 0; d < t.dim(); ++d) last += (t.size(d) - 1) * t.stride(d);
  return (last + 1) * t.element_size();
}

// A copy of all bytes of a tensor at an address with the same alignment: the emulation then knows
// where an input ends, whatever it is a view of.
at::Tensor copy_of_extent(const at::Tensor& t, void*& data) {
  constexpr std::uintptr_t kAlignment = 64;
  const int64_t bytes = extent_bytes(t);
  const at::Tensor memory =
      at::empty({bytes + 2 * int64_t(kAlignment)}, at::TensorOptions().dtype(at::kByte));
  const auto base = reinterpret_cast<std::uintptr_t>(memory.data_ptr());
  const auto aligned = (base + kAlignment - 1) / kAlignment * kAlignment;
  const auto offset = reinterpret_cast<std::uintptr_t>(t.const_data_ptr()) % kAlignment;
  data = reinterpret_cast<void*>(aligned + offset);
  std::memcpy(data, t.const_data_ptr(), bytes);
  return memory;
}

// Whether float32 products may be rounded to tf32, by torch's newer setting, which the older ones
// set, too. at::Context::allowTF32CuBLAS() fails where only the newer one was used.
bool tf32_is_allowed() {
  const at::Float32Precision found =
      at::globalContext().float32Precision(at::Float32Backend::CUDA, at::Float32Op::MATMUL);
  return found == at::Float32Precision::TF32;
}

}  // namespace

bool runs_on_cuda(const at::Tensor& t) { return t.is_cuda() || (emulation && t.is_cpu()); }

bool has_cuda_kernels() { return cuda_library().entries != nullptr; }

std::string cuda_kernels_error() { return cuda_library().error; }

void set_cuda_library(const std::string& path) { cuda_path() = path; }

void set_emulation(const std::string& path) {
  if (path.empty()) {
    emulation = nullptr;
    return;
  }
  const Library library = load(path);
  if (library.entries == nullptr) {  // bindings turn this, and no error of torch, into ValueError
    throw std::invalid_argument("sslkern::emulation: expected a library of emulated kernels, got " +
                                library.error);
  }
  emulation = library.entries;
}

bool values_are_checked(const at::Tensor& t) {
  return !runs_on_cuda(t) || device_values_are_checked;
}
bool check_values() { return device_values_are_checked; }
void set_check_values(bool on) { device_values_are_checked = on; }

int64_t column_blocks() { return wanted_column_blocks; }
void set_column_blocks(int64_t count) { wanted_column_blocks = count; }

int64_t part_bytes(int64_t worth) {
  return wanted_part_bytes.value_or(std::max(kPartBytes, worth));
}
void set_part_bytes(std::optional<int64_t> count) { wanted_part_bytes = count; }

CudaCall::CudaCall(const at::Tensor& like)
    : entries_(like.is_cuda() ? cuda_library().entries : emulation),
      device_(like.device()),
      guard_(like.is_cuda() ? std::optional<at::Device>(like.device()) : std::nullopt) {
  launch_.tf32 = tf32_is_allowed();
  if (!like.is_cuda()) return;
  const c10::impl::VirtualGuardImpl impl(like.device().type());
  launch_.stream = impl.getStreamNativeHandle(impl.getStream(like.device()));
}

CudaCall::~CudaCall() {
  for (void* known : known_) entries_->memory.forget(known);
}

const void* CudaCall::read(const at::Tensor& t) {
  // An address of other memory would cost a process its context: the last to look.
  TORCH_CHECK(t.device() == device_, "sslkern: expected all tensors to be on ", device_.str(),
              ", got one on ", t.device().str());
  const bool emulated = entries_->memory.know != nullptr;
  if (!emulated || t.numel() == 0) return t.const_data_ptr();
  void* data = nullptr;
  kept_.push_back(copy_of_extent(t, data));
  known_.push_back(entries_->memory.know(data, extent_bytes(t), true));
  return data;
}

void* CudaCall::write(const at::Tensor& t) { return know_in_place(t, false); }

void* CudaCall::update(const at::Tensor& t) { return know_in_place(t, true); }

void* CudaCall::know_in_place(const at::Tensor& t, bool initialised) {
  const bool emulated = entries_->memory.know != nullptr;
  if (emulated && t.numel() > 0) {
    known_.push_back(entries_->memory.know(t.mutable_data_ptr(), extent_bytes(t), initialised));
    kept_.push_back(t);  // what is known must not become other memory meanwhile
  }
  return t.mutable_data_ptr();
}

void sum_in_order(const CudaCall& call, const double* x, int64_t count, double* sum,
                  double constant, const double* unit, const double* divisor) {
  SumInOrder p{};
  p.x = x;
  p.count = count;
  p.unit = unit;
  p.divisor = divisor;
  p.constant = constant;
  p.sum = sum;
  call->sum_in_order(p, call.launch());
}

int64_t product_flop() { return asked_product_flop; }

void product_into(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool add) {
  asked_product_flop += 2 * a.size(0) * a.size(1) * b.size(1);
  at::Tensor result = out;
  const auto dtype = out.scalar_type();
  if (a.is_cuda() && a.scalar_type() != dtype) {
    // The library rounds once, to float32.
    add ? at::addmm_out(result, out, a, b, dtype) : at::mm_out(result, a, b, dtype);
    return;
  }
  const at::Tensor x = a.to(dtype), y = b.to(dtype);
  add ? at::addmm_out(result, out, x, y) : at::mm_out(result, x, y);
}

}  // namespace sslkern::ops
