// What the rows of a batch chose among experts.
#pragma once
#include "common.cuh"

// The choices of a batch: pair i is the i-th choice of row i / used.
struct Choices {
  const u32* expert;          // (rows, used)
  const u8* const* weights;   // (experts), one matrix of each
  u32 inputs_per_row;         // 1 where all pairs of a row have one input; `used` where each has its own
  u32 used;
};
