//! A tensor of a GGUF as a [`TensorSource`].

use std::ops::Range;
use std::sync::Arc;

use super::parse::Tensor;
use super::reader::Source;
use crate::checkpoint::{Group, ImportError, Native, TensorSource};

/// Rows of a large matrix are read in runs of about this many bytes.
const RUN_BYTES: usize = 1 << 18;

/// The order of the rows inside each head of a projection that is rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// As Hugging Face has them.
    Same,
    /// Element `i` of the first half and of the second lie side by side (GGUF's `llama`); with the head's size.
    Interleaved { head_dim: usize },
}

impl RowOrder {
    /// Where the file keeps Hugging Face's `row`.
    fn place(self, row: usize) -> usize {
        match self {
            Self::Same => row,
            Self::Interleaved { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let half = head_dim / 2;
                head * head_dim + within % half * 2 + within / half
            }
        }
    }
}

pub(super) struct GgufTensor {
    pub(super) source: Arc<Source>,
    pub(super) tensor: Tensor,
    pub(super) order: RowOrder,
}

impl GgufTensor {
    fn bytes(&self, first: usize, out: &mut [u8]) -> Result<(), ImportError> {
        let at = self.tensor.at + self.tensor.row_bytes as u64 * first as u64;
        self.source.read(at, out, &self.tensor.name)
    }

    fn finite(&self, row: usize, values: &[f32]) -> Result<(), ImportError> {
        match values.iter().find(|value| !value.is_finite()) {
            None => Ok(()),
            Some(value) => Err(ImportError::NotFinite { name: self.tensor.name.clone(), row, value: *value }),
        }
    }

    /// A rotated projection's bias: one row whose elements are ordered as the matrix's rows are.
    fn read_bias(&self, out: &mut [f32]) -> Result<(), ImportError> {
        let mut bytes = vec![0; self.tensor.row_bytes];
        self.bytes(0, &mut bytes)?;
        let mut stored = vec![0.0; self.tensor.shape.1];
        self.tensor.kind.dequantize(&bytes, &mut stored);
        for (i, out) in out.iter_mut().enumerate() {
            *out = stored.get(self.order.place(i)).copied().expect("a head's size divides the bias");
        }
        self.finite(0, out)
    }
}

impl TensorSource for GgufTensor {
    fn shape(&self) -> (usize, usize) {
        self.tensor.shape
    }

    fn native(&self) -> Native {
        self.tensor.kind.native()
    }

    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), ImportError> {
        let (count, cols) = self.tensor.shape;
        assert!(rows.end <= count && out.len() == rows.len() * cols);
        if count == 1 && self.order != RowOrder::Same {
            return if rows.is_empty() { Ok(()) } else { self.read_bias(out) };
        }
        let run = match self.order {
            RowOrder::Same => (RUN_BYTES / self.tensor.row_bytes).max(1),
            RowOrder::Interleaved { .. } => 1,
        };
        let mut bytes = vec![0; self.tensor.row_bytes * run.min(rows.len())];
        let mut row = rows.start;
        for out in out.chunks_mut(run * cols) {
            let rows_now = out.len() / cols;
            let bytes = bytes.get_mut(..rows_now * self.tensor.row_bytes).expect("a run fits its buffer");
            self.bytes(self.order.place(row), bytes)?;
            self.tensor.kind.dequantize(bytes, out);
            for (i, values) in out.chunks(cols).enumerate() {
                self.finite(row + i, values)?;
            }
            row += rows_now;
        }
        Ok(())
    }

    fn groups(&self, row: usize) -> Result<Vec<Group>, ImportError> {
        assert!(row < self.tensor.shape.0);
        let mut bytes = vec![0; self.tensor.row_bytes];
        self.bytes(self.order.place(row), &mut bytes)?;
        let groups = self.tensor.kind.groups(&bytes);
        for group in &groups {
            let parts = [group.scale, group.offset].map(|bits| half::f16::from_bits(bits).to_f32());
            self.finite(row, &parts)?;
        }
        Ok(groups)
    }
}
