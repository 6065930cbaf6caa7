// Several products of one input in a launch, of rows of a batch with the same weights or of the experts that rows chose.
#pragma once
#include "common.cuh"

// Products of a launch.
constexpr u32 PRODUCTS_MAX = 4;

// One matrix.
struct Product {
  float* out;                     // (tokens, rows); (pairs, rows) of experts
  const void* weight;             // (rows, cols)
  const void* const* of_experts;  // (experts), one each in place of `weight`, or null
  const float* bias;              // (rows) or null
  // A second matrix, alike: then out is activation(the first's) * the second's, and there is no bias. Of packed weights, few
  // tokens.
  const void* up;
  const void* const* up_of_experts;
  u32 rows;
  u32 group;                      // columns of a block, of packed weights
  u32 activation;                 // where there is a second one
  u32 end;                        // blocks of threads along the rows of this product and of those before it
};

struct Products {
  Product each[PRODUCTS_MAX];  // those that there are not have the last one's `end`
  const float* x;              // (tokens, cols), of float weights
  const s8* quants;            // (tokens, groups * 32), of packed weights
  const float* scales;         // (tokens, groups)
  u32 cols, tokens;
};

// Rows that one block of threads multiplies, all by one expert's weights.
struct Work {
  u32 expert;
  u32 first;  // of the batch, or of the pairs in their order
  u32 count;
};

// The choices of a batch: pair i is the i-th choice of row i / used. Without experts all addresses are null.
struct Choices {
  const u32* expert;      // (rows, used)
  const u32* order;       // (rows * used), pairs by expert, or null: a block makes one pair
  const Work* works;      // (work_count), where there is an order
  const u32* work_count;
  u32 share;              // pairs that have one row of the input: `used`, or 1
};

// What a block of threads multiplies.
struct Job {
  Product product;
  Work rows;
  const void* weight;
  const void* up;
  u32 block;  // of the product's rows
};

// The job of this block of threads. Blocks of the same rows of a matrix run beside each other, one for each of the works,
// pairs or `tokens_max` rows of the batch. Returns whether there is one.
static __device__ __forceinline__ bool find_job(const Products& p, const Choices& choices, u32 tokens_max, Job& job) {
  const u32 works = gridDim.x / p.each[PRODUCTS_MAX - 1].end;
  const u32 work = blockIdx.x % works, block = blockIdx.x / works;
  if (choices.order) {
    if (work >= *choices.work_count) return false;
    job.rows = choices.works[work];
  } else if (choices.expert) {
    job.rows = Work{choices.expert[work], work, 1};
  } else {
    const u32 first = work * tokens_max, left = p.tokens - first;
    job.rows = Work{0, first, left < tokens_max ? left : tokens_max};
  }
  job.product = p.each[0];
  u32 before = 0;
  for (u32 i = 1; i < PRODUCTS_MAX; ++i) {
    if (block < p.each[i - 1].end) continue;
    job.product = p.each[i];
    before = p.each[i - 1].end;
  }
  job.block = block - before;
  const Product& product = job.product;
  job.weight = product.of_experts ? product.of_experts[job.rows.expert] : product.weight;
  job.up = product.up_of_experts ? product.up_of_experts[job.rows.expert] : product.up;
  return true;
}

// The row of the output that is the `n`-th of `rows`, and the input's.
static __device__ __forceinline__ u32 output_of(const Choices& choices, const Work& rows, u32 n) {
  return choices.order ? choices.order[rows.first + n] : rows.first + n;
}
static __device__ __forceinline__ u32 input_of(const Choices& choices, const Work& rows, u32 n) {
  return output_of(choices, rows, n) / choices.share;
}
