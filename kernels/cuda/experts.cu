// Which experts each row chooses, and the sum of what they made: kernels/src/routing.rs.
#include "common.cuh"

constexpr u32 EXPERTS_MAX = 4096;
constexpr u32 NONE = 0xffffffffu;

struct RoutingRule {
  u32 softmax;    // or sigmoid
  u32 normalise;  // weights are divided by their sum
  float scale;
};

static __device__ __forceinline__ f64 warp_sum(f64 x) {
  for (u32 step = 1; step < WARP; step *= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
  return x;
}

// Fills `expert` and `weight`, (rows, used), in the order of experts. `logits` is (rows, count), `bias` (count) or null.
// Of equal keys the lower expert is chosen; where keys are NaN any, of experts that differ. Grid: rows; one warp.
extern "C" __global__ void __launch_bounds__(WARP)
route(u32* expert, float* weight, const float* logits, const float* bias, u32 count, u32 used, RoutingRule rule) {
  __shared__ f64 scores[EXPERTS_MAX];
  __shared__ bool chosen[EXPERTS_MAX];
  const u32 lane = threadIdx.x;
  logits += static_cast<u64>(blockIdx.x) * count;
  expert += static_cast<u64>(blockIdx.x) * used;
  weight += static_cast<u64>(blockIdx.x) * used;

  float max = __uint_as_float(0xff800000u);
  for (u32 e = lane; e < count; e += WARP) max = fmaxf(max, logits[e]);
  max = warp_max(max);
  f64 total = 0.0;
  for (u32 e = lane; e < count; e += WARP) {
    scores[e] = rule.softmax ? exp(static_cast<f64>(logits[e] - max)) : 1.0 / (1.0 + exp(-static_cast<f64>(logits[e])));
    chosen[e] = false;
    total += scores[e];
  }
  total = warp_sum(total);
  if (rule.softmax) {
    for (u32 e = lane; e < count; e += WARP) scores[e] /= total;
  }
  for (u32 n = 0; n < used; ++n) {
    u32 best = NONE;
    f64 key = 0.0;
    for (u32 e = lane; e < count; e += WARP) {
      const f64 own = scores[e] + (bias ? static_cast<f64>(bias[e]) : 0.0);
      if (!chosen[e] && (best == NONE || own > key)) best = e, key = own;
    }
    for (u32 step = 1; step < WARP; step *= 2) {
      const u32 other = __shfl_xor_sync(ALL_LANES, best, step);
      const f64 other_key = __shfl_xor_sync(ALL_LANES, key, step);
      const bool better = other != NONE && (best == NONE || other_key > key || (other_key == key && other < best));
      if (better) best = other, key = other_key;
    }
    // Lanes may disagree where a key is NaN.
    best = __shfl_sync(ALL_LANES, best, 0);
    if (lane == 0) chosen[best] = true;
    __syncwarp();
  }
  if (lane != 0) return;
  f64 sum = 0.0;
  u32 n = 0;
  for (u32 e = 0; e < count; ++e) {
    if (!chosen[e]) continue;
    expert[n++] = e;
    sum += scores[e];
  }
  const f64 factor = static_cast<f64>(rule.scale) / (rule.normalise ? sum : 1.0);
  for (n = 0; n < used; ++n) weight[n] = static_cast<float>(factor * scores[expert[n]]);
}

// out[row] = sum of weight * made over the choices of a row, in their order. `made` is (rows, used, dim). One thread a number.
extern "C" __global__ void __launch_bounds__(THREADS)
combine(float* out, const float* made, const float* weight, u32 rows, u32 used, u32 dim) {
  const u64 index = thread_index();
  if (index >= static_cast<u64>(rows) * dim) return;
  const u64 row = index / dim, column = index % dim;
  float sum = 0.0f;
  for (u32 n = 0; n < used; ++n) sum += weight[row * used + n] * made[(row * used + n) * dim + column];
  out[index] = sum;
}
