#include <array>
#include <random>

#include "test.h"

// shfl, vote, match, redux, elect, activemask, bar.warp: against the PTX ISA's pseudocode, lane by lane.
namespace {

constexpr uint32_t kAll = ~0u;
using Lanes = std::array<uint32_t, 32>;

Lanes random_lanes(std::mt19937& rng, uint32_t mask = kAll) {
  Lanes lanes;
  for (auto& v : lanes) v = rng() & mask;
  return lanes;
}
std::vector<uint32_t> flat(const std::vector<Lanes>& of) {
  std::vector<uint32_t> out;
  for (const Lanes& lanes : of) out.insert(out.end(), lanes.begin(), lanes.end());
  return out;
}

struct Shuffled {
  uint32_t value, inside;
};
enum Mode { up, down, bfly, idx };

template <Mode mode>
__device__ Shuffled shuffle(uint32_t a, uint32_t b, uint32_t c, uint32_t members) {
  uint32_t d, p;
#define SHUFFLE(name)                                                                                 \
  asm volatile("{ .reg .pred q; shfl.sync." name ".b32 %0|q, %2, %3, %4, %5; selp.u32 %1, 1, 0, q; }" \
               : "=r"(d), "=r"(p)                                                                     \
               : "r"(a), "r"(b), "r"(c), "r"(members)                                                 \
               : "memory")
  if constexpr (mode == up) SHUFFLE("up");
  if constexpr (mode == down) SHUFFLE("down");
  if constexpr (mode == bfly) SHUFFLE("bfly");
  if constexpr (mode == idx) SHUFFLE("idx");
  return {d, p};
}

// The ISA's pseudocode: the lane that is read, and the predicate.
struct Source {
  int lane;
  bool inside;
};
Source source(Mode mode, int lane, uint32_t b, uint32_t c) {
  const int bval = b & 31, cval = c & 31, mask = c >> 8 & 31;
  const int max_lane = (lane & mask) | (cval & ~mask), min_lane = lane & mask;
  int j = 0;
  bool inside = false;
  switch (mode) {
    case up:
      j = lane - bval, inside = j >= max_lane;
      break;
    case down:
      j = lane + bval, inside = j <= max_lane;
      break;
    case bfly:
      j = lane ^ bval, inside = j <= max_lane;
      break;
    case idx:
      j = min_lane | (bval & ~mask), inside = j <= max_lane;
      break;
  }
  return {inside ? j : lane, inside};
}

template <Mode mode>
__global__ void every_clamp(Shuffled* out) {                // block b: offset b; c from 0 to 1023: segment, clamp
  const uint32_t lane = threadIdx.x, garbage = 0xa5a5a0e0;  // bits that must be ignored
  for (uint32_t c = 0; c < 1024; ++c) {
    const uint32_t packed = ((c & 31) | (c >> 5) << 8) | (garbage & 0xffffe0e0);
    out[(blockIdx.x * 1024 + c) * 32 + lane] =
        shuffle<mode>(lane * 0x01010101, blockIdx.x | (garbage & ~31u), packed, kAll);
  }
}
template <Mode mode>
__global__ void any_lane(const uint32_t (*in)[32], Shuffled* out, int rounds) {  // each lane its own offset and clamp
  const uint32_t lane = threadIdx.x;
  for (int r = 0; r < rounds; ++r, in += 3)
    out[r * 32 + lane] = shuffle<mode>(in[0][lane], in[1][lane], in[2][lane], kAll);
}

template <Mode mode>
void check_every_clamp() {
  const test::Buffer<Shuffled> out(32 * 1024 * 32);
  every_clamp<mode><<<32, 32>>>(out);
  ASSERT_TRUE(test::ok());
  const auto got = out.read();
  for (uint32_t b = 0; b < 32; ++b) {
    for (uint32_t c = 0; c < 1024; ++c) {
      for (int lane = 0; lane < 32; ++lane) {
        const Source want = source(mode, lane, b, (c & 31) | (c >> 5) << 8);
        const Shuffled& g = got[(b * 1024 + c) * 32 + lane];
        ASSERT_EQ(g.value, want.lane * 0x01010101u)
            << "offset " << b << ", clamp and segment " << c << ", lane " << lane;
        ASSERT_EQ(g.inside, want.inside) << "offset " << b << ", clamp and segment " << c << ", lane " << lane;
      }
    }
  }
}
TEST(Shuffle, UpAtEveryOffsetClampAndSegment) { check_every_clamp<up>(); }
TEST(Shuffle, DownAtEveryOffsetClampAndSegment) { check_every_clamp<down>(); }
TEST(Shuffle, BflyAtEveryOffsetClampAndSegment) { check_every_clamp<bfly>(); }
TEST(Shuffle, IdxAtEveryOffsetClampAndSegment) { check_every_clamp<idx>(); }

template <Mode mode>
void check_any_lane() {
  constexpr int kRounds = 64;
  std::mt19937 rng(mode);
  std::vector<Lanes> in;
  for (int r = 0; r < 3 * kRounds; ++r) in.push_back(random_lanes(rng));
  const test::Buffer<uint32_t> from(flat(in));
  const test::Buffer<Shuffled> out(kRounds * 32);
  any_lane<mode><<<1, 32>>>(reinterpret_cast<const uint32_t(*)[32]>(from.data()), out, kRounds);
  ASSERT_TRUE(test::ok());
  const auto got = out.read();
  for (int r = 0; r < kRounds; ++r) {
    for (int lane = 0; lane < 32; ++lane) {
      const Source want = source(mode, lane, in[3 * r + 1][lane], in[3 * r + 2][lane]);
      ASSERT_EQ(got[r * 32 + lane].value, in[3 * r][want.lane]) << "round " << r << ", lane " << lane;
      ASSERT_EQ(got[r * 32 + lane].inside, want.inside) << "round " << r << ", lane " << lane;
    }
  }
}
TEST(Shuffle, OfOffsetsThatDifferByLane) {
  check_any_lane<up>();
  check_any_lane<down>();
  check_any_lane<bfly>();
  check_any_lane<idx>();
}

__global__ void immediates(uint32_t* out) {
  uint32_t v = threadIdx.x * 3 + 1, sum = v;
  asm volatile("shfl.sync.bfly.b32 %0, %0, 16, 31, -1;" : "+r"(v));  // in place
  sum += v;
  asm volatile(
      "{ .reg .pred q; .reg .b32 t; shfl.sync.down.b32 t|q, %0, 5, 0x1f, 0xffffffff; selp.u32 %0, %0, 1000, q; }"
      : "+r"(v));
  out[threadIdx.x] = sum * 10000 + v;
}
TEST(Shuffle, ImmediatesAndInPlace) {
  const auto got = test::warp<uint32_t>(immediates);
  for (uint32_t l = 0; l < 32; ++l) {
    const uint32_t other = (l ^ 16) * 3 + 1;
    ASSERT_EQ(got[l], (l * 3 + 1 + other) * 10000 + (l + 5 < 32 ? other : 1000)) << l;
  }
}

// Lanes of different masks: in branches, and at one instruction.
__global__ void branches(uint32_t* out) {
  const uint32_t lane = threadIdx.x;
  uint32_t v = lane * 7;
  if (lane % 3 == 0) {
    v = shuffle<down>(v, 3, 31, 0x49249249).value;  // lanes 0, 3, … 30
  } else if (lane % 3 == 1) {
    v = shuffle<bfly>(v, 6, 31, 0x92492492).value + 1000;  // 1, 4, … 31
  } else {
    v = shuffle<idx>(v, 14, 31, 0x24924924).value + 2000;  // 2, 5, … 29
  }
  out[lane] = v;
}
TEST(Shuffle, InDivergentBranches) {
  const auto got = test::warp<uint32_t>(branches);
  for (uint32_t l = 0; l < 32; ++l) {
    if (l % 3 == 0) ASSERT_EQ(got[l], (l + 3 < 32 ? l + 3 : l) * 7) << l;
    if (l % 3 == 1 && (l ^ 6) % 3 == 1) ASSERT_EQ(got[l], (l ^ 6) * 7 + 1000) << l;
    if (l % 3 == 2) ASSERT_EQ(got[l], 14u * 7 + 2000) << l;
  }
}
__global__ void halves(uint32_t* out) {
  const uint32_t lane = threadIdx.x, members = 0xffu << (lane & 24);
  uint32_t v = lane * lane;
  for (uint32_t step = 4; step > 0; step /= 2) v += shuffle<bfly>(v, step, 31, members).value;
  out[lane] = v;
}
TEST(Shuffle, SeveralMasksAtOneInstruction) {
  const auto got = test::warp<uint32_t>(halves);
  for (uint32_t l = 0; l < 32; ++l) {
    uint32_t sum = 0;
    for (uint32_t k = l & 24; k < (l & 24) + 8; ++k) sum += k * k;
    ASSERT_EQ(got[l], sum) << l;
  }
}

struct Votes {
  uint32_t all, any, uni, ballot, not_all, not_ballot;
};
__device__ Votes vote(bool yes, uint32_t members) {
  Votes v;
  asm volatile(
      "{ .reg .pred p, q; setp.ne.u32 p, %6, 0;\n"
      "vote.sync.all.pred q, p, %7; selp.u32 %0, 1, 0, q;\n"
      "vote.sync.any.pred q, p, %7; selp.u32 %1, 1, 0, q;\n"
      "vote.sync.uni.pred q, p, %7; selp.u32 %2, 1, 0, q;\n"
      "vote.sync.ballot.b32 %3, p, %7;\n"
      "vote.sync.all.pred q, !p, %7; selp.u32 %4, 1, 0, q;\n"
      "vote.sync.ballot.b32 %5, !p, %7; }"
      : "=r"(v.all), "=r"(v.any), "=r"(v.uni), "=r"(v.ballot), "=r"(v.not_all), "=r"(v.not_ballot)
      : "r"(static_cast<uint32_t>(yes)), "r"(members));
  return v;
}
__global__ void votes(Votes* out, uint32_t pattern, uint32_t group) {
  const uint32_t lane = threadIdx.x;
  const bool yes = pattern >> lane & 1;
  if (group >> lane & 1)
    out[lane] = vote(yes, group);
  else
    out[lane] = vote(yes, ~group);
}
TEST(Vote, OfEveryKind) {
  std::mt19937 rng(5);
  for (int round = 0; round < 40; ++round) {
    const uint32_t group = round < 8 ? kAll : static_cast<uint32_t>(rng());
    const uint32_t pattern = round % 4 == 0   ? 0
                             : round % 4 == 1 ? kAll
                             : round % 4 == 2 ? group
                                              : static_cast<uint32_t>(rng());
    const auto got = test::warp<Votes>(votes, pattern, group);
    for (int l = 0; l < 32; ++l) {
      const uint32_t members = group >> l & 1 ? group : ~group, yes = pattern & members;
      const Votes& v = got[l];
      ASSERT_EQ(v.all, yes == members) << round << ", lane " << l;
      ASSERT_EQ(v.any, yes != 0) << round << ", lane " << l;
      ASSERT_EQ(v.uni, yes == members || yes == 0) << round << ", lane " << l;
      ASSERT_EQ(v.ballot, yes) << round << ", lane " << l;
      ASSERT_EQ(v.not_all, yes == 0) << round << ", lane " << l;
      ASSERT_EQ(v.not_ballot, members & ~yes) << round << ", lane " << l;
    }
  }
}

struct Matches {
  uint32_t any, all, all_same, any64, all64, all64_same;
};
__global__ void matches(Matches* out, const uint32_t* values, uint32_t group) {
  const uint32_t lane = threadIdx.x, members = group >> lane & 1 ? group : ~group;
  const uint64_t wide = static_cast<uint64_t>(values[lane]) << 32 | 5;
  Matches m;
  asm volatile(
      "{ .reg .pred q;\n"
      "match.any.sync.b32 %0, %6, %8;\n"
      "match.all.sync.b32 %1|q, %6, %8; selp.u32 %2, 1, 0, q;\n"
      "match.any.sync.b64 %3, %7, %8;\n"
      "match.all.sync.b64 %4|q, %7, %8; selp.u32 %5, 1, 0, q; }"
      : "=r"(m.any), "=r"(m.all), "=r"(m.all_same), "=r"(m.any64), "=r"(m.all64), "=r"(m.all64_same)
      : "r"(values[lane]), "l"(wide), "r"(members));
  out[lane] = m;
}
TEST(Match, AnyAndAll) {
  std::mt19937 rng(6);
  for (int round = 0; round < 40; ++round) {
    const uint32_t group = round % 2 ? kAll : static_cast<uint32_t>(rng());
    std::vector<uint32_t> values(32);
    for (auto& v : values) v = rng() % (1 + round / 8);
    const test::Buffer<uint32_t> in(values);
    const auto got = test::warp<Matches>(matches, static_cast<const uint32_t*>(in.data()), group);
    for (int l = 0; l < 32; ++l) {
      const uint32_t members = group >> l & 1 ? group : ~group;
      uint32_t same = 0;
      for (int k = 0; k < 32; ++k) same |= static_cast<uint32_t>((members >> k & 1) && values[k] == values[l]) << k;
      const uint32_t all = same == members ? members : 0;
      const Matches& m = got[l];
      ASSERT_EQ(m.any, same) << round << ", lane " << l;
      ASSERT_EQ(m.all, all) << round << ", lane " << l;
      ASSERT_EQ(m.all_same, all != 0) << round << ", lane " << l;
      ASSERT_EQ(m.any64, same) << round << ", lane " << l;
      ASSERT_EQ(m.all64, all) << round << ", lane " << l;
      ASSERT_EQ(m.all64_same, all != 0) << round << ", lane " << l;
    }
  }
}

struct Reduced {
  uint32_t add_u, add_s, min_u, min_s, max_u, max_s, bits_and, bits_or, bits_xor;
};
__global__ void reductions(Reduced* out, const uint32_t* values, uint32_t group) {
  const uint32_t lane = threadIdx.x, members = group >> lane & 1 ? group : ~group;
  Reduced r;
#define REDUCE(what, to) asm volatile("redux.sync." what " %0, %1, %2;" : "=r"(to) : "r"(values[lane]), "r"(members))
  REDUCE("add.u32", r.add_u);
  REDUCE("add.s32", r.add_s);
  REDUCE("min.u32", r.min_u);
  REDUCE("min.s32", r.min_s);
  REDUCE("max.u32", r.max_u);
  REDUCE("max.s32", r.max_s);
  REDUCE("and.b32", r.bits_and);
  REDUCE("or.b32", r.bits_or);
  REDUCE("xor.b32", r.bits_xor);
  out[lane] = r;
}
TEST(Redux, OfEveryOperation) {
  std::mt19937 rng(7);
  for (int round = 0; round < 16; ++round) {
    const uint32_t group = round % 2 ? kAll : static_cast<uint32_t>(rng());
    std::vector<uint32_t> values(32);
    for (auto& v : values) v = round < 4 ? rng() : rng() | rng() | rng();
    const test::Buffer<uint32_t> in(values);
    const auto got = test::warp<Reduced>(reductions, static_cast<const uint32_t*>(in.data()), group);
    for (int l = 0; l < 32; ++l) {
      const uint32_t members = group >> l & 1 ? group : ~group;
      Reduced want{0, 0, kAll, 0x7fffffff, 0, 0x80000000, kAll, 0, 0};
      for (int k = 0; k < 32; ++k) {
        if (!(members >> k & 1)) continue;
        const uint32_t v = values[k];
        const auto s = static_cast<int32_t>(v);
        want.add_u += v;
        want.min_u = std::min(want.min_u, v);
        want.max_u = std::max(want.max_u, v);
        want.min_s = std::min(static_cast<int32_t>(want.min_s), s);
        want.max_s = std::max(static_cast<int32_t>(want.max_s), s);
        want.bits_and &= v;
        want.bits_or |= v;
        want.bits_xor ^= v;
      }
      want.add_s = want.add_u;
      ASSERT_EQ(std::memcmp(&got[l], &want, sizeof want), 0) << round << ", lane " << l;
    }
  }
}

struct Elected {
  uint32_t leader, is_leader, without_value;
};
__global__ void elections(Elected* out, uint32_t group) {
  const uint32_t lane = threadIdx.x;
  Elected e{};
  if (group >> lane & 1) {
    asm volatile(
        "{ .reg .pred q;\n"
        "elect.sync %0|q, %3; selp.u32 %1, 1, 0, q;\n"
        "elect.sync _|q, %3; selp.u32 %2, 1, 0, q; }"
        : "=r"(e.leader), "=r"(e.is_leader), "=r"(e.without_value)
        : "r"(group));
  }
  out[lane] = e;
}
TEST(Elect, OneLaneOfTheMask) {
  for (const uint32_t group : {kAll, 0x80000000u, 0xff00ff00u, 0x00010000u, 0xaaaaaaa8u}) {
    const auto got = test::warp<Elected>(elections, group);
    uint32_t leaders = 0, again = 0;
    for (int l = 0; l < 32; ++l) leaders |= got[l].is_leader << l, again |= got[l].without_value << l;
    ASSERT_EQ(leaders & (leaders - 1), 0u) << "one";
    ASSERT_NE(leaders & group, 0u) << "of the mask";
    ASSERT_EQ(leaders, again) << "always the same";
    for (int l = 0; l < 32; ++l) {
      if (group >> l & 1) ASSERT_EQ(1u << got[l].leader, leaders);
    }
  }
}

__global__ void active(uint32_t* out, uint32_t group) {
  const uint32_t lane = threadIdx.x;
  uint32_t mask = 0;
  if (group >> lane & 1) asm volatile("activemask.b32 %0;" : "=r"(mask));
  out[lane] = mask;
}
TEST(Activemask, IsThatOfTheBranch) {
  for (const uint32_t group : {kAll, 0x0000ffffu, 0x12345678u}) {
    const auto got = test::warp<uint32_t>(active, group);
    for (int l = 0; l < 32; ++l) ASSERT_EQ(got[l], group >> l & 1 ? group : 0) << l;
  }
}

__global__ void through_memory(uint32_t* out) {  // halves of a warp, each by its own barriers
  __shared__ volatile uint32_t cell[32];
  const uint32_t lane = threadIdx.x, members = lane < 16 ? 0xffffu : 0xffff0000u;
  uint32_t v = lane + 1;
  for (uint32_t step = 1; step < 16; step *= 2) {
    cell[lane] = v;
    asm volatile("bar.warp.sync %0;" ::"r"(members) : "memory");
    const uint32_t other = cell[(lane & 16) | ((lane + step) & 15)];
    asm volatile("bar.warp.sync %0;" ::"r"(members) : "memory");
    v += other;
  }
  out[lane] = v;
}
TEST(BarWarp, OrdersMemoryAmongItsLanes) {
  const auto got = test::warp<uint32_t>(through_memory);
  for (uint32_t l = 0; l < 32; ++l) ASSERT_EQ(got[l], l < 16 ? 136u : 392u) << l;
}

#if SACCADE_EMULATED
__global__ void from_outside(uint32_t* out) {
  const uint32_t lane = threadIdx.x;
  out[lane] = shuffle<down>(lane, 8, 31, 0xffffu << (lane & 16)).value;
}
TEST(Shuffle, OfALaneOutsideTheMaskIsConspicuous) {
  const auto got = test::warp<uint32_t>(from_outside);
  for (uint32_t l = 0; l < 32; ++l)
    ASSERT_EQ(got[l], l < 8 || (l >= 16 && l < 24) ? l + 8 : l < 16 ? 0xffb7ffb7u : l) << l;
}

__global__ void not_named(uint32_t* out, uint32_t members) {
  out[threadIdx.x] = shuffle<bfly>(1, 1, 31, members).value;
}
TEST(Shuffle, MaskMustNameTheLane) {
  const test::Buffer<uint32_t> out(32);
  not_named<<<1, 32>>>(out, 0xfffffffe);
  ASSERT_TRUE(test::found("membermask"));
  not_named<<<1, 32>>>(out, kAll);
  ASSERT_TRUE(test::ok());
}
#endif

}  // namespace
