//! The backend for the CPU it runs on: x86-64 and aarch64, best variants chosen once at start.
//!
//! # How to add a variant
//! An operation is a folder: `mod.rs` has the table `VARIANTS`, the contract of its `unsafe fn` type and a safe `run`
//! that asserts every length; each variant is a file named for the feature it needs. To add, say, `neon_dotprod` to
//! `matmul_q8`:
//!
//! 1. Write `matmul_q8/neon_dotprod.rs` with functions of the table's types (`pub(super) fn q8(out: &mut [[f32; 16]],
//!    tile: &[u8], group: usize, x: Activations<'_>)`, `q4`, `q4_asym`, `q4_codebook`), marked
//!    `#[target_feature(enable = "...")]`. They are safe functions; only loads and stores through pointers need `unsafe`
//!    inside. They must take every shape that the type's comment allows (any number of tokens, group 32, 64 or 128).
//! 2. In `matmul_q8/mod.rs` add `#[cfg(target_arch = "aarch64")] mod neon_dotprod;` and, above the variants it beats,
//!    `#[cfg(target_arch = "aarch64")] Variant { name: "neon-dotprod", supported: |f| f.has(Level::NeonDotprod), run:
//!    Kernel { q8: neon_dotprod::q8, .. } }`, and a line in the page's table.
//! 3. Nothing else: the folder's `tests.rs` and `tests/agreement/` walk the table and the levels of
//!    [`Features::and_weaker`]. A new set of instructions is one more `Level` in `features.rs`.
//!
//! | folder | operation | worth a variant |
//! |---|---|---|
//! | `matmul_q8` | 16 quantized rows x 8-bit activations, any number of tokens | yes: nearly all of the time |
//! | `matmul_float` | 16 f32, f16 or bf16 rows x f32 activations | yes: float models |
//! | `attention` | scores and mix over the cache's tiles | yes: f16 loads need intrinsics |
//! | `quantize` | activations to 8 bits | yes |
//! | `delta` | a head's recurrent state through the rows of a span | no: as `elementwise` |
//! | `elementwise` | GLU, softmax, norms, caps | no: `portable` is compiled for the target's own vectors |

mod attention;
mod convolve;
mod delta;
mod elementwise;
mod experts;
mod features;
mod heads;
mod linear;
#[cfg(target_arch = "x86_64")]
mod load_x86;
mod matmul_float;
mod matmul_q8;
#[cfg(target_arch = "aarch64")]
mod neon;
mod operations;
mod peak;
mod pool;
mod quantize;
mod rope;
mod variant;

use self::attention::{Attend, Ranking, Rotated, Work};
use self::delta::Delta;
use self::elementwise::Elementwise;
pub use self::features::Features;
use self::linear::Multiply;
pub use self::peak::Peak;
pub(crate) use self::pool::Pool;
use self::rope::Rotations;
use crate::cache::{HostCache, rotate, rotated_len, row_count};
use crate::output::Output;
use crate::{AttentionShape, CacheDtype, ExpertsShape, HeadsShape, Npu, Span};

/// Elements of an elementwise operation that make a chunk worth handing to another thread.
const WORTH_A_CHUNK: usize = 16 * 1024;

/// Elements of a line of the cache, which no two threads write.
const LINE: usize = 16;

/// Runs a model on the CPU's own vector units, with one pool of threads.
pub struct CpuBackend {
    features: Features,
    pool: Pool,
    multiply: Multiply,
    attend: Attend,
    /// Sums of attention over parts of the positions.
    partial: Vec<f32>,
    rotated: Rotated,
    elementwise: Elementwise,
    delta: Delta,
    rotations: Rotations,
    experts: experts::Scratch,
    heads: heads::Scratch,
    ranking: Ranking,
    npu: Option<Npu>,
}

impl CpuBackend {
    /// A backend of `threads` threads, the caller's among them, for the best instructions of this CPU.
    ///
    /// # Panics
    /// If `threads` is 0 or the system cannot start them.
    pub fn new(threads: usize) -> Self {
        Self::with_features(threads, Features::detect())
    }

    /// [`new`](Self::new) with fewer features than the CPU has, to try the weaker variants.
    pub fn with_features(threads: usize, features: Features) -> Self {
        Self {
            features,
            pool: Pool::new(threads),
            multiply: Multiply::best(features),
            attend: Attend::best(features),
            partial: Vec::new(),
            rotated: Rotated::default(),
            elementwise: Elementwise::best(features),
            delta: Delta::best(features),
            rotations: Rotations::default(),
            experts: experts::Scratch::default(),
            heads: heads::Scratch::default(),
            ranking: Ranking::default(),
            npu: None,
        }
    }

