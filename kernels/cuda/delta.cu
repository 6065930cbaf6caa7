// Gated DeltaNet: a short convolution and the gated delta rule, kernels/src/backend.rs. Yang et al. 2024,
// https://arxiv.org/abs/2412.06464. Every sum has one order, whatever the step, so that steps of any sizes leave the same bits.
#include "common.cuh"

constexpr u32 TAPS_MAX = 16;
// Columns of a state that a block works on, and the warps that share the rows of each.
constexpr u32 STATE_COLUMNS = 32, STATE_PARTS = 16, STATE_THREADS = STATE_COLUMNS * STATE_PARTS;

// What a layer keeps, each slot's together: kernels/src/cuda/delta.rs.
struct DeltaState {
  float* states;  // (value_heads, key_dim, columns)
  float* keys;    // of open rows, at their position modulo `undo`: (undo, key_heads * key_dim)
  float* deltas;  // what they add along their keys: (undo, value_heads * columns)
  float* decays;  // how much of the state they keep: (undo, value_heads)
  float* inputs;  // of the convolution, at their position modulo taps - 1 + undo: (taps - 1 + undo, channels)
  u64 stride;     // numbers from one slot to the next, of each
  u32 key_heads, value_heads, key_dim, value_dim, columns, taps, undo;
};

// What one span does: kernels/src/delta.rs, `Stretch`.
struct Stretch {
  u32 slot, row, len, start, settled, settling;
};

static __device__ __forceinline__ u32 channels(const DeltaState& s) {
  return 2 * s.key_heads * s.key_dim + s.value_heads * s.value_dim;
}

// `x` is (rows, channels), `weight` (taps, channels). Grid: channels / THREADS, spans; a thread goes along a channel.
extern "C" __global__ void __launch_bounds__(THREADS)
convolve(float* x, const float* weight, DeltaState state, const Stretch* stretches) {
  const u32 width = channels(state), channel = blockIdx.x * THREADS + threadIdx.x;
  if (channel >= width) return;
  const Stretch stretch = stretches[blockIdx.y];
  const u32 before = state.taps - 1, ring = before + state.undo;
  float* const inputs = state.inputs + stretch.slot * state.stride + channel;
  x += static_cast<u64>(stretch.row) * width + channel;
  // The inputs before a row, the latest first.
  float seen[TAPS_MAX - 1], weights[TAPS_MAX];
  for (u32 i = 0; i < TAPS_MAX; ++i) {
    if (i < TAPS_MAX - 1) {
      const bool kept = i < before && i < stretch.start;
      seen[i] = kept ? inputs[static_cast<u64>((stretch.start - 1 - i) % ring) * width] : 0.0f;
    }
    weights[i] = i < state.taps ? weight[static_cast<u64>(before - i) * width + channel] : 0.0f;
  }
  for (u32 n = 0; n < stretch.len; ++n) {
    const float own = x[static_cast<u64>(n) * width];
    float sum = weights[0] * own;
    for (u32 i = 0; i < TAPS_MAX - 1; ++i) {
      if (i >= before) break;
      sum = fmaf(weights[i + 1], seen[i], sum);
    }
    x[static_cast<u64>(n) * width] = sum / (1.0f + expf(-sum));
    for (u32 i = TAPS_MAX - 2; i > 0; --i) seen[i] = seen[i - 1];
    seen[0] = own;
    if (stretch.len - n <= ring) inputs[static_cast<u64>((stretch.start + n) % ring) * width] = own;
  }
}

