// out[t] = weight * x[t] + bias for float weights and f32 activations.
#include "products.cuh"

// Tokens that share what is read of a weight.
constexpr u32 FLOAT_TOKENS = 8;

// A warp makes one row for the job's tokens from `first` on. It reads 16 bytes a lane where rows are whole 16s, and an element
// a lane where not. `Element` is float, F16 or Bf16.
template <typename Element>
static __device__ __forceinline__ void row_product(const Products& p, const Job& job, const Choices& choices, u32 row,
                                                   u32 first) {
  constexpr u32 EACH = 16 / sizeof(Element);
  const u32 lane = threadIdx.x % WARP;
  const Element* const weight = static_cast<const Element*>(job.weight) + static_cast<u64>(row) * p.cols;
  const u32 count = job.rows.count - first;
  const float* x[FLOAT_TOKENS];
  for (u32 t = 0; t < FLOAT_TOKENS; ++t) {
    x[t] = p.x + static_cast<u64>(t < count ? input_of(choices, job.rows, first + t) : 0) * p.cols;
  }
  float sums[FLOAT_TOKENS] = {};
  if (p.cols % EACH == 0) {
    for (u32 column = EACH * lane; column < p.cols; column += EACH * WARP) {
      union {
        uint4 bytes;
        Element values[EACH];
      } loaded;
      loaded.bytes = ptx::load_once(weight + column);
      for (u32 t = 0; t < FLOAT_TOKENS; ++t) {
        if (t >= count) break;
        for (u32 i = 0; i < EACH; i += 4) {
          // 16 bytes at once: a quarter of the passes through L1 that number by number takes.
          const uint4 four = *reinterpret_cast<const uint4*>(x[t] + column + i);
          sums[t] += widen(loaded.values[i]) * __uint_as_float(four.x) + widen(loaded.values[i + 1]) * __uint_as_float(four.y);
          sums[t] += widen(loaded.values[i + 2]) * __uint_as_float(four.z) + widen(loaded.values[i + 3]) * __uint_as_float(four.w);
        }
      }
    }
  } else {
    for (u32 column = lane; column < p.cols; column += WARP) {
      const float w = widen(weight[column]);
      for (u32 t = 0; t < FLOAT_TOKENS; ++t) {
        if (t >= count) break;
        sums[t] += w * x[t][column];
      }
    }
  }
  for (u32 t = 0; t < FLOAT_TOKENS; ++t) {
    const float sum = warp_sum(sums[t]);
    if (lane == 0 && t < count) {
      const float bias = job.product.bias ? job.product.bias[row] : 0.0f;
      job.product.out[static_cast<u64>(output_of(choices, job.rows, first + t)) * job.product.rows + row] = sum + bias;
    }
  }
}

// Grid: works, pairs or tokens / FLOAT_TOKENS rounded up, times rows / WARPS of each product, rounded up.
template <typename Element>
static __device__ __forceinline__ void matmul_float(const Products& p, const Choices& choices) {
  Job job;
  if (!find_job(p, choices, FLOAT_TOKENS, job)) return;
  const u32 row = job.block * WARPS + threadIdx.x / WARP;
  if (row >= job.product.rows) return;
  for (u32 first = 0; first < job.rows.count; first += FLOAT_TOKENS) row_product<Element>(p, job, choices, row, first);
}

// Prompts of 16-bit weights, on tensor cores. Weights are exact as numbers of 11 bits (tf32), and activations are the sum of two
// such: what is left of one is below 2^-21 of it, less than sums of a few products round. So each tile is multiplied twice.
// Weights in f32 would take three products and have their own 13 bits less; they are made by threads.
//
// A block makes 128 rows of 64 tokens, a warp 32 of them. As in matmul_q8.cu the order of columns is free: of 32 columns a lane,
// g = lane / 4 and t = lane % 4, has those from 8t on, of its rows g and g + 8 and of token g, two for each product of tiles.
constexpr u32 FLOAT_COLUMNS = 32;  // of a stage
constexpr u32 FLOAT_STAGES = 2;
constexpr u32 FLOAT_PROMPT = 64;
constexpr u32 FLOAT_ROWS = 32;     // of a warp
// Numbers from one token to the next: lanes of 8 load 16 bytes at 8t + 36g of two g at a time, which is each bank once.
constexpr u32 FLOAT_STRIDE = FLOAT_COLUMNS + 4;

struct alignas(16) FloatStage {
  uint4 weights[4][THREADS];  // rows g, g + 8, g + 16, g + 24 of a warp's, a thread's own
  uint4 x[FLOAT_PROMPT][FLOAT_STRIDE / 4];
};

// The two halves of a word, as floats' bits.
static __device__ __forceinline__ void widen_two(u32 word, u32& low, u32& high, F16) {
  low = __float_as_uint(ptx::from_f16(static_cast<u16>(word)));
  high = __float_as_uint(ptx::from_f16(static_cast<u16>(word >> 16)));
}
static __device__ __forceinline__ void widen_two(u32 word, u32& low, u32& high, Bf16) {
  low = word << 16;
  high = word & 0xffff0000u;
}

// x as a sum of two numbers of 11 bits, of which the second is rounded.
static __device__ __forceinline__ void split(u32 x, u32& large, u32& small) {
  large = x & 0xffffe000u;
  small = __float_as_uint(__uint_as_float(x) - __uint_as_float(large)) + 0x1000u;
}

