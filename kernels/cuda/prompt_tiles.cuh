// The keys and values that a prompt's queries meet, on their way from a cache to shared memory.
#pragma once
#include "attention.cuh"

namespace prompt {

// What a block takes: queries of heads of up to WIDTH numbers, ROWS times 16 of them a warp.
template <u32 WIDTH_, u32 ROWS_>
struct Shape {
  static constexpr u32 WIDTH = WIDTH_, ROWS = ROWS_;
  static constexpr u32 WARP_QUERIES = 16 * ROWS, BLOCK_QUERIES = WARPS * WARP_QUERIES;
  // Positions of a tile, and of those the ones whose scores a warp makes at once: as many as registers hold.
  static constexpr u32 POSITIONS = WIDTH <= 128 ? 32 : 16, STEP = ROWS * WIDTH <= 128 ? 32 : 16;
};

// Keys and values of some positions in shared memory. What is past a head's own is 0.
template <typename Shape>
struct Tile {
  static constexpr u32 POSITIONS = Shape::POSITIONS, WIDTH = Shape::WIDTH;
  static constexpr u32 SHARE = THREADS / POSITIONS;  // threads that copy for one position
  // Bytes of 8 numbers of all keys, and of a value. 32 and 16 more than there are, so that 8 lanes that load 16 bytes each,
  // of 2 keys or of 8 values, meet in no bank.
  static constexpr u32 KEY_PIECE = POSITIONS * PIECE + 32;
  static constexpr u32 VALUE = 2 * WIDTH + PIECE;
  static constexpr u32 KEYS = WIDTH / 8 * KEY_PIECE, BYTES = KEYS + POSITIONS * VALUE;
};

// What a thread copies of the keys, or of the values, of tiles: pieces of one position of each. STAGED are those of 8 and 4
// bits.
template <bool STAGED, typename Shape, bool KEYS>
struct Source {
  typedef Tile<Shape> To;
  static constexpr u32 PIECES = Shape::WIDTH * (STAGED ? 1 : 2) / PIECE / To::SHARE;  // at most
  // From one of the thread's pieces to the next, in the cache and where they are copied to.
  static constexpr u32 STEP = To::SHARE * PIECE * (KEYS ? TILE_POSITIONS : 1);
  static constexpr u32 STEP_TO = STAGED ? THREADS * PIECE : To::SHARE * (KEYS ? To::KEY_PIECE : PIECE);
  const u8* from;       // the head's first
  const float* scales;  // the same of them, where STAGED
  u8* tile;             // of keys or of values
  u8* raw;              // (PIECES, THREADS) pieces, from this thread's first on, where STAGED
  float* scale;         // this thread's
  u32 bits, bytes;      // of a number; of a key or value
  u32 own, piece;       // the thread's position in a tile, and its first piece; its others are SHARE apart

  __device__ Source(const Cache& cache, u64 first_row, u8* tiles, u8* staged, float* scale_of_each, u32 bits_each)
      : bits(bits_each) {
    bytes = cache.head_dim * bits / 8;
    from = static_cast<const u8*>(KEYS ? cache.keys : cache.values) + first_row * bytes;
    scales = STAGED ? (KEYS ? cache.key_scales : cache.value_scales) + first_row : nullptr;
    tile = tiles + (KEYS ? 0 : To::KEYS);
    raw = staged + threadIdx.x * PIECE;
    scale = scale_of_each + threadIdx.x;
    // Neighbours take neighbouring bytes: of keys those of the next position, of values the next piece.
    own = KEYS ? threadIdx.x % To::POSITIONS : threadIdx.x / To::SHARE;
    piece = KEYS ? threadIdx.x / To::POSITIONS : threadIdx.x % To::SHARE;
  }

  // Where 8 numbers of the thread's position lie in the tile.
  __device__ u8* at(u32 eight) const { return tile + (KEYS ? eight * To::KEY_PIECE + own * PIECE : own * To::VALUE + eight * PIECE); }

  // Begins to copy a tile, the positions from `base` on, `ahead` bytes behind the first place for one where it is not staged.
  // Those that are not `met` are 0, and so are pieces past a head's own. Position `round` lies at the head's first place, and
  // what is met ends less than two capacities behind it.
  __device__ void copy(u32 base, u32 round, u32 ahead, u32 capacity, Seen met) const {
    const u32 position = base + own, behind = position - round, place = behind < capacity ? behind : behind - capacity;
    const u32 pieces = bytes / PIECE;
    const bool present = position - met.first < met.count;
    const u8* const source = KEYS ? from + static_cast<u64>(place / TILE_POSITIONS) * TILE_POSITIONS * bytes +
                                        (piece * TILE_POSITIONS + place % TILE_POSITIONS) * PIECE
                                  : from + static_cast<u64>(place) * bytes + piece * PIECE;
    const ptx::Shared to = ptx::shared(STAGED ? raw : at(piece)) + (STAGED ? 0 : ahead);
#pragma unroll
    for (u32 i = 0; i < PIECES; ++i) {
      ptx::copy_async<PIECE>(to + i * STEP_TO, source + i * STEP, present && piece + i * To::SHARE < pieces);
    }
    if (STAGED) ptx::copy_async<4>(ptx::shared(scale), scales + place, present);
  }

  // Widens what this thread has copied, where it was staged.
  __device__ void widen() const {
    if (!STAGED) return;
    const u32 pieces = bytes / PIECE, eights_log2 = bits == 4 ? 2 : 1, eights = 1 << eights_log2;  // 8 numbers each, of a piece
    const float factor = *scale;
#pragma unroll 1
    for (u32 i = 0; i < pieces * eights; ++i) {
      const u32 n = piece + (i >> eights_log2) * To::SHARE, eight = i & (eights - 1);
      if (n >= pieces) break;
      const u8* const packed = raw + (i >> eights_log2) * THREADS * PIECE + eight * bits;
      float x[2][4];
      if (bits == 4) {
        const u32 word = *reinterpret_cast<const u32*>(packed);
        for (u32 quad = 0; quad < 2; ++quad) widen_quad(x[quad], &word, quad, Nibbles{});
      } else {
        const uint2 loaded = *reinterpret_cast<const uint2*>(packed);
        const u32 words[2] = {loaded.x, loaded.y};
        for (u32 quad = 0; quad < 2; ++quad) widen_quad(x[quad], words, quad, s8{});
      }
      u32 halves[4];
      for (u32 two = 0; two < 4; ++two) {
        halves[two] = ptx::to_two_f16(x[two / 2][two % 2 * 2] * factor, x[two / 2][two % 2 * 2 + 1] * factor);
      }
      *reinterpret_cast<uint4*>(at(n * eights + eight)) = {halves[0], halves[1], halves[2], halves[3]};
    }
  }
};

}  // namespace prompt
