// out[r] = x[r] * weight / sqrt(mean(x[r]^2) + eps). Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467.
#include "common.cuh"

// `out` and `x` are (rows, cols) and may be the same. Grid: rows; up to 256 threads.
extern "C" __global__ void __launch_bounds__(256)
rms_norm(float* out, const float* x, const float* weight, u32 cols, float eps) {
  x += static_cast<u64>(blockIdx.x) * cols;
  out += static_cast<u64>(blockIdx.x) * cols;
  float squares = 0.0f;
  for (u32 i = threadIdx.x; i < cols; i += blockDim.x) squares += x[i] * x[i];
  const float mean = block_fold<Sum>(squares) / static_cast<float>(cols);
  const float inverse = 1.0f / sqrtf(mean + eps);
  for (u32 i = threadIdx.x; i < cols; i += blockDim.x) out[i] = x[i] * inverse * weight[i];
}
