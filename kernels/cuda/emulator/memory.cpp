// Memory of the emulated device: allocations, what of the host is registered, copies.
#include "driver.h"

#include <sys/mman.h>

using namespace driver;

// Whether `len` bytes from `at` on are inside one allocation.
static bool inside(Pointer at, std::size_t len) {
  for (const auto& [start, size] : allocations) {
    if (at >= start && at - start <= size && len <= size - (at - start)) return true;
  }
  return false;
}

extern "C" {

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
  void* const memory = emulator::allocate(size);
  if (memory == nullptr) return OUT_OF_MEMORY;
  std::memset(memory, 0xff, size);  // fresh memory holds NaN
  *out = reinterpret_cast<Pointer>(memory);
  allocations[*out] = size;
  used += size;
  peak = std::max(peak, used);
  return SUCCESS;
}

Result cuMemFree_v2(Pointer memory) {
  FREES;
  if (const Result bad = safe_to_call(); bad) return bad;
  const auto found = allocations.find(memory);
  if (found == allocations.end()) return INVALID_VALUE;
  used -= found->second;
  emulator::release(reinterpret_cast<void*>(memory), found->second);
  allocations.erase(found);
  return failed ? LAUNCH_FAILED : SUCCESS;
}

Result cuMemAllocHost_v2(void** out, std::size_t size) {
  NEEDS_CONTEXT;
  *out = std::malloc(size);
  if (*out == nullptr) return OUT_OF_MEMORY;
  pinned.insert(*out);
  return SUCCESS;
}

Result cuMemHostAlloc(void** out, std::size_t size, unsigned) { return cuMemAllocHost_v2(out, size); }

Result cuMemFreeHost(void* memory) {
  FREES;
  if (pinned.erase(memory) == 0) return INVALID_VALUE;
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
  FREES;
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

}  // extern "C"
