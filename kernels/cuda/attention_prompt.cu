// Attention of the rows of a prompt on tensor cores, a tile of keys and values for many queries at a time, after Dao 2023,
// "FlashAttention-2", https://arxiv.org/abs/2307.08691. Queries, keys, weights and values are rounded to f16, sums are f32.
//
// A block takes 64 queries, rows of the prompt by the heads that share keys, 16 a warp. Keys and values come through shared
// memory as f16, copied while the tile before is multiplied; those of 8 and 4 bits are widened there by the thread that copied
// them, with their scales. Of the products (ptx::multiply_tile_half) a lane, g = lane / 4 and t = lane % 4, has queries g and
// g + 8 of a warp:
//   scores: of 32 numbers of a head it has those from 8t on, of its queries and of the key of position g, 16 bytes, two words
//     for each of two products; in which order the numbers are met is free.
//   values: the weights of two tiles of scores lie as the first operand takes them; the second is loaded transposed.
#include "prompt_tiles.cuh"

namespace prompt {

constexpr u32 WARP_QUERIES = 16;
constexpr u32 BLOCK_QUERIES = WARPS * WARP_QUERIES;
constexpr float LOG2_E = 1.4426950409f;

// Query `i` of a lane's two: rows by heads of a group.
static __device__ __forceinline__ u32 query_of(u32 block_first, u32 i) {
  return block_first + threadIdx.x / WARP * WARP_QUERIES + threadIdx.x % WARP / 4 + 8 * i;
}

// Loads a lane's numbers of two rows as f16, times `factor`; null is 0. See the top for which those are.
template <u32 WIDTH>
static __device__ __forceinline__ void load_queries(u32 (&q)[WIDTH / 32][2][4], const float* const (&rows)[2], u32 head_dim,
                                                    float factor) {
  const u32 t = threadIdx.x % 4;
#pragma unroll
  for (u32 chunk = 0; chunk < WIDTH / 32; ++chunk) {
    for (u32 i = 0; i < 2; ++i) {
      const u32 at = 32 * chunk + 8 * t;
      for (u32 j = 0; j < 2; ++j) {
        float4 x = {0.0f, 0.0f, 0.0f, 0.0f};
        if (rows[i] && at < head_dim) x = *reinterpret_cast<const float4*>(rows[i] + at + 4 * j);
        q[chunk][j][i] = ptx::to_two_f16(x.x * factor, x.y * factor);
        q[chunk][j][2 + i] = ptx::to_two_f16(x.z * factor, x.w * factor);
      }
    }
  }
}

// The scores of a tile of positions, times log2(e).
template <u32 WIDTH>
static __device__ __forceinline__ void scores(float (&s)[Tile<WIDTH>::POSITIONS / 8][4], const u32 (&q)[WIDTH / 32][2][4],
                                              const u8* keys, u32 head_dim, float softcap) {
  const u32 g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
  constexpr u32 TILES = Tile<WIDTH>::POSITIONS / 8;
#pragma unroll
  for (u32 n = 0; n < TILES; ++n) {
    for (u32 c = 0; c < 4; ++c) s[n][c] = 0.0f;
  }
#pragma unroll
  for (u32 chunk = 0; chunk < WIDTH / 32; ++chunk) {
    const u8* const pieces = keys + (4 * chunk + t) * Tile<WIDTH>::KEY_PIECE + g * PIECE;
    if (32 * chunk < head_dim) {
#pragma unroll
      for (u32 n = 0; n < TILES; ++n) {
        const uint4 key = *reinterpret_cast<const uint4*>(pieces + n * 8 * PIECE);
        ptx::multiply_tile_half(s[n], q[chunk][0], key.x, key.y);
        ptx::multiply_tile_half(s[n], q[chunk][1], key.z, key.w);
      }
    }
  }
  if (softcap > 0.0f) {
    // tanh(x) = 1 - 2 / (e^(2x) + 1), whose error is of its largest value, 1.
    const float into = 2.0f * LOG2_E / softcap, back = softcap * LOG2_E;
#pragma unroll
    for (u32 n = 0; n < TILES; ++n) {
      for (u32 c = 0; c < 4; ++c) s[n][c] = back * (1.0f - 2.0f * ptx::reciprocal(ptx::power_of_two(s[n][c] * into) + 1.0f));
    }
  }
}

// Makes the scores of those positions, from `base` on, that `sees` does not name minus infinity, for query `i` of a lane.
template <u32 TILES>
static __device__ __forceinline__ void mask(float (&s)[TILES][4], u32 i, Seen sees, u32 base) {
  const u32 from = base + 2 * (threadIdx.x % 4) - sees.first;
#pragma unroll
  for (u32 n = 0; n < TILES; ++n) {
    for (u32 c = 0; c < 2; ++c) {
      if (from + 8 * n + c >= sees.count) s[n][2 * i + c] = __uint_as_float(0xff800000u);
    }
  }
}

// What a lane has of its queries' softmax: the largest score, its own part of the weights' sum, and sums of values.
template <u32 WIDTH>
struct Sums {
  float maxima[2] = {Largest::EMPTY, Largest::EMPTY};
  float totals[2] = {};
  float of[WIDTH / 8][4] = {};

