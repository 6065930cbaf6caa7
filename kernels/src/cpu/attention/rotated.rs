use crate::cache::zeroed;
use crate::{BackendError, CacheDtype};

/// Room for queries that are rotated as a cache's keys are, taken only where there is such a cache.
#[derive(Debug, Default)]
pub(in crate::cpu) struct Rotated {
    /// Numbers of the widest queries of a batch.
    wanted: usize,
    /// Whether a cache keeps rotated keys.
    used: bool,
    queries: Vec<f32>,
}

impl Rotated {
    /// Bytes taken beside caches in `dtype`, where a batch's queries are at most `tokens` rows of `cols`.
    pub(in crate::cpu) fn bytes(tokens: u64, cols: u64, dtype: CacheDtype) -> u64 {
        if dtype.rotates_keys() { tokens * cols * size_of::<f32>() as u64 } else { 0 }
    }

    pub(in crate::cpu) fn reserve(&mut self, tokens: usize, cols: usize) -> Result<(), BackendError> {
        self.wanted = self.wanted.max(tokens * cols);
        self.take()
    }

    /// Says that there is a cache in `dtype`.
    pub(in crate::cpu) fn allow(&mut self, dtype: CacheDtype) -> Result<(), BackendError> {
        self.used |= dtype.rotates_keys();
        self.take()
    }

    fn take(&mut self) -> Result<(), BackendError> {
        if self.used && self.queries.len() < self.wanted {
            self.queries = zeroed(self.wanted)?;
        }
        Ok(())
    }

    /// A copy of `q`.
    ///
    /// # Panics
    /// If less was reserved.
    pub(in crate::cpu) fn room(&mut self, q: &[f32]) -> &mut [f32] {
        assert!(q.len() <= self.queries.len(), "{} numbers of {} reserved", q.len(), self.queries.len());
        let room = &mut self.queries[..q.len()];
        room.copy_from_slice(q);
        room
    }
}
