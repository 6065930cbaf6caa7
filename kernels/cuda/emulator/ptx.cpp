// The host twins of what whole warps do. A file of its own, as it is not to be instrumented.
#include "ptx.h"

namespace ptx {

// By where the PTX ISA says that an element is, "Matrix Fragments for mma.m16n8k32". fragments.cpp checks it the other way.
void multiply_tile(int (&d)[4], const unsigned (&a)[4], uint2 b, const int (&c)[4], Site site) {
  struct Fragments {
    unsigned a[4], b[2];
  } lanes[32];
  emulator::share(Fragments{{a[0], a[1], a[2], a[3]}, {b.x, b.y}}, lanes, site);
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
void multiply_tile_float(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Site site) {
  struct Fragments {
    unsigned a[4], b[2];
  } lanes[32];
  emulator::share(Fragments{{a[0], a[1], a[2], a[3]}, {b0, b1}}, lanes, site);
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
void multiply_tile_half(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Site site) {
  struct Fragments {
    unsigned a[4], b[2];
  } lanes[32];
  emulator::share(Fragments{{a[0], a[1], a[2], a[3]}, {b0, b1}}, lanes, site);
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

// As "ldmatrix" says: each thread of a group of 8 gives the address of a row of a matrix.
uint4 load_transposed(Shared at, Site site) {
  if (reinterpret_cast<std::uintptr_t>(at) % 16 != 0) emulator::fail("a row of a matrix at %p, which is not aligned", static_cast<void*>(at));
  Shared rows[32];
  emulator::share(at, rows, site);
  unsigned words[4];
  const int lane = emulator::lane();
  for (int m = 0; m < 4; ++m) {
    unsigned short two[2];
    for (int i = 0; i < 2; ++i) {
      const char* const row = rows[8 * m + 2 * (lane % 4) + i];
      // With its neighbour, which another lane of the same instruction reads.
      emulator::races::read(row + 2 * (lane / 4) / 4 * 4, 4, __builtin_return_address(0));
      std::memcpy(&two[i], row + 2 * (lane / 4), 2);
    }
    words[m] = two[0] | static_cast<unsigned>(two[1]) << 16;
  }
  // What lies there may be written again when this returns, by any of them.
  emulator::wait_for_warp(0xffffffffu, site);
  return {words[0], words[1], words[2], words[3]};
}

}  // namespace ptx
