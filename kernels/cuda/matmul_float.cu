// out[t] = weight * x[t] + bias for float weights and f32 activations.
#include "choices.cuh"

// One product; `Element` is float, F16 or Bf16.
struct FloatProduct {
  float* out;          // (tokens, rows)
  const void* weight;  // (rows, cols)
  const float* bias;   // (rows) or null
  const float* x;      // (tokens, cols)
  u32 rows, cols;
  u32 tokens;          // at most TOKENS
};

// A warp makes one row. It reads 16 bytes a lane where rows are whole 16s, and an element a lane where not.
template <typename Element, u32 TOKENS>
static __device__ __forceinline__ void row_product(const FloatProduct& p, u32 row) {
  constexpr u32 EACH = 16 / sizeof(Element);
  const u32 lane = threadIdx.x % WARP;
  const Element* const weight = static_cast<const Element*>(p.weight) + static_cast<u64>(row) * p.cols;
  float sums[TOKENS] = {};
  if (p.cols % EACH == 0) {
    for (u32 column = EACH * lane; column < p.cols; column += EACH * WARP) {
      union {
        uint4 bytes;
        Element values[EACH];
      } loaded;
      loaded.bytes = ptx::load_once(weight + column);
      for (u32 t = 0; t < TOKENS; ++t) {
        if (t >= p.tokens) break;
        const float* const x = p.x + static_cast<u64>(t) * p.cols + column;
        for (u32 i = 0; i < EACH; ++i) sums[t] += widen(loaded.values[i]) * x[i];
      }
    }
  } else {
    for (u32 column = lane; column < p.cols; column += WARP) {
      const float w = widen(weight[column]);
      for (u32 t = 0; t < TOKENS; ++t) {
        if (t >= p.tokens) break;
        sums[t] += w * p.x[static_cast<u64>(t) * p.cols + column];
      }
    }
  }
  for (u32 t = 0; t < TOKENS; ++t) {
    const float sum = warp_sum(sums[t]);
    if (lane == 0 && t < p.tokens) {
      p.out[static_cast<u64>(t) * p.rows + row] = sum + (p.bias ? p.bias[row] : 0.0f);
    }
  }
}

// Grid: rows / WARPS rounded up, tokens / TOKENS rounded up.
template <typename Element, u32 TOKENS>
static __device__ __forceinline__ void matmul_float(FloatProduct p) {
  const u32 row = blockIdx.x * WARPS + threadIdx.x / WARP;
  if (row >= p.rows) return;
  const u64 before = static_cast<u64>(blockIdx.y) * TOKENS;
  p.out += before * p.rows;
  p.x += before * p.cols;
  p.tokens -= static_cast<u32>(before);
  row_product<Element, TOKENS>(p, row);
}

// Grid: pairs, rows / WARPS rounded up.
template <typename Element>
static __device__ __forceinline__ void matmul_float_of_expert(FloatProduct p, const Choices& choices) {
  const u32 row = blockIdx.y * WARPS + threadIdx.x / WARP;
  if (row >= p.rows) return;
  const u64 pair = blockIdx.x;
  p.weight = choices.weights[choices.expert[pair]];
  p.out += pair * p.rows;
  p.x += (choices.inputs_per_row == 1 ? pair / choices.used : pair) * p.cols;
  p.tokens = 1;
  row_product<Element, 1>(p, row);
}

#define KERNELS(name, Element)                                                                                        \
  extern "C" __global__ void __launch_bounds__(THREADS) matmul_##name##_1(FloatProduct p) {                           \
    matmul_float<Element, 1>(p);                                                                                      \
  }                                                                                                                   \
  extern "C" __global__ void __launch_bounds__(THREADS) matmul_##name##_8(FloatProduct p) {                           \
    matmul_float<Element, 8>(p);                                                                                      \
  }                                                                                                                   \
  extern "C" __global__ void __launch_bounds__(THREADS) matmul_##name##_expert(FloatProduct p, Choices choices) {     \
    matmul_float_of_expert<Element>(p, choices);                                                                      \
  }

KERNELS(f32, float)
KERNELS(f16, F16)
KERNELS(bf16, Bf16)
#undef KERNELS
