// Stores keys and values at the positions of a batch, rounded to nearest even where not f32.
#include "cache.cuh"

static __device__ __forceinline__ void narrow(float& out, float x) { out = x; }
static __device__ __forceinline__ void narrow(F16& out, float x) { out.bits = ptx::to_f16(x); }

// `k` and `v` are (rows, kv_heads * head_dim). Grid: rows, kv_heads; two warps, one for the key and one for the value.
template <typename Element>
static __device__ __forceinline__ void store(const Cache& cache, const float* k, const float* v, const Row* batch) {
  const Row row = batch[blockIdx.x];
  const u32 place = row.position % cache.capacity;
  const u64 first = cache.first(row.slot, blockIdx.y) * cache.head_dim;
  const u64 source = (static_cast<u64>(blockIdx.x) * cache.kv_heads + blockIdx.y) * cache.head_dim;
  const bool is_key = threadIdx.x < WARP;
  for (u32 i = threadIdx.x % WARP; i < cache.head_dim; i += WARP) {
    if (is_key) narrow(static_cast<Element*>(cache.keys)[first + cache.key(place) + i * TILE_POSITIONS], k[source + i]);
    else narrow(static_cast<Element*>(cache.values)[first + static_cast<u64>(place) * cache.head_dim + i], v[source + i]);
  }
}

extern "C" __global__ void __launch_bounds__(2 * WARP)
store_f32(Cache cache, const float* k, const float* v, const Row* batch) {
  store<float>(cache, k, v, batch);
}

extern "C" __global__ void __launch_bounds__(2 * WARP)
store_f16(Cache cache, const float* k, const float* v, const Row* batch) {
  store<F16>(cache, k, v, batch);
}

// 8 bits a number: scale = max|x| / 127, q = round_ties_even(x * (127 / max|x|)). Where a number is not finite the scale is not.
extern "C" __global__ void __launch_bounds__(2 * WARP)
store_int8(Cache cache, const float* k, const float* v, const Row* batch) {
  const Row row = batch[blockIdx.x];
  const u32 place = row.position % cache.capacity;
  const u64 position = cache.first(row.slot, blockIdx.y);
  const u64 first = position * cache.head_dim;
  const bool is_key = threadIdx.x < WARP;
  const u64 source = (static_cast<u64>(blockIdx.x) * cache.kv_heads + blockIdx.y) * cache.head_dim;
  const float* const x = (is_key ? k : v) + source;
  u32 largest = 0;
  for (u32 i = threadIdx.x % WARP; i < cache.head_dim; i += WARP) {
    const u32 size = magnitude(x[i]);
    largest = size > largest ? size : largest;
  }
  const float max = __uint_as_float(warp_max(largest));
  const bool zero = max < TINY;
  const float inverse = zero ? 0.0f : 127.0f / max;
  for (u32 i = threadIdx.x % WARP; i < cache.head_dim; i += WARP) {
    const s8 q = zero ? 0 : static_cast<s8>(ptx::round_to_int(x[i] * inverse));
    if (is_key) static_cast<s8*>(cache.keys)[first + cache.key(place) + i * TILE_POSITIONS] = q;
    else static_cast<s8*>(cache.values)[first + static_cast<u64>(place) * cache.head_dim + i] = q;
  }
  if (threadIdx.x % WARP == 0) {
    (is_key ? cache.key_scales : cache.value_scales)[position + place] = zero ? 0.0f : max / 127.0f;
  }
}
