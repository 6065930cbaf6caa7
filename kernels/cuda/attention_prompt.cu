// Attention of the rows of a prompt on tensor cores, a tile of keys and values for many queries at a time, after Dao 2023,
// "FlashAttention-2", https://arxiv.org/abs/2307.08691. Queries, keys, weights and values are rounded to f16, sums are f32.
//
// A block takes 64 or 128 queries, rows of the prompt by the heads that share keys, 16 or 32 a warp. Keys and values come
// through shared memory as f16, copied while the tile before is multiplied; those of 8 and 4 bits are widened there by the
// thread that copied them, with their scales. Of the products (ptx::multiply_tile_half) a lane, g = lane / 4 and
// t = lane % 4, has queries g, g + 8, g + 16 and so on of a warp:
//   scores: of 32 numbers of a head it has those from 8t on, of its queries and of the key of position g, 16 bytes, two words
//     for each of two products; in which order the numbers are met is free.
//   values: the weights of two tiles of scores lie as the first operand takes them; the second is loaded transposed.
#include "prompt_tiles.cuh"

namespace prompt {

constexpr float LOG2_E = 1.4426950409f;
// A query's largest score is taken up only when it has grown by more, in powers of two, as FlashAttention-4 (Zadouri and
// others 2026) does: weights are up to 2^8 then, and what was summed is seldom scaled.
constexpr float GROWTH = 8.0f;

// A lane's numbers of its queries, as f16: for each 16 of a warp two products of each 32 numbers.
template <typename Shape>
using Queries = u32[Shape::ROWS][Shape::WIDTH / 32][2][4];
// Scores, and then weights, of STEP positions.
template <typename Shape>
using Scores = float[Shape::ROWS][Shape::STEP / 8][4];

// Query `i` of a lane's: rows by heads of a group.
template <typename Shape>
static __device__ __forceinline__ u32 query_of(u32 block_first, u32 i) {
  return block_first + threadIdx.x / WARP * Shape::WARP_QUERIES + threadIdx.x % WARP / 4 + 8 * i;
}

// Loads a lane's numbers of two rows as f16, times `factor`; null is 0. See the top for which those are.
template <u32 CHUNKS>
static __device__ __forceinline__ void load_queries(u32 (&q)[CHUNKS][2][4], const float* const (&rows)[2], u32 head_dim,
                                                    float factor) {
  const u32 t = threadIdx.x % 4;
#pragma unroll
  for (u32 chunk = 0; chunk < CHUNKS; ++chunk) {
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

// The scores of STEP positions of a tile, from `keys` on, times log2(e).
template <typename Shape>
static __device__ __forceinline__ void scores(Scores<Shape>& s, const Queries<Shape>& q, const u8* keys, u32 head_dim,
                                              float softcap) {
  const u32 g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
  constexpr u32 ROWS = Shape::ROWS, TILES = Shape::STEP / 8;
  // A product waits for the one before it of the same sum, which takes as long as four others: there are four sums or more.
  constexpr u32 SUMS = ROWS * TILES < 4 ? 2 : 1;
  float more[SUMS - 1 ? ROWS : 1][SUMS - 1 ? TILES : 1][4];
#pragma unroll
  for (u32 m = 0; m < ROWS; ++m) {
    for (u32 n = 0; n < TILES; ++n) {
      for (u32 c = 0; c < 4; ++c) s[m][n][c] = 0.0f;
      if (SUMS > 1) for (u32 c = 0; c < 4; ++c) more[m][n][c] = 0.0f;
    }
  }
#pragma unroll
  for (u32 chunk = 0; chunk < Shape::WIDTH / 32; ++chunk) {
    const u8* const pieces = keys + (4 * chunk + t) * Tile<Shape>::KEY_PIECE + g * PIECE;
    if (32 * chunk < head_dim) {
#pragma unroll
      for (u32 n = 0; n < TILES; ++n) {
        const uint4 key = *reinterpret_cast<const uint4*>(pieces + n * 8 * PIECE);
#pragma unroll
        for (u32 m = 0; m < ROWS; ++m) {
          ptx::multiply_tile_half(s[m][n], q[m][chunk][0], key.x, key.y);
          ptx::multiply_tile_half(SUMS > 1 ? more[m][n] : s[m][n], q[m][chunk][1], key.z, key.w);
        }
      }
    }
  }
#pragma unroll
  for (u32 m = 0; m < ROWS; ++m) {
    for (u32 n = 0; n < TILES; ++n) {
      if (SUMS > 1) for (u32 c = 0; c < 4; ++c) s[m][n][c] += more[m][n][c];
    }
  }
  if (softcap > 0.0f) {
    // tanh(x) = 1 - 2 / (e^(2x) + 1), whose error is of its largest value, 1.
    const float into = 2.0f * LOG2_E / softcap, back = softcap * LOG2_E;
#pragma unroll
    for (u32 m = 0; m < ROWS; ++m) {
      for (u32 n = 0; n < TILES; ++n) {
        for (u32 c = 0; c < 4; ++c) {
          s[m][n][c] = back * (1.0f - 2.0f * ptx::reciprocal(ptx::power_of_two(s[m][n][c] * into) + 1.0f));
        }
      }
    }
  }
}

// Makes the scores of those positions, from `base` on, that `sees` does not name minus infinity, for query `i` of a lane.
template <u32 ROWS, u32 TILES>
static __device__ __forceinline__ void mask(float (&s)[ROWS][TILES][4], u32 i, Seen sees, u32 base) {
  const u32 from = base + 2 * (threadIdx.x % 4) - sees.first;
#pragma unroll
  for (u32 n = 0; n < TILES; ++n) {
    for (u32 c = 0; c < 2; ++c) {
      if (from + 8 * n + c >= sees.count) s[i / 2][n][2 * (i % 2) + c] = __uint_as_float(0xff800000u);
    }
  }
}

// What a lane has of its queries' softmax: the largest score that was taken up, its own part of the weights' sum, and sums of
// values.
template <typename Shape>
struct Sums {
  static constexpr u32 ROWS = Shape::ROWS, WIDTH = Shape::WIDTH, TILES = Shape::STEP / 8;
  float maxima[2 * ROWS];
  float totals[2 * ROWS];
  float of[ROWS][WIDTH / 8][4];

  __device__ Sums() {
#pragma unroll
    for (u32 m = 0; m < ROWS; ++m) {
      for (u32 i = 2 * m; i < 2 * m + 2; ++i) maxima[i] = Largest::EMPTY, totals[i] = 0.0f;
#pragma unroll
      for (u32 n = 0; n < WIDTH / 8; ++n) {
        for (u32 c = 0; c < 4; ++c) of[m][n][c] = 0.0f;
      }
    }
  }

  // Makes weights of scores.
  __device__ void weigh(Scores<Shape>& s) {
    float largest[2 * ROWS];
    bool grown = false;
#pragma unroll
    for (u32 i = 0; i < 2 * ROWS; ++i) {
      largest[i] = Largest::EMPTY;
#pragma unroll
      for (u32 n = 0; n < TILES; ++n) {
        for (u32 c = 0; c < 2; ++c) largest[i] = fmaxf(largest[i], s[i / 2][n][2 * (i % 2) + c]);
      }
      grown |= largest[i] > maxima[i] + GROWTH;
    }
    if (__ballot_sync(ALL_LANES, grown)) take_up(largest);
    // A NaN is no maximum, and makes its weight and so the total NaN.
#pragma unroll
    for (u32 i = 0; i < 2 * ROWS; ++i) {
#pragma unroll
      for (u32 n = 0; n < TILES; ++n) {
        for (u32 c = 2 * (i % 2); c < 2 * (i % 2) + 2; ++c) {
          totals[i] += s[i / 2][n][c] = ptx::power_of_two(s[i / 2][n][c] - maxima[i]);
        }
      }
    }
  }

  // Takes up the largest scores of a lane and of the 3 others that have the same queries; what was summed before counts as
  // much less as they have grown.
  __device__ void take_up(const float (&largest)[2 * ROWS]) {
#pragma unroll
    for (u32 i = 0; i < 2 * ROWS; ++i) {
      float max = fmaxf(maxima[i], largest[i]);
      for (u32 step = 1; step < 4; step *= 2) max = fmaxf(max, __shfl_xor_sync(ALL_LANES, max, step));
      const float correction = ptx::power_of_two(maxima[i] - max);
      maxima[i] = max;
      totals[i] *= correction;
#pragma unroll
      for (u32 n = 0; n < WIDTH / 8; ++n) {
        for (u32 c = 2 * (i % 2); c < 2 * (i % 2) + 2; ++c) of[i / 2][n][c] *= correction;
      }
    }
  }

  // Adds the values of the positions by their weights.
  __device__ void mix(const Scores<Shape>& weights, ptx::Shared values, u32 head_dim) {
    const u32 lane = threadIdx.x % WARP;
    values += lane % 16 * Tile<Shape>::VALUE + lane / 16 * PIECE;
#pragma unroll
    for (u32 k = 0; k < TILES / 2; ++k) {
      u32 a[ROWS][4];
#pragma unroll
      for (u32 m = 0; m < ROWS; ++m) {
        for (u32 i = 0; i < 4; ++i) {
          const float* const two = &weights[m][2 * k + i / 2][2 * (i % 2)];
          a[m][i] = ptx::to_two_f16(two[0], two[1]);
        }
      }
      // Of 32 numbers; the next ones are on their way while these are multiplied.
      uint4 next[2];
#pragma unroll
      for (u32 n = 0; n < 2; ++n) next[n] = ptx::load_transposed(values + (16 * k * Tile<Shape>::VALUE + 32 * n));
#pragma unroll
      for (u32 chunk = 0; chunk < WIDTH / 32; ++chunk) {
        const uint4 v[2] = {next[0], next[1]};
        if (chunk + 1 < WIDTH / 32) {
#pragma unroll
          for (u32 n = 0; n < 2; ++n) {
            next[n] = ptx::load_transposed(values + (16 * k * Tile<Shape>::VALUE + 64 * (chunk + 1) + 32 * n));
          }
        }
        if (32 * chunk < head_dim) {
#pragma unroll
          for (u32 n = 0; n < 2; ++n) {
#pragma unroll
            for (u32 m = 0; m < ROWS; ++m) {
              ptx::multiply_tile_half(of[m][4 * chunk + 2 * n], a[m], v[n].x, v[n].y);
              ptx::multiply_tile_half(of[m][4 * chunk + 2 * n + 1], a[m], v[n].z, v[n].w);
            }
          }
        }
      }
    }
  }

  // Divides by the totals, of which each of 4 lanes has a part.
  __device__ void finish() {
#pragma unroll
    for (u32 i = 0; i < 2 * ROWS; ++i) {
      float total = totals[i];
      for (u32 step = 1; step < 4; step *= 2) total += __shfl_xor_sync(ALL_LANES, total, step);
      const float inverse = ptx::reciprocal(total);
#pragma unroll
      for (u32 n = 0; n < WIDTH / 8; ++n) {
        for (u32 c = 2 * (i % 2); c < 2 * (i % 2) + 2; ++c) of[i / 2][n][c] *= inverse;
      }
    }
  }

  // Stores a lane's numbers of query `i`.
  __device__ void store(float* row, u32 i, u32 head_dim) const {
#pragma unroll
    for (u32 n = 0; n < WIDTH / 8; ++n) {
      const float* const two = &of[i / 2][n][2 * (i % 2)];
      const uint2 bits = {__float_as_uint(two[0]), __float_as_uint(two[1])};
      if (8 * n < head_dim) *reinterpret_cast<uint2*>(row + 8 * n + 2 * (threadIdx.x % 4)) = bits;
    }
  }
};

// `a.batch` is of the `rows` rows of one span. Heads are whole pieces of keys and of values. Grid: rows times heads that share
// keys / BLOCK_QUERIES, rounded up, the last queries, which see the most, first; kv_heads.
template <bool STAGED, typename Shape>
static __device__ __forceinline__ void attention_prompt(const Attention& a, const Cache& cache, u32 rows, u32 key_bits, u32 value_bits) {
  typedef Source<STAGED, Shape, true> Keys;
  typedef Source<STAGED, Shape, false> Values;
  constexpr u32 TILE_BYTES = Tile<Shape>::BYTES, WARP_QUERIES = Shape::WARP_QUERIES, RAW = STAGED ? Keys::PIECES * THREADS * PIECE : 0;
  // The tile that is multiplied and the one that is copied; those that are widened are copied to `raw`.
  alignas(16) __shared__ u8 tiles[STAGED ? TILE_BYTES : 2 * TILE_BYTES];
  alignas(16) __shared__ u8 raw[STAGED ? 2 * RAW : PIECE];
  __shared__ float scales[STAGED ? 2 * THREADS : 1];
  __shared__ Seen sees[Shape::BLOCK_QUERIES];
  float* const staged = reinterpret_cast<float*>(tiles);  // (WARP_QUERIES, head_dim), of what is rotated
  const u32 head_dim = cache.head_dim, group = a.heads / cache.kv_heads, all = rows * group, warp = threadIdx.x / WARP;
  const u32 block_first = (gridDim.x - 1 - blockIdx.x) * Shape::BLOCK_QUERIES;
  const auto index_of = [&](u32 query) {
    return (static_cast<u64>(query / group) * a.heads + blockIdx.y * group + query % group) * head_dim;
  };

  const float factor = a.softcap > 0.0f ? a.scale : a.scale * LOG2_E;
  const bool rotated_keys = STAGED && key_bits == 4, rotated_values = STAGED && value_bits == 4;
  Queries<Shape> q;
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
#pragma unroll
    for (u32 m = 0; m < Shape::ROWS; ++m) {
      const float* from[2];
      for (u32 i = 0; i < 2; ++i) {
        const u32 query = query_of<Shape>(block_first, 2 * m + i);
        from[i] = rotated_keys ? staged + (query - block_first - w * WARP_QUERIES) * head_dim
                               : (query < all ? a.q + index_of(query) : nullptr);
      }
      if (!rotated_keys || warp == w) load_queries(q[m], from, head_dim, factor);
    }
    __syncthreads();
  }
#pragma unroll 1
  for (u32 i = threadIdx.x; i < sizeof(tiles) / PIECE; i += THREADS) reinterpret_cast<uint4*>(tiles)[i] = {0, 0, 0, 0};
  if (threadIdx.x < Shape::BLOCK_QUERIES) {
    const u32 query = block_first + threadIdx.x;
    // Queries past the last see what that sees, but nothing where their warp has no other.
    const bool idle = block_first + threadIdx.x / WARP_QUERIES * WARP_QUERIES >= all;
    sees[threadIdx.x] = idle ? Seen{0, 0} : seen(a, a.batch[(query < all ? query : all - 1) / group]);
  }
  __syncthreads();

  // Neither end of what a row sees decreases from one row to the next.
  const u32 queries = all - block_first;
  const Seen earliest = sees[0], latest = sees[(queries < Shape::BLOCK_QUERIES ? queries : Shape::BLOCK_QUERIES) - 1];
  const u32 last = latest.first + (latest.count - 1);
  const Seen met = {earliest.first, last - earliest.first + 1};
  const u64 first_row = cache.first(a.batch[block_first / group].slot, blockIdx.y);
  u32 base = met.first / TILE_POSITIONS * TILE_POSITIONS;
  const Keys keys(cache, first_row, tiles, raw, scales, STAGED ? key_bits : 16);
  const Values values(cache, first_row, tiles, raw + RAW, scales + (STAGED ? THREADS : 0), STAGED ? value_bits : 16);
  // Where the positions of the first tile's round of the ring begin; the last are of this one or of the next.
  const u32 round = base - base % cache.capacity;
  const auto copy = [&](u32 from, u32 ahead) {
    keys.copy(from, round, ahead, cache.capacity, met);
    values.copy(from, round, ahead, cache.capacity, met);
    ptx::end_copies();
  };
  Sums<Shape> sums;
  copy(base, 0);
  u32 own = 0;  // bytes before the tile that is multiplied
#pragma unroll 1
  for (; base <= last; base += Shape::POSITIONS) {
    ptx::wait_for_copies<0>();
    if (STAGED) {
      // All have read the tile before, whose place this one takes.
      __syncthreads();
      keys.widen();
      values.widen();
    }
    // All see the tile, and have read the one before, whose place the next one takes.
    __syncthreads();
    const u32 other = STAGED ? 0 : TILE_BYTES - own;
    if (base + Shape::POSITIONS <= last) copy(base + Shape::POSITIONS, other);
#pragma unroll 1
    for (u32 step = 0; step < Shape::POSITIONS; step += Shape::STEP) {
      const u32 from = base + step;
      const Seen early = sees[warp * WARP_QUERIES], late = sees[warp * WARP_QUERIES + (WARP_QUERIES - 1)];
      // A warp passes over what none of its rows sees.
      if (from + (Shape::STEP - 1) < early.first || from >= late.first + late.count) continue;
      const bool whole = from >= late.first && from + (Shape::STEP - 1) - early.first < early.count;
      Scores<Shape> s;
      scores<Shape>(s, q, tiles + own + step * PIECE, head_dim, a.softcap);
      if (!whole) {
#pragma unroll
        for (u32 i = 0; i < 2 * Shape::ROWS; ++i) {
          mask(s, i, sees[query_of<Shape>(0, i)], from);
        }
      }
      sums.weigh(s);
      sums.mix(s, ptx::shared(tiles + own + Tile<Shape>::KEYS + step * Tile<Shape>::VALUE), head_dim);
    }
    own = other;
  }
  sums.finish();
#pragma unroll 1
  for (u32 w = 0; w < (rotated_values ? WARPS : 1); ++w) {
    __syncthreads();
#pragma unroll
    for (u32 i = 0; i < 2 * Shape::ROWS; ++i) {
      const u32 query = query_of<Shape>(block_first, i);
      float* const to = rotated_values ? staged + (query - block_first - w * WARP_QUERIES) * head_dim : a.out + index_of(query);
      if (rotated_values ? warp == w : query < all) sums.store(to, i, head_dim);
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

#define KERNEL(name, STAGED, ...)                                                                \
  extern "C" __global__ void __launch_bounds__(THREADS)                                          \
  attention_prompt_##name(Attention a, Cache cache, u32 rows, u32 key_bits, u32 value_bits) {    \
    attention_prompt<STAGED, Shape<__VA_ARGS__>>(a, cache, rows, key_bits, value_bits);          \
  }

// By the widest head and the queries of a block.
KERNEL(f16_128_64, false, 128, 1)
KERNEL(f16_128_128, false, 128, 2)
KERNEL(f16_256_64, false, 256, 1)
KERNEL(packed_128_64, true, 128, 1)
KERNEL(packed_128_128, true, 128, 2)
KERNEL(packed_256_64, true, 256, 1)
#undef KERNEL

}  // namespace prompt
