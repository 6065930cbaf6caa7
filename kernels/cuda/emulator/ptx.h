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

// By where the PTX ISA says that an element is, "Matrix Fragments for mma.m16n8k32". fragments.cpp checks it the other way.
inline void multiply_tile(int (&d)[4], const unsigned (&a)[4], uint2 b, const int (&c)[4]) {
  struct Fragments {
    unsigned a[4], b[2];
  } lanes[32];
  emulator::share(Fragments{{a[0], a[1], a[2], a[3]}, {b.x, b.y}}, lanes);
  const auto byte = [](unsigned word, int i) { return static_cast<std::int8_t>(word >> (8 * (i % 4))); };
  const int lane = emulator::lane();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
    d[i] = c[i];
    for (int k = 0; k < 32; ++k) {
      const unsigned of_a = lanes[row % 8 * 4 + k % 16 / 4].a[row / 8 + 2 * (k / 16)];
      const unsigned of_b = lanes[column * 4 + k % 16 / 4].b[k / 16];
      d[i] += byte(of_a, k) * byte(of_b, k);
    }
  }
}

// As "Matrix Fragments for mma.m16n8k8" with .tf32 say. In which order a GPU adds is not said; here in that of columns.
inline void multiply_tile_float(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  struct Fragments {
    unsigned a[4], b[2];
  } lanes[32];
  emulator::share(Fragments{{a[0], a[1], a[2], a[3]}, {b0, b1}}, lanes);
  const auto value = [](unsigned bits) { return __uint_as_float(bits & 0xffffe000u); };
  const int lane = emulator::lane();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
    for (int k = 0; k < 8; ++k) {
      d[i] += value(lanes[row % 8 * 4 + k % 4].a[row / 8 + 2 * (k / 4)]) * value(lanes[column * 4 + k % 4].b[k / 4]);
    }
  }
}

typedef char* Shared;

inline Shared shared(const void* at) { return static_cast<char*>(const_cast<void*>(at)); }

template <unsigned BYTES>
void copy_async(Shared to, const void* from, bool present) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
  if (reinterpret_cast<std::uintptr_t>(to) % BYTES != 0 || (present && reinterpret_cast<std::uintptr_t>(from) % BYTES != 0)) {
    emulator::fail("%u bytes copied from %p to %p, which are not aligned", BYTES, from, static_cast<void*>(to));
  }
  emulator::copy_later(to, present ? from : nullptr, BYTES);
}

inline void end_copies() { emulator::end_copies(); }

template <unsigned LEFT>
void wait_for_copies() {
  emulator::finish_copies(LEFT);
}

}  // namespace ptx
