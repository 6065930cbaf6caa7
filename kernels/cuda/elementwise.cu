// Operations on each number by itself; one thread a number.
#include "common.cuh"

static __device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// gate[i] = activation(gate[i]) * up[i]; activations in the order of launch.rs.
extern "C" __global__ void __launch_bounds__(THREADS) glu(float* gate, const float* up, u64 len, u32 activation) {
  const u64 i = thread_index();
  if (i >= len) return;
  const float x = gate[i];
  // 0.5 * (1 + tanh(u)) is sigmoid(2 u), which does not cancel; 1.5957691 is 2 * sqrt(2 / pi).
  const float argument = activation == 2 ? 1.5957691216f * (x + 0.044715f * x * x * x) : x;
  const float factor = activation == 1 ? 1.0f : x;
  gate[i] = factor * sigmoid(argument) * up[i];
}

// x[i] += y[i]
extern "C" __global__ void __launch_bounds__(THREADS) add(float* x, const float* y, u64 len) {
  const u64 i = thread_index();
  if (i < len) x[i] += y[i];
}

// x[i] = softcap * tanh(scale * x[i] / softcap), or scale * x[i] where softcap is 0.
extern "C" __global__ void __launch_bounds__(THREADS) scale_and_cap(float* x, u64 len, float scale, float softcap) {
  const u64 i = thread_index();
  if (i >= len) return;
  const float scaled = scale * x[i];
  x[i] = softcap > 0.0f ? softcap * tanhf(scaled / softcap) : scaled;
}

// out[i] = x[rows[i]], rows of `width`. Grid: rows.
extern "C" __global__ void __launch_bounds__(THREADS) gather(float* out, const float* x, const u32* rows, u32 width) {
  const float* const from = x + static_cast<u64>(rows[blockIdx.x]) * width;
  out += static_cast<u64>(blockIdx.x) * width;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) out[i] = from[i];
}
