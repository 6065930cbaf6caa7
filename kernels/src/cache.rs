use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::reference::TINY;
use crate::{BackendError, CacheDtype, CacheShape, Span};

/// Positions whose keys are interleaved: one vector register of scores.
pub const TILE_POSITIONS: usize = 16;

/// The keys and values of one layer in host memory.
///
/// Every slot and head has its own run of tiles, so that attention reads one stream. Keys are
/// `(capacity / 16, head_dim, 16)`: a score needs no sum across a vector. Values are `(capacity, head_dim)`. Scales of
/// 8-bit numbers are `(capacity)`: a tile's are one vector. The capacity is rounded up to whole tiles.
#[derive(Debug)]
pub struct HostCache {
    shape: CacheShape,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    F16 { keys: Vec<f16>, values: Vec<f16> },
    F32 { keys: Vec<f32>, values: Vec<f32> },
    Int8 { keys: Vec<i8>, values: Vec<i8>, key_scales: Vec<f32>, value_scales: Vec<f32> },
}

/// Keys and values of one head of one slot.
#[derive(Debug, Clone, Copy)]
pub(crate) enum HeadCache<'a> {
    F16(Head<'a, f16>),
    F32(Head<'a, f32>),
    Int8(Head<'a, i8>),
}

/// Keys and values of one head of one slot in one element type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'a, E> {
    /// `(capacity / 16, head_dim, 16)`
    pub(crate) keys: &'a [E],
    /// `(capacity, head_dim)`
    pub(crate) values: &'a [E],
    /// Of 8-bit numbers alone.
    pub(crate) scales: Option<Scales<'a>>,
}

/// What the numbers of each position are multiplied by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scales<'a> {
    /// `(capacity)`
    pub(crate) keys: &'a [f32],
    /// `(capacity)`
    pub(crate) values: &'a [f32],
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
    pub fn new(mut shape: CacheShape) -> Result<Self, BackendError> {
        let too_large = BackendError::OutOfMemory { wanted: u64::MAX };
        shape.capacity =
            shape.capacity.checked_next_multiple_of(TILE_POSITIONS as u32).ok_or(too_large.clone())?;
        let len = [shape.slots, shape.capacity, shape.kv_heads, shape.head_dim]
            .into_iter()
            .try_fold(1_usize, |product, n| product.checked_mul(n as usize))
            .filter(|len| len.checked_mul(size_of::<f32>()).is_some())
            .ok_or(too_large)?;
        let storage = match shape.dtype {
            CacheDtype::F16 => Storage::F16 { keys: zeroed(len)?, values: zeroed(len)? },
            CacheDtype::F32 => Storage::F32 { keys: zeroed(len)?, values: zeroed(len)? },
            CacheDtype::Int8 => {
                // No product of fewer factors overflows.
                let rows = len / (shape.head_dim as usize).max(1);
                Storage::Int8 {
                    keys: zeroed(len)?,
                    values: zeroed(len)?,
                    key_scales: zeroed(rows)?,
                    value_scales: zeroed(rows)?,
                }
            }
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
    pub(crate) fn head(&self, slot: u32, kv_head: u32) -> HeadCache<'_> {
        let (range, rows) = self.head_ranges(slot, kv_head);
        match &self.storage {
            Storage::F16 { keys, values } => {
                HeadCache::F16(Head { keys: &keys[range.clone()], values: &values[range], scales: None })
            }
            Storage::F32 { keys, values } => {
                HeadCache::F32(Head { keys: &keys[range.clone()], values: &values[range], scales: None })
            }
            Storage::Int8 { keys, values, key_scales, value_scales } => {
                let scales = Scales { keys: &key_scales[rows.clone()], values: &value_scales[rows] };
                let (keys, values) = (&keys[range.clone()], &values[range]);
                HeadCache::Int8(Head { keys, values, scales: Some(scales) })
            }
        }
    }

    /// Where a head's numbers and where its positions lie.
    fn head_ranges(&self, slot: u32, kv_head: u32) -> (Range<usize>, Range<usize>) {
        let shape = &self.shape;
        assert!(slot < shape.slots && kv_head < shape.kv_heads, "slot {slot}, head {kv_head} of {shape:?}");
        let (capacity, head_dim) = (shape.capacity as usize, shape.head_dim as usize);
        let first = (slot as usize * shape.kv_heads as usize + kv_head as usize) * capacity;
        (first * head_dim..(first + capacity) * head_dim, first..first + capacity)
    }

    /// Stores one row of keys and values, `(kv_heads * head_dim)` each, rounded to nearest even where not f32.
    ///
    /// # Panics
    /// If the slot is outside the shape or a row has another length.
    pub fn store(&mut self, slot: u32, position: u32, k: &[f32], v: &[f32]) {
        let shape = self.shape;
        let width = shape.head_dim as usize;
        assert!(k.len() == width * shape.kv_heads as usize && v.len() == k.len());
        let place = (position % shape.capacity) as usize;
        for (head, (k, v)) in (0..shape.kv_heads).zip(k.chunks_exact(width).zip(v.chunks_exact(width))) {
            let (range, rows) = self.head_ranges(slot, head);
            match &mut self.storage {
                Storage::F16 { keys, values } => {
                    let narrow = |out: &mut [f16], x: &[f32]| out.convert_from_f32_slice(x);
                    put(&mut keys[range.clone()], &mut values[range], place, k, v, narrow);
                }
                Storage::F32 { keys, values } => {
                    let narrow = |out: &mut [f32], x: &[f32]| out.copy_from_slice(x);
                    put(&mut keys[range.clone()], &mut values[range], place, k, v, narrow);
                }
                Storage::Int8 { keys, values, key_scales, value_scales } => {
                    let scales = put(&mut keys[range.clone()], &mut values[range], place, k, v, quantize);
                    (key_scales[rows.start + place], value_scales[rows.start + place]) = scales;
                }
            }
        }
    }

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

/// Index of element `i` of the key at `place`.
fn key_index(place: usize, i: usize, head_dim: usize) -> usize {
    (place / TILE_POSITIONS * head_dim + i) * TILE_POSITIONS + place % TILE_POSITIONS
}

/// Writes one key and one value as `narrow` makes them; returns what it said of each.
fn put<E: Copy, S>(
    keys: &mut [E],
    values: &mut [E],
    place: usize,
    k: &[f32],
    v: &[f32],
    narrow: impl Fn(&mut [E], &[f32]) -> S,
) -> (S, S) {
    // The value's row holds the key until that is in its tile.
    let row = &mut values[place * v.len()..][..v.len()];
    let key = narrow(row, k);
    for (i, x) in row.iter().enumerate() {
        keys[key_index(place, i, k.len())] = *x;
    }
    (key, narrow(row, v))
}

/// 8 bits a number by the rule of [`CacheDtype::Int8`]; returns the scale. Where `x` holds a NaN or an infinity, so does
/// the scale, and no product with it is finite.
fn quantize(quants: &mut [i8], x: &[f32]) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer, ties to even, and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // As integers, the bits of magnitudes order like the magnitudes, infinity next to last and NaN last.
    let max = f32::from_bits(x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0));
    if max < TINY {
        quants.fill(0);
        return 0.0;
    }
    let inverse = 127.0 / max;
    for (q, x) in quants.iter_mut().zip(x) {
        *q = (x * inverse + ROUND).to_bits() as i8;
    }
    max / 127.0
}

