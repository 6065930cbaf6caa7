use crate::Span;
use crate::cache::rows;
use crate::shape::axis;

/// The rotations of a batch's rows, kept until a batch or a table differs: every layer asks for the same.
#[derive(Debug, Default)]
pub(super) struct Rotations {
    frequencies: Vec<f32>,
    /// Of a batch whose rows turn by their positions; else empty.
    positions: Vec<u32>,
    /// Of a batch whose rows turn by three numbers each; else empty.
    turns: Vec<[u32; 3]>,
    axes: [u32; 2],
    /// `(tokens, frequencies)`
    cos: Vec<f32>,
    /// `(tokens, frequencies)`
    sin: Vec<f32>,
}

impl Rotations {
    /// Computes the rotations of every row of `spans`.
    pub(super) fn prepare(&mut self, frequencies: &[f32], spans: &[Span]) {
        let positions = || rows(spans).map(|(_, position)| position);
        if self.frequencies == frequencies && positions().eq(self.positions.iter().copied()) {
            return;
        }
        self.begin(frequencies);
        self.positions.extend(positions());
        for at in 0..self.positions.len() {
            let position = self.positions[at];
            self.add(|_| position);
        }
    }

    /// Computes the rotations of rows that turn by `turns`.
    pub(super) fn prepare_axes(&mut self, frequencies: &[f32], turns: &[[u32; 3]], axes: [u32; 2]) {
        if self.frequencies == frequencies && self.turns == turns && self.axes == axes {
            return;
        }
        self.begin(frequencies);
        self.axes = axes;
        self.turns.extend_from_slice(turns);
        for turns in turns {
            self.add(|i| turns[axis(i, axes)]);
        }
    }

    fn begin(&mut self, frequencies: &[f32]) {
        self.positions.clear();
        self.turns.clear();
        self.cos.clear();
        self.sin.clear();
        self.frequencies.clear();
        self.frequencies.extend_from_slice(frequencies);
    }

    /// Adds a row of which frequency `i` multiplies `position(i)`.
    fn add(&mut self, position: impl Fn(usize) -> u32) {
        for (i, frequency) in self.frequencies.iter().enumerate() {
            let (sin, cos) = (position(i) as f32 * frequency).sin_cos();
            self.cos.push(cos);
            self.sin.push(sin);
        }
    }

    /// Turns one head of row `row`.
    ///
    /// # Panics
    /// If the head is shorter than twice the frequencies.
    pub(super) fn rotate(&self, head: &mut [f32], row: usize) {
        let half = self.frequencies.len();
        let (cos, sin) = (&self.cos[row * half..][..half], &self.sin[row * half..][..half]);
        let (first, rest) = head.split_at_mut(half);
        let pairs = first.iter_mut().zip(&mut rest[..half]);
        for ((a, b), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
            (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
        }
    }
}

/// Turns each head of one row by its place on a plane. All heads turn alike, so each sine is computed once.
pub(super) fn rotate_2d(row: &mut [f32], head_dim: usize, frequencies: &[f32], place: [u32; 2]) {
    let (half, n) = (head_dim / 2, frequencies.len());
    assert!(2 * n <= half);
    for (axis, at) in place.into_iter().enumerate() {
        for (i, frequency) in frequencies.iter().enumerate() {
            let (sin, cos) = (at as f32 * frequency).sin_cos();
            let i = axis * n + i;
            for head in row.chunks_exact_mut(head_dim) {
                let (a, b) = (head[i], head[i + half]);
                (head[i], head[i + half]) = (a * cos - b * sin, a * sin + b * cos);
            }
        }
    }
}
