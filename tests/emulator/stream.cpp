#include <chrono>
#include <set>

#include "cudart.h"

// Streams, events and graphs. A stream does its work at once, on the caller's thread; a capturing stream records it.
struct CUgraphNode_st {
  cudaGraphNodeType type;
  std::function<cudaError_t()> work;
};
struct CUgraph_st {  // in the order of issue, which satisfies every dependency
  std::vector<std::unique_ptr<CUgraphNode_st>> nodes;
  bool invalidated = false;
  CUstream_st* origin = nullptr;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
};
struct CUgraphExec_st {
  std::vector<CUgraphNode_st> nodes;
};
struct CUstream_st {
  unsigned flags = 0;
  int priority = 0;
  unsigned long long id = 0;
  CUgraph_st* capture = nullptr;
  bool joined = true;  // of a forked capture: the origin has waited for what was recorded last
};
struct CUevent_st {
  std::chrono::steady_clock::time_point when;
  unsigned flags = 0;
  bool recorded = false;
  CUgraph_st* capture = nullptr;
  CUstream_st* stream = nullptr;
};

namespace emu {
namespace {

struct Streams {
  CUstream_st legacy, per_thread;
  std::set<CUstream_st*> streams;
  std::set<CUevent_st*> events;
  std::set<CUgraph_st*> graphs, captures;
  std::set<CUgraphExec_st*> execs;
  unsigned long long next_id = 2;
};
Streams& all() {
  static Streams& s = *new Streams;
  return s;
}

CUstream_st* find(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy) return &all().legacy;
  if (handle == cudaStreamPerThread) return &all().per_thread;
  return all().streams.contains(handle) ? handle : nullptr;
}

cudaError_t invalidate_all(cudaError_t error) {
  for (CUgraph_st* capture : all().captures) capture->invalidated = true;
  return error;
}

template <class T>
auto* add(std::set<T*>& set) {
  return *set.insert(new T).first;
}
template <class T>
bool remove(std::set<T*>& set, T* one) {
  if (!set.erase(one)) return false;
  delete one;
  return true;
}

/// The call's lock, and its stream or an error.
template <class F>
cudaError_t on_stream(cudaStream_t handle, F f) {
  const Call entered;
  CUstream_st* stream = find(handle);
  return fail(stream ? f(*stream) : cudaErrorInvalidResourceHandle);
}
template <class F>
cudaError_t on_event(cudaEvent_t event, F f) {
  const Call entered;
  return fail(all().events.contains(event) ? f(*event) : cudaErrorInvalidResourceHandle);
}

}  // namespace

cudaError_t enqueue(cudaStream_t handle, cudaGraphNodeType type, std::function<cudaError_t()> work) {
  return on_stream(handle, [&](CUstream_st& stream) {
    if (CUgraph_st* graph = stream.capture) {
      if (graph->invalidated) return cudaErrorStreamCaptureInvalidated;
      graph->nodes.push_back(std::make_unique<CUgraphNode_st>(CUgraphNode_st{type, std::move(work)}));
      stream.joined = &stream == graph->origin;
      return cudaSuccess;
    }
    if (&stream == &all().legacy) {
      for (CUgraph_st* capture : all().captures) {
        if (!(capture->origin->flags & cudaStreamNonBlocking)) {
          note("work on the default stream while another stream captures");
          return invalidate_all(cudaErrorStreamCaptureImplicit);
        }
      }
    }
    return work();
  });
}

cudaError_t refuse_in_capture(const char* call) {
  for (CUgraph_st* capture : all().captures) {
    if (capture->mode != cudaStreamCaptureModeRelaxed) {
      note(std::string(call) + " while a stream captures");
      return invalidate_all(cudaErrorStreamCaptureUnsupported);
    }
  }
  return cudaSuccess;
}

}  // namespace emu

