// Runs kernels of planted.cu and prints, line by line, the largest error of the result and what the
// emulation has found. What to run is the arguments, or each line of the standard input:
//
//   block_sum  FAULT SEED ORDER N BLOCKS THREADS
//   similarity FAULT SEED ORDER M N D
//   rotate     FAULT SEED ORDER N BLOCKS THREADS
//   fragments  FAULT SEED ORDER 0 0 0
#include <cmath>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "planted.h"
#include "platform/simt/fragments.h"
#include "platform/simt/runtime.h"

namespace simt = sslkern::simt;

namespace {

// Multiples of 1/256 in [-1, 1): exact in bfloat16, and so are their products in float32.
unsigned state;
float next_number() {
  state = state * 1664525u + 1013904223u;
  return float(int(state >> 23) - 256) / 256.0f;
}

// NaN is larger than anything.
double larger(double a, double b) { return std::isnan(a) || a >= b ? a : b; }

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
      largest = larger(largest, std::fabs(dot - double(s[std::size_t(i) * n + j])));
    }
  }
  return largest;
}

double rotate_error(int fault, int n, unsigned blocks, unsigned threads) {
  std::vector<float> x(n), out(n, std::nanf(""));
  for (float& v : x) v = next_number();
  const simt::KnownMemory in(x.data(), x.size() * sizeof(float), true);
  const simt::KnownMemory result(out.data(), out.size() * sizeof(float), false);
  run_rotate(fault, x.data(), out.data(), n, blocks, threads);
  double largest = 0;
  for (int i = 0; i < n; ++i) {
    const int next = i / 32 * 32 + (i + 1) % 32;
    largest = larger(largest, std::fabs((next < n ? x[next] : 0) - double(out[i])));
  }
  return largest;
}

// How many registers differ from the elements that the PTX ISA puts there.
double fragments_error(int fault) {
  std::vector<std::uint16_t> x(512);
  std::vector<unsigned> words(128, ~0u);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::uint16_t(257 * i + 5);
  const std::vector<std::uint16_t> before = x;
  const simt::KnownMemory in(x.data(), x.size() * 2, true);
  const simt::KnownMemory result(words.data(), words.size() * sizeof(unsigned), false);
  run_fragments(fault, x.data(), words.data());
  int wrong = 0;
  for (int lane = 0; lane < 32; ++lane) {
    for (int q = 0; q < 4; ++q) {
      const int row = lane / 4 + q % 2 * 8, column = lane % 4 * 2 + q / 2 * 8;
      const unsigned low = before[row * 16 + column], high = before[row * 16 + column + 1];
      wrong += words[4 * lane + q] != (low | high << 16);
    }
  }
  return wrong;
}

struct Case {
  std::string kernel;
  int fault, order, x, y, z;
  unsigned long long seed;
};

double error_of(const Case& c) {
  if (c.kernel == "block_sum") return sum_error(c.fault, c.x, unsigned(c.y), unsigned(c.z));
  if (c.kernel == "similarity") return similarity_error(c.fault, c.x, c.y, c.z);
  if (c.kernel == "rotate") return rotate_error(c.fault, c.x, unsigned(c.y), unsigned(c.z));
  if (c.kernel == "fragments") return fragments_error(c.fault);
  throw std::invalid_argument(c.kernel);
}

void run(const std::string& line) {
  std::istringstream words(line);
  Case c;
  words >> c.kernel >> c.fault >> c.seed >> c.order >> c.x >> c.y >> c.z;
  if (!words) throw std::invalid_argument(line);
  simt::config().seed = c.seed;
  simt::config().order = simt::Order(c.order);
  simt::clear_findings();
  simt::counts() = {};
  state = 12345;
  const double error = error_of(c);
  std::cout << "case: " << line << "\nerror: " << error << "\n";
  for (const auto& finding : simt::findings()) {
    std::cout << finding.kind << ": " << finding.text << "\n";
  }
  const simt::Counts& n = simt::counts();
  std::cout << "counts: threads " << n.threads << " switches " << n.switches << " accesses "
            << n.accesses << " barriers " << n.barriers << " collectives " << n.collectives << "\n";
}

}  // namespace

int main(int count, char** words) {
  std::string line;
  for (int i = 1; i < count; ++i) line += std::string(words[i]) + (i + 1 < count ? " " : "");
  if (count > 1) {
    run(line);
  } else {
    while (std::getline(std::cin, line)) run(line);
  }
  return 0;
}
