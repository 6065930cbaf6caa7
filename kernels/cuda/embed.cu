// out[t] = scale * table[tokens[t]], in any layout.
#include "blocks.cuh"

// `out` is (tokens, cols). Grid: tokens.
template <typename Element>
static __device__ __forceinline__ void embed_float(float* out, const Element* table, const u32* tokens, u32 cols,
                                                   float scale) {
  const Element* const row = table + static_cast<u64>(tokens[blockIdx.x]) * cols;
  out += static_cast<u64>(blockIdx.x) * cols;
  for (u32 column = threadIdx.x; column < cols; column += blockDim.x) out[column] = widen(row[column]) * scale;
}

// `scale * q + offset` is rounded once, as the reference does: fmaf, and the product alone is exact.
template <int kind>
static __device__ __forceinline__ void embed_quantized(float* out, const u8* table, const u32* tokens, u32 cols,
                                                       u32 group, float scale) {
  constexpr u32 COLUMNS = Blocks<kind>::STEP_COLUMNS;
  const Blocks<kind> blocks{group};
  const u32 token = tokens[blockIdx.x];
  const u32 r = token % TILE_ROWS;
  const u8* const tile = table + blocks.tile(token / TILE_ROWS, cols);
  out += static_cast<u64>(blockIdx.x) * cols;
  for (u32 column = threadIdx.x; column < cols; column += blockDim.x) {
    const u8* const block = tile + static_cast<u64>(column / group) * blocks.bytes();
    const u32 within = column % group;
    const u16* const scales = reinterpret_cast<const u16*>(block);
    const u8 stored = block[Blocks<kind>::HEAD + within / COLUMNS * 64 + r * 4 + within % 4];
    int q;
    if (kind == Q8) {
      q = static_cast<s8>(stored);
    } else {
      const u32 index = within % 8 < 4 ? stored & 15 : stored >> 4;
      if (kind == Q4_CODEBOOK) q = codebook(index);
      else q = static_cast<int>(index) - (kind == Q4 ? 8 : 0);
    }
    const float offset = kind == Q4_ASYM ? ptx::from_f16(scales[TILE_ROWS + r]) : 0.0f;
    out[column] = fmaf(static_cast<float>(q), ptx::from_f16(scales[r]), offset) * scale;
  }
}

#define FLOAT(name, Element)                                                                                         \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
  embed_##name(float* out, const Element* table, const u32* tokens, u32 cols, u32, float scale) {                    \
    embed_float(out, table, tokens, cols, scale);                                                                    \
  }
#define QUANTIZED(name, kind)                                                                                        \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
  embed_##name(float* out, const u8* table, const u32* tokens, u32 cols, u32 group, float scale) {                   \
    embed_quantized<kind>(out, table, tokens, cols, group, scale);                                                   \
  }

FLOAT(f32, float)
FLOAT(f16, F16)
FLOAT(bf16, Bf16)
QUANTIZED(q8, Q8)
QUANTIZED(q4, Q4)
QUANTIZED(q4_asym, Q4_ASYM)
QUANTIZED(q4_codebook, Q4_CODEBOOK)
#undef FLOAT
#undef QUANTIZED