// Divides the heads of queries and keys in `x`, (rows, channels), by their lengths, queries by sqrt(key_dim) too; `decay`
// becomes exp(-rate * softplus(decay)) and `beta` its sigmoid, (rows, value_heads). Grid: rows.
extern "C" __global__ void __launch_bounds__(THREADS)
delta_prepare(float* x, float* decay, float* beta, const float* rate, DeltaState state) {
  const u32 lane = threadIdx.x % WARP, key_dim = state.key_dim;
  x += static_cast<u64>(blockIdx.x) * channels(state);
  for (u32 head = threadIdx.x / WARP; head < 2 * state.key_heads; head += WARPS) {
    float* const own = x + head * key_dim;
    float squares = 0.0f;
    for (u32 i = lane; i < key_dim; i += WARP) squares += own[i] * own[i];
    const float scale = head < state.key_heads ? 1.0f / sqrtf(static_cast<float>(key_dim)) : 1.0f;
    const float factor = scale / sqrtf(warp_sum(squares) + 1e-6f);
    for (u32 i = lane; i < key_dim; i += WARP) own[i] *= factor;
  }
  decay += static_cast<u64>(blockIdx.x) * state.value_heads;
  beta += static_cast<u64>(blockIdx.x) * state.value_heads;
  for (u32 head = threadIdx.x; head < state.value_heads; head += THREADS) {
    const float y = decay[head];
    const float softplus = fmaxf(y, 0.0f) + log1pf(expf(-fabsf(y)));
    decay[head] = expf(-rate[head] * softplus);
    beta[head] = 1.0f / (1.0f + expf(-beta[head]));
  }
}

// Of up to KEY_DIM numbers, those of a thread's part: every STATE_PARTS-th. Where there are fewer the rest are 0, which adds
// nothing to any sum, so that no loop asks how many there are.
template <u32 KEY_DIM>
struct alignas(16) Part {
  float at[KEY_DIM / STATE_PARTS];
};

// state = decay * state + key * delta, with the roundings that do not depend on the compiler.
template <u32 KEY_DIM>
static __device__ __forceinline__ void take_in(Part<KEY_DIM>& state, const Part<KEY_DIM>& key, float delta, float decay) {
  for (u32 r = 0; r < KEY_DIM / STATE_PARTS; ++r) state.at[r] = fmaf(key.at[r], delta, state.at[r] * decay);
}

// The column's product with `x`, known to all threads of the column. `sums` is (STATE_PARTS, STATE_COLUMNS), shared, and is
// not written again before the next barrier but one.
template <u32 KEY_DIM>
static __device__ __forceinline__ float along(const Part<KEY_DIM>& state, const Part<KEY_DIM>& x, float* sums) {
  float sum = 0.0f;
  for (u32 r = 0; r < KEY_DIM / STATE_PARTS; ++r) sum = fmaf(state.at[r], x.at[r], sum);
  sums[threadIdx.x] = sum;
  __syncthreads();
  sum = 0.0f;
  for (u32 n = 0; n < STATE_PARTS; ++n) sum += sums[n * STATE_COLUMNS + threadIdx.x % STATE_COLUMNS];
  return sum;
}

// The thread's part of what lies `stride` numbers apart.
template <u32 KEY_DIM>
static __device__ __forceinline__ Part<KEY_DIM> part_of(const float* from, u32 key_dim, u32 stride) {
  Part<KEY_DIM> part;
  for (u32 r = 0; r < KEY_DIM / STATE_PARTS; ++r) {
    const u32 i = r * STATE_PARTS + threadIdx.x / STATE_COLUMNS;
    part.at[r] = i < key_dim ? from[static_cast<u64>(i) * stride] : 0.0f;
  }
  return part;
}

template <u32 KEY_DIM>
static __device__ __forceinline__ void put_back(float* to, const Part<KEY_DIM>& part, u32 key_dim, u32 stride) {
  for (u32 r = 0; r < KEY_DIM / STATE_PARTS; ++r) {
    const u32 i = r * STATE_PARTS + threadIdx.x / STATE_COLUMNS;
    if (i < key_dim) to[static_cast<u64>(i) * stride] = part.at[r];
  }
}