    /// Has `npu` multiply packed weights by the rows of prompts. Called before anything is loaded.
    pub fn with_npu(mut self, npu: Npu) -> Self {
        self.npu = Some(npu);
        self
    }

    /// Bytes that [`Backend::reserve`] takes for matrix products.
    pub fn reserved_bytes(tokens: u64, cols: u64) -> u64 {
        quantize::scratch_bytes(tokens, cols)
    }

    /// Bytes that [`Backend::reserve`] and [`Backend::cache`] take for attention.
    pub fn attention_bytes(tokens: u64, cols: u64, dtype: CacheDtype) -> u64 {
        attention::partial_bytes(cols) + Rotated::bytes(tokens, cols, dtype)
    }

    /// Bytes that [`Backend::reserve_experts`] takes.
    pub fn experts_bytes(rows: u64, shape: ExpertsShape) -> u64 {
        experts::Scratch::bytes(rows, shape)
    }

    /// Bytes that [`Backend::reserve_heads`] takes.
    pub fn heads_bytes(tokens: u64, shape: HeadsShape) -> u64 {
        heads::Scratch::bytes(tokens, shape)
    }

    /// Bytes that [`Backend::reserve_choose`] takes.
    pub fn choose_bytes(positions: u64) -> u64 {
        Ranking::bytes(positions)
    }

    /// `avx512-vnni, 2 threads`
    pub fn describe(&self) -> String {
        let threads = self.pool.threads();
        let npu = if self.npu.is_some() { ", prompts on the NPU" } else { "" };
        format!("{}, {threads} thread{}{npu}", self.features, if threads == 1 { "" } else { "s" })
    }

    /// The variant chosen for each operation, for people who ask what runs.
    pub fn variants(&self) -> Vec<(&'static str, &'static str)> {
        let others = [
            ("attention", self.attend.name()),
            ("elementwise", self.elementwise.name()),
            ("delta", self.delta.name()),
        ];
        self.multiply.variants().into_iter().chain(others).collect()
    }

    /// Turns each head of `rows` rows of `x` by what was prepared for its row.
    fn rotate(&mut self, x: &mut [f32], rotations: &Rotations, rows: usize, heads: u32, head_dim: u32) {
        let (width, head_dim) = (heads as usize * head_dim as usize, head_dim as usize);
        self.split(x, rows * width, width, |at, x| {
            for (row, x) in x.chunks_exact_mut(width).enumerate() {
                x.chunks_exact_mut(head_dim).for_each(|head| rotations.rotate(head, at / width + row));
            }
        });
    }

    /// [`Backend::attention`], or of chosen positions alone, so many a row, or with rows that see each other in spans that
    /// are `joint`.
    #[allow(clippy::too_many_arguments)] // one call
    fn attend_among(
        &mut self,
        out: &mut [f32],
        q: &[f32],
        cache: &HostCache,
        spans: &[Span],
        shape: &AttentionShape,
        chosen: Option<(&[f32], usize)>,
        joint: &[bool],
    ) {
        let len = row_count(spans) * shape.heads as usize * shape.head_dim as usize;
        let (dtype, head_dim) = (cache.shape().dtype, shape.head_dim as usize);
        let mut rotated = std::mem::take(&mut self.rotated);
        let q = if dtype.rotates_keys() {
            let room = rotated.room(&q[..len]);
            self.split(room, len, head_dim, |_, q| rotate(q, rotated_len(head_dim)));
            room
        } else {
            &q[..len]
        };
        let work = Work::new(q, cache, spans, shape).jointly(joint);
        let work = match chosen {
            None => work,
            Some((chosen, top)) => work.among(chosen, top),
        };
        self.attend.run(&mut self.pool, &mut out[..len], &mut self.partial, &work);
        self.rotated = rotated;
        if dtype.rotates_values() {
            self.split(out, len, head_dim, |_, out| rotate(out, rotated_len(head_dim)));
        }
    }

    /// Calls `run` with pieces of the first `len` elements of `x`, each a multiple of `unit`, and where they begin: as
    /// many for each thread, so that rows stay with one from one operation to the next.
    fn split(&mut self, x: &mut [f32], len: usize, unit: usize, run: impl Fn(usize, &mut [f32]) + Sync) {
        let x = Output::new(&mut x[..len]);
        let pieces = match len.div_ceil(WORTH_A_CHUNK) {
            pieces @ 0..=1 => pieces,
            pieces => pieces.next_multiple_of(self.pool.threads()),
        };
        let units = len.div_ceil(unit.max(1));
        let start = |piece: usize| len.min(piece * units / pieces * unit);
        self.pool.run(pieces, &|piece| {
            // SAFETY: the pieces of different chunks do not meet, and each chunk comes once.
            run(start(piece), unsafe { x.slice(start(piece), start(piece + 1) - start(piece)) });
        });
    }
}