  // Makes weights of scores; what was summed before counts as much less as the largest score has grown.
  template <u32 TILES>
  __device__ void weigh(float (&s)[TILES][4]) {
#pragma unroll
    for (u32 i = 0; i < 2; ++i) {
      float max = maxima[i];
#pragma unroll
      for (u32 n = 0; n < TILES; ++n) max = fmaxf(max, fmaxf(s[n][2 * i], s[n][2 * i + 1]));
      for (u32 step = 1; step < 4; step *= 2) max = fmaxf(max, __shfl_xor_sync(ALL_LANES, max, step));
      const float correction = ptx::power_of_two(maxima[i] - max);
      maxima[i] = max;
      totals[i] *= correction;
#pragma unroll
      for (u32 n = 0; n < WIDTH / 8; ++n) of[n][2 * i] *= correction, of[n][2 * i + 1] *= correction;
      // A NaN is no maximum, and makes its weight and so the total NaN.
#pragma unroll
      for (u32 n = 0; n < TILES; ++n) {
        for (u32 c = 2 * i; c < 2 * i + 2; ++c) totals[i] += s[n][c] = ptx::power_of_two(s[n][c] - max);
      }
    }
  }

  // Adds the values of a tile by their weights.
  template <u32 TILES>
  __device__ void mix(const float (&weights)[TILES][4], ptx::Shared values, u32 head_dim) {
    const u32 lane = threadIdx.x % WARP;
    values += lane % 16 * Tile<WIDTH>::VALUE + lane / 16 * PIECE;
#pragma unroll
    for (u32 k = 0; k < TILES / 2; ++k) {
      u32 a[4];
      for (u32 i = 0; i < 4; ++i) {
        const float* const two = &weights[2 * k + i / 2][2 * (i % 2)];
        a[i] = ptx::to_two_f16(two[0], two[1]);
      }
#pragma unroll
      for (u32 chunk = 0; chunk < WIDTH / 32; ++chunk) {
        if (32 * chunk < head_dim) {
#pragma unroll
          for (u32 n = 2 * chunk; n < 2 * chunk + 2; ++n) {
            const uint4 v = ptx::load_transposed(values + (16 * k * Tile<WIDTH>::VALUE + 32 * n));
            ptx::multiply_tile_half(of[2 * n], a, v.x, v.y);
            ptx::multiply_tile_half(of[2 * n + 1], a, v.z, v.w);
          }
        }
      }
    }
  }

  // Divides by the totals, of which each of 4 lanes has a part.
  __device__ void finish() {
    for (u32 i = 0; i < 2; ++i) {
      float total = totals[i];
      for (u32 step = 1; step < 4; step *= 2) total += __shfl_xor_sync(ALL_LANES, total, step);
      const float inverse = ptx::reciprocal(total);
#pragma unroll
      for (u32 n = 0; n < WIDTH / 8; ++n) of[n][2 * i] *= inverse, of[n][2 * i + 1] *= inverse;
    }
  }

