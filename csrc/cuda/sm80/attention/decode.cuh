#pragma once
#include "cuda/attention/online.cuh"
#include "cuda/sm80/attention/decode.h"

// Split-KV form for few queries on long caches. The queries of a group's heads are the 16 rows of one tile, so that
// keys and values are read once for all; a CTA owns a chunk of keys, its warps take turns at tiles of 16 keys, each
// with its own ring of copies and no barrier between them. Chunks are merged in ascending order, by their maxima and
// sums where the map has them.
namespace saccade::cuda {

template <class T, int kDim>
struct DecodeTile {
  static constexpr int kRowBytes = kDim * static_cast<int>(sizeof(typename T::Storage));
  static constexpr int kKeys = 16;
  static constexpr int kStage = 2 * kKeys * kRowBytes;  // K and V: 4 KiB … 32 KiB
  static constexpr int kWarps = kRowBytes == 1024 ? 2 : 4;
  static constexpr int kStages = kStage >= 16384 ? 2 : kStage == 8192 ? 3 : 4;
  static constexpr int kThreads = kWarps * 32;
  using Query = SharedTile<T, 16, kDim>;
  using Key = SharedTile<T, kKeys, kDim>;
  static constexpr int kMergeStride = kDim + 8;  // floats; the eight rows of a store lie in different banks
  static constexpr int kTiles =
      Query::kBytes + kWarps * kStages * kStage;  // KiB: hd64 66, 128: 100, 256: 136; fp32 66…144
  static constexpr int kShared = kTiles + static_cast<int>(sizeof(Sequence));
  static_assert(kWarps * kStages * kStage >= kWarps * 16 * (kMergeStride + 2) * 4);
};

/// First slot of a sequence: slot(split, query) = first + split·queries + query. Packed sequences reserve keys/128 +
/// queries (or kDecodeRows) + 1 by where they start, so that no other sequence's length is needed.
__device__ inline int64_t first_slot(const DecodeParams& p, const Sequence& s) {
  if (!p.packed)
    return static_cast<int64_t>(s.batch) * p.queries *
           ((p.keys + decode_chunk(p.queries) - 1) / decode_chunk(p.queries));
  return static_cast<int64_t>(s.key0 / 128) + s.batch + (p.slots_by_query ? s.query0 : kDecodeRows * s.batch);
}

/// Row r of a tile is query r % queries of head r / queries of the group; a lane holds rows g and g+8. Rows past the
/// last repeat it.
struct GroupDown {
  static constexpr bool kQueriesDown = true;
  int32_t query_[2], head_[2], key0;

  __device__ GroupDown(int32_t row0, int32_t rows, int32_t queries, int32_t first_head, int lane) : key0(0) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t r = min(row0 + 8 * half + (lane >> 2), rows - 1);
      query_[half] = r % queries;
      head_[half] = first_head + r / queries;
    }
  }
  __device__ __forceinline__ int32_t query(int, int, int e) const {
    const int32_t x = query_[0], y = query_[1];
    return e >> 1 ? y : x;
  }
  __device__ __forceinline__ int32_t head(int, int, int e) const {
    const int32_t x = head_[0], y = head_[1];
    return e >> 1 ? y : x;
  }
  __device__ __forceinline__ int32_t key(int, int n, int e) const { return key0 + 8 * n + (e & 1); }
};

