// A causal convolution along a sequence that comes in parts, a channel for itself: kernels/src/backend.rs, `convolve_causal`.
#include "common.cuh"

// Row `at` of the `kept` rows of `before` and those of `x` behind them.
static __device__ __forceinline__ const float* row_at(const float* before, const float* x, u32 at, u32 kept, u32 channels) {
  return at < kept ? before + static_cast<u64>(at) * channels : x + static_cast<u64>(at - kept) * channels;
}

// out[t] = bias + sum over j of weight[j] * x[t + 1 - taps + j], where a row before the first is one of `before`, the last one
// last. `weight` is (taps, channels). Grid: rows, channels / THREADS.
extern "C" __global__ void __launch_bounds__(THREADS)
convolve_causal(float* out, const float* x, const float* before, const float* weight, const float* bias, u32 taps, u32 channels) {
  const u32 row = blockIdx.x, channel = blockIdx.y * THREADS + threadIdx.x;
  if (channel >= channels) return;
  float sum = bias[channel];
  for (u32 j = 0; j < taps; ++j) {
    sum += weight[static_cast<u64>(j) * channels + channel] * row_at(before, x, row + j, taps - 1, channels)[channel];
  }
  out[static_cast<u64>(row) * channels + channel] = sum;
}

// Makes `before`, `kept` rows, the last of its rows and of the `rows` of `x` behind them. Grid: channels / THREADS.
extern "C" __global__ void __launch_bounds__(THREADS)
pass_on(float* before, const float* x, u32 rows, u32 kept, u32 channels) {
  const u32 channel = blockIdx.x * THREADS + threadIdx.x;
  if (channel >= channels) return;
  // A row comes from one behind it, so that none is overwritten before it is read.
  for (u32 i = 0; i < kept; ++i) {
    before[static_cast<u64>(i) * channels + channel] = row_at(before, x, i + rows, kept, channels)[channel];
  }
}
