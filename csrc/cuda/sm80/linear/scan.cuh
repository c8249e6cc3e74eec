#pragma once
#include <type_traits>

#include "cuda/sm80/attention/dims.h"
#include "cuda/sm80/linear/steps.cuh"
#include "cuda/tile/product.cuh"

// A block walks its tokens a tile at a time: W = (Q Kᵀ) ∘ A goes to shared memory as an operand, out = W V + Q S with a
// copy of the state as an operand there; the state itself stays in registers.
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
  static constexpr int kBlocks = kTokens / 16;                              // of rows, each of which several warps share
  static constexpr int kOutColumns = kSlice * kBlocks / kWarps;             // of a warp
  static constexpr int kScoreKeys = kTokens / 2, kScoreWarps = 2 * kBlocks;  // a warp has 16 × kScoreKeys
  static constexpr int kStateBlocks = kDim == 256 ? 2 : 1;                  // of 16 rows of a warp
  static constexpr int kStateColumns = kDim == 64 ? 32 : 64;
  static constexpr int kCtas = kDim == 256 ? 1 : 2;
  using Rows = SharedTile<T, kTokens, kDim>;
  using Value = SharedTile<T, kTokens, kSlice>;
  using State = SharedTile<T, kDim, kSlice>;
  using Score = SharedTile<T, kTokens, kElement == 4 ? kTokens : 64>;

  /// Numbers of a tile's tokens or channels.
  struct Numbers {
    float high[kTokens], low[kTokens];  // cumulative log2 decay, of tokens
    float query[kTokens], key[kTokens];               // factors
    float query_decayed[kTokens], key_decayed[kTokens];  // from the tile's start, to its end
    float query_extra[kTokens], key_extra[kTokens], denominator[kTokens];
    float into[kDim], onward[kDim], lambda[kDim];  // of channels: from the start to ref, from there to the end
    float seen[kSlice], sums[kThreads / kSlice][kSlice];  // of the extra row
    float total;
    int count;
    uint32_t top;
  };
  // KiB: Q and K 16 each (hd64 8), state 16 (8), V, W 8 each: 64 (40); hd256 32, 32, 32, 4, 4. fp32: hd64 80, 128: 76,
  // 256: 140. Decay per value channel: 16 (8 where a tile has 32 tokens) more.
  static constexpr int kKey = Rows::kBytes, kState = 2 * Rows::kBytes, kValue = kState + State::kBytes;
  static constexpr int kScore = kValue + Value::kBytes, kDecay = kScore + Score::kBytes;
  static constexpr int kNumbers(bool channels) { return kDecay + (channels ? kTokens * kSlice * 4 : 0); }
  static constexpr int kShared(bool channels) { return kNumbers(channels) + static_cast<int>(sizeof(Numbers)); }
};

__device__ __forceinline__ double scan_up(double x, int lane) {
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const double y = __shfl_up_sync(0xFFFFFFFF, x, d);
    if (lane >= d) x += y;
  }
  return x;
}

template <class T, int kDim, bool kChannels>
struct Scanner {
  using Tile = ScanTile<T, kDim>;
  using Storage = typename T::Storage;
  using Value = typename Tile::Value;
  using Numbers = typename Tile::Numbers;
  static constexpr int kThreads = Tile::kThreads, kTokens = Tile::kTokens, kElement = Tile::kElement;
  static constexpr int kDepth = Fragment<T>::kDepth;
  static constexpr int M = Tile::kStateBlocks, N = Tile::kStateColumns / 8, O = Tile::kOutColumns / 8;

  const ScanParams& p;
  const Steps& s;
  uint32_t base;
  Numbers& f;
  float* value_decay;  // [kTokens][kSlice]: b − ref of the value's channels
  int32_t h, e0, columns;
  int thread, lane, warp;

  __device__ typename Tile::Rows query() const { return {base}; }
  __device__ typename Tile::Rows key() const { return {base + Tile::kKey}; }
  __device__ typename Tile::State state() const { return {base + Tile::kState}; }
  __device__ Value value() const { return {base + Tile::kValue}; }
  __device__ typename Tile::Score score() const { return {base + Tile::kScore}; }
  __device__ Value staged() const { return {base}; }  // over the queries
  __device__ bool on_values() const { return kChannels && p.decay_of == DecayOf::value; }

