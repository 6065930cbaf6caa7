// Which positions a row meets: those of the best scores of small heads. kernels/src/backend.rs, `choose`.
#include "cache.cuh"
#include "select.cuh"

// Numbers of a row's queries together, at most.
constexpr u32 INDEX_WIDTH_MAX = 8192;

struct Index {
  float* scores;         // (rows at once, stride)
  float* chosen;         // (rows, top)
  const float* q;        // (rows, heads * head_dim)
  const float* weights;  // (rows, heads)
  const Row* batch;
  u64 stride;
  u32 heads, top;
  u32 first;             // the first row of those at once
};

// scores[p] = sum of weight[h] * max(q[h] . key[p], 0). Grid: positions / THREADS, rows at once; a thread makes one.
template <typename Element>
static __device__ __forceinline__ void index_scores(const Index& index, const Cache& cache) {
  alignas(16) __shared__ float queries[INDEX_WIDTH_MAX];
  constexpr u32 NUMBERS = PIECE / sizeof(Element);
  const u32 row_index = index.first + blockIdx.y;
  const Row row = index.batch[row_index];
  if (blockIdx.x * THREADS > row.position) return;
  const u32 head_dim = cache.head_dim, width = index.heads * head_dim;
  for (u32 i = threadIdx.x; i < width; i += THREADS) queries[i] = index.q[static_cast<u64>(row_index) * width + i];
  __syncthreads();
  const u32 position = blockIdx.x * THREADS + threadIdx.x;
  if (position > row.position) return;
  const Element* const keys = static_cast<const Element*>(cache.keys) + cache.first(row.slot, 0) * head_dim;
  const u32 each = piece_elements<Element>(head_dim);
  float sum = -0.0f;  // of no terms, as the reference begins: 0 and -0 are not equal here
  for (u32 h = 0; h < index.heads; ++h) {
    const float* const query = queries + h * head_dim;
    float dot = 0.0f;
    if (each == 1) {
      for (u32 i = 0; i < head_dim; ++i) dot += widen(keys[cache.key<Element>(position, i, 1)]) * query[i];
    } else {
      const u8* const bytes = reinterpret_cast<const u8*>(keys + cache.key<Element>(position, 0, each));
      for (u32 piece = 0; piece < head_dim / NUMBERS; ++piece) {
        const uint4 loaded = *reinterpret_cast<const uint4*>(bytes + static_cast<u64>(piece) * PIECE * TILE_POSITIONS);
        const u32 words[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
        for (u32 quad = 0; quad < NUMBERS / 4; ++quad) {
          float x[4];
          widen_quad(x, words, quad, Element{});
          const float4 y = *reinterpret_cast<const float4*>(query + piece * NUMBERS + quad * 4);
          dot += x[0] * y.x + x[1] * y.y + x[2] * y.z + x[3] * y.w;
        }
      }
    }
    sum += index.weights[static_cast<u64>(row_index) * index.heads + h] * fmaxf(dot, 0.0f);
  }
  if (Form<Element>::SCALED) sum *= cache.key_scales[cache.first(row.slot, 0) + position];
  index.scores[blockIdx.y * index.stride + position] = sum;
}

// The `top` best of each row's positions, ascending, the lower of equals first, and -1 where there are fewer. Grid: rows at
// once; BEST_THREADS.
extern "C" __global__ void __launch_bounds__(BEST_THREADS) choose_best(Index index) {
  const u32 row_index = index.first + blockIdx.x, count = index.batch[row_index].position + 1, top = index.top;
  const float* const scores = index.scores + blockIdx.x * index.stride;
  float* const chosen = index.chosen + static_cast<u64>(row_index) * top;
  if (count <= top) {
    for (u32 i = threadIdx.x; i < top; i += BEST_THREADS) chosen[i] = i < count ? static_cast<float>(i) : -1.0f;
    return;
  }
  select_largest(
      count, top, [=](u32 position) { return order(scores[position]); },
      [=](u32 place, u32 position) { chosen[place] = static_cast<float>(position); });
}

extern "C" __global__ void __launch_bounds__(THREADS) index_scores_f32(Index index, Cache cache) { index_scores<float>(index, cache); }
extern "C" __global__ void __launch_bounds__(THREADS) index_scores_f16(Index index, Cache cache) { index_scores<F16>(index, cache); }
extern "C" __global__ void __launch_bounds__(THREADS) index_scores_int8(Index index, Cache cache) { index_scores<s8>(index, cache); }
