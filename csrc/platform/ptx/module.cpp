#include "platform/ptx/module.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "platform/ptx/counter.h"
#include "platform/ptx/slots.h"
#include "platform/ptx/thread.h"

namespace sslkern::ptx {
namespace {

// The variables of the text itself, known for the time of a launch.
std::vector<std::unique_ptr<simt::KnownMemory>> known_variables(const Program& program) {
  std::vector<std::unique_ptr<simt::KnownMemory>> known;
  for (const auto& variable : program.variables) {
    if (variable->initial.empty()) continue;
    known.push_back(std::make_unique<simt::KnownMemory>(variable->initial.data(),
                                                        variable->initial.size(), true));
  }
  return known;
}

// What .maxntid and .reqntid say, which the launch would refuse.
bool within_bounds(const Kernel& kernel, dim3 block) {
  const std::uint64_t threads = block.count();
  const bool too_many = kernel.most_threads != 0 && threads > kernel.most_threads;
  const bool not_exact = kernel.exact_threads != 0 && threads != kernel.exact_threads;
  if (too_many || not_exact) {
    simt::report(
        "limits", "%s: %llu threads, but its launch bounds are %llu", kernel.name.c_str(),
        static_cast<unsigned long long>(threads),
        static_cast<unsigned long long>(std::max(kernel.most_threads, kernel.exact_threads)));
  }
  return !too_many && !not_exact;
}

Thread& thread_here(Launch& launch) {
  const std::size_t number = simt::here->linear;
  if (launch.threads.size() <= number) launch.threads.resize(number + 1);
  if (launch.threads[number] == nullptr) launch.threads[number] = std::make_unique<Thread>(launch);
  return *launch.threads[number];
}

}  // namespace

Module::Module(const std::string& text, const std::string& file)
    : program_(std::make_unique<Program>(compile(text, file))) {}
Module::Module(Module&&) noexcept = default;
Module::~Module() = default;

Module Module::read(const std::string& path) {
  std::ifstream stream(path);
  if (!stream) throw std::invalid_argument("cannot read " + path);
  std::stringstream text;
  text << stream.rdbuf();
  return Module(text.str(), path.substr(path.rfind('/') + 1));
}

std::vector<std::string> Module::kernels() const {
  std::vector<std::string> names;
  for (const auto& kernel : program_->kernels) names.push_back(kernel->name);
  return names;
}

Kernel& Module::find(const std::string& name) const {
  Kernel* found = nullptr;
  for (const auto& kernel : program_->kernels) {
    if (kernel->name == name) return *kernel;
    if (kernel->name.find(name) == std::string::npos) continue;
    if (found != nullptr) throw std::invalid_argument("more than one kernel has " + name);
    found = kernel.get();
  }
  if (found == nullptr) throw std::invalid_argument("no kernel has " + name);
  return *found;
}

bool Module::launch(const std::string& name, dim3 grid, dim3 block, std::size_t dynamic_bytes,
                    const std::vector<unsigned char>& arguments) {
  Kernel& kernel = find(name);
  if (arguments.size() != kernel.parameter_bytes) {
    throw std::invalid_argument(kernel.name + " has parameters of " +
                                std::to_string(kernel.parameter_bytes) + " bytes, not " +
                                std::to_string(arguments.size()));
  }
  if (!within_bounds(kernel, block)) return false;
  if (!kernel.is_register.empty()) share_slots(kernel);  // at the first launch: most have none
  const auto known = known_variables(*program_);
  Counter* counter = counting ? &counter_of(kernel) : nullptr;
  Launch launch{program_.get(), &kernel, arguments.data(), most_steps, {}, counter};
  simt::every_access_is_seen = true;
  const bool clean = simt::launch(kernel.name.c_str(), grid, block, dynamic_bytes,
                                  [&launch] { thread_here(launch).run(); });
  if (counter != nullptr) counter->end_launch(dynamic_bytes);
  return clean;
}

Counter& Module::counter_of(const Kernel& kernel) {
  auto& counter = counters_[&kernel];
  if (counter == nullptr) counter = std::make_unique<Counter>(kernel);
  return *counter;
}

std::map<std::string, KernelCounts> Module::counts() const {
  std::map<std::string, KernelCounts> all;
  for (const auto& [kernel, counter] : counters_) all[kernel->name] = counter->counts(*program_);
  return all;
}

void Module::clear_counts() { counters_.clear(); }

std::vector<Coverage> Module::coverage() const {
  std::vector<Coverage> all;
  for (const auto& kernel : program_->kernels) {
    for (const Instruction& i : kernel->code) {
      all.push_back({kernel->name, i.line, program_->text_of(i.line), i.group, i.executed});
    }
  }
  return all;
}

std::map<std::string, std::uint64_t> Module::executed_by_group() const {
  std::map<std::string, std::uint64_t> sums;
  for (const auto& kernel : program_->kernels) {
    for (const Instruction& i : kernel->code) sums[i.group] += i.executed;
  }
  return sums;
}

}  // namespace sslkern::ptx
