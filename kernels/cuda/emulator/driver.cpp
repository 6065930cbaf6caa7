// A libcuda.so.1 without a device: what the backend calls of the driver, on the emulator.
//
// MUSE_EMULATOR says what goes wrong, read by cuInit, as words: `devices=0`, `driver=11040` (its version), `sm=75`, `ptx=0` (none is compiled),
// `memory=BYTES` (of the device), `integrated=0` (memory of its own), `register=0` and `read_only=0` (no memory of others is
// registered, or none that is mapped read-only), `registration=N` (the N-th is refused), `shared_bytes=0` (are others),
// `allocation=N` (the N-th is refused), `missing=NAME` (a kernel), `launch=N` (the N-th launch and all calls after it
// fail), `capture=0` (no stream can be captured), `instantiate=N` and `upload=N` (the N-th is refused), `graph=N` (the N-th launch of a
// graph and all calls after it fail), `graph_memory=N` (the N-th has no memory; others go on), `graphs=0` (none has),
// `graph_bytes=BYTES` (a graph takes of the device), `count=1` (says at the end what was launched).
#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include <sys/mman.h>

#include "../module.cu"

namespace {

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
using Event = std::optional<Clock::time_point>;

struct Stream {
  bool capturing = false, invalidated = false;
  std::thread::id capturer;
  Graph captured;
};

std::recursive_mutex guard;
std::unordered_map<std::thread::id, int> captures;  // of the thread that forbid it calls like cuMemAlloc
bool ready = false;
std::map<std::string, std::string> plan;
std::unordered_map<Pointer, std::size_t> allocations;
std::size_t used = 0;
std::size_t peak = 0;
// What is registered: how many bytes from where on, and where the device finds them.
std::map<const char*, std::pair<std::size_t, void*>> registered;
long launches = 0, registrations = 0, allocated = 0, instantiated = 0, uploaded = 0, graphs = 0;
bool failed = false;
thread_local bool has_context = false;

long planned(const char* what, long otherwise) {
  const auto found = plan.find(what);
  return found == plan.end() ? otherwise : std::stol(found->second);
}

struct Counts {
  ~Counts() {
    if (planned("count", 0) != 0) std::printf("outcome: launches %ld, graphs %ld, peak %zu, registered %zu\n", launches, graphs, peak, registered.size());
  }
} counts;

// What every call but the first few answers before it does anything.
Result state() {
  if (!ready) return NOT_INITIALIZED;
  if (!has_context) return INVALID_CONTEXT;
  return failed ? LAUNCH_FAILED : SUCCESS;
}

// Where a stream is captured, a call that a graph does not hold spoils the capture. Stricter than a driver: copies too.
Result outside_capture(void* handle) {
  Stream& stream = *static_cast<Stream*>(handle);
  if (!stream.capturing) return SUCCESS;
  stream.invalidated = true;
  return CAPTURE_UNSUPPORTED;
}

// Calls that may wait for other work are refused in a thread that captures, and spoil what it captures.
std::vector<Stream*> streams;
Result safe_to_call() {
  if (captures[std::this_thread::get_id()] == 0) return SUCCESS;
  for (Stream* const stream : streams) stream->invalidated |= stream->capturer == std::this_thread::get_id();
  return CAPTURE_UNSUPPORTED;
}

// Whether `len` bytes from `at` on are inside one allocation.
bool inside(Pointer at, std::size_t len) {
  for (const auto& [start, size] : allocations) {
    if (at >= start && at - start <= size && len <= size - (at - start)) return true;
  }
  return false;
}

const std::unordered_map<std::string, emulator::Kernel>& kernels() {
  using emulator::kernel;
  using namespace prompt;
#define K(name) {#name, kernel(name)}
  static const std::unordered_map<std::string, emulator::Kernel> all = {
      K(attention_f32_4), K(attention_f16_4), K(attention_int8_4), K(attention_int8_int4_4), K(attention_int4_4),
      K(attention_f32_8), K(attention_f16_8), K(attention_int8_8), K(attention_int8_int4_8), K(attention_int4_8),
      K(attention_merge), K(best_of_parts), K(best_of_rows),
      K(attention_prompt_f16_128), K(attention_prompt_f16_256), K(attention_prompt_packed_128), K(attention_prompt_packed_256),
      K(index_scores_f32), K(index_scores_f16), K(index_scores_int8), K(choose_best),
      K(clip), K(convolve), K(convolve_causal), K(pass_on), K(delta_prepare), K(delta_rule), K(delta_settle),
      K(heads_f32), K(heads_f16), K(heads_bf16), K(heads_q8), K(heads_q4), K(heads_q4_asym), K(heads_q4_codebook),
      K(quantize_heads),
      K(glu), K(add), K(scale_and_cap), K(gather),
      K(activate), K(multiply_rows), K(gate_rows), K(scatter), K(join), K(mean), K(temper), K(layer_norm),
      K(rope_axes), K(rope_2d), K(store_int8_int4), K(store_int4),
      K(embed_f32), K(embed_f16), K(embed_bf16), K(embed_q8), K(embed_q4), K(embed_q4_asym), K(embed_q4_codebook),
      K(route), K(sort_choices), K(weigh), K(scaled_norm), K(combine),
      K(matmul_f32_few), K(matmul_f16_few), K(matmul_bf16_few), K(matmul_f16_prompt), K(matmul_bf16_prompt),
      K(matmul_q8_few), K(matmul_q4_few), K(matmul_q4_asym_few), K(matmul_q4_codebook_few),
      K(matmul_q8_prompt), K(matmul_q4_prompt), K(matmul_q4_asym_prompt), K(matmul_q4_codebook_prompt),
      K(probe_read), K(probe_half), K(probe_bytes),
      K(quantize), K(rms_norm), K(rope), K(store_f32), K(store_f16), K(store_int8),
  };
#undef K
  return all;
}

}  // namespace

