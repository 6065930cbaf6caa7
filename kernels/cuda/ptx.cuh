// Every line of PTX, as small functions. emulator/ptx.h says what each means, in C++.
#pragma once

#ifdef EMULATOR
#include "emulator/ptx.h"
#else

namespace ptx {

// Sum of four products of signed bytes, and of `sum`.
static __device__ __forceinline__ int dp4a(int a, int b, int sum) {
  int result;
  asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
  return result;
}

// The bytes of `low` and `high`, 8 together, that the four low nibbles of `selector` name; each nibble is below 8.
static __device__ __forceinline__ unsigned permute(unsigned low, unsigned high, unsigned selector) {
  unsigned result;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(low), "r"(high), "r"(selector));
  return result;
}

// (x & mask) ^ turned, which the compiler makes two of where both are constants.
static __device__ __forceinline__ unsigned and_xor(unsigned x, unsigned mask, unsigned turned) {
  unsigned result;
  asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(result) : "r"(x), "r"(mask), "r"(turned));
  return result;
}

// The nearest integer, ties to even; 0 for NaN.
static __device__ __forceinline__ int round_to_int(float x) {
  int result;
  asm("cvt.rni.s32.f32 %0, %1;" : "=r"(result) : "f"(x));
  return result;
}

// The value of f16 bits, exactly.
static __device__ __forceinline__ float from_f16(unsigned short bits) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(bits));
  return result;
}

// The bits of the nearest f16, ties to even.
static __device__ __forceinline__ unsigned short to_f16(float x) {
  unsigned short result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result) : "f"(x));
  return result;
}

// 16 aligned bytes that nobody writes while the kernel runs and that are read once: they need no place in L1.
static __device__ __forceinline__ uint4 load_once(const void* at) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(at));
  return v;
}

// d = a * b + c of whole warps, in integers: `a` is 16 rows by 32 columns, `b` 32 by 8. Of lane l, with
// g = l / 4 and t = l % 4, four bytes a word, the first lowest:
//   a[0] row g, a[1] row g + 8, columns 4t..4t+4; a[2], a[3] the same rows, columns 16+4t..16+4t+4
//   b[0] rows 4t..4t+4 of column g; b[1] rows 16+4t..16+4t+4
//   c[0], c[1], d[0], d[1] columns 2t, 2t+1 of row g; the others of row g + 8
static __device__ __forceinline__ void multiply_tile(int (&d)[4], const unsigned (&a)[4], uint2 b, const int (&c)[4]) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y),
        "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}

// d += a * b of whole warps: `a` is 16 rows by 8 columns, `b` 8 by 8, of floats whose lowest 13 bits count for nothing. Of
// lane l, with g = l / 4 and t = l % 4:
//   a[0] row g, a[1] row g + 8, column t; a[2], a[3] the same rows, column t + 4
//   b0 row t of column g; b1 row t + 4
//   d as in `multiply_tile`
static __device__ __forceinline__ void multiply_tile_float(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d += a * b of whole warps: `a` is 16 rows by 16 columns, `b` 16 by 8, of f16, two a word, the first lower. Of lane l, with
// g = l / 4 and t = l % 4:
//   a[0] row g, a[1] row g + 8, columns 2t, 2t+1; a[2], a[3] the same rows, columns 8+2t, 8+2t+1
//   b0 rows 2t, 2t+1 of column g; b1 rows 8+2t, 8+2t+1
//   d as in `multiply_tile`
static __device__ __forceinline__ void multiply_tile_half(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The bits of the nearest two f16, ties to even, `low` in the lower half.
static __device__ __forceinline__ unsigned to_two_f16(float low, float high) {
  unsigned result;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}

// 2^x to 2 units in the last place, 0 where that is not a normal number.
static __device__ __forceinline__ float power_of_two(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// 1 / x to 1 unit in the last place.
static __device__ __forceinline__ float reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// An address in shared memory, which grows by bytes.
typedef unsigned Shared;

static __device__ __forceinline__ Shared shared(const void* at) {
  Shared address;
  asm("{ .reg .u64 wide; cvta.to.shared.u64 wide, %1; cvt.u32.u64 %0, wide; }" : "=r"(address) : "l"(at));
  return address;
}

// Four matrices of 8 rows of 8 16-bit numbers, transposed, for a whole warp: row i of matrix m lies at the address that lane
// 8m + i gives, 16 bytes. Word m of lane l, with g = l / 4 and t = l % 4, is column g of rows 2t, the lower, and 2t+1 of m.
static __device__ __forceinline__ uint4 load_transposed(Shared at) {
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "r"(at)
      : "memory");
  return v;
}

// Begins to copy BYTES, 4, 8 or 16 and aligned, to shared memory, or as many zeros where not `present`. Nobody reads or
// writes there until `wait_for_copies`.
template <unsigned BYTES>
static __device__ __forceinline__ void copy_async(Shared to, const void* from, bool present) {
  const unsigned bytes = present ? BYTES : 0;
  if (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(BYTES), "r"(bytes) : "memory");
  }
}

// Ends a group of this thread's copies, which may be none.
static __device__ __forceinline__ void end_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for this thread's copies of all groups but the last LEFT. Other threads see them after a barrier.
template <unsigned LEFT>
static __device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

}  // namespace ptx
#endif
