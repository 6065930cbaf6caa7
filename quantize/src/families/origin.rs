//! Where the values of a tensor come from, and what becomes of them on the way.

#[derive(Debug)]
pub enum Origin {
    /// Rows of a tensor of the checkpoint, by its name there.
    Tensor { name: String, rows: Rows, transform: Transform },
    /// Computed from the config, `(1, cols)`.
    Computed(Vec<f32>),
}

/// Which outputs of a source our tensor has, in order: rows of a matrix, elements of a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rows {
    /// The first.
    pub first: usize,
    /// Where pairs are brought from side by side to half a rotation apart.
    pub pairs: Option<Pairs>,
    /// Where they lie between others.
    pub blocks: Option<Blocks>,
    /// Where blocks of so many outputs, taken by twos, change places.
    pub swapped: Option<usize>,
    /// Where of blocks of so many outputs, taken by fours, the second and the third change places.
    pub crossed: Option<usize>,
}

/// Blocks of `len` outputs, one of ours after each `every` of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    pub len: usize,
    pub every: usize,
}

/// Heads of which the first `rotated` elements are pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pairs {
    pub head_dim: usize,
    pub rotated: usize,
}

impl Rows {
    /// Whether they follow one another in the source as in ours.
    pub fn are_contiguous(&self) -> bool {
        self.pairs.is_none() && self.blocks.is_none() && self.swapped.is_none() && self.crossed.is_none()
    }

    /// The source's row for ours.
    pub fn source(&self, row: usize) -> usize {
        let row = self.pairs.map_or(row, |pairs| pairs.source(row));
        let row = self.swapped.map_or(row, |len| ((row / len) ^ 1) * len + row % len);
        // Of four the first and the last stay.
        let row = self.crossed.map_or(row, |len| {
            let block = row / len;
            (if matches!(block % 4, 1 | 2) { block ^ 3 } else { block }) * len + row % len
        });
        self.first + self.blocks.map_or(row, |Blocks { len, every }| row / len * every + row % len)
    }
}

impl Pairs {
    /// Where our element lies in heads with pairs side by side.
    fn source(self, row: usize) -> usize {
        let Self { head_dim, rotated } = self;
        let (head, at) = (row / head_dim * head_dim, row % head_dim);
        let half = rotated / 2;
        head + match at {
            at if at < half => 2 * at,
            at if at < rotated => 2 * (at - half) + 1,
            at => at,
        }
    }
}

/// Where a tensor of ours comes from that the rules for a decoder do not name.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub theirs: String,
    /// Tensors of our size that theirs holds one behind the other, and which of their outputs are ours.
    pub of: usize,
    pub rows: Rows,
    pub transform: Transform,
}

impl Named {
    /// The whole of a tensor as it is.
    pub fn whole(theirs: String) -> Self {
        Self { theirs, of: 1, rows: Rows::default(), transform: Transform::AsIs }
    }
}

/// What becomes of the values of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Transform {
    AsIs,
    /// `1 + w`.
    AddOne,
    /// `factor * w`.
    Times {
        factor: f32,
    },
    /// `exp(w)`.
    Exp,
    /// The nearest number, where a bound is infinite.
    Bounded,
    /// Rows become columns, theirs from `first` on; [`Rows::first`] is a column of theirs.
    Transpose {
        first: usize,
    },
    /// Rows of each of [`Rows::blocks`] become columns; ours has one such block below the other.
    TransposeBlocks,
    /// `sigmoid(w / temperature)`: what a gate lets in beside the residual stream.
    GateIn {
        temperature: f32,
    },
    /// `sqrt(max(1 - sigmoid(w / temperature)^2, 0.001))`: what the same gate keeps of the residual stream.
    GateKeeps {
        temperature: f32,
    },
    /// Columns that are `outer` blocks of `width` for each of a list, as `outer` lists: block `j * len + i` is that of
    /// `i * outer + j`.
    ColumnsGathered {
        outer: usize,
        width: usize,
    },
}

impl Transform {
    /// Changes `values`, rows of `cols`.
    pub fn apply(self, values: &mut [f32], cols: usize) {
        let open = |w: f32, temperature: f32| 1.0 / (1.0 + (-f64::from(w / temperature)).exp());
        let each = |values: &mut [f32], f: &dyn Fn(f32) -> f64| {
            values.iter_mut().for_each(|value| *value = f(*value) as f32);
        };
        match self {
            Self::AsIs | Self::Transpose { .. } | Self::TransposeBlocks => {}
            Self::Times { factor } => values.iter_mut().for_each(|value| *value *= factor),
            Self::Bounded => values.iter_mut().for_each(|value| *value = value.clamp(f32::MIN, f32::MAX)),
            Self::Exp => each(values, &|w| f64::from(w).exp()),
            Self::AddOne => values.iter_mut().for_each(|value| *value += 1.0),
            Self::GateIn { temperature } => each(values, &|w| open(w, temperature)),
            Self::GateKeeps { temperature } => {
                let kept = |open: f64| ((1.0 - open) * (1.0 + open)).max(0.001).sqrt();
                each(values, &|w| kept(open(w, temperature)));
            }
            Self::ColumnsGathered { outer, width } => {
                let mut theirs = vec![0.0; cols];
                for row in values.chunks_exact_mut(cols) {
                    theirs.copy_from_slice(row);
                    let lists = theirs.chunks_exact(outer * width);
                    let len = lists.len();
                    for (i, list) in lists.enumerate() {
                        for (j, block) in list.chunks_exact(width).enumerate() {
                            row[(j * len + i) * width..][..width].copy_from_slice(block);
                        }
                    }
                }
            }
        }
    }
}
