//! Rows of logits that tokens are drawn from: all of each, or its best until all are asked for.

use muse_kernels::{BackendError, Best};

use crate::Engine;

/// What a step gives of the rows wanted. Its size is set once.
#[derive(Debug)]
pub struct LogitRows {
    vocab: usize,
    /// One of each row of the next step: that of the sum that [`Best`] has, 0 where nobody needs it.
    pub temperatures: Vec<f32>, // (wanted)
    pub best: Vec<f32>,   // (logit_rows, Best::WIDTH), where an engine finds them
    pub logits: Vec<f32>, // (logit_rows, vocab)
    /// Whether `logits` are those of the last step; else `best` are.
    pub whole: bool,
    /// Why logits that were asked for behind the last step did not come.
    pub failed: Option<BackendError>,
}

impl LogitRows {
    /// For up to `rows` rows of `vocab` logits.
    pub fn new(rows: u32, vocab: u32) -> Self {
        let (rows, vocab) = (rows as usize, vocab as usize);
        Self {
            vocab,
            temperatures: Vec::with_capacity(rows),
            best: vec![0.0; rows * Best::WIDTH],
            logits: vec![0.0; rows * vocab],
            whole: false,
            failed: None,
        }
    }

    /// The logits of the first `rows` rows.
    pub fn logits(&mut self, rows: usize) -> &mut [f32] {
        &mut self.logits[..rows * self.vocab]
    }
}

/// One of the rows of the last step of `engine`.
pub(crate) struct Row<'a> {
    pub(crate) engine: &'a mut dyn Engine,
    pub(crate) rows: &'a mut LogitRows,
    pub(crate) index: usize,
}

impl Row<'_> {
    /// The `n`-th row from this one on.
    pub(crate) fn nth(&mut self, n: usize) -> Row<'_> {
        Row { engine: self.engine, rows: self.rows, index: self.index + n }
    }

    /// The best of it, where there is no more yet.
    pub(crate) fn best(&self) -> Option<Best<'_>> {
        let row = || Best::new(&self.rows.best[self.index * Best::WIDTH..][..Best::WIDTH]);
        (!self.rows.whole).then(row)
    }

    /// All of it, `(vocab)`.
    pub(crate) fn logits(&mut self) -> Result<&mut [f32], String> {
        let Self { engine, rows, index } = self;
        if !rows.whole {
            let wanted = rows.temperatures.len();
            if let Err(error) = engine.read_logits(rows.logits(wanted)) {
                let shown = format!("the model failed: {error}");
                rows.failed = Some(error);
                return Err(shown);
            }
            rows.whole = true;
        }
        Ok(&mut rows.logits[*index * rows.vocab..][..rows.vocab])
    }
}
