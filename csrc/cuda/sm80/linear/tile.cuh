#pragma once
#include <type_traits>

#include "cuda/sm80/attention/dims.h"
#include "cuda/sm80/linear/steps.cuh"
#include "cuda/tile/product.cuh"

// A tile of a scan in shared memory: operands, the products of queries and keys, an operand copy of the state, and
// numbers of tokens and channels.
namespace saccade::cuda {

// With decay per channel a tile ends before a channel has decayed by more than 2^-kRange since its first token:
// e^{b_i − ref}·e^{ref − b_j} with ref halfway then neither overflows nor loses digits.
template <class T>
constexpr float kRange = 48;
template <>
constexpr float kRange<math::F16> = 16;

template <class T, int kDim>
struct ScanTile {
  static constexpr int kElement = sizeof(typename T::Storage), kWarps = 8, kThreads = 32 * kWarps;
  static constexpr int kTokens = kDim * kElement >= 512 ? 32 : 64;
  static constexpr int kBlocks = kTokens / 16;                   // of rows, each of which several warps share
  static constexpr int kOutColumns = kSlice * kBlocks / kWarps;  // of a warp
  static constexpr int kScoreKeys = kTokens / 2, kScoreWarps = 2 * kBlocks;  // a warp has 16 × kScoreKeys
  static constexpr int kStateBlocks = kDim == 256 ? 2 : 1;                   // of 16 rows of a warp
  static constexpr int kStateColumns = kDim == 64 ? 32 : 64;
  static constexpr int kCtas(bool channels) { return kDim == 64 || (kDim == 128 && !channels) ? 2 : 1; }
  using Rows = SharedTile<T, kTokens, kDim>;
  using Value = SharedTile<T, kTokens, kSlice>;
  using State = SharedTile<T, kDim, kSlice>;
  using Score = SharedTile<T, kTokens, kElement == 4 ? kTokens : kSlice>;

  struct Numbers {
    Steps steps;
    float high[kTokens], low[kTokens];                   // cumulative log2 decay
    float query[kTokens], key[kTokens];                  // factors of the tokens
    float query_decayed[kTokens], key_decayed[kTokens];  // from the tile's start, to its end
    float query_extra[kTokens], key_extra[kTokens], denominator[kTokens];
    // Log2 decay from a channel's first token to ref; decay from the tile's start to ref, on to its end; a segment's.
    float ref[kDim], into[kDim], onward[kDim], lambda[kDim];
    float seen[kSlice], sums[kThreads / kSlice][kSlice];  // of the extra row
    float total;
    int count;
    uint32_t top;
  };
  // KiB: Q and K 16 each (hd64 8), state 16 (8), V, W 8 each: 64 (40); hd256 32, 32, 32, 4, 4. fp32: hd64 80, 128: 76,
  // 256: 140. With decay per channel 16 (8 where a tile has 32 tokens) more.
  static constexpr int kKey = Rows::kBytes, kState = 2 * Rows::kBytes, kValue = kState + State::kBytes;
  static constexpr int kScore = kValue + Value::kBytes, kNumbers = kScore + Score::kBytes;
  static constexpr int kDecay = kNumbers + static_cast<int>(sizeof(Numbers));
  static constexpr int kShared(bool channels) { return kDecay + (channels ? kTokens * kSlice * 4 : 0); }
};

/// The sum of lower lanes' x.
__device__ __forceinline__ double sum_below(double x, int lane) {
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const double y = __shfl_up_sync(0xFFFFFFFF, x, d);
    if (lane >= d) x += y;
  }
  x = __shfl_up_sync(0xFFFFFFFF, x, 1);
  return lane == 0 ? 0 : x;
}

/// What is done to a tile; every thread of a block calls these.
template <class T, int kDim, bool kChannels>
struct Scanner {
  using Tile = ScanTile<T, kDim>;
  using Storage = typename T::Storage;
  using Value = typename Tile::Value;
  static constexpr int kThreads = Tile::kThreads, kTokens = Tile::kTokens, kElement = Tile::kElement;
  static constexpr int kDepth = Fragment<T>::kDepth;
  static constexpr int O = Tile::kOutColumns / 8;
  static constexpr bool k16 = kElement == 2;

  const ScanParams& p;
  unsigned char* shared;

