// The shared memory of the block that runs.
#pragma once
#include <cstddef>

namespace sslkern::simt {

// Of all variables, their dynamic part included, with gaps between them.
constexpr std::size_t kArenaBytes = 512 << 10;
// Between variables: what runs over the end of one meets nobody's memory.
constexpr std::size_t kGap = 256;
constexpr std::size_t kMostDynamicBytes = kArenaBytes - kGap;

// Poisons all of it for a new block that has so much dynamic shared memory.
void renew_shared(std::size_t dynamic_bytes);

}  // namespace sslkern::simt
