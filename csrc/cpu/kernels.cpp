#include "cpu/kernels.h"

#include <iterator>

#include "cpu/attention/entry.h"
#include "cpu/isa.h"
#include "cpu/linear/entry.h"
#include "cpu/reference/attention.h"
#include "cpu/reference/linear.h"

SACCADE_DECLARE_ISA(base)
SACCADE_DECLARE_ISA(avx2)
SACCADE_DECLARE_ISA(avx512)
SACCADE_DECLARE_ISA(neon)
SACCADE_DECLARE_LINEAR(base)
SACCADE_DECLARE_LINEAR(avx2)
SACCADE_DECLARE_LINEAR(avx512)
SACCADE_DECLARE_LINEAR(neon)

namespace saccade {
namespace {

/// The limits of the tiled kernels, the same for every instruction set and both directions.
template <class Problem>
std::string tiled_refusal(const Problem& p) {
  if (p.query.dtype == DType::f64) return "computes in float32, got float64";
  for (const TensorView* t : {&p.query, &p.value})
    if (const int64_t d = t->shape[t->rank - 1]; d > cpu::kMaxHeadDim)
      return "head_dim up to " + std::to_string(cpu::kMaxHeadDim) + ", got " + std::to_string(d);
  if constexpr (requires { p.feature; })
    if (const int64_t rows = state_rows(p.feature, p.query.shape[p.query.rank - 1]); rows > cpu::kMaxHeadDim)
      return "up to " + std::to_string(cpu::kMaxHeadDim) + " features (head_dim 21), got " + std::to_string(rows);
  return "";
}

#define SACCADE_ROW(isa, op, Problem)                                                                 \
  Kernel<Problem>{"cpu." #isa "." #op,                                                                \
                  [](const Problem& p) {                                                              \
                    const std::string reason = cpu::isa_refusal(#isa);                                \
                    return reason.empty() ? tiled_refusal(p) : reason;                                \
                  },                                                                                  \
                  [](const Problem& p, int threads) { return cpu::isa::op##_workspace(p, threads); }, \
                  [](const Problem& p, const Context& c, void* w) { cpu::isa::op(p, c, w); }},

#if defined(SACCADE_HAVE_ISA_avx512)
#define SACCADE_AVX512(op, Problem) SACCADE_ROW(avx512, op, Problem)
#else
#define SACCADE_AVX512(op, Problem)
#endif
#if defined(SACCADE_HAVE_ISA_avx2)
#define SACCADE_AVX2(op, Problem) SACCADE_ROW(avx2, op, Problem)
#else
#define SACCADE_AVX2(op, Problem)
#endif
#if defined(SACCADE_HAVE_ISA_neon)
#define SACCADE_NEON(op, Problem) SACCADE_ROW(neon, op, Problem)
#else
#define SACCADE_NEON(op, Problem)
#endif

// In order of preference.
#define SACCADE_TILED(op, Problem) \
  SACCADE_AVX512(op, Problem) SACCADE_AVX2(op, Problem) SACCADE_NEON(op, Problem) SACCADE_ROW(base, op, Problem)

const Kernel<AttentionForward> kForward[] = {SACCADE_TILED(attention, AttentionForward) reference_attention};
const Kernel<AttentionBackward> kBackward[] = {SACCADE_TILED(attention, AttentionBackward)
                                                   reference_attention_backward};
const Kernel<LinearForward> kLinear[] = {SACCADE_TILED(linear, LinearForward) reference_linear};
const Kernel<LinearBackward> kLinearBackward[] = {SACCADE_TILED(linear, LinearBackward) reference_linear_backward};
const Kernel<LinearStep> kLinearStep[] = {SACCADE_TILED(linear, LinearStep) reference_linear_step};

}  // namespace

KernelList<AttentionForward> cpu_attention() { return {std::begin(kForward), std::end(kForward)}; }
KernelList<AttentionBackward> cpu_attention_backward() { return {std::begin(kBackward), std::end(kBackward)}; }

KernelList<LinearForward> cpu_linear() { return {std::begin(kLinear), std::end(kLinear)}; }
KernelList<LinearBackward> cpu_linear_backward() { return {std::begin(kLinearBackward), std::end(kLinearBackward)}; }
KernelList<LinearStep> cpu_linear_step() { return {std::begin(kLinearStep), std::end(kLinearStep)}; }

}  // namespace saccade