  __device__ auto& numbers() const { return *reinterpret_cast<typename Tile::Numbers*>(shared + Tile::kNumbers); }
  __device__ const Steps& steps() const { return numbers().steps; }
  /// [kTokens][kSlice]: b − ref of the value's channels.
  __device__ float* value_decay() const { return reinterpret_cast<float*>(shared + Tile::kDecay); }
  __device__ uint32_t base() const { return ptx::shared_address(shared); }
  __device__ typename Tile::Rows query() const { return {base()}; }
  __device__ typename Tile::Rows key() const { return {base() + Tile::kKey}; }
  __device__ typename Tile::State state() const { return {base() + Tile::kState}; }
  __device__ Value value() const { return {base() + Tile::kValue}; }
  __device__ typename Tile::Score score() const { return {base() + Tile::kScore}; }
  /// Room for values over other tiles: results over the queries, parts of values over weights and state.
  __device__ Value staged() const { return {base()}; }
  __device__ Value part(int i) const {
    return {base() + (i == 0 ? Tile::kValue : i == 1 ? Tile::kScore : Tile::kState)};
  }
  static constexpr int kParts = std::is_same_v<T, math::F16> ? 2 : 3;  // of an fp32 number, in 16-bit ones

  // These are computed again wherever they are used: the main loop has no registers for them.
  __device__ static int thread() { return static_cast<int>(ptx::opaque(threadIdx.x)); }
  __device__ static int lane() { return thread() & 31; }
  __device__ static int warp() { return thread() >> 5; }
  __device__ static int32_t head() { return static_cast<int32_t>(blockIdx.y); }
  __device__ static int32_t column() { return static_cast<int32_t>(blockIdx.z) * kSlice; }
  __device__ int32_t columns() const { return min(p.columns - column(), kSlice); }
  __device__ bool on_values() const { return kChannels && p.decay_of == DecayOf::value; }
  __device__ bool on_keys() const { return kChannels && p.decay_of == DecayOf::key; }
  __device__ static int out_row() { return warp() % Tile::kBlocks * 16; }
  __device__ static int out_column() { return warp() / Tile::kBlocks * Tile::kOutColumns; }

