// Writes log2(1 + e) of every element e that is read from standard input, float or double as the
// argument says. tests/test_math.py compares with numpy.
#include <cstdio>
#include <cstring>

#include "cpu/log1p.h"

using namespace sslkern::cpu::SSLKERN_ISA;

template <class T>
void convert() {
  alignas(kVectorBytes) T e[kWidth<T>];
  std::size_t count;
  while ((count = std::fread(e, sizeof(T), kWidth<T>, stdin)) > 0) {
    store(e, log2_1p<T>(load(e)));
    std::fwrite(e, sizeof(T), count, stdout);
  }
}

int main(int, char** arguments) {
  std::strcmp(arguments[1], "float") == 0 ? convert<float>() : convert<double>();
}
