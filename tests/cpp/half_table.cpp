// Writes the tables that tests/test_math.py compares with torch: every float16 and bfloat16 as
// float32 bits, then the float16 and bfloat16 of every float32 that is read from standard input.
#include <cstdio>

#include "math/half.h"

using namespace sslkern;

int main() {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const std::uint32_t pair[2] = {math::to_bits(math::to_float(Float16{std::uint16_t(bits)})),
                                   math::to_bits(math::to_float(BFloat16{std::uint16_t(bits)}))};
    std::fwrite(pair, sizeof(pair), 1, stdout);
  }
  std::uint32_t bits;
  while (std::fread(&bits, sizeof(bits), 1, stdin) == 1) {
    const float x = math::from_bits(bits);
    const std::uint16_t pair[2] = {math::Rounded<Float16>::from(x).bits,
                                   math::Rounded<BFloat16>::from(x).bits};
    std::fwrite(pair, sizeof(pair), 1, stdout);
  }
}
