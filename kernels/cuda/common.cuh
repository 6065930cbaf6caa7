// What every kernel includes: types, and sums and maxima of a warp and of a block.
//
// Compiles with NVRTC (no header of the toolkit), nvcc and, with EMULATOR defined, g++.
#pragma once

#ifdef EMULATOR
#include "emulator/emulator.h"
#endif
#include "ptx.cuh"

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char s8;
typedef double f64;

constexpr u32 WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;
// Threads of every block whose kernel does not say otherwise.
constexpr u32 THREADS = 128;
constexpr u32 WARPS = THREADS / WARP;
// Activations that share one scale.
constexpr u32 GROUP = 32;
// Rows of a tile of quantized weights.
constexpr u32 TILE_ROWS = 16;
// Positions whose keys are interleaved in a cache.
constexpr u32 TILE_POSITIONS = 16;
// Below this largest magnitude a group is zero: 127 / max would overflow.
constexpr float TINY = 1e-36f;

// Where a row of a batch stands: kernels/src/shape.rs, `Span`.
struct Row {
  u32 slot;
  u32 position;
  u32 last;  // position of its span's last row; where some spans' rows alone see each other, its own of the others
};

// A half is its bits; kernels convert with ptx::from_f16.
struct F16 { u16 bits; };
struct Bf16 { u16 bits; };
// Two numbers of 4 bits, the first in the low half.
struct Nibbles { u8 bits; };

static __device__ __forceinline__ float widen(float x) { return x; }
static __device__ __forceinline__ float widen(F16 x) { return ptx::from_f16(x.bits); }
static __device__ __forceinline__ float widen(Bf16 x) { return __uint_as_float(static_cast<u32>(x.bits) << 16); }
static __device__ __forceinline__ float widen(s8 x) { return static_cast<float>(x); }

static __device__ __forceinline__ u64 thread_index() {
  return static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// Sum of `x` over the lanes whose numbers differ in the bits from `from` up.
static __device__ __forceinline__ float warp_sum(float x, u32 from = 1) {
  for (u32 step = from; step < WARP; step *= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
  return x;
}

static __device__ __forceinline__ float warp_max(float x) {
  for (u32 step = 1; step < WARP; step *= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
  return x;
}

// As integers, the bits of magnitudes order like the magnitudes, infinity next to last and NaN last.
static __device__ __forceinline__ u32 magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }

static __device__ __forceinline__ u32 warp_max(u32 x) {
  for (u32 step = 1; step < WARP; step *= 2) {
    const u32 other = __shfl_xor_sync(ALL_LANES, x, step);
    x = other > x ? other : x;
  }
  return x;
}

struct Sum {
  static constexpr float EMPTY = 0.0f;
  static __device__ float of(float a, float b) { return a + b; }
};

struct Largest {
  static constexpr float EMPTY = -3.402823466e38f;
  static __device__ float of(float a, float b) { return fmaxf(a, b); }
};

// `Fold` of `x` over the threads of a block, known to all of them; every thread must call it.
template <typename Fold>
static __device__ __forceinline__ float block_fold(float x) {
  __shared__ float parts[WARP];
  for (u32 step = 1; step < WARP; step *= 2) x = Fold::of(x, __shfl_xor_sync(ALL_LANES, x, step));
  if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = x;
  __syncthreads();
  const u32 warps = blockDim.x / WARP;
  float all = Fold::EMPTY;
  for (u32 i = 0; i < warps; ++i) all = Fold::of(all, parts[i]);
  __syncthreads();
  return all;
}
