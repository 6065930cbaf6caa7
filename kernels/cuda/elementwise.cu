// Operations on each number by itself; one thread a number.
#include "activation.cuh"

// gate[i] = activation(gate[i]) * up[i]
extern "C" __global__ void __launch_bounds__(THREADS) glu(float* gate, const float* up, u64 len, u32 activation) {
  const u64 i = thread_index();
  if (i < len) gate[i] = activated(gate[i], activation) * up[i];
}

// x[i] = activation(x[i])
extern "C" __global__ void __launch_bounds__(THREADS) activate(float* x, u64 len, u32 activation) {
  const u64 i = thread_index();
  if (i < len) x[i] = activated(x[i], activation);
}

// x[r] = x[r] * weight, rows of `cols`.
extern "C" __global__ void __launch_bounds__(THREADS) multiply_rows(float* x, const float* weight, u64 len, u32 cols) {
  const u64 i = thread_index();
  if (i < len) x[i] *= weight[i % cols];
}

// x[r] = sigmoid(gate[r]) * x[r], rows of `width`.
extern "C" __global__ void __launch_bounds__(THREADS) gate_rows(float* x, const float* gate, u64 len, u32 width) {
  const u64 i = thread_index();
  if (i < len) x[i] *= sigmoid(gate[i / width]);
}

// x[i] += y[i]
extern "C" __global__ void __launch_bounds__(THREADS) add(float* x, const float* y, u64 len) {
  const u64 i = thread_index();
  if (i < len) x[i] += y[i];
}

// x[i] = min(max(x[i], low), high); a NaN stays one.
extern "C" __global__ void __launch_bounds__(THREADS) clip(float* x, u64 len, float low, float high) {
  const u64 i = thread_index();
  if (i >= len) return;
  const float own = x[i];
  if (own < low) x[i] = low;
  else if (own > high) x[i] = high;
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

// out[rows[i]] = x[i], rows of `width`. Grid: rows.
extern "C" __global__ void __launch_bounds__(THREADS) scatter(float* out, const float* x, const u32* rows, u32 width) {
  float* const to = out + static_cast<u64>(rows[blockIdx.x]) * width;
  x += static_cast<u64>(blockIdx.x) * width;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) to[i] = x[i];
}

// out[r] is a[r], of `first`, and behind it b[r], of `second`.
extern "C" __global__ void __launch_bounds__(THREADS)
join(float* out, const float* a, const float* b, u64 len, u32 first, u32 second) {
  const u64 i = thread_index();
  if (i >= len) return;
  const u64 row = i / (first + second), column = i % (first + second);
  out[i] = column < first ? a[row * first + column] : b[row * second + column - first];
}

// Rows that a mean is of: from `first` on, `len` of them.
struct Stack {
  u32 first, len;
};

// out[s] is the mean of the rows of stacks[s], rows of `width`, summed one after another in f64. Grid: width / THREADS, stacks.
extern "C" __global__ void __launch_bounds__(THREADS)
mean(float* out, const float* x, const Stack* stacks, u32 width) {
  const u32 column = blockIdx.x * THREADS + threadIdx.x;
  if (column >= width) return;
  const Stack stack = stacks[blockIdx.y];
  f64 sum = 0.0;
  for (u32 n = 0; n < stack.len; ++n) sum += static_cast<f64>(x[static_cast<u64>(stack.first + n) * width + column]);
  out[static_cast<u64>(blockIdx.y) * width + column] = static_cast<float>(sum / static_cast<f64>(stack.len));
}

// x[r] *= 1 + strength * ln(1 + (position + 1) / every), rows of `width`; see muse_format::Temperature. Grid: rows.
extern "C" __global__ void __launch_bounds__(THREADS)
temper(float* x, const Row* batch, u32 width, u32 every, float strength) {
  const u64 steps = (static_cast<u64>(batch[blockIdx.x].position) + 1) / every;
  const f64 factor = 1.0 + static_cast<f64>(strength) * log1p(static_cast<f64>(steps));
  x += static_cast<u64>(blockIdx.x) * width;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) x[i] = static_cast<float>(static_cast<f64>(x[i]) * factor);
}
