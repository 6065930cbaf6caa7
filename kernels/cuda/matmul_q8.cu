// out[t] = weight * x[t] + bias for quantized weights and activations quantized by quantize.cu, on tensor cores. Integers
// are exact: a group of 32 columns is one product of tiles, whose sums of 32 bytes by bytes are whole.
//
// How bytes meet the product of tiles (ptx::multiply_tile, 16 rows x 32 columns by 32 x 8 tokens). A lane, g = lane / 4 and
// t = lane % 4, takes 16 bytes of a step: rows 4 (g % 4) and up, columns 8 t and up of a group, of tile g / 4 of two. Those
// are 4 rows by 8 columns, of which two rows are its rows g and g + 8 of one product and the other two of a second one. In
// which order a product's columns lie is free, as long as both operands have the same: a lane's words of `a` are columns
// 8t..8t+4 and 8t+4..8t+8, so its words of `b` are 8 bytes in a row of token g. q8 takes two steps for q4's one.
//
// Nothing is repacked. Weights pass through shared memory only to be on their way early: a thread reads what it wrote.
// No two lanes meet in a bank: weights are 16 bytes at 16 i for thread i, activations 8 bytes at 8 i for lane i (a token's
// 32 bytes lie behind another's), scales of activations 8 bytes at 8 t, the same for all g.
#include "activation.cuh"
#include "blocks.cuh"
#include "products.cuh"

// Groups of columns that a stage of the pipeline holds, and how many stages there are.
constexpr u32 STAGE_GROUPS = 2;
constexpr u32 STAGES = 3;
// Tokens of a product of tiles.
constexpr u32 TILE_TOKENS = 8;
// Rows of two tiles, which a warp multiplies.
constexpr u32 WARP_ROWS = 2 * TILE_ROWS;

// An integer below 2^22 is added to the bits of 1.5 * 2^23 and so becomes the float that is as much more.
constexpr u32 BIAS_BITS = 0x4b400000;
constexpr float BIAS = 12582912.0f;

// How a block of threads shares out its work. `Prompt`: 64 tokens, which all warps share, and 32 rows each. `Few`: 8
// tokens and 32 rows, of which a warp takes every fourth stage of columns; where a product has a second matrix, 16 rows of both.
struct Prompt {
  static constexpr u32 TOKENS = 64, TEAM = THREADS;
};
struct Few {
  static constexpr u32 TOKENS = 8, TEAM = WARP;
};

template <int kind, typename Shape>
struct alignas(16) Stage {
  static constexpr u32 LOADS = kind == Q8 ? 2 : 1;        // of 16 bytes, a lane and group
  static constexpr u32 HEADS = kind == Q4_ASYM ? 2 : 1;   // scales, and offsets
  static constexpr u32 TEAMS = THREADS / Shape::TEAM;
  uint4 weights[STAGE_GROUPS][LOADS][THREADS];
  uint2 heads[HEADS][STAGE_GROUPS][THREADS / 4];          // f16 of a lane's 4 rows; lanes of one g share them
  uint2 x[TEAMS][STAGE_GROUPS][Shape::TOKENS][4];
  float x_scales[TEAMS][STAGE_GROUPS][Shape::TOKENS];
};

// A lane's part of the copies of a stage.
template <int kind, typename Shape>
struct Source {
  typedef Stage<kind, Shape> To;
  static constexpr u32 PIECES = Shape::TOKENS * STAGE_GROUPS * 2 / Shape::TEAM;  // of 16 activations
  static constexpr u32 TOKENS_BETWEEN = Shape::TEAM / (2 * STAGE_GROUPS);        // the tokens of a thread's pieces
  static_assert(Shape::TOKENS * STAGE_GROUPS <= Shape::TEAM, "a thread copies one scale of activations at most");
  static constexpr u32 GROUP_BYTES = GROUP / Blocks<kind>::STEP_COLUMNS * 64;    // of a tile's weights
  const u8* tile;       // the lane's 16 bytes of the first group
  const u8* head;       // its 4 scales or offsets of the first block, of the first group or the second
  const s8* x[PIECES];  // null where there is no token
  const float* x_scale;  // null where there is no token
  // Where a stage has them.
  ptx::Shared to_weights, to_head, to_x, to_x_scale;
  u32 groups;
  u32 per_block_log2;   // groups of a block
  u32 block_bytes;

