// Which experts each row chooses, kernels/src/routing.rs; the order in which they are multiplied; the sum of what they made.
#include "products.cuh"

constexpr u32 EXPERTS_MAX = 4096;
constexpr u32 NONE = 0xffffffffu;

struct RoutingRule {
  u32 softmax;    // or sigmoid
  u32 normalise;  // weights are divided by their sum
  float scale;
};

// Fills `expert` and `weight`, (rows, used), in the order of experts. `logits` is (rows, count), `bias` and `scales` (count) or
// null. Of equal keys the lower expert is chosen; where keys are NaN any, of experts that differ. Grid: rows; one warp.
//
// In f32: scores grow with logits, which therefore choose by themselves where there is no bias. With one, keys round by
// 2^-24 of themselves, less than the products that the logits are.
extern "C" __global__ void __launch_bounds__(WARP)
route(u32* expert, float* weight, const float* logits, const float* bias, const float* scales, u32 count, u32 used,
      RoutingRule rule) {
  __shared__ float scores[EXPERTS_MAX];
  __shared__ bool chosen[EXPERTS_MAX];
  const u32 lane = threadIdx.x;
  logits += static_cast<u64>(blockIdx.x) * count;
  expert += static_cast<u64>(blockIdx.x) * used;
  weight += static_cast<u64>(blockIdx.x) * used;

  float max = __uint_as_float(0xff800000u);
  for (u32 e = lane; e < count; e += WARP) max = fmaxf(max, logits[e]);
  max = warp_max(max);
  float total = 0.0f;
  for (u32 e = lane; e < count; e += WARP) {
    scores[e] = rule.softmax ? expf(logits[e] - max) : 1.0f / (1.0f + expf(-logits[e]));
    chosen[e] = false;
    total += scores[e];
  }
  total = rule.softmax ? warp_sum(total) : 1.0f;
  for (u32 n = 0; n < used; ++n) {
    u32 best = NONE;
    float key = 0.0f;
    for (u32 e = lane; e < count; e += WARP) {
      const float own = bias ? scores[e] / total + bias[e] : logits[e];
      if (!chosen[e] && (best == NONE || own > key)) best = e, key = own;
    }
    for (u32 step = 1; step < WARP; step *= 2) {
      const u32 other = __shfl_xor_sync(ALL_LANES, best, step);
      const float other_key = __shfl_xor_sync(ALL_LANES, key, step);
      const bool better = other != NONE && (best == NONE || other_key > key || (other_key == key && other < best));
      if (better) best = other, key = other_key;
    }
    // Lanes may disagree where a key is NaN.
    best = __shfl_sync(ALL_LANES, best, 0);
    if (lane == best % WARP) chosen[best] = true;
    __syncwarp();
  }
  if (rule.normalise) {
    total = 0.0f;
    for (u32 e = lane; e < count; e += WARP) total += chosen[e] ? scores[e] : 0.0f;
    total = warp_sum(total);
  }
  u32 before = 0;
  for (u32 first = 0; first < count; first += WARP) {
    const u32 e = first + lane;
    const bool own = e < count && chosen[e];
    const u32 lanes = __ballot_sync(ALL_LANES, own);
    if (own) {
      const u32 n = before + __popc(lanes & ((1u << lane) - 1));
      expert[n] = e;
      weight[n] = rule.scale / total * scores[e] * (scales ? scales[e] : 1.0f);
    }
    before += __popc(lanes);
  }
}

// Sorts the `pairs` choices in `expert` by their experts into `order`, and makes works of each expert's, at most `most` each.
// One block of THREADS.
extern "C" __global__ void __launch_bounds__(THREADS)
sort_choices(u32* order, Work* works, u32* work_count, const u32* expert, u32 pairs, u32 count, u32 most) {
  __shared__ u32 places[EXPERTS_MAX];  // how many pairs an expert has, then where its next one goes
  __shared__ u32 pairs_until[THREADS], works_until[THREADS];
  for (u32 e = threadIdx.x; e < count; e += THREADS) places[e] = 0;
  __syncthreads();
  for (u32 i = threadIdx.x; i < pairs; i += THREADS) atomicAdd(&places[expert[i]], 1u);
  __syncthreads();
  // A thread has a run of experts.
  const u32 each = (count + THREADS - 1) / THREADS;
  const u32 first = threadIdx.x * each < count ? threadIdx.x * each : count;
  const u32 last = first + each < count ? first + each : count;
  u32 own_pairs = 0, own_works = 0;
  for (u32 e = first; e < last; ++e) own_pairs += places[e], own_works += (places[e] + most - 1) / most;
  pairs_until[threadIdx.x] = own_pairs;
  works_until[threadIdx.x] = own_works;
  for (u32 step = 1; step < THREADS; step *= 2) {
    __syncthreads();
    const bool more = threadIdx.x >= step;
    const u32 more_pairs = more ? pairs_until[threadIdx.x - step] : 0, more_works = more ? works_until[threadIdx.x - step] : 0;
    __syncthreads();
    pairs_until[threadIdx.x] += more_pairs;
    works_until[threadIdx.x] += more_works;
  }
  u32 place = pairs_until[threadIdx.x] - own_pairs, work = works_until[threadIdx.x] - own_works;
  for (u32 e = first; e < last; ++e) {
    const u32 end = place + places[e];
    places[e] = place;
    while (place < end) {
      const u32 some = end - place < most ? end - place : most;
      works[work++] = Work{e, place, some};
      place += some;
    }
  }
  if (threadIdx.x == THREADS - 1) *work_count = work;
  __syncthreads();
  for (u32 i = threadIdx.x; i < pairs; i += THREADS) order[atomicAdd(&places[expert[i]], 1u)] = i;
}

// out[pair] = weight[pair] * x[pair / used], rows of `dim`. One thread a number.
extern "C" __global__ void __launch_bounds__(THREADS)
weigh(float* out, const float* x, const float* weight, u32 pairs, u32 used, u32 dim) {
  const u64 index = thread_index();
  if (index >= static_cast<u64>(pairs) * dim) return;
  const u64 pair = index / dim;
  out[index] = weight[pair] * x[pair / used * dim + index % dim];
}

// x[r] = z * weight / sqrt(mean(z^2) + eps), where z = x[r] * scale, rows of `dim`. Grid: rows.
extern "C" __global__ void __launch_bounds__(THREADS)
scaled_norm(float* x, const float* scale, const float* weight, u32 dim, float eps) {
  x += static_cast<u64>(blockIdx.x) * dim;
  float squares = 0.0f;
  for (u32 i = threadIdx.x; i < dim; i += THREADS) squares += x[i] * scale[i] * (x[i] * scale[i]);
  const float inverse = 1.0f / sqrtf(block_fold<Sum>(squares) / static_cast<float>(dim) + eps);
  for (u32 i = threadIdx.x; i < dim; i += THREADS) x[i] = x[i] * scale[i] * inverse * weight[i];
}

// out[row] = sum of weight * made over the choices of a row, in their order; weights are 1 where they are null. `made` is
// (rows, used, dim). One thread a number.
extern "C" __global__ void __launch_bounds__(THREADS)
combine(float* out, const float* made, const float* weight, u32 rows, u32 used, u32 dim) {
  const u64 index = thread_index();
  if (index >= static_cast<u64>(rows) * dim) return;
  const u64 row = index / dim, column = index % dim;
  float sum = 0.0f;
  for (u64 pair = row * used; pair < (row + 1) * used; ++pair) sum += (weight ? weight[pair] : 1.0f) * made[pair * dim + column];
  out[index] = sum;
}
