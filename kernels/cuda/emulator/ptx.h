// The host twins of ptx.cuh.
#pragma once

#include "emulator.h"

namespace ptx {

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

}  // namespace ptx