  __device__ Source(const Products& p, const Job& job, const Choices& choices, u32 tile_index, const To& first) {
    const Blocks<kind> blocks{job.product.group};
    groups = (p.cols + GROUP - 1) / GROUP;
    per_block_log2 = 31 - __clz(static_cast<int>(blocks.group / GROUP));
    block_bytes = blocks.bytes();
    const u32 last = (job.product.rows + TILE_ROWS - 1) / TILE_ROWS - 1;
    const u32 g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
    const bool gated = Shape::TEAM == WARP && job.up;
    const u32 own = gated ? tile_index : tile_index + g / 4;
    const u8* const bytes = static_cast<const u8*>(gated && g / 4 ? job.up : job.weight) + blocks.tile(own < last ? own : last, p.cols);
    tile = bytes + Blocks<kind>::HEAD + 64 * To::LOADS * t + 16 * (g % 4);
    to_weights = ptx::shared(&first.weights[0][0][threadIdx.x]);
    // Of the four lanes that need them, each copies the scales or the offsets of one group.
    head = bytes + 8 * (g % 4) + 32 * (t / STAGE_GROUPS);
    to_head = ptx::shared(&first.heads[t / STAGE_GROUPS % To::HEADS][t % STAGE_GROUPS][threadIdx.x / 4]);

    // Thread n of a team copies piece n of the activations, 4 pieces a token and 2 a group, and of those TEAM pieces on.
    const u32 member = threadIdx.x % Shape::TEAM, team = threadIdx.x / Shape::TEAM;
    const u32 piece = member % (2 * STAGE_GROUPS), token = member / (2 * STAGE_GROUPS);
    to_x = ptx::shared(&first.x[team][piece / 2][token][piece % 2 * 2]);
    for (u32 i = 0; i < PIECES; ++i) {
      const u32 row = token + i * TOKENS_BETWEEN;
      x[i] = row < job.rows.count
                 ? p.quants + static_cast<u64>(input_of(choices, job.rows, row)) * groups * GROUP + 16 * piece : nullptr;
    }
    const u32 scale = member % STAGE_GROUPS, scale_token = member / STAGE_GROUPS;
    to_x_scale = ptx::shared(&first.x_scales[team][scale][scale_token % Shape::TOKENS]);
    x_scale = scale_token < job.rows.count
                      ? p.scales + static_cast<u64>(input_of(choices, job.rows, scale_token)) * groups + scale : nullptr;
  }

  // Begins to copy the columns of `stage` to the `place`-th of the stages; what lies past the last group, or the last token,
  // is 0.
  __device__ void copy(u32 place, u32 stage) const {
    const u32 first = stage * STAGE_GROUPS, mask = (1u << per_block_log2) - 1, at = place * sizeof(To);
    for (u32 i = 0; i < STAGE_GROUPS; ++i) {
      const u32 group = first + i;
      const u8* const from = tile + ((group >> per_block_log2) * block_bytes + (group & mask) * GROUP_BYTES);
      const ptx::Shared to = to_weights + (at + i * To::LOADS * THREADS * 16);
      if (kind == Q8) {
        // Two rows of both steps are the four words of one product, which so are loaded where it takes them.
        for (u32 j = 0; j < 2; ++j) {
          for (u32 step = 0; step < 2; ++step) {
            ptx::copy_async<8>(to + (j * THREADS * 16 + 8 * step), from + 64 * step + 8 * j, group < groups);
          }
        }
      } else {
        ptx::copy_async<16>(to, from, group < groups);
      }
    }
    const u32 t = threadIdx.x % 4, group = first + t % STAGE_GROUPS;
    if (t < STAGE_GROUPS * To::HEADS) {
      ptx::copy_async<8>(to_head + at, head + (group >> per_block_log2) * block_bytes, group < groups);
    }
    // The two groups of a stage lie TOKENS * 32 bytes apart, and the tokens of a group 32.
    const bool inside = first + threadIdx.x % (2 * STAGE_GROUPS) / 2 < groups;
    for (u32 i = 0; i < PIECES; ++i) {
      ptx::copy_async<16>(to_x + (at + i * TOKENS_BETWEEN * GROUP), x[i] + first * GROUP, x[i] && inside);
    }
    if (threadIdx.x % Shape::TEAM < Shape::TOKENS * STAGE_GROUPS) {
      ptx::copy_async<4>(to_x_scale + at, x_scale + first, x_scale && first + threadIdx.x % STAGE_GROUPS < groups);
    }
  }
};

