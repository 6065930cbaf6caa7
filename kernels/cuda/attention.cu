// Grouped-query attention over a cache, with the running maximum of Milakov and Gimelshein 2018,
// https://arxiv.org/abs/1805.02867, and positions split over blocks as in Dao et al. 2023, "Flash-Decoding".
#include "attention.cuh"

// Numbers of a value that a thread sums.
constexpr u32 COLUMNS = 8;

// How many of a row's `top` are chosen; all threads call it.
static __device__ __forceinline__ u32 chosen_count(const float* chosen, u32 top) {
  u32 count = 0;
#pragma unroll 1
  for (u32 i = threadIdx.x; i < top; i += THREADS) count += chosen[i] >= 0.0f;
  return static_cast<u32>(block_fold<Sum>(static_cast<float>(count)));
}

// Adds the products of a key's numbers with those of `count` queries, rows of `head_dim` in shared memory.
template <typename Element, u32 QUERIES>
static __device__ __forceinline__ void scores(float (&dots)[QUERIES], const Cache& cache, const Element* keys, u32 place,
                                              const float* queries, u32 count) {
  constexpr u32 NUMBERS = PIECE / sizeof(Element) * Form<Element>::NUMBERS;
  const u32 head_dim = cache.head_dim;
  if (head_dim % NUMBERS) {
    const u32 elements = key_elements<Element>(head_dim);
#pragma unroll 1
    for (u32 e = 0; e < elements; ++e) {
      const Element* const element = keys + cache.key<Element>(place, e, 1);
      for (u32 i = 0; i < Form<Element>::NUMBERS; ++i) {
        const u32 at = e * Form<Element>::NUMBERS + i;
        if (at >= head_dim) break;
        const float x = number(element, i);
        for (u32 q = 0; q < QUERIES; ++q) {
          if (q >= count) break;
          dots[q] += x * queries[q * head_dim + at];
        }
      }
    }
    return;
  }
  const u8* const bytes = reinterpret_cast<const u8*>(keys + cache.key<Element>(place, 0, PIECE / sizeof(Element)));
#pragma unroll (NUMBERS > 8 ? 1 : 2)
  for (u32 piece = 0; piece < head_dim / NUMBERS; ++piece) {
    const uint4 loaded = ptx::load_once(bytes + static_cast<u64>(piece) * PIECE * TILE_POSITIONS);
    const u32 words[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
    for (u32 quad = 0; quad < NUMBERS / 4; ++quad) {
      float x[4];
      widen_quad(x, words, quad, Element{});
      for (u32 q = 0; q < QUERIES; ++q) {
        if (q >= count) break;
        const float4 y = *reinterpret_cast<const float4*>(queries + q * head_dim + piece * NUMBERS + quad * 4);
        dots[q] += x[0] * y.x + x[1] * y.y + x[2] * y.z + x[3] * y.w;
      }
    }
  }
}

// The COLUMNS numbers of a value's row from `column` on, and 0 past `head_dim`.
template <typename Element>
static __device__ __forceinline__ void load_columns(float (&x)[COLUMNS], const Element* row, u32 column, u32 head_dim) {
  if (head_dim % COLUMNS) {
    for (u32 i = 0; i < COLUMNS; ++i) x[i] = column + i < head_dim ? number(row, column + i) : 0.0f;
    return;
  }
  constexpr u32 BYTES = COLUMNS * sizeof(Element) / Form<Element>::NUMBERS;
  const u8* const at = reinterpret_cast<const u8*>(row) + column / COLUMNS * BYTES;
  u32 words[BYTES / 4];
  if constexpr (BYTES == 4) {
    words[0] = *reinterpret_cast<const u32*>(at);
  } else if constexpr (BYTES == 8) {
    const uint2 loaded = *reinterpret_cast<const uint2*>(at);
    words[0] = loaded.x, words[1] = loaded.y;
  } else {
    for (u32 i = 0; i < BYTES / PIECE; ++i) {
      const uint4 loaded = ptx::load_once(at + i * PIECE);
      words[4 * i] = loaded.x, words[4 * i + 1] = loaded.y, words[4 * i + 2] = loaded.z, words[4 * i + 3] = loaded.w;
    }
  }
  for (u32 quad = 0; quad < COLUMNS / 4; ++quad) {
    float four[4];
    widen_quad(four, words, quad, Element{});
    for (u32 i = 0; i < 4; ++i) x[4 * quad + i] = four[i];
  }
}

// Grid: rows * splits, kv_heads * (groups of up to QUERIES heads that share keys). A block meets THREADS positions at a
// time: a thread makes the scores of one for all of its queries, a warp weights those of a query, and then a thread sums
// COLUMNS numbers of the values of some positions.
template <typename Key, typename Value, u32 QUERIES>
static __device__ __forceinline__ void attention(const Attention& a, const Cache& cache) {
  alignas(16) __shared__ float queries[QUERIES * HEAD_DIM_MAX];
  alignas(16) __shared__ float weights[COLUMNS * THREADS];  // (queries, positions); at the end a query's sums of each thread
  __shared__ float corrections[QUERIES], totals[QUERIES], maxima[QUERIES];
  __shared__ u32 places[THREADS];
  __shared__ float value_scales[THREADS];
  const u32 head_dim = cache.head_dim;
  const u32 index = blockIdx.x / a.splits, part = blockIdx.x % a.splits;
  const u32 group = a.heads / cache.kv_heads, shares = (group + QUERIES - 1) / QUERIES, share = (group + shares - 1) / shares;
  const u32 kv_head = blockIdx.y / shares, before = blockIdx.y % shares * share;
  const u32 count = group - before < share ? group - before : share;
  const Row row = a.batch[index];
  const u64 head = static_cast<u64>(index) * a.heads + kv_head * group + before;
  const u64 first_row = cache.first(row.slot, kv_head);
  const Key* const keys = static_cast<const Key*>(cache.keys) + first_row * key_elements<Key>(head_dim);
  const u32 stride = value_elements<Value>(head_dim);
  const Value* const values = static_cast<const Value*>(cache.values) + first_row * stride;
  const float* const chosen = a.chosen ? a.chosen + static_cast<u64>(index) * a.top : nullptr;
#pragma unroll 1
  for (u32 i = threadIdx.x; i < count * head_dim; i += THREADS) queries[i] = a.q[head * head_dim + i];
  if (threadIdx.x < QUERIES) totals[threadIdx.x] = 0.0f, maxima[threadIdx.x] = Largest::EMPTY;
  __syncthreads();
  if (Form<Key>::ROTATED) rotate(queries, count * head_dim, rotated_len(head_dim));

  Seen sees = seen(a, row);
  if (chosen) sees.count = chosen_count(chosen, a.top);
  const u32 each = ((sees.count + a.splits - 1) / a.splits + THREADS - 1) / THREADS * THREADS;
  const u32 begin = part * each < sees.count ? part * each : sees.count;
  const u32 end = sees.count - begin < each ? sees.count : begin + each;
  const u32 per_row = (head_dim + COLUMNS - 1) / COLUMNS, lines = THREADS / per_row;
  const u32 line = threadIdx.x / per_row, column = threadIdx.x % per_row * COLUMNS;
  float sums[QUERIES][COLUMNS] = {};
  for (u32 start = begin; start < end; start += THREADS) {
    const u32 inside = end - start < THREADS ? end - start : THREADS;
    float dots[QUERIES] = {};
    if (threadIdx.x < inside) {
      const u32 n = start + threadIdx.x;
      const u32 place = (chosen ? static_cast<u32>(chosen[n]) : sees.first + n) % cache.capacity;
      places[threadIdx.x] = place;
      if (Form<Value>::SCALED) value_scales[threadIdx.x] = cache.value_scales[first_row + place];
      scores<Key>(dots, cache, keys, place, queries, count);
      const float scale = Form<Key>::SCALED ? cache.key_scales[first_row + place] * a.scale : a.scale;
      for (u32 q = 0; q < QUERIES; ++q) {
        float score = dots[q] * scale;
        if (a.softcap > 0.0f) score = a.softcap * tanhf(score / a.softcap);
        weights[q * THREADS + threadIdx.x] = score;
      }
    }
    __syncthreads();
    for (u32 q = threadIdx.x / WARP; q < count; q += WARPS) {
      const u32 lane = threadIdx.x % WARP;
      float* const own = weights + q * THREADS;
      float max = Largest::EMPTY;
#pragma unroll 1
      for (u32 i = lane; i < inside; i += WARP) max = fmaxf(max, own[i]);
      // A NaN is no maximum, and makes its weight and so the total NaN.
      const float larger = fmaxf(maxima[q], warp_max(max));
      float total = 0.0f;
#pragma unroll 1
      for (u32 i = lane; i < inside; i += WARP) {
        const float weight = expf(own[i] - larger);
        total += weight;
        own[i] = Form<Value>::SCALED ? weight * value_scales[i] : weight;
      }
      total = warp_sum(total);
      __syncwarp();  // all have read the maximum
      if (lane == 0) {
        corrections[q] = expf(maxima[q] - larger);
        totals[q] = totals[q] * corrections[q] + total;
        maxima[q] = larger;
      }
      __syncwarp();
    }
    __syncthreads();
    if (line < lines) {
      for (u32 q = 0; q < QUERIES; ++q) {
        if (q >= count) break;
        const float correction = corrections[q];
        for (u32 i = 0; i < COLUMNS; ++i) sums[q][i] *= correction;
      }
#pragma unroll (Form<Value>::NUMBERS == 2 ? 1 : 2)
      for (u32 j = line; j < inside; j += lines) {
        float x[COLUMNS];
        load_columns(x, values + static_cast<u64>(places[j]) * stride, column, head_dim);
        for (u32 q = 0; q < QUERIES; ++q) {
          if (q >= count) break;
          const float weight = weights[q * THREADS + j];
          for (u32 i = 0; i < COLUMNS; ++i) sums[q][i] += weight * x[i];
        }
      }
    }
    __syncthreads();
  }
  // What the lines of threads have summed, put together in place of the queries.
  for (u32 q = 0; q < QUERIES; ++q) {
    if (q >= count) break;
    for (u32 i = 0; i < COLUMNS; ++i) weights[threadIdx.x * COLUMNS + i] = sums[q][i];
    __syncthreads();
#pragma unroll 1
    for (u32 i = threadIdx.x; i < head_dim; i += THREADS) {
      float sum = 0.0f;
#pragma unroll 1
      for (u32 n = 0; n < lines; ++n) sum += weights[n * per_row * COLUMNS + i];
      queries[q * head_dim + i] = sum;
    }
    __syncthreads();
  }
  if (a.splits > 1) {
#pragma unroll 1
    for (u32 q = 0; q < count; ++q) {
      float* const to = a.parts + ((head + q) * a.splits + part) * (head_dim + 2);
      if (threadIdx.x == 0) to[0] = maxima[q], to[1] = totals[q];
#pragma unroll 1
      for (u32 i = threadIdx.x; i < head_dim; i += THREADS) to[2 + i] = queries[q * head_dim + i];
    }
    return;
  }
  if (Form<Value>::ROTATED) rotate(queries, count * head_dim, rotated_len(head_dim));
#pragma unroll 1
  for (u32 i = threadIdx.x; i < count * head_dim; i += THREADS) a.out[head * head_dim + i] = queries[i] / totals[i / head_dim];
}

// Puts the parts of each row and head together. `rotated` says whether the values are of rotated rows. Grid: rows * heads.
extern "C" __global__ void __launch_bounds__(THREADS)
attention_merge(float* out, const float* parts, u32 splits, u32 head_dim, u32 rotated) {
  __shared__ float sums[HEAD_DIM_MAX];
  parts += static_cast<u64>(blockIdx.x) * splits * (head_dim + 2);
  float max = Largest::EMPTY, total = 0.0f;
  for (u32 part = 0; part < splits; ++part) max = fmaxf(max, parts[static_cast<u64>(part) * (head_dim + 2)]);
  for (u32 i = threadIdx.x; i < head_dim; i += THREADS) sums[i] = 0.0f;
  for (u32 part = 0; part < splits; ++part) {
    const float* const own = parts + static_cast<u64>(part) * (head_dim + 2);
    const float weight = expf(own[0] - max);
    total += weight * own[1];
    for (u32 i = threadIdx.x; i < head_dim; i += THREADS) sums[i] += weight * own[2 + i];
  }
  __syncthreads();
  if (rotated) rotate(sums, head_dim, rotated_len(head_dim));
  for (u32 i = threadIdx.x; i < head_dim; i += THREADS) out[static_cast<u64>(blockIdx.x) * head_dim + i] = sums[i] / total;
}

// Of few queries 6 blocks fit a processor, 85 registers; left to itself ptxas 12.6 takes 64 for sm_90, and spills.
#define KERNELS(name, Key, Value)                                                                                \
  extern "C" __global__ void __launch_bounds__(THREADS, 6) attention_##name##_4(Attention a, Cache cache) {      \
    attention<Key, Value, 4>(a, cache);                                                                          \
  }                                                                                                              \
  extern "C" __global__ void __launch_bounds__(THREADS) attention_##name##_8(Attention a, Cache cache) {         \
    attention<Key, Value, 8>(a, cache);                                                                          \
  }

KERNELS(f32, float, float)
KERNELS(f16, F16, F16)
KERNELS(int8, s8, s8)
KERNELS(int8_int4, s8, Nibbles)
KERNELS(int4, Nibbles, Nibbles)
#undef KERNELS
