// What attention is of: queries, and the positions that each row sees.
#pragma once
#include "cache.cuh"

constexpr u32 NO_POSITION = 0xffffffffu;

struct Attention {
  float* out;           // (rows, heads * head_dim)
  const float* q;       // (rows, heads * head_dim)
  const Row* batch;
  const float* chosen;  // (rows, top), positions and then -1; null where all that a row sees are met
  float* parts;         // (rows, heads, splits, head_dim + 2): maximum, total and sums of each part; unused where there is one
  u32 heads, top, splits;
  float scale;
  float softcap;        // 0 for none
  u32 window;           // positions that a query sees, itself included; NO_POSITION for all
  u32 chunk;            // 0 for none
  u32 until;            // the last position that every query sees; NO_POSITION for its own
  u32 behind;           // what a row sees behind itself: NOTHING, or up to `Row::last`, WITHIN the window or ALL of it
};

constexpr u32 NOTHING = 0, WITHIN = 1, ALL = 2;

// The positions from `first` on that a row sees: kernels/src/shape.rs, `AttentionShape::sees` and `sees_jointly`.
struct Seen {
  u32 first, count;
};

static __device__ __forceinline__ Seen seen(const Attention& a, Row row) {
  const u32 before = a.window == NO_POSITION ? NO_POSITION : a.window - 1;
  u32 last = row.position;
  if (a.until != NO_POSITION) {
    last = a.until;
  } else if (a.behind == WITHIN) {
    const u32 reached = NO_POSITION - last < before ? NO_POSITION : last + before;
    last = row.last < reached ? row.last : reached;
  }
  const u32 from = a.until != NO_POSITION ? last : row.position;
  u32 first = from > before ? from - before : 0;
  if (a.until == NO_POSITION && a.chunk) first = row.position - row.position % a.chunk;
  if (a.behind == ALL && row.last > last) last = row.last;
  return {first, last - first + 1};
}
