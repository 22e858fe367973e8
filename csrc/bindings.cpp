// The Python module _C. Importing it registers the operators (csrc/ops); it says itself only what
// was built.
#include <ATen/Parallel.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "contract/machine.h"
#include "cpu/isa.h"
#include "ops/cuda.h"
#include "ops/packed.h"

namespace py = pybind11;

namespace sslkern {
namespace {

std::vector<std::string> compiled_isas() {
#ifdef SSLKERN_X86
  return {"portable", "avx2", "avx512"};
#else
  return {"portable"};
#endif
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const cpu::Isa isa : {cpu::Isa::kPortable, cpu::Isa::kAvx2, cpu::Isa::kAvx512}) {
    if (cpu::isa_available(isa)) names.emplace_back(cpu::isa_name(isa));
  }
  return names;
}

py::dict build_config() {
  py::dict config;
  config["compiler"] = SSLKERN_COMPILER;
  config["cxx_flags"] = SSLKERN_CXX_FLAGS;
#ifdef _OPENMP
  config["openmp"] = true;
#else
  config["openmp"] = false;
#endif
  config["instruction_sets"] = compiled_isas();
  config["available_instruction_sets"] = available_isas();
  config["active_instruction_set"] = cpu::isa_name(cpu::active_isa());
  config["rejected_instruction_set"] = cpu::rejected_isa();
  config["cuda_architectures"] = SSLKERN_CUDA_ARCHITECTURES;  // empty: none
  return config;
}

double fma_peak(bool float64, int threads) {
  constexpr double kSeconds = 0.02;
  const py::gil_scoped_release release;
  float sink = 0;
  cpu::FmaPeak p{float64 ? Dtype::kFloat64 : Dtype::kFloat32, 64,
                 threads > 0 ? threads : at::get_num_threads(), &sink};
  for (;; p.repeats *= 2) {
    const auto start = std::chrono::steady_clock::now();
    const double count = double(cpu::fma_peak(p));
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (seconds >= kSeconds) return 2e-9 * count / seconds;
  }
}

// One of so many bytes.
Dtype dtype_of(int64_t element_bytes) {
  if (element_bytes == 8) return Dtype::kFloat64;
  return element_bytes == 4 ? Dtype::kFloat32 : Dtype::kBFloat16;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled operators of sslkern; see sslkern.build_config().";
  m.def("build_config", &build_config, "What was built, and what of it this processor runs.");
  m.def("fma_peak", &fma_peak, py::arg("float64"), py::arg("threads"),
        "GFLOP/s of multiply-adds on L1-resident data, the ceiling of every kernel.");
  m.def("set_cuda_library", &ops::set_cuda_library, py::arg("path"),
        "Where the library of the CUDA kernels is; empty if there is none.");
  m.def("cuda_kernels_error", &ops::cuda_kernels_error,
        "Why the CUDA kernels do not load; empty if they do.");
  m.def("set_emulation", &ops::set_emulation, py::arg("path"),
        "Has CPU tensors run on emulated CUDA kernels; empty ends it. For tests.");
  m.def("set_column_blocks", &ops::set_column_blocks, py::arg("count") = ops::kColumnBlocks,
        "How many blocks walks along columns are split for; without a number, as ever.");
  m.def("column_splits", &ops::column_splits, py::arg("rows"), py::arg("columns"),
        "Among how many blocks the columns of a block of rows are split.");
  m.def("set_part_bytes", &ops::set_part_bytes, py::arg("count") = py::none(),
        "How large parts of what grows with rows times columns may be; without a number, as ever.");
  m.def(
      "gradient_rows",
      [](int64_t rows, int64_t columns, int64_t dims, int64_t element_bytes, bool adds) {
        const PackedRows packed{nullptr, nullptr, rows, dims, dtype_of(element_bytes)};
        return ops::gradient_rows(packed, columns, adds);
      },
      py::arg("rows"), py::arg("columns"), py::arg("dims"), py::arg("element_bytes"),
      py::arg("adds"), "How many rows of a gradient matrix are in memory at a time.");
  m.def(
      "column_rows",
      [](int64_t rows, int64_t columns, int64_t element_bytes) {
        return ops::column_rows(rows, columns, dtype_of(element_bytes), false);
      },
      py::arg("rows"), py::arg("columns"), py::arg("element_bytes"),
      "How many rows the sums of whose columns are in memory at a time.");
  m.def("product_flop", &ops::product_flop,
        "Operations of all matrix products that were left to the library so far.");
  m.def("check_values", &ops::check_values, "Whether values on devices are checked.");
  m.def("set_check_values", &ops::set_check_values, py::arg("on"), "See sslkern.check_values.");
}

}  // namespace sslkern
