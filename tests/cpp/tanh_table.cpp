// Writes the tanh of every number that is read from standard input, for tests/test_math.py: of
// floats, or of doubles with the argument "double".
#include <cstdio>
#include <cstring>

#include "cpu/tanh.h"

using namespace sslkern::cpu::SSLKERN_ISA;

template <class T>
void write_table() {
  Vec<T> u{};
  while (std::size_t count = std::fread(&u, sizeof(T), kWidth<T>, stdin)) {
    const Vec<T> result = tanh_of<T>(u);
    std::fwrite(&result, sizeof(T), count, stdout);
  }
}

int main(int argc, char** argv) {
  argc > 1 && std::strcmp(argv[1], "double") == 0 ? write_table<double>() : write_table<float>();
}