#define LOCKED const std::lock_guard<std::recursive_mutex> lock(guard)
#define NEEDS_CONTEXT                  \
  LOCKED;                              \
  if (const Result bad = state(); bad) return bad

extern "C" {

Result cuDriverGetVersion(int* version) {
  LOCKED;
  const char* const words = std::getenv("MUSE_EMULATOR");
  std::istringstream stream(words == nullptr ? "" : words);
  plan.clear();
  for (std::string word; stream >> word;) {
    const auto equals = word.find('=');
    if (equals == std::string::npos) emulator::fail("MUSE_EMULATOR has the word '%s'", word.c_str());
    plan[word.substr(0, equals)] = word.substr(equals + 1);
  }
  *version = static_cast<int>(planned("driver", 12060));
  return SUCCESS;
}

Result cuInit(unsigned) {
  LOCKED;
  int version;
  cuDriverGetVersion(&version);
  if (planned("devices", 1) == 0) return NO_DEVICE;
  ready = true;
  return SUCCESS;
}

Result cuDeviceGetCount(int* count) {
  LOCKED;
  if (!ready) return NOT_INITIALIZED;
  *count = 1;
  return SUCCESS;
}

Result cuDeviceGet(int* device, int ordinal) {
  LOCKED;
  if (!ready) return NOT_INITIALIZED;
  *device = 0;
  return ordinal == 0 ? SUCCESS : INVALID_DEVICE;
}

Result cuDeviceGetName(char* name, int size, int) {
  std::snprintf(name, static_cast<std::size_t>(size), "emulated");
  return SUCCESS;
}

Result cuDeviceGetAttribute(int* value, int attribute, int) {
  const int sm = static_cast<int>(planned("sm", 87));
  switch (attribute) {
    case 16: *value = 8; break;
    case 18: *value = static_cast<int>(planned("integrated", 1)); break;
    case 75: *value = sm / 10; break;
    case 76: *value = sm % 10; break;
    case 99: *value = static_cast<int>(planned("register", 1)); break;
    case 113: *value = static_cast<int>(planned("read_only", 1)); break;
    default: return INVALID_VALUE;
  }
  return SUCCESS;
}

Result cuDevicePrimaryCtxRetain(void** context, int) {
  LOCKED;
  if (!ready) return NOT_INITIALIZED;
  *context = &guard;
  return SUCCESS;
}

Result cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }

Result cuCtxSetCurrent(void* context) {
  has_context = context == &guard;
  return SUCCESS;
}

