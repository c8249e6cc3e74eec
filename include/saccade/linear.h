#pragma once
#include <cstdint>
#include <vector>

#include "saccade/context.h"
#include "saccade/export.h"
#include "saccade/kernels.h"
#include "saccade/tensor.h"

// Linear attention with decay: a recurrence over tokens t of one (batch b, head h), with a state S of D × Dv numbers,
//   S_t = diag(e^{g_t}) S_{t−1} + k_tᵀ v_t        out_t = scale · q_t S_t
// S_{−1} is the initial state (0 if absent) and g_t ≤ 0 the log decay: none, per head, per head and token, or per
// channel of the key. `normalize`: out_t = scale·q_t S_t / (scale·q_t·z_t + epsilon), z_t = diag(e^{g_t}) z_{t−1} +
// k_t, and states have one more column, z. `global`: every query sees the final state, S_{N−1} (no decay then).
// `reverse`: time runs backward. `feature` taylor2: φ(k) takes k's place in the state, so that q·k becomes the second
// order of its exponential, 1 + s + s²/2 with s = scale·q·k (nothing else is scaled, no decay then). φ(k) is 1, every
// k_m, and every k_m·k_n with m ≤ n in the order (0, 0), (0, 1), … (1, 1), …: states have 1 + D + D(D + 1)/2 rows.
//
// Dense: query (B, Hq, N, D), key (B, Hk, N, D), value (B, Hv, N, Dv). H is the largest of Hq, Hk, Hv, and the others
// divide it: head h reads query head h / (H / Hq), and so on. out (B, H, N, Dv), states (B, H, D, Dv) float32 (float64
// for float64 operands). Packed: (T, H·, D) with cu_seqlens of B+1 entries. Any strides. 1 ≤ D, Dv. Source: Qin et al.,
// "Lightning Attention-2" (arXiv:2401.04658); Yang et al., "Gated Linear Attention" (2312.06635); Arora et al., "Simple
// linear attention language models balance the recall-throughput tradeoff" (2402.18668) for taylor2.
namespace saccade {

/// What of a key enters the state.
enum class LinearFeature : uint8_t { none, taylor2 };

/// Their names, in that order.
inline constexpr const char* kLinearFeatureNames[] = {"none", "taylor2"};

/// Rows of a state, for keys of `dim` channels.
constexpr int64_t state_rows(LinearFeature feature, int64_t dim) {
  return feature == LinearFeature::taylor2 ? 1 + dim + dim * (dim + 1) / 2 : dim;
}

struct LinearProblem {
  TensorView query, key, value;
  TensorView log_decay;      // (H), (B, H, N) or (B, H, N, D), packed (T, H) or (T, H, D); float32; ≤ 0
  TensorView initial_state;  // (B, H, D, Dv), with normalize (B, H, D, Dv + 1); with a feature its rows for D
  TensorView cu_seqlens;     // int32 (B+1), ascending from 0 to T
  double scale = 1.0;
  bool normalize = false;
  double epsilon = 1e-6;
  LinearFeature feature = LinearFeature::none;
  bool global = false, reverse = false;
  int64_t chunk = 0;  // tokens handled at once; 0: the kernel's choice. Results differ by rounding only
};

struct LinearForward : LinearProblem {
  TensorView out;
  TensorView final_state;  // as initial_state; optional
};

/// Gradients have the shape of what they belong to; absent ones are not computed.
struct LinearBackward : LinearProblem {
  TensorView out;                   // of the forward; with normalize only
  TensorView dout;                  // as out
  TensorView dfinal_state;          // optional
  TensorView dquery, dkey, dvalue;  // all three are written
  TensorView dlog_decay, dinitial_state;
};

/// One token a sequence, the state updated in place: query (B, Hq, D), key (B, Hk, D), value (B, Hv, Dv), state as
/// above, log_decay (H), (B, H) or (B, H, D), out (B, H, Dv).
struct LinearStep {
  TensorView query, key, value, log_decay;
  TensorView state;  // read and written
  double scale = 1.0;
  bool normalize = false;
  double epsilon = 1e-6;
  LinearFeature feature = LinearFeature::none;
  TensorView out;
};

/// Bytes of scratch memory; the caller brings them, 64-byte aligned.
SACCADE_API int64_t workspace_bytes(const LinearForward& problem, const Context& context);
SACCADE_API int64_t workspace_bytes(const LinearBackward& problem, const Context& context);
SACCADE_API int64_t workspace_bytes(const LinearStep& problem, const Context& context);

/// Writes out and final_state, every present gradient, or out and state. Throw Error on a malformed problem or when no
/// kernel, or not the forced one, can run it.
SACCADE_API void linear_forward(const LinearForward& problem, const Context& context, void* workspace);
SACCADE_API void linear_backward(const LinearBackward& problem, const Context& context, void* workspace);
SACCADE_API void linear_step(const LinearStep& problem, const Context& context, void* workspace);

/// Every candidate in order of preference, with the reason it cannot run (empty: it can).
SACCADE_API std::vector<Candidate> explain(const LinearForward& problem, const Context& context);
SACCADE_API std::vector<Candidate> explain(const LinearBackward& problem, const Context& context);
SACCADE_API std::vector<Candidate> explain(const LinearStep& problem, const Context& context);

}  // namespace saccade
