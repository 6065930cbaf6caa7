// What the emulator tells the detector of races, and nothing where it is compiled without: see races.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulator::races {

#ifdef EMULATOR_RACES

void begin_launch();
void begin_block();
void end_block();
// All threads of the block have met, or all lanes of a warp in `__syncwarp`.
void meet_block();
void meet_warp(unsigned warp);

// Accesses of the running thread that instrumentation does not see. `from` is where the kernel asks for it.
void read(const void* at, unsigned bytes, const void* from);
void change_atomically(const void* at, unsigned bytes, const void* from);
// A copy that is on its way, of null where it writes zeros. Returns what `end_copy` is to find of the source.
std::uint64_t begin_copy(const void* to, const void* source, unsigned bytes, const void* from);
void end_copy(const void* to, const void* source, unsigned bytes, std::uint64_t begun, const void* from);

// Memory of the device, which is never where memory was before; null where there is none.
void* allocate(std::size_t bytes);
void release(void* memory, std::size_t bytes);

#else

inline void begin_launch() {}
inline void begin_block() {}
inline void end_block() {}
inline void meet_block() {}
inline void meet_warp(unsigned) {}
inline void read(const void*, unsigned, const void*) {}
inline void change_atomically(const void*, unsigned, const void*) {}
inline std::uint64_t begin_copy(const void*, const void*, unsigned, const void*) { return 0; }
inline void end_copy(const void*, const void*, unsigned, std::uint64_t, const void*) {}

#endif

}  // namespace emulator::races
