// The bytes inside a quantized tensor: runtime/format/FORMAT.md, "Layouts". A step is 64 bytes: a dword for each of 16
// rows, which holds 4 columns of q8 or 8 of q4.
#pragma once
#include "common.cuh"

// Kinds of layouts, in the order of launch.rs.
constexpr int Q8 = 0, Q4 = 1, Q4_ASYM = 2, Q4_CODEBOOK = 3;

template <int kind>
struct Blocks {
  static constexpr u32 STEP_COLUMNS = kind == Q8 ? 4 : 8;
  // Bytes of a block before its quants.
  static constexpr u32 HEAD = kind == Q4_ASYM ? 64 : 32;

  u32 group;  // columns of a block: 32, 64 or 128

  __device__ u32 steps() const { return group / STEP_COLUMNS; }
  __device__ u32 bytes() const { return HEAD + 64 * steps(); }
  // Where the tile of rows `TILE_ROWS * tile` and up begins, in a tensor of `cols` columns.
  __device__ u64 tile(u64 tile, u32 cols) const {
    return tile * ((cols + group - 1) / group) * bytes();
  }
};

// The codebook of q4c, four entries a word, the first lowest: -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113.
constexpr u32 CODEBOOK_0 = 0xbfad9881u, CODEBOOK_4 = 0xf6eaddcfu, CODEBOOK_8 = 0x26190d01u, CODEBOOK_12 = 0x71594535u;

// Entry `index` of the codebook.
static __device__ __forceinline__ int codebook(u32 index) {
  const u32 low = index & 4 ? CODEBOOK_4 : CODEBOOK_0, high = index & 4 ? CODEBOOK_12 : CODEBOOK_8;
  return static_cast<s8>((index & 8 ? high : low) >> (8 * (index & 3)));
}

// Four f16 times `factor`.
static __device__ __forceinline__ void widen_four(float (&to)[4], uint2 halves, float factor) {
  const u32 words[2] = {halves.x, halves.y};
  for (u32 r = 0; r < 4; ++r) to[r] = ptx::from_f16(static_cast<u16>(words[r / 2] >> (16 * (r % 2)))) * factor;
}

// What the integers of `unpack` are multiples of.
template <int kind>
constexpr float UNIT = kind == Q4 ? 16.0f : 1.0f;

// The 8 integers of a row's dword of q4, times UNIT: columns 0..4 in `first`, 4..8 in `second`, a byte each.
template <int kind>
static __device__ __forceinline__ void unpack(u32 packed, u32& first, u32& second) {
  if (kind == Q4) {
    // A nibble with its highest bit turned is q - 8 in two's complement; in the upper half of a byte it has its sign.
    first = ptx::and_xor(packed << 4, 0xf0f0f0f0u, 0x80808080u);
    second = ptx::and_xor(packed, 0xf0f0f0f0u, 0x80808080u);
    return;
  }
  if (kind == Q4_ASYM) {
    first = packed & 0x0f0f0f0fu;
    second = packed >> 4 & 0x0f0f0f0fu;
    return;
  }
  // Each permutation looks up 4 nibbles among 8 entries; bit 3 of a nibble then chooses between the halves of the table.
  const u32 low = packed & 0x77777777u;
  const u32 half = (packed >> 1 & 0x44444444u) | 0x32103210u;
  const u32 even = ptx::permute(ptx::permute(CODEBOOK_0, CODEBOOK_4, low),
                                ptx::permute(CODEBOOK_8, CODEBOOK_12, low), half);
  const u32 odd = ptx::permute(ptx::permute(CODEBOOK_0, CODEBOOK_4, low >> 16),
                               ptx::permute(CODEBOOK_8, CODEBOOK_12, low >> 16), half >> 16);
  // Nibbles alternate: the low one of a byte is a column of the first four, the high one of the second.
  first = ptx::permute(even, odd, 0x6420);
  second = ptx::permute(even, odd, 0x7531);
}
