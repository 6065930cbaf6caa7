// Tests of what the emulator finds: kernels with one mistake each, and the same without it. Each runs in a process of its own,
// and must end as it should, with the words that name the mistake. Only in a build with the detector of races: scripts/cuda.sh.
#include "ptx.h"

#include <string>

#include <sys/wait.h>
#include <unistd.h>

namespace {

constexpr unsigned THREADS = 64;

struct Memory {
  unsigned* numbers;  // (4 * THREADS), all 0
};

unsigned next() { return (threadIdx.x + 1) % THREADS; }
unsigned next_of_warp() { return threadIdx.x / 32 * 32 + (threadIdx.x + 1) % 32; }
ptx::Shared shared(unsigned* at) { return ptx::shared(at); }

template <bool RIGHT>
void barrier(Memory m) {
  __shared__ unsigned all[THREADS];
  all[threadIdx.x] = threadIdx.x;
  if (RIGHT) __syncthreads();
  else __syncwarp();
  m.numbers[threadIdx.x] = all[next()];
}

// A thread may write what others have read only behind a barrier too.
template <bool RIGHT>
void barrier_before_a_write(Memory m) {
  __shared__ unsigned all[THREADS];
  all[threadIdx.x] = threadIdx.x;
  __syncthreads();
  const unsigned other = all[next()];
  if (RIGHT) __syncthreads();
  all[threadIdx.x] = other;
  m.numbers[threadIdx.x] = all[threadIdx.x];
}

template <bool RIGHT>
void warp_barrier(Memory m) {
  __shared__ unsigned all[THREADS];
  all[threadIdx.x] = threadIdx.x;
  if (RIGHT) __syncwarp();
  else __shfl_xor_sync(0xffffffffu, threadIdx.x, 1);  // of which no order of memory is promised
  m.numbers[threadIdx.x] = all[next_of_warp()];
}

template <bool RIGHT>
void one_writer(Memory m) {
  __shared__ unsigned all[THREADS];
  const unsigned own = RIGHT ? threadIdx.x : threadIdx.x / 2;
  all[own] = 1;
  __syncthreads();
  m.numbers[threadIdx.x] = all[own];
}

template <bool RIGHT>
void one_writer_of_a_byte(Memory m) {
  auto* const bytes = reinterpret_cast<unsigned char*>(m.numbers);
  bytes[RIGHT ? threadIdx.x : threadIdx.x / 2] = 1;
}

template <bool RIGHT>
void one_block_writes(Memory m) {
  if (threadIdx.x == 0) m.numbers[RIGHT ? blockIdx.x : 0] = 1;
}

// A block that reads what another block writes may come before it or behind it.
template <bool RIGHT>
void blocks_in_place(Memory m) {
  const unsigned own = blockIdx.x * THREADS + threadIdx.x;
  m.numbers[own] += m.numbers[RIGHT ? own : (own + THREADS) % (2 * THREADS)];
}

template <bool RIGHT>
void written_before_it_is_read(Memory m) {
  __shared__ unsigned all[THREADS];
  if (RIGHT || threadIdx.x != 5) all[threadIdx.x] = 1;
  __syncthreads();
  m.numbers[threadIdx.x] = all[next()];
}

// Shared memory does not outlast its block.
template <bool RIGHT>
void written_by_its_own_block(Memory m) {
  __shared__ unsigned all[THREADS];
  if (RIGHT || blockIdx.x == 0) all[threadIdx.x] = 1;
  m.numbers[blockIdx.x * THREADS + threadIdx.x] = all[threadIdx.x];
}

template <bool RIGHT>
void aligned_load(Memory m) {
  const uint4 four = *reinterpret_cast<const uint4*>(m.numbers + (RIGHT ? 4 : 3));
  m.numbers[2 * THREADS + threadIdx.x] = four.x + four.y + four.z + four.w;
}

template <bool RIGHT>
void wait_before_a_read(Memory m) {
  alignas(16) __shared__ unsigned all[THREADS];
  ptx::copy_async<4>(shared(&all[threadIdx.x]), &m.numbers[threadIdx.x], true);
  ptx::end_copies();
  if (RIGHT) ptx::wait_for_copies<0>();
  __syncthreads();
  m.numbers[THREADS + threadIdx.x] = all[next()];
  ptx::wait_for_copies<0>();
}

// The group of the last stage is still on its way where a loop waits for all but one.
template <bool RIGHT>
void wait_for_the_last_group(Memory m) {
  alignas(16) __shared__ unsigned all[2][THREADS];
  for (unsigned i = 0; i < 2; ++i) {
    ptx::copy_async<4>(shared(&all[i][threadIdx.x]), &m.numbers[threadIdx.x], true);
    ptx::end_copies();
  }
  ptx::wait_for_copies<RIGHT ? 0 : 1>();
  m.numbers[THREADS + threadIdx.x] = all[1][threadIdx.x];
  ptx::wait_for_copies<0>();
}

template <bool RIGHT>
void barrier_behind_a_wait(Memory m) {
  alignas(16) __shared__ unsigned all[THREADS];
  ptx::copy_async<4>(shared(&all[threadIdx.x]), &m.numbers[threadIdx.x], true);
  ptx::end_copies();
  ptx::wait_for_copies<0>();
  if (RIGHT) __syncthreads();
  if (threadIdx.x > 0) m.numbers[THREADS + threadIdx.x] = all[threadIdx.x - 1];
}

template <bool RIGHT>
void read_before_a_copy(Memory m) {
  alignas(16) __shared__ unsigned all[THREADS];
  all[threadIdx.x] = 1;
  __syncthreads();
  m.numbers[THREADS + threadIdx.x] = all[next()];
  if (RIGHT) __syncthreads();
  ptx::copy_async<4>(shared(&all[threadIdx.x]), &m.numbers[threadIdx.x], true);
  ptx::end_copies();
  ptx::wait_for_copies<0>();
}

template <bool RIGHT>
void source_of_a_copy(Memory m) {
  alignas(16) __shared__ unsigned all[THREADS];
  ptx::copy_async<4>(shared(&all[threadIdx.x]), &m.numbers[threadIdx.x], true);
  ptx::end_copies();
  if (RIGHT) ptx::wait_for_copies<0>();
  __syncthreads();
  m.numbers[next()] = 1;
  __syncthreads();
  ptx::wait_for_copies<0>();
}

template <bool RIGHT>
void counted(Memory m) {
  __shared__ unsigned count;
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  atomicAdd(&count, 1u);
  if (RIGHT) __syncthreads();
  m.numbers[threadIdx.x] = count;
}

template <bool RIGHT>
void matrices_in_place(Memory m) {
  alignas(16) __shared__ unsigned rows[2][32][4];
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (unsigned i = 0; i < 4; ++i) rows[warp][lane][i] = lane;
  if (RIGHT) __syncwarp();
  m.numbers[threadIdx.x] = ptx::load_transposed(shared(rows[warp][lane])).x;
}

template <bool RIGHT>
void one_barrier(Memory) {
  if (RIGHT || threadIdx.x < 32) __syncthreads();
  else __syncthreads();
}

template <bool RIGHT>
void barrier_of_all(Memory) {
  if (RIGHT || threadIdx.x % 2 == 0) __syncthreads();
  else __shfl_xor_sync(0xffffffffu, threadIdx.x, 1);
}

template <bool RIGHT>
void lanes_that_take_part(Memory) {
  if (!RIGHT && threadIdx.x % 32 >= 16) return;
  __shfl_xor_sync(0xffffffffu, threadIdx.x, 1);
}

template <bool RIGHT>
void own_lane_in_the_mask(Memory) {
  const unsigned half = threadIdx.x % 32 < 16 ? 0x0000ffffu : 0xffff0000u;
  __shfl_xor_sync(RIGHT ? half : 0x0000ffffu, threadIdx.x, 1);
}

template <bool RIGHT>
void one_shuffle(Memory) {
  if (RIGHT || threadIdx.x % 32 < 16) __shfl_xor_sync(0xffffffffu, threadIdx.x, 1);
  else __shfl_xor_sync(0xffffffffu, threadIdx.x, 1);
}

struct Case {
  const char* name;
  unsigned blocks;
  void (*wrong)(Memory);
  void (*right)(Memory);
  const char* says;
};

#define CASE(blocks, name, says) {#name, blocks, name<false>, name<true>, says}
const Case CASES[] = {
    CASE(1, barrier, "without being ordered behind their write"),
    CASE(1, barrier_before_a_write, "without being ordered behind their"),
    CASE(1, warp_barrier, "without being ordered behind their write"),
    CASE(1, one_writer, "without being ordered behind their write"),
    CASE(1, one_writer_of_a_byte, "without being ordered behind their write"),
    CASE(2, one_block_writes, "of another block"),
    CASE(2, blocks_in_place, "of another block"),
    CASE(1, written_before_it_is_read, "which nobody has written"),
    CASE(2, written_by_its_own_block, "which nobody has written"),
    CASE(1, aligned_load, "which is not aligned"),
    CASE(1, wait_before_a_read, "before a copy is waited for"),
    CASE(1, wait_for_the_last_group, "before a copy is waited for"),
    CASE(1, barrier_behind_a_wait, "without being ordered behind their write"),
    CASE(1, read_before_a_copy, "without being ordered behind their"),
    CASE(1, source_of_a_copy, "that were written meanwhile"),
    CASE(1, counted, "without being ordered behind their"),
    CASE(1, matrices_in_place, "without being ordered behind their write"),
    CASE(1, one_barrier, "threads wait for their block at"),
    CASE(1, barrier_of_all, "none can go on"),
    CASE(1, lanes_that_take_part, "have returned"),
    CASE(1, own_lane_in_the_mask, "is not of the lanes"),
    CASE(1, one_shuffle, "lanes of a warp wait for each other at"),
};

// Runs a kernel in a process of its own; returns what it said, and in `good` whether it came to its end.
std::string outcome(void (*kernel)(Memory), unsigned blocks, bool& good) {
  int ends[2];
  if (pipe(ends) != 0) std::abort();
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 2);
    close(ends[0]);
    close(ends[1]);
    const Memory memory{static_cast<unsigned*>(emulator::allocate(4 * THREADS * sizeof(unsigned)))};
    std::memset(memory.numbers, 0, 4 * THREADS * sizeof(unsigned));
    emulator::run({blocks, 1, 1}, {THREADS, 1, 1}, [=] { kernel(memory); });
    emulator::run({blocks, 1, 1}, {THREADS, 1, 1}, [=] { kernel(memory); });  // a launch comes behind all of the one before
    _exit(0);
  }
  close(ends[1]);
  std::string said;
  char buffer[4096];
  for (ssize_t got; (got = read(ends[0], buffer, sizeof buffer)) > 0;) said.append(buffer, static_cast<std::size_t>(got));
  close(ends[0]);
  int status = 0;
  good = waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  return said;
}

}  // namespace

int main() {
  int failures = 0;
  for (const Case& each : CASES) {
    bool good;
    const std::string wrong = outcome(each.wrong, each.blocks, good);
    if (good || wrong.find(each.says) == std::string::npos) {
      std::fprintf(stderr, "%s: its mistake is not found:\n%s\n", each.name, wrong.c_str());
      ++failures;
    }
    const std::string right = outcome(each.right, each.blocks, good);
    if (!good || !right.empty()) {
      std::fprintf(stderr, "%s: a mistake is found where there is none:\n%s\n", each.name, right.c_str());
      ++failures;
    }
  }
  return failures == 0 ? 0 : 1;
}
