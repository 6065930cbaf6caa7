//! Mixture of experts without the host: rows choose on the device, and each choice is a product of one row whose weight
//! is found through a table of addresses.

use muse_format::{Layout, Score, TILE_ROWS};
use zerocopy::IntoBytes;

use super::backend::{CudaBackend, CudaBuffer, CudaWeight, blocks, small};
use super::launch::{Choices, FloatProduct, Product, RoutingRule, THREADS, launch, layout_name};
use crate::{Backend, BackendError, Expert, ExpertsShape, Mixture};

/// One matrix of every expert of a mixture.
struct Stack {
    layout: Layout,
    rows: u32,
    cols: u32,
    addresses: Vec<u64>,
}

impl Stack {
    fn new(
        experts: &[Expert<CudaWeight>],
        matrix: fn(&Expert<CudaWeight>) -> &CudaWeight,
    ) -> Result<Self, BackendError> {
        let first = matrix(&experts[0]);
        let (layout, rows, cols) = (first.layout, first.rows, first.cols);
        if let Some(other) = experts.iter().map(matrix).find(|w| w.layout != layout) {
            let both = format!("a mixture of experts in {layout} and {}", other.layout);
            return Err(BackendError::Unsupported(both));
        }
        assert!(experts.iter().map(matrix).all(|w| w.rows == rows && w.cols == cols));
        Ok(Self { layout, rows, cols, addresses: experts.iter().map(|e| matrix(e).memory.at()).collect() })
    }
}

/// What [`CudaBackend::of_expert`] multiplies: f32 and 8-bit activations at these addresses.
#[derive(Clone, Copy)]
struct Input {
    x: u64,
    quantized: [u64; 2],
    /// 1 where all choices of a row have one input, else one a choice.
    inputs_per_row: usize,
}

impl CudaBackend {
    /// See [`Backend::experts`].
    pub(super) fn mixture(
        &mut self,
        out: &mut CudaBuffer,
        x: &CudaBuffer,
        logits: &CudaBuffer,
        rows: usize,
        mixture: &Mixture<'_, Self>,
    ) -> Result<(), BackendError> {
        let Mixture { experts, used, routing, .. } = *mixture;
        if mixture.norm.is_some() {
            return Err(BackendError::Unsupported("a norm of what each expert gives".into()));
        }
        if mixture.scales.is_some() {
            return Err(BackendError::Unsupported("a factor for each expert".into()));
        }
        if routing.weigh_input {
            return Err(BackendError::Unsupported("experts whose input is weighted".into()));
        }
        let stacks = [
            Stack::new(experts, |e| &e.gate)?,
            Stack::new(experts, |e| &e.up)?,
            Stack::new(experts, |e| &e.down)?,
        ];
        let (dim, ffn_dim) = (stacks[0].cols, stacks[0].rows);
        let shape = ExpertsShape { count: experts.len(), used, dim: dim as usize, ffn_dim: ffn_dim as usize };
        let (out, x) = (out.at(rows * shape.dim), x.at(rows * shape.dim));
        assert!(used <= shape.count && stacks[1].rows == ffn_dim && stacks[2].rows == dim);
        self.reserve_experts(rows, shape)?;
        self.scratch.reserve(rows, shape.dim)?;
        self.route(logits.at(rows * shape.count), rows, mixture)?;
        let table = stacks.iter().flat_map(|stack| &stack.addresses).copied().collect::<Vec<u64>>();
        self.scratch.matrices.write(table.as_bytes())?;

        let quantized = [self.scratch.quants.at(), self.scratch.scales.at()];
        if stacks[0].layout.is_quantized() || stacks[1].layout.is_quantized() {
            self.quantize(quantized, x, rows, dim)?;
        }
        let input = Input { x, quantized, inputs_per_row: 1 };
        let (gate, up, down) = (self.scratch.gate.at(), self.scratch.up.at(), self.scratch.down.at());
        self.of_expert(gate, &stacks[0], 0, input, rows, mixture)?;
        self.of_expert(up, &stacks[1], 1, input, rows, mixture)?;
        let pairs = rows * used;
        self.gate(gate, up, pairs * shape.ffn_dim, routing.activation)?;
        let quantized = [self.scratch.hidden_quants.at(), self.scratch.hidden_scales.at()];
        if stacks[2].layout.is_quantized() {
            self.quantize(quantized, gate, pairs, ffn_dim)?;
        }
        let input = Input { x: gate, quantized, inputs_per_row: used };
        self.of_expert(down, &stacks[2], 2, input, rows, mixture)?;

        let grid = (blocks(rows * shape.dim)?, 1);
        let weight = self.scratch.weight.at();
        // SAFETY: `out` holds `rows * dim` (`at`); `down` and `weight` were reserved for as many rows.
        Ok(unsafe {
            launch!(
                self.kernels,
                "combine",
                grid,
                THREADS,
                [out, down, weight, small(rows), small(used), dim]
            )
        }?)
    }

    fn route(&self, logits: u64, rows: usize, mixture: &Mixture<'_, Self>) -> Result<(), BackendError> {
        let count = small(mixture.experts.len());
        let bias = mixture.choice_bias.map_or(0, |bias| {
            assert!(bias.layout == Layout::F32 && bias.cols == count);
            bias.memory.at()
        });
        let rule = RoutingRule {
            softmax: u32::from(mixture.routing.score == Score::Softmax),
            normalise: u32::from(mixture.routing.normalise),
            scale: mixture.routing.scale,
        };
        let (expert, weight) = (self.scratch.expert.at(), self.scratch.weight.at());
        // SAFETY: `mixture` reserved `rows * used` choices and checked `logits` and `used`; EXPERTS_MAX bounds `count`.
        Ok(unsafe {
            launch!(
                self.kernels,
                "route",
                (small(rows), 1),
                32,
                [expert, weight, logits, bias, count, small(mixture.used), rule]
            )
        }?)
    }

    /// The products of the `nth` matrix of each choice's expert, `(rows, used, stack.rows)`, to `out`.
    fn of_expert(
        &self,
        out: u64,
        stack: &Stack,
        nth: usize,
        input: Input,
        rows: usize,
        mixture: &Mixture<'_, Self>,
    ) -> Result<(), BackendError> {
        let choices = Choices {
            expert: self.scratch.expert.at(),
            weights: self.scratch.matrices.at() + (8 * nth * mixture.experts.len()) as u64,
            inputs_per_row: small(input.inputs_per_row),
            used: small(mixture.used),
        };
        let name = format!("matmul_{}_expert", layout_name(stack.layout));
        let pairs = small(rows * mixture.used);
        let Stack { layout, rows, cols, .. } = *stack;
        if layout.is_quantized() {
            let [quants, scales] = input.quantized;
            let group = small(layout.group());
            let product = Product { out, weight: 0, bias: 0, quants, scales, rows, cols, tokens: 1, group };
            let grid = (pairs, rows.div_ceil(TILE_ROWS as u32));
            // SAFETY: `mixture` reserved `out` and the quantized input; `Stack::new` checked every matrix's shape.
            return Ok(unsafe { launch!(self.kernels, &name, grid, THREADS, [product, choices]) }?);
        }
        let product = FloatProduct { out, weight: 0, bias: 0, x: input.x, rows, cols, tokens: 1 };
        let grid = (pairs, rows.div_ceil(THREADS / 32));
        // SAFETY: as above.
        Ok(unsafe { launch!(self.kernels, &name, grid, THREADS, [product, choices]) }?)
    }
}