  /// f(m, n, e, row, column) for a lane's elements of accumulators from (row0, column0) on.
  template <int kM, int kN, class F>
  __device__ __forceinline__ static void each(int row0, int column0, const F& f) {
    const int l = lane(), r = row0 + (l >> 2), c = column0 + 2 * (l & 3);
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < kN; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) f(m, n, e, r + 16 * m + 8 * (e >> 1), c + 8 * n + (e & 1));
  }
  /// Two neighbouring elements of a tile.
  template <class X>
  __device__ __forceinline__ static void put(X tile, int row, int column, float a, float b) {
    const uint32_t to = tile.unit(row, column / X::kUnitElements) + column % X::kUnitElements * kElement;
    if constexpr (kElement == 4)
      ptx::store_shared_64(to, __float_as_uint(a), __float_as_uint(b));
    else
      ptx::store_shared_32(to, pack<T>(a, b));
  }
  template <class X>
  __device__ __forceinline__ static float get(X tile, int row, int column) {
    if constexpr (kElement == 4)
      return __uint_as_float(tile.word(row, column));
    else
      return T::load({static_cast<uint16_t>(tile.word(row, column & ~1) >> (column & 1) * 16)});
  }
  /// What an operand of T leaves of x.
  __device__ __forceinline__ static float rest(float x) { return x - T::load(T::store(x)); }

  /// Decay and factors of the tile's tokens, by the first warp.
  __device__ __forceinline__ void token_numbers(int32_t t, int n) const {
    constexpr int kEach = kTokens / 32;
    auto& f = numbers();
    const Steps& s = steps();
    double b[kEach], sum = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int j = lane() * kEach + i;
      if (!kChannels && j < n) sum += math::kLog2e * s.decay(p, head(), t + j, 0);
      b[i] = sum;
    }
    const double before = sum_below(sum, lane()), total = __shfl_sync(0xFFFFFFFF, before + sum, 31);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int j = lane() * kEach + i;
      const bool inside = j < n;
      const int64_t number = s.number(p, head(), t + (inside ? j : 0));
      const auto of = [&](const float* x) { return !inside ? 0 : x ? x[number] : 1; };
      const double sums = before + b[i];
      const auto high = static_cast<float>(sums);
      f.high[j] = high, f.low[j] = static_cast<float>(sums - high);
      f.query[j] = p.query_scale * of(p.query_factor), f.key[j] = p.key_scale * of(p.key_factor);
      f.query_decayed[j] = f.query[j] * math::exp2_bounded(high);
      f.key_decayed[j] = inside ? f.key[j] * math::exp2_bounded(static_cast<float>(total - sums)) : 0;
      f.query_extra[j] = p.extra ? of(p.query_extra) : 0, f.key_extra[j] = p.extra ? of(p.key_extra) : 0;
      f.denominator[j] = p.denominator && inside ? 1 / (p.denominator[number] + p.epsilon) : 1;
    }
    if (lane() == 31) f.total = math::exp2_bounded(static_cast<float>(total));
  }

  /// Log decays of the tokens after the tile's first, a channel of them.
  struct ChannelDecay {
    const float* next;
    int64_t stride;

    __device__ __forceinline__ ChannelDecay(const ScanParams& p, const Steps& s, int32_t t, int c)
        : next(s.at<const float>(p, p.decay, head(), t + 1 - p.shifted) + c * p.decay.column),
          stride(s.stride(p, p.decay)) {}
    __device__ __forceinline__ float log2() {
      const float g = *next;
      next += stride;
      return (g < kLowest ? kLowest : g) * static_cast<float>(math::kLog2e);
    }
  };
  /// How many tokens a tile may have, and decay from its start to ref and from there to its end, channel by channel.
  __device__ __forceinline__ int channel_numbers(int32_t t, int n) const {
    auto& f = numbers();
    const int channels = on_keys() ? p.dim : columns(), c = thread(), c0 = on_values() ? column() : 0;
    if (c == 0) f.count = n;
    __syncthreads();
    float b = 0;
    int count = n;
    if (c < channels) {
      ChannelDecay g(p, steps(), t, c0 + c);
#pragma unroll 4
      for (int i = 1; i < n; ++i) {
        b += g.log2();
        if (!(fabsf(b) < kRange<T>) && count == n) count = i;
      }
      if (count < n) atomicMin(&f.count, count);
    }
    __syncthreads();
    if (f.count < n && c < channels) {
      n = f.count;
      b = 0;
      ChannelDecay g(p, steps(), t, c0 + c);
#pragma unroll 4
      for (int i = 1; i < n; ++i) b += g.log2();
    }
    if (c < kDim) {
      const float first = c < channels ? expf(steps().decay(p, head(), t, c0 + c)) : 1, ref = b * 0.5f;
      f.ref[c] = ref, f.into[c] = first * math::exp2_bounded(ref), f.onward[c] = math::exp2_bounded(b - ref);
    }
    return f.count;
  }

  /// Elements of a word's channels, from c on, become g(token, channel, log2 decay between token and ref, element).
  template <class X, class G>
  __device__ __forceinline__ void scale_channels(X tile, int32_t t, int n, int c, int channels, int c0,
                                                 const G& g) const {
    constexpr int kPer = 4 / kElement;
    if (c >= channels) return;
    ChannelDecay decay[2] = {{p, steps(), t, c0 + c}, {p, steps(), t, c0 + c + 1}};
    float b[2] = {}, ref[2];  // summed as in channel_numbers, so that the last token's decay is 1 to the bit
#pragma unroll
    for (int x = 0; x < kPer; ++x) ref[x] = numbers().ref[c + x];
#pragma unroll 4
    for (int i = 0; i < n; ++i) {
      const uint32_t at = tile.unit(i, c / X::kUnitElements) + c % X::kUnitElements * kElement;
      const uint32_t word = ptx::load_shared_32(at);
      float y[2];
#pragma unroll
      for (int x = 0; x < kPer; ++x) {
        if (i > 0 && c + x < channels) b[x] += decay[x].log2();
        if constexpr (k16)
          y[x] = T::load({static_cast<uint16_t>(word >> 16 * x)});
        else
          y[x] = __uint_as_float(word);
        y[x] = g(i, c + x, b[x] - ref[x], y[x]);
      }
      if constexpr (k16)
        ptx::store_shared_32(at, pack<T>(y[0], y[1]));
      else
        ptx::store_shared_32(at, __float_as_uint(y[0]));
    }
  }
  __device__ __forceinline__ void channel_tiles(int32_t t, int n) const {
    constexpr int kPer = 4 / kElement, kWords = kDim / kPer;
    const auto& f = numbers();
    if (on_values()) {
      scale_channels(value(), t, n, thread() * kPer, columns(), column(), [&](int i, int c, float b, float x) {
        value_decay()[i * kSlice + c] = b;
        return x * f.key[i] * math::exp2_bounded(-b);
      });
      return;
    }
#pragma unroll 1
    for (int w = thread(); w < (p.outputs ? 2 : 1) * kWords; w += kThreads) {
      const bool up = w < kWords;
      scale_channels(up ? key() : query(), t, n, w % kWords * kPer, p.dim, 0,
                     [&](int, int, float b, float x) { return x * math::exp2_bounded(up ? -b : b); });
    }
    if (p.key_factor || p.key_scale != 1) scale_values(f.key, 1);
  }
  /// Values times a number of their token, as the sum of `parts` operands.
  __device__ __forceinline__ void scale_values(const float* by, int parts) const {
#pragma unroll 1
    for (int i = thread(); i < kTokens * Value::kUnits; i += kThreads) {
      const int row = i / Value::kUnits, u = i % Value::kUnits;
      const uint4 unit = ptx::load_shared_128(value().unit(row, u));
      const uint32_t words[4] = {unit.x, unit.y, unit.z, unit.w};
      const float f = by[row];
      if constexpr (k16) {
        float x[8];
#pragma unroll
        for (int e = 0; e < 8; ++e) x[e] = f * T::load({static_cast<uint16_t>(words[e / 2] >> (e & 1) * 16)});
#pragma unroll 1
        for (int part = 0; part < parts; ++part) {
          ptx::store_shared_128(this->part(part).unit(row, u), make_uint4(pack<T>(x[0], x[1]), pack<T>(x[2], x[3]),
                                                                          pack<T>(x[4], x[5]), pack<T>(x[6], x[7])));
#pragma unroll
          for (int e = 0; e < 8; ++e) x[e] = rest(x[e]);
        }
      } else {
        const auto scaled = [&](uint32_t w) { return __float_as_uint(__uint_as_float(w) * f); };
        ptx::store_shared_128(value().unit(row, u),
                              make_uint4(scaled(words[0]), scaled(words[1]), scaled(words[2]), scaled(words[3])));
      }
    }
  }

  __device__ __forceinline__ void load(int32_t t, int n, bool keys) const {
    const auto rows = [&](auto tile, const Operand& o, int c0, int width) {
      const Steps& s = steps();
      tile.template load<kThreads>(reinterpret_cast<const char*>(s.at<Storage>(p, o.rows, head() / o.group, t) + c0),
                                   s.stride(p, o.rows), n, width, thread());
    };
    if (p.outputs) rows(query(), p.query, 0, p.dim);
    if (keys) rows(key(), p.key, 0, p.dim);
    if (keys && p.value.rows) rows(value(), p.value, column(), columns());
    if (keys && !p.value.rows)
      for (int i = thread(); i < kTokens * kSlice / 2; i += kThreads) {
        const int row = i / (kSlice / 2), c = i % (kSlice / 2) * 2;
        put(value(), row, c, c == 0 && row < n ? 1 : 0, 0);
      }
    ptx::cp_async_commit();
  }

  /// Tokens t … t + n − 1 come next: their rows are on their way from memory while a tile is computed.
  __device__ __forceinline__ void expect(int32_t t, int n, bool keys) const {
    constexpr int kLine = 128 / kElement;
    const auto rows = [&](const Operand& o, int c0, int width, int lines) {
      const auto* from = steps().template at<Storage>(p, o.rows, head() / o.group, t) + c0;
      const int64_t stride = steps().stride(p, o.rows);
#pragma unroll 1
      for (int i = thread(); i < n * lines; i += kThreads)
        if (const int c = i % lines * kLine; c < width) ptx::prefetch_l2(from + i / lines * stride + c);
    };
    if (p.outputs) rows(p.query, 0, p.dim, kDim / kLine);
    if (keys) rows(p.key, 0, p.dim, kDim / kLine);
    if (keys && p.value.rows) rows(p.value, column(), columns(), kSlice / kLine);
  }

  /// W, or what its operands leave of it, in shared memory.
  __device__ __forceinline__ void scores(bool low) const {
    if (warp() >= Tile::kScoreWarps) return;
    const auto& f = numbers();
    const int i0 = warp() % Tile::kBlocks * 16, j0 = warp() / Tile::kBlocks * Tile::kScoreKeys;
    float w[1][Tile::kScoreKeys / 8][4];
    clear(w);
    if (j0 < i0 + 16)
      multiply<T>(w, RowsA<T, typename Tile::Rows>(query(), i0, lane()),
                  RowsB<T, typename Tile::Rows>(key(), j0, lane()), kDim / kDepth);
    each<1, Tile::kScoreKeys / 8>(i0, j0, [&](int, int n, int e, int i, int j) {
      float x = fmaf(f.query_extra[i], f.key_extra[j], w[0][n][e]) * f.query[i];
      if (!kChannels) x *= f.key[j];
      if (!kChannels && p.decay) x *= math::exp2_bounded((f.high[i] - f.high[j]) + (f.low[i] - f.low[j]));
      x = j <= i ? x : 0;
      w[0][n][e] = low ? rest(x) : x;
      if (e & 1) put(score(), i, j - 1, w[0][n][e - 1], w[0][n][e]);
    });
  }

  /// o += W V.
  __device__ __forceinline__ void add_values(float (&o)[1][O][4]) const {
    multiply<T>(o, RowsA<T, typename Tile::Score>(score(), out_row(), lane()),
                ColumnsB<T, Value>(value(), out_column(), lane()), (out_row() + 16) / kDepth);
  }
  /// Inf and NaN of the values, which a weight that is 0 must not meet, go to `o` by themselves and are then zero. All
  /// values are kept where the state's copy was.
  __device__ __forceinline__ void add_nonfinite(float (&o)[1][O][4]) const {
    const Value kept = part(2);
    __syncthreads();
    for (int i = thread(); i < kTokens * Value::kUnits; i += kThreads)
      ptx::store_shared_128(kept.base + i * kUnit, ptx::load_shared_128(value().base + i * kUnit));
    __syncthreads();
    for (int r = warp(); r < kTokens; r += Tile::kWarps) value().clear_nonfinite(r, lane());
#pragma unroll 1
    for (int j = 0; j < kTokens; ++j)
      each<1, O>(out_row(), out_column(), [&](int, int n, int e, int i, int c) {
        const float v = get(kept, j, c), w = j <= i ? get(score(), i, j) : 0;
        if (w != 0 && !(fabsf(v) < INFINITY)) o[0][n][e] += w * v;
      });
    __syncthreads();
  }
  __device__ __forceinline__ void restore_values() const {
    __syncthreads();
    for (int i = thread(); i < kTokens * Value::kUnits; i += kThreads)
      ptx::store_shared_128(value().base + i * kUnit, ptx::load_shared_128(part(2).base + i * kUnit));
  }

  /// Results of the operands' type, from where they were staged.
  __device__ __forceinline__ void store(int32_t t, int n) const {
    const View& v = p.out;
    const int64_t row_stride = steps().stride(p, v);
    auto* to = steps().template at<Storage>(p, v, head(), t) + column() * v.column;
#pragma unroll 1
    for (int i = thread(); i < n * Value::kUnits; i += kThreads) {
      const int row = i / Value::kUnits, c = i % Value::kUnits * Value::kUnitElements;
      if (c >= columns()) continue;
      const uint4 u = ptx::load_shared_128(staged().unit(row, i % Value::kUnits));
      auto* at = to + row * row_stride + c * v.column;
      if (p.wide_out && c + Value::kUnitElements <= columns()) {
        *reinterpret_cast<uint4*>(at) = u;
        continue;
      }
      const uint32_t words[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
      for (int x = 0; x < Value::kUnitElements; ++x)
        if (c + x < columns()) {
          if constexpr (kElement == 4)
            at[x * v.column] = __uint_as_float(words[x]);
          else
            at[x * v.column] = {static_cast<uint16_t>(words[x / 2] >> (16 * (x & 1)))};
        }
    }
  }
  /// One result of another type.
  __device__ __forceinline__ void store_element(int32_t t, int i, int c, float x) const {
    const int64_t at = i * steps().stride(p, p.out) + (column() + c) * p.out.column;
    if (p.out_type == DType::f32)
      steps().template at<float>(p, p.out, head(), t)[at] = x;
    else if (p.out_type == DType::bf16)
      steps().template at<math::Bf16::Storage>(p, p.out, head(), t)[at] = math::Bf16::store(x);
    else
      steps().template at<math::F16::Storage>(p, p.out, head(), t)[at] = math::F16::store(x);
  }
  __device__ bool stages() const {
    return p.out_type == (kElement == 4 ? DType::f32 : std::is_same_v<T, math::F16> ? DType::f16 : DType::bf16);
  }
};

}  // namespace saccade::cuda
