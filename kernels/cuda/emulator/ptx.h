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

// As "Matrix Fragments for mma.m16n8k16" with .f16 say, in the order of columns too.
inline void multiply_tile_half(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  struct Fragments {
    unsigned a[4], b[2];
  } lanes[32];
  emulator::share(Fragments{{a[0], a[1], a[2], a[3]}, {b0, b1}}, lanes);
  const auto half = [](unsigned word, int i) { return from_f16(static_cast<unsigned short>(word >> (16 * (i % 2)))); };
  const int lane = emulator::lane();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
    for (int k = 0; k < 16; ++k) {
      const unsigned of_a = lanes[row % 8 * 4 + k % 8 / 2].a[row / 8 + 2 * (k / 8)];
      d[i] += half(of_a, k) * half(lanes[column * 4 + k % 8 / 2].b[k / 8], k);
    }
  }
}

inline unsigned to_two_f16(float low, float high) { return to_f16(low) | static_cast<unsigned>(to_f16(high)) << 16; }

inline float power_of_two(float x) {
  const float value = std::exp2(x);
  return std::fpclassify(value) == FP_SUBNORMAL ? 0.0F : value;
}

inline float reciprocal(float x) { return 1.0F / x; }

typedef char* Shared;

inline Shared shared(const void* at) { return static_cast<char*>(const_cast<void*>(at)); }

// As "ldmatrix" says: each thread of a group of 8 gives the address of a row of a matrix.
inline uint4 load_transposed(Shared at) {
  if (reinterpret_cast<std::uintptr_t>(at) % 16 != 0) emulator::fail("a row of a matrix at %p, which is not aligned", static_cast<void*>(at));
  Shared rows[32];
  emulator::share(at, rows);
  unsigned words[4];
  const int lane = emulator::lane();
  for (int m = 0; m < 4; ++m) {
    unsigned short two[2];
    for (int i = 0; i < 2; ++i) std::memcpy(&two[i], rows[8 * m + 2 * (lane % 4) + i] + 2 * (lane / 4), 2);
    words[m] = two[0] | static_cast<unsigned>(two[1]) << 16;
  }
  // What lies there may be written again when this returns, by any of them.
  emulator::wait_for_warp(0xffffffffu);
  return {words[0], words[1], words[2], words[3]};
}

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
