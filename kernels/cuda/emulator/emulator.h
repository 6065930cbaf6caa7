// CUDA's C++ on a CPU: one fiber a thread, blocks one after another. Kernels compile as they are with EMULATOR defined.
//
// A fiber runs until it waits for its warp or its block. The program ends where a barrier is not reached by all that have not
// returned, or at different lines, and where a warp operation names a lane that does not take part in it. What is read and
// written without being ordered races.cpp finds, in a build with it. Nothing is said about speed or bank conflicts.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <source_location>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "races.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
// One block runs at a time, so all its fibers share one copy.
#define __shared__ static

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

namespace emulator {

// Kernels read these, which are none of the variables that `__shared__` makes: see races.cpp.
#define EMULATOR_STATE __attribute__((section("emulator_state")))
extern uint3 thread, block;
extern dim3 block_size, grid_size;

// Says what is wrong and where, and ends the program.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Where a kernel asks for what all of a block or of some lanes do together.
using Site = std::source_location;

void wait_for_block(Site site);
// `orders` says whether what the lanes did before is seen by all of them behind it: CUDA's guide promises it of `__syncwarp`
// alone, neither of shuffles and votes nor of products and loads of whole warps.
void wait_for_warp(unsigned lanes, Site site, bool orders = false);

// A place for each lane of this thread's warp. Whole warps get one of two in turn, so that they wait only before they read:
// who writes the next exchange's has read this one's by the time that anybody writes the same place again.
struct Place {
  std::uint64_t words[4];
};
Place* exchange_places(unsigned lanes);
// Waits until all of some lanes have read, where they are not the whole warp.
void leave_places(unsigned lanes, Site site);

// Copies that end only when they are waited for. Until then what they write holds 0xff, so that who reads it too soon, or
// overwrites what others still read, gets wrong numbers; a thread that returns with copies left ends the program.
void copy_later(void* to, const void* from, unsigned bytes);  // zeros from null
void end_copies();
void finish_copies(unsigned left);

// Memory of the device, at a multiple of 256 bytes; null where there is none.
void* allocate(std::size_t bytes);
void release(void* memory, std::size_t bytes);

// Runs `body` once for each thread of every block.
void run(dim3 grid, dim3 block, const std::function<void()>& body);

inline int lane() { return static_cast<int>(thread.x % 32); }

// What `source` lane gives as `value`.
template <typename T>
T exchange(unsigned lanes, T value, int source, Site site) {
  static_assert(sizeof(T) <= 8);
  Place* const places = exchange_places(lanes);
  std::memcpy(&places[lane()], &value, sizeof(T));
  wait_for_warp(lanes, site);
  if (!(lanes >> source & 1)) fail("lane %d reads lane %d, which mask %08x does not name", lane(), source, lanes);
  std::memcpy(&value, &places[source], sizeof(T));
  leave_places(lanes, site);
  return value;
}

// What each lane of a whole warp gives as `value`.
template <typename T>
void share(const T& value, T (&all)[32], Site site) {
  static_assert(sizeof(T) <= sizeof(Place));
  Place* const places = exchange_places(0xffffffffu);
  std::memcpy(&places[lane()], &value, sizeof(T));
  wait_for_warp(0xffffffffu, site);
  for (int i = 0; i < 32; ++i) std::memcpy(&all[i], &places[i], sizeof(T));
}

// A kernel as the driver starts it, or captures it: takes its arguments from where they lie, and gives what runs it.
using Kernel = std::function<std::function<void()>(dim3 grid, dim3 block, void** arguments)>;

template <typename... Arguments, std::size_t... I>
Kernel kernel(void (*function)(Arguments...), std::index_sequence<I...>) {
  return [function](dim3 grid, dim3 block, void** arguments) {
    const std::tuple<Arguments...> own(*static_cast<Arguments*>(arguments[I])...);
    return [=] { run(grid, block, [=] { std::apply(function, own); }); };
  };
}

template <typename... Arguments>
Kernel kernel(void (*function)(Arguments...)) {
  return kernel(function, std::index_sequence_for<Arguments...>{});
}

// Those of module.cu by their names: kernels.cpp.
const std::unordered_map<std::string, Kernel>& kernels();

}  // namespace emulator

#define threadIdx emulator::thread
#define blockIdx emulator::block
#define blockDim emulator::block_size
#define gridDim emulator::grid_size

inline void __syncthreads(emulator::Site site = emulator::Site::current()) { emulator::wait_for_block(site); }
inline void __syncwarp(unsigned lanes = 0xffffffffu, emulator::Site site = emulator::Site::current()) {
  if (lanes != 0xffffffffu) emulator::fail("a __syncwarp of lanes %08x", lanes);
  emulator::wait_for_warp(lanes, site, true);
}

template <typename T>
T __shfl_xor_sync(unsigned lanes, T value, int bits, emulator::Site site = emulator::Site::current()) {
  return emulator::exchange(lanes, value, emulator::lane() ^ bits, site);
}

template <typename T>
T __shfl_sync(unsigned lanes, T value, int source, emulator::Site site = emulator::Site::current()) {
  return emulator::exchange(lanes, value, source % 32, site);
}

inline unsigned __ballot_sync(unsigned lanes, bool value, emulator::Site site = emulator::Site::current()) {
  if (lanes != 0xffffffffu) emulator::fail("a ballot of lanes %08x", lanes);
  bool all[32];
  emulator::share(value, all, site);
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i) bits |= static_cast<unsigned>(all[i]) << i;
  return bits;
}

unsigned atomicAdd(unsigned* at, unsigned more);

inline int __popc(unsigned x) { return __builtin_popcount(x); }

inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
