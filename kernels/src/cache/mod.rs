//! Keys and values in host memory.

use std::mem::MaybeUninit;
use std::ops::Range;

use half::f16;
use rustix::mm::{Advice, madvise};

pub(crate) use self::number::{LEVELS, Nibbles, Number};
pub(crate) use self::rotate::{rotate, rotated_len};
use crate::{BackendError, CacheDtype, CacheShape, Span};

mod number;
mod rotate;
mod store;

/// Positions whose keys are interleaved: one vector register of scores.
pub const TILE_POSITIONS: usize = 16;

/// The keys and values of one layer in host memory.
///
/// Every slot and head has its own run of tiles, so that attention reads one stream. Keys are
/// `(capacity / 16, head_dim, 16)`: a score needs no sum across a vector. Values are `(capacity, head_dim)`. Each tile of
/// keys and each value is a run of its own, rounded up to whole elements where one holds two numbers. Scales are
/// `(capacity)`: a tile's are one vector. The capacity is rounded up to whole tiles.
#[derive(Debug)]
pub struct HostCache {
    shape: CacheShape,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    F32(Rows<f32, f32>),
    F16(Rows<f16, f16>),
    Int8(Rows<i8, i8>),
    Int8Int4(Rows<i8, Nibbles>),
    Int4(Rows<Nibbles, Nibbles>),
}

/// Keys in one form and values in another, of every slot and head.
#[derive(Debug)]
struct Rows<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
    /// Empty for numbers that are not scaled, as is `value_scales`.
    key_scales: Vec<f32>,
    value_scales: Vec<f32>,
}

