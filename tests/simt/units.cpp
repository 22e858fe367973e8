// Runs every kernel of units.cu and prints, for each, its name and how many numbers are wrong, and
// what the emulation has found. `units SEED ORDER`; `units convert` instead reads float32 from the
// standard input and writes them as bfloat16 and as float16, then all 65536 of both as float32.
#include "units.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <iostream>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "platform/simt/runtime.h"

namespace simt = sslkern::simt;

namespace {

// Memory that kernels may touch.
template <class T>
struct Buffer {
  std::vector<T> data;
  simt::KnownMemory known;
  explicit Buffer(std::size_t n) : data(n), known(data.data(), n * sizeof(T), false) {}
  explicit Buffer(std::vector<T> values)
      : data(std::move(values)), known(data.data(), data.size() * sizeof(T), true) {}
  T* p() { return data.data(); }
  T& operator[](std::size_t i) { return data[i]; }
};

// Multiples of 1/256 in [-1, 1): exact in all types, and so are sums of a few products of them.
std::vector<float> numbers(std::size_t n, unsigned state) {
  std::vector<float> x(n);
  for (float& v : x) {
    state = state * 1664525u + 1013904223u;
    v = float(int(state >> 23) - 256) / 256.0f;
  }
  return x;
}

int wrong_product(int depth, const std::vector<float>& A, const std::vector<float>& B,
                  const std::vector<float>& C, Buffer<float>& D) {
  int wrong = 0;
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      float sum = C[i * 8 + j];
      for (int k = 0; k < depth; ++k) sum += A[i * depth + k] * B[k * 8 + j];
      wrong += D[i * 8 + j] != sum;
    }
  }
  return wrong;
}

std::vector<std::uint16_t> as_half(const std::vector<float>& x, bool bf16) {
  Buffer<float> from(x);
  Buffer<std::uint16_t> b(x.size()), f(x.size());
  run_narrow(from.p(), b.p(), f.p(), int(x.size()));
  return bf16 ? b.data : f.data;
}

int mma_16(bool bf16) {
  const std::vector<float> A = numbers(256, 1), B = numbers(128, 2), C = numbers(128, 3);
  Buffer<std::uint16_t> a(as_half(A, bf16)), b(as_half(B, bf16));
  Buffer<float> c(C), d(128);
  (bf16 ? run_mma_bf16 : run_mma_f16)(a.p(), b.p(), c.p(), d.p());
  return wrong_product(16, A, B, C, d);
}

// The lower 13 bits of an operand do not count.
int mma_tf32() {
  const std::vector<float> A = numbers(128, 4), B = numbers(64, 5), C = numbers(128, 6);
  Buffer<unsigned> a(128), b(64);
  std::memcpy(a.p(), A.data(), 512);
  std::memcpy(b.p(), B.data(), 256);
  for (unsigned& bits : a.data) bits |= 0x1fff;
  for (unsigned& bits : b.data) bits |= 0x1001;
  Buffer<unsigned> known_a(a.data), known_b(b.data);
  Buffer<float> c(C), d(128);
  run_mma_tf32(known_a.p(), known_b.p(), c.p(), d.p());
  return wrong_product(8, A, B, C, d);
}

int load_matrix(bool transposed) {
  std::vector<std::uint16_t> values(256);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::uint16_t(i * 251 + 7);
  Buffer<std::uint16_t> matrices(values);
  Buffer<unsigned> words(128);
  run_load_matrix(matrices.p(), words.p(), transposed);
  int wrong = 0;
  for (int q = 0; q < 4; ++q) {
    for (int i = 0; i < 64; ++i) {  // element (row, column) of what is read in rows
      const int row = i / 8, column = i % 8, lane = row * 4 + column / 2;
      const unsigned got = words[lane * 4 + q] >> (16 * (column % 2)) & 0xffff;
      wrong += got != values[q * 64 + (transposed ? column * 8 + row : i)];
    }
  }
  return wrong;
}

