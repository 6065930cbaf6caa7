// Streams of the emulated driver, their events, what they capture, and graphs.
#include "driver.h"

using namespace driver;

extern "C" {

Result cuStreamCreate(void** stream, unsigned) {
  NEEDS_CONTEXT;
  streams.push_back(new Stream);
  *stream = streams.back();
  return SUCCESS;
}

Result cuStreamSynchronize(void* stream) {
  NEEDS_CONTEXT;
  if (const Result bad = outside_capture(stream); bad) return bad;
  for (Module* const module : modules) module->busy.erase(static_cast<Stream*>(stream));
  for (Event* const event : events) event->waited |= event->stream == stream;
  return SUCCESS;
}

Result cuStreamDestroy_v2(void* stream) {
  FREES;
  Stream* const own = static_cast<Stream*>(stream);
  if (own->capturing) --captures[own->capturer];
  std::erase(streams, own);
  delete own;
  return SUCCESS;
}

// What was put into the stream before has ended by then. An event that times nothing (flag 2) is not asked for.
Result cuEventCreate(void** event, unsigned flags) {
  NEEDS_CONTEXT;
  if (flags != 0) return INVALID_VALUE;
  *event = *events.insert(new Event).first;
  return SUCCESS;
}

Result cuEventRecord(void* event, void* stream) {
  NEEDS_CONTEXT;
  if (const Result bad = outside_capture(stream); bad) return bad;
  *static_cast<Event*>(event) = {Clock::now(), static_cast<Stream*>(stream), false};
  return SUCCESS;
}

Result cuEventElapsedTime(float* milliseconds, void* from, void* to) {
  NEEDS_CONTEXT;
  const Event &began = *static_cast<Event*>(from), &ended = *static_cast<Event*>(to);
  if (!began.at || !ended.at) return INVALID_HANDLE;
  if (!began.waited || !ended.waited) return NOT_READY;
  *milliseconds = std::chrono::duration<float, std::milli>(*ended.at - *began.at).count();
  return SUCCESS;
}

Result cuEventDestroy_v2(void* event) {
  FREES;
  Event* const own = static_cast<Event*>(event);
  if (events.erase(own) == 0) return INVALID_HANDLE;
  delete own;
  return SUCCESS;
}

// Modes 0, global, and 1, of this thread, forbid unsafe calls; 2, relaxed, does not. Other threads are not looked at.
Result cuStreamBeginCapture_v2(void* handle, int mode) {
  NEEDS_CONTEXT;
  if (planned("capture", 1) == 0) return NOT_SUPPORTED;
  Stream& stream = *static_cast<Stream*>(handle);
  if (stream.capturing || mode != 1) return stream.capturing ? ILLEGAL_STATE : INVALID_VALUE;
  stream.capturing = true;
  stream.invalidated = false;
  stream.capturer = std::this_thread::get_id();
  ++captures[stream.capturer];
  return SUCCESS;
}

Result cuStreamEndCapture(void* handle, void** graph) {
  NEEDS_CONTEXT;
  Stream& stream = *static_cast<Stream*>(handle);
  *graph = nullptr;
  if (!stream.capturing) return ILLEGAL_STATE;
  if (stream.capturer != std::this_thread::get_id()) return CAPTURE_WRONG_THREAD;
  stream.capturing = false;
  --captures[stream.capturer];
  Graph captured;
  captured.swap(stream.captured);
  if (stream.invalidated) return CAPTURE_INVALIDATED;
  *graph = *made.insert(new Graph(std::move(captured))).first;
  return SUCCESS;
}

Result cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long flags) {
  NEEDS_CONTEXT;
  if (const Result bad = safe_to_call(); bad) return bad;
  if (graph == nullptr || flags != 0) return INVALID_VALUE;
  const auto size = static_cast<std::size_t>(planned("graph_bytes", 0));
  if (++instantiated == planned("instantiate", 0)) return OUT_OF_MEMORY;
  if (size > static_cast<std::size_t>(planned("memory", DEVICE_BYTES)) - used) return OUT_OF_MEMORY;
  *exec = *made.insert(new Graph(*static_cast<Graph*>(graph))).first;
  used += size;
  peak = std::max(peak, used);
  return SUCCESS;
}

Result cuGraphDestroy(void* graph) {
  FREES;
  Graph* const own = static_cast<Graph*>(graph);
  if (made.erase(own) == 0) return INVALID_VALUE;
  delete own;
  return SUCCESS;
}

Result cuGraphExecDestroy(void* exec) {
  LOCKED;
  const Result done = cuGraphDestroy(exec);
  if (done == SUCCESS) used -= static_cast<std::size_t>(planned("graph_bytes", 0));
  return done;
}

Result cuGraphUpload(void*, void* stream) {
  NEEDS_CONTEXT;
  if (const Result bad = outside_capture(stream); bad) return bad;
  return ++uploaded == planned("upload", 0) ? OUT_OF_MEMORY : SUCCESS;
}

Result cuGraphLaunch(void* exec, void* stream) {
  NEEDS_CONTEXT;
  if (const Result bad = outside_capture(stream); bad) return bad;
  if (++graphs == planned("graph", 0)) {
    failed = true;
    return LAUNCH_FAILED;
  }
  if (graphs == planned("graph_memory", 0) || planned("graphs", 1) == 0) return OUT_OF_MEMORY;
  for (const auto& launch : *static_cast<Graph*>(exec)) launch();
  return SUCCESS;
}

}  // extern "C"
