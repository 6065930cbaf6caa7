// What the files of the emulated driver share.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "emulator.h"

namespace driver {

enum Result {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  NO_BINARY_FOR_GPU = 209,
  INVALID_PTX = 218,
  INVALID_HANDLE = 400,
  ILLEGAL_STATE = 401,
  NOT_FOUND = 500,
  NOT_READY = 600,
  CONTEXT_IS_DESTROYED = 709,
  LAUNCH_FAILED = 719,
  ALREADY_REGISTERED = 712,
  NOT_REGISTERED = 713,
  NOT_SUPPORTED = 801,
  CAPTURE_UNSUPPORTED = 900,
  CAPTURE_INVALIDATED = 901,
  CAPTURE_WRONG_THREAD = 908,
};

using Pointer = unsigned long long;

constexpr long DEVICE_BYTES = 8L << 30;

// The launches of a captured stream, in order; what runs them holds their arguments as they were.
using Graph = std::vector<std::function<void()>>;

using Clock = std::chrono::steady_clock;

struct Stream {
  bool capturing = false, invalidated = false;
  std::thread::id capturer;
  Graph captured;
};

// A moment in the stream that it was recorded in, if it was, and whether that was waited for.
struct Event {
  std::optional<Clock::time_point> at;
  Stream* stream = nullptr;
  bool waited = false;
};

// A loaded image, and the streams in which its kernels may still run.
struct Function;
struct Module {
  std::vector<std::unique_ptr<Function>> functions;
  std::set<Stream*> busy;
};
struct Function {
  const emulator::Kernel* kernel;
  Module* module;
};
inline std::set<Module*> modules;

inline std::recursive_mutex guard;
inline std::unordered_map<std::thread::id, int> captures;  // of the thread that forbid it calls like cuMemAlloc
inline bool ready = false;
inline std::map<std::string, std::string> plan;
inline std::unordered_map<Pointer, std::size_t> allocations;
inline std::set<void*> pinned;
inline std::set<Event*> events;
inline std::set<Graph*> made;  // graphs, and what is made of them to be launched
inline std::size_t used = 0;
inline std::size_t peak = 0;
// What is registered: how many bytes from where on, and where the device finds them.
inline std::map<const char*, std::pair<std::size_t, void*>> registered;
inline long launches = 0, registrations = 0, allocated = 0, instantiated = 0, uploaded = 0, graphs = 0;
inline bool failed = false;
inline long retained = 0;  // of the one context
inline thread_local bool has_context = false;

inline long planned(const char* what, long otherwise) {
  const auto found = plan.find(what);
  return found == plan.end() ? otherwise : std::stol(found->second);
}

inline struct Counts {
  ~Counts() {
    if (planned("count", 0) != 0) std::printf("outcome: launches %ld, graphs %ld, peak %zu, registered %zu\n", launches, graphs, peak, registered.size());
  }
} counts;

// What every call but the first few answers before it does anything.
inline Result state() {
  if (!ready) return NOT_INITIALIZED;
  if (!has_context) return INVALID_CONTEXT;
  if (retained == 0) return CONTEXT_IS_DESTROYED;
  return failed ? LAUNCH_FAILED : SUCCESS;
}

// Where a stream is captured, a call that a graph does not hold spoils the capture. Stricter than a driver: copies too.
inline Result outside_capture(void* handle) {
  Stream& stream = *static_cast<Stream*>(handle);
  if (!stream.capturing) return SUCCESS;
  stream.invalidated = true;
  return CAPTURE_UNSUPPORTED;
}

// Calls that may wait for other work are refused in a thread that captures, and spoil what it captures.
inline std::vector<Stream*> streams;
inline Result safe_to_call() {
  if (captures[std::this_thread::get_id()] == 0) return SUCCESS;
  for (Stream* const stream : streams) stream->invalidated |= stream->capturer == std::this_thread::get_id();
  return CAPTURE_UNSUPPORTED;
}

}  // namespace driver

#define LOCKED const std::lock_guard<std::recursive_mutex> lock(guard)
// What frees something does so after a failure too.
#define FREES \
  LOCKED;     \
  if (!has_context) return INVALID_CONTEXT
#define NEEDS_CONTEXT                  \
  LOCKED;                              \
  if (const Result bad = state(); bad) return bad
