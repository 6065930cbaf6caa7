//! Mixture of experts without the host: rows choose on the device, and products find their weights through a table of
//! addresses. Of a few rows each choice is a product of its own; those of a prompt are sorted by their experts first, so
//! that each expert's weights are read once for all of its rows.

use muse_format::{Layout, Score};
use zerocopy::IntoBytes;

use super::backend::{CudaBackend, CudaBuffer, CudaWeight, blocks, small};
use super::launch::{Choices, FEW, Product, RoutingRule, THREADS, launch};
use super::memory::Memory;
use super::products::{Batch, Input, Operand};
use super::scratch::{PROMPT, WORKS_AT, works};
use crate::reference::GROUP;
use crate::{Backend, BackendError, Expert, ExpertsShape, Mixture, ScaledNorm};

/// The matrices of an expert, in the order of tables.
const MATRICES: [fn(&Expert<CudaWeight>) -> &CudaWeight; 3] = [|e| &e.gate, |e| &e.up, |e| &e.down];

/// Where the matrices of a layer's experts are, on the device too.
#[derive(Debug)]
pub(super) struct Table {
    addresses: Vec<u64>, // (3, experts)
    memory: Memory,
}

fn addresses(experts: &[Expert<CudaWeight>]) -> impl Iterator<Item = u64> + '_ {
    MATRICES.iter().flat_map(move |matrix| experts.iter().map(move |e| matrix(e).memory.at()))
}

/// The products of the `nth` matrix of the chosen experts, to `out`.
fn operand(
    mixture: &Mixture<'_, CudaBackend>,
    table: u64,
    nth: usize,
    out: u64,
) -> Result<(Operand, u32), BackendError> {
    let matrices = || mixture.experts.iter().map(MATRICES[nth]);
    let CudaWeight { layout, rows, cols, .. } = mixture.experts.first().map(MATRICES[nth]).expect("experts");
    if let Some(other) = matrices().find(|w| w.layout != *layout) {
        let both = format!("a mixture of experts in {layout} and {}", other.layout);
        return Err(BackendError::Unsupported(both));
    }
    assert!(matrices().all(|w| w.rows == *rows && w.cols == *cols));
    let of_experts = table + 8 * (nth * mixture.experts.len()) as u64;
    let group = small(layout.group());
    let product = Product { out, of_experts, rows: *rows, group, ..Product::default() };
    Ok((Operand { layout: *layout, product }, *cols))
}

impl CudaBackend {
    /// Makes the table of a layer's experts, where there is none.
    pub(super) fn table(&mut self, experts: &[Expert<CudaWeight>]) -> Result<u64, BackendError> {
        let same = |table: &&Table| addresses(experts).eq(table.addresses.iter().copied());
        if let Some(table) = self.tables.iter().find(same) {
            return Ok(table.memory.at());
        }
        let addresses: Vec<u64> = addresses(experts).collect();
        let memory = self.bounce.upload(addresses.as_bytes())?;
        let at = memory.at();
        self.tables.push(Table { addresses, memory });
        Ok(at)
    }

