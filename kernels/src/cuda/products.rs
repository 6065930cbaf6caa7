//! Matrix products: those of one input whose weights are alike go in one launch.

use muse_format::{Activation, Layout, TILE_ROWS};

use super::backend::{CudaBackend, CudaBuffer, CudaWeight, small};
use super::launch::{Choices, FEW, PRODUCTS_MAX, Product, Products, THREADS, launch, layout_name};
use super::rows::activation_index;
use super::scratch::PROMPT;
use crate::{BackendError, Linear};

/// What products read, on the device: f32 and 8-bit activations.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input {
    pub x: u64,              // (tokens, cols)
    pub quantized: [u64; 2], // (tokens, groups * 32) and (tokens, groups)
    pub cols: u32,
    pub tokens: u32,
}

/// One matrix, or one of each expert, and where its product goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand {
    pub layout: Layout,
    pub product: Product,
}

/// Who multiplies what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    pub choices: Choices,
    /// Blocks of threads along the rows of the batch: what `Choices` names, or as many rows as a block takes.
    pub works: Option<u32>,
    /// Whether a block has more than a few rows.
    pub prompt: bool,
}

impl Batch {
    /// All of `tokens` rows meet the same weights.
    pub(super) fn of_rows(tokens: usize) -> Self {
        Self { choices: Choices::NONE, works: None, prompt: tokens > FEW }
    }

    /// The same, where `share` choices have one row of the input.
    pub(super) fn sharing(self, share: u32) -> Self {
        Self { choices: Choices { share, ..self.choices }, ..self }
    }
}

/// The vector's address and 0 where there is none; its length was checked at load and is asserted.
pub(super) fn bias_at(bias: Option<&CudaWeight>, rows: u32) -> u64 {
    bias.map_or(0, |bias| {
        assert!(bias.layout == Layout::F32 && bias.cols == rows);
        bias.memory.at()
    })
}

impl Operand {
    /// The product of a [`Backend::linear`](crate::Backend::linear) of `tokens` rows.
    pub(super) fn new(product: &Linear<'_, CudaBackend>, tokens: usize) -> Self {
        let CudaWeight { layout, rows, ref memory, .. } = *product.weight;
        let out = product.out.at(tokens * rows as usize);
        let group = small(layout.group());
        let bias = bias_at(product.bias, rows);
        Self {
            layout,
            product: Product { out, weight: memory.at(), bias, rows, group, ..Product::default() },
        }
    }

    /// Both as one whose product is gated, where a kernel makes that; only of few rows.
    pub(super) fn gated_by(self, up: Self, activation: Activation) -> Option<Self> {
        let (gate, other) = (self.product, up.product);
        let alike = self.layout == up.layout && self.layout.is_quantized() && gate.rows == other.rows;
        let up_weights = (other.weight, other.of_experts);
        (alike && [gate.bias, other.bias] == [0; 2]).then(|| {
            let (up, up_of_experts) = up_weights;
            let activation = activation_index(activation);
            Self { product: Product { up, up_of_experts, activation, ..gate }, ..self }
        })
    }

    fn is_gated(&self) -> bool {
        self.product.up != 0 || self.product.up_of_experts != 0
    }

    /// The kernel for it, of rows of `cols`, and the rows that a block of threads makes.
    fn kernel(&self, prompt: bool, cols: u32) -> (&'static str, bool, u32) {
        let packed = self.layout.is_quantized();
        let halves = matches!(self.layout, Layout::F16 | Layout::Bf16) && cols.is_multiple_of(8);
        let (prompt, warps) = (prompt && (packed || halves), THREADS / 32);
        let rows = match (packed, prompt) {
            (_, true) => warps * 2 * TILE_ROWS as u32,
            (true, false) if self.is_gated() => TILE_ROWS as u32,
            (true, false) => 2 * TILE_ROWS as u32,
            (false, false) => warps,
        };
        (layout_name(self.layout), prompt, rows)
    }
}

