// out[t] = weight * x[t] + bias for quantized weights and activations quantized by quantize.cu. Integers are exact.
#include "blocks.cuh"
#include "choices.cuh"

// One product of a tile of 16 rows: what is common to the products of a layer and those of an expert.
struct Product {
  float* out;           // (tokens, rows)
  const u8* weight;     // (rows, cols), packed
  const float* bias;    // (rows) or null
  const s8* quants;     // (tokens, groups * 32)
  const float* scales;  // (tokens, groups)
  u32 rows, cols;
  u32 tokens;           // at most TOKENS
  u32 group;            // columns of a block
};

// A block of threads makes one tile. Four lanes read a step of 64 bytes, 16 bytes each, which is 4 rows by 4 or 8 columns;
// warps and the other lanes take other steps of the same tile, so that a warp reads 512 bytes in a row.
template <int kind, u32 TOKENS>
static __device__ __forceinline__ void tile_product(const Product& p, u32 tile) {
  constexpr u32 COLUMNS = Blocks<kind>::STEP_COLUMNS;
  constexpr u32 HEAD = Blocks<kind>::HEAD;
  constexpr u32 STEPS = THREADS / 4;  // read at once by a block of threads
  const Blocks<kind> blocks{p.group};
  const u32 groups = (p.cols + GROUP - 1) / GROUP;
  // Blocks may reach past the last group of activations, where those would be 0.
  const u32 steps = groups * (GROUP / COLUMNS);
  const u32 per_block_log2 = 31 - __clz(static_cast<int>(blocks.steps()));
  const u8* const bytes = p.weight + blocks.tile(tile, p.cols);
  const u32 quarter = threadIdx.x % 4;
  float sums[TOKENS][4] = {};
  for (u32 step = threadIdx.x / 4; step < steps; step += STEPS) {
    const u32 block_index = step >> per_block_log2;
    const u8* const block = bytes + static_cast<u64>(block_index) * blocks.bytes();
    const u32 within = step - (block_index << per_block_log2);
    const uint4 packed = ptx::load_once(block + HEAD + 64 * within + 16 * quarter);
    const u32 words[4] = {packed.x, packed.y, packed.z, packed.w};
    const u16* const scales = reinterpret_cast<const u16*>(block) + 4 * quarter;
    float scale[4], offset[4];
    int first[4], second[4];
    for (u32 r = 0; r < 4; ++r) {
      scale[r] = ptx::from_f16(scales[r]);
      offset[r] = kind == Q4_ASYM ? ptx::from_f16(scales[TILE_ROWS + r]) : 0.0f;
      if (kind == Q8) first[r] = static_cast<int>(words[r]);
      else unpack<kind>(words[r], first[r], second[r]);
    }
    for (u32 t = 0; t < TOKENS; ++t) {
      if (t >= p.tokens) break;
      const u64 column = static_cast<u64>(t) * groups * GROUP + step * COLUMNS;
      const int* const x = reinterpret_cast<const int*>(p.quants + column);
      const float x_scale = p.scales[column / GROUP];
      const int x_first = x[0], x_second = kind == Q8 ? 0 : x[1];
      const int total = kind == Q4 || kind == Q4_ASYM
                            ? ptx::dp4a(0x01010101, x_first, ptx::dp4a(0x01010101, x_second, 0)) : 0;
      for (u32 r = 0; r < 4; ++r) {
        int dot = ptx::dp4a(first[r], x_first, kind == Q4 ? -8 * total : 0);
        if (kind != Q8) dot = ptx::dp4a(second[r], x_second, dot);
        float value = scale[r] * static_cast<float>(dot);
        if (kind == Q4_ASYM) value += offset[r] * static_cast<float>(total);
        sums[t][r] += x_scale * value;
      }
    }
  }
  __shared__ float parts[WARPS][TOKENS][TILE_ROWS];
  for (u32 t = 0; t < TOKENS; ++t) {
    for (u32 r = 0; r < 4; ++r) {
      const float sum = warp_sum(sums[t][r], 4);
      if (threadIdx.x % WARP < 4) parts[threadIdx.x / WARP][t][4 * quarter + r] = sum;
    }
  }
  __syncthreads();
  const u32 t = threadIdx.x / TILE_ROWS;
  const u32 row = tile * TILE_ROWS + threadIdx.x % TILE_ROWS;
  if (t < TOKENS && t < p.tokens && row < p.rows) {
    float sum = p.bias ? p.bias[row] : 0.0f;
    for (u32 warp = 0; warp < WARPS; ++warp) sum += parts[warp][t][threadIdx.x % TILE_ROWS];
    p.out[static_cast<u64>(t) * p.rows + row] = sum;
  }
}

// Grid: tiles, tokens / TOKENS rounded up.
template <int kind, u32 TOKENS>
static __device__ __forceinline__ void matmul(Product p) {
  const u64 before = static_cast<u64>(blockIdx.y) * TOKENS;
  const u64 groups = (p.cols + GROUP - 1) / GROUP;
  p.out += before * p.rows;
  p.quants += before * groups * GROUP;
  p.scales += before * groups;
  p.tokens -= static_cast<u32>(before);
  tile_product<kind, TOKENS>(p, blockIdx.x);
}

// Grid: pairs, tiles.
template <int kind>
static __device__ __forceinline__ void matmul_of_expert(Product p, const Choices& choices) {
  const u64 pair = blockIdx.x;
  const u64 input = choices.inputs_per_row == 1 ? pair / choices.used : pair;
  const u64 groups = (p.cols + GROUP - 1) / GROUP;
  p.weight = choices.weights[choices.expert[pair]];
  p.out += pair * p.rows;
  p.quants += input * groups * GROUP;
  p.scales += input * groups;
  p.tokens = 1;
  tile_product<kind, 1>(p, blockIdx.y);
}

// Each kind for one token, which is decode, for up to 8 that share what is read, and for the choices of experts.
#define KERNELS(name, kind)                                                                                       \
  extern "C" __global__ void __launch_bounds__(THREADS) matmul_##name##_1(Product p) { matmul<kind, 1>(p); }      \
  extern "C" __global__ void __launch_bounds__(THREADS) matmul_##name##_8(Product p) { matmul<kind, 8>(p); }      \
  extern "C" __global__ void __launch_bounds__(THREADS) matmul_##name##_expert(Product p, Choices choices) {      \
    matmul_of_expert<kind>(p, choices);                                                                           \
  }

KERNELS(q8, Q8)
KERNELS(q4, Q4)
KERNELS(q4_asym, Q4_ASYM)
KERNELS(q4_codebook, Q4_CODEBOOK)
#undef KERNELS
