#include "ops/registry.h"

#include <cstdlib>

#include "cpu/kernels.h"
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
  static KernelList<AttentionForward> cpu() { return cpu_attention(); }
};

template <>
struct Op<AttentionBackward> {
  static constexpr const char* name = "attention_backward";
  static KernelList<AttentionBackward> cpu() { return cpu_attention_backward(); }
};

template <class Problem>
std::string refusal(const Kernel<Problem>& kernel, const Problem& problem) {
  if (problem.query.device != DeviceType::cpu) return "runs on cpu tensors, got " + device_text(problem.query);
  return kernel.supports(problem);
}

std::string forced_name(const Context& context) {
  if (!context.kernel.empty()) return context.kernel;
  const char* env = std::getenv("SACCADE_KERNEL");
  return env ? env : "";
}

template <class Problem>
[[noreturn]] void no_such_kernel(const std::string& name) {
  std::string names;
  for (auto [k, end] = Op<Problem>::cpu(); k != end; ++k) names += (names.empty() ? "" : ", ") + std::string(k->name);
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
  bool known = forced.empty();
  for (auto [k, end] = Op<Problem>::cpu(); k != end; ++k) {
    if (!forced.empty() && forced != k->name) continue;
    known = true;
    if (refusal(*k, problem).empty()) return *k;
  }
  if (!known) no_such_kernel<Problem>(forced);
  no_kernel(problem, context);
}

template <class Problem>
std::vector<Candidate> all_candidates(const Problem& problem, const Context& context) {
  const std::string forced = forced_name(context);
  std::vector<Candidate> list;
  bool known = forced.empty(), chosen = false;
  for (auto [k, end] = Op<Problem>::cpu(); k != end; ++k) {
    Candidate c{k->name, refusal(*k, problem)};
    const bool wanted = forced.empty() || forced == k->name;
    known |= wanted;
    c.chosen = wanted && !chosen && c.reason.empty();
    chosen |= c.chosen;
    list.push_back(std::move(c));
  }
  if (!known) no_such_kernel<Problem>(forced);
  return list;
}

/// A kernel of this machine runs the plainest problem, so what it says of it is about the machine.
template <class Problem>
void append_kernels(std::vector<KernelInfo>& list) {
  static float element;
  const int64_t ones[4] = {1, 1, 1, 1};
  Problem p;
  p.query = p.key = p.value = p.out = contiguous_view(&element, DType::f32, 4, ones);
  p.lse = contiguous_view(&element, DType::f32, 3, ones);
  if constexpr (requires { p.dout; }) p.dout = p.dquery = p.dkey = p.dvalue = p.out;
  for (auto [k, end] = Op<Problem>::cpu(); k != end; ++k) list.push_back({Op<Problem>::name, k->name, k->supports(p)});
}

}  // namespace

const Kernel<AttentionForward>& choose(const AttentionForward& p, const Context& c) { return choose_kernel(p, c); }
const Kernel<AttentionBackward>& choose(const AttentionBackward& p, const Context& c) { return choose_kernel(p, c); }
std::vector<Candidate> candidates(const AttentionForward& p, const Context& c) { return all_candidates(p, c); }
std::vector<Candidate> candidates(const AttentionBackward& p, const Context& c) { return all_candidates(p, c); }

std::vector<KernelInfo> list_kernels() {
  std::vector<KernelInfo> list;
  append_kernels<AttentionForward>(list);
  append_kernels<AttentionBackward>(list);
  return list;
}

const char* version() { return SACCADE_VERSION; }

}  // namespace saccade
