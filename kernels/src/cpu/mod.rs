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
//! 3. Nothing else: the folder's `tests.rs` and `tests/agreement.rs` walk the table and the levels of
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
mod output;
mod peak;
mod pool;
mod quantize;
mod rope;
mod variant;

use muse_format::{Activation, Temperature};

use self::attention::{Attend, Ranking, Rotated, Work};
use self::delta::Delta;
use self::elementwise::Elementwise;
pub use self::features::Features;
use self::linear::Multiply;
use self::output::Output;
pub use self::peak::Peak;
use self::pool::Pool;
use self::rope::Rotations;
use crate::cache::{HostCache, rotate, rotated_len, row_count, zeroed};
use crate::reference::{clip, dequantize_row, join, mean, pass_on, temper};
use crate::{
    AttentionShape, Backend, BackendError, CacheDtype, CacheShape, DeltaShape, ExpertsShape, HeadsShape,
    HostDeltaState, IndexShape, Linear, Mixture, Span, Tensor,
};

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
        }
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
        format!("{}, {threads} thread{}", self.features, if threads == 1 { "" } else { "s" })
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

impl Backend for CpuBackend {
    type Weight = Tensor;
    type Buffer = Vec<f32>;
    type Cache = HostCache;
    type DeltaState = HostDeltaState;

    fn load(&mut self, tensor: Tensor) -> Result<Tensor, BackendError> {
        Ok(tensor)
    }

    fn buffer(&mut self, len: usize) -> Result<Vec<f32>, BackendError> {
        zeroed(len)
    }

    fn reserve(&mut self, tokens: usize, cols: usize) -> Result<(), BackendError> {
        self.multiply.reserve(tokens, cols);
        self.partial = zeroed(attention::partial_len(cols).max(self.partial.len()))?;
        self.rotated.reserve(tokens, cols)
    }

    fn reserve_experts(&mut self, rows: usize, shape: ExpertsShape) -> Result<(), BackendError> {
        self.experts = experts::Scratch::new(rows, shape)?;
        Ok(())
    }

    fn reserve_heads(&mut self, tokens: usize, shape: HeadsShape) -> Result<(), BackendError> {
        self.heads = heads::Scratch::new(tokens, shape)?;
        Ok(())
    }

    fn reserve_choose(&mut self, positions: usize) -> Result<(), BackendError> {
        self.ranking = Ranking::new(positions)?;
        Ok(())
    }

    fn cache(&mut self, shape: CacheShape) -> Result<HostCache, BackendError> {
        self.rotated.allow(shape.dtype)?;
        HostCache::new(shape)
    }

    fn delta_state(&mut self, shape: DeltaShape) -> Result<HostDeltaState, BackendError> {
        HostDeltaState::new(shape)
    }

    fn read(&mut self, buffer: &Vec<f32>, out: &mut [f32]) -> Result<(), BackendError> {
        out.copy_from_slice(&buffer[..out.len()]);
        Ok(())
    }

    fn write(&mut self, buffer: &mut Vec<f32>, values: &[f32]) -> Result<(), BackendError> {
        buffer[..values.len()].copy_from_slice(values);
        Ok(())
    }

    fn embed(
        &mut self,
        out: &mut Vec<f32>,
        table: &Tensor,
        tokens: &[u32],
        scale: f32,
    ) -> Result<(), BackendError> {
        let width = table.cols();
        self.split(out, tokens.len() * width, width, |at, out| {
            for (out, token) in out.chunks_exact_mut(width).zip(&tokens[at / width..]) {
                dequantize_row(out, table, *token as usize);
                out.iter_mut().for_each(|x| *x *= scale);
            }
        });
        Ok(())
    }

    fn rms_norm(
        &mut self,
        out: &mut Vec<f32>,
        x: &Vec<f32>,
        weight: &Tensor,
        rows: usize,
        eps: f32,
    ) -> Result<(), BackendError> {
        let (elementwise, weight) = (self.elementwise, weight.f32());
        self.split(out, rows * weight.len(), weight.len(), |at, out| {
            out.copy_from_slice(&x[at..][..out.len()]);
            out.chunks_exact_mut(weight.len()).for_each(|x| elementwise.rms_norm(x, weight, eps));
        });
        Ok(())
    }

