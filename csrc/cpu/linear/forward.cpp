#include "cpu/linear/scan.h"

namespace saccade::cpu::SACCADE_ISA {
namespace {

ScanPlan plan_of(Arena& a, const LinearForward& p, int threads) {
  const Tokens n(p);
  return ScanPlan::make(a, p, 1, n.features, n.features * Scan::state_ld(n.columns), threads);
}

}  // namespace

int64_t linear_workspace(const LinearForward& p, int threads) {
  Arena a{nullptr};
  plan_of(a, p, threads);
  return a.used;
}

void linear(const LinearForward& p, const Context& context, void* workspace) {
  Arena a{static_cast<char*>(workspace)};
  const ScanPlan plan = plan_of(a, p, context.threads);
  const Tokens& n = plan.tokens;
  const LoadRow load = loader(p.query.dtype);
  const int64_t size = dtype_size(p.query.dtype);
  const StoreRow store = storer(p.query.dtype);
  run_scans(plan, context, [&](int, int64_t b, int64_t h) {
    Scan s{};
    s.d = n.features, s.e = n.columns;
    s.query = {n.rows(p.query, b, h), n.dim, n.dim, static_cast<float>(p.scale), load, size};
    s.key = {n.rows(p.key, b, h), n.dim, n.dim, 1, load, size};
    if (p.feature == LinearFeature::taylor2)
      s.query.expand(math::Taylor2::of_query(s.query.scale)), s.key.expand(math::Taylor2::of_key());
    s.value = {n.rows(p.value, b, h), n.value_dim, n.columns, 1, load, size};
    s.out = {n.rows(p.out, b, h), n.value_dim, store, size, p.normalize, static_cast<float>(p.epsilon)};
    s.decay = decay_of(n, p.log_decay, b, h);
    s.initial = p.initial_state, s.final = p.final_state;
    return s;
  });
}

}  // namespace saccade::cpu::SACCADE_ISA