  // Stores a lane's numbers of query `i`.
  __device__ void store(float* row, u32 i, u32 head_dim) const {
#pragma unroll
    for (u32 n = 0; n < WIDTH / 8; ++n) {
      const uint2 two = {__float_as_uint(of[n][2 * i]), __float_as_uint(of[n][2 * i + 1])};
      if (8 * n < head_dim) *reinterpret_cast<uint2*>(row + 8 * n + 2 * (threadIdx.x % 4)) = two;
    }
  }
};

// `a.batch` is of the `rows` rows of one span. Heads are whole pieces of keys and of values, of up to WIDTH numbers. Grid: rows
// times heads that share keys / BLOCK_QUERIES, rounded up, the last queries, which see the most, first; kv_heads.
template <bool STAGED, u32 WIDTH>
static __device__ __forceinline__ void attention_prompt(const Attention& a, const Cache& cache, u32 rows, u32 key_bits, u32 value_bits) {
  typedef Tile<WIDTH> Shape;
  alignas(16) __shared__ u8 tiles[Shape::BYTES];
  alignas(16) __shared__ u8 raw[STAGED ? Source<STAGED, WIDTH, true>::PIECES * THREADS * PIECE : PIECE];
  __shared__ float scales[STAGED ? THREADS : 1];
  float* const staged = reinterpret_cast<float*>(tiles);  // (WARP_QUERIES, head_dim), of what is rotated
  const u32 head_dim = cache.head_dim, group = a.heads / cache.kv_heads, all = rows * group, warp = threadIdx.x / WARP;
  const u32 block_first = (gridDim.x - 1 - blockIdx.x) * BLOCK_QUERIES;
  const u32 block_last = block_first + BLOCK_QUERIES < all ? block_first + BLOCK_QUERIES - 1 : all - 1;
  const auto index_of = [&](u32 query) {
    return (static_cast<u64>(query / group) * a.heads + blockIdx.y * group + query % group) * head_dim;
  };

  const float factor = a.softcap > 0.0f ? a.scale : a.scale * LOG2_E;
  const bool rotated_keys = STAGED && key_bits == 4, rotated_values = STAGED && value_bits == 4;
  u32 q[WIDTH / 32][2][4];
#pragma unroll 1
  for (u32 w = 0; w < (rotated_keys ? WARPS : 1); ++w) {
    if (rotated_keys) {
      const u32 first = block_first + w * WARP_QUERIES;
#pragma unroll 1
      for (u32 i = threadIdx.x; i < WARP_QUERIES * head_dim; i += THREADS) {
        const u32 query = first + i / head_dim;
        staged[i] = query < all ? a.q[index_of(query) + i % head_dim] : 0.0f;
      }
      rotate(staged, WARP_QUERIES * head_dim, rotated_len(head_dim));
    }
    const float* from[2];
    for (u32 i = 0; i < 2; ++i) {
      const u32 query = query_of(block_first, i);
      from[i] = rotated_keys ? staged + (threadIdx.x % WARP / 4 + 8 * i) * head_dim
                             : (query < all ? a.q + index_of(query) : nullptr);
    }
    if (!rotated_keys || warp == w) load_queries<WIDTH>(q, from, head_dim, factor);
    __syncthreads();
  }
#pragma unroll 1
  for (u32 i = threadIdx.x; i < Shape::BYTES / PIECE; i += THREADS) reinterpret_cast<uint4*>(tiles)[i] = {0, 0, 0, 0};
  __syncthreads();

  // Neither end of what a row sees decreases from one row to the next.
  const Row row = a.batch[block_first / group];
  const Seen earliest = seen(a, row), latest = seen(a, a.batch[block_last / group]);
  const u32 last = latest.first + (latest.count - 1);
  const Seen met = {earliest.first, last - earliest.first + 1};
  const u64 first_row = cache.first(row.slot, blockIdx.y);
  const Source<STAGED, WIDTH, true> keys(cache, first_row, tiles, raw, scales, STAGED ? key_bits : 16, met);
  const Source<STAGED, WIDTH, false> values(cache, first_row, tiles, raw, scales, STAGED ? value_bits : 16, met);
  Sums<WIDTH> sums;
  u32 base = met.first / TILE_POSITIONS * TILE_POSITIONS;
  keys.copy(base, cache.capacity);
#pragma unroll 1
  for (; base <= last; base += Shape::POSITIONS) {
    const bool whole = base >= latest.first && base + (Shape::POSITIONS - 1) - earliest.first < earliest.count;
    float s[Shape::POSITIONS / 8][4];
    ptx::wait_for_copies<0>();
    keys.widen();
    // All see the keys, and have read the values of the tile before, whose place the next ones take.
    __syncthreads();
    values.copy(base, cache.capacity);
    scores<WIDTH>(s, q, tiles, head_dim, a.softcap);
    if (!whole) {
#pragma unroll
      for (u32 i = 0; i < 2; ++i) {
        const u32 query = query_of(block_first, i);
        mask(s, i, seen(a, a.batch[(query < all ? query : all - 1) / group]), base);
      }
    }
    sums.weigh(s);
    ptx::wait_for_copies<0>();
    values.widen();
    __syncthreads();
    if (base + Shape::POSITIONS <= last) keys.copy(base + Shape::POSITIONS, cache.capacity);
    sums.mix(s, ptx::shared(tiles + Shape::KEYS), head_dim);
  }
  sums.finish();
#pragma unroll 1
  for (u32 w = 0; w < (rotated_values ? WARPS : 1); ++w) {
    __syncthreads();
    for (u32 i = 0; i < 2; ++i) {
      const u32 query = query_of(block_first, i);
      float* const row = rotated_values ? staged + (threadIdx.x % WARP / 4 + 8 * i) * head_dim : a.out + index_of(query);
      if (rotated_values ? warp == w : query < all) sums.store(row, i, head_dim);
    }
    if (!rotated_values) break;
    rotate(staged, WARP_QUERIES * head_dim, rotated_len(head_dim));
    const u32 first_query = block_first + w * WARP_QUERIES;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < WARP_QUERIES * head_dim; i += THREADS) {
      const u32 query = first_query + i / head_dim;
      if (query < all) a.out[index_of(query) + i % head_dim] = staged[i];
    }
  }
}

#define KERNEL(name, STAGED, WIDTH)                                                              \
  extern "C" __global__ void __launch_bounds__(THREADS)                                          \
  attention_prompt_##name(Attention a, Cache cache, u32 rows, u32 key_bits, u32 value_bits) {    \
    attention_prompt<STAGED, WIDTH>(a, cache, rows, key_bits, value_bits);                       \
  }

KERNEL(f16_128, false, 128)
KERNEL(f16_256, false, 256)
KERNEL(packed_128, true, 128)
KERNEL(packed_256, true, 256)
#undef KERNEL

}  // namespace prompt
