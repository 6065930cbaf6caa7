// Finds what a kernel reads and writes without being ordered, in one run and whatever the order of threads in it was.
//
// Of each word of shared memory and of the device's it is known who wrote it last and who has read it since, and when. Two
// accesses of which one writes are a race where neither thread's next step waits for the other's, as CUDA promises it:
//   - `__syncthreads` orders a block, `__syncwarp` a warp, a launch all that came before it. Nothing else does: no shuffle,
//     vote, product or load of a whole warp, no atomic operation, nothing between two blocks of a launch.
//   - atomic operations are no races with each other, but are with all else.
//   - an asynchronous copy writes from where it begins until its thread waits for it: who reads or writes there in between,
//     or its source, races. Behind the wait it is a write of that thread, which others see as any other.
// Shared memory holds nothing where a block begins: who reads a byte that nobody wrote is reported as well, and so is an
// access that is not aligned to its size.
//
// The compiler calls what is at the end of this file (-fsanitize=thread, of kernels.cpp alone). What is not seen: memory of
// the host that is registered; bytes of the device that nobody has written (they hold NaN); orders that only some inputs
// lead to; of more than two warps, or two lanes of a warp, that read the same, the others, which makes no race go unseen.
#include "emulator.h"

#include <dlfcn.h>
#include <sys/mman.h>

extern "C" {
// Of this library: all that is 0 at first. `__shared__` variables are, and are the only ones of these that kernels use.
__attribute__((visibility("hidden"))) extern char __bss_start[];
__attribute__((visibility("hidden"))) extern char _end[];
}

