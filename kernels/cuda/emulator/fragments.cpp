// Tests of the twins in ptx.h that whole warps run: each element of a fragment is where the PTX ISA says, and copies take
// effect when they are waited for. scripts/cuda.sh runs it.
#include "ptx.h"

namespace {

int failures = 0;

void check(bool good, const char* what, int lane, int i) {
  if (good) return;
  std::fprintf(stderr, "%s: lane %d, element %d\n", what, lane, i);
  ++failures;
}

// A matrix whose bytes all differ from their neighbours, some of them negative.
int number(int row, int column) { return (row * 37 + column * 11) % 251 - 125; }

// "Matrix Fragments for mma.m16n8k32", .s8: the row and column of element i of a lane's fragment, as that page words it.
void element_of_a(int lane, int i, int& row, int& column) {
  const int group = lane >> 2, thread_in_group = lane % 4;
  row = (i < 4) || (i >= 8 && i < 12) ? group : group + 8;
  column = thread_in_group * 4 + (i & 3) + (i < 8 ? 0 : 16);
}

void element_of_b(int lane, int i, int& row, int& column) {
  const int group = lane >> 2, thread_in_group = lane % 4;
  row = thread_in_group * 4 + (i & 3) + (i < 4 ? 0 : 16);
  column = group;
}

void element_of_c(int lane, int i, int& row, int& column) {
  const int group = lane >> 2, thread_in_group = lane % 4;
  row = i < 2 ? group : group + 8;
  column = thread_in_group * 2 + (i & 1);
}

void products_are_where_the_isa_says() {
  const int lane = emulator::lane();
  unsigned a[4] = {}, b[2] = {};
  int c[4], d[4], row, column;
  for (int i = 0; i < 16; ++i) {
    element_of_a(lane, i, row, column);
    a[i / 4] |= (static_cast<unsigned>(number(row, column)) & 255) << (8 * (i % 4));
  }
  for (int i = 0; i < 8; ++i) {
    element_of_b(lane, i, row, column);
    b[i / 4] |= (static_cast<unsigned>(number(column + 50, row)) & 255) << (8 * (i % 4));
  }
  for (int i = 0; i < 4; ++i) c[i] = 1000 * lane + i;
  ptx::multiply_tile(d, a, uint2{b[0], b[1]}, c);
  for (int i = 0; i < 4; ++i) {
    element_of_c(lane, i, row, column);
    int expected = c[i];
    for (int k = 0; k < 32; ++k) expected += number(row, k) * number(column + 50, k);
    check(d[i] == expected, "multiply_tile", lane, i);
  }
}

// "Matrix Fragments for mma.m16n8k8", .tf32. Numbers are whole and small, so that sums are exact in any order.
void products_of_floats_are_where_the_isa_says() {
  const int lane = emulator::lane(), group = lane >> 2, thread_in_group = lane % 4;
  const auto bits = [](int row, int column) {
    return __float_as_uint(static_cast<float>(number(row, column))) | 0x1fffu;  // what counts for nothing
  };
  unsigned a[4], b[2];
  for (int i = 0; i < 4; ++i) a[i] = bits(i == 0 || i == 2 ? group : group + 8, i < 2 ? thread_in_group : thread_in_group + 4);
  for (int i = 0; i < 2; ++i) b[i] = bits(group + 50, i == 0 ? thread_in_group : thread_in_group + 4);
  float d[4];
  for (int i = 0; i < 4; ++i) d[i] = static_cast<float>(lane + i);
  ptx::multiply_tile_float(d, a, b[0], b[1]);
  for (int i = 0; i < 4; ++i) {
    int row, column;
    element_of_c(lane, i, row, column);
    int expected = lane + i;
    for (int k = 0; k < 8; ++k) expected += number(row, k) * number(column + 50, k);
    check(d[i] == static_cast<float>(expected), "multiply_tile_float", lane, i);
  }
}

// "Matrix Fragments for mma.m16n8k16", .f16.
void products_of_halves_are_where_the_isa_says() {
  const int lane = emulator::lane(), group = lane >> 2, thread_in_group = lane % 4;
  const auto bits = [](int row, int column) {
    return static_cast<unsigned>(ptx::to_f16(static_cast<float>(number(row, column))));
  };
  unsigned a[4] = {}, b[2] = {};
  for (int i = 0; i < 8; ++i) {
    const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
    const int column = thread_in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
    a[i / 2] |= bits(row, column) << (16 * (i % 2));
  }
  for (int i = 0; i < 4; ++i) {
    const int row = thread_in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0);
    b[i / 2] |= bits(group + 50, row) << (16 * (i % 2));
  }
  float d[4];
  for (int i = 0; i < 4; ++i) d[i] = static_cast<float>(lane + i);
  ptx::multiply_tile_half(d, a, b[0], b[1]);
  for (int i = 0; i < 4; ++i) {
    int row, column;
    element_of_c(lane, i, row, column);
    int expected = lane + i;
    for (int k = 0; k < 16; ++k) expected += number(row, k) * number(column + 50, k);
    check(d[i] == static_cast<float>(expected), "multiply_tile_half", lane, i);
  }
}

