#pragma once
#include "cuda/sm80/linear/tile.cuh"

// A block walks its tokens a tile at a time: W = (Q Kᵀ) ∘ A goes to shared memory as an operand, out = W V + Q S with a
// copy of the state as an operand there; the state itself stays in registers.
namespace saccade::cuda {

/// A segment's own state, the one before it and its decay; rows of the key's channels, columns of the value's, and the
/// extra row in the first threads.
template <class T, int kDim, bool kChannels>
struct ScanState {
  using X = Scanner<T, kDim, kChannels>;
  using Tile = ScanTile<T, kDim>;
  static constexpr int M = Tile::kStateBlocks, N = Tile::kStateColumns / 8;

  const X& x;
  float before[M][N][4], own[M][N][4];
  float before_extra = 0, own_extra = 0, lambda = 1;

  __device__ static int row0() { return (kDim == 64 ? X::warp() % 4 : X::warp()) * 16 * M; }
  __device__ static int column0() { return kDim == 64 ? X::warp() / 4 * 32 : 0; }
  template <class F>
  __device__ __forceinline__ static void each(const F& f) {
    X::template each<M, N>(row0(), column0(), f);
  }
  __device__ bool has_extra() const { return x.p.extra && X::thread() < kSlice; }
  __device__ __forceinline__ float of(const float* channel, int r, int c) const { return channel[x.on_keys() ? r : c]; }
  __device__ __forceinline__ float lambda_of(int r, int c) const {
    return kChannels ? of(x.numbers().lambda, r, c) : lambda;
  }

  /// `before` from memory, of place `place`; a barrier must follow.
  __device__ __forceinline__ void load() {
    const ScanParams& p = x.p;
    const View& v = p.initial.at;
    const auto* from = reinterpret_cast<const float*>(v.data) +
                       p.initial.offset(x.steps().batch, x.steps().place, X::head()) + X::column() * v.column;
    each([&](int m, int n, int e, int r, int c) {
      before[m][n][e] = v && r < p.dim && c < x.columns() ? from[r * v.row + c * v.column] : 0;
    });
    if (v && has_extra() && X::thread() < x.columns()) before_extra = from[p.dim * v.row + X::thread() * v.column];
    clear(own);
    if (kChannels && X::thread() < kDim) x.numbers().lambda[X::thread()] = 1;
  }
  /// A segment ends; with decay per channel `restart` must follow the next barrier.
  __device__ __forceinline__ void fold() {
    each([&](int m, int n, int e, int r, int c) {
      before[m][n][e] = fmaf(lambda_of(r, c), before[m][n][e], own[m][n][e]);
    });
    if (has_extra()) before_extra = fmaf(lambda_of(0, X::thread()), before_extra, own_extra);
    clear(own);
    own_extra = 0, lambda = 1;
  }
  __device__ __forceinline__ void restart() const {
    if (X::thread() < kDim) x.numbers().lambda[X::thread()] = 1;
  }

  /// As the tile's queries see it.
  __device__ __forceinline__ float seen(int m, int n, int e, int r, int c) const {
    const float y = fmaf(lambda_of(r, c), before[m][n][e], own[m][n][e]);
    return kChannels ? y * of(x.numbers().into, r, c) : y;
  }
  /// A power of two that brings the largest number seen below 2^14: fp16 ends at 2^16. A barrier.
  __device__ __forceinline__ float shrink() const {
    if constexpr (std::is_same_v<T, math::F16>) {
      float top = 0;
      each([&](int m, int n, int e, int r, int c) { top = fmaxf(top, fabsf(seen(m, n, e, r, c))); });
      const uint32_t all = __reduce_max_sync(0xFFFFFFFF, __float_as_uint(top));
      if (X::lane() == 0) atomicMax(&x.numbers().top, all);
      __syncthreads();
      const int exponent = static_cast<int>(x.numbers().top >> 23);
      if (exponent > 0 && exponent < 0xFF)
        return __uint_as_float(static_cast<uint32_t>(max(min(267 - exponent, 253), 1)) << 23);
    }
    return 1;
  }
  /// The copy, or what it leaves, times `shrink`.
  __device__ __forceinline__ void copy(float shrink, bool low) const {
    each([&](int m, int n, int e, int r, int c) {
      if (e & 1) return;
      float a = seen(m, n, e, r, c) * shrink, b = seen(m, n, e + 1, r, c + 1) * shrink;
      if (low) a = X::rest(a), b = X::rest(b);
      X::put(x.state(), r, c, a, b);
    });
    if (const int c = X::thread(); c < kSlice) {
      const float y = fmaf(lambda_of(0, c), before_extra, own_extra);
      x.numbers().seen[c] = kChannels ? y * of(x.numbers().into, 0, c) : y;
    }
  }

