#include "platform/ptx/traffic.h"

#include <algorithm>
#include <array>

namespace sslkern::ptx {
namespace {

constexpr std::uint64_t kSectorBytes = 32, kWordBytes = 4, kBanks = 32;
constexpr unsigned kLanes = 32;

template <class F>
void for_lanes(const Request& r, unsigned first, unsigned count, const F& f) {
  for (unsigned lane = first; lane < first + count; ++lane) {
    if ((r.lanes >> lane & 1) != 0 && r.bytes[lane] > 0) f(r.address[lane], r.bytes[lane]);
  }
}

// Passes that the banks need for some lanes; 0 if they ask for nothing.
std::uint64_t passes(const Request& r, unsigned first, unsigned count, bool updates) {
  std::array<std::uint64_t, kLanes * 4> words;
  auto end = words.begin();
  for_lanes(r, first, count, [&](std::uint64_t at, std::uint64_t bytes) {
    for (std::uint64_t word = at / kWordBytes; word * kWordBytes < at + bytes; ++word) {
      if (end != words.end()) *end++ = word;
    }
  });
  std::sort(words.begin(), end);
  if (!updates) end = std::unique(words.begin(), end);
  std::array<std::uint64_t, kBanks> of_bank{};
  std::for_each(words.begin(), end, [&](std::uint64_t word) { ++of_bank[word % kBanks]; });
  return *std::max_element(of_bank.begin(), of_bank.end());
}

}  // namespace

GlobalTraffic global_traffic(const Request& r, std::vector<std::uint64_t>& sectors) {
  std::array<std::pair<std::uint64_t, std::uint64_t>, kLanes> pieces;
  std::size_t count = 0;
  GlobalTraffic result;
  for_lanes(r, 0, kLanes, [&](std::uint64_t at, std::uint64_t bytes) {
    pieces[count++] = {at, at + bytes};
    result.lane_bytes += bytes;
  });
  if (count == 0) return result;
  std::sort(pieces.begin(), pieces.begin() + std::ptrdiff_t(count));
  std::uint64_t covered = 0, next_sector = 0;  // what lies before was counted
  for (std::size_t k = 0; k < count; ++k) {
    const auto [begin, end] = pieces[k];
    result.bytes += end - std::min(end, std::max(begin, covered));
    covered = std::max(covered, end);
    for (next_sector = std::max(next_sector, begin / kSectorBytes);
         next_sector * kSectorBytes < end; ++next_sector) {
      sectors.push_back(next_sector);
      ++result.sectors;
    }
  }
  result.requests = 1;
  result.least_sectors = (result.bytes + kSectorBytes - 1) / kSectorBytes;
  return result;
}

SharedTraffic shared_traffic(const Request& r, bool updates) {
  std::uint64_t widest = 0;
  SharedTraffic result;
  for_lanes(r, 0, kLanes, [&](std::uint64_t, std::uint64_t bytes) {
    widest = std::max(widest, bytes);
    result.lane_bytes += bytes;
  });
  if (widest == 0) return result;
  const unsigned together = widest <= 4 ? kLanes : widest <= 8 ? kLanes / 2 : kLanes / 4;
  for (unsigned first = 0; first < kLanes; first += together) {
    const std::uint64_t needed = passes(r, first, together, updates);
    result.wavefronts += needed;
    result.least_wavefronts += needed > 0;
  }
  result.requests = 1;
  return result;
}

}  // namespace sslkern::ptx
