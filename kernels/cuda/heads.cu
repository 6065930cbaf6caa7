// A product for each head: out[t][h] = weight[h] * x[t][h], of the same integers as one of a head alone.
#include "blocks.cuh"

struct Heads {
  float* out;           // (tokens, heads * rows)
  const u8* weight;     // (heads * rows, cols)
  const float* x;       // (tokens, heads, stride), of which the first `cols` are read
  const s8* quants;     // (tokens, heads, groups * 32)
  const float* scales;  // (tokens, heads, groups)
  u32 heads, rows, cols, stride;
  u32 group;            // columns of a block
};

// Each head's numbers in 8 bits, as quantize.cu does. `count` is tokens * heads. One warp a group.
extern "C" __global__ void __launch_bounds__(THREADS)
quantize_heads(s8* quants, float* scales, const float* x, u32 count, u32 cols, u32 stride) {
  const u32 groups = (cols + GROUP - 1) / GROUP;
  const u64 index = thread_index() / WARP;
  const u32 lane = threadIdx.x % WARP;
  if (index >= static_cast<u64>(count) * groups) return;
  const u32 column = static_cast<u32>(index % groups) * GROUP + lane;
  const float value = column < cols ? x[index / groups * stride + column] : 0.0f;
  const float max = __uint_as_float(warp_max(magnitude(value)));
  const bool zero = max < TINY;
  quants[index * GROUP + lane] = zero ? 0 : static_cast<s8>(ptx::round_to_int(value * (127.0f / max)));
  if (lane == 0) scales[index] = zero ? 0.0f : max / 127.0f;
}

// Grid: tiles of 16 rows of all heads, tokens. Four lanes read a step of 64 bytes, as in matmul_q8.cu; rows of a tile may be
// of several heads.
template <int kind>
static __device__ __forceinline__ void heads_quantized(const Heads& p) {
  constexpr u32 COLUMNS = Blocks<kind>::STEP_COLUMNS;
  const Blocks<kind> blocks{p.group};
  const u32 groups = (p.cols + GROUP - 1) / GROUP, steps = groups * (GROUP / COLUMNS);
  const u8* const bytes = p.weight + blocks.tile(blockIdx.x, p.cols);
  const u32 quarter = threadIdx.x % 4, all = p.heads * p.rows;
  const u64 before = static_cast<u64>(blockIdx.y) * p.heads;
  u64 input[4];  // the group that the head's numbers begin with
  for (u32 r = 0; r < 4; ++r) {
    const u32 row = blockIdx.x * TILE_ROWS + 4 * quarter + r;
    input[r] = (before + (row < all ? row : all - 1) / p.rows) * groups;
  }
  float sums[4] = {};
  for (u32 step = threadIdx.x / 4; step < steps; step += THREADS / 4) {
    const u8* const block = bytes + static_cast<u64>(step / blocks.steps()) * blocks.bytes();
    const u32 within = step % blocks.steps(), column = step * COLUMNS;
    const uint4 packed = ptx::load_once(block + Blocks<kind>::HEAD + 64 * within + 16 * quarter);
    const u32 words[4] = {packed.x, packed.y, packed.z, packed.w};
    const u16* const scales = reinterpret_cast<const u16*>(block) + 4 * quarter;
    for (u32 r = 0; r < 4; ++r) {
      const int* const x = reinterpret_cast<const int*>(p.quants + input[r] * GROUP + column);
      u32 packed_first = words[r], packed_second = 0;
      if (kind != Q8) unpack<kind>(words[r], packed_first, packed_second);
      const int first = static_cast<int>(packed_first), second = static_cast<int>(packed_second);
      int dot = ptx::dp4a(first, x[0], 0);
      if (kind != Q8) dot = ptx::dp4a(second, x[1], dot);
      float value = ptx::from_f16(scales[r]) * (static_cast<float>(dot) / UNIT<kind>);
      if (kind == Q4_ASYM) {
        const int total = ptx::dp4a(0x01010101, x[0], ptx::dp4a(0x01010101, x[1], 0));
        value += ptx::from_f16(scales[TILE_ROWS + r]) * static_cast<float>(total);
      }
      sums[r] += p.scales[input[r] + column / GROUP] * value;
    }
  }
  __shared__ float parts[WARPS][TILE_ROWS];
  for (u32 r = 0; r < 4; ++r) {
    const float sum = warp_sum(sums[r], 4);
    if (threadIdx.x % WARP < 4) parts[threadIdx.x / WARP][4 * quarter + r] = sum;
  }
  __syncthreads();
  const u32 row = blockIdx.x * TILE_ROWS + threadIdx.x;
  if (threadIdx.x < TILE_ROWS && row < all) {
    float sum = 0.0f;
    for (u32 warp = 0; warp < WARPS; ++warp) sum += parts[warp][threadIdx.x];
    p.out[static_cast<u64>(blockIdx.y) * all + row] = sum;
  }
}

// Grid: rows of all heads / WARPS rounded up, tokens. A warp makes one row.
template <typename Element>
static __device__ __forceinline__ void heads_float(const Heads& p) {
  constexpr u32 EACH = 16 / sizeof(Element);
  const u32 row = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP, all = p.heads * p.rows;
  if (row >= all) return;
  const Element* const weight = reinterpret_cast<const Element*>(p.weight) + static_cast<u64>(row) * p.cols;
  const float* const x = p.x + (static_cast<u64>(blockIdx.y) * p.heads + row / p.rows) * p.stride;
  float sum = 0.0f;
  if (p.cols % EACH == 0) {
    for (u32 column = EACH * lane; column < p.cols; column += EACH * WARP) {
      union {
        uint4 bytes;
        Element values[EACH];
      } loaded;
      loaded.bytes = ptx::load_once(weight + column);
      for (u32 i = 0; i < EACH; ++i) sum += widen(loaded.values[i]) * x[column + i];
    }
  } else {
    for (u32 column = lane; column < p.cols; column += WARP) sum += widen(weight[column]) * x[column];
  }
  sum = warp_sum(sum);
  if (lane == 0) p.out[static_cast<u64>(blockIdx.y) * all + row] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) heads_f32(Heads p) { heads_float<float>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) heads_f16(Heads p) { heads_float<F16>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) heads_bf16(Heads p) { heads_float<Bf16>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) heads_q8(Heads p) { heads_quantized<Q8>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) heads_q4(Heads p) { heads_quantized<Q4>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) heads_q4_asym(Heads p) { heads_quantized<Q4_ASYM>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) heads_q4_codebook(Heads p) { heads_quantized<Q4_CODEBOOK>(p); }