  /// The tile's keys and values; those in `parts` parts. With decay per channel a barrier must follow.
  __device__ __forceinline__ void add_tokens(int n, int parts) {
    auto& f = x.numbers();
    each([&](int m, int k, int e, int r, int c) { own[m][k][e] *= kChannels ? of(f.into, r, c) : f.total; });
#pragma unroll 1
    for (int i = parts - 1; i >= 0; --i)  // small terms first
      multiply<T>(own, ColumnsA<T, typename Tile::Rows>(x.key(), row0(), X::lane()),
                  ColumnsB<T, typename Tile::Value, true>(x.part(i), column0(), X::lane()), X::kTokens / X::kDepth);
    if constexpr (kChannels) each([&](int m, int k, int e, int r, int c) { own[m][k][e] *= of(f.onward, r, c); });
    if (x.p.extra) {
      constexpr int kSums = X::kThreads / kSlice;
      const int c = X::thread() % kSlice, first = X::thread() / kSlice;
      float sum = 0;
#pragma unroll 1
      for (int i = parts - 1; i >= 0; --i)
#pragma unroll 1
        for (int j = first; j < n; j += kSums) sum = fmaf(f.key_extra[j], X::get(x.part(i), j, c), sum);
      f.sums[first][c] = sum;
      __syncthreads();
      if (has_extra()) {
        own_extra *= kChannels ? f.into[c] : f.total;
#pragma unroll
        for (int i = 0; i < kSums; ++i) own_extra += f.sums[i][c];
        if (kChannels) own_extra *= f.onward[c];
      }
    }
    lambda *= f.total;
    if constexpr (kChannels) {
      __syncthreads();
      if (const int c = X::thread(); c < kDim) f.lambda[c] *= f.into[c] * f.onward[c];
    }
  }

