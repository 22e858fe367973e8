// From the words of a PTX text to its statements.
#pragma once
#include <string>

#include "platform/ptx/syntax.h"

namespace sslkern::ptx {

// Throws Refused("LINE: why").
ModuleSyntax parse(const std::string& text);

}  // namespace sslkern::ptx