namespace emulator::races {

namespace {

// When and by whom: the epoch, which the whole block steps at a barrier; a warp, and its own epoch since then; two of its lanes,
// or one twice; and a flag. 0 is never.
using Record = std::uint64_t;
constexpr unsigned EPOCH = 32, WARP = 27, WARP_EPOCH = 11, FIRST = 6, SECOND = 1;  // lowest bits
constexpr unsigned WARP_EPOCH_MAX = (1u << (WARP - WARP_EPOCH)) - 1;
constexpr Record FLAG = 1, LANES = 0x7fe;

unsigned epoch_of(Record r) { return static_cast<unsigned>(r >> EPOCH); }
unsigned warp_of(Record r) { return r >> WARP & 31; }
unsigned warp_epoch_of(Record r) { return r >> WARP_EPOCH & WARP_EPOCH_MAX; }
unsigned first_of(Record r) { return r >> FIRST & 31; }
unsigned second_of(Record r) { return r >> SECOND & 31; }

// What is known of a word, or of a byte of a word of which some access took only a part.
struct Cell {
  Record written;    // flagged while it is a copy on its way
  Record others[2];  // of two warps, those that read it since; flagged where they changed it atomically instead
  unsigned split;    // the epoch since which its bytes are known for themselves
  unsigned place;    // of the code, of the last access that changed this
};

struct Region {
  std::uintptr_t begin = 0;
  std::size_t len = 0;
  Cell* words = nullptr;
  Cell* bytes = nullptr;
  const char* name = nullptr;
};

constexpr std::size_t PAGE = 4096, DEVICE_BYTES = 256ull << 30;

Region shared, device;
std::size_t allocated = 0;
unsigned epoch = 0, launch_began = 0, block_began = 0;
unsigned warp_epochs[32];
bool in_block = false;
const char* code = nullptr;  // that makes this access
const char* library = nullptr;  // where it begins, and what file it is
const char* path = nullptr;

Record own(Record flag) {
  const Record warp = thread.x / 32, lane = thread.x % 32;
  return Record{epoch} << EPOCH | warp << WARP | Record{warp_epochs[warp]} << WARP_EPOCH | lane << FIRST | lane << SECOND | flag;
}

void step() {
  if (++epoch == 0) fail("too many barriers for the detector of races");
  std::memset(warp_epochs, 0, sizeof warp_epochs);
}

// Of code, from where the library begins.
unsigned place_of(const char* at) { return static_cast<unsigned>(at - library); }

// Prints the lines of the kernel that a place of the code belongs to.
void print_code(const char* what, unsigned place) {
  char command[4200];
  std::snprintf(command, sizeof command, "addr2line -Cfipse '%s' %#x >&2 || true", path, place - 1);
  std::fprintf(stderr, "%s:\n", what);
  std::fflush(stderr);
  if (std::system(command) != 0) std::fprintf(stderr, "  %s+%#x\n", path, place);
}

struct Access {
  const Region& region;
  unsigned began;  // since when what is recorded counts: the launch, of shared memory the block
  const void* at;
  unsigned bytes;
  const char* verb;
};

[[noreturn]] void report(const Access& access, const Cell& cell, const char* why, Record other) {
  print_code("an access that a kernel must not make", place_of(code));
  if (cell.place != 0) print_code("what was known of these bytes before comes from", cell.place);
  char who[96] = "";
  if (other != 0) {
    const bool another_block = epoch_of(other) < block_began;
    const unsigned first = warp_of(other) * 32 + first_of(other), second = warp_of(other) * 32 + second_of(other);
    std::snprintf(who, sizeof who, ", by thread %u%s", first != thread.x || another_block ? first : second, another_block ? " of another block" : "");
  }
  fail("%s %u bytes of %s memory at +%#zx%s%s", access.verb, access.bytes, access.region.name,
       static_cast<std::size_t>(reinterpret_cast<std::uintptr_t>(access.at) - access.region.begin), why, who);
}

// Whether the running thread does not know that what is recorded is done.
bool unordered(const Access& access, Record r) {
  if (epoch_of(r) < access.began) return false;
  if (epoch_of(r) != epoch) return epoch_of(r) < block_began;
  const unsigned warp = thread.x / 32, lane = thread.x % 32;
  if (warp_of(r) != warp) return true;
  return warp_epoch_of(r) == warp_epochs[warp] && (first_of(r) != lane || second_of(r) != lane);
}

void check_written(const Access& access, const Cell& cell, bool reads) {
  if (epoch_of(cell.written) < access.began) {
    if (reads && &access.region == &shared) report(access, cell, ", which nobody has written", 0);
    return;
  }
  if (cell.written & FLAG) report(access, cell, " before a copy is waited for that writes there", cell.written);
  if (unordered(access, cell.written)) report(access, cell, ", without being ordered behind their write", cell.written);
}

void check_others(const Access& access, const Cell& cell, Record allowed) {
  for (const Record other : cell.others) {
    if (other == 0 || (other & FLAG) == allowed || !unordered(access, other)) continue;
    report(access, cell, other & FLAG ? ", without being ordered behind their atomic change" : ", without being ordered behind their read", other);
  }
}

constexpr Record NOT_ALLOWED = 2;  // equals no flag

// Reads, or changes atomically where flagged. Of those that do the same two warps are remembered: a write races with one of them
// wherever it races with a third.
void note(const Access& access, Cell& cell, Record flag) {
  const Record mine = own(flag);
  for (Record& other : cell.others) {
    if (((other ^ mine) & ~LANES) != 0) continue;
    if (first_of(other) != first_of(mine)) other = (other & ~(Record{31} << SECOND)) | Record{second_of(mine)} << SECOND;
    return;
  }
  check_others(access, cell, flag);
  cell.place = place_of(code);
  for (Record& other : cell.others) {
    // One of another kind, or that is done for this thread, is known by this access from now on.
    if ((other & FLAG) == flag && unordered(access, other)) continue;
    other = mine;
    return;
  }
}

void read_cell(const Access& access, Cell& cell) {
  check_written(access, cell, true);
  note(access, cell, 0);
}

void change_cell(const Access& access, Cell& cell) {
  check_written(access, cell, true);
  note(access, cell, FLAG);
}

void write_cell(const Access& access, Cell& cell, Record flag) {
  check_written(access, cell, false);
  check_others(access, cell, NOT_ALLOWED);
  cell.written = own(flag);
  cell.others[0] = cell.others[1] = 0;
  cell.place = place_of(code);
}

const Region* region_of(const void* at) {
  const auto address = reinterpret_cast<std::uintptr_t>(at);
  if (address - shared.begin < shared.len) return &shared;
  if (address - device.begin < device.len) return &device;
  return nullptr;
}

// Calls `each` for what is known of each word, or byte where words are split, of an access. Nothing is of the host's memory.
template <typename Each>
inline void each_cell(const void* at, unsigned bytes, const char* verb, const Each& each) {
  const Region* const found = in_block ? region_of(at) : nullptr;
  if (found == nullptr) return;
  const Region& region = *found;
  const Access access{region, &region == &shared ? block_began : launch_began, at, bytes, verb};
  const std::size_t first = reinterpret_cast<std::uintptr_t>(at) - region.begin, last = first + bytes - 1;
  for (std::size_t word = first / 4; word <= last / 4; ++word) {
    Cell& cell = region.words[word];
    const std::size_t from = word * 4 < first ? first : word * 4, to = word * 4 + 3 > last ? last : word * 4 + 3;
    const bool whole = to - from == 3;
    if (cell.split < access.began) {
      if (whole) {
        each(access, cell);
        continue;
      }
      cell.split = epoch;
      for (std::size_t byte = word * 4; byte < word * 4 + 4; ++byte) region.bytes[byte] = cell;
    }
    for (std::size_t byte = from; byte <= to; ++byte) each(access, region.bytes[byte]);
  }
}

template <bool WRITES>
inline void access(const void* at, unsigned bytes, const void* from) {
  code = static_cast<const char*>(from);
  each_cell(at, bytes, WRITES ? "writes" : "reads", [](const Access& access, Cell& cell) {
    if (WRITES) write_cell(access, cell, 0);
    else read_cell(access, cell);
  });
}

template <bool WRITES, unsigned BYTES>
inline void aligned(const void* at, const void* from) {
  if (in_block && reinterpret_cast<std::uintptr_t>(at) % BYTES != 0) {
    print_code("an access that a kernel must not make", place_of(static_cast<const char*>(from)));
    fail("%s %u bytes at %p, which is not aligned", WRITES ? "writes" : "reads", BYTES, at);
  }
  access<WRITES>(at, BYTES, from);
}

void* reserve(std::size_t bytes, int protection) {
  void* const memory = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) fail("no %zu bytes of addresses for the detector of races", bytes);
  return memory;
}

void prepare(Region& region, const char* name, std::uintptr_t begin, std::size_t len) {
  region.words = static_cast<Cell*>(reserve((len / 4 + 1) * sizeof(Cell), PROT_READ | PROT_WRITE));
  region.bytes = static_cast<Cell*>(reserve((len + 4) * sizeof(Cell), PROT_READ | PROT_WRITE));
  region.begin = begin;
  region.len = len;
  region.name = name;
}

}  // namespace

