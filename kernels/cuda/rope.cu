// Rotates heads by their positions. Su et al. 2021, https://arxiv.org/abs/2104.09864.
#include "common.cuh"

// `x` is (rows, heads * head_dim), `frequencies` (half), `batch` (rows). Element i < half of a head pairs with i + half.
// One thread a pair.
extern "C" __global__ void __launch_bounds__(THREADS)
rope(float* x, const float* frequencies, const Row* batch, u32 rows, u32 heads, u32 head_dim, u32 half) {
  const u64 index = thread_index();
  const u32 i = static_cast<u32>(index % half);
  const u64 head = index / half;  // of all rows
  if (head >= static_cast<u64>(rows) * heads) return;
  const float angle = static_cast<float>(batch[head / heads].position) * frequencies[i];
  float sine, cosine;
  sincosf(angle, &sine, &cosine);
  float* const pair = x + head * head_dim + i;
  const float a = pair[0], b = pair[half];
  pair[0] = a * cosine - b * sine;
  pair[half] = a * sine + b * cosine;
}
