// The keys and values of one layer. Every slot and head has its own run of positions; position p lives at p % capacity.
//
// An element is a number, or two of 4 bits. Keys come in tiles of 16 positions and within them in pieces of 16 bytes, so that
// neighbouring threads, one a position, read neighbouring pieces; where a key is no whole number of pieces, a piece is an
// element. Values are rows.
#pragma once
#include "common.cuh"

// Largest head.
constexpr u32 HEAD_DIM_MAX = 640;
constexpr u32 PIECE = 16;
// Numbers that are rotated together, at most.
constexpr u32 ROTATED_MAX = 256;

// What the elements of a cache are: numbers of one, whether they have scales, and whether they are of rotated rows.
template <typename Element>
struct Form {
  static constexpr u32 NUMBERS = 1;
  static constexpr bool SCALED = false, ROTATED = false;
};
template <>
struct Form<s8> {
  static constexpr u32 NUMBERS = 1;
  static constexpr bool SCALED = true, ROTATED = false;
};
template <>
struct Form<Nibbles> {
  static constexpr u32 NUMBERS = 2;
  static constexpr bool SCALED = true, ROTATED = true;
};

// Elements of a key.
template <typename Element>
static __device__ __forceinline__ u32 key_elements(u32 head_dim) {
  return (head_dim + Form<Element>::NUMBERS - 1) / Form<Element>::NUMBERS;
}

// Elements from one value to the next: of 4 bits whole pieces.
template <typename Element>
static __device__ __forceinline__ u32 value_elements(u32 head_dim) {
  return Form<Element>::NUMBERS == 2 ? (head_dim + 31) / 32 * PIECE : head_dim;
}

// Elements of a piece of a key.
template <typename Element>
static __device__ __forceinline__ u32 piece_elements(u32 head_dim) {
  constexpr u32 EACH = PIECE / sizeof(Element);
  return head_dim % (EACH * Form<Element>::NUMBERS) == 0 ? EACH : 1;
}

struct Cache {
  void* keys;           // (slots, kv_heads, capacity / 16, pieces, 16, bytes of a piece)
  void* values;         // (slots, kv_heads, capacity, value_elements)
  float* key_scales;    // (slots, kv_heads, capacity), where there are scales
  float* value_scales;  // (slots, kv_heads, capacity), where there are scales
  u32 capacity, kv_heads, head_dim;

  // Where the positions of one head begin.
  __device__ u64 first(u32 slot, u32 kv_head) const {
    return (static_cast<u64>(slot) * kv_heads + kv_head) * capacity;
  }
  // Index of the first element of piece `piece`, of `each` elements, of the key at `place`, from the head's first on.
  template <typename Element>
  __device__ u64 key(u32 place, u32 piece, u32 each) const {
    const u64 tile = static_cast<u64>(place / TILE_POSITIONS) * TILE_POSITIONS * key_elements<Element>(head_dim);
    return tile + static_cast<u64>(piece * TILE_POSITIONS + place % TILE_POSITIONS) * each;
  }
};

// The levels of 4 bits, four a word, the first lowest: kernels/src/cache/number.rs, `LEVELS`.
constexpr u32 LEVELS_0 = 0xc6b5a081u, LEVELS_4 = 0xfaeee1d4u, LEVELS_8 = 0x2c1f1206u, LEVELS_12 = 0x7f604b3au;

// The level of index `index`.
static __device__ __forceinline__ s8 level(u32 index) {
  const u32 low = index & 4 ? LEVELS_4 : LEVELS_0, high = index & 4 ? LEVELS_12 : LEVELS_8;
  return static_cast<s8>((index & 8 ? high : low) >> (8 * (index & 3)));
}

// Byte `i` of `word`, signed, with its top bit flipped, exactly: as the low bits of 2^23 and more.
static __device__ __forceinline__ float flipped_byte(u32 word, u32 i) {
  return __uint_as_float(ptx::permute(word, 0x4b000000u, 0x7440 | i)) - 8388736.0f;
}

// Four numbers that lie together, of which `word` is where they begin; see `load`.
static __device__ __forceinline__ void widen_quad(float (&x)[4], const u32* words, u32 quad, float) {
  for (u32 i = 0; i < 4; ++i) x[i] = __uint_as_float(words[4 * quad + i]);
}
static __device__ __forceinline__ void widen_quad(float (&x)[4], const u32* words, u32 quad, F16) {
  for (u32 i = 0; i < 4; ++i) x[i] = ptx::from_f16(static_cast<u16>(words[2 * quad + i / 2] >> (16 * (i % 2))));
}
static __device__ __forceinline__ void widen_quad(float (&x)[4], const u32* words, u32 quad, s8) {
  const u32 flipped = words[quad] ^ 0x80808080u;
  for (u32 i = 0; i < 4; ++i) x[i] = flipped_byte(flipped, i);
}
static __device__ __forceinline__ void widen_quad(float (&x)[4], const u32* words, u32 quad, Nibbles) {
  // The indices of the four, a nibble each. Permutations look them up in both halves of the table; bit 3 chooses.
  const u32 four = words[quad / 2] >> (16 * (quad % 2)) & 0xffff;
  const u32 low = four & 0x7777u, half = (four >> 1 & 0x4444u) | 0x3210u;
  const u32 levels = ptx::permute(ptx::permute(LEVELS_0, LEVELS_4, low), ptx::permute(LEVELS_8, LEVELS_12, low), half);
  for (u32 i = 0; i < 4; ++i) x[i] = flipped_byte(levels ^ 0x80808080u, i);
}

// Number `at` of a row of elements that lie together, without its scale.
template <typename Element>
static __device__ __forceinline__ float number(const Element* row, u32 at) { return widen(row[at]); }
template <>
__device__ __forceinline__ float number<Nibbles>(const Nibbles* row, u32 at) {
  return static_cast<float>(level(row[at / 2].bits >> (4 * (at % 2)) & 15));
}

// Numbers of a row of `len` that are rotated together: the largest power of two that divides it, up to ROTATED_MAX.
static __device__ __forceinline__ u32 rotated_len(u32 len) {
  const u32 power = len & (0u - len);
  return power < ROTATED_MAX ? power : ROTATED_MAX;
}

// Multiplies every `n` of `len` shared numbers by the Walsh-Hadamard matrix over sqrt(n). All threads of the block call it.
static __device__ __forceinline__ void rotate(float* x, u32 len, u32 n) {
  const float factor = 1.0f / sqrtf(static_cast<float>(n));
  for (u32 half = 1; half < n; half *= 2) {
    __syncthreads();
#pragma unroll 1
    for (u32 i = threadIdx.x; i < len / 2; i += blockDim.x) {
      const u32 at = i / half * 2 * half + i % half;
      const float low = x[at], high = x[at + half];
      x[at] = low + high;
      x[at + half] = low - high;
    }
  }
  __syncthreads();
#pragma unroll 1
  for (u32 i = threadIdx.x; i < len; i += blockDim.x) x[i] *= factor;
  __syncthreads();
}