  /// Folds, and leaves the state and the segment's decay in memory.
  __device__ __forceinline__ void store() {
    const ScanParams& p = x.p;
    const Steps& s = x.steps();
    if (p.lambda) {
      float* to = p.lambda + (s.place * p.heads + X::head()) * p.lambdas();
      const int c = X::thread();
      if (x.on_values() && c < x.columns()) to[X::column() + c] = x.numbers().lambda[c];
      if (x.on_keys() && blockIdx.z == 0 && c < p.dim) to[c] = x.numbers().lambda[c];
      if (!kChannels && blockIdx.z == 0 && c == 0) *to = lambda;
    }
    fold();
    const View& v = p.final.at;
    if (!v) return;
    auto* to = reinterpret_cast<float*>(v.data) + p.final.offset(s.batch, s.place, X::head()) + X::column() * v.column;
    const auto put = [&](int r, int c, float y) {
      to[r * v.row + c * v.column] = p.segments ? y : y * s.last_decay(p, X::head(), r, X::column() + c);
    };
    each([&](int m, int n, int e, int r, int c) {
      if (r < p.dim && c < x.columns()) put(r, c, before[m][n][e]);
    });
    if (has_extra() && X::thread() < x.columns()) put(p.dim, X::thread(), before_extra);
  }
};

template <class T, int kDim, bool kChannels>
__global__ void __launch_bounds__(ScanTile<T, kDim>::kThreads, ScanTile<T, kDim>::kCtas(kChannels))
    scan_kernel(const __grid_constant__ ScanParams p) {
  using X = Scanner<T, kDim, kChannels>;
  using Tile = ScanTile<T, kDim>;
  using Operands = typename Tile::Rows;
  constexpr int O = X::O;
  extern __shared__ __align__(1024) unsigned char shared[];
  const X x{p, shared};
  auto& f = x.numbers();
  {
    const Steps s(p);
    if (s.batch < 0) return;
    if (threadIdx.x == 0) f.steps = s, f.top = 0;
    __syncthreads();
  }
  ScanState<T, kDim, kChannels> state{x};
  state.load();

  const Steps& s = x.steps();
  const bool look_up = p.global && p.outputs;
  const bool split = X::k16 && !kChannels && p.rounding == Rounding::none;
  const bool scaled = !kChannels && (p.decay || p.key_factor || p.key_scale != 1);
  const int parts = X::k16 && scaled && p.rounding != Rounding::operands ? X::kParts : 1;
  for (int32_t t = s.begin; t < s.end;) {
    int n = min(min(min((t / kSegment + 1) * kSegment, s.end) - t, Tile::kTokens), p.limit);
    const bool next_segment = t != s.begin && t % kSegment == 0;
    __syncthreads();  // the last tile has been read
    if (next_segment) state.fold();
    if constexpr (kChannels) {
      n = x.channel_numbers(t, n);
      if (next_segment) state.restart();
    }
    x.load(t, n, !look_up);
    if (const int left = s.end - t - n; left > 0) x.expect(t + n, min(left, Tile::kTokens), !look_up);
    if (X::warp() == 0) x.token_numbers(t, n);
    if constexpr (kChannels) __syncthreads();
    float shrink = 1;
    if (p.outputs) {
      shrink = state.shrink();
      state.copy(shrink, false);
    }
    ptx::cp_async_wait<0>();
    __syncthreads();
    if (std::is_same_v<T, math::F16> && threadIdx.x == 0) f.top = 0;
    if constexpr (kChannels) {
      x.channel_tiles(t, n);
      __syncthreads();
    }

    if (p.outputs) {
      float o[1][O][4];
      clear(o);
      const auto each = [&](const auto& g) { X::template each<1, O>(X::out_row(), X::out_column(), g); };
      const auto add_state = [&] {
        multiply<T>(o, RowsA<T, Operands>(x.query(), X::out_row(), X::lane()),
                    ColumnsB<T, typename Tile::State>(x.state(), X::out_column(), X::lane()), kDim / X::kDepth);
      };
      if (!look_up) x.scores(false);
      add_state();
      if (split) {
        __syncthreads();
        state.copy(shrink, true);
        __syncthreads();
        add_state();
      }
      each([&](int, int k, int e, int i, int c) {
        o[0][k][e] = fmaf(f.query_extra[i], f.seen[c], o[0][k][e] / shrink) * f.query_decayed[i];
      });
      if (!look_up) {
        const bool bad = __syncthreads_or(!x.value().template share_finite<X::kThreads>(X::thread()));
        if (bad) x.add_nonfinite(o);
        x.add_values(o);
        if (split) {
          __syncthreads();
          x.scores(true);
          __syncthreads();
          x.add_values(o);
        }
        if (bad) x.restore_values();
      }
      each([&](int, int k, int e, int i, int c) {
        o[0][k][e] *= f.denominator[i];
        if (x.on_values() && i < n && c < x.columns())
          o[0][k][e] *= math::exp2_bounded(x.value_decay()[i * kSlice + c]);
      });
      __syncthreads();  // queries, weights and values have been read
      const bool stages = x.stages();
      each([&](int, int k, int e, int i, int c) {
        if (stages && (e & 1)) X::put(x.staged(), i, c - 1, o[0][k][e - 1], o[0][k][e]);
        if (!stages && i < n && c < x.columns()) x.store_element(t, i, c, o[0][k][e]);
      });
    }
    if (scaled && !look_up) x.scale_values(f.key_decayed, parts);
    __syncthreads();
    if (p.outputs && x.stages()) x.store(t, n);
    if (!look_up) state.add_tokens(n, parts);
    t += n;
  }
  __syncthreads();
  state.store();
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