// `x`, `decay` and `beta` are as `delta_prepare` leaves them; `out` is (rows, value_heads * value_dim). Grid: value_heads *
// (columns / STATE_COLUMNS), spans; STATE_THREADS. A block takes the rows of its span one after another.
template <u32 KEY_DIM>
static __device__ __forceinline__ void
delta_rule(float* out, const float* x, const float* decay, const float* beta, const DeltaState& s, const Stretch* stretches) {
  static_assert(2 * KEY_DIM <= STATE_THREADS, "a thread brings a number of a row");
  __shared__ Part<KEY_DIM> pair[2][STATE_PARTS];  // a row's query and key
  __shared__ float sums[2][STATE_THREADS];
  const u32 tiles = s.columns / STATE_COLUMNS, head = blockIdx.x / tiles, part = threadIdx.x / STATE_COLUMNS;
  const u32 column = blockIdx.x % tiles * STATE_COLUMNS + threadIdx.x % STATE_COLUMNS;
  const u32 key_head = head / (s.value_heads / s.key_heads), keys = s.key_heads * s.key_dim, width = channels(s);
  const u32 brings = threadIdx.x / KEY_DIM, brought = threadIdx.x % KEY_DIM;
  const Stretch stretch = stretches[blockIdx.y];
  const u64 slot = stretch.slot * s.stride;
  float* const state = s.states + slot + static_cast<u64>(head) * s.key_dim * s.columns + column;
  float* const deltas = s.deltas + slot + static_cast<u64>(head) * s.columns + column;
  const u64 delta_row = static_cast<u64>(s.value_heads) * s.columns;
  Part<KEY_DIM> held = {};
  if (stretch.start > 0) held = part_of<KEY_DIM>(state, s.key_dim, s.columns);
  for (u32 position = stretch.settled; position < stretch.start; ++position) {
    const u64 open = position % s.undo;
    const float kept = s.decays[slot + open * s.value_heads + head];
    const float* const key = s.keys + slot + open * keys + key_head * s.key_dim;
    take_in(held, part_of<KEY_DIM>(key, s.key_dim, 1), deltas[open * delta_row], kept);
  }
  const auto take_rows = [&](u32 from, u32 until) {
    for (u32 n = from; n < until; ++n) {
      const u64 row = stretch.row + n;
      const float* const own = x + row * width;
      if (brings < 2) {
        const float number = brought < s.key_dim ? own[brings * keys + key_head * s.key_dim + brought] : 0.0f;
        pair[brings][brought % STATE_PARTS].at[brought / STATE_PARTS] = number;
      }
      const float value = column < s.value_dim ? own[2 * keys + head * s.value_dim + column] : 0.0f;
      const float kept = decay[row * s.value_heads + head], gate = beta[row * s.value_heads + head];
      __syncthreads();
      const Part<KEY_DIM> key = pair[1][part];
      const float rest = fmaf(-kept, along(held, key, sums[0]), value);
      const float delta = column < s.value_dim ? gate * rest : 0.0f;
      take_in(held, key, delta, kept);
      const float made = along(held, pair[0][part], sums[1]);
      if (part == 0 && column < s.value_dim) out[(row * s.value_heads + head) * s.value_dim + column] = made;
      if (part == 0 && n >= stretch.settling) deltas[(stretch.start + n) % s.undo * delta_row] = delta;
    }
  };
  take_rows(0, stretch.settling);
  put_back(state, held, s.key_dim, s.columns);
  take_rows(stretch.settling, stretch.len);
}

// By the longest key and the blocks that a multiprocessor holds.
#define KERNEL(KEY_DIM, BLOCKS)                                                                                      \
  extern "C" __global__ void __launch_bounds__(STATE_THREADS, BLOCKS)                                                \
  delta_rule_##KEY_DIM(float* out, const float* x, const float* decay, const float* beta, DeltaState s, const Stretch* spans) { \
    delta_rule<KEY_DIM>(out, x, decay, beta, s, spans);                                                              \
  }

KERNEL(128, 2)
KERNEL(256, 1)
#undef KERNEL

// Keeps the keys and decays of rows that stay open, after every block of `delta_rule` has read those before. Grid: undo, spans.
extern "C" __global__ void __launch_bounds__(THREADS)
delta_settle(const float* x, const float* decay, DeltaState s, const Stretch* stretches) {
  const Stretch stretch = stretches[blockIdx.y];
  const u32 n = stretch.settling + blockIdx.x;
  if (n >= stretch.len) return;
  const u32 keys = s.key_heads * s.key_dim;
  const u64 row = stretch.row + n, open = (stretch.start + n) % s.undo, slot = stretch.slot * s.stride;
  for (u32 i = threadIdx.x; i < keys; i += THREADS) s.keys[slot + open * keys + i] = x[row * channels(s) + keys + i];
  for (u32 i = threadIdx.x; i < s.value_heads; i += THREADS) {
    s.decays[slot + open * s.value_heads + i] = decay[row * s.value_heads + i];
  }
}
