//! A plan's lines, one for each kind of thing that is allocated.

use muse_format::Spec;
use muse_kernels::{CacheShape, DeltaShape, ExpertsShape, HeadsShape};

use super::drafter::{DrafterFile, DrafterPlan};
use super::experts::{ExpertsOnFlash, WeightBytes, weight_items};
use super::mixers::heads_shape;
use super::sizes::{
    BufferLens, Dims, audio_plan, buffer_lens, cache_shapes, delta_shape, graphs_bytes, index_capacity,
    index_shape, mixture_shape, pooled_bytes, pooled_dim, product_rows, scratch_bytes, vision_plan,
    weights_lie, widest_input,
};
use super::{Item, Plan};
use crate::audio::AudioPlan;
use crate::flash::Flash;
use crate::vision::VisionPlan;

impl Plan {
    pub(super) fn table(
        spec: &Spec,
        weights: WeightBytes,
        experts_on_flash: Option<ExpertsOnFlash>,
        drafter: Option<DrafterFile<'_>>,
        budget_bytes: u64,
        d: Dims,
    ) -> Self {
        let caches: Vec<_> = cache_shapes(spec, d).collect();
        let index_caches: Vec<_> = spec.layers.iter().map(|layer| index_shape(layer, d)).collect();
        let delta_states: Vec<_> = spec.layers.iter().map(|layer| delta_shape(layer, d)).collect();
        let buffers = buffer_lens(spec, d);
        let place = weights_lie(d);
        let mut items = weight_items(weights, experts_on_flash, place);
        if let Some(DrafterFile { weight_bytes: bytes, .. }) = drafter {
            items[0].bytes -= bytes;
            items.push(Item { what: "weights", shape: format!("drafter, {place}"), bytes });
        }
        let weight_bytes = items.iter().map(|item| item.bytes).sum();
        let weight_lines = items.len();
        if experts_on_flash.is_some() {
            let (shape, bytes) = ("where experts lie".into(), Flash::bytes(spec, d.batch_tokens));
            items.push(Item { what: "scratch", shape, bytes });
        }
        let rows = u64::from(d.batch_tokens);
        items.extend(buffers.rows().into_iter().filter(|(_, len)| *len > 0).map(|(name, len)| Item {
            what: "activations",
            shape: format!("{name}: {rows} tokens x {} f32", len / rows),
            bytes: 4 * len,
        }));
        items.extend(scratch_items(spec, d));
        items.extend(output_items(spec, d, &buffers));
        items.extend(cache_items(&caches, d.context));
        items.extend(index_items(&index_caches));
        items.extend(delta_items(&delta_states));
        let vision = vision_plan(spec, d);
        items.extend(vision.iter().flat_map(VisionPlan::items));
        let audio = audio_plan(spec, d);
        items.extend(audio.iter().flat_map(AudioPlan::items));
        let drafter = drafter.map(|drafter| DrafterPlan::new(drafter.spec, spec, d));
        items.extend(drafter.iter().flat_map(|drafter| drafter.items(d)));
        Self {
            context: d.context,
            slots: d.slots,
            batch_tokens: d.batch_tokens,
            logit_rows: d.logit_rows,
            weight_bytes,
            working_bytes: items[weight_lines..].iter().map(|item| item.bytes).sum(),
            budget_bytes,
            experts_on_flash,
            items,
            buffers,
            input_width: widest_input(spec, d) as usize,
            product_rows: product_rows(spec, d),
            vision,
            audio,
            drafter,
            experts: mixture_shape(spec, d),
            heads: heads_shape(spec, d.products),
            pooled: d.slots as usize * pooled_dim(spec) as usize,
            caches,
            index_caches,
            delta_states,
        }
    }
}