// Adds the products of a stage for the first `count` tokens.
template <typename Element>
static __device__ __forceinline__ void multiply(float (&sums)[FLOAT_PROMPT / 8][2][4], const FloatStage& stage, u32 count) {
  const u32 lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
  for (u32 half = 0; half < 2; ++half) {  // columns 8t + 4 half and up
    u32 a[2][2][4];                       // [pair of columns][tile]
    for (u32 r = 0; r < 4; ++r) {
      const uint4& all = stage.weights[r][threadIdx.x];
      const u32 words[2] = {half == 0 ? all.x : all.z, half == 0 ? all.y : all.w};
      for (u32 i = 0; i < 2; ++i) widen_two(words[i], a[i][r / 2][r % 2], a[i][r / 2][2 + r % 2], Element{});
    }
    for (u32 n = 0; n < FLOAT_PROMPT / 8; ++n) {
      if (n % 2 == 0 && n * 8 >= count) break;
      const uint4 x = stage.x[n * 8 + g][2 * t + half];
      const u32 words[4] = {x.x, x.y, x.z, x.w};
      u32 large[4], small[4];
      for (u32 i = 0; i < 4; ++i) split(words[i], large[i], small[i]);
      for (u32 i = 0; i < 2; ++i) {
        for (u32 j = 0; j < 2; ++j) {
          ptx::multiply_tile_float(sums[n][j], a[i][j], small[2 * i], small[2 * i + 1]);
          ptx::multiply_tile_float(sums[n][j], a[i][j], large[2 * i], large[2 * i + 1]);
        }
      }
    }
  }
}

// Rows are whole 16 bytes of weights. Grid: works or tokens / FLOAT_PROMPT rounded up, times blocks of 128 rows of each product.
template <typename Element>
static __device__ __forceinline__ void matmul_float_prompt(const Products& p, const Choices& choices) {
  constexpr u32 PIECES = FLOAT_PROMPT * FLOAT_COLUMNS / 4 / THREADS;  // of 4 activations, a thread
  __shared__ FloatStage stages[FLOAT_STAGES];
  Job job;
  if (!find_job(p, choices, FLOAT_PROMPT, job)) return;
  const u32 lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
  const u32 first_row = (job.block * WARPS + threadIdx.x / WARP) * FLOAT_ROWS, rows = job.product.rows;
  const u8* weights[4];
  for (u32 r = 0; r < 4; ++r) {
    const u32 row = first_row + g + 8 * r;
    weights[r] = static_cast<const u8*>(job.weight) + (static_cast<u64>(row < rows ? row : rows - 1) * p.cols + 8 * t) * 2;
  }
  // Thread n copies piece n of the activations, 8 pieces a token, and every THREADS-th from there.
  const u32 token = threadIdx.x / 8, piece = threadIdx.x % 8;
  const float* x[PIECES];
  for (u32 i = 0; i < PIECES; ++i) {
    const u32 n = token + i * (THREADS / 8);
    x[i] = n < job.rows.count ? p.x + static_cast<u64>(input_of(choices, job.rows, n)) * p.cols + 4 * piece : nullptr;
  }
  const ptx::Shared to_weights = ptx::shared(&stages[0].weights[0][threadIdx.x]);
  const ptx::Shared to_x = ptx::shared(&stages[0].x[token][piece]);
  const auto copy = [&](u32 place, u32 stage) {
    const u32 column = stage * FLOAT_COLUMNS, at = place * sizeof(FloatStage);
    for (u32 r = 0; r < 4; ++r) {
      ptx::copy_async<16>(to_weights + (at + r * THREADS * 16), weights[r] + 2 * column, column + 8 * t < p.cols);
    }
    for (u32 i = 0; i < PIECES; ++i) {
      ptx::copy_async<16>(to_x + (at + i * (THREADS / 8) * FLOAT_STRIDE * 4), x[i] + column,
                          x[i] && column + 4 * piece < p.cols);
    }
    ptx::end_copies();
  };

  float sums[FLOAT_PROMPT / 8][2][4] = {};
  const u32 all = (p.cols + FLOAT_COLUMNS - 1) / FLOAT_COLUMNS;
  copy(0, 0);
  for (u32 n = 0; n < all; ++n) {
    ptx::wait_for_copies<0>();
    // All see stage n, and have read stage n - 1, whose place the next one takes.
    __syncthreads();
    if (n + 1 < all) copy((n + 1) % FLOAT_STAGES, n + 1);
    multiply<Element>(sums, stages[n % FLOAT_STAGES], job.rows.count);
  }
  for (u32 n = 0; n < FLOAT_PROMPT / 8; ++n) {
    for (u32 c = 0; c < 2; ++c) {
      const u32 token_out = n * 8 + 2 * t + c;
      if (token_out >= job.rows.count) break;
      float* const out = job.product.out + static_cast<u64>(output_of(choices, job.rows, token_out)) * rows;
      for (u32 r = 0; r < 4; ++r) {
        const u32 row = first_row + g + 8 * r;
        if (row < rows) out[row] = sums[n][r / 2][2 * (r % 2) + c] + (job.product.bias ? job.product.bias[row] : 0.0f);
      }
    }
  }
}

#define KERNELS(name, Element)                                                                                        \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                               \
  matmul_##name##_few(const Products products, const Choices choices) {                                               \
    matmul_float<Element>(products, choices);                                                                         \
  }

#define PROMPT_KERNEL(name, Element)                                                                                  \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                               \
  matmul_##name##_prompt(const Products products, const Choices choices) {                                            \
    matmul_float_prompt<Element>(products, choices);                                                                  \
  }

KERNELS(f32, float)
KERNELS(f16, F16)
KERNELS(bf16, Bf16)
PROMPT_KERNEL(f16, F16)
PROMPT_KERNEL(bf16, Bf16)
#undef KERNELS
#undef PROMPT_KERNEL
