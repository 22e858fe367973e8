// Which words registers have.
#pragma once
#include "platform/ptx/program.h"

namespace sslkern::ptx {

// Gives registers that are never needed at the same time the same word. nvcc names a new register
// for every result, thousands in a kernel; the words of a block's threads would not fit a cache.
// One that may be read before it is written is needed from the kernel's beginning on, so that it
// still has what nobody wrote.
void share_slots(Kernel& kernel);

}  // namespace sslkern::ptx