impl CudaBackend {
    /// See [`crate::Backend::linear`].
    pub(super) fn multiplied_by_all(
        &mut self,
        x: &CudaBuffer,
        tokens: usize,
        products: &[Linear<'_, Self>],
    ) -> Result<(), BackendError> {
        let Some(first) = products.first() else { return Ok(()) };
        let cols = first.weight.cols;
        let at = x.at(tokens * cols as usize);
        assert!(products.iter().all(|product| product.weight.cols == cols), "products of other inputs");
        let operands: Vec<Operand> = products.iter().map(|product| Operand::new(product, tokens)).collect();
        self.multiply_rows(at, (tokens, cols), &operands)
    }

    /// See [`crate::Backend::linear_glu`].
    pub(super) fn multiplied_and_gated(
        &mut self,
        x: &CudaBuffer,
        tokens: usize,
        mut products: [Linear<'_, Self>; 2],
        len: usize,
        activation: Activation,
    ) -> Result<(), BackendError> {
        let cols = products[0].weight.cols;
        let [gate, up] = products.each_ref().map(|product| Operand::new(product, tokens));
        let fused =
            gate.gated_by(up, activation).filter(|_| tokens <= FEW && products[1].weight.cols == cols);
        if let Some(fused) = fused {
            assert_eq!(len, tokens * fused.product.rows as usize);
            return self.multiply_rows(x.at(tokens * cols as usize), (tokens, cols), &[fused]);
        }
        self.multiplied_by_all(x, tokens, &products)?;
        let [gate, up] = &mut products;
        self.gate(gate.out.at(len), up.out.at(len), len, activation)
    }

    /// Products of `tokens` rows of `cols` at `x`.
    fn multiply_rows(
        &mut self,
        at: u64,
        (tokens, cols): (usize, u32),
        operands: &[Operand],
    ) -> Result<(), BackendError> {
        if operands.iter().any(|operand| operand.layout.is_quantized()) {
            self.scratch.reserve(tokens, cols as usize)?;
            let to = [self.scratch.quants.at(), self.scratch.scales.at()];
            self.quantize(to, at, tokens, cols)?;
        }
        let quantized = [self.scratch.quants.at(), self.scratch.scales.at()];
        let input = Input { x: at, quantized, cols, tokens: small(tokens) };
        // SAFETY: `Operand::new` and `at` checked the outputs and the input, `Tensor::new` the weights; the input was
        // quantized above where a weight is.
        unsafe { self.run_products(operands, input, Batch::of_rows(tokens)) }
    }

    /// Launches the products, as many at once as there are alike beside each other.
    ///
    /// # Safety
    /// Every operand's output holds its rows for all rows of the batch, every weight what its layout takes for `rows` by
    /// `input.cols`, and the input `tokens` rows in the form that the layouts read.
    pub(super) unsafe fn run_products(
        &self,
        operands: &[Operand],
        input: Input,
        batch: Batch,
    ) -> Result<(), BackendError> {
        let kernel = |operand: &Operand| operand.kernel(batch.prompt, input.cols);
        for alike in operands.chunk_by(|a, b| kernel(a) == kernel(b)) {
            for some in alike.chunks(PRODUCTS_MAX) {
                // SAFETY: the caller's promise.
                unsafe { self.launch_products(some, input, batch) }?;
            }
        }
        Ok(())
    }

    /// # Safety
    /// That of [`run_products`](Self::run_products); the operands are alike and fit in a launch.
    unsafe fn launch_products(
        &self,
        operands: &[Operand],
        input: Input,
        batch: Batch,
    ) -> Result<(), BackendError> {
        let (layout, prompt, rows) = operands[0].kernel(batch.prompt, input.cols);
        let mut end = 0;
        let mut each = [Product::default(); PRODUCTS_MAX];
        for (i, to) in each.iter_mut().enumerate() {
            if let Some(operand) = operands.get(i) {
                *to = operand.product;
                end += operand.product.rows.div_ceil(rows);
            }
            to.end = end;
        }
        let Input { x, quantized: [quants, scales], cols, tokens } = input;
        let products = Products { each, x, quants, scales, cols, tokens };
        let (name, tokens_max) = if prompt { ("prompt", PROMPT) } else { ("few", FEW) };
        let works = batch.works.unwrap_or(tokens.div_ceil(small(tokens_max)));
        let name = format!("matmul_{layout}_{name}");
        let too_many =
            || BackendError::Unsupported(format!("{end} blocks of weights for {works} of activations"));
        let grid = (works.checked_mul(end).ok_or_else(too_many)?, 1);
        // SAFETY: the caller's promise; the grid covers every row of every product, and kernels look no further.
        Ok(unsafe { launch!(self.kernels, &name, grid, THREADS, [products, batch.choices]) }?)
    }
}