  // A warp's place in the state, in out.
  __device__ int state_row() const { return (kDim == 64 ? warp % 4 : warp) * 16 * M; }
  __device__ int state_column() const { return kDim == 64 ? warp / 4 * 32 : 0; }
  __device__ int out_row() const { return warp % Tile::kBlocks * 16; }
  __device__ int out_column() const { return warp / Tile::kBlocks * Tile::kOutColumns; }

  /// f(m, n, e, row, column) for a lane's elements of an accumulator block at (row0, column0).
  template <int kM, int kN, class F>
  __device__ __forceinline__ void each(int row0, int column0, const F& g) const {
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < kN; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          g(m, n, e, row0 + 16 * m + (lane >> 2) + 8 * (e >> 1), column0 + 8 * n + 2 * (lane & 3) + (e & 1));
  }
  /// Two neighbouring elements of a tile.
  template <class X>
  __device__ static void put(X tile, int row, int column, float a, float b) {
    const uint32_t to = tile.unit(row, column / X::kUnitElements) + column % X::kUnitElements * kElement;
    if constexpr (kElement == 4)
      ptx::store_shared_64(to, __float_as_uint(a), __float_as_uint(b));
    else
      ptx::store_shared_32(to, pack<T>(a, b));
  }
  template <class X>
  __device__ static float get(X tile, int row, int column) {
    if constexpr (kElement == 4)
      return __uint_as_float(tile.word(row, column));
    else
      return T::load({static_cast<uint16_t>(tile.word(row, column & ~1) >> (column & 1) * 16)});
  }