// What is a cubin, an ELF file, says which GPU it is for: 12.x's in the lowest byte of its flags, which are 48 bytes in;
// 13.x's, of a newer ABI that older drivers do not know, in the next one.
static Result takes_cubin(const unsigned char* elf) {
  unsigned flags;
  std::memcpy(&flags, elf + 48, sizeof flags);
  const bool newer = elf[8] > 7;
  if (newer && planned("driver", 12060) < 13000) return INVALID_IMAGE;
  const long own = (newer ? flags >> 8 : flags) & 0xff, sm = planned("sm", 87);
  const bool tegra = own == 87 || own == 110;
  if (own != sm && (tegra || own / 10 != sm / 10 || own > sm)) return NO_BINARY_FOR_GPU;
  const char* const forced = std::getenv("CUDA_FORCE_PTX_JIT");  // as a driver's own
  return forced != nullptr && forced[0] == '1' ? NO_BINARY_FOR_GPU : SUCCESS;
}

// PTX is a text that says its version. Options 5 and 6 are where its compiler says what is wrong, and how long that may be.
Result cuModuleLoadDataEx(void** module, const void* image, unsigned count, const int* options, void** values) {
  NEEDS_CONTEXT;
  if (std::memcmp(image, "\x7f" "ELF", 4) == 0) {
    if (const Result bad = takes_cubin(static_cast<const unsigned char*>(image)); bad) return bad;
  } else {
    if (std::strstr(static_cast<const char*>(image), ".version") == nullptr) return INVALID_IMAGE;
    if (planned("ptx", 1) == 0) {
      if (count != 2 || options[0] != 5 || options[1] != 6) return INVALID_VALUE;
      std::snprintf(static_cast<char*>(values[0]), reinterpret_cast<std::size_t>(values[1]), "ptxas error\n  : no");
      return INVALID_PTX;
    }
  }
  *module = &plan;
  return SUCCESS;
}

Result cuModuleUnload(void*) { return SUCCESS; }

Result cuModuleGetFunction(void** function, void*, const char* name) {
  NEEDS_CONTEXT;
  const auto found = kernels().find(name);
  const auto missing = plan.find("missing");
  if (found == kernels().end() || (missing != plan.end() && missing->second == name)) return NOT_FOUND;
  *function = const_cast<emulator::Kernel*>(&found->second);
  return SUCCESS;
}

Result cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  NEEDS_CONTEXT;
  *total = static_cast<std::size_t>(planned("memory", DEVICE_BYTES));
  *free = *total - used;
  return SUCCESS;
}

Result cuMemAlloc_v2(Pointer* out, std::size_t size) {
  NEEDS_CONTEXT;
  if (const Result bad = safe_to_call(); bad) return bad;
  if (size == 0) return INVALID_VALUE;
  if (++allocated == planned("allocation", 0)) return OUT_OF_MEMORY;
  if (size > static_cast<std::size_t>(planned("memory", DEVICE_BYTES)) - used) return OUT_OF_MEMORY;
  // As the driver aligns, and no byte more, so that the address sanitizer sees what is outside.
  void* memory = nullptr;
  if (posix_memalign(&memory, 256, size) != 0) return OUT_OF_MEMORY;
  std::memset(memory, 0xff, size);  // fresh memory holds NaN
  *out = reinterpret_cast<Pointer>(memory);
  allocations[*out] = size;
  used += size;
  peak = std::max(peak, used);
  return SUCCESS;
}

Result cuMemFree_v2(Pointer memory) {
  LOCKED;
  if (const Result bad = safe_to_call(); bad) return bad;
  const auto found = allocations.find(memory);
  if (found == allocations.end()) return INVALID_VALUE;
  used -= found->second;
  allocations.erase(found);
  std::free(reinterpret_cast<void*>(memory));
  return failed ? LAUNCH_FAILED : SUCCESS;
}

Result cuMemAllocHost_v2(void** out, std::size_t size) {
  NEEDS_CONTEXT;
  *out = std::malloc(size);
  return *out == nullptr ? OUT_OF_MEMORY : SUCCESS;
}

Result cuMemHostAlloc(void** out, std::size_t size, unsigned) { return cuMemAllocHost_v2(out, size); }

Result cuMemFreeHost(void* memory) {
  std::free(memory);
  return SUCCESS;
}

// Whether a mapping may be written, as the kernel says.
static bool writable(const void* at) {
  std::FILE* const maps = std::fopen("/proc/self/maps", "r");
  unsigned long long from, to;
  char mode[8];
  bool found = false;
  for (char line[512]; maps != nullptr && std::fgets(line, sizeof line, maps) != nullptr;) {
    if (std::sscanf(line, "%llx-%llx %7s", &from, &to, mode) != 3) continue;
    const auto own = reinterpret_cast<unsigned long long>(at);
    if (own >= from && own < to) found = mode[1] == 'w';
  }
  if (maps != nullptr) std::fclose(maps);
  return found;
}