void begin_launch() {
  if (shared.len == 0) {
    Dl_info info{};
    dladdr(reinterpret_cast<const void*>(&begin_launch), &info);
    library = static_cast<const char*>(info.dli_fbase);
    path = info.dli_fname;
    const auto begin = reinterpret_cast<std::uintptr_t>(__bss_start) / 4 * 4;
    prepare(shared, "shared", begin, reinterpret_cast<std::uintptr_t>(_end) - begin);
  }
  step();
  launch_began = epoch;
}

void begin_block() {
  step();
  block_began = epoch;
  in_block = true;
}

void end_block() { in_block = false; }

void meet_block() { step(); }

void meet_warp(unsigned warp) {
  if (++warp_epochs[warp] > WARP_EPOCH_MAX) fail("too many meetings of a warp for the detector of races");
}

void read(const void* at, unsigned bytes, const void* from) { access<false>(at, bytes, from); }

void change_atomically(const void* at, unsigned bytes, const void* from) {
  code = static_cast<const char*>(from);
  each_cell(at, bytes, "changes atomically", change_cell);
}

// What is recorded of the writes of some bytes, in one number.
static std::uint64_t writes_of(const void* at, unsigned bytes) {
  std::uint64_t sum = 0;
  each_cell(at, bytes, "", [&](const Access&, const Cell& cell) { sum = sum * 31 + cell.written; });
  return sum;
}