int shuffles(int threads) {
  Buffer<double> out(std::size_t(kShuffles) * threads);
  Buffer<unsigned> votes(std::size_t(5) * threads);
  run_shuffles(out.p(), votes.p(), unsigned(threads));
  int wrong = 0;
  for (int t = 0; t < threads; ++t) {
    const int lane = t % 32, first = t - lane, lanes = std::min(32, threads - first);
    const int partner = lanes % 2 == 0 ? first + (lane ^ 1) : t;
    const int below = lane >= 3 ? t - 3 : t, above = lane + 5 < 32 ? t + 5 : t;
    const double expected[kShuffles] = {
        1.5 * (first + (7 * lane + 3) % lanes), double(partner * partner), below + 0.25,
        lanes == 32 ? std::ldexp(above, 33) : 0.0, lane < 4 ? double(first + 3 - lane) : 0.0};
    for (int i = 0; i < kShuffles; ++i) wrong += out[t * kShuffles + i] != expected[i];
    unsigned thirds = 0;
    for (int other = 0; other < lanes; other += 3) thirds |= 1u << other;
    const unsigned has_5 = lanes > 5;
    const unsigned expected_votes[5] = {thirds, has_5, 0, 1, !has_5};
    for (int i = 0; i < 5; ++i) wrong += votes[t * 5 + i] != expected_votes[i];
  }
  return wrong;
}

int atomics() {
  constexpr int kBlocks = 3, kThreads = 50, kAll = kBlocks * kThreads;
  Buffer<int> counters(std::vector<int>{4, -1, -1}), before(kAll);
  Buffer<float> sum(std::vector<float>{0.25f});
  run_atomics(counters.p(), before.p(), sum.p(), kBlocks, kThreads);
  int wrong = (counters[0] != 4 + 2 * kAll) + (counters[1] != kAll - 1) +
              (counters[2] != kThreads) + (sum[0] != 0.25f + 0.5f * kAll);
  std::sort(before.data.begin(), before.data.end());
  for (int i = 0; i < kAll; ++i) wrong += before[i] != 4 + 2 * i;
  return wrong;
}

// On a boundary of 16 bytes.
struct alignas(16) Row {
  unsigned char bytes[16];
};

int copies() {
  Buffer<Row> from(std::vector<Row>(17)), to(17);
  for (int n = 0; n < 17; ++n) {
    for (int i = 0; i < 16; ++i) from[n].bytes[i] = std::uint8_t(16 * n + i + 1) | 1;
  }
  run_copies(from[0].bytes, to[0].bytes);
  int wrong = 0;
  for (int n = 0; n < 17; ++n) {
    for (int i = 0; i < 16; ++i) wrong += to[n].bytes[i] != (i < n ? from[n].bytes[i] : 0);
  }
  return wrong;
}

int two_groups() {
  Buffer<Row> from(std::vector<Row>(64)), to(64);
  for (int i = 0; i < 1024; ++i) from[i / 16].bytes[i % 16] = std::uint8_t(i * 7 + i / 256);
  run_two_groups(from[0].bytes, to[0].bytes);
  int wrong = 0;
  for (int i = 0; i < 64; ++i) {
    const Row& expected = from[i / 32 * 32 + (i + 1) % 32];
    wrong += std::memcmp(to[i].bytes, expected.bytes, 16) != 0;
  }
  return wrong;
}

int shared_parts() {
  constexpr int kThreads = 50;
  Buffer<int> sums(kThreads);
  run_shared_parts(sums.p(), kThreads);
  int wrong = 0;
  for (int t = 0; t < kThreads; ++t) wrong += sums[t] != 1001001 * (kThreads - 1 - t) + 10;
  return wrong;
}

int positions() {
  const unsigned in_block = kBlock3[0] * kBlock3[1] * kBlock3[2];
  const unsigned all = in_block * kGrid3[0] * kGrid3[1] * kGrid3[2];
  Buffer<int> blocks(all), threads(all);
  run_positions(blocks.p(), threads.p());
  const auto digits = [](unsigned i, const unsigned (&size)[3]) {
    return int(i % size[0] + 10 * (i / size[0] % size[1]) + 100 * (i / size[0] / size[1]));
  };
  int wrong = 0;
  for (unsigned i = 0; i < all; ++i) {
    wrong += blocks[i] != digits(i / in_block, kGrid3);
    wrong += threads[i] != digits(i % in_block, kBlock3);
  }
  return wrong;
}

