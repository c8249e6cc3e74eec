#include "ops/registry.h"

#include <cstdlib>
#include <type_traits>

#include "cpu/kernels.h"
#include "cuda/kernels.h"
#include "ops/arguments.h"
#include "ops/check.h"
#include "saccade/error.h"

#ifndef SACCADE_VERSION
#define SACCADE_VERSION "0.0.0"
#endif

namespace saccade {
namespace {

template <class Problem>
struct Op;

template <>
struct Op<AttentionForward> {
  static constexpr const char* name = "attention";
  static KernelList<AttentionForward> cuda() { return cuda_attention(); }
  static KernelList<AttentionForward> cpu() { return cpu_attention(); }
};

template <>
struct Op<AttentionBackward> {
  static constexpr const char* name = "attention_backward";
  static KernelList<AttentionBackward> cuda() { return cuda_attention_backward(); }
  static KernelList<AttentionBackward> cpu() { return cpu_attention_backward(); }
};

template <>
struct Op<LinearForward> {
  static constexpr const char* name = "linear_attention";
  static KernelList<LinearForward> cuda() { return cuda_linear(); }
  static KernelList<LinearForward> cpu() { return cpu_linear(); }
};

template <>
struct Op<LinearBackward> {
  static constexpr const char* name = "linear_attention_backward";
  static KernelList<LinearBackward> cuda() { return cuda_linear_backward(); }
  static KernelList<LinearBackward> cpu() { return cpu_linear_backward(); }
};

template <>
struct Op<LinearStep> {
  static constexpr const char* name = "linear_attention_step";
  static KernelList<LinearStep> cuda() { return cuda_linear_step(); }
  static KernelList<LinearStep> cpu() { return cpu_linear_step(); }
};

/// The plainest problem, which every kernel of this machine runs.
template <class Problem>
Problem plainest(DeviceType device) {
  static float element;
  const int64_t ones[4] = {1, 1, 1, 1};
  TensorView t = contiguous_view(&element, DType::f32, 4, ones);
  t.device = device;
  Problem p;
  p.query = p.key = p.value = p.out = t;
  if constexpr (requires { p.dout; }) p.dout = p.dquery = p.dkey = p.dvalue = t;
  if constexpr (requires { p.state; }) p.state = t;
  if constexpr (requires { p.lse; }) p.lse = t, p.lse.rank = 3;
  if constexpr (std::is_same_v<Problem, LinearStep>)
    for (TensorView* x : {&p.query, &p.key, &p.value, &p.out}) x->rank = 3;
  return p;
}

std::string forced_name(const Context& context) {
  if (!context.kernel.empty()) return context.kernel;
  const char* env = std::getenv("SACCADE_KERNEL");
  return env ? env : "";
}

/// f(kernel, device it is for) for every kernel of the operation, in order of preference.
template <class Problem, class F>
void each_kernel(F f) {
  for (auto [k, end] = Op<Problem>::cuda(); k != end; ++k) f(*k, DeviceType::cuda);
  for (auto [k, end] = Op<Problem>::cpu(); k != end; ++k) f(*k, DeviceType::cpu);
}

/// Host memory goes to a CUDA kernel only if that is asked for by name (and the device can read it, which the kernel
/// says).
template <class Problem>
std::string refusal(const Kernel<Problem>& kernel, DeviceType device, bool named, const Problem& problem) {
  const DeviceType got = problem.query.device;
  if (got != device && !(named && device == DeviceType::cuda && got == DeviceType::cpu))
    return std::string("runs on ") + (device == DeviceType::cpu ? "cpu" : "cuda") + " tensors, got " +
           device_text(problem.query);
  return kernel.supports(problem);
}

template <class Problem>
[[noreturn]] void no_such_kernel(const std::string& name) {
  std::string names;
  each_kernel<Problem>(
      [&](const Kernel<Problem>& k, DeviceType) { names += (names.empty() ? "" : ", ") + std::string(k.name); });
  throw Error(std::string(Op<Problem>::name) + ": kernel: got \"" + name + "\", wanted one of " + names +
              "; force a listed name, or none (Context::kernel, SACCADE_KERNEL)");
}

template <class Problem>
[[noreturn]] void no_kernel(const Problem& problem, const Context& context) {
  const std::string forced = forced_name(context);
  std::string text = std::string(Op<Problem>::name) + ": kernel: got " +
                     (forced.empty() ? "a problem that no kernel supports"
                                     : "\"" + forced + "\" forced, which cannot run this problem") +
                     ", wanted one that can: " + describe(problem) + "; the candidates are";
  for (const Candidate& c : candidates(problem, context))
    text += "\n  " + c.name + ": " + (c.reason.empty() ? "can run" : c.reason);
  throw Error(text);
}

template <class Problem>
const Kernel<Problem>& choose_kernel(const Problem& problem, const Context& context) {
  const std::string forced = forced_name(context);
  const Kernel<Problem>* chosen = nullptr;
  bool known = forced.empty();
  each_kernel<Problem>([&](const Kernel<Problem>& k, DeviceType device) {
    if (chosen || (!forced.empty() && forced != k.name)) return;
    known = true;
    if (refusal(k, device, !forced.empty(), problem).empty()) chosen = &k;
  });
  if (!known) no_such_kernel<Problem>(forced);
  if (!chosen) no_kernel(problem, context);
  return *chosen;
}

template <class Problem>
std::vector<Candidate> all_candidates(const Problem& problem, const Context& context) {
  const std::string forced = forced_name(context);
  std::vector<Candidate> list;
  bool known = forced.empty(), chosen = false;
  each_kernel<Problem>([&](const Kernel<Problem>& k, DeviceType device) {
    Candidate c{k.name, refusal(k, device, forced == k.name, problem)};
    const bool wanted = forced.empty() || forced == k.name;
    known |= wanted;
    c.chosen = wanted && !chosen && c.reason.empty();
    chosen |= c.chosen;
    list.push_back(std::move(c));
  });
  if (!known) no_such_kernel<Problem>(forced);
  return list;
}

template <class Problem>
void append_kernels(std::vector<KernelInfo>& list) {
  each_kernel<Problem>([&](const Kernel<Problem>& k, DeviceType device) {
    list.push_back({Op<Problem>::name, k.name, k.supports(plainest<Problem>(device))});
  });
}

}  // namespace

template <class Problem>
const char* op_name() {
  return Op<Problem>::name;
}
template <class Problem>
const Kernel<Problem>& choose(const Problem& p, const Context& c) {
  return choose_kernel(p, c);
}
template <class Problem>
std::vector<Candidate> candidates(const Problem& p, const Context& c) {
  return all_candidates(p, c);
}

#define SACCADE_OP(Problem)                                               \
  template const char* op_name<Problem>();                                \
  template const Kernel<Problem>& choose(const Problem&, const Context&); \
  template std::vector<Candidate> candidates(const Problem&, const Context&);
SACCADE_OP(AttentionForward)
SACCADE_OP(AttentionBackward)
SACCADE_OP(LinearForward)
SACCADE_OP(LinearBackward)
SACCADE_OP(LinearStep)

std::vector<KernelInfo> list_kernels() {
  std::vector<KernelInfo> list;
  append_kernels<AttentionForward>(list);
  append_kernels<AttentionBackward>(list);
  append_kernels<LinearForward>(list);
  append_kernels<LinearBackward>(list);
  append_kernels<LinearStep>(list);
  return list;
}

bool copy_to_host(void* to, const TensorView& from, int64_t bytes) {
  return cuda_copy_to_host(to, from.data, bytes, from.device_index);
}

const char* version() { return SACCADE_VERSION; }

}  // namespace saccade
