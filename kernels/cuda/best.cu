// The best of rows of logits, of which tokens are drawn: kernels/src/best.rs says what is given of each.
#include "select.cuh"

// Numbers that are given of a row.
constexpr u32 BEST = 256;
// Numbers of a row that one block looks at.
constexpr u32 PART = 8192;

// What is known of the parts of all rows, of as many blocks as `best_of_parts` has.
struct Parts {
  float* numbers;  // (rows, parts, BEST), of each part in the order of their indices
  u32* indices;    // (rows, parts, BEST), from the row's width on where a part has fewer
  float* sums;     // (rows, parts, 2): the largest, and the sum of powers below it
};

// 0 where a row has no temperature.
static __device__ __forceinline__ float power(float x, float largest, float temperature) {
  return temperature > 0.0f ? expf((x - largest) / temperature) : 0.0f;
}

// NaN comes before all, and -0 is 0.
static __device__ __forceinline__ u32 rank(float x) { return x != x ? 0xffffffffu : order(x + 0.0f); }

// Grid: parts, rows; BEST_THREADS.
extern "C" __global__ void __launch_bounds__(BEST_THREADS)
best_of_parts(Parts parts, const float* x, const float* temperatures, u32 width) {
  const u32 first = blockIdx.x * PART, left = width - first, count = left < PART ? left : PART;
  const u64 part = static_cast<u64>(blockIdx.y) * gridDim.x + blockIdx.x;
  const float temperature = temperatures[blockIdx.y];
  x += static_cast<u64>(blockIdx.y) * width + first;
  float largest = Largest::EMPTY, sum = 0.0f;
  for (u32 i = threadIdx.x; i < count; i += BEST_THREADS) largest = fmaxf(largest, x[i]);
  largest = block_fold<Largest>(largest);
  for (u32 i = threadIdx.x; i < count; i += BEST_THREADS) sum += power(x[i], largest, temperature);
  sum = block_fold<Sum>(sum);
  if (threadIdx.x == 0) parts.sums[2 * part] = largest, parts.sums[2 * part + 1] = sum;

  float* const numbers = parts.numbers + part * BEST;
  u32* const indices = parts.indices + part * BEST;
  const auto keep = [=](u32 place, u32 i) {
    numbers[place] = x[i] + 0.0f;
    indices[place] = first + i;
  };
  if (count > BEST) {
    select_largest(count, BEST, [=](u32 i) { return rank(x[i]); }, keep);
    return;
  }
  if (threadIdx.x >= BEST) return;
  if (threadIdx.x < count) return keep(threadIdx.x, threadIdx.x);
  numbers[threadIdx.x] = __uint_as_float(0xff800000u);
  indices[threadIdx.x] = first + threadIdx.x;
}

// out[r] is the best of all parts of a row, in their order. Grid: rows; BEST_THREADS.
extern "C" __global__ void __launch_bounds__(BEST_THREADS)
best_of_rows(float* out, Parts parts, const float* temperatures, u32 count, u32 width) {
  __shared__ u64 keys[BEST];  // largest where the number is, then where its index is least
  const u64 row = blockIdx.x;
  const float* const numbers = parts.numbers + row * count * BEST;
  const u32* const indices = parts.indices + row * count * BEST;
  const float* const sums = parts.sums + row * count * 2;
  const float temperature = temperatures[row];
  out += row * (2 * BEST + 1);
  float largest = Largest::EMPTY, sum = 0.0f;
  for (u32 i = threadIdx.x; i < count; i += BEST_THREADS) largest = fmaxf(largest, sums[2 * i]);
  largest = block_fold<Largest>(largest);
  for (u32 i = threadIdx.x; i < count; i += BEST_THREADS) sum += sums[2 * i + 1] * power(sums[2 * i], largest, temperature);
  sum = block_fold<Sum>(sum);
  if (threadIdx.x == 0) out[2 * BEST] = sum;

  // No two are alike, as no two indices are.
  const auto keep = [=](u32 place, u32 i) {
    keys[place] = static_cast<u64>(rank(numbers[i])) << 32 | ~indices[i];
  };
  if (count > 1) select_largest(count * BEST, BEST, [=](u32 i) { return rank(numbers[i]); }, keep);
  else if (threadIdx.x < BEST) keep(threadIdx.x, threadIdx.x);
  __syncthreads();
  if (threadIdx.x >= BEST) return;
  const u64 own = keys[threadIdx.x];
  u32 place = 0;
  for (u32 i = 0; i < BEST; ++i) place += keys[i] > own;
  const u32 index = ~static_cast<u32>(own), bits = static_cast<u32>(own >> 32);
  // From ranks back to numbers: a NaN's is none of its own.
  out[place] = __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
  out[BEST + place] = index < width ? static_cast<float>(index) : -1.0f;
}