  /// Decay and factors of the tile's tokens, by the first warp.
  __device__ void token_numbers(int32_t t, int n) const {
    constexpr int kEach = kTokens / 32;
    double b[kEach], sum = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int j = lane * kEach + i;
      b[i] = sum += kChannels || j >= n ? 0.0 : s.decay(p, h, t + j, 0);
    }
    const double before = scan_up(sum, lane) - sum, total = __shfl_sync(0xFFFFFFFF, before + sum, 31);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int j = lane * kEach + i;
      const bool inside = j < n;
      const int64_t number = s.number(p, h, t + (inside ? j : 0));
      const auto of = [&](const float* x, float none) { return !inside ? 0 : x ? x[number] : none; };
      const double sums = before + b[i];
      const auto high = static_cast<float>(sums);
      f.high[j] = high, f.low[j] = static_cast<float>(sums - high);
      f.query[j] = p.query_scale * of(p.query_factor, 1), f.key[j] = p.key_scale * of(p.key_factor, 1);
      f.query_decayed[j] = f.query[j] * math::exp2_bounded(high);
      f.key_decayed[j] = inside ? f.key[j] * math::exp2_bounded(static_cast<float>(total - sums)) : 0;
      f.query_extra[j] = p.extra ? of(p.query_extra, 1) : 0, f.key_extra[j] = p.extra ? of(p.key_extra, 1) : 0;
      f.denominator[j] = p.denominator && inside ? 1 / (p.denominator[number] + p.epsilon) : 1;
    }
    if (lane == 31) f.total = math::exp2_bounded(static_cast<float>(total));
  }

  /// How many tokens a tile may have, and decay from its start to ref and from there to its end, channel by channel.
  __device__ int channel_numbers(int32_t t, int n) const {
    const int channels = p.decay_of == DecayOf::key ? p.dim : columns, c = thread;
    const int c0 = on_values() ? e0 : 0;
    if (thread == 0) f.count = n;
    __syncthreads();
    if (c < channels) {
      float b = 0;
      int count = n;
#pragma unroll 4
      for (int i = 1; i < n; ++i) {
        b += s.decay(p, h, t + i, c0 + c);
        if (!(fabsf(b) < kRange<T>) && count == n) count = i;
      }
      if (count < n) atomicMin(&f.count, count);
    }
    __syncthreads();
    n = f.count;
    if (c < kDim) {
      float b = 0;
      const float first = c < channels ? s.decay(p, h, t, c0 + c) : 0;
#pragma unroll 4
      for (int i = 1; c < channels && i < n; ++i) b += s.decay(p, h, t + i, c0 + c);
      const float ref = b * 0.5f;
      f.into[c] = math::exp2_bounded(first + ref), f.onward[c] = math::exp2_bounded(b - ref);
    }
    return n;
  }

  /// A tile's words times the decay of their channels between token and ref.
  template <class X, class G>
  __device__ void scale_channels(X tile, int32_t t, int n, int c, int channels, int c0, const G& g) const {
    constexpr int kPer = 4 / kElement;
    if (c >= channels) return;
    float b[kPer] = {}, ref[kPer] = {};
#pragma unroll
    for (int x = 0; x < kPer; ++x)
#pragma unroll 4
      for (int i = 1; c + x < channels && i < n; ++i) ref[x] += s.decay(p, h, t + i, c0 + c + x);
    for (int i = 0; i < n; ++i) {
      float y[2];
#pragma unroll
      for (int x = 0; x < kPer; ++x) {
        if (i > 0 && c + x < channels) b[x] += s.decay(p, h, t + i, c0 + c + x);
        y[x] = g(i, c + x, b[x] - 0.5f * ref[x], get(tile, i, c + x));
      }
      const uint32_t to = tile.unit(i, c / X::kUnitElements) + c % X::kUnitElements * kElement;
      if constexpr (kElement == 4)
        ptx::store_shared_32(to, __float_as_uint(y[0]));
      else
        ptx::store_shared_32(to, pack<T>(y[0], y[1]));
    }
  }
  __device__ void channel_tiles(int32_t t, int n) const {
    constexpr int kPer = 4 / kElement, kWords = kDim / kPer;
    if (on_values()) {
      scale_channels(value(), t, n, thread * kPer, columns, e0, [&](int i, int c, float b, float x) {
        value_decay[i * kSlice + c] = b;
        return x * f.key[i] * math::exp2_bounded(-b);
      });
      return;
    }
    for (int w = thread; w < 2 * kWords; w += kThreads) {
      const bool up = w < kWords;
      if (!up && !p.outputs) continue;
      scale_channels(up ? key() : query(), t, n, w % kWords * kPer, p.dim, 0, [&](int, int, float b, float x) {
        return x * math::exp2_bounded(up ? -b : b);
      });
    }
    if (p.key_factor || p.key_scale != 1) scale_values(f.key);
  }
  __device__ void scale_values(const float* by) const {
    for (int i = thread; i < kTokens * Value::kUnits; i += kThreads) {
      const int row = i / Value::kUnits;
      const uint32_t at = value().unit(row, i % Value::kUnits);
      const uint4 u = ptx::load_shared_128(at);
      uint32_t x[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
      for (int w = 0; w < 4; ++w)
        if constexpr (kElement == 4)
          x[w] = __float_as_uint(__uint_as_float(x[w]) * by[row]);
        else
          x[w] = pack<T>(T::load({static_cast<uint16_t>(x[w])}) * by[row],
                         T::load({static_cast<uint16_t>(x[w] >> 16)}) * by[row]);
      ptx::store_shared_128(at, make_uint4(x[0], x[1], x[2], x[3]));
    }
  }

  __device__ void load(int32_t t, int n, bool keys) const {
    const auto rows = [&](auto tile, const Operand& o, int c0, int width) {
      tile.template load<kThreads>(reinterpret_cast<const char*>(s.at<Storage>(p, o.rows, h / o.group, t) + c0),
                                   s.stride(p, o.rows), n, width, thread);
    };
    if (p.outputs) rows(query(), p.query, 0, p.dim);
    if (keys) rows(key(), p.key, 0, p.dim);
    if (keys && p.value.rows) rows(value(), p.value, e0, columns);
    if (keys && !p.value.rows)
      for (int i = thread; i < kTokens * kSlice / 2; i += kThreads)
        put(value(), i / (kSlice / 2), i % (kSlice / 2) * 2, i % (kSlice / 2) == 0 && i / (kSlice / 2) < n ? 1 : 0, 0);
    ptx::cp_async_commit();
  }

  /// W, and whether V holds Inf or NaN; a barrier.
  __device__ bool scores() const {
    if (warp < Tile::kScoreWarps) {
      const int i0 = warp % Tile::kBlocks * 16, j0 = warp / Tile::kBlocks * Tile::kScoreKeys;
      float w[1][Tile::kScoreKeys / 8][4];
      clear(w);
      if (j0 < i0 + 16)
        multiply<T>(w, RowsA<T, typename Tile::Rows>(query(), i0, lane), RowsB<T, typename Tile::Rows>(key(), j0, lane),
                    kDim / kDepth);
      each<1, Tile::kScoreKeys / 8>(i0, j0, [&](int, int n, int e, int i, int j) {
        float x = fmaf(f.query_extra[i], f.key_extra[j], w[0][n][e]) * f.query[i];
        if (!kChannels) x *= f.key[j];
        if (!kChannels && p.decay.rows)
          x *= math::exp2_bounded((f.high[i] - f.high[j]) + (f.low[i] - f.low[j]));
        w[0][n][e] = j <= i ? x : 0;
        if (e & 1) put(score(), i, j - 1, w[0][n][e - 1], w[0][n][e]);
      });
    }
    return __syncthreads_or(!value().template share_finite<kThreads>(thread));
  }

  /// out += W V; with `bad` values a weight that is 0 hides them.
  __device__ void add_values(float (&o)[1][O][4], bool bad) const {
    if (!bad) {
      multiply<T>(o, RowsA<T, typename Tile::Score>(score(), out_row(), lane),
                  ColumnsB<T, Value>(value(), out_column(), lane), (out_row() + 16) / kDepth);
      return;
    }
#pragma unroll 1
    for (int j = 0; j < kTokens; ++j)
      each<1, O>(out_row(), out_column(), [&](int, int n, int e, int i, int c) {
        if (const float w = j <= i ? get(score(), i, j) : 0; w != 0) o[0][n][e] = fmaf(w, get(value(), j, c), o[0][n][e]);
      });
  }

  __device__ void store(int32_t t, int n) const {
    const View& v = p.out;
    const int64_t row_stride = s.stride(p, v);
    auto* to = s.at<Storage>(p, v, h, t) + e0 * v.column;
    for (int i = thread; i < n * Value::kUnits; i += kThreads) {
      const int row = i / Value::kUnits, c = i % Value::kUnits * Value::kUnitElements;
      if (c >= columns) continue;
      const uint4 u = ptx::load_shared_128(staged().unit(row, i % Value::kUnits));
      auto* at = to + row * row_stride + c * v.column;
      if (p.wide_out && c + Value::kUnitElements <= columns) {
        *reinterpret_cast<uint4*>(at) = u;
        continue;
      }
      const uint32_t words[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
      for (int x = 0; x < Value::kUnitElements; ++x)
        if (c + x < columns) {
          if constexpr (kElement == 4)
            at[x * v.column] = __uint_as_float(words[x]);
          else
            at[x * v.column] = {static_cast<uint16_t>(words[x / 2] >> (16 * (x & 1)))};
        }
    }
  }
};

template <class T, int kDim, bool kChannels>
__global__ void __launch_bounds__(ScanTile<T, kDim>::kThreads, ScanTile<T, kDim>::kCtas)
    scan_kernel(const __grid_constant__ ScanParams p) {
  using X = Scanner<T, kDim, kChannels>;
  using Tile = ScanTile<T, kDim>;
  constexpr int M = X::M, N = X::N, O = X::O, kDepth = X::kDepth;
  extern __shared__ __align__(1024) unsigned char shared[];
  const Steps s(p);
  if (s.batch < 0) return;
  auto& f = *reinterpret_cast<typename Tile::Numbers*>(shared + Tile::kNumbers(kChannels));
  const int32_t h = blockIdx.y, e0 = blockIdx.z * kSlice;
  const int thread = threadIdx.x;
  const X x{p, s, ptx::shared_address(shared), f, reinterpret_cast<float*>(shared + Tile::kDecay), h, e0,
            min(p.columns - e0, kSlice), thread, thread & 31, thread >> 5};
  const bool by_key = kChannels && p.decay_of == DecayOf::key;
  const int row0 = x.state_row(), column0 = x.state_column();

  // The state before the segment, the segment's own, and the extra row of both by the first threads.
  float before[M][N][4], own[M][N][4], before_extra = 0, own_extra = 0, lambda = 1;
  clear(own);
  const auto initial = [&](int r, int c) {
    const View& v = p.initial.at;
    if (!v || r >= p.state_rows() || c >= x.columns) return 0.0f;
    return reinterpret_cast<const float*>(v.data)[p.initial.offset(s.batch, s.place, h) + r * v.row + (e0 + c) * v.column];
  };
  x.template each<M, N>(row0, column0, [&](int m, int n, int e, int r, int c) {
    before[m][n][e] = r < p.dim ? initial(r, c) : 0;
  });
  const bool has_extra = p.extra && thread < kSlice;
  if (has_extra) before_extra = initial(p.dim, thread);

  const auto factor = [&](const float* of, int r, int c) { return of[by_key ? r : c]; };
  const auto lambda_of = [&](int r, int c) { return kChannels ? factor(f.lambda, r, c) : lambda; };
  const auto fold = [&] {
    x.template each<M, N>(row0, column0, [&](int m, int n, int e, int r, int c) {
      before[m][n][e] = fmaf(lambda_of(r, c), before[m][n][e], own[m][n][e]);
    });
    if (has_extra) before_extra = fmaf(lambda_of(0, thread), before_extra, own_extra);
  };
  if (kChannels && thread < kDim) f.lambda[thread] = 1;
  if (thread == 0) f.top = 0;

  const bool look_up = p.global && p.outputs;
  for (int32_t t = s.begin; t < s.end;) {
    const int32_t segment_end = min((t / kSegment + 1) * kSegment, s.end);
    int n = min(min(segment_end - t, Tile::kTokens), p.limit);
    const bool next_segment = t != s.begin && t % kSegment == 0;
    __syncthreads();  // the last tile has been read
    if (next_segment) {
      fold();
      clear(own);
      own_extra = 0, lambda = 1;
    }
    if constexpr (kChannels) {
      n = x.channel_numbers(t, n);
      if (next_segment && thread < kDim) f.lambda[thread] = 1;
    }
    x.load(t, n, !look_up);
    if (x.warp == 0) x.token_numbers(t, n);
    if constexpr (kChannels) __syncthreads();
    float grow = 1;
    if (p.outputs) {
      const auto seen = [&](int m, int n, int e, int r, int c) {
        const float y = fmaf(lambda_of(r, c), before[m][n][e], own[m][n][e]);
        return kChannels ? y * factor(f.into, r, c) : y;
      };
      float shrink = 1;
      if constexpr (std::is_same_v<T, math::F16>) {  // whose numbers end at 2^16
        float top = 0;
        x.template each<M, N>(row0, column0, [&](int m, int n, int e, int r, int c) {
          top = fmaxf(top, fabsf(seen(m, n, e, r, c)));
        });
        const uint32_t all = __reduce_max_sync(0xFFFFFFFF, __float_as_uint(top));
        if (x.lane == 0) atomicMax(&f.top, all);
        __syncthreads();
        const int exponent = static_cast<int>(f.top >> 23);  // the largest becomes 2^13 … 2^14
        if (f.top != 0 && exponent < 0xFF) {
          shrink = __uint_as_float(static_cast<uint32_t>(max(min(127 + 13 - exponent + 127, 253), 1)) << 23);
          grow = 1 / shrink;
        }
      }
      x.template each<M, N>(row0, column0, [&](int m, int n, int e, int r, int c) {
        if (e & 1) return;
        X::put(x.state(), r, c, seen(m, n, e, r, c) * shrink, seen(m, n, e + 1, r, c + 1) * shrink);
      });
      if (thread < kSlice) {
        const float y = fmaf(lambda_of(0, thread), before_extra, own_extra);
        f.seen[thread] = kChannels ? y * factor(f.into, 0, thread) : y;
      }
    }
    ptx::cp_async_wait<0>();
    __syncthreads();
    if constexpr (kChannels) {
      x.channel_tiles(t, n);
      __syncthreads();
    }
    if (std::is_same_v<T, math::F16> && thread == 0) f.top = 0;

    if (p.outputs) {
      const bool bad = !look_up && x.scores();
      float o[1][O][4];
      clear(o);
      multiply<T>(o, RowsA<T, typename Tile::Rows>(x.query(), x.out_row(), x.lane),
                  ColumnsB<T, typename Tile::State>(x.state(), x.out_column(), x.lane), kDim / kDepth);
      x.template each<1, O>(x.out_row(), x.out_column(), [&](int, int n, int e, int i, int c) {
        o[0][n][e] = fmaf(f.query_extra[i], f.seen[c], o[0][n][e] * grow) * f.query_decayed[i];
      });
      if (!look_up) x.add_values(o, bad);
      if (x.on_values())
        x.template each<1, O>(x.out_row(), x.out_column(), [&](int, int k, int e, int i, int c) {
          if (i < n && c < x.columns) o[0][k][e] *= math::exp2_bounded(x.value_decay[i * kSlice + c]);
        });
      x.template each<1, O>(x.out_row(), x.out_column(), [&](int, int k, int e, int i, int) {
        o[0][k][e] *= f.denominator[i];
      });
      __syncthreads();  // queries, weights and values have been read
      if (p.out_f32 && X::kElement == 2)
        x.template each<1, O>(x.out_row(), x.out_column(), [&](int, int k, int e, int i, int c) {
          if (i < n && c < x.columns)
            s.at<float>(p, p.out, h, t)[i * s.stride(p, p.out) + (e0 + c) * p.out.column] = o[0][k][e];
        });
      else
        x.template each<1, O>(x.out_row(), x.out_column(), [&](int, int k, int e, int i, int c) {
          if (e & 1) X::put(x.staged(), i, c - 1, o[0][k][e - 1], o[0][k][e]);
        });
    }
    if (!look_up) {
      if (!kChannels && (p.decay.rows || p.key_factor || p.key_scale != 1)) x.scale_values(f.key_decayed);
      __syncthreads();
      x.template each<M, N>(row0, column0, [&](int m, int n, int e, int r, int c) {
        own[m][n][e] *= kChannels ? factor(f.into, r, c) : f.total;
      });
      multiply<T>(own, ColumnsA<T, typename Tile::Rows>(x.key(), row0, x.lane),
                  ColumnsB<T, typename X::Value>(x.value(), column0, x.lane), X::kTokens / kDepth);
      if constexpr (kChannels)
        x.template each<M, N>(row0, column0, [&](int m, int n, int e, int r, int c) {
          own[m][n][e] *= factor(f.onward, r, c);
        });
      if (p.extra) {
        constexpr int kParts = X::kThreads / kSlice;
        const int c = thread % kSlice, part = thread / kSlice;
        float sum = 0;
        for (int j = part; j < n; j += kParts) sum = fmaf(f.key_extra[j], X::get(x.value(), j, c), sum);
        f.sums[part][c] = sum;
        __syncthreads();
        if (has_extra) {
          own_extra *= kChannels ? f.into[c] : f.total;
#pragma unroll
          for (int i = 0; i < kParts; ++i) own_extra += f.sums[i][c];
          if (kChannels) own_extra *= f.onward[c];
        }
      }
      lambda *= f.total;
      if constexpr (kChannels) {
        __syncthreads();
        if (thread < kDim) f.lambda[thread] *= f.into[thread] * f.onward[thread];
      }
    } else {
      __syncthreads();
    }
    if (p.outputs && (!p.out_f32 || X::kElement == 4)) x.store(t, n);
    t += n;
  }

  __syncthreads();
  fold();
  if (const View& v = p.final.at) {
    auto* to = reinterpret_cast<float*>(v.data) + p.final.offset(s.batch, s.place, h) + e0 * v.column;
    const auto put = [&](int r, int c, float y) {
      to[r * v.row + c * v.column] = p.segments ? y : y * s.last_decay(p, h, r, e0 + c);
    };
    x.template each<M, N>(row0, column0, [&](int m, int n, int e, int r, int c) {
      if (r < p.dim && c < x.columns) put(r, c, before[m][n][e]);
    });
    if (has_extra && thread < x.columns) put(p.dim, thread, before_extra);
  }
  if (p.lambda) {
    float* to = p.lambda + (s.place * p.heads + h) * p.lambdas();
    if (x.on_values() && thread < x.columns) to[e0 + thread] = f.lambda[thread];
    if (by_key && blockIdx.z == 0 && thread < p.dim) to[thread] = f.lambda[thread];
    if (!kChannels && blockIdx.z == 0 && thread == 0) *to = lambda;
  }
}

template <class T>
int Scan<T>::shared_bytes(int dim, bool channels) {
  return with_dim(dim, [&]<int n>(Dim<n>) { return ScanTile<T, n>::kShared(channels); });
}

template <class T>
void Scan<T>::launch(Queue& queue, const ScanParams& p) {
  const auto places = static_cast<unsigned>(p.segments ? piece_count(p, p.tokens, kSegment) : p.batch);
  const dim3 grid(places, p.heads, (p.columns + kSlice - 1) / kSlice);
  const bool channels = p.decay_of != DecayOf::token;
  with_dim(p.dim, [&]<int n>(Dim<n>) {
    queue.launch<ScanParams>(channels ? scan_kernel<T, n, true> : scan_kernel<T, n, false>, grid,
                             ScanTile<T, n>::kThreads, ScanTile<T, n>::kShared(channels), p);
  });
}

}  // namespace saccade::cuda
