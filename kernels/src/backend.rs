use muse_format::{Activation, Temperature};

use crate::best::{Best, best_of};
use crate::{
    AttentionShape, CacheShape, DeltaShape, Expert, ExpertsShape, HeadsShape, IndexShape, Linear, Mixture,
    Result, Span, Tensor,
};

/// Which operations a step is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// A model's, and what its drafter takes in of them.
    Forward,
    /// Those of a drafter that proposes.
    Propose,
    /// Those of a drafter that goes on from what it proposed.
    ProposeNext,
}

/// Which rows of operations are a prompt's, whose products may be rounded.
#[derive(Debug, Clone, Copy)]
pub enum PromptRows<'a> {
    None,
    /// Those of spans of 32 rows and more, in operations of as many rows as all spans have; none of other operations.
    Of(&'a [Span]),
    /// All, of operations of 32 rows and more.
    All,
}

/// What [`Backend::step`] is of.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    pub pass: Pass,
    /// Where rows stand: slots and starts may be others where the lengths are the same.
    pub spans: &'a [&'a [Span]],
    /// Tokens, rows to gather or to scatter, and the [`bits`](crate::bits) of temperatures: the numbers may be others where there are as many.
    pub lists: &'a [&'a [u32]],
    /// Whatever else operations follow from, as rows whose logits are wanted.
    pub fixed: &'a [&'a [u32]],
}

/// The operations that the graph may ask for.
///
/// Buffers hold f32 activations, row-major, sized for the largest batch at load; an operation uses the first
/// `tokens * width` elements. Shapes are checked by the caller at load; an implementation asserts them.
/// Integer layouts multiply activations quantized on the fly to 8 bits in groups of 32 along the columns:
/// `scale = max|x| / 127`, `q = round_ties_even(x / scale)`, so that every backend multiplies the same integers.
pub trait Backend {
    /// A resident tensor.
    type Weight;
    /// f32 activations.
    type Buffer;
    /// Keys and values of one layer.
    type Cache;
    /// What a gated DeltaNet layer keeps.
    type DeltaState;

    /// Whether [`load`](Self::load) copies a tensor, so that what it was read from may be given back.
    fn copies_weights(&self) -> bool {
        false
    }

    /// Makes room for tensors of so many bytes each, all of them or none, so that [`load`](Self::load) of those allocates
    /// nothing, in whatever order. A backend that copies none does nothing.
    fn reserve_weights(&mut self, bytes: &[u64]) -> Result {
        let _ = bytes;
        Ok(())
    }

    /// Makes a tensor resident. A host backend keeps the view and checks that it has a kernel for the layout.
    fn load(&mut self, tensor: Tensor) -> Result<Self::Weight>;

    /// Notes the experts of a mixture, so that no step has to. A backend that needs to know nothing of them does nothing.
    fn load_experts(&mut self, experts: &[Expert<Self::Weight>]) -> Result {
        let _ = experts;
        Ok(())
    }

    /// Allocates `len` zeroed f32.
    fn buffer(&mut self, len: usize) -> Result<Self::Buffer>;

    /// Makes room for [`linear`](Self::linear) of `tokens` rows of at most `cols`, and for
    /// [`attention`](Self::attention) of queries no wider, so that no step has to.
    fn reserve(&mut self, tokens: usize, cols: usize) -> Result {
        let _ = (tokens, cols);
        Ok(())
    }

    /// Makes room for [`experts`](Self::experts) of `rows` rows of mixtures no larger than `shape`.
    fn reserve_experts(&mut self, rows: usize, shape: ExpertsShape) -> Result {
        let _ = (rows, shape);
        Ok(())
    }

    /// Makes room for [`linear_heads`](Self::linear_heads) of `tokens` rows of no more and no wider heads than `shape`'s.
    fn reserve_heads(&mut self, tokens: usize, shape: HeadsShape) -> Result {
        let _ = (tokens, shape);
        Ok(())
    }

