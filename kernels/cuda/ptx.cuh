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

}  // namespace ptx
#endif