/// What operations lay aside, and what is left to a driver.
fn scratch_items(spec: &Spec, d: Dims) -> Vec<Item> {
    let [quantized, partial, experts, heads, ranking, _] = scratch_bytes(spec, d);
    let scratch = |shape, bytes| Item { what: "scratch", shape, bytes };
    let (rows, cols) = (product_rows(spec, d), widest_input(spec, d));
    let mut items = vec![
        scratch(format!("quantized activations: {rows} tokens x {cols} q8"), quantized),
        scratch("partial sums of attention, f32".into(), partial),
    ];
    if let Some(ExpertsShape { count, used, .. }) = mixture_shape(spec, d) {
        let shape = format!("experts: {} tokens, {used} of {count} each, f32", d.batch_tokens);
        items.push(scratch(shape, experts));
    }
    if let Some(HeadsShape { heads: count, cols }) = heads_shape(spec, d.products) {
        items.push(scratch(format!("inputs of heads: {count} x {cols}, f32 and q8"), heads));
    }
    if let Some(positions) = index_capacity(spec, d) {
        items.push(scratch(format!("scores of {positions} positions and their order"), ranking));
    }
    if d.npu > 0 {
        let shape = "rows, tiles of weights and their products, 8 and 32 bits".into();
        items.push(Item { what: "npu", shape, bytes: d.npu });
    }
    let graphs = graphs_bytes(spec, d);
    if graphs > 0 {
        let shape = "left to the driver for graphs of steps".into();
        items.push(Item { what: "graphs", shape, bytes: graphs });
    }
    items
}

/// What steps give: logits, the best of them, and the vectors of texts.
fn output_items(spec: &Spec, d: Dims, buffers: &BufferLens) -> Vec<Item> {
    let [.., best] = scratch_bytes(spec, d);
    let mut items = Vec::new();
    if buffers.logits > 0 {
        let shape = format!("{} rows x {} f32", d.logit_rows, spec.vocab);
        items.push(Item { what: "logits", shape, bytes: 4 * buffers.logits });
    }
    if buffers.best > 0 {
        let shape = format!("the best of {} rows of logits, and of their parts", d.logit_rows);
        items.push(Item { what: "scratch", shape, bytes: 4 * buffers.best + best });
    }
    if spec.embedding.is_some() {
        let shape = format!("pooled: {} texts x 2 x {} f32", d.slots, pooled_dim(spec));
        items.push(Item { what: "activations", shape, bytes: pooled_bytes(spec, d) });
    }
    items
}

/// Equal shapes and how many of each there are, in the order of their first.
fn groups<S: Copy + PartialEq>(shapes: impl Iterator<Item = S>) -> Vec<(S, u64)> {
    let mut groups: Vec<(S, u64)> = Vec::new();
    for shape in shapes {
        match groups.iter_mut().find(|(other, _)| *other == shape) {
            Some((_, layers)) => *layers += 1,
            None => groups.push((shape, 1)),
        }
    }
    groups
}

/// One item for each group of layers whose caches are alike.
pub(super) fn cache_items(caches: &[CacheShape], context: u32) -> Vec<Item> {
    let item = |(s, layers): &(CacheShape, u64)| {
        let kind = if s.capacity < context { "ring" } else { "full" };
        let shape = format!(
            "{layers} {kind} layers: {} slots x {} positions x 2 x {} heads x {} {}",
            s.slots, s.capacity, s.kv_heads, s.head_dim, s.dtype
        );
        Item { what: "cache", shape, bytes: layers * s.byte_len() }
    };
    groups(caches.iter().copied().filter(|shape| shape.slots > 0)).iter().map(item).collect()
}

/// One item for each group of layers whose keys of positions are alike.
fn index_items(caches: &[Option<CacheShape>]) -> Vec<Item> {
    let item = |(s, layers): &(CacheShape, u64)| {
        let shape = format!(
            "{layers} layers' index: {} slots x {} positions x {} {}",
            s.slots, s.capacity, s.head_dim, s.dtype
        );
        Item { what: "cache", shape, bytes: layers * s.byte_len() }
    };
    groups(caches.iter().flatten().copied()).iter().map(item).collect()
}

/// One item for each group of layers whose recurrent states are alike.
fn delta_items(states: &[Option<DeltaShape>]) -> Vec<Item> {
    let item = |(s, layers): &(DeltaShape, u64)| {
        let shape = format!(
            "{layers} recurrent layers: 2 x {} slots x {} heads x {} x {} f32, and {} rows to take back",
            s.slots, s.value_heads, s.key_dim, s.value_dim, s.undo
        );
        Item { what: "state", shape, bytes: layers * s.byte_len() }
    };
    groups(states.iter().flatten().copied()).iter().map(item).collect()
}