int powers() {
  std::vector<float> x;
  for (int i = 1; i < 200; ++i) x.push_back(float(i) / 8.0f);
  Buffer<float> from(x), exp2(x.size()), log2(x.size()), reciprocal(x.size());
  run_powers(from.p(), exp2.p(), log2.p(), reciprocal.p(), int(x.size()));
  int wrong = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    wrong += std::fabs(exp2[i] / std::exp2(double(x[i])) - 1) > 1e-6;
    wrong += std::fabs(log2[i] - std::log2(double(x[i]))) > 1e-6;
    wrong += std::fabs(reciprocal[i] * double(x[i]) - 1) > 1e-6;
  }
  return wrong;
}

// ---- the runtime itself

// A word that some threads touch, between barriers and warp barriers that all pass.
struct Touch {
  unsigned block, thread, phase, warp_phase;
  simt::Access access;
};

bool race(const Touch& a, const Touch& b) {
  if (a.access == b.access && a.access != simt::Access::kWrite) return false;
  if (a.block != b.block) return true;
  if (a.thread == b.thread || a.phase != b.phase) return false;
  return a.thread / 32 != b.thread / 32 || a.warp_phase == b.warp_phase;
}

// Whether races are found exactly where two of all pairs race, in random programs.
int races() {
  std::mt19937 random(unsigned(simt::config().seed));
  const auto below = [&](unsigned n) { return unsigned(random() % n); };
  int wrong = 0, racing = 0;
  for (int program = 0; program < 1000; ++program) {
    std::vector<Touch> touches(2 + below(5));
    const unsigned blocks = 1 + (below(4) == 0), write_share = 1 + below(6);
    const unsigned warps = 1 + 2 * below(2), phases = 1 + below(2);
    for (Touch& t : touches) {
      const unsigned lane = below(3), warp = below(warps);
      const bool write = below(write_share) == 0;
      t = {below(blocks), warp * 32 + lane, below(phases), below(phases),
           write ? simt::Access::kWrite : simt::Access(2 * below(2))};
    }
    bool expected = false;
    for (const Touch& a : touches) {
      for (const Touch& b : touches) expected |= &a != &b && race(a, b);
    }
    Buffer<float> word(std::vector<float>{0});
    simt::clear_findings();
    simt::launch("races", dim3(blocks), dim3(68), 0, [&] {
      const simt::Place& self = *simt::here;
      const auto meet = [](int line, bool orders_memory) {
        const auto nothing = [](const simt::LaneData*, unsigned, unsigned, const void*, void*) {};
        simt::collective({"meeting", {"races", line}, ~0u, orders_memory, nothing, nullptr},
                         nullptr, 0, nullptr);
      };
      for (unsigned step = 0; step < 4; ++step) {
        for (int i = 0; i < int(touches.size()); ++i) {
          const Touch& t = touches[i];
          meet(100 + i, false);  // so that threads come back to the word after others
          if (t.block != self.block.x || t.thread != self.linear) continue;
          if (t.phase * 2 + t.warp_phase != step) continue;
          simt::note_access(word.p(), 4, t.access, {nullptr, {"races", i}});
        }
        meet(1, true);
        if (step == 1) simt::barrier({"races", 2});
      }
    });
    racing += expected;
    wrong += expected == simt::findings().empty();
  }
  simt::clear_findings();
  return wrong + (racing < 100) + (racing > 900);
}

// How many findings an access of so many bytes gives.
std::size_t findings_at(const void* p, std::size_t bytes) {
  simt::clear_findings();
  simt::launch("memory", dim3(1), dim3(1), 0,
               [=] { simt::note_access(p, bytes, simt::Access::kRead, {nullptr, {"memory", 1}}); });
  const std::size_t found = simt::findings().size();
  simt::clear_findings();
  return found;
}

