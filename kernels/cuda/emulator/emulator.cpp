// Fibers and the order in which they run.
#include "emulator.h"

#include <cstdarg>
#include <vector>

#ifndef __x86_64__
#include <ucontext.h>
#endif

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace emulator {

EMULATOR_STATE uint3 thread, block;
EMULATOR_STATE dim3 block_size, grid_size;

namespace {

constexpr unsigned WARP = 32;
constexpr unsigned WHOLE_WARP = 0xffffffffu;
constexpr unsigned THREADS_MAX = 1024;
constexpr std::size_t STACK_BYTES = 64 * 1024;

#ifdef __x86_64__
// The registers that a call keeps lie on the fiber's own stack.
struct Context {
  void* stack = nullptr;
};

extern "C" void emulator_switch(void** from, void* to);
asm(R"(
.text
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, .-emulator_switch
)");

void change(Context& from, Context& to) { emulator_switch(&from.stack, to.stack); }

void prepare(Context& context, char* stack, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + STACK_BYTES);
  *--top = nullptr;  // the return address of `entry`, which does not return; keeps the stack aligned
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  context.stack = top;
}
#else
using Context = ucontext_t;

void change(Context& from, Context& to) { swapcontext(&from, &to); }

void prepare(Context& context, char* stack, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = STACK_BYTES;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
#endif

enum class State { Ready, AtWarp, AtBlock, Done };

struct Copy {
  void* to;
  const void* from;  // null for zeros
  unsigned bytes;
  std::uint64_t begun;  // what the detector of races knew of `from`
};

struct Fiber {
  Context context;
  State state = State::Ready;
  unsigned lanes = 0;                       // that it waits for
  Site site = {};                           // where
  bool orders = false;                      // whether what was done before is then seen by those lanes
  unsigned exchanges = 0;                   // of its whole warp so far
  std::vector<std::vector<Copy>> groups;    // of copies that have ended, the oldest first
  std::vector<Copy> open;                   // copies of the group that has not
};

std::vector<Fiber> fibers(THREADS_MAX);
char* stacks = nullptr;
EMULATOR_STATE Place places[3][THREADS_MAX];  // two for whole warps, one for parts of them
const std::function<void()>* body;
Context scheduler;
unsigned count, running;

void leave() { change(fibers[running].context, scheduler); }

void wait(State state, unsigned lanes, Site site, bool orders = false) {
  fibers[running].state = state;
  fibers[running].lanes = lanes;
  fibers[running].site = site;
  fibers[running].orders = orders;
  leave();
}

// A function of its own: the address sanitizer never sees the end of `entry`, which so has no variables.
__attribute__((noinline)) void check_copies() {
  const Fiber& own = fibers[running];
  std::size_t left = own.open.size();
  for (const auto& group : own.groups) left += group.size();
  if (left != 0) fail("returns with %zu copies that it did not wait for", left);
}

void entry() {
  (*body)();
  check_copies();
  fibers[running].state = State::Done;
  leave();
  std::abort();
}

// All of a block, or of a warp, must wait at the same place.
void check_sites(const Fiber& one, const Fiber& other, const char* what) {
  const Site a = one.site, b = other.site;
  if (a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0) return;
  fail("%s at %s:%u and at %s:%u", what, a.file_name(), a.line(), b.file_name(), b.line());
}

// Lets the lanes go on that wait for no lane but those that wait too. Returns whether there were any.
bool release_warp(unsigned first) {
  unsigned waiting = 0, done = 0;
  for (unsigned lane = 0; lane < WARP; ++lane) {
    const bool exists = first + lane < count;
    if (!exists || fibers[first + lane].state == State::Done) done |= 1u << lane;
    else if (fibers[first + lane].state == State::AtWarp) waiting |= 1u << lane;
  }
  bool released = false;
  for (unsigned lane = 0; lane < WARP; ++lane) {
    if (!(waiting >> lane & 1)) continue;
    const unsigned lanes = fibers[first + lane].lanes;
    if (lanes & done) fail("a warp operation of lanes %08x, of which %08x have returned", lanes, lanes & done);
    if (lanes & ~waiting) continue;
    for (unsigned other = 0; other < WARP; ++other) {
      if (!(lanes >> other & 1)) continue;
      if (fibers[first + other].lanes != lanes) fail("lanes of a warp wait for %08x and for others", lanes);
      check_sites(fibers[first + lane], fibers[first + other], "lanes of a warp wait for each other");
      fibers[first + other].state = State::Ready;
    }
    if (fibers[first + lane].orders) races::meet_warp(first / WARP);
    waiting &= ~lanes;
    released = true;
  }
  return released;
}

// Runs every fiber that can; returns how many have not returned.
unsigned run_ready(bool backwards, bool& progress) {
  unsigned live = 0;
  for (unsigned n = 0; n < count; ++n) {
    running = backwards ? count - 1 - n : n;
    Fiber& fiber = fibers[running];
    if (fiber.state == State::Ready) {
      thread = {running, 0, 0};
      change(scheduler, fiber.context);
      progress = true;
    }
    live += fiber.state != State::Done;
  }
  return live;
}

void run_block(bool backwards) {
  races::begin_block();
  for (unsigned i = 0; i < count; ++i) {
    fibers[i].state = State::Ready;
    fibers[i].groups.clear();
    fibers[i].exchanges = 0;
    prepare(fibers[i].context, stacks + i * STACK_BYTES, entry);
  }
  for (;;) {
    bool progress = false;
    const unsigned live = run_ready(backwards, progress);
    if (live == 0) break;
    for (unsigned first = 0; first < count; first += WARP) progress |= release_warp(first);
    unsigned at_block = 0;
    for (unsigned i = 0; i < count; ++i) at_block += fibers[i].state == State::AtBlock;
    if (at_block == live) {
      const Fiber* waiting = nullptr;
      for (unsigned i = 0; i < count; ++i) {
        if (fibers[i].state != State::AtBlock) continue;
        if (waiting == nullptr) waiting = &fibers[i];
        check_sites(*waiting, fibers[i], "threads wait for their block");
        fibers[i].state = State::Ready;
      }
      races::meet_block();
      progress = true;
    }
    if (!progress) fail("of %u threads %u wait for the block and the rest for a warp: none can go on", live, at_block);
  }
  races::end_block();
}

}  // namespace

void fail(const char* format, ...) {
  std::fprintf(stderr, "emulator: block (%u, %u), thread %u: ", block.x, block.y, thread.x);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  std::abort();
}

void wait_for_block(Site site) { wait(State::AtBlock, 0, site); }

void wait_for_warp(unsigned lanes, Site site, bool orders) {
  if (!(lanes >> lane() & 1)) fail("lane %d is not of the lanes %08x that it waits for", lane(), lanes);
  wait(State::AtWarp, lanes, site, orders);
}

Place* exchange_places(unsigned lanes) {
  Fiber& own = fibers[running];
  const unsigned set = lanes == WHOLE_WARP ? own.exchanges++ % 2 : 2;
  return places[set] + running / WARP * WARP;
}

void leave_places(unsigned lanes, Site site) {
  if (lanes != WHOLE_WARP) wait_for_warp(lanes, site);
}

void copy_later(void* to, const void* from, unsigned bytes) {
  const std::uint64_t begun = races::begin_copy(to, from, bytes, __builtin_return_address(0));
  std::memset(to, 0xff, bytes);
  fibers[running].open.push_back({to, from, bytes, begun});
}

void end_copies() {
  Fiber& own = fibers[running];
  own.groups.push_back(std::move(own.open));
  own.open.clear();
}

void finish_copies(unsigned left) {
  std::vector<std::vector<Copy>>& groups = fibers[running].groups;
  while (groups.size() > left) {
    for (const Copy& copy : groups.front()) {
      races::end_copy(copy.to, copy.from, copy.bytes, copy.begun, __builtin_return_address(0));
      if (copy.from == nullptr) std::memset(copy.to, 0, copy.bytes);
      else std::memcpy(copy.to, copy.from, copy.bytes);
    }
    groups.erase(groups.begin());
  }
}

void* allocate(std::size_t bytes) {
#ifdef EMULATOR_RACES
  return races::allocate(bytes);
#else
  // No byte more, so that the address sanitizer sees what is outside.
  void* memory = nullptr;
  return posix_memalign(&memory, 256, bytes) == 0 ? memory : nullptr;
#endif
}

void release(void* memory, [[maybe_unused]] std::size_t bytes) {
#ifdef EMULATOR_RACES
  races::release(memory, bytes);
#else
  std::free(memory);
#endif
}

void run(dim3 grid, dim3 size, const std::function<void()>& each) {
  if (stacks == nullptr) stacks = static_cast<char*>(std::aligned_alloc(4096, THREADS_MAX * STACK_BYTES));
  const char* const order = std::getenv("MUSE_EMULATOR_ORDER");
  const bool backwards = order != nullptr && std::strcmp(order, "backwards") == 0;
  body = &each;
  count = size.x;
  block_size = size;
  grid_size = grid;
  races::begin_launch();
  for (block.y = 0; block.y < grid.y; ++block.y) {
    for (block.x = 0; block.x < grid.x; ++block.x) run_block(backwards);
  }
}

}  // namespace emulator

// Fibers change places only where they wait.
unsigned atomicAdd(unsigned* at, unsigned more) {
  emulator::races::change_atomically(at, sizeof *at, __builtin_return_address(0));
  return std::exchange(*at, *at + more);
}
