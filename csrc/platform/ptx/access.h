// Accesses to memory, checked.
#pragma once
#include "platform/ptx/thread.h"

namespace sslkern::ptx {

// Where the address of an instruction points, on the host.
char* address_of(const Thread& t, const Instruction& i);

// Reports what is wrong with an access, and ends the launch if it cannot be made.
void check_access(Thread& t, const Instruction& i, char* p, std::size_t bytes, simt::Access access);

}  // namespace sslkern::ptx