    /// See [`Backend::experts`].
    pub(super) fn mixture(
        &mut self,
        out: &mut CudaBuffer,
        x: &CudaBuffer,
        logits: &CudaBuffer,
        rows: usize,
        mixture: &Mixture<'_, Self>,
    ) -> Result<(), BackendError> {
        let used = mixture.used;
        let table = self.table(mixture.experts)?;
        let scratch = |scratch: &Memory| scratch.at();
        let (first, dim) = operand(mixture, table, 0, 0)?;
        let ffn_dim = first.product.rows;
        let shape =
            ExpertsShape { count: mixture.experts.len(), used, dim: dim as usize, ffn_dim: ffn_dim as usize };
        assert!(used <= shape.count);
        let (out, x) = (out.at(rows * shape.dim), x.at(rows * shape.dim));
        self.reserve_experts(rows, shape)?;
        self.scratch.reserve(rows, shape.dim)?;
        let [gate, up, down] = [&self.scratch.gate, &self.scratch.up, &self.scratch.down].map(scratch);
        let operands = [
            operand(mixture, table, 0, gate)?,
            operand(mixture, table, 1, up)?,
            operand(mixture, table, 2, down)?,
        ];
        let shapes = operands.map(|(operand, cols)| (operand.product.rows, cols));
        assert_eq!(shapes, [(ffn_dim, dim), (ffn_dim, dim), (dim, ffn_dim)]);
        let [gated, upped, downed] = operands.map(|(operand, _)| operand);

        self.route(logits.at(rows * shape.count), rows, mixture)?;
        let batch = self.batch_of_experts(rows, shape)?;
        let (input, share) = self.experts_input(x, rows, shape, mixture, [gated.layout, upped.layout])?;
        let pairs = rows * used;
        let activation = mixture.routing.activation;
        let fused = gated.gated_by(upped, activation).filter(|_| !batch.prompt);
        let both = [gated, upped];
        let operands = fused.as_ref().map_or(&both[..], std::slice::from_ref);
        // SAFETY: `reserve_experts` made room for the outputs, `operand` checked every matrix's shape, and
        // `experts_input` made the input in the form that the layouts read.
        unsafe { self.run_products(operands, input, batch.sharing(share)) }?;
        if fused.is_none() {
            self.gate(gate, up, pairs * shape.ffn_dim, activation)?;
        }
        let quantized = [&self.scratch.hidden_quants, &self.scratch.hidden_scales].map(scratch);
        if downed.layout.is_quantized() {
            self.quantize(quantized, gate, pairs, ffn_dim)?;
        }
        let input = Input { x: gate, quantized, cols: ffn_dim, tokens: small(pairs) };
        // SAFETY: as above.
        unsafe { self.run_products(&[downed], input, batch.sharing(1)) }?;
        if let Some(norm) = &mixture.norm {
            self.scaled_norm(down, pairs, dim, norm)?;
        }
        let weight = if mixture.routing.weigh_input { 0 } else { self.scratch.weight.at() };
        let grid = (blocks(rows * shape.dim)?, 1);
        let arguments = (small(rows), small(used));
        // SAFETY: `out` holds `rows * dim` (`at`); `down` and `weight` were reserved for as many rows.
        Ok(unsafe {
            launch!(
                self.kernels,
                "combine",
                grid,
                THREADS,
                [out, down, weight, arguments.0, arguments.1, dim]
            )
        }?)
    }

    fn route(&self, logits: u64, rows: usize, mixture: &Mixture<'_, Self>) -> Result<(), BackendError> {
        let count = small(mixture.experts.len());
        let [bias, scales] = [mixture.choice_bias, mixture.scales].map(|vector| {
            vector.map_or(0, |vector| {
                assert!(vector.layout == Layout::F32 && vector.cols == count);
                vector.memory.at()
            })
        });
        let rule = RoutingRule {
            softmax: u32::from(mixture.routing.score == Score::Softmax),
            normalise: u32::from(mixture.routing.normalise),
            scale: mixture.routing.scale,
        };
        let (expert, weight) = (self.scratch.expert.at(), self.scratch.weight.at());
        let (grid, used) = ((small(rows), 1), small(mixture.used));
        // SAFETY: `mixture` reserved `rows * used` choices and checked `logits` and `used`; EXPERTS_MAX bounds `count`.
        Ok(unsafe {
            launch!(
                self.kernels,
                "route",
                grid,
                32,
                [expert, weight, logits, bias, scales, count, used, rule]
            )
        }?)
    }