// Flags 2, an address on the device, and 8, of memory that is only read. The device finds the same pages elsewhere, as a
// driver may say, so that nothing reads them by the host's address.
Result cuMemHostRegister_v2(void* host, std::size_t size, unsigned flags) {
  NEEDS_CONTEXT;
  if (const Result bad = safe_to_call(); bad) return bad;
  const bool reads = (flags & 8u) != 0;
  if (planned("register", 1) == 0 || (reads && planned("read_only", 1) == 0)) return NOT_SUPPORTED;
  if (size == 0 || (flags & ~15u) != 0 || (!reads && !writable(host))) return INVALID_VALUE;
  const char* const at = static_cast<const char*>(host);
  for (const auto& [start, piece] : registered) {
    if (at < start + piece.first && start < at + size) return ALREADY_REGISTERED;
  }
  if (++registrations == planned("registration", 0)) return OUT_OF_MEMORY;
  void* device = nullptr;
  if (planned("shared_bytes", 1) == 0) {
    device = mmap(nullptr, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  } else {
    device = mremap(host, 0, size, MREMAP_MAYMOVE);  // of a shared mapping: the same pages once more
  }
  if (device == MAP_FAILED) return INVALID_VALUE;
  registered[at] = {size, device};
  return SUCCESS;
}

Result cuMemHostGetDevicePointer_v2(Pointer* out, void* host, unsigned flags) {
  NEEDS_CONTEXT;
  const auto found = registered.find(static_cast<const char*>(host));
  if (found == registered.end() || flags != 0) return INVALID_VALUE;
  *out = reinterpret_cast<Pointer>(found->second.second);
  return SUCCESS;
}

Result cuMemHostUnregister(void* host) {
  LOCKED;
  if (const Result bad = safe_to_call(); bad) return bad;
  const auto found = registered.find(static_cast<const char*>(host));
  if (found == registered.end()) return NOT_REGISTERED;
  munmap(found->second.second, found->second.first);
  registered.erase(found);
  return failed ? LAUNCH_FAILED : SUCCESS;
}

Result cuMemcpyHtoDAsync_v2(Pointer to, const void* from, std::size_t size, void* stream) {
  NEEDS_CONTEXT;
  if (const Result bad = outside_capture(stream); bad) return bad;
  if (!inside(to, size)) return INVALID_VALUE;
  std::memcpy(reinterpret_cast<void*>(to), from, size);
  return SUCCESS;
}

Result cuMemcpyDtoHAsync_v2(void* to, Pointer from, std::size_t size, void* stream) {
  NEEDS_CONTEXT;
  if (const Result bad = outside_capture(stream); bad) return bad;
  if (!inside(from, size)) return INVALID_VALUE;
  std::memcpy(to, reinterpret_cast<const void*>(from), size);
  return SUCCESS;
}

Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, std::size_t size, void* stream) {
  NEEDS_CONTEXT;
  if (const Result bad = outside_capture(stream); bad) return bad;
  if (!inside(to, size) || !inside(from, size)) return INVALID_VALUE;
  std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), size);
  return SUCCESS;
}

Result cuMemsetD8Async(Pointer to, unsigned char value, std::size_t size, void* stream) {
  NEEDS_CONTEXT;
  if (const Result bad = outside_capture(stream); bad) return bad;
  if (!inside(to, size)) return INVALID_VALUE;
  std::memset(reinterpret_cast<void*>(to), value, size);
  return SUCCESS;
}

Result cuStreamCreate(void** stream, unsigned) {
  NEEDS_CONTEXT;
  streams.push_back(new Stream);
  *stream = streams.back();
  return SUCCESS;
}

Result cuStreamSynchronize(void* stream) {
  NEEDS_CONTEXT;
  return outside_capture(stream);
}

Result cuStreamDestroy_v2(void* stream) {
  LOCKED;
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
  *event = new Event;
  return SUCCESS;
}

Result cuEventRecord(void* event, void* stream) {
  NEEDS_CONTEXT;
  if (const Result bad = outside_capture(stream); bad) return bad;
  *static_cast<Event*>(event) = Clock::now();
  return SUCCESS;
}

