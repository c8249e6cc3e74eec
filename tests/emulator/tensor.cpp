#include <algorithm>
#include <cstring>

#include "async.h"
#include "formats.h"
#include "lanes.h"
#include "tensor_map.h"

// cp.async.bulk.tensor and its reductions and prefetches, tile mode, 1 to 5 dimensions. Shared memory holds the box
// densely, dimension 0 innermost; a swizzle exchanges the 16-byte chunks by bits of their shared address.
namespace emu {
namespace {

/// What the instruction sees of the map, and where its box starts.
struct Tile {
  TensorMap map;
  int32_t at[5] = {};
  uint32_t count[5] = {1, 1, 1, 1, 1};  // elements copied along each dimension
  uint32_t row_bytes = 0;               // of dimension 0
  uint32_t rows = 1;

  int bytes() const { return static_cast<int>(rows * row_bytes); }

  /// Calls f(row, global address of its first element, or false if the row lies outside).
  template <class F>
  void each_row(F f) const {
    for (uint32_t r = 0; r < rows; ++r) {
      uint64_t address = map.base;
      bool inside = true;
      uint32_t rest = r;
      for (int d = 1; d < map.rank; ++d) {
        const int64_t c = at[d] + int64_t{rest % count[d]} * map.step[d];
        rest /= count[d];
        inside &= c >= 0 && c < static_cast<int64_t>(map.extent(d));
        address += static_cast<uint64_t>(c) * map.stride[d - 1];
      }
      f(r, address, inside);
    }
  }
  /// Elements [first, last) of a row that lie in the tensor.
  std::pair<int64_t, int64_t> span() const {
    const int64_t first = std::max<int64_t>(0, -int64_t{at[0]});
    const int64_t last = std::min<int64_t>(count[0], static_cast<int64_t>(map.extent(0)) - at[0]);
    return {first, std::max(first, last)};
  }
  uint32_t place(uint32_t address) const {
    constexpr uint32_t chunk_bits[] = {0, 0x10, 0x30, 0x70};
    return address ^ (address >> 3 & chunk_bits[static_cast<int>(map.swizzle)]);
  }
  /// Copies between a row and its place in shared memory; `base` is the box's address, `box` its bytes.
  template <bool to_shared>
  void move_row(uint32_t r, uint32_t base, std::byte* box, std::byte* row) const {
    const uint32_t start = r * row_bytes;
    const auto copy = [&](uint32_t shared_at, uint32_t row_at, uint32_t bytes) {
      if constexpr (to_shared)
        std::memcpy(box + shared_at, row + row_at, bytes);
      else
        std::memcpy(row + row_at, box + shared_at, bytes);
    };
    if (map.swizzle == TensorMap::Swizzle::none) return copy(start, 0, row_bytes);
    for (uint32_t at = 0; at < row_bytes; at += 16) copy(place(base + start + at) - base, at, 16);
  }
};

constexpr int kMaxRow = 256 * 8;

void fill_nan(std::byte* row, uint32_t bytes, TensorMap::Type type) {  // all bits but the sign
  const int size = type == TensorMap::Type::f64                                    ? 8
                   : type == TensorMap::Type::f16 || type == TensorMap::Type::bf16 ? 2
                                                                                   : 4;
  std::memset(row, 0xFF, bytes);
  for (uint32_t at = size - 1; at < bytes; at += size) row[at] = std::byte{0x7F};
}

void flush(std::byte* row, uint32_t bytes) {
  for (uint32_t at = 0; at < bytes; at += 4) {
    uint32_t v;
    std::memcpy(&v, row + at, 4);
    if (!(v & 0x7F80'0000)) v &= 0x8000'0000;
    std::memcpy(row + at, &v, 4);
  }
}

struct TensorLoad final : BulkLoad {
  Tile tile;
  void fill(std::byte* box) override {
    alignas(16) std::byte row[kMaxRow];
    const auto [first, last] = tile.span();
    const int size = tile.map.element_bytes();
    const bool ftz = tile.map.type == TensorMap::Type::f32_ftz || tile.map.type == TensorMap::Type::tf32_ftz;
    tile.each_row([&, first = first, last = last](uint32_t r, uint64_t address, bool inside) {
      const bool some = inside && first < last;
      if (!some || last - first < tile.count[0]) {
        if (tile.map.nan_fill)
          fill_nan(row, tile.row_bytes, tile.map.type);
        else
          std::memset(row, 0, tile.row_bytes);
      }
      if (some) {
        const uint64_t from = address + static_cast<uint64_t>((tile.at[0] + first) * size);
        const int bytes = static_cast<int>(last - first) * size;
        std::memcpy(row + first * size, transfer_access(transfer, *cta, Space::global, Use::read, from, bytes), bytes);
        if (ftz) flush(row + first * size, bytes);
      }
      tile.move_row<true>(r, to, box, row);
    });
  }
};

struct TensorStore final : BulkStore {
  Tile tile;
  void write() override {
    alignas(16) std::byte row[kMaxRow];
    const auto [first, last] = tile.span();
    const int size = tile.map.element_bytes();
    tile.each_row([&, first = first, last = last](uint32_t r, uint64_t address, bool inside) {
      if (!inside || first >= last) return;
      tile.move_row<false>(r, from, data.data(), row);
      const uint64_t to = address + static_cast<uint64_t>((tile.at[0] + first) * size);
      const int bytes = static_cast<int>(last - first) * size;
      std::byte* out = transfer_access(writing, *cta, Space::global, reduce ? Use::atomic : Use::write, to, bytes);
      if (reduce)
        reduce(out, row + first * size, bytes);
      else
        std::memcpy(out, row + first * size, bytes);
    });
  }
};

struct Plan {
  BulkTarget target;
  Address map, from;
  int rank = 0;
  Place at[5] = {};
  char op[4] = {};  // of a reduction
};

Tile tile_of(Warp& w, const Inst& i, int lane, const Plan& plan) {
  Tile t;
  const uint64_t address = plan.map.of(w, lane);
  if (address % 64) fault(w, i, lane, "a tensor map is aligned to 64");
  Transfer fetch = begin_transfer(w, i, lane, false);
  std::memcpy(&t.map, transfer_access(fetch, *w.cta, Space::generic, Use::read, address, sizeof t.map), sizeof t.map);
  if (t.map.magic != TensorMap::kMagic) fault(w, i, lane, "the tensor map was not made by cuTensorMapEncodeTiled");
  if (t.map.rank != plan.rank) fault(w, i, lane, "the tensor map has " + std::to_string(t.map.rank) + " dimensions");
  if (t.map.interleave != TensorMap::Interleave::none) fault(w, i, lane, "interleaved tensor maps are not emulated");
  for (int d = 0; d < plan.rank; ++d) {
    t.at[d] = w.at<int32_t>(plan.at[d])[lane];
    t.count[d] = (t.map.box_extent(d) + t.map.step[d] - 1) / t.map.step[d];
    if (d) t.rows *= t.count[d];
  }
  t.row_bytes = t.count[0] * t.map.element_bytes();
  // how a narrower row is padded is documented nowhere
  if (t.map.swizzle != TensorMap::Swizzle::none && t.row_bytes != 16u << static_cast<int>(t.map.swizzle))
    fault(w, i, lane, "the box's inner dimension is narrower than the swizzle's span");
  return t;
}

Flow exec_load(Warp& w, const Inst& i, Mask lanes) {
  const auto& plan = *static_cast<const Plan*>(i.extra);
  for (Mask m = lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    const Tile tile = tile_of(w, i, l, plan);
    issue_loads(w, i, l, plan.target, tile.bytes(), 128, [&] {
      auto load = std::make_unique<TensorLoad>();
      load->tile = tile;
      return load;
    });
  }
  return Flow::next;
}

Reduce reduction_of(std::string_view op, TensorMap::Type type) {
  using T = TensorMap::Type;
  const bool bits = op == "and" || op == "or" || op == "xor";
  const char* name = "";
  switch (type) {
    case T::u32:
      name = bits ? "b32" : "u32";
      break;
    case T::s32:
      name = bits ? "b32" : "s32";
      break;
    case T::u64:
      name = bits ? "b64" : "u64";
      break;
    case T::s64:
      name = bits ? "b64" : "s64";
      break;
    case T::f16:
      name = "f16";
      break;
    case T::bf16:
      name = "bf16";
      break;
    case T::f32:
    case T::f32_ftz:
      name = "f32";
      break;
    case T::f64:
      name = "f64";
      break;
    default:
      break;
  }
  return reduction(op, name);
}

Flow exec_store(Warp& w, const Inst& i, Mask lanes) {
  const auto& plan = *static_cast<const Plan*>(i.extra);
  if (!plan.op[0])
    lanes = distinct(lanes, [&](int x, int y) {
      bool same = plan.map.of(w, x) == plan.map.of(w, y) && plan.from.of(w, x) == plan.from.of(w, y);
      for (int d = 0; d < plan.rank; ++d) same &= w.at<int32_t>(plan.at[d])[x] == w.at<int32_t>(plan.at[d])[y];
      return same;
    });
  for (Mask m = lanes; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    auto store = std::make_unique<TensorStore>();
    store->tile = tile_of(w, i, l, plan);
    const int bytes = store->tile.bytes();
    if (plan.op[0] && !(store->reduce = reduction_of(plan.op, store->tile.map.type)))
      fault(w, i, l, "no reduction of this kind for the tensor map's type");
    issue_store(w, i, l, std::move(store), plan.from.of(w, l), bytes, 128);
  }
  return Flow::next;
}

Flow exec_prefetch(Warp& w, const Inst& i, Mask lanes) {
  for (Mask m = lanes; m; m &= m - 1) tile_of(w, i, __builtin_ctz(m), *static_cast<const Plan*>(i.extra));
  return Flow::next;
}

}  // namespace

void decode_tensor(Decoder& d, Inst& i) {
  i.cls = Class::tensor;
  Mods mods(d);
  const auto& args = d.s.args;
  Plan plan;
  const bool reduces = mods.take("reduce");
  mods.take("async");
  mods.take("bulk");
  mods.take("tensor");
  const bool prefetch = mods.take("prefetch");
  plan.rank = mods.pick({"1d", "2d", "3d", "4d", "5d"}) + 1;
  const bool hint = mods.take("L2::cache_hint");
  for (const std::string& mod : d.s.mods) {
    if (mod.substr(0, 6) == "im2col") d.unknown("im2col mode is not emulated");
    if (mod == "tile::gather4" || mod == "tile::scatter4") d.unknown("needs sm_100");
  }
  mods.take("tile");
  const auto want = [&](size_t n) {
    if (args.size() != n + hint || plan.rank == 0) d.unknown("operands");
  };
  const auto tensor = [&](const ptx::Operand& o) {
    if (o.items.size() != 2 || o.items[1].items.size() != static_cast<size_t>(plan.rank)) d.unknown("coordinates");
    plan.map = address_of(d, o);
    for (int k = 0; k < plan.rank; ++k) plan.at[k] = d.src(o.items[1].items[k], 4);
  };
  if (prefetch) {
    if (!mods.take("L2") || !mods.take("global")) d.unknown();
    want(1);
    tensor(args[0]);
    i.exec = exec_prefetch;
  } else if (mods.take("mbarrier::complete_tx::bytes")) {
    if (reduces || !mods.take("global")) d.unknown();
    const bool cluster = mods.take("shared::cluster");
    if (!cluster && !mods.take("shared::cta")) d.unknown();
    const bool multicast = mods.take("multicast::cluster");
    if (multicast && !cluster) d.unknown("multicast");
    want(3 + multicast);
    plan.target.to = address_of(d, args[0]);
    tensor(args[1]);
    plan.target.barrier = address_of(d, args[2]);
    if (multicast) plan.target.mask = d.src(args[3], 2);
    i.exec = exec_load;
  } else if (mods.take("bulk_group")) {
    if (!mods.take("global") || !mods.take("shared::cta")) d.unknown();
    if (reduces) {
      for (const char* name : {"add", "min", "max", "inc", "dec", "and", "or", "xor"})
        if (mods.take(name)) std::strcpy(plan.op, name);
      if (!plan.op[0]) d.unknown();
    }
    want(2);
    tensor(args[0]);
    plan.from = address_of(d, args[1]);
    i.exec = exec_store;
  } else {
    d.unknown();
  }
  mods.done();
  i.extra = d.keep(plan);
}

}  // namespace emu
