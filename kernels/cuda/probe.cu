// What a device can do at most: read memory, and multiply tiles that lie in registers. Models do not run these; they are
// what measurements of the other kernels are compared with.
#include "common.cuh"

// Loads of a thread that are on the way at once: more take registers of which a full processor has none left.
constexpr u32 PROBE_LOADS = 4;
// Sums of a warp, none of which waits for another.
constexpr u32 PROBE_SUMS = 8;

// Adds all words of `count` times 16 bytes to `out`, modulo 2^32. Grid: any.
extern "C" __global__ void __launch_bounds__(THREADS) probe_read(u32* out, const uint4* x, u64 count) {
  const u64 all = static_cast<u64>(gridDim.x) * THREADS;
  u32 sum = 0;
  u64 at = thread_index();
  // Without a condition, which would let one load wait for another.
  for (; at + (PROBE_LOADS - 1) * all < count; at += PROBE_LOADS * all) {
    uint4 loaded[PROBE_LOADS];
#pragma unroll
    for (u32 i = 0; i < PROBE_LOADS; ++i) loaded[i] = ptx::load_once(x + at + i * all);
#pragma unroll
    for (u32 i = 0; i < PROBE_LOADS; ++i) sum += loaded[i].x + loaded[i].y + loaded[i].z + loaded[i].w;
  }
  for (; at < count; at += all) {
    const uint4 loaded = ptx::load_once(x + at);
    sum += loaded.x + loaded.y + loaded.z + loaded.w;
  }
  for (u32 step = 1; step < WARP; step *= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);
  if (threadIdx.x % WARP == 0) atomicAdd(out, sum);
}

// A warp's PROBE_SUMS sums of products of f16, `rounds` of each; every thread stores its part. Grid: any.
extern "C" __global__ void __launch_bounds__(THREADS) probe_half(float* out, u32 rounds) {
  // 16ths from 1 on, so that sums of a few rounds are exact.
  const u32 bits = 0x3c003c00u + threadIdx.x % 8 * 0x00400080u;
  const u32 a[4] = {bits, bits + 0x40, bits + 0x80, bits + 0xc0};
  float sums[PROBE_SUMS][4] = {};
#pragma unroll 1
  for (u32 round = 0; round < rounds; ++round) {
    for (u32 i = 0; i < PROBE_SUMS; ++i) ptx::multiply_tile_half(sums[i], a, bits + 0x40 * i, bits + 0x40);
  }
  float all = 0.0f;
  for (u32 i = 0; i < PROBE_SUMS; ++i) all += sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
  out[thread_index()] = all;
}

// The same of bytes; the number is stored as it is.
extern "C" __global__ void __launch_bounds__(THREADS) probe_bytes(u32* out, u32 rounds) {
  const u32 bits = 0x01020304u + threadIdx.x % 8 * 0x01010101u;
  const u32 a[4] = {bits, bits + 1, bits + 2, bits + 3};
  int sums[PROBE_SUMS][4] = {};
#pragma unroll 1
  for (u32 round = 0; round < rounds; ++round) {
    for (u32 i = 0; i < PROBE_SUMS; ++i) ptx::multiply_tile(sums[i], a, uint2{bits + i, bits + 4}, sums[i]);
  }
  int all = 0;
  for (u32 i = 0; i < PROBE_SUMS; ++i) all += sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
  out[thread_index()] = static_cast<u32>(all);
}