using namespace emu;

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* out, unsigned flags, int priority) {
  const Call entered;
  if (!out || flags > cudaStreamNonBlocking) return fail(cudaErrorInvalidValue);
  *out = add(all().streams);
  (*out)->flags = flags;
  (*out)->priority = priority;
  (*out)->id = ++all().next_id;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned flags) {
  return cudaStreamCreateWithPriority(out, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t* out) { return cudaStreamCreateWithPriority(out, cudaStreamDefault, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Call entered;
  if (!all().streams.contains(stream)) return fail(cudaErrorInvalidResourceHandle);
  if (CUgraph_st* graph = stream->capture) {
    graph->invalidated = true;
    if (graph->origin == stream) graph->origin = &all().legacy;  // nobody can end it any more
  }
  remove(all().streams, stream);
  return cudaSuccess;
}
cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
  return on_stream(stream, [&](CUstream_st& s) { return *priority = s.priority, cudaSuccess; });
}
cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned* flags) {
  return on_stream(stream, [&](CUstream_st& s) { return *flags = s.flags, cudaSuccess; });
}
cudaError_t cudaStreamGetId(cudaStream_t stream, unsigned long long* id) {
  return on_stream(stream, [&](CUstream_st& s) { return *id = s.id, cudaSuccess; });
}
cudaError_t cudaStreamGetDevice(cudaStream_t stream, int* device) {
  return on_stream(stream, [&](CUstream_st&) { return *device = 0, cudaSuccess; });
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return on_stream(stream, [&](CUstream_st& s) {
    if (s.capture) {
      note("cudaStreamSynchronize of a capturing stream");
      return s.capture->invalidated = true, cudaErrorStreamCaptureUnsupported;
    }
    return cudaPeekAtLastError() == cudaErrorLaunchFailure ? cudaErrorLaunchFailure : cudaSuccess;
  });
}
cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
cudaError_t cudaDeviceSynchronize() {
  const Call entered;
  if (const cudaError_t error = refuse_in_capture("cudaDeviceSynchronize")) return fail(error);
  return cudaPeekAtLastError() == cudaErrorLaunchFailure ? cudaErrorLaunchFailure : cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t f, void* data) {
  return enqueue(stream, cudaGraphNodeTypeHost, [=] { return f(data), cudaSuccess; });
}
cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t f, void* data, unsigned) {
  return on_stream(stream, [&](CUstream_st& s) {
    if (s.capture) return s.capture->invalidated = true, cudaErrorStreamCaptureUnsupported;
    return f(stream, cudaSuccess, data), cudaSuccess;
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* out, unsigned flags) {
  const Call entered;
  *out = add(all().events);
  (*out)->flags = flags;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* out) { return cudaEventCreateWithFlags(out, cudaEventDefault); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Call entered;
  return fail(remove(all().events, event) ? cudaSuccess : cudaErrorInvalidResourceHandle);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return on_event(event, [&](CUevent_st& e) {
    return on_stream(stream, [&](CUstream_st& s) {
      e.when = std::chrono::steady_clock::now();
      e.recorded = true;
      e.capture = s.capture;
      e.stream = &s;
      return cudaSuccess;
    });
  });
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return cudaEventRecord(event, stream);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return on_event(event, [](CUevent_st& e) { return e.capture ? cudaErrorCapturedEvent : cudaSuccess; });
}
cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaEventSynchronize(event); }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {  // of the emulation
  return on_event(start, [&](CUevent_st& a) {
    return on_event(end, [&](CUevent_st& b) {
      if (!a.recorded || !b.recorded || (a.flags | b.flags) & cudaEventDisableTiming)
        return cudaErrorInvalidResourceHandle;
      *ms = std::chrono::duration<float, std::milli>(b.when - a.when).count();
      return cudaSuccess;
    });
  });
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return on_event(event, [&](CUevent_st& e) {
    return on_stream(stream, [&](CUstream_st& s) {
      if (!e.capture || !all().captures.contains(e.capture)) {
        return s.capture ? cudaErrorStreamCaptureIsolation : cudaSuccess;  // a dependency from outside
      }
      if (s.capture && s.capture != e.capture) return cudaErrorStreamCaptureMerge;
      if (&s == e.capture->origin) e.stream->joined = true;
      s.capture = e.capture;
      return cudaSuccess;
    });
  });
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return on_stream(stream, [&](CUstream_st& s) {
    if (&s == &all().legacy) return cudaErrorStreamCaptureUnsupported;
    if (s.capture) return cudaErrorIllegalState;
    s.capture = *all().captures.insert(new CUgraph_st).first;
    s.capture->origin = &s;
    s.capture->mode = mode;
    return cudaSuccess;
  });
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* out) {
  return on_stream(stream, [&](CUstream_st& s) {
    CUgraph_st* graph = s.capture;
    *out = nullptr;
    if (!graph) return cudaErrorIllegalState;
    if (graph->origin != &s) return cudaErrorStreamCaptureUnmatched;
    bool joined = true;
    for (CUstream_st* other : all().streams) {
      if (other->capture != graph) continue;
      joined &= other->joined;
      other->capture = nullptr;
      other->joined = true;
    }
    all().per_thread.capture = all().per_thread.capture == graph ? nullptr : all().per_thread.capture;
    all().captures.erase(graph);
    if (graph->invalidated || !joined) {
      const cudaError_t error = graph->invalidated ? cudaErrorStreamCaptureInvalidated : cudaErrorStreamCaptureUnjoined;
      delete graph;
      return error;
    }
    all().graphs.insert(*out = graph);
    return cudaSuccess;
  });
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  return on_stream(stream, [&](CUstream_st& s) {
    *status = !s.capture               ? cudaStreamCaptureStatusNone
              : s.capture->invalidated ? cudaStreamCaptureStatusInvalidated
                                       : cudaStreamCaptureStatusActive;
    return cudaSuccess;
  });
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  thread_local cudaStreamCaptureMode current = cudaStreamCaptureModeGlobal;
  std::swap(current, *mode);
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
  const Call entered;
  if (!all().graphs.contains(graph)) return fail(cudaErrorInvalidValue);
  *out = add(all().execs);
  for (const auto& node : graph->nodes) (*out)->nodes.push_back(*node);
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long flags) {
  return cudaGraphInstantiateWithFlags(out, graph, flags);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  {
    const Call entered;
    if (!all().execs.contains(exec)) return fail(cudaErrorInvalidValue);
  }
  return enqueue(stream, cudaGraphNodeTypeGraph, [nodes = exec->nodes] {
    for (const CUgraphNode_st& node : nodes) {
      if (const cudaError_t error = node.work()) return error;
    }
    return cudaSuccess;
  });
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  const Call entered;
  return fail(remove(all().execs, exec) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const Call entered;
  return fail(remove(all().graphs, graph) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  const Call entered;
  if (!all().graphs.contains(graph)) return fail(cudaErrorInvalidValue);
  for (size_t i = 0; nodes && i < *count; ++i) nodes[i] = i < graph->nodes.size() ? graph->nodes[i].get() : nullptr;
  *count = graph->nodes.size();
  return cudaSuccess;
}
cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, cudaGraphNodeType* type) {
  return *type = node->type, cudaSuccess;
}
