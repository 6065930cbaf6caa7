// Causal grouped-query attention over a cache, with the running maximum of Milakov and Gimelshein 2018,
// https://arxiv.org/abs/1805.02867.
#include "cache.cuh"

// Largest head: a thread keeps HEAD_DIM_MAX / THREADS sums.
constexpr u32 HEAD_DIM_MAX = 512;

struct Attention {
  float* out;      // (rows, heads * head_dim)
  const float* q;  // (rows, heads * head_dim)
  const Row* batch;
  u32 heads;
  float scale;
  u32 window;      // positions that a query sees, itself included; 0xffffffff for all before it
  float softcap;   // 0 for none
};

static __device__ __forceinline__ float scale_of(const float* scales, u64 at) { return scales ? scales[at] : 1.0f; }

// Grid: rows, heads. THREADS positions at a time: a thread makes the score of one, then sums some elements of the values.
template <typename Element>
static __device__ __forceinline__ void attention(const Attention& a, const Cache& cache) {
  __shared__ float query[HEAD_DIM_MAX];
  __shared__ float weights[THREADS];
  const u32 head_dim = cache.head_dim;
  const Row row = a.batch[blockIdx.x];
  const u64 at = (static_cast<u64>(blockIdx.x) * a.heads + blockIdx.y) * head_dim;
  const u64 first_row = cache.first(row.slot, blockIdx.y / (a.heads / cache.kv_heads));
  const Element* const keys = static_cast<const Element*>(cache.keys) + first_row * head_dim;
  const Element* const values = static_cast<const Element*>(cache.values) + first_row * head_dim;
  for (u32 i = threadIdx.x; i < head_dim; i += THREADS) query[i] = a.q[at + i];
  __syncthreads();

  const u32 all = row.position + 1;
  const u32 seen = all < a.window ? all : a.window;
  const u32 first = all - seen;
  float max = Largest::EMPTY, total = 0.0f;
  float sums[HEAD_DIM_MAX / THREADS] = {};
  for (u32 start = 0; start < seen; start += THREADS) {
    const bool inside = start + threadIdx.x < seen;
    const u32 place = (first + start + threadIdx.x) % cache.capacity;
    float score = Largest::EMPTY;
    if (inside) {
      const Element* const key = keys + cache.key(place);
      float dot = 0.0f;
      for (u32 i = 0; i < head_dim; ++i) dot += query[i] * widen(key[i * TILE_POSITIONS]);
      score = dot * scale_of(cache.key_scales, first_row + place) * a.scale;
      if (a.softcap > 0.0f) score = a.softcap * tanhf(score / a.softcap);
    }
    // A NaN is no maximum, and makes its weight and so the total NaN.
    const float larger = fmaxf(max, block_fold<Largest>(score));
    const float correction = expf(max - larger);
    const float weight = inside ? expf(score - larger) : 0.0f;
    weights[threadIdx.x] = inside ? weight * scale_of(cache.value_scales, first_row + place) : 0.0f;
    total = total * correction + block_fold<Sum>(weight);  // its barriers also let all see `weights`
    max = larger;
    const u32 count = seen - start < THREADS ? seen - start : THREADS;
    for (u32 n = 0; n < HEAD_DIM_MAX / THREADS; ++n) {
      const u32 i = n * THREADS + threadIdx.x;
      if (i >= head_dim) break;
      float sum = sums[n] * correction;
      for (u32 j = 0; j < count; ++j) {
        const u32 from = (first + start + j) % cache.capacity;
        sum += weights[j] * widen(values[static_cast<u64>(from) * head_dim + i]);
      }
      sums[n] = sum;
    }
    // The next maximum's barriers keep `weights` until all have read it.
  }
  for (u32 n = 0; n < HEAD_DIM_MAX / THREADS; ++n) {
    const u32 i = n * THREADS + threadIdx.x;
    if (i < head_dim) a.out[at + i] = sums[n] / total;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_f32(Attention a, Cache cache) { attention<float>(a, cache); }
extern "C" __global__ void __launch_bounds__(THREADS) attention_f16(Attention a, Cache cache) { attention<F16>(a, cache); }
extern "C" __global__ void __launch_bounds__(THREADS) attention_int8(Attention a, Cache cache) { attention<s8>(a, cache); }