template <class T, class Score, int kDim>
__global__ void __launch_bounds__(DecodeTile<T, kDim>::kThreads, 1)
    decode_kernel(const __grid_constant__ DecodeParams p) {
  using Tile = DecodeTile<T, kDim>;
  using Storage = typename T::Storage;
  constexpr int N = Tile::kKeys / 8, V = kDim / 8;
  extern __shared__ __align__(1024) unsigned char shared[];
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const typename Tile::Query query{ptx::shared_address(shared)};
  const uint32_t ring = query.base + Tile::Query::kBytes + warp * Tile::kStages * Tile::kStage;

  const Piece piece = find_key_piece(p, p.packed ? kMinChunk : decode_chunk(p.queries), blockIdx.x);
  if (piece.index < 0) return;
  auto* const place = reinterpret_cast<Sequence*>(shared + Tile::kTiles);
  if (thread == 0) *place = Sequence(p, piece.batch);
  __syncthreads();
  const Sequence& s = *place;
  const Range& range = s.range;
  const int32_t queries = range.queries, hk = blockIdx.y, split = piece.index;
  if (queries == 0 || queries > kDecodeRows) return;
  const int32_t chunk = static_cast<int32_t>(decode_chunk(queries));
  if (static_cast<int64_t>(split) * chunk >= range.keys) return;
  const int32_t first = split * chunk, rows = queries * p.group;
  const int32_t begin = max(range.key_begin(0), first) / Tile::kKeys * Tile::kKeys;
  const int32_t end = min(range.key_end(queries - 1), first + chunk);
  const Terms<Score> terms{p, s};

  for (int32_t row0 = blockIdx.z * 16; row0 < rows; row0 += gridDim.z * 16) {
    const auto load = [&](int tile, int stage) {  // of this warp
      const int32_t j0 = begin + (tile * Tile::kWarps + warp) * Tile::kKeys;
      if (j0 < end) {
        const int32_t left = range.keys - j0, n = left < Tile::kKeys ? left : Tile::kKeys;
        const typename Tile::Key key{ring + stage * Tile::kStage}, value{key.base + Tile::Key::kBytes};
        key.template load<32>(reinterpret_cast<const char*>(s.key_row<Storage>(p.key, hk, j0)), p.key.row, n,
                              p.head_dim, lane);
        value.template load<32>(reinterpret_cast<const char*>(s.key_row<Storage>(p.value, hk, j0)), p.value.row, n,
                                p.value_dim, lane);
      }
      ptx::cp_async_commit();  // also of nothing: groups are counted
    };
    for (int x = thread; x < 16 * Tile::Query::kUnits; x += Tile::kThreads) {
      const int r = x / Tile::Query::kUnits, u = x % Tile::Query::kUnits, at = row0 + r;
      const int left = p.head_dim * Tile::Query::kElement - u * kUnit;
      const int bytes = left < 0 || at >= rows ? 0 : left > kUnit ? kUnit : left;
      const char* from = p.query.data;
      if (bytes)
        from = reinterpret_cast<const char*>(s.query_row<Storage>(p.query, hk * p.group + at / queries, at % queries)) +
               u * kUnit;
      ptx::cp_async_16(query.unit(r, u), from, bytes);
    }
    ptx::cp_async_commit();
#pragma unroll
    for (int t = 0; t < Tile::kStages - 1; ++t) load(t, t);
    ptx::cp_async_wait<Tile::kStages - 1>();
    __syncthreads();

    GroupDown at(row0, rows, queries, hk * p.group, lane);
    float o[1][V][4];
    clear(o);
    RowState<Score, 1> row(terms, at);
    int stage = 0;
    for (int32_t t = 0, j0 = begin + warp * Tile::kKeys; j0 < end; ++t, j0 += Tile::kWarps * Tile::kKeys) {
      ptx::cp_async_wait<Tile::kStages - 2>();
      __syncwarp();
      load(t + Tile::kStages - 1, stage == 0 ? Tile::kStages - 1 : stage - 1);
      const typename Tile::Key key{ring + stage * Tile::kStage}, value{key.base + Tile::Key::kBytes};
      stage = stage == Tile::kStages - 1 ? 0 : stage + 1;
      float w[1][N][4];
      clear(w);
      multiply_rows<T, typename Tile::Query, typename Tile::Key, kDim>(w, query.corner_down(lane),
                                                                       key.corner_across(lane));
      at.key0 = j0 + 2 * (lane & 3);
      if (p.scores_modified) modify<T>(w, terms, at);
      const bool edge = needs_mask(range, 0, queries, j0, j0 + Tile::kKeys);
      if (edge) mask(w, range, at);
      row.take(w, p.scores_modified ? 1.0f : p.scale2, o);
      if (p.drop_below) {
        const Keep<GroupDown, 1, N> keep(terms, at);
        each<1, N>([&](int m, int n, int e) { w[m][n][e] = keep(m, n, e) ? w[m][n][e] * p.keep_scale : 0.0f; });
      }
      if ((edge || p.bias.data || p.drop_below) && __any_sync(0xFFFFFFFF, !value.template share_finite<32>(lane))) {
        add_nonfinite<T>(o, w, value, lane);
        __syncwarp();
        for (int r = 0; r < Tile::kKeys; ++r) value.clear_nonfinite(r, lane);
        __syncwarp();
      }
      multiply_accumulators<T>(o, w, value, lane);
    }
    ptx::cp_async_wait<0>();
    __syncthreads();  // the ring becomes the warps' sums, maxima and outputs

    float* merge = reinterpret_cast<float*>(shared + Tile::Query::kBytes);
    float* state = merge + Tile::kWarps * 16 * Tile::kMergeStride;  // [warp][row] maximum and sum
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = warp * 16 + (lane >> 2) + 8 * half;
      if constexpr (Score::kRowState) {
        const float sum = quad_sum(row.sum[0][half]);
        if ((lane & 3) == 0) state[2 * r] = row.max[0][half], state[2 * r + 1] = sum;
      }
#pragma unroll
      for (int n = 0; n < V; ++n)
        *reinterpret_cast<float2*>(merge + r * Tile::kMergeStride + 8 * n + 2 * (lane & 3)) =
            make_float2(o[0][n][2 * half], o[0][n][2 * half + 1]);
    }
    __syncthreads();
    const int64_t slot = first_slot(p, s) + static_cast<int64_t>(split) * queries;
    for (int r = warp; r < 16 && row0 + r < rows; r += Tile::kWarps) {
      float top = -kInf, f[Tile::kWarps], sum = 0;
      if constexpr (Score::kRowState) {
#pragma unroll
        for (int w = 0; w < Tile::kWarps; ++w) top = fmaxf(top, state[2 * (w * 16 + r)]);
#pragma unroll
        for (int w = 0; w < Tile::kWarps; ++w) {
          f[w] = math::exp2_bounded(state[2 * (w * 16 + r)] - (top == -kInf ? 0 : top));
          sum += f[w] * state[2 * (w * 16 + r) + 1];
        }
      }
      const int32_t of_group = row0 + r;
      const int64_t to = (slot + of_group % queries) * p.query_heads + hk * p.group + of_group / queries;
      if (Score::kRowState && lane == 0) p.state[to] = make_float2(top, sum);
      for (int c = lane; c < p.columns; c += 32) {
        float x = 0;
#pragma unroll
        for (int w = 0; w < Tile::kWarps; ++w)
          x += (Score::kRowState ? f[w] : 1) * merge[(w * 16 + r) * Tile::kMergeStride + c];
        p.partial[to * p.columns + c] = x;
      }
    }
    __syncthreads();
  }
}