Result cuEventElapsedTime(float* milliseconds, void* from, void* to) {
  NEEDS_CONTEXT;
  const Event began = *static_cast<Event*>(from), ended = *static_cast<Event*>(to);
  if (!began || !ended) return INVALID_HANDLE;
  *milliseconds = std::chrono::duration<float, std::milli>(*ended - *began).count();
  return SUCCESS;
}

Result cuEventDestroy_v2(void* event) {
  delete static_cast<Event*>(event);
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
  *graph = new Graph(std::move(captured));
  return SUCCESS;
}

Result cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long flags) {
  NEEDS_CONTEXT;
  if (const Result bad = safe_to_call(); bad) return bad;
  if (graph == nullptr || flags != 0) return INVALID_VALUE;
  const auto size = static_cast<std::size_t>(planned("graph_bytes", 0));
  if (++instantiated == planned("instantiate", 0)) return OUT_OF_MEMORY;
  if (size > static_cast<std::size_t>(planned("memory", DEVICE_BYTES)) - used) return OUT_OF_MEMORY;
  *exec = new Graph(*static_cast<Graph*>(graph));
  used += size;
  peak = std::max(peak, used);
  return SUCCESS;
}

Result cuGraphDestroy(void* graph) {
  LOCKED;
  delete static_cast<Graph*>(graph);
  return SUCCESS;
}

Result cuGraphExecDestroy(void* exec) {
  LOCKED;
  used -= static_cast<std::size_t>(planned("graph_bytes", 0));
  return cuGraphDestroy(exec);
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

Result cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                      unsigned block_y, unsigned block_z, unsigned shared, void* handle, void** arguments, void**) {
  NEEDS_CONTEXT;
  const bool too_large = grid_x > 0x7fffffffu || grid_y > 65535 || grid_z != 1 || block_x > 1024 || block_y != 1 || block_z != 1;
  if (too_large || grid_x == 0 || grid_y == 0 || block_x == 0 || shared != 0) return INVALID_VALUE;
  const auto launch = (*static_cast<const emulator::Kernel*>(function))({grid_x, grid_y, 1}, {block_x, 1, 1}, arguments);
  if (Stream& stream = *static_cast<Stream*>(handle); stream.capturing) {
    stream.captured.push_back(launch);
    return SUCCESS;
  }
  if (++launches == planned("launch", 0)) {
    failed = true;
    return LAUNCH_FAILED;
  }
  launch();
  return SUCCESS;
}

Result cuGetErrorName(Result error, const char** name) {
  switch (error) {
    case SUCCESS: *name = "CUDA_SUCCESS"; break;
    case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
    case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case NOT_INITIALIZED: *name = "CUDA_ERROR_NOT_INITIALIZED"; break;
    case NO_DEVICE: *name = "CUDA_ERROR_NO_DEVICE"; break;
    case INVALID_DEVICE: *name = "CUDA_ERROR_INVALID_DEVICE"; break;
    case INVALID_IMAGE: *name = "CUDA_ERROR_INVALID_IMAGE"; break;
    case INVALID_CONTEXT: *name = "CUDA_ERROR_INVALID_CONTEXT"; break;
    case INVALID_PTX: *name = "CUDA_ERROR_INVALID_PTX"; break;
    case NO_BINARY_FOR_GPU: *name = "CUDA_ERROR_NO_BINARY_FOR_GPU"; break;
    case INVALID_HANDLE: *name = "CUDA_ERROR_INVALID_HANDLE"; break;
    case ILLEGAL_STATE: *name = "CUDA_ERROR_ILLEGAL_STATE"; break;
    case ALREADY_REGISTERED: *name = "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED"; break;
    case NOT_REGISTERED: *name = "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED"; break;
    case NOT_SUPPORTED: *name = "CUDA_ERROR_NOT_SUPPORTED"; break;
    case CAPTURE_UNSUPPORTED: *name = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"; break;
    case CAPTURE_INVALIDATED: *name = "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"; break;
    case CAPTURE_WRONG_THREAD: *name = "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD"; break;
    case NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; break;
    case LAUNCH_FAILED: *name = "CUDA_ERROR_LAUNCH_FAILED"; break;
    default: return INVALID_VALUE;
  }
  return SUCCESS;
}

}  // extern "C"
