// Runs one of the kernels of planted.cu and prints, line by line, the largest error of its result
// and what the emulation has found:
//
//   driver block_sum  FAULT SEED ORDER N BLOCKS THREADS
//   driver similarity FAULT SEED ORDER M N D
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "planted.h"
#include "platform/simt/fragments.h"
#include "platform/simt/runtime.h"

namespace simt = sslkern::simt;

namespace {

// Multiples of 1/256 in [-1, 1): exact in bfloat16, and so are their products in float32.
float next_number() {
  static unsigned state = 12345;
  state = state * 1664525u + 1013904223u;
  return float(int(state >> 23) - 256) / 256.0f;
}

double sum_error(int fault, int n, unsigned blocks, unsigned threads) {
  std::vector<float> x(n), out(1, 0.0f);
  double expected = 0;
  for (float& v : x) expected += v = next_number();
  const simt::KnownMemory in(x.data(), x.size() * sizeof(float), true);
  const simt::KnownMemory result(out.data(), sizeof(float), true);
  run_block_sum(fault, x.data(), out.data(), n, blocks, threads);
  return std::fabs(double(out[0]) - expected);
}

double similarity_error(int fault, int m, int n, int d) {
  std::vector<std::uint16_t> a(std::size_t(m) * d), b(std::size_t(n) * d);
  std::vector<float> s(std::size_t(m) * n, std::nanf(""));
  for (auto* matrix : {&a, &b}) {
    for (auto& v : *matrix) v = simt::to_bf16(next_number());
  }
  const simt::KnownMemory known_a(a.data(), a.size() * 2, true);
  const simt::KnownMemory known_b(b.data(), b.size() * 2, true);
  const simt::KnownMemory known_s(s.data(), s.size() * sizeof(float), false);
  run_similarity(fault, a.data(), b.data(), s.data(), m, n, d);
  double largest = 0;
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      double dot = 0;
      for (int k = 0; k < d; ++k) {
        dot += double(simt::from_bf16(a[i * d + k])) * double(simt::from_bf16(b[j * d + k]));
      }
      const double error = std::fabs(dot - double(s[std::size_t(i) * n + j]));
      largest = error <= largest ? largest : error;  // NaN is larger than anything
    }
  }
  return largest;
}

}  // namespace

int main(int count, char** words) {
  if (count != 8) return 2;
  const int fault = std::atoi(words[2]);
  simt::config().seed = std::strtoull(words[3], nullptr, 10);
  simt::config().order = simt::Order(std::atoi(words[4]));
  const int x = std::atoi(words[5]), y = std::atoi(words[6]), z = std::atoi(words[7]);
  const bool sums = std::strcmp(words[1], "block_sum") == 0;
  const double error =
      sums ? sum_error(fault, x, unsigned(y), unsigned(z)) : similarity_error(fault, x, y, z);
  std::printf("error: %g\n", error);
  for (const auto& finding : simt::findings()) {
    std::printf("%s: %s\n", finding.kind.c_str(), finding.text.c_str());
  }
  const simt::Counts& c = simt::counts();
  std::printf(
      "counts: threads %llu accesses %llu barriers %llu collectives %llu\n",
      static_cast<unsigned long long>(c.threads), static_cast<unsigned long long>(c.accesses),
      static_cast<unsigned long long>(c.barriers), static_cast<unsigned long long>(c.collectives));
  return 0;
}