// A lane's sums: of its 4 rows and, of each 8 tokens, the two of its t.
template <typename Shape>
struct Sums {
  float of[Shape::TOKENS / TILE_TOKENS][2][4];  // [..][j]: row 2j of two tokens, row 2j + 1 of them
};

// Adds the products of a stage for the first `count` tokens.
template <int kind, typename Shape>
static __device__ __forceinline__ void multiply(Sums<Shape>& sums, const Stage<kind, Shape>& stage, u32 count,
                                                const int (&bias)[4]) {
  const u32 lane = threadIdx.x % WARP, team = threadIdx.x / Shape::TEAM;
  for (u32 i = 0; i < STAGE_GROUPS; ++i) {
    u32 a[2][4];
    for (u32 load = 0; load < Stage<kind, Shape>::LOADS; ++load) {
      const uint4 loaded = stage.weights[i][load][threadIdx.x];
      const u32 words[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
      for (u32 r = 0; r < 4; ++r) {
        if (kind == Q8) a[load][r] = words[r];
        else unpack<kind>(words[r], a[r / 2][r % 2], a[r / 2][2 + r % 2]);
      }
    }
    float scale[4], offset[4] = {};
    widen_four(scale, stage.heads[0][i][threadIdx.x / 4], 1.0f / UNIT<kind>);
    if (kind == Q4_ASYM) widen_four(offset, stage.heads[Stage<kind, Shape>::HEADS - 1][i][threadIdx.x / 4], 1.0f);
    for (u32 n = 0; n < Shape::TOKENS / TILE_TOKENS; ++n) {
      // Two tiles at a time, so that the sums of one need not wait for the other's products; registers allow it of most kinds.
      if ((n % 2 == 0 || kind == Q4_ASYM) && n * TILE_TOKENS >= count) break;
      const uint2 b = stage.x[team][i][n * TILE_TOKENS + lane / 4][lane % 4];
      const float* const x_scales = &stage.x_scales[team][i][n * TILE_TOKENS + 2 * (lane % 4)];
      const float x_scale[2] = {x_scales[0], x_scales[1]};
      float totals[2] = {};
      if (kind == Q4_ASYM) {
        // Sums of the activations: a product with ones, all of whose rows are the same.
        const u32 ones[4] = {0x01010101u, 0x01010101u, 0x01010101u, 0x01010101u};
        int d[4];
        ptx::multiply_tile(d, ones, b, bias);
        for (u32 c = 0; c < 2; ++c) totals[c] = x_scale[c] * (__uint_as_float(static_cast<u32>(d[c])) - BIAS);
      }
      for (u32 j = 0; j < 2; ++j) {
        int d[4];
        ptx::multiply_tile(d, a[j], b, bias);
        for (u32 c = 0; c < 4; ++c) {
          const u32 row = 2 * j + c / 2;
          const float dot = __uint_as_float(static_cast<u32>(d[c])) - BIAS;
          sums.of[n][j][c] += scale[row] * x_scale[c % 2] * dot;
          if (kind == Q4_ASYM) sums.of[n][j][c] += offset[row] * totals[c % 2];
        }
      }
    }
  }
}

template <typename Shape>
static __device__ __forceinline__ void team_barrier() {
  if (Shape::TEAM == THREADS) __syncthreads();
  else __syncwarp();
}

// Grid: works, pairs or tokens / TOKENS rounded up, times the blocks of all products' rows.
template <int kind, typename Shape>
static __device__ __forceinline__ void matmul(const Products& p, const Choices& choices) {
  constexpr bool PROMPT = Shape::TEAM == THREADS;
  __shared__ Stage<kind, Shape> stages[STAGES];
  Job job;
  if (!find_job(p, choices, Shape::TOKENS, job)) return;
  const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  const u32 rows = !PROMPT && job.up ? TILE_ROWS : WARP_ROWS;
  const u32 first_row = (PROMPT ? job.block * WARPS + warp : job.block) * rows;
  const Source<kind, Shape> source(p, job, choices, first_row / TILE_ROWS, stages[0]);
  const u32 all = (source.groups + STAGE_GROUPS - 1) / STAGE_GROUPS;
  const u32 start = PROMPT ? 0 : warp, step = PROMPT ? 1 : WARPS;
  const u32 own = all > start ? (all - start + step - 1) / step : 0;

  Sums<Shape> sums = {};
  // What each product of tiles begins from stays in four registers where the compiler cannot tell that it is constant.
  __shared__ uint4 biases;
  if (threadIdx.x == 0) biases = uint4{BIAS_BITS, BIAS_BITS, BIAS_BITS, BIAS_BITS};
  __syncthreads();
  const uint4 loaded = biases;
  const int bias[4] = {static_cast<int>(loaded.x), static_cast<int>(loaded.y), static_cast<int>(loaded.z),
                       static_cast<int>(loaded.w)};
  for (u32 n = 0; n < STAGES - 1; ++n) {
    if (n < own) source.copy(n, start + n * step);
    ptx::end_copies();
  }
  for (u32 n = 0, place = 0; n < own; ++n) {
    ptx::wait_for_copies<STAGES - 2>();
    // All see stage n, and have read stage n - 1, whose place the next one takes.
    team_barrier<Shape>();
    const u32 next = n + STAGES - 1, free = place == 0 ? STAGES - 1 : place - 1;
    if (next < own) source.copy(free, start + next * step);
    ptx::end_copies();
    multiply(sums, stages[place], job.rows.count, bias);
    place = place + 1 == STAGES ? 0 : place + 1;
  }

  const Product& product = job.product;
  if constexpr (PROMPT) {
    const u32 row = first_row + 4 * (lane / 4);
    float bias[4];
    for (u32 r = 0; r < 4; ++r) bias[r] = product.bias && row + r < product.rows ? product.bias[row + r] : 0.0f;
    for (u32 n = 0; n < Shape::TOKENS / TILE_TOKENS; ++n) {
      for (u32 c = 0; c < 2; ++c) {
        const u32 token = n * TILE_TOKENS + 2 * (lane % 4) + c;
        if (token >= job.rows.count) break;
        float* const out = product.out + static_cast<u64>(output_of(choices, job.rows, token)) * product.rows + row;
        for (u32 r = 0; r < 4; ++r) {
          if (row + r < product.rows) out[r] = sums.of[n][r / 2][2 * (r % 2) + c] + bias[r];
        }
      }
    }
  } else {
    // A token's rows lie 33 apart from the next one's: lanes of one c meet in a bank two by two, once in a whole product.
    __shared__ float parts[WARPS][Few::TOKENS][WARP_ROWS + 1];
    for (u32 r = 0; r < 4; ++r) {
      for (u32 c = 0; c < 2; ++c) parts[warp][2 * (lane % 4) + c][4 * (lane / 4) + r] = sums.of[0][r / 2][2 * (r % 2) + c];
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < job.rows.count * rows; i += THREADS) {
      const u32 token = i / rows, row = first_row + i % rows;
      if (row >= product.rows) continue;
      float sum = product.bias ? product.bias[row] : 0.0f;
      for (u32 w = 0; w < WARPS; ++w) sum += parts[w][token][i % rows];
      if (job.up) {
        float up = 0.0f;
        for (u32 w = 0; w < WARPS; ++w) up += parts[w][token][TILE_ROWS + i % rows];
        sum = activated(sum, product.activation) * up;
      }
      product.out[static_cast<u64>(output_of(choices, job.rows, token)) * product.rows + row] = sum;
    }
  }
}

#define KERNELS(name, kind)                                                                                              \
  extern "C" __global__ void __launch_bounds__(THREADS) matmul_##name##_few(const Products products, const Choices choices) { \
    matmul<kind, Few>(products, choices);                                                                                \
  }                                                                                                                      \
  extern "C" __global__ void __launch_bounds__(THREADS) matmul_##name##_prompt(const Products products, const Choices choices) { \
    matmul<kind, Prompt>(products, choices);                                                                             \
  }

KERNELS(q8, Q8)
KERNELS(q4, Q4)
KERNELS(q4_asym, Q4_ASYM)
KERNELS(q4_codebook, Q4_CODEBOOK)
#undef KERNELS