/// Keys and values of one head of one slot.
#[derive(Debug, Clone, Copy)]
pub(crate) enum HeadCache<'a> {
    F32(Head<'a, f32, f32>),
    F16(Head<'a, f16, f16>),
    Int8(Head<'a, i8, i8>),
    Int8Int4(Head<'a, i8, Nibbles>),
    Int4(Head<'a, Nibbles, Nibbles>),
}

/// Keys and values of one head of one slot in their forms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'a, K, V> {
    /// `(capacity / 16, K::elements(head_dim * 16))`
    pub(crate) keys: &'a [K],
    /// `(capacity, V::elements(head_dim))`; none where the values are the keys
    pub(crate) values: &'a [V],
    /// Of numbers that are scaled.
    pub(crate) scales: Option<Scales<'a>>,
    pub(crate) capacity: usize,
    pub(crate) head_dim: usize,
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
    ask_for_huge_pages(values.spare_capacity_mut());
    values.resize(len, T::default());
    Ok(values)
}

/// Size and alignment of a huge page on the systems that this runs on, as muse-runtime's of the kernel's reserve.
const HUGE_PAGE: usize = 2 << 20;

/// Of memory that was not touched yet: an answer reads all of a cache for each token, and in small pages waits for their
/// addresses. What is not a whole aligned page, which may be all of less than two, and where the kernel has none, stays as it
/// is.
fn ask_for_huge_pages<T>(memory: &mut [MaybeUninit<T>]) {
    let start = memory.as_mut_ptr();
    let pages = whole_pages(start.addr(), size_of_val(memory));
    if !pages.is_empty() {
        // SAFETY: the pages are inside `memory`, and advice changes nothing that is read or written there.
        let _ = unsafe {
            madvise(start.wrapping_byte_add(pages.start).cast(), pages.len(), Advice::LinuxHugepage)
        };
    }
}

/// The bytes of memory at `address` that whole huge pages are.
fn whole_pages(address: usize, bytes: usize) -> Range<usize> {
    let start = address.next_multiple_of(HUGE_PAGE) - address;
    start..start + bytes.saturating_sub(start) / HUGE_PAGE * HUGE_PAGE
}

/// The slot and position of every row of a batch, in order.
pub(crate) fn rows(spans: &[Span]) -> impl Iterator<Item = (u32, u32)> + '_ {
    spans.iter().flat_map(|span| (0..span.len).map(|i| (span.slot, span.start + i)))
}

/// Rows of all spans together.
pub(crate) fn row_count(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.len as usize).sum()
}

impl<K: Number, V: Number> Rows<K, V> {
    /// Zeros for `heads` of `capacity` positions.
    fn new(heads: usize, capacity: usize, shape: &CacheShape) -> Result<Self, BackendError> {
        assert_eq!(K::SCALED, V::SCALED, "one kind of block has both scales or none");
        let head_dim = shape.head_dim as usize;
        let scales = if K::SCALED { heads * capacity } else { 0 };
        let of_values = |len: usize| if shape.values { len } else { 0 };
        Ok(Self {
            keys: zeroed(heads * (capacity / TILE_POSITIONS) * K::elements(head_dim * TILE_POSITIONS))?,
            values: zeroed(of_values(heads * capacity * V::elements(head_dim)))?,
            key_scales: zeroed(scales)?,
            value_scales: zeroed(of_values(scales))?,
        })
    }

    /// Those of head `index` of all slots.
    fn head(&self, index: usize, capacity: usize, head_dim: usize) -> Head<'_, K, V> {
        let keys = capacity / TILE_POSITIONS * K::elements(head_dim * TILE_POSITIONS);
        // Of keys alone, the values are the keys.
        let alone = self.values.is_empty();
        let values = if alone { 0 } else { capacity * V::elements(head_dim) };
        let value_scales = if alone { &self.key_scales } else { &self.value_scales };
        let places = index * capacity..(index + 1) * capacity;
        Head {
            keys: &self.keys[index * keys..][..keys],
            values: &self.values[index * values..][..values],
            scales: K::SCALED
                .then(|| Scales { keys: &self.key_scales[places.clone()], values: &value_scales[places] }),
            capacity,
            head_dim,
        }
    }
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
        // No product below overflows: a run of `head_dim` numbers has no more elements than the next multiple of 32.
        let numbers = shape.head_dim.checked_next_multiple_of(2 * TILE_POSITIONS as u32);
        [shape.slots, shape.capacity, shape.kv_heads, numbers.ok_or(too_large.clone())?]
            .into_iter()
            .try_fold(1_usize, |product, n| product.checked_mul(n as usize))
            .filter(|len| len.checked_mul(size_of::<f32>()).is_some())
            .ok_or(too_large)?;
        let heads = shape.slots as usize * shape.kv_heads as usize;
        let capacity = shape.capacity as usize;
        let storage = match shape.dtype {
            CacheDtype::F32 => Storage::F32(Rows::new(heads, capacity, &shape)?),
            CacheDtype::F16 => Storage::F16(Rows::new(heads, capacity, &shape)?),
            CacheDtype::Int8 => Storage::Int8(Rows::new(heads, capacity, &shape)?),
            CacheDtype::Int8Int4 => Storage::Int8Int4(Rows::new(heads, capacity, &shape)?),
            CacheDtype::Int4 => Storage::Int4(Rows::new(heads, capacity, &shape)?),
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
        let index = self.head_index(slot, kv_head);
        let (capacity, head_dim) = (self.shape.capacity as usize, self.shape.head_dim as usize);
        match &self.storage {
            Storage::F32(rows) => HeadCache::F32(rows.head(index, capacity, head_dim)),
            Storage::F16(rows) => HeadCache::F16(rows.head(index, capacity, head_dim)),
            Storage::Int8(rows) => HeadCache::Int8(rows.head(index, capacity, head_dim)),
            Storage::Int8Int4(rows) => HeadCache::Int8Int4(rows.head(index, capacity, head_dim)),
            Storage::Int4(rows) => HeadCache::Int4(rows.head(index, capacity, head_dim)),
        }
    }

    /// A head's place among those of all slots.
    fn head_index(&self, slot: u32, kv_head: u32) -> usize {
        let shape = &self.shape;
        assert!(slot < shape.slots && kv_head < shape.kv_heads, "slot {slot}, head {kv_head} of {shape:?}");
        slot as usize * shape.kv_heads as usize + kv_head as usize
    }

    /// Stores rows of keys and values, `(tokens, kv_heads * head_dim)` each, rounded to nearest even where not f32.
    ///
    /// # Panics
    /// If a slot is outside the shape or there are too few rows.
    pub(crate) fn store(&mut self, k: &[f32], v: &[f32], spans: &[Span]) {
        // SAFETY: a loop calls each number once.
        unsafe { self.store_by(k, v, spans, |count, run| (0..count).for_each(run)) }
    }

    /// [`store`](Self::store) by several threads.
    ///
    /// # Safety
    /// `share` calls what it is given once for each number below its first and for no other, in any order and on any
    /// thread.
    ///
    /// # Panics
    /// As [`store`](Self::store).
    pub(crate) unsafe fn store_by(
        &mut self,
        k: &[f32],
        v: &[f32],
        spans: &[Span],
        share: impl FnOnce(usize, &(dyn Fn(usize) + Sync)),
    ) {
        assert!(spans.iter().all(|span| span.slot < self.shape.slots), "{spans:?} of {:?}", self.shape);
        let shape = &self.shape;
        // SAFETY: this function's contract.
        unsafe {
            match &mut self.storage {
                Storage::F32(rows) => rows.store_by(shape, k, v, spans, share),
                Storage::F16(rows) => rows.store_by(shape, k, v, spans, share),
                Storage::Int8(rows) => rows.store_by(shape, k, v, spans, share),
                Storage::Int8Int4(rows) => rows.store_by(shape, k, v, spans, share),
                Storage::Int4(rows) => rows.store_by(shape, k, v, spans, share),
            }
        }
    }
}

