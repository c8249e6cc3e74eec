#include "cuda/sm80/linear/scan.h"

#include "cuda/sm80/attention/dims.h"

namespace saccade::cuda {

Scans::Scans(const Device& device, Arena& arena, DType type, Queue* queue)
    : device_(device), arena_(arena), type_(type), queue_(queue), most_(arena.used) {}

void Scans::run(ScanParams p) {
  const auto launch = [&](const ScanParams& s) {
    if (queue_) with_operand(type_, [&]<class T>(T) { Scan<T>::launch(*queue_, s); });
  };
  const int64_t heads = p.batch * p.heads, slices = (p.columns + kSlice - 1) / kSlice;
  if (!p.global && (p.tokens <= kSegment || heads * slices >= 2 * device_.processors)) return launch(p);
  Arena arena = arena_;
  const int64_t places = piece_count(p, p.tokens, kSegment), size = int64_t{p.state_rows()} * p.columns;
  LinkParams link{p, {}};
  link.states.at = {reinterpret_cast<char*>(arena.take<float>(places * p.heads * size)), 0, size, p.columns, 1};
  link.states.place = p.heads * size;
  link.scan.lambda = arena.take<float>(places * p.heads * p.lambdas());
  if (arena.used > most_) most_ = arena.used;
  if (!queue_) return;

  ScanParams s = link.scan;
  s.segments = true;
  s.initial = {}, s.final = link.states, s.outputs = false;
  launch(s);
  launch_link(*queue_, link);
  s.initial = link.states, s.final = {}, s.outputs = p.outputs, s.lambda = nullptr;
  if (p.outputs) launch(s);
}

}  // namespace saccade::cuda
