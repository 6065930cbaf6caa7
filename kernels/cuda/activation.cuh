// What a feed-forward makes of a number.
#pragma once
#include "common.cuh"

static __device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Activations in the order of launch.rs: silu, sigmoid, GELU by tanh, GELU by erf.
static __device__ __forceinline__ float activated(float x, u32 activation) {
  // 0.5 * (1 + erf(x / sqrt(2))), which does not cancel where x is below 0.
  if (activation == 3) return 0.5f * x * erfcf(-0.70710678f * x);
  // 0.5 * (1 + tanh(u)) is sigmoid(2 u), which does not cancel; 1.5957691 is 2 * sqrt(2 / pi).
  const float argument = activation == 2 ? 1.5957691216f * (x + 0.044715f * x * x * x) : x;
  return (activation == 1 ? 1.0f : x) * sigmoid(argument);
}
