// Stores keys and values at the positions of a batch, rounded to nearest even where not f32.
#include "cache.cuh"

// The largest level over the standard deviation that the levels are for.
constexpr float LARGEST_LEVEL = 2.7326f;

// A row of a key or of a value in shared memory, which a warp stores.
struct Numbers {
  const float* x;  // (len)
  u32 len;
  float squares;   // of it before it was rotated, in the order of kernels/src/cache/number.rs; where it is rotated
};

static __device__ __forceinline__ float largest(Numbers source) {
  u32 most = 0;
  for (u32 i = threadIdx.x % WARP; i < source.len; i += WARP) {
    const u32 size = magnitude(source.x[i]);
    most = size > most ? size : most;
  }
  return __uint_as_float(warp_max(most));
}

// The largest magnitude that the numbers are to reach: 127 times the scale. Where one is not finite, nor is this.
static __device__ __forceinline__ float reach(Numbers source, s8) { return largest(source); }
static __device__ __forceinline__ float reach(Numbers source, Nibbles) {
  const float max = largest(source);
  const float usual = LARGEST_LEVEL * sqrtf(source.squares / static_cast<float>(source.len));
  return usual > max ? usual : max;
}
static __device__ __forceinline__ float reach(Numbers, float) { return 0.0f; }
static __device__ __forceinline__ float reach(Numbers, F16) { return 0.0f; }

// 8 bits: round_ties_even(x * (127 / reach)).
static __device__ __forceinline__ s8 eight_bits(float x, float reach) {
  return reach < TINY ? 0 : static_cast<s8>(ptx::round_to_int(x * (127.0f / reach)));
}

// The index of the level nearest to `q`; of two, the lower.
static __device__ __forceinline__ u32 nearest(int q) {
  u32 index = 0;
  for (u32 i = 1; i < 16; ++i) index += 2 * q > level(i - 1) + level(i);
  return index;
}

// Element `at` of what is stored for a row that reaches `reach`.
static __device__ __forceinline__ float narrow(Numbers source, u32 at, float, float) { return source.x[at]; }
static __device__ __forceinline__ F16 narrow(Numbers source, u32 at, float, F16) { return {ptx::to_f16(source.x[at])}; }
static __device__ __forceinline__ s8 narrow(Numbers source, u32 at, float reach, s8) {
  return eight_bits(source.x[at], reach);
}
static __device__ __forceinline__ Nibbles narrow(Numbers source, u32 at, float reach, Nibbles) {
  const u32 low = nearest(eight_bits(source.x[2 * at], reach));
  const u32 high = 2 * at + 1 < source.len ? nearest(eight_bits(source.x[2 * at + 1], reach)) : 0;
  return {static_cast<u8>(low | high << 4)};
}

// `k` and `v` are (rows, kv_heads * head_dim). Grid: rows, kv_heads; two warps, one for the key and one for the value, which
// is not stored where the cache has keys alone.
template <typename Key, typename Value>
static __device__ __forceinline__ void store(const Cache& cache, const float* k, const float* v, const Row* batch) {
  __shared__ float shared[2][HEAD_DIM_MAX];
  const u32 head_dim = cache.head_dim, lane = threadIdx.x % WARP;
  const Row row = batch[blockIdx.x];
  const u32 place = row.position % cache.capacity;
  const u64 first = cache.first(row.slot, blockIdx.y);
  const u64 source = (static_cast<u64>(blockIdx.x) * cache.kv_heads + blockIdx.y) * head_dim;
  const bool is_key = threadIdx.x < WARP;
  float* const own = shared[is_key ? 0 : 1];
  for (u32 i = lane; i < head_dim; i += WARP) own[i] = (is_key ? k : v)[source + i];
  __syncthreads();
  // One after another and each rounded, as on the host: a number that lies between two levels goes to the same.
  float squares = 0.0f;
  if (is_key ? Form<Key>::ROTATED : Form<Value>::ROTATED) {
#pragma unroll 1
    for (u32 i = 0; i < head_dim; ++i) squares = __fadd_rn(squares, __fmul_rn(own[i], own[i]));
  }
  if (Form<Key>::ROTATED) rotate(shared[0], head_dim, rotated_len(head_dim));
  if (Form<Value>::ROTATED) rotate(shared[1], head_dim, rotated_len(head_dim));
  const Numbers from{own, head_dim, squares};
  if (is_key) {
    const float most = reach(from, Key{});
    const u32 elements = key_elements<Key>(head_dim), each = piece_elements<Key>(head_dim);
    Key* const keys = static_cast<Key*>(cache.keys) + first * elements;
#pragma unroll 1
    for (u32 e = lane; e < elements; e += WARP) {
      keys[cache.key<Key>(place, e / each, each) + e % each] = narrow(from, e, most, Key{});
    }
    if (Form<Key>::SCALED && lane == 0) cache.key_scales[first + place] = most < TINY ? 0.0f : most / 127.0f;
  } else if (cache.values) {
    const float most = reach(from, Value{});
    const u32 stride = value_elements<Value>(head_dim);
    Value* const values = static_cast<Value*>(cache.values) + (first + place) * stride;
#pragma unroll 1
    for (u32 e = lane; e < key_elements<Value>(head_dim); e += WARP) values[e] = narrow(from, e, most, Value{});
    if (Form<Value>::SCALED && lane == 0) cache.value_scales[first + place] = most < TINY ? 0.0f : most / 127.0f;
  }
}

#define KERNEL(name, Key, Value)                                                         \
  extern "C" __global__ void __launch_bounds__(2 * WARP)                                 \
  store_##name(Cache cache, const float* k, const float* v, const Row* batch) {          \
    store<Key, Value>(cache, k, v, batch);                                               \
  }

KERNEL(f32, float, float)
KERNEL(f16, F16, F16)
KERNEL(int8, s8, s8)
KERNEL(int8_int4, s8, Nibbles)
KERNEL(int4, Nibbles, Nibbles)
#undef KERNEL
