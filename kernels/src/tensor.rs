use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use half::slice::HalfBitsSliceExt;
use half::{bf16, f16};
use muse_format::Layout;
use zerocopy::FromBytes;

use crate::BackendError;

/// Bytes that somebody keeps alive: a mapped file, or a vector in tests.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A tensor in host memory, in the layout it has in the file. Cloning shares the bytes.
#[derive(Clone)]
pub struct Tensor {
    layout: Layout,
    rows: usize,
    cols: usize,
    owner: Bytes,
    range: Range<usize>,
}

impl Tensor {
    /// Views `range` of `owner` as a `rows x cols` tensor.
    ///
    /// # Errors
    /// [`BackendError::Tensor`] where the range is outside the bytes, its length is not what the shape takes, or a
    /// float tensor is not aligned to its element.
    pub fn new(
        layout: Layout,
        rows: usize,
        cols: usize,
        owner: Bytes,
        range: Range<usize>,
    ) -> Result<Self, BackendError> {
        let bad =
            |problem: &str| BackendError::Tensor { problem: format!("{rows} x {cols} {layout}: {problem}") };
        let bytes = (*owner).as_ref().get(range.clone()).ok_or_else(|| bad("outside its bytes"))?;
        if layout.byte_len(rows as u64, cols as u64) != Some(bytes.len() as u64) {
            return Err(bad(&format!("{} bytes do not fit the shape", bytes.len())));
        }
        let aligned = match layout {
            Layout::F32 => <[f32]>::ref_from_bytes(bytes).is_ok(),
            Layout::F16 | Layout::Bf16 => <[u16]>::ref_from_bytes(bytes).is_ok(),
            _ => true,
        };
        if !aligned {
            return Err(bad("not aligned to its element"));
        }
        Ok(Self { layout, rows, cols, owner, range })
    }

    /// A row-major f32 tensor of its own memory, for tests and tables.
    pub fn from_f32(rows: usize, cols: usize, values: Vec<f32>) -> Self {
        struct Owned(Vec<f32>);
        impl AsRef<[u8]> for Owned {
            fn as_ref(&self) -> &[u8] {
                zerocopy::IntoBytes::as_bytes(self.0.as_slice())
            }
        }
        let len = 4 * values.len();
        Self::new(Layout::F32, rows, cols, Arc::new(Owned(values)), 0..len)
            .expect("f32 values fit their shape")
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Output features of a matrix; rows of a table; 1 for a vector.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features of a matrix; width of a table; length of a vector.
    pub fn cols(&self) -> usize {
        self.cols
    }

    pub fn bytes(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }

    /// The elements of an f32 tensor.
    ///
    /// # Panics
    /// If the layout is not f32.
    pub fn f32(&self) -> &[f32] {
        assert_eq!(self.layout, Layout::F32);
        <[f32]>::ref_from_bytes(self.bytes()).expect("alignment was checked by `new`")
    }

    /// The elements of an f16 tensor.
    ///
    /// # Panics
    /// If the layout is not f16.
    pub fn f16(&self) -> &[f16] {
        assert_eq!(self.layout, Layout::F16);
        self.bits16().reinterpret_cast()
    }

    /// The elements of a bf16 tensor.
    ///
    /// # Panics
    /// If the layout is not bf16.
    pub fn bf16(&self) -> &[bf16] {
        assert_eq!(self.layout, Layout::Bf16);
        self.bits16().reinterpret_cast()
    }

    fn bits16(&self) -> &[u16] {
        <[u16]>::ref_from_bytes(self.bytes()).expect("alignment was checked by `new`")
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} x {} {})", self.rows, self.cols, self.layout)
    }
}