// "ldmatrix": lane 8m + i gives row i of matrix m; without .trans a lane has elements 2 (lane % 4) and up of row lane / 4.
void transposed_loads_are_where_the_isa_says() {
  alignas(16) static unsigned short matrices[2][4][8][8];
  const int lane = emulator::lane(), warp = static_cast<int>(emulator::thread.x / 32);
  for (int j = 0; j < 8; ++j) matrices[warp][lane / 8][lane % 8][j] = static_cast<unsigned short>(1000 * (lane / 8) + 10 * (lane % 8) + j);
  const uint4 loaded = ptx::load_transposed(ptx::shared(matrices[warp][lane / 8][lane % 8]));
  const unsigned words[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
  for (int m = 0; m < 4; ++m) {
    for (int i = 0; i < 2; ++i) {
      const int row_of_transposed = lane / 4, column_of_transposed = 2 * (lane % 4) + i;
      const unsigned expected = static_cast<unsigned>(1000 * m + 10 * column_of_transposed + row_of_transposed);
      check((words[m] >> (16 * i) & 0xffff) == expected, "load_transposed", lane, 2 * m + i);
    }
  }
}

void copies_end_when_they_are_waited_for() {
  static uint4 from[32][2], to[32][3];
  const int lane = emulator::lane();
  const auto holds = [&](int i, unsigned x) { return to[lane][i].x == x && to[lane][i].w == x; };
  from[lane][0] = {1, 1, 1, 1};
  from[lane][1] = {2, 2, 2, 2};
  ptx::copy_async<16>(ptx::shared(&to[lane][0]), &from[lane][0], true);
  ptx::end_copies();
  ptx::copy_async<8>(ptx::shared(&to[lane][1]), &from[lane][1], true);
  ptx::copy_async<8>(ptx::shared(&to[lane][1].z), &from[lane][1], true);
  ptx::copy_async<16>(ptx::shared(&to[lane][2]), &from[lane][1], false);
  ptx::end_copies();
  for (int i = 0; i < 3; ++i) check(holds(i, 0xffffffffu), "a copy before its end", lane, i);
  ptx::wait_for_copies<1>();
  check(holds(0, 1), "the first group", lane, 0);
  for (int i = 1; i < 3; ++i) check(holds(i, 0xffffffffu), "a later group", lane, i);
  ptx::wait_for_copies<0>();
  check(holds(1, 2), "the last group", lane, 1);
  check(holds(2, 0), "zeros", lane, 2);
}

}  // namespace

int main() {
  emulator::run({1, 1, 1}, {64, 1, 1}, products_are_where_the_isa_says);
  emulator::run({1, 1, 1}, {64, 1, 1}, products_of_floats_are_where_the_isa_says);
  emulator::run({1, 1, 1}, {64, 1, 1}, products_of_halves_are_where_the_isa_says);
  emulator::run({1, 1, 1}, {64, 1, 1}, transposed_loads_are_where_the_isa_says);
  emulator::run({1, 1, 1}, {32, 1, 1}, copies_end_when_they_are_waited_for);
  return failures == 0 ? 0 : 1;
}
