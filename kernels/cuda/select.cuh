// The largest of many numbers, by one block of threads.
#pragma once
#include "common.cuh"

// Threads of a block that selects.
constexpr u32 BEST_THREADS = 512;

// Integers that order as their numbers do, -0 below 0 and NaN by its sign.
static __device__ __forceinline__ u32 order(float x) {
  const u32 bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Of how many keys have each digit, the one that the `wanted`-th largest has, and how many are wanted of those that have it.
// One warp.
static __device__ __forceinline__ void find_digit(const u32* digits, u32& found, u32& wanted) {
  constexpr u32 EACH = 256 / WARP;
  const u32 lane = threadIdx.x % WARP, highest = 255 - EACH * lane, all = wanted;
  u32 own = 0;
  for (u32 i = 0; i < EACH; ++i) own += digits[highest - i];
  u32 until = own;  // of this lane's digits and all above them
  for (u32 step = 1; step < WARP; step *= 2) {
    const u32 above = __shfl_sync(ALL_LANES, until, static_cast<int>((lane + WARP - step) % WARP));
    if (lane >= step) until += above;
  }
  __syncwarp();  // all have read `wanted`
  u32 before = until - own;
  if (before >= all || until < all) return;
  u32 digit = highest;
  for (; before + digits[digit] < all; --digit) before += digits[digit];
  found = digit;
  wanted = all - before;
}

// Calls `keep(place, i)` for each of the `top` largest of `key(i)` of `i < count`, which are more, of equals the first;
// places count up with `i`. The last of them is found digit by digit, from how many have each. All threads of a block of
// BEST_THREADS call it.
template <typename Key, typename Keep>
static __device__ __forceinline__ void select_largest(u32 count, u32 top, const Key& key, const Keep& keep) {
  __shared__ u32 digits[256];
  __shared__ u32 found, wanted;
  __shared__ u32 greater_of[BEST_THREADS / WARP], equal_of[BEST_THREADS / WARP];
  u32 last = 0, mask = 0;
  if (threadIdx.x == 0) wanted = top;
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) digits[threadIdx.x] = 0;
    __syncthreads();
    for (u32 i = threadIdx.x; i < count; i += BEST_THREADS) {
      const u32 own = key(i);
      if ((own & mask) == last) atomicAdd(&digits[own >> shift & 255], 1u);
    }
    __syncthreads();
    if (threadIdx.x < WARP) find_digit(digits, found, wanted);
    __syncthreads();
    last |= found << shift;
    mask |= 255u << shift;
  }
  // All above the last, and of those equal to it as many as are still wanted.
  const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, lower = (1u << lane) - 1;
  u32 greater_before = 0, equal_before = 0;
  for (u32 start = 0; start < count; start += BEST_THREADS) {
    const u32 i = start + threadIdx.x;
    const u32 own = i < count ? key(i) : 0;
    const bool greater = i < count && own > last, equal = i < count && own == last;
    const u32 greaters = __ballot_sync(ALL_LANES, greater), equals = __ballot_sync(ALL_LANES, equal);
    if (lane == 0) greater_of[warp] = __popc(greaters), equal_of[warp] = __popc(equals);
    __syncthreads();
    u32 above = greater_before + __popc(greaters & lower), same = equal_before + __popc(equals & lower);
    for (u32 other = 0; other < BEST_THREADS / WARP; ++other) {
      if (other < warp) above += greater_of[other], same += equal_of[other];
      greater_before += greater_of[other], equal_before += equal_of[other];
    }
    if (greater || (equal && same < wanted)) keep(above + (same < wanted ? same : wanted), i);
    __syncthreads();
  }
}
