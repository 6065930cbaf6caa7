// Norms of rows.
#include "common.cuh"

// out[r] = x[r] * weight / sqrt(mean(x[r]^2) + eps). Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467.
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

// x[r] = weight * (x[r] - mean(x[r])) / sqrt(variance(x[r]) + eps) + bias. Ba et al. 2016, https://arxiv.org/abs/1607.06450.
// Grid: rows; up to 256 threads.
extern "C" __global__ void __launch_bounds__(256)
layer_norm(float* x, const float* weight, const float* bias, u32 cols, float eps) {
  x += static_cast<u64>(blockIdx.x) * cols;
  float sum = 0.0f;
  for (u32 i = threadIdx.x; i < cols; i += blockDim.x) sum += x[i];
  const float mean = block_fold<Sum>(sum) / static_cast<float>(cols);
  float squares = 0.0f;
  for (u32 i = threadIdx.x; i < cols; i += blockDim.x) squares += (x[i] - mean) * (x[i] - mean);
  const float inverse = 1.0f / sqrtf(block_fold<Sum>(squares) / static_cast<float>(cols) + eps);
  for (u32 i = threadIdx.x; i < cols; i += blockDim.x) x[i] = weight[i] * (x[i] - mean) * inverse + bias[i];
}
