use half::f16;

use crate::{BackendError, CacheDtype, CacheShape, Span};

/// The keys and values of one layer in host memory.
///
/// Both are `(slots, kv_heads, capacity, head_dim)`, so that the positions of one head are consecutive: attention
/// reads them as one stream. Position `p` is at `p % capacity`.
#[derive(Debug)]
pub struct HostCache {
    shape: CacheShape,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    /// f16 bits.
    F16 {
        keys: Vec<u16>,
        values: Vec<u16>,
    },
    F32 {
        keys: Vec<f32>,
        values: Vec<f32>,
    },
}

/// Keys and values of one head of one slot, `(capacity, head_dim)` each.
#[derive(Debug, Clone, Copy)]
pub enum HeadCache<'a> {
    /// f16 bits.
    F16 {
        keys: &'a [u16],
        values: &'a [u16],
    },
    F32 {
        keys: &'a [f32],
        values: &'a [f32],
    },
}

/// `len` zeros, or the error that says how many bytes were wanted.
pub(crate) fn zeroed<T: Clone + Default>(len: usize) -> Result<Vec<T>, BackendError> {
    let mut values = Vec::new();
    let wanted = len as u64 * size_of::<T>() as u64;
    values.try_reserve_exact(len).map_err(|_| BackendError::OutOfMemory { wanted })?;
    values.resize(len, T::default());
    Ok(values)
}

/// The slot and position of every row of a batch, in order.
pub(crate) fn rows(spans: &[Span]) -> impl Iterator<Item = (u32, u32)> + '_ {
    spans.iter().flat_map(|span| (0..span.len).map(|i| (span.slot, span.start + i)))
}

/// Rows of all spans together.
pub(crate) fn row_count(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.len as usize).sum()
}

impl HostCache {
    /// Allocates zeroed keys and values.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`] where the machine refuses.
    pub fn new(shape: CacheShape) -> Result<Self, BackendError> {
        let too_large = BackendError::OutOfMemory { wanted: u64::MAX };
        let len = [shape.slots, shape.capacity, shape.kv_heads, shape.head_dim]
            .into_iter()
            .try_fold(1_usize, |product, n| product.checked_mul(n as usize))
            .filter(|len| len.checked_mul(size_of::<f32>()).is_some())
            .ok_or(too_large)?;
        let storage = match shape.dtype {
            CacheDtype::F16 => Storage::F16 { keys: zeroed(len)?, values: zeroed(len)? },
            CacheDtype::F32 => Storage::F32 { keys: zeroed(len)?, values: zeroed(len)? },
        };
        Ok(Self { shape, storage })
    }

    pub fn shape(&self) -> CacheShape {
        self.shape
    }

    /// The keys and values of one head.
    ///
    /// # Panics
    /// If the slot or the head is outside the shape.
    pub fn head(&self, slot: u32, kv_head: u32) -> HeadCache<'_> {
        let range = self.head_range(slot, kv_head);
        match &self.storage {
            Storage::F16 { keys, values } => {
                HeadCache::F16 { keys: &keys[range.clone()], values: &values[range] }
            }
            Storage::F32 { keys, values } => {
                HeadCache::F32 { keys: &keys[range.clone()], values: &values[range] }
            }
        }
    }

    fn head_range(&self, slot: u32, kv_head: u32) -> std::ops::Range<usize> {
        let shape = &self.shape;
        assert!(slot < shape.slots && kv_head < shape.kv_heads, "slot {slot}, head {kv_head} of {shape:?}");
        let len = shape.capacity as usize * shape.head_dim as usize;
        let at = (slot as usize * shape.kv_heads as usize + kv_head as usize) * len;
        at..at + len
    }

    /// Stores one row of keys and values, `(kv_heads * head_dim)` each, rounded to nearest even where f16.
    ///
    /// # Panics
    /// If the slot is outside the shape or a row has another length.
    pub fn store(&mut self, slot: u32, position: u32, k: &[f32], v: &[f32]) {
        let shape = self.shape;
        let width = shape.head_dim as usize;
        assert!(k.len() == width * shape.kv_heads as usize && v.len() == k.len());
        let within = (position % shape.capacity) as usize * width;
        for head in 0..shape.kv_heads {
            let at = self.head_range(slot, head).start + within;
            let from = head as usize * width..(head as usize + 1) * width;
            match &mut self.storage {
                Storage::F16 { keys, values } => {
                    narrow(&mut keys[at..at + width], &k[from.clone()]);
                    narrow(&mut values[at..at + width], &v[from]);
                }
                Storage::F32 { keys, values } => {
                    keys[at..at + width].copy_from_slice(&k[from.clone()]);
                    values[at..at + width].copy_from_slice(&v[from]);
                }
            }
        }
    }
}

impl HostCache {
    /// [`store`](Self::store) for every row of a batch; `k` and `v` are `(tokens, kv_heads * head_dim)`.
    pub(crate) fn store_spans(&mut self, k: &[f32], v: &[f32], spans: &[Span]) {
        let width = self.shape.kv_heads as usize * self.shape.head_dim as usize;
        let len = row_count(spans) * width;
        let pairs = k[..len].chunks_exact(width).zip(v[..len].chunks_exact(width));
        for ((k, v), (slot, position)) in pairs.zip(rows(spans)) {
            self.store(slot, position, k, v);
        }
    }
}

fn narrow(out: &mut [u16], x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = f16::from_f32(*x).to_bits();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_keeps_the_last_capacity_positions_of_each_slot_and_head() {
        let shape = CacheShape { dtype: CacheDtype::F16, slots: 2, capacity: 3, kv_heads: 2, head_dim: 2 };
        let mut cache = HostCache::new(shape).unwrap();
        for position in 0..4 {
            let k = [1.0, 2.0, 3.0, 4.0].map(|x| x + 10.0 * position as f32);
            cache.store(1, position, &k, &k.map(|x| -x));
        }
        let HeadCache::F16 { keys, values } = cache.head(1, 1) else { panic!("f16 was asked for") };
        let read = |bits: &[u16]| bits.iter().map(|b| f16::from_bits(*b).to_f32()).collect::<Vec<_>>();
        assert_eq!(read(keys), [33.0, 34.0, 13.0, 14.0, 23.0, 24.0]);
        assert_eq!(read(values), [-33.0, -34.0, -13.0, -14.0, -23.0, -24.0]);
        let HeadCache::F16 { keys, .. } = cache.head(0, 1) else { panic!("f16 was asked for") };
        assert_eq!(read(keys), [0.0; 6], "another slot was touched");
    }

    #[test]
    fn a_cache_that_cannot_be_is_an_error() {
        let shape = CacheShape {
            dtype: CacheDtype::F32,
            slots: u32::MAX,
            capacity: u32::MAX,
            kv_heads: 4096,
            head_dim: 4096,
        };
        assert!(matches!(HostCache::new(shape), Err(BackendError::OutOfMemory { .. })));
    }
}
