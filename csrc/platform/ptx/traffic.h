// What the memory does for the lanes of one warp instruction.
#pragma once
#include <vector>

#include "platform/ptx/counting.h"

namespace sslkern::ptx {

struct Request {
  std::uint32_t lanes = 0;  // that have come; those that ask for nothing have no bytes
  std::uint64_t address[32];
  std::uint8_t bytes[32];

  void add(unsigned lane, std::uint64_t at, std::uint8_t size) {
    lanes |= 1u << lane;
    address[lane] = at;
    bytes[lane] = size;
  }
};

// Puts the sectors into the list as well.
GlobalTraffic global_traffic(const Request& request, std::vector<std::uint64_t>& sectors);

// Addresses are offsets in shared memory. Lanes that read or write the same word share it, but not
// if they update it.
SharedTraffic shared_traffic(const Request& request, bool updates);

}  // namespace sslkern::ptx
