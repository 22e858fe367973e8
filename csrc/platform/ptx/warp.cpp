// Exchanges between the lanes of a warp.

#include "platform/ptx/functors.h"
#include "platform/ptx/operations.h"
#include "platform/ptx/thread.h"

namespace sslkern::ptx {
namespace {

using simt::LaneData;

template <class T>
T lane_value(const LaneData* in, unsigned lane) {
  T value;
  std::memcpy(&value, in[lane], sizeof(value));
  return value;
}

// ---- shfl

enum ShuffleMode : std::uint8_t { kUp, kDown, kButterfly, kIndex };

struct Shuffle {
  std::uint32_t value, from;
};

// The lane that is read, and whether it is in range: else a lane reads itself. `bounds` has the
// segments of the warp in bits 8 to 12 and the last lane of one, or the first, in bits 0 to 4.
std::uint32_t source_lane(std::uint8_t mode, std::uint32_t lane, std::uint32_t b,
                          std::uint32_t bounds, bool& in_range) {
  const std::uint32_t segment = bounds >> 8 & 31, bound = bounds & 31;
  const int last = int((lane & segment) | (bound & ~segment)), first = int(lane & segment);
  int from = 0;
  switch (mode) {
    case kUp:
      from = int(lane) - int(b & 31);
      break;
    case kDown:
      from = int(lane) + int(b & 31);
      break;
    case kButterfly:
      from = int(lane ^ (b & 31));
      break;
    default:
      from = first | int(b & 31 & ~segment);
  }
  in_range = mode == kUp ? from >= last : from <= last;
  return in_range ? std::uint32_t(from) : lane;
}

void combine_shuffle(const LaneData* in, unsigned mask, unsigned lane, const void* at, void* out) {
  std::uint32_t from = lane_value<Shuffle>(in, lane).from;
  if ((mask >> from & 1) == 0) {
    simt::report_at("shuffle", {nullptr, *static_cast<const simt::At*>(at)},
                    "lane %u reads lane %u, which mask %08x leaves out", lane, from, mask);
    from = lane;
  }
  const auto value = lane_value<Shuffle>(in, from).value;
  std::memcpy(out, &value, sizeof(value));
}

void shuffle(Thread& t, const Instruction& i) {
  bool in_range;
  const auto from = source_lane(i.mode, simt::here->lane, t.get<std::uint32_t>(i.from[1]),
                                t.get<std::uint32_t>(i.from[2]), in_range);
  const Shuffle own{t.get<std::uint32_t>(i.from[0]), from};
  const auto mask = t.get<std::uint32_t>(i.from[3]);
  std::uint32_t value;
  const simt::At at = t.at(i);
  simt::collective({"shfl.sync", at, mask, false, combine_shuffle, &at}, &own, sizeof(own), &value);
  t.set(i.to[0], value);
  if (i.results > 1) t.set<std::uint8_t>(i.to[1], in_range);
}

Handler decode_shuffle(Decoder& d) {
  d.expect("sync");
  d.instruction().mode = std::uint8_t(d.one_of({"up", "down", "bfly", "idx"}));
  d.type({"b32"});
  d.to(kBits32);
  if (d.joined()) d.to(kPredicate);
  for (int k = 0; k < 4; ++k) d.from(kBits32);
  d.end();
  return shuffle;
}

// ---- vote

enum VoteMode : std::uint8_t { kAll, kAny, kUniform, kBallot };

void combine_votes(const LaneData* in, unsigned mask, unsigned, const void* mode, void* out) {
  std::uint32_t votes = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) != 0 && lane_value<bool>(in, lane)) votes |= 1u << lane;
  }
  const bool all = votes == mask, any = votes != 0;
  const std::uint32_t results[] = {all, any, all || !any, votes};
  std::memcpy(out, &results[*static_cast<const std::uint8_t*>(mode)], sizeof(votes));
}

void vote(Thread& t, const Instruction& i) {
  const bool own = t.predicate(i.from[0]) != i.negated;
  const auto mask = t.get<std::uint32_t>(i.from[1]);
  std::uint32_t result;
  simt::collective({"vote.sync", t.at(i), mask, false, combine_votes, &i.mode}, &own, sizeof(own),
                   &result);
  t.set(i.to[0], result);
}

Handler decode_vote(Decoder& d) {
  d.expect("sync");
  d.instruction().mode = std::uint8_t(d.one_of({"all", "any", "uni", "ballot"}));
  const Type type = d.instruction().mode == kBallot ? d.type({"b32"}) : d.type({"pred"});
  d.to(type);
  d.from_predicate();
  d.from(kBits32);
  d.end();
  return vote;
}

// ---- redux

template <class T, class Op>
void combine_reduction(const LaneData* in, unsigned mask, unsigned lane, const void*, void* out) {
  T result = lane_value<T>(in, lane);
  for (unsigned other = 0; other < 32; ++other) {
    const bool takes_part = other != lane && (mask >> other & 1) != 0;
    if (takes_part) result = Op{}(result, lane_value<T>(in, other));
  }
  std::memcpy(out, &result, sizeof(result));
}

template <class T, class Op>
void reduce(Thread& t, const Instruction& i) {
  const T own = t.get<T>(i.from[0]);
  T result;
  const auto mask = t.get<std::uint32_t>(i.from[1]);
  simt::collective({"redux.sync", t.at(i), mask, false, combine_reduction<T, Op>, nullptr}, &own,
                   sizeof(own), &result);
  t.set(i.to[0], result);
}

template <class Op>
Handler signed_or_not(Type type) {
  return type.kind == 's' ? reduce<std::int32_t, Op> : reduce<std::uint32_t, Op>;
}

Handler reduction(Decoder& d) {
  const Types words = {"u32", "s32"}, bits = {"b32"};
  switch (d.one_of({"add", "min", "max", "and", "or", "xor"})) {
    case 0:
      return signed_or_not<Add>(d.type(words));
    case 1:
      return signed_or_not<Minimum>(d.type(words));
    case 2:
      return signed_or_not<Maximum>(d.type(words));
    case 3:
      return signed_or_not<And>(d.type(bits));
    case 4:
      return signed_or_not<Or>(d.type(bits));
    default:
      return signed_or_not<Xor>(d.type(bits));
  }
}

Handler decode_reduction(Decoder& d) {
  d.expect("sync");
  const Handler handler = reduction(d);
  d.to(kBits32);
  d.from(kBits32);
  d.from(kBits32);
  d.end();
  return handler;
}

}  // namespace

std::vector<Operation> warp_operations() {
  return {
      {"shfl", "warp", decode_shuffle},
      {"vote", "warp", decode_vote},
      {"redux", "warp", decode_reduction},
  };
}

}  // namespace sslkern::ptx
