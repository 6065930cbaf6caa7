// The host twins of ptx.cuh.
#pragma once

#include "emulator.h"

namespace ptx {

using emulator::Site;

inline int dp4a(int a, int b, int sum) {
  for (int shift = 0; shift < 32; shift += 8) {
    sum += static_cast<std::int8_t>(a >> shift) * static_cast<std::int8_t>(b >> shift);
  }
  return sum;
}

inline unsigned permute(unsigned low, unsigned high, unsigned selector) {
  const std::uint64_t bytes = static_cast<std::uint64_t>(high) << 32 | low;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned which = selector >> (4 * i) & 15;
    if (which > 7) emulator::fail("prmt by selector %x, where bit 3 of a nibble is set", selector);
    result |= static_cast<unsigned>(bytes >> (8 * which) & 255) << (8 * i);
  }
  return result;
}

inline unsigned and_xor(unsigned x, unsigned mask, unsigned turned) { return (x & mask) ^ turned; }

inline int round_to_int(float x) {
  if (std::isnan(x)) return 0;
  if (x >= 2147483648.0F) return INT32_MAX;
  if (x < -2147483648.0F) return INT32_MIN;
  return static_cast<int>(std::nearbyint(x));
}

inline float from_f16(unsigned short bits) {
  _Float16 value;
  std::memcpy(&value, &bits, 2);
  return static_cast<float>(value);
}

inline unsigned short to_f16(float x) {
  const _Float16 value = static_cast<_Float16>(x);
  unsigned short bits;
  std::memcpy(&bits, &value, 2);
  return bits;
}

inline uint4 load_once(const void* at) {
  if (reinterpret_cast<std::uintptr_t>(at) % 16 != 0) emulator::fail("16 bytes loaded from %p, which is not aligned", at);
  uint4 value;
  std::memcpy(&value, at, 16);
  return value;
}

// What whole warps do: ptx.cpp.
void multiply_tile(int (&d)[4], const unsigned (&a)[4], uint2 b, const int (&c)[4], Site site = Site::current());
void multiply_tile_float(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Site site = Site::current());
void multiply_tile_half(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Site site = Site::current());

inline unsigned to_two_f16(float low, float high) { return to_f16(low) | static_cast<unsigned>(to_f16(high)) << 16; }

inline float power_of_two(float x) {
  const float value = std::exp2(x);
  return std::fpclassify(value) == FP_SUBNORMAL ? 0.0F : value;
}

inline float reciprocal(float x) { return 1.0F / x; }

typedef char* Shared;

inline Shared shared(const void* at) { return static_cast<char*>(const_cast<void*>(at)); }

uint4 load_transposed(Shared at, Site site = Site::current());

template <unsigned BYTES>
[[gnu::always_inline]] inline void copy_async(Shared to, const void* from, bool present) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
  if (reinterpret_cast<std::uintptr_t>(to) % BYTES != 0 || (present && reinterpret_cast<std::uintptr_t>(from) % BYTES != 0)) {
    emulator::fail("%u bytes copied from %p to %p, which are not aligned", BYTES, from, static_cast<void*>(to));
  }
  emulator::copy_later(to, present ? from : nullptr, BYTES);
}

inline void end_copies() { emulator::end_copies(); }

template <unsigned LEFT>
[[gnu::always_inline]] inline void wait_for_copies() {
  emulator::finish_copies(LEFT);
}

}  // namespace ptx