std::uint64_t begin_copy(const void* to, const void* source, unsigned bytes, const void* from) {
  if (source != nullptr) read(source, bytes, from);
  code = static_cast<const char*>(from);
  each_cell(to, bytes, "copies to", [](const Access& access, Cell& cell) { write_cell(access, cell, FLAG); });
  return source == nullptr ? 0 : writes_of(source, bytes);
}

void end_copy(const void* to, const void* source, unsigned bytes, std::uint64_t begun, const void* from) {
  if (source != nullptr && writes_of(source, bytes) != begun) {
    print_code("an access that a kernel must not make", place_of(static_cast<const char*>(from)));
    fail("waits for a copy of %u bytes from %p that were written meanwhile", bytes, source);
  }
  if (source != nullptr) read(source, bytes, from);
  each_cell(to, bytes, "", [](const Access&, Cell& cell) { cell.written = own(0); });
}

void* allocate(std::size_t bytes) {
  if (device.len == 0) prepare(device, "the device's", reinterpret_cast<std::uintptr_t>(reserve(DEVICE_BYTES, PROT_NONE)), DEVICE_BYTES);
  const std::size_t pages = (bytes + PAGE - 1) / PAGE * PAGE;
  if (pages + PAGE > DEVICE_BYTES - allocated) fail("no addresses are left for %zu bytes of the device", bytes);
  void* const memory = reinterpret_cast<void*>(device.begin + allocated);
  allocated += pages + PAGE;  // one behind it that nobody may touch
  return mprotect(memory, pages, PROT_READ | PROT_WRITE) == 0 ? memory : nullptr;
}

void release(void* memory, std::size_t bytes) {
  const std::size_t pages = (bytes + PAGE - 1) / PAGE * PAGE, first = reinterpret_cast<std::uintptr_t>(memory) - device.begin;
  mprotect(memory, pages, PROT_NONE);
  madvise(memory, pages, MADV_DONTNEED);
  madvise(device.words + first / 4, pages / 4 * sizeof(Cell), MADV_DONTNEED);
  madvise(device.bytes + first, pages * sizeof(Cell), MADV_DONTNEED);
}

}  // namespace emulator::races

// What an instrumented kernel calls before it reads and writes.
extern "C" {

using emulator::races::access;
using emulator::races::aligned;

void __tsan_init() {}

#define SIZE(n)                                                                                                 \
  void __tsan_read##n(void* at) { aligned<false, n>(at, __builtin_return_address(0)); }                         \
  void __tsan_write##n(void* at) { aligned<true, n>(at, __builtin_return_address(0)); }                         \
  void __tsan_unaligned_read##n(void* at) { access<false>(at, n, __builtin_return_address(0)); }                \
  void __tsan_unaligned_write##n(void* at) { access<true>(at, n, __builtin_return_address(0)); }
SIZE(1)
SIZE(2)
SIZE(4)
SIZE(8)
SIZE(16)
#undef SIZE

void __tsan_read_range(void* at, unsigned long bytes) { access<false>(at, static_cast<unsigned>(bytes), __builtin_return_address(0)); }
void __tsan_write_range(void* at, unsigned long bytes) { access<true>(at, static_cast<unsigned>(bytes), __builtin_return_address(0)); }

}
