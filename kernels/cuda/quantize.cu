// Activations in 8 bits: scale = max|x| / 127, q = round_ties_even(x * (127 / max|x|)), groups of 32.
#include "common.cuh"

// `x` is (rows / share, cols), `weight` (rows) or null for ones, `quants` (rows, groups * 32), `scales` (rows, groups): of
// weight[r] * x[r / share]. One warp a group; columns past `cols` are 0. A group that holds a NaN or an infinity has that
// scale, which makes its products not finite.
extern "C" __global__ void __launch_bounds__(THREADS)
quantize(s8* quants, float* scales, const float* x, const float* weight, u32 rows, u32 cols, u32 share) {
  const u32 groups = (cols + GROUP - 1) / GROUP;
  const u64 index = thread_index() / WARP;
  const u32 lane = threadIdx.x % WARP;
  if (index >= static_cast<u64>(rows) * groups) return;
  const u32 row = static_cast<u32>(index / groups);
  const u32 column = static_cast<u32>(index % groups) * GROUP + lane;
  float value = column < cols ? x[static_cast<u64>(row / share) * cols + column] : 0.0f;
  if (weight) value *= weight[row];
  const float max = __uint_as_float(warp_max(magnitude(value)));
  const bool zero = max < TINY;
  quants[index * GROUP + lane] = zero ? 0 : static_cast<s8>(ptx::round_to_int(value * (127.0f / max)));
  if (lane == 0) scales[index] = zero ? 0.0f : max / 127.0f;
}