/// Merges the splits of every row of one head of one sequence.
template <class T, class Score>
__global__ void __launch_bounds__(128) merge_kernel(const __grid_constant__ DecodeParams p) {
  constexpr int kVectors = kMaxHeadDim / 128;  // float4s of a lane
  __shared__ float4 outs[4][kMaxHeadDim / 4];
  __shared__ float sums[4];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const Sequence s(p, blockIdx.x / p.query_heads);
  const int32_t h = blockIdx.x % p.query_heads, queries = s.range.queries;
  if (queries > kDecodeRows) return;
  const int32_t chunk = static_cast<int32_t>(decode_chunk(queries)), splits = (s.range.keys + chunk - 1) / chunk;
  const Terms<Score> terms{p, s};
  for (int32_t i = 0; i < queries; ++i) {
    const int64_t slot = first_slot(p, s) + i;
    const auto at = [&](int32_t split) { return (slot + static_cast<int64_t>(split) * queries) * p.query_heads + h; };
    float top = -kInf;
    if constexpr (Score::kRowState) {
      for (int32_t x = lane; x < splits; x += 32) top = fmaxf(top, p.state[at(x)].x);
#pragma unroll
      for (int lanes = 16; lanes > 0; lanes /= 2) top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFF, top, lanes));
    }
    const float ref = top == -kInf ? 0 : top;
    float sum = 0;
    float4 out[kVectors] = {};
#pragma unroll 4
    for (int32_t x = warp; x < splits; x += 4) {
      float f = 1;
      if constexpr (Score::kRowState) {
        const float2 state = p.state[at(x)];
        if (state.x == -kInf && state.y == 0) continue;  // saw nothing
        f = math::exp2_bounded(state.x - ref);
        sum += f * state.y;
      }
#pragma unroll
      for (int v = 0; v < kVectors; ++v)
        if (const int c = 4 * (lane + 32 * v); c < p.columns) {
          const float4 y = *reinterpret_cast<const float4*>(p.partial + at(x) * p.columns + c);
          out[v].x += f * y.x, out[v].y += f * y.y, out[v].z += f * y.z, out[v].w += f * y.w;
        }
    }
#pragma unroll
    for (int v = 0; v < kVectors; ++v) outs[warp][lane + 32 * v] = out[v];
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    const RowEnd<Score> done(terms, top, sums[0] + sums[1] + sums[2] + sums[3], i, h);
    if (Score::kRowState && threadIdx.x == 0) *s.query_row<float>(p.lse, h, i) = done.lse;
    for (int c = threadIdx.x; c < p.value_dim; c += 128) {
      float x = 0;
#pragma unroll
      for (int w = 0; w < 4; ++w) x += reinterpret_cast<const float*>(outs[w])[c];
      s.query_row<typename T::Storage>(p.out, h, i)[c * p.out.column] = T::store(done.factor * x);
    }
    __syncthreads();
  }
}

}  // namespace saccade::cuda