    /// How the choices of `rows` rows are multiplied; sorts them where there are more than a few.
    fn batch_of_experts(&self, rows: usize, shape: ExpertsShape) -> Result<Batch, BackendError> {
        let ExpertsShape { count, used, .. } = shape;
        let (expert, pairs) = (self.scratch.expert.at(), rows * used);
        let alone = Choices { expert, ..Choices::NONE };
        if rows <= FEW {
            return Ok(Batch { choices: alone, works: Some(small(pairs)), prompt: false });
        }
        let (order, work_count) = (self.scratch.order.at(), self.scratch.works.at());
        let listed = work_count + WORKS_AT;
        let numbers = (small(pairs), small(count), PROMPT as u32);
        // SAFETY: `reserve_experts` made room for the order and the works of as many pairs; every expert is below `count`.
        unsafe {
            launch!(
                self.kernels,
                "sort_choices",
                (1, 1),
                THREADS,
                [order, listed, work_count, expert, numbers.0, numbers.1, numbers.2]
            )
        }?;
        let most = works(pairs as u64, count as u64) as usize;
        let choices = Choices { order, works: listed, work_count, ..alone };
        Ok(Batch { choices, works: Some(small(most)), prompt: true })
    }

    /// What gates and ups in `layouts` read, and how many choices have one row of it: rows of `x`, or of each choice its row
    /// times its weight.
    fn experts_input(
        &self,
        x: u64,
        rows: usize,
        shape: ExpertsShape,
        mixture: &Mixture<'_, Self>,
        layouts: [Layout; 2],
    ) -> Result<(Input, u32), BackendError> {
        let (cols, used) = (small(shape.dim), small(shape.used));
        let quantizes = layouts.iter().any(|layout| layout.is_quantized());
        if !mixture.routing.weigh_input {
            let quantized = [self.scratch.quants.at(), self.scratch.scales.at()];
            if quantizes {
                self.quantize(quantized, x, rows, cols)?;
            }
            return Ok((Input { x, quantized, cols, tokens: small(rows) }, used));
        }
        // Where the outputs of the experts will be there is room for one form of their inputs.
        let (pairs, weight, room) = (rows * shape.used, self.scratch.weight.at(), &self.scratch.down);
        if !quantizes {
            let (x_of_pairs, grid, count) = (room.at(), (blocks(pairs * shape.dim)?, 1), small(pairs));
            // SAFETY: the room holds `pairs * dim` numbers (`reserve_experts`), `x` those of `rows`.
            unsafe {
                launch!(self.kernels, "weigh", grid, THREADS, [x_of_pairs, x, weight, count, used, cols])
            }?;
            return Ok((Input { x: x_of_pairs, quantized: [0; 2], cols, tokens: count }, 1));
        }
        let quants = (pairs * shape.dim.next_multiple_of(GROUP)) as u64;
        let fits = quants + quants / GROUP as u64 * 4 <= room.bytes() as u64;
        if !fits || layouts.iter().any(|layout| !layout.is_quantized()) {
            let what = format!(
                "experts {} wide, in {} and {}, whose input is weighted",
                shape.dim, layouts[0], layouts[1]
            );
            return Err(BackendError::Unsupported(what));
        }
        let quantized = [room.at(), room.at() + quants];
        self.quantize_weighted(quantized, x, weight, pairs, cols, used)?;
        Ok((Input { x: 0, quantized, cols, tokens: small(pairs) }, 1))
    }

    fn scaled_norm(
        &self,
        x: u64,
        rows: usize,
        dim: u32,
        norm: &ScaledNorm<'_, CudaWeight>,
    ) -> Result<(), BackendError> {
        for vector in [norm.scale, norm.weight] {
            assert!(vector.layout == Layout::F32 && vector.cols == dim);
        }
        let (scale, weight, grid) = (norm.scale.memory.at(), norm.weight.memory.at(), (small(rows), 1));
        // SAFETY: the caller's `x` holds `rows * dim` numbers, the vectors `dim`.
        Ok(unsafe { launch!(self.kernels, "scaled_norm", grid, THREADS, [x, scale, weight, dim, norm.eps]) }?)
    }
}
