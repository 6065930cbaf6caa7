// Rotates heads by their positions. Su et al. 2021, https://arxiv.org/abs/2104.09864.
#include "common.cuh"

// Turns the numbers at `pair` and `apart` behind it.
static __device__ __forceinline__ void turn(float* pair, u32 apart, float angle) {
  float sine, cosine;
  sincosf(angle, &sine, &cosine);
  const float a = pair[0], b = pair[apart];
  pair[0] = a * cosine - b * sine;
  pair[apart] = a * sine + b * cosine;
}

// `x` is (rows, heads * head_dim), `frequencies` (half), `batch` (rows). Element i < half of a head pairs with i + half.
// One thread a pair.
extern "C" __global__ void __launch_bounds__(THREADS)
rope(float* x, const float* frequencies, const Row* batch, u32 rows, u32 heads, u32 head_dim, u32 half) {
  const u64 index = thread_index();
  const u32 i = static_cast<u32>(index % half);
  const u64 head = index / half;  // of all rows
  if (head >= static_cast<u64>(rows) * heads) return;
  turn(x + head * head_dim + i, half, static_cast<float>(batch[head / heads].position) * frequencies[i]);
}

// `rope` by three numbers a row, `turns` (rows, 3): frequency i takes the second where i % 3 is 1 and i < 3 * second, the
// third where i % 3 is 2 and i < 3 * third, else the first. Wang et al. 2024, https://arxiv.org/abs/2409.12191.
extern "C" __global__ void __launch_bounds__(THREADS)
rope_axes(float* x, const float* frequencies, const u32* turns, u32 rows, u32 heads, u32 head_dim, u32 half, u32 second,
          u32 third) {
  const u64 index = thread_index();
  const u32 i = static_cast<u32>(index % half);
  const u64 head = index / half;
  if (head >= static_cast<u64>(rows) * heads) return;
  const u32 axis = i % 3 == 1 && i < 3 * second ? 1 : i % 3 == 2 && i < 3 * third ? 2 : 0;
  turn(x + head * head_dim + i, half, static_cast<float>(turns[head / heads * 3 + axis]) * frequencies[i]);
}

// Turns by a place on a plane, `places` (rows, 2): element i < 2 * count of a head pairs with i + head_dim / 2 and turns by
// coordinate i / count. Heo et al. 2024, https://arxiv.org/abs/2403.13298. One thread a pair.
extern "C" __global__ void __launch_bounds__(THREADS)
rope_2d(float* x, const float* frequencies, const u32* places, u32 rows, u32 heads, u32 head_dim, u32 count) {
  const u64 index = thread_index();
  const u32 i = static_cast<u32>(index % (2 * count));
  const u64 head = index / (2 * count);
  if (head >= static_cast<u64>(rows) * heads) return;
  const float angle = static_cast<float>(places[head / heads * 2 + i / count]) * frequencies[i % count];
  turn(x + head * head_dim + i, head_dim / 2, angle);
}
