// The keys and values of one layer: kernels/src/cache.rs, `HostCache`. Every slot and head has its own run of positions;
// position p lives at p % capacity.
#pragma once
#include "common.cuh"

struct Cache {
  void* keys;           // (slots, kv_heads, capacity / 16, head_dim, 16)
  void* values;         // (slots, kv_heads, capacity, head_dim)
  float* key_scales;    // (slots, kv_heads, capacity), of 8 bits alone
  float* value_scales;  // (slots, kv_heads, capacity), of 8 bits alone
  u32 capacity, kv_heads, head_dim;

  // Where the positions of one head begin.
  __device__ u64 first(u32 slot, u32 kv_head) const {
    return (static_cast<u64>(slot) * kv_heads + kv_head) * capacity;
  }
  // Index of element 0 of the key at `place`, from the head's first; the next element is TILE_POSITIONS on.
  __device__ u64 key(u32 place) const {
    return static_cast<u64>(place / TILE_POSITIONS) * head_dim * TILE_POSITIONS + place % TILE_POSITIONS;
  }
};
