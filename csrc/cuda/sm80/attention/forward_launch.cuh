#pragma once
#include "cuda/sm80/attention/decode.cuh"
#include "cuda/sm80/attention/dims.h"
#include "cuda/sm80/attention/forward.cuh"
#include "cuda/sm80/attention/forward.h"

namespace saccade::cuda {

template <class T, class Score, int kDim, bool kModified>
void launch_tiles(Queue& queue, const Params& p) {
  using Tile = ForwardTile<T, kDim, kModified>;
  const auto pieces = static_cast<unsigned>(piece_count(p, p.queries, Tile::kQueries));
  queue.launch<Params>(forward_kernel<T, Score, kDim, kModified>, dim3(pieces, p.query_heads), Tile::kThreads,
                       Tile::kShared, p);
}

template <class T, class Score>
int Forward<T, Score>::shared_bytes(const Params& p) {
  return with_dim(p, [&]<int n>(Dim<n>) {
    return max(max(ForwardTile<T, n, true>::kShared, ForwardTile<T, n, !kPlain<Score>>::kShared),
               DecodeTile<T, n>::kShared);
  });
}

template <class T, class Score>
void Forward<T, Score>::launch(Queue& queue, const DecodeParams& p, bool tiled, bool split) {
  with_dim(p, [&]<int n>(Dim<n>) {
    if (tiled)
      p.modified ? launch_tiles<T, Score, n, true>(queue, p) : launch_tiles<T, Score, n, !kPlain<Score>>(queue, p);
    if (!split) return;
    using Tile = DecodeTile<T, n>;
    const auto pieces = static_cast<unsigned>(piece_count(p, p.keys, p.packed ? kMinChunk : decode_chunk(p.queries)));
    // Tiles of 16 rows; where lengths are unknown, enough for the mean, and blocks loop for the rest.
    int64_t queries = p.packed ? (p.queries + p.batch - 1) / p.batch : p.queries;
    if (queries > kDecodeRows) queries = kDecodeRows;
    const auto tiles = static_cast<unsigned>((queries * p.group + 15) / 16);
    queue.launch<DecodeParams>(decode_kernel<T, Score, n>, dim3(pieces, p.key_heads, tiles), Tile::kThreads,
                               Tile::kShared, p);
  });
  if (split)
    queue.launch<DecodeParams>(merge_kernel<T, Score>, dim3(static_cast<unsigned>(p.batch * p.query_heads)), 128, 0, p);
}

}  // namespace saccade::cuda