impl<E: Copy + Into<f64>> Head<'_, E> {
    /// Element `i` of the key at `position`, exactly.
    pub(crate) fn key(&self, position: u32, i: usize, head_dim: usize) -> f64 {
        let place = self.place(position, head_dim);
        self.scales.map_or(1.0, |scales| f64::from(scales.keys[place]))
            * self.keys[key_index(place, i, head_dim)].into()
    }

    /// Element `i` of the value at `position`, exactly.
    pub(crate) fn value(&self, position: u32, i: usize, head_dim: usize) -> f64 {
        let place = self.place(position, head_dim);
        self.scales.map_or(1.0, |scales| f64::from(scales.values[place]))
            * self.values[place * head_dim + i].into()
    }

    fn place(&self, position: u32, head_dim: usize) -> usize {
        position as usize % (self.values.len() / head_dim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_keeps_the_last_capacity_positions_of_each_slot_and_head() {
        for dtype in CacheDtype::ALL {
            let shape = CacheShape { dtype, slots: 2, capacity: 17, kv_heads: 2, head_dim: 3 };
            let mut cache = HostCache::new(shape).unwrap();
            let key = |p: u32, head: u32, i: usize| f64::from(p * 10 + head * 3) + i as f64;
            for p in 0..40 {
                let k: Vec<f32> = (0..6).map(|n| key(p, n / 3, n as usize % 3) as f32).collect();
                let v: Vec<f32> = k.iter().map(|x| -x).collect();
                cache.store(1, p, &k, &v);
            }
            let read = |slot, p, head, i| match cache.head(slot, head) {
                HeadCache::F16(h) => (h.key(p, i, 3), h.value(p, i, 3)),
                HeadCache::F32(h) => (h.key(p, i, 3), h.value(p, i, 3)),
                HeadCache::Int8(h) => (h.key(p, i, 3), h.value(p, i, 3)),
            };
            for (p, head, i) in [(8, 0, 0), (8, 1, 2), (39, 0, 1), (25, 1, 0), (32, 0, 2)] {
                // Half a step of 8 bits, and the scale's own rounding 127 times over.
                let bound =
                    if dtype == CacheDtype::Int8 { key(p, head, 2) * (0.5 / 127.0 + 1e-6) } else { 0.0 };
                let (k, v) = read(1, p, head, i);
                assert!((k - key(p, head, i)).abs() <= bound, "{dtype} {p}: {k}");
                assert!((v + key(p, head, i)).abs() <= bound, "{dtype} {p}: {v}");
                assert_eq!(read(0, p, head, i), (0.0, 0.0), "another slot was touched");
            }
        }
    }

    #[test]
    fn eight_bits_round_to_even_and_keep_what_is_not_finite() {
        let mut quants = [0_i8; 6];
        let scale = quantize(&mut quants, &[254.0, -254.0, 1.0, 3.0, -5.0, 0.0]);
        assert_eq!((scale, quants), (2.0, [127, -127, 0, 2, -2, 0]));
        assert_eq!((quantize(&mut quants, &[1e-38; 6]), quants), (0.0, [0; 6]));
        assert!(quantize(&mut quants, &[1.0, f32::NAN, 2.0]).is_nan());
        assert_eq!(quantize(&mut quants, &[1.0, f32::NEG_INFINITY]), f32::INFINITY);
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
