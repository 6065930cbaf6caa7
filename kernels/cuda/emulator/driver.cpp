// A libcuda.so.1 without a device: what the backend calls of the driver, on the emulator.
//
// MUSE_EMULATOR says what goes wrong, read by cuInit, as words: `devices=0`, `driver=11040` (its version), `sm=75`, `ptx=0` (none is compiled),
// `memory=BYTES` (of the device), `integrated=0` (memory of its own), `register=0` and `read_only=0` (no memory of others is
// registered, or none that is mapped read-only), `registration=N` (the N-th is refused), `shared_bytes=0` (are others),
// `allocation=N` (the N-th is refused), `missing=NAME` (a kernel), `launch=N` (the N-th launch and all calls after it
// fail), `capture=0` (no stream can be captured), `instantiate=N` and `upload=N` (the N-th is refused), `graph=N` (the N-th launch of a
// graph and all calls after it fail), `graph_memory=N` (the N-th has no memory; others go on), `graphs=0` (none has),
// `graph_bytes=BYTES` (a graph takes of the device), `count=1` (says at the end what was launched).
#include "driver.h"

#include <algorithm>
#include <sstream>

using namespace driver;

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
  ++retained;
  *context = &guard;
  return SUCCESS;
}

// With the last of it goes all that was made in it, which by then nobody should hold.
Result cuDevicePrimaryCtxRelease_v2(int) {
  LOCKED;
  if (retained == 0) return INVALID_CONTEXT;
  const std::size_t left[] = {allocations.size(), pinned.size(), registered.size(), modules.size(), streams.size(), events.size(), made.size()};
  if (--retained == 0 && !failed && std::ranges::any_of(left, [](std::size_t count) { return count > 0; })) {
    emulator::fail("the context is left with %zu allocations, %zu pinned, %zu registrations, %zu modules, %zu streams, %zu events and %zu graphs",
                   left[0], left[1], left[2], left[3], left[4], left[5], left[6]);
  }
  return SUCCESS;
}

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
  *module = *modules.insert(new Module).first;
  return SUCCESS;
}

// What becomes of kernels that run is not documented, so none may.
Result cuModuleUnload(void* handle) {
  FREES;
  Module* const module = static_cast<Module*>(handle);
  if (!module->busy.empty() && !failed) emulator::fail("a module is unloaded whose kernels may still run");
  modules.erase(module);
  delete module;
  return SUCCESS;
}

Result cuModuleGetFunction(void** function, void* handle, const char* name) {
  NEEDS_CONTEXT;
  const auto found = emulator::kernels().find(name);
  const auto missing = plan.find("missing");
  if (found == emulator::kernels().end() || (missing != plan.end() && missing->second == name)) return NOT_FOUND;
  Module* const module = static_cast<Module*>(handle);
  module->functions.push_back(std::make_unique<Function>(&found->second, module));
  *function = module->functions.back().get();
  return SUCCESS;
}

Result cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                      unsigned block_y, unsigned block_z, unsigned shared, void* handle, void** arguments, void**) {
  NEEDS_CONTEXT;
  const bool too_large = grid_x > 0x7fffffffu || grid_y > 65535 || grid_z != 1 || block_x > 1024 || block_y != 1 || block_z != 1;
  if (too_large || grid_x == 0 || grid_y == 0 || block_x == 0 || shared != 0) return INVALID_VALUE;
  const Function& own = *static_cast<const Function*>(function);
  Stream& stream = *static_cast<Stream*>(handle);
  const auto run = (*own.kernel)({grid_x, grid_y, 1}, {block_x, 1, 1}, arguments);
  const auto launch = [run, module = own.module, &stream] {
    module->busy.insert(&stream);
    run();
  };
  if (stream.capturing) {
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
    case CONTEXT_IS_DESTROYED: *name = "CUDA_ERROR_CONTEXT_IS_DESTROYED"; break;
    case NOT_READY: *name = "CUDA_ERROR_NOT_READY"; break;
    case NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; break;
    case LAUNCH_FAILED: *name = "CUDA_ERROR_LAUNCH_FAILED"; break;
    default: return INVALID_VALUE;
  }
  return SUCCESS;
}


}  // extern "C"