    /// Makes room for [`choose`](Self::choose) among `positions`.
    fn reserve_choose(&mut self, positions: usize) -> Result {
        let _ = positions;
        Ok(())
    }

    /// Makes room for [`best`](Self::best) of `rows` rows of at most `width`.
    fn reserve_best(&mut self, rows: usize, width: usize) -> Result {
        let _ = (rows, width);
        Ok(())
    }

    /// Allocates the keys and values of one layer.
    fn cache(&mut self, shape: CacheShape) -> Result<Self::Cache>;

    /// Allocates what one gated DeltaNet layer keeps.
    fn delta_state(&mut self, shape: DeltaShape) -> Result<Self::DeltaState>;

    /// Says which rows of the operations from here on are a prompt's. A backend that rounds no product does nothing.
    fn prompt_rows(&mut self, rows: PromptRows<'_>) {
        let _ = rows;
    }

    /// Runs `operations`, all of a step. They follow from what it says alone, and what may be other numbers in a step of the
    /// same operations reaches them as those very slices: a backend may do again what they asked of it for an earlier
    /// step, and not call them. They may be called twice, of which the first time did nothing.
    fn step(&mut self, step: &Step<'_>, operations: &mut dyn FnMut(&mut Self) -> Result) -> Result {
        let _ = step;
        operations(self)
    }

    /// Copies the first `out.len()` elements of `buffer` to the host.
    fn read(&mut self, buffer: &Self::Buffer, out: &mut [f32]) -> Result;

    /// Copies `values` from the host to the first elements of `buffer`.
    fn write(&mut self, buffer: &mut Self::Buffer, values: &[f32]) -> Result;

    /// `out[t] = scale * table[tokens[t]]`; `out` is `(tokens, table.cols)`.
    fn embed(&mut self, out: &mut Self::Buffer, table: &Self::Weight, tokens: &[u32], scale: f32) -> Result;

    /// `out[r] = x[r] * weight / sqrt(mean(x[r]^2) + eps)` over `rows` rows of `weight.cols`.
    /// Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>.
    fn rms_norm(
        &mut self,
        out: &mut Self::Buffer,
        x: &Self::Buffer,
        weight: &Self::Weight,
        rows: usize,
        eps: f32,
    ) -> Result;

    /// [`rms_norm`](Self::rms_norm) in place: the norm of query and key heads.
    fn rms_norm_in_place(
        &mut self,
        x: &mut Self::Buffer,
        weight: &Self::Weight,
        rows: usize,
        eps: f32,
    ) -> Result;

