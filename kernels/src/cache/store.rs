//! Rows of a batch on their way into a cache, tile by tile. Every head can be written by a thread of its own, its keys and
//! its values by two.

use super::number::{Number, put};
use super::{Rows, TILE_POSITIONS};
use crate::output::Output;
use crate::{CacheShape, Span};

/// The keys or the values of a layer, and the rows that go there.
struct Side<'a, N> {
    numbers: Output<'a, N>,
    /// Empty for numbers that are not scaled.
    scales: Output<'a, f32>,
    /// `(tokens, kv_heads * head_dim)`
    x: &'a [f32],
}

impl<K: Number, V: Number> Rows<K, V> {
    /// See [`HostCache::store_by`](super::HostCache::store_by).
    ///
    /// # Safety
    /// Its own.
    pub(super) unsafe fn store_by(
        &mut self,
        shape: &CacheShape,
        k: &[f32],
        v: &[f32],
        spans: &[Span],
        share: impl FnOnce(usize, &(dyn Fn(usize) + Sync)),
    ) {
        let heads = shape.kv_heads as usize;
        let sides = if shape.values { 2 } else { 1 };
        let keys = Side::new(&mut self.keys, &mut self.key_scales, k);
        let values = Side::new(&mut self.values, &mut self.value_scales, v);
        share(sides * heads, &|unit| {
            // SAFETY: every unit comes once, by this function's contract, and writes a head of one side that is no
            // other's.
            unsafe {
                match unit.checked_sub(heads) {
                    None => keys.write::<TILE_POSITIONS>(shape, spans, unit),
                    Some(head) => values.write::<1>(shape, spans, head),
                }
            }
        });
    }
}

impl<'a, N: Number> Side<'a, N> {
    fn new(numbers: &'a mut [N], scales: &'a mut [f32], x: &'a [f32]) -> Self {
        Self { numbers: Output::new(numbers), scales: Output::new(scales), x }
    }

    /// Writes one head of every row, to runs of `TILE` positions. Of a span that is longer than the capacity, which would
    /// replace its own rows, the last are written.
    ///
    /// # Safety
    /// Nothing else writes this head at that time.
    unsafe fn write<const TILE: usize>(&self, shape: &CacheShape, spans: &[Span], head: usize) {
        let (heads, len) = (shape.kv_heads as usize, shape.head_dim as usize);
        let (capacity, run) = (shape.capacity as usize, N::elements(len * TILE));
        let mut before = 0;
        for span in spans {
            let first = span.slot as usize * heads + head;
            let mut row = span.len.saturating_sub(shape.capacity) as usize;
            while row < span.len as usize {
                let place = (span.start as usize + row) % capacity;
                let rows = (TILE - place % TILE).min(span.len as usize - row);
                // SAFETY: runs of this head, which nothing else writes by this function's contract.
                let numbers = unsafe { self.numbers.slice((first * capacity + place) / TILE * run, run) };
                let scales = if N::SCALED {
                    // SAFETY: as above.
                    unsafe { self.scales.slice(first * capacity + place, rows) }
                } else {
                    &mut []
                };
                let x = &self.x[((before + row) * heads + head) * len..];
                put::<TILE, N>(numbers, place % TILE, (x, heads * len, len), scales, rows);
                row += rows;
            }
            before += span.len as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cache::rows;
    use crate::test_data::Random;
    use crate::{CacheDtype, CacheShape, HostCache, Span};

    /// Against the same rows one by one, of which `a_ring_keeps_the_last_capacity_positions` says where they are to be.
    #[test]
    fn a_batch_is_stored_as_its_rows_are_in_any_order_of_the_heads() {
        let span = |slot, start, len| Span { slot, start, len };
        let batches = [
            vec![span(1, 0, 1)],
            vec![span(1, 5, 20), span(0, 30, 9), span(1, 25, 7)],
            vec![span(2, 11, 130), span(0, 3, 16)],
            vec![span(0, 0, 48), span(2, 47, 2)],
        ];
        for (dtype, head_dim, values) in CacheDtype::ALL
            .into_iter()
            .flat_map(|dtype| [3, 64, 300].map(|head_dim| (dtype, head_dim, head_dim != 3)))
        {
            let shape = CacheShape { dtype, slots: 3, capacity: 48, kv_heads: 2, head_dim, values };
            let [mut batch, mut single] = [(); 2].map(|()| HostCache::new(shape).unwrap());
            let width = 2 * head_dim as usize;
            for (at, spans) in batches.iter().enumerate() {
                let mut random = Random::new(at as u64);
                let count: usize = spans.iter().map(|span| span.len as usize).sum();
                let [k, v] = [(); 2].map(|()| random.normal(count * width));
                // SAFETY: a loop calls each number once.
                unsafe { batch.store_by(&k, &v, spans, |count, run| (0..count).rev().for_each(run)) };
                let pairs = k.chunks_exact(width).zip(v.chunks_exact(width));
                for ((k, v), (slot, start)) in pairs.zip(rows(spans)) {
                    single.store(k, v, &[span(slot, start, 1)]);
                }
                let [batch, single] = [&batch, &single].map(|cache| format!("{cache:?}"));
                assert!(batch == single, "batch {at}, {dtype:?}, heads of {head_dim}");
            }
        }
    }
}
