#include "cpu/kernels.h"

#include <iterator>

#include "cpu/attention/entry.h"
#include "cpu/isa.h"
#include "cpu/reference/attention.h"
#include "cpu/reference/linear.h"

SACCADE_DECLARE_ISA(base)
SACCADE_DECLARE_ISA(avx2)
SACCADE_DECLARE_ISA(avx512)
SACCADE_DECLARE_ISA(neon)

namespace saccade {
namespace {

/// The limits of the tiled kernels, the same for every instruction set and both directions.
std::string tiled_refusal(const AttentionProblem& p) {
  if (p.query.dtype == DType::f64) return "computes in float32, got float64";
  for (const TensorView* t : {&p.query, &p.value})
    if (const int64_t d = t->shape[t->rank - 1]; d > cpu::kMaxHeadDim)
      return "head_dim up to " + std::to_string(cpu::kMaxHeadDim) + ", got " + std::to_string(d);
  return "";
}

#define SACCADE_ROW(isa, Problem)                                                                          \
  Kernel<Problem>{"cpu." #isa ".attention",                                                                \
                  [](const Problem& p) {                                                                   \
                    const std::string reason = cpu::isa_refusal(#isa);                                     \
                    return reason.empty() ? tiled_refusal(p) : reason;                                     \
                  },                                                                                       \
                  [](const Problem& p, int threads) { return cpu::isa::attention_workspace(p, threads); }, \
                  [](const Problem& p, const Context& c, void* w) { cpu::isa::attention(p, c, w); }},

#if defined(SACCADE_HAVE_ISA_avx512)
#define SACCADE_AVX512(Problem) SACCADE_ROW(avx512, Problem)
#else
#define SACCADE_AVX512(Problem)
#endif
#if defined(SACCADE_HAVE_ISA_avx2)
#define SACCADE_AVX2(Problem) SACCADE_ROW(avx2, Problem)
#else
#define SACCADE_AVX2(Problem)
#endif
#if defined(SACCADE_HAVE_ISA_neon)
#define SACCADE_NEON(Problem) SACCADE_ROW(neon, Problem)
#else
#define SACCADE_NEON(Problem)
#endif

// In order of preference.
const Kernel<AttentionForward> kForward[] = {SACCADE_AVX512(AttentionForward) SACCADE_AVX2(
    AttentionForward) SACCADE_NEON(AttentionForward) SACCADE_ROW(base, AttentionForward) reference_attention};
const Kernel<AttentionBackward> kBackward[] = {SACCADE_AVX512(AttentionBackward) SACCADE_AVX2(AttentionBackward)
                                                   SACCADE_NEON(AttentionBackward) SACCADE_ROW(base, AttentionBackward)
                                                       reference_attention_backward};

}  // namespace

KernelList<AttentionForward> cpu_attention() { return {std::begin(kForward), std::end(kForward)}; }
KernelList<AttentionBackward> cpu_attention_backward() { return {std::begin(kBackward), std::end(kBackward)}; }

KernelList<LinearForward> cpu_linear() { return {&reference_linear, &reference_linear + 1}; }
KernelList<LinearBackward> cpu_linear_backward() {
  return {&reference_linear_backward, &reference_linear_backward + 1};
}
KernelList<LinearStep> cpu_linear_step() { return {&reference_linear_step, &reference_linear_step + 1}; }

}  // namespace saccade