    /// Several products of the same `tokens` rows of `x`, so that `x` is quantized once and one dispatch covers all.
    fn linear(&mut self, x: &Self::Buffer, tokens: usize, products: &mut [Linear<'_, Self>]) -> Result;

    /// [`linear`](Self::linear) of two products and [`glu`](Self::glu) of the `len` numbers of their outputs: the first's is
    /// the result, what is in the second's is lost.
    fn linear_glu(
        &mut self,
        x: &Self::Buffer,
        tokens: usize,
        mut products: [Linear<'_, Self>; 2],
        len: usize,
        activation: Activation,
    ) -> Result {
        self.linear(x, tokens, &mut products)?;
        let [gate, up] = products;
        self.glu(gate.out, up.out, len, activation)
    }

    /// A product for each head: `out[t][h] = weight[h] * x[t][h]`, where `x` is `(tokens, heads, shape.cols)`, of which
    /// the first `weight.cols` of a head are read. `weight` is the heads' matrices one below the other, `out`
    /// `(tokens, weight.rows)`. Activations are quantized as those of a head alone.
    fn linear_heads(
        &mut self,
        out: &mut Self::Buffer,
        x: &Self::Buffer,
        tokens: usize,
        weight: &Self::Weight,
        shape: HeadsShape,
    ) -> Result;

    /// `out[r]` is `a[r]` and behind it `b[r]`, for `rows` rows of the two widths.
    fn join(
        &mut self,
        out: &mut Self::Buffer,
        a: &Self::Buffer,
        b: &Self::Buffer,
        rows: usize,
        widths: [usize; 2],
    ) -> Result;

    /// Rotates each head of `x`, `(tokens, heads * head_dim)`, at the positions of `spans`: with `n = 2 *
    /// frequencies.cols`, element `i < n/2` of a head pairs with `i + n/2` and turns by `position * frequencies[i]`
    /// (an f32 product); elements from `n` on stay. Su et al. 2021, <https://arxiv.org/abs/2104.09864>.
    fn rope(
        &mut self,
        x: &mut Self::Buffer,
        frequencies: &Self::Weight,
        spans: &[Span],
        heads: u32,
        head_dim: u32,
    ) -> Result;

    /// Multiplies each row of `x`, rows of `width`, by what `temperature` says of its position in `spans`.
    fn temper(
        &mut self,
        x: &mut Self::Buffer,
        spans: &[Span],
        width: usize,
        temperature: Temperature,
    ) -> Result;

    /// [`rope`](Self::rope) by three numbers a row in place of its position, `turns[row]`: frequency `i` multiplies the
    /// second where `i % 3 == 1` and `i < 3 * axes[0]`, the third where `i % 3 == 2` and `i < 3 * axes[1]`, and the first
    /// elsewhere. Where a row's three are one, it turns as by that position, bit for bit. Wang et al. 2024,
    /// <https://arxiv.org/abs/2409.12191>.
    fn rope_axes(
        &mut self,
        x: &mut Self::Buffer,
        frequencies: &Self::Weight,
        turns: &[[u32; 3]],
        axes: [u32; 2],
        heads: u32,
        head_dim: u32,
    ) -> Result;

    /// Rotates each head of `x`, `(rows, heads * head_dim)`, by a place on a plane: with `n = frequencies.cols`, element
    /// `i < 2 n` of a head pairs with `i + head_dim / 2` and turns by `places[row][i / n] * frequencies[i % n]` (an f32
    /// product); other elements stay. Heo et al. 2024, <https://arxiv.org/abs/2403.13298>.
    fn rope_2d(
        &mut self,
        x: &mut Self::Buffer,
        frequencies: &Self::Weight,
        places: &[[u32; 2]],
        heads: u32,
        head_dim: u32,
    ) -> Result;

    /// Stores `k` and `v`, `(tokens, kv_heads * head_dim)`, at the positions of `spans`.
    fn store(
        &mut self,
        cache: &mut Self::Cache,
        k: &Self::Buffer,
        v: &Self::Buffer,
        spans: &[Span],
    ) -> Result;

    /// Grouped-query attention of `q` over what the cache holds up to each row's own position, or also after it where the
    /// shape says so. The rows' own keys and values are stored before.
    fn attention(
        &mut self,
        out: &mut Self::Buffer,
        q: &Self::Buffer,
        cache: &Self::Cache,
        spans: &[Span],
        shape: &AttentionShape,
    ) -> Result;

    /// Chooses for each row the `shape.top` positions of the highest `sum over h of weights[h] * max(q[h] . k, 0)` among
    /// those up to its own, the lower position where two are equal, or all where they are no more; `k` is the one key of a
    /// position in the cache.
    ///
    /// `q` is `(tokens, heads * head_dim)`, `weights` `(tokens, heads)`; `chosen` is `(tokens, top)`: positions, ascending,
    /// and -1 where there are fewer.
    fn choose(
        &mut self,
        chosen: &mut Self::Buffer,
        q: &Self::Buffer,
        weights: &Self::Buffer,
        cache: &Self::Cache,
        spans: &[Span],
        shape: &IndexShape,
    ) -> Result;

    /// [`attention`](Self::attention) over those positions alone that [`choose`](Self::choose) chose, `top` a row; at
    /// least one, of those that the row sees.
    #[allow(clippy::too_many_arguments)] // one call
    fn attention_chosen(
        &mut self,
        out: &mut Self::Buffer,
        q: &Self::Buffer,
        cache: &Self::Cache,
        spans: &[Span],
        shape: &AttentionShape,
        chosen: &Self::Buffer,
        top: u32,
    ) -> Result;

    /// [`attention`](Self::attention) in which the rows of each span that is `joint`, one a span, also see those of it that
    /// lie behind them. Spans of one slot may follow one another.
    fn attention_joint(
        &mut self,
        out: &mut Self::Buffer,
        q: &Self::Buffer,
        cache: &Self::Cache,
        spans: &[Span],
        shape: &AttentionShape,
        joint: &[bool],
    ) -> Result;

    /// `gate[i] = activation(gate[i]) * up[i]` for the first `len` elements.
    fn glu(
        &mut self,
        gate: &mut Self::Buffer,
        up: &Self::Buffer,
        len: usize,
        activation: Activation,
    ) -> Result;

    /// `x[r] = x[r] * weight`, element by element, for `rows` rows of `weight.cols`.
    fn multiply(&mut self, x: &mut Self::Buffer, weight: &Self::Weight, rows: usize) -> Result;

    /// `out[r]` is the sum of `weight * norm(expert(x[r]))`, or of `norm(expert(weight * x[r]))`, over the experts that row
    /// `r` chooses, for `rows` rows.
    ///
    /// `logits` is `(rows, experts)`, the products of a router. Their scores follow from [`Routing::score`]; the `used`
    /// experts of the largest score plus `choice_bias` are chosen, the lower index where two are equal. Weights are the
    /// scores alone, by the rest of [`Routing`], times the expert's own of `scales`.
    fn experts(
        &mut self,
        out: &mut Self::Buffer,
        x: &Self::Buffer,
        logits: &Self::Buffer,
        rows: usize,
        mixture: &Mixture<'_, Self>,
    ) -> Result;

    /// `x[r] = weight * (x[r] - mean(x[r])) / sqrt(variance(x[r]) + eps) + bias` over `rows` rows of `weight.cols`, the
    /// variance that of the row itself, not an estimate. Ba et al. 2016, <https://arxiv.org/abs/1607.06450>.
    fn layer_norm_in_place(
        &mut self,
        x: &mut Self::Buffer,
        weight: &Self::Weight,
        bias: &Self::Weight,
        rows: usize,
        eps: f32,
    ) -> Result;

    /// `x[i] = activation(x[i])` for the first `len` elements.
    fn activate(&mut self, x: &mut Self::Buffer, len: usize, activation: Activation) -> Result;

    /// `out[s]` is the mean of the rows of `spans[s]`, rows of `width`.
    fn mean(&mut self, out: &mut Self::Buffer, x: &Self::Buffer, spans: &[Span], width: usize) -> Result;

    /// A causal convolution along each sequence, a channel for itself, in place:
    /// `x[t][c] = silu(sum of weight[j][c] * x[t + 1 - taps + j][c])`, `x` zero before position 0. Rows before a span are
    /// those that `state` keeps of its slot.
    ///
    /// `x` is `(tokens, channels)`, `weight` `(taps, channels)` in f32.
    fn convolve(
        &mut self,
        x: &mut Self::Buffer,
        weight: &Self::Weight,
        state: &mut Self::DeltaState,
        spans: &[Span],
    ) -> Result;

    /// A causal convolution along a sequence, a channel for itself, of its next `rows` rows:
    /// `out[t][c] = bias[c] + sum of weight[j][c] * x[t + 1 - taps + j][c]`, a row before the first of `x` being one of
    /// `before`, the last one last. `before` holds the last rows of all after that.
    ///
    /// `x` and `out` are `(rows, channels)`, `weight` `(taps, channels)` and `bias` `(channels)` in f32, `before`
    /// `(taps - 1, channels)`.
    fn convolve_causal(
        &mut self,
        out: &mut Self::Buffer,
        x: &Self::Buffer,
        before: &mut Self::Buffer,
        weight: &Self::Weight,
        bias: &Self::Weight,
        rows: usize,
    ) -> Result;

    /// The gated delta rule. Yang et al. 2024, <https://arxiv.org/abs/2412.06464>.
    ///
    /// `x` is `(tokens, channels)`: queries and keys, `key_heads * key_dim` each, and values, `value_heads * value_dim`.
    /// Each head of queries and keys is divided by `sqrt(sum of squares + 1e-6)`, queries by `sqrt(key_dim)` too. For
    /// each row and value head, with `S` the state, `(key_dim, value_dim)`, which is zero before position 0:
    ///
    /// `S = a S`, `S = S + k (b (v - S^T k))^T`, `out = S^T q`, where `a = exp(-rate * softplus(decay))`, `b = sigmoid(beta)`.
    ///
    /// `decay` and `beta` are `(tokens, value_heads)`, `rate` is a vector of `value_heads`; `out` is
    /// `(tokens, value_heads * value_dim)`. What is in `x`, `decay` and `beta` is lost. A slot has one span at most,
    /// which starts where [`Held`](crate::Held) allows.
    #[allow(clippy::too_many_arguments)] // one call
    fn delta_rule(
        &mut self,
        out: &mut Self::Buffer,
        x: &mut Self::Buffer,
        decay: &mut Self::Buffer,
        beta: &mut Self::Buffer,
        rate: &Self::Weight,
        state: &mut Self::DeltaState,
        spans: &[Span],
    ) -> Result;

    /// Keeps what `slot` of a state holds, in the place of what was remembered of it before.
    fn remember(&mut self, state: &mut Self::DeltaState, slot: u32) -> Result;

    /// Makes `slot` of a state hold what was last remembered of it.
    fn recall(&mut self, state: &mut Self::DeltaState, slot: u32) -> Result;

    /// `x[r] = sigmoid(gate[r]) * x[r]` for `rows` rows of `width`: one number a row.
    fn gate_rows(&mut self, x: &mut Self::Buffer, gate: &Self::Buffer, rows: usize, width: usize) -> Result;

    /// `x[i] += y[i]` for the first `len` elements.
    fn add(&mut self, x: &mut Self::Buffer, y: &Self::Buffer, len: usize) -> Result;

    /// `out[i] = x[rows[i]]`, rows of `width`: keeps the rows whose logits are wanted.
    fn gather(&mut self, out: &mut Self::Buffer, x: &Self::Buffer, rows: &[u32], width: usize) -> Result;

    /// `out[rows[i]] = x[i]`, rows of `width`: puts rows in their places.
    fn scatter(&mut self, out: &mut Self::Buffer, x: &Self::Buffer, rows: &[u32], width: usize) -> Result;

    /// `x[i] = min(max(x[i], bounds[0]), bounds[1])` for the first `len` elements; `bounds[0] <= bounds[1]`.
    fn clip(&mut self, x: &mut Self::Buffer, len: usize, bounds: [f32; 2]) -> Result;

    /// `x[i] = soft_cap(scale * x[i])` for the first `len` elements.
    fn scale_and_cap(&mut self, x: &mut Self::Buffer, len: usize, scale: f32, softcap: Option<f32>)
    -> Result;

    /// What [`Best`] holds of each row of `x`, rows of `width`, at most 2^24, one for each temperature: the numbers with 0 added,
    /// the largest first, the lower index where two are equal, NaN before all, and the sum to [`Best::SUM_ERROR`], which is 0
    /// for a temperature of 0. `out` is `(rows, Best::WIDTH)`.
    fn best(
        &mut self,
        out: &mut Self::Buffer,
        x: &Self::Buffer,
        width: usize,
        temperatures: &[f32],
    ) -> Result {
        let mut all = vec![0.0; temperatures.len() * width];
        self.read(x, &mut all)?;
        let mut best = vec![0.0; temperatures.len() * Best::WIDTH];
        let rows = all.chunks_exact(width).zip(best.chunks_exact_mut(Best::WIDTH));
        rows.zip(temperatures).for_each(|((row, out), temperature)| best_of(row, *temperature, out));
        self.write(out, &best)
    }
}
