// What tests ask of a library of emulated kernels besides its entries (csrc/contract/entries.h).
#include <cstring>
#include <string>

#include "platform/simt/runtime.h"

namespace simt = sslkern::simt;

#define SSLKERN_CONTROL extern "C" __attribute__((visibility("default")))

// The schedule from here on: a seed and the number of a simt::Order.
SSLKERN_CONTROL void emulation_schedule(unsigned long long seed, int order) {
  simt::config().seed = seed;
  simt::config().order = simt::Order(order);
}

// Of shared memory for a block: what decides whether tiles stay in it.
SSLKERN_CONTROL void emulation_shared_bytes(unsigned long long bytes) {
  simt::config().limits.shared_bytes = bytes;
}

// Threads that have run since the last call.
SSLKERN_CONTROL unsigned long long emulation_threads() {
  const auto threads = simt::counts().threads;
  simt::counts() = {};
  return threads;
}

// What was found since the last call, a line each; as much as fits into `text`.
SSLKERN_CONTROL void emulation_findings(char* text, unsigned long long bytes) {
  std::string all;
  for (const auto& finding : simt::findings()) all += finding.kind + ": " + finding.text + "\n";
  simt::clear_findings();
  std::strncpy(text, all.c_str(), bytes);
}