int known_memory() {
  alignas(16) static char bytes[64];
  auto* const heap = new char[64]();
  int wrong = 0;
  {
    const simt::KnownMemory nothing(nullptr, 0, true), nothing_too(nullptr, 0, true);
    const simt::KnownMemory low(heap, 16, true), high(heap + 16, 16, true);
    {
      const simt::KnownMemory low_again(heap, 16, true);
      wrong += findings_at(heap, 4) != 0;
    }
    wrong += findings_at(heap, 16) != 0;      // still known
    wrong += findings_at(heap + 12, 4) != 0;  // neighbours without a gap
    wrong += findings_at(heap + 16, 4) != 0;
    wrong += findings_at(heap + 14, 4) != 1;  // across them
    wrong += findings_at(heap + 32, 4) != 1;
    wrong += findings_at(heap - 1, 1) != 1;
    wrong += findings_at(nullptr, 4) != 1;
  }
  wrong += findings_at(heap, 4) != 1;   // no longer
  wrong += findings_at(bytes, 4) != 0;  // constants of the program are read by all
  delete[] heap;
  return wrong;
}

// The second launch has the same to report, though it is not said again.
int same_finding_twice() {
  const auto fails = [] {
    return !simt::launch("twice", dim3(1), dim3(4), 0, [] {
      if (simt::here->linear < 2) simt::barrier({"twice", 1});
    });
  };
  const int wrong = !fails() + !fails() + (simt::findings().size() != 1);
  simt::clear_findings();
  return wrong;
}

// More threads than a launch may have, in products that overflow 64 bits.
int limits() {
  int wrong = 0;
  const auto refused = [](dim3 grid, dim3 block) {
    return !simt::launch("limits", grid, block, 0, [] {});
  };
  wrong += !refused(dim3(1), dim3(1u << 31, 1u << 31, 4)) + !refused(dim3(1), dim3(0));
  wrong += !refused(dim3(1), dim3(1, 1, 65)) + !refused(dim3(1), dim3(32, 33));
  wrong += !refused(dim3(0), dim3(1)) + !refused(dim3(1, 1, 65536), dim3(1));
  wrong += refused(dim3(2, 2, 2), dim3(16, 1, 64));
  simt::clear_findings();
  return wrong;
}

int convert() {
  std::vector<float> x;
  for (float v; std::fread(&v, sizeof(v), 1, stdin) == 1;) x.push_back(v);
  for (const bool bf16 : {true, false}) {
    const std::vector<std::uint16_t> bits = as_half(x, bf16);
    std::fwrite(bits.data(), 2, bits.size(), stdout);
  }
  std::vector<std::uint16_t> every(1 << 16);
  std::iota(every.begin(), every.end(), 0);
  Buffer<std::uint16_t> from(every);
  Buffer<float> bf16(every.size()), f16(every.size());
  run_widen(from.p(), bf16.p(), f16.p(), int(every.size()));
  std::fwrite(bf16.p(), 4, every.size(), stdout);
  std::fwrite(f16.p(), 4, every.size(), stdout);
  return simt::findings().empty() ? 0 : 1;
}

}  // namespace

int main(int count, char** words) {
  if (count == 2 && std::string(words[1]) == "convert") return convert();
  if (count != 3) return 2;
  simt::config().seed = std::stoull(words[1]);
  simt::config().order = simt::Order(std::stoi(words[2]));
  const std::vector<std::pair<std::string, std::function<int()>>> units = {
      {"mma_bf16", [] { return mma_16(true); }},
      {"mma_f16", [] { return mma_16(false); }},
      {"mma_tf32", mma_tf32},
      {"load_matrix", [] { return load_matrix(false); }},
      {"load_matrix_transposed", [] { return load_matrix(true); }},
      {"shuffles of whole warps", [] { return shuffles(64); }},
      {"shuffles of half a warp", [] { return shuffles(50); }},
      {"shuffles of four lanes", [] { return shuffles(4); }},
      {"atomics", atomics},
      {"copies of 0 to 16 bytes", copies},
      {"two groups of copies", two_groups},
      {"parts of shared memory", shared_parts},
      {"positions in three dimensions", positions},
      {"powers and logarithms", powers},
      {"races of random programs", races},
      {"known memory", known_memory},
      {"the same finding twice", same_finding_twice},
      {"limits", limits},
  };
  for (const auto& [name, unit] : units) {
    simt::clear_findings();
    const int wrong = unit();
    std::cout << name << ": " << wrong << " wrong\n";
    for (const auto& finding : simt::findings()) {
      std::cout << name << ": " << finding.kind << ": " << finding.text << "\n";
    }
  }
  return 0;
}
