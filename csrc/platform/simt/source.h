// Where in the source a program counter is: for messages alone, by the addr2line of the toolchain.
#pragma once
#include <string>

#include "platform/simt/runtime.h"

namespace sslkern::simt {

// "file.cu:12", or what there is to say instead; of a program counter that of the call that returns
// there.
std::string source_of(const Origin& origin);

}  // namespace sslkern::simt
