// Writes the log2_positive of every number that is read from standard input, float or double as the
// argument says. tests/test_math.py compares with numpy.
#include <cstdio>
#include <cstring>

#include "cpu/log2.h"

using namespace sslkern::cpu::SSLKERN_ISA;

template <class T>
void convert() {
  alignas(kVectorBytes) T x[kWidth<T>];
  std::size_t count;
  while ((count = std::fread(x, sizeof(T), kWidth<T>, stdin)) > 0) {
    store(x, log2_positive<T>(load(x)));
    std::fwrite(x, sizeof(T), count, stdout);
  }
}

int main(int, char** arguments) {
  std::strcmp(arguments[1], "float") == 0 ? convert<float>() : convert<double>();
}
