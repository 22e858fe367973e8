// The shared memory of the block that runs.
#pragma once
#include <cstddef>

namespace sslkern::simt {

// Poisons all of it for a new block that has so much dynamic shared memory.
void renew_shared(std::size_t dynamic_bytes);

}  // namespace sslkern::simt
