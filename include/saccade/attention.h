#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "saccade/context.h"
#include "saccade/export.h"
#include "saccade/kernels.h"
#include "saccade/tensor.h"

// Attention over visited pairs (query i, key j) of one (batch b, head h), with p_i = i + Nk − Nq the query's place on
// the key axis:
//   s_ij = softcap(temperature_i · scale · (q_i·k_j + q_i·R_hδ + β_hδ)) + bias_ij − alibi_slope_h · |p_i − j|
//          softcap(x) = c·tanh(x/c),  δ = p_i − j clipped to [−P, P]
//   softmax: w_ij = exp(s_ij − lse_i),  lse_i = ln(Σ_j exp(s_ij) + exp(sink_h))
//   others:  w_ij = f(s_ij + score_bias_h),  f = σ, max(·, 0), max(·, 0)² or the identity; no lse, no sinks
//   out_i = head_gate_i · Σ_j dropout_ij · w_ij · v_j
// A row that sees no key, or only keys at −inf, gives out 0 and lse −inf (the sink's logit where there is a sink).
//
// Dense: query (B, Hq, Nq, D), key (B, Hk, Nk, D), value (B, Hk, Nk, Dv), out (B, Hq, Nq, Dv), lse (B, Hq, Nq).
// Packed: query (Tq, Hq, D), key (Tk, Hk, D), value (Tk, Hk, Dv), out (Tq, Hq, Dv), lse (Tq, Hq), with cu_seqlens of
// B+1 entries. Hq is a multiple of Hk; query head h reads key head h / (Hq / Hk). Any strides. 1 ≤ D, Dv.
namespace saccade {

/// How a score becomes a weight.
enum class ScoreMap : uint8_t { softmax, sigmoid, relu, relu2, identity };

/// Their names, in that order.
inline constexpr const char* kScoreMapNames[] = {"softmax", "sigmoid", "relu", "relu2", "identity"};

/// Has the map a row sum, hence lse and sinks?
constexpr bool normalises(ScoreMap map) { return map == ScoreMap::softmax; }

/// A score_bias that `check` replaces by −ln of the longest sequence of keys.
inline constexpr double kNegLogN = __builtin_nan("");

/// Everything between q·k and the weight. Absent tensors and zero values switch a term off.
struct ScoreSpec {
  ScoreMap map = ScoreMap::softmax;
  double scale = 1.0;
  double softcap = 0.0;      // 0: none
  TensorView bias;           // broadcastable to (B, Hq, Nq, Nk), packed: the longest N; float, or bool: true = visible
  TensorView alibi_slopes;   // (Hq) or (B, Hq)
  TensorView temperature;    // broadcastable to (B, Hq, Nq), packed (Tq, Hq)
  TensorView sinks;          // (Hq)
  double score_bias = 0;     // of maps other than softmax, added to every visible score; kNegLogN: −ln(longest Nk)
  TensorView score_biases;   // (Hq), the same per head, added to it
  TensorView relative_keys;  // (Hq|1, 2P+1, D), query's type: R_δ in row P + δ
  TensorView relative_bias;  // (Hq|1, 2P+1): β_δ
  TensorView head_gate;      // (Hq), or broadcastable to (B, Hq, Nq), packed (Tq, Hq)
  double dropout_p = 0.0;    // probability of dropping a weight
  uint64_t seed = 0;         // of the dropout mask; see math/philox.h for the counter
};

/// Which pairs exist. Causal and window are aligned bottom-right: the last query sees the last key.
struct VisitSpec {
  bool causal = false;
  int64_t window_left = -1;   // keys j ≥ p_i − window_left; −1: unbounded
  int64_t window_right = -1;  // keys j ≤ p_i + window_right; −1: unbounded
  TensorView cu_seqlens_q;    // int32 (B+1), ascending from 0 to Tq; present iff the tensors are packed
  TensorView cu_seqlens_k;    // int32 (B+1), ascending from 0 to Tk
};

struct AttentionProblem {
  TensorView query, key, value;
  ScoreSpec score;
  VisitSpec visit;
};

struct AttentionForward : AttentionProblem {
  TensorView out;
  TensorView lse;  // float32 (float64 for float64 operands); required by softmax, absent otherwise
};

/// Gradients have the shape of what they belong to; absent ones are not computed.
struct AttentionBackward : AttentionProblem {
  TensorView out, lse;              // of the forward, as softmax needs them; absent otherwise
  TensorView dout;                  // as out
  TensorView dlse;                  // as lse; optional, softmax only
  TensorView dquery, dkey, dvalue;  // all three are written
  TensorView dbias, dalibi_slopes, dtemperature, dsinks, dhead_gate, dscore_biases, drelative_keys, drelative_bias;
};

/// Bytes of scratch memory that `attention_forward(problem, context, …)` needs; the caller brings them, 64-byte
/// aligned. The tiled CPU kernels take, beside 1.5 MiB a thread: forward min(threads + 1, B·Hk)·Nk·(D + Dv)·4 bytes, in
/// split-KV form (up to 16 queries) Nk/512·Hq·Nq·(Dv + 2)·4; backward B·Hq·Nq·(D + 5)·4; D, Dv up to a multiple of 32.
/// Of a relative term with C = min(2P, Nq + Nk, what the window leaves) distances and Ht heads, forward Ht·C·(D + 1)·4,
/// backward Ht·C·(2·D + 1)·4 + B·Hq·Nq·8 and, for the tables' gradients, ⌈16/Hk⌉·Hq·C·(D + 1)·4 bytes more.
/// The CUDA kernels take a copy of each operand whose rows are not 16-byte aligned, and in split-KV form
/// B·Nq·⌈Nk/256⌉·Hq·(Dv + 2)·4 bytes (packed: Tk/128 + min(Tq, 16·B) + B in place of B·Nq·⌈Nk/256⌉); backward B·Hq·Nq·8
/// bytes (0 but for softmax), 4 more for each of dtemperature, dhead_gate, dalibi_slopes and dscore_biases, and up to
/// 4 MiB for a broadcast bias's gradient.
SACCADE_API int64_t workspace_bytes(const AttentionForward& problem, const Context& context);
SACCADE_API int64_t workspace_bytes(const AttentionBackward& problem, const Context& context);

/// Writes out and lse. Throws Error on a malformed problem or when no kernel, or not the forced one, can run it.
SACCADE_API void attention_forward(const AttentionForward& problem, const Context& context, void* workspace);
/// Writes every present gradient. Same errors.
SACCADE_API void attention_backward(const AttentionBackward& problem, const Context& context, void* workspace);

/// Every candidate in order of preference, with the reason it cannot run (empty: it can). Throws Error on a malformed
/// problem.
SACCADE_API std::vector<Candidate> explain(const AttentionForward& problem, const Context& context);
SACCADE_API std::vector<Candidate> explain(const AttentionBackward& problem, const Context& context);

}  // namespace saccade