impl<K: Number, V: Number> Head<'_, K, V> {
    /// Element `i` of the key at `position`, exactly; of its rotation where [`Number::ROTATED`].
    pub(crate) fn key(&self, position: u32, i: usize) -> f64 {
        let place = position as usize % self.capacity;
        let tile = K::elements(self.head_dim * TILE_POSITIONS);
        let keys = &self.keys[place / TILE_POSITIONS * tile..][..tile];
        let scale = self.scales.map_or(1.0, |scales| f64::from(scales.keys[place]));
        scale * f64::from(K::get(keys, i * TILE_POSITIONS + place % TILE_POSITIONS))
    }

    /// Element `i` of the value at `position`, exactly; of its rotation where [`Number::ROTATED`].
    pub(crate) fn value(&self, position: u32, i: usize) -> f64 {
        if self.values.is_empty() {
            return self.key(position, i);
        }
        let place = position as usize % self.capacity;
        let width = V::elements(self.head_dim);
        let scale = self.scales.map_or(1.0, |scales| f64::from(scales.values[place]));
        scale * f64::from(V::get(&self.values[place * width..][..width], i))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_keeps_the_last_capacity_positions_of_each_slot_and_head() {
        for dtype in CacheDtype::ALL {
            let shape = CacheShape { dtype, slots: 2, capacity: 17, kv_heads: 2, head_dim: 3, values: true };
            let mut cache = HostCache::new(shape).unwrap();
            // 8 to 11, with signs that no two positions, heads or elements share.
            let key = |p: u32, head: u32, i: usize| {
                let mixed = (p * 6 + head * 3 + i as u32 + 1).wrapping_mul(2_654_435_761);
                f64::from(8 + p % 4) * if mixed >> 31 == 0 { 1.0 } else { -1.0 }
            };
            for p in 0..40 {
                let k: Vec<f32> = (0..6).map(|n| key(p, n / 3, n as usize % 3) as f32).collect();
                let v: Vec<f32> = k.iter().map(|x| -x).collect();
                let span = Span { slot: 1, start: p, len: 1 };
                cache.store(&k, &v, &[span]);
            }
            let read = |slot, p, head, i| match cache.head(slot, head) {
                HeadCache::F32(h) => (h.key(p, i), h.value(p, i)),
                HeadCache::F16(h) => (h.key(p, i), h.value(p, i)),
                HeadCache::Int8(h) => (h.key(p, i), h.value(p, i)),
                HeadCache::Int8Int4(h) => (h.key(p, i), h.value(p, i)),
                HeadCache::Int4(h) => (h.key(p, i), h.value(p, i)),
            };
            // Half a step of 8 bits, and the scale's own rounding 127 times over; half of the widest step of 4 bits and
            // of one of 8, where the largest number of three reaches 2.7326 times their root mean square.
            let eight = 0.5 / 127.0 + 1e-6;
            let four = 2.7326 * (15.5 / 127.0 + eight);
            let (key_error, value_error) = match dtype {
                CacheDtype::F32 | CacheDtype::F16 => (0.0, 0.0),
                CacheDtype::Int8 => (eight, eight),
                CacheDtype::Int8Int4 => (eight, four),
                CacheDtype::Int4 => (four, four),
            };
            for (p, head, i) in (8..40).flat_map(|p| (0..6).map(move |n| (p, n / 3, n as usize % 3))) {
                let (k, v) = read(1, p, head, i);
                assert!((k - key(p, head, i)).abs() <= key_error * 11.0, "{dtype} {p} {head} {i}: {k}");
                assert!((v + key(p, head, i)).abs() <= value_error * 11.0, "{dtype} {p} {head} {i}: {v}");
                assert_eq!(read(0, p, head, i), (0.0, 0.0), "another slot was touched");
            }
        }
    }

    #[test]
    fn whole_pages_are_inside_the_memory() {
        let cases = [
            (0, 0, 0..0),
            (0, HUGE_PAGE - 1, 0..0),
            (0, HUGE_PAGE, 0..HUGE_PAGE),
            (HUGE_PAGE + 16, 2 * HUGE_PAGE - 17, HUGE_PAGE - 16..HUGE_PAGE - 16),
            (HUGE_PAGE + 16, 2 * HUGE_PAGE - 16, HUGE_PAGE - 16..2 * HUGE_PAGE - 16),
            (16, 8, HUGE_PAGE - 16..HUGE_PAGE - 16),
        ];
        for (address, bytes, expected) in cases {
            assert_eq!(whole_pages(address, bytes), expected, "{bytes} at {address}");
        }
    }

    #[test]
    fn a_cache_that_cannot_be_is_an_error() {
        let shape = CacheShape {
            dtype: CacheDtype::F32,
            slots: u32::MAX,
            capacity: u32::MAX,
            kv_heads: 4096,
            head_dim: 4096,
            values: true,
        };
        assert!(matches!(HostCache::new(shape), Err(BackendError::OutOfMemory { .. })));
    }
}