    fn rms_norm_in_place(
        &mut self,
        x: &mut Vec<f32>,
        weight: &Tensor,
        rows: usize,
        eps: f32,
    ) -> Result<(), BackendError> {
        let (elementwise, weight) = (self.elementwise, weight.f32());
        self.split(x, rows * weight.len(), weight.len(), |_, x| {
            x.chunks_exact_mut(weight.len()).for_each(|x| elementwise.rms_norm(x, weight, eps));
        });
        Ok(())
    }

    fn linear(
        &mut self,
        x: &Vec<f32>,
        tokens: usize,
        products: &mut [Linear<'_, Self>],
    ) -> Result<(), BackendError> {
        self.multiply.run(&mut self.pool, x, tokens, products);
        Ok(())
    }

    fn linear_heads(
        &mut self,
        out: &mut Vec<f32>,
        x: &Vec<f32>,
        tokens: usize,
        weight: &Tensor,
        shape: HeadsShape,
    ) -> Result<(), BackendError> {
        self.per_head(out, x, tokens, weight, shape);
        Ok(())
    }

    fn join(
        &mut self,
        out: &mut Vec<f32>,
        a: &Vec<f32>,
        b: &Vec<f32>,
        rows: usize,
        [first, second]: [usize; 2],
    ) -> Result<(), BackendError> {
        let width = first + second;
        self.split(out, rows * width, width, |at, out| {
            let row = at / width;
            join(out, &a[row * first..], &b[row * second..], [first, second]);
        });
        Ok(())
    }

    fn rope(
        &mut self,
        x: &mut Vec<f32>,
        frequencies: &Tensor,
        spans: &[Span],
        heads: u32,
        head_dim: u32,
    ) -> Result<(), BackendError> {
        let mut rotations = std::mem::take(&mut self.rotations);
        rotations.prepare(frequencies.f32(), spans);
        self.rotate(x, &rotations, row_count(spans), heads, head_dim);
        self.rotations = rotations;
        Ok(())
    }

    fn rope_axes(
        &mut self,
        x: &mut Vec<f32>,
        frequencies: &Tensor,
        turns: &[[u32; 3]],
        axes: [u32; 2],
        heads: u32,
        head_dim: u32,
    ) -> Result<(), BackendError> {
        let mut rotations = std::mem::take(&mut self.rotations);
        rotations.prepare_axes(frequencies.f32(), turns, axes);
        self.rotate(x, &rotations, turns.len(), heads, head_dim);
        self.rotations = rotations;
        Ok(())
    }

    fn temper(
        &mut self,
        x: &mut Vec<f32>,
        spans: &[Span],
        width: usize,
        temperature: Temperature,
    ) -> Result<(), BackendError> {
        temper(x, spans, width, temperature);
        Ok(())
    }

    fn rope_2d(
        &mut self,
        x: &mut Vec<f32>,
        frequencies: &Tensor,
        places: &[[u32; 2]],
        heads: u32,
        head_dim: u32,
    ) -> Result<(), BackendError> {
        let (width, head_dim) = (heads as usize * head_dim as usize, head_dim as usize);
        let frequencies = frequencies.f32();
        self.split(x, places.len() * width, width, |at, x| {
            for (x, place) in x.chunks_exact_mut(width).zip(&places[at / width..]) {
                rope::rotate_2d(x, head_dim, frequencies, *place);
            }
        });
        Ok(())
    }

    fn store(
        &mut self,
        cache: &mut HostCache,
        k: &Vec<f32>,
        v: &Vec<f32>,
        spans: &[Span],
    ) -> Result<(), BackendError> {
        cache.store_spans(k, v, spans);
        Ok(())
    }

    fn attention(
        &mut self,
        out: &mut Vec<f32>,
        q: &Vec<f32>,
        cache: &HostCache,
        spans: &[Span],
        shape: &AttentionShape,
    ) -> Result<(), BackendError> {
        self.attend_among(out, q, cache, spans, shape, None, &[]);
        Ok(())
    }

    fn attention_joint(
        &mut self,
        out: &mut Vec<f32>,
        q: &Vec<f32>,
        cache: &HostCache,
        spans: &[Span],
        shape: &AttentionShape,
        joint: &[bool],
    ) -> Result<(), BackendError> {
        self.attend_among(out, q, cache, spans, shape, None, joint);
        Ok(())
    }

    fn choose(
        &mut self,
        chosen: &mut Vec<f32>,
        q: &Vec<f32>,
        weights: &Vec<f32>,
        cache: &HostCache,
        spans: &[Span],
        shape: &IndexShape,
    ) -> Result<(), BackendError> {
        let chosen = &mut chosen[..row_count(spans) * shape.top as usize];
        self.attend.choose(&mut self.pool, chosen, &mut self.ranking, q, weights, cache, spans, shape);
        Ok(())
    }

    fn attention_chosen(
        &mut self,
        out: &mut Vec<f32>,
        q: &Vec<f32>,
        cache: &HostCache,
        spans: &[Span],
        shape: &AttentionShape,
        chosen: &Vec<f32>,
        top: u32,
    ) -> Result<(), BackendError> {
        self.attend_among(out, q, cache, spans, shape, Some((chosen, top as usize)), &[]);
        Ok(())
    }

    fn glu(
        &mut self,
        gate: &mut Vec<f32>,
        up: &Vec<f32>,
        len: usize,
        activation: Activation,
    ) -> Result<(), BackendError> {
        let elementwise = self.elementwise;
        self.split(gate, len, LINE, |at, gate| elementwise.glu(gate, &up[at..][..gate.len()], activation));
        Ok(())
    }

    fn multiply(&mut self, x: &mut Vec<f32>, weight: &Tensor, rows: usize) -> Result<(), BackendError> {
        let (elementwise, weight) = (self.elementwise, weight.f32());
        self.split(x, rows * weight.len(), weight.len(), |_, x| {
            x.chunks_exact_mut(weight.len()).for_each(|x| elementwise.multiply(x, weight));
        });
        Ok(())
    }

    fn experts(
        &mut self,
        out: &mut Vec<f32>,
        x: &Vec<f32>,
        logits: &Vec<f32>,
        rows: usize,
        mixture: &Mixture<'_, Self>,
    ) -> Result<(), BackendError> {
        let mut scratch = std::mem::take(&mut self.experts);
        let out = &mut out[..rows * mixture.experts[0].gate.cols()];
        let done = self.mixture(&mut scratch, out, x, &logits[..rows * mixture.experts.len()], mixture);
        self.experts = scratch;
        done
    }

    fn layer_norm_in_place(
        &mut self,
        x: &mut Vec<f32>,
        weight: &Tensor,
        bias: &Tensor,
        rows: usize,
        eps: f32,
    ) -> Result<(), BackendError> {
        let (elementwise, weight, bias) = (self.elementwise, weight.f32(), bias.f32());
        self.split(x, rows * weight.len(), weight.len(), |_, x| {
            x.chunks_exact_mut(weight.len()).for_each(|x| elementwise.layer_norm(x, weight, bias, eps));
        });
        Ok(())
    }

    fn activate(&mut self, x: &mut Vec<f32>, len: usize, activation: Activation) -> Result<(), BackendError> {
        let elementwise = self.elementwise;
        self.split(x, len, LINE, |_, x| elementwise.activate(x, activation));
        Ok(())
    }

    fn mean(
        &mut self,
        out: &mut Vec<f32>,
        x: &Vec<f32>,
        spans: &[Span],
        width: usize,
    ) -> Result<(), BackendError> {
        mean(out, x, spans, width);
        Ok(())
    }

    fn convolve(
        &mut self,
        x: &mut Vec<f32>,
        weight: &Tensor,
        state: &mut HostDeltaState,
        spans: &[Span],
    ) -> Result<(), BackendError> {
        let len = row_count(spans) * state.shape().channels() as usize;
        self.convolve_rows(&mut x[..len], weight.f32(), state, spans);
        Ok(())
    }

    fn convolve_causal(
        &mut self,
        out: &mut Vec<f32>,
        x: &Vec<f32>,
        before: &mut Vec<f32>,
        weight: &Tensor,
        bias: &Tensor,
        rows: usize,
    ) -> Result<(), BackendError> {
        let (elementwise, width, taps) = (self.elementwise, weight.cols(), weight.rows());
        let (weight, bias) = (weight.f32(), bias.f32());
        let before = &mut before[..(taps - 1) * width];
        let earlier = &*before;
        let input = |row: usize| match row.checked_sub(taps - 1) {
            None => &earlier[row * width..][..width],
            Some(row) => &x[row * width..][..width],
        };
        self.split(out, rows * width, width, |at, out| {
            for (t, out) in (at / width..).zip(out.chunks_exact_mut(width)) {
                out.copy_from_slice(bias);
                for (j, weight) in weight.chunks_exact(width).enumerate() {
                    elementwise.add_products(out, weight, input(t + j));
                }
            }
        });
        pass_on(before, &x[..rows * width]);
        Ok(())
    }

    fn delta_rule(
        &mut self,
        out: &mut Vec<f32>,
        x: &mut Vec<f32>,
        decay: &mut Vec<f32>,
        beta: &mut Vec<f32>,
        rate: &Tensor,
        state: &mut HostDeltaState,
        spans: &[Span],
    ) -> Result<(), BackendError> {
        self.rule_of_rows(out, x, [decay, beta], rate.f32(), state, spans);
        Ok(())
    }

    fn remember(&mut self, state: &mut HostDeltaState, slot: u32) -> Result<(), BackendError> {
        state.remember(slot);
        Ok(())
    }

    fn recall(&mut self, state: &mut HostDeltaState, slot: u32) -> Result<(), BackendError> {
        state.recall(slot);
        Ok(())
    }

    fn gate_rows(
        &mut self,
        x: &mut Vec<f32>,
        gate: &Vec<f32>,
        rows: usize,
        width: usize,
    ) -> Result<(), BackendError> {
        for (x, gate) in x[..rows * width].chunks_exact_mut(width).zip(&gate[..rows]) {
            let factor = delta::sigmoid(*gate);
            x.iter_mut().for_each(|x| *x *= factor);
        }
        Ok(())
    }

    fn add(&mut self, x: &mut Vec<f32>, y: &Vec<f32>, len: usize) -> Result<(), BackendError> {
        let elementwise = self.elementwise;
        self.split(x, len, LINE, |at, x| elementwise.add(x, &y[at..][..x.len()]));
        Ok(())
    }

    fn gather(
        &mut self,
        out: &mut Vec<f32>,
        x: &Vec<f32>,
        rows: &[u32],
        width: usize,
    ) -> Result<(), BackendError> {
        for (out, row) in out[..rows.len() * width].chunks_exact_mut(width).zip(rows) {
            out.copy_from_slice(&x[*row as usize * width..][..width]);
        }
        Ok(())
    }

    fn scatter(
        &mut self,
        out: &mut Vec<f32>,
        x: &Vec<f32>,
        rows: &[u32],
        width: usize,
    ) -> Result<(), BackendError> {
        for (x, row) in x[..rows.len() * width].chunks_exact(width).zip(rows) {
            out[*row as usize * width..][..width].copy_from_slice(x);
        }
        Ok(())
    }

    fn clip(&mut self, x: &mut Vec<f32>, len: usize, bounds: [f32; 2]) -> Result<(), BackendError> {
        self.split(x, len, LINE, |_, x| clip(x, bounds));
        Ok(())
    }

    fn scale_and_cap(
        &mut self,
        x: &mut Vec<f32>,
        len: usize,
        scale: f32,
        softcap: Option<f32>,
    ) -> Result<(), BackendError> {
        let elementwise = self.elementwise;
        self.split(x, len, LINE, |_, x| elementwise.scale_and_cap(x, scale, softcap));
        Ok(())
    }
}
