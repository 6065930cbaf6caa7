//! The plan against its own definition, against budgets and against hostile numbers.

mod support;

use muse_format::{Attention, Experts, Layout, Mixer, Spec};
use muse_kernels::CacheDtype;
use muse_runtime::{
    BackendChoice, CONTEXT_DEFAULT, LoadError, LoadOptions, Mapped, PROPOSED_MAX, Placement, Plan,
    WeightBytes, plan,
};
use support::{everything, latent, mixture, plain, shared, sparse, write};

fn options(slots: u32, batch_tokens: u32) -> LoadOptions {
    LoadOptions { slots, batch_tokens, ..LoadOptions::default() }
}

fn planned(spec: &Spec, options: &LoadOptions) -> Result<Plan, LoadError> {
    Plan::new(spec, 1000, [Layout::Q4 { group: 32 }], options)
}

#[test]
fn bytes_are_those_of_the_shapes() {
    let plan = planned(&plain(), &options(2, 8)).unwrap();
    // x, y: 40 each; q and what attention gives: 40 each; k, v: 20 each; gate, up: 52 each; a row of logits for each of a batch.
    let buffers = 4 * (8 * (2 * 40 + 2 * 40 + 2 * 20 + 2 * 52) + 8 * 70);
    // Two layers, 2 slots of 96 positions, keys and values of 2 x 10 f16.
    let cache = 2 * 2 * 96 * 2 * 20 * 2;
    // 8 rows of 52: two groups of 32 quants, two f32 and an i32.
    // And 32 partial sums as wide as the widest input.
    let scratch = 8 * 2 * 44 + 32 * 52 * 4;
    assert_eq!(plan.working_bytes, buffers + cache + scratch);
    assert_eq!(plan.items.iter().map(|item| item.bytes).sum::<u64>(), 1000 + buffers + cache + scratch);
    let reference = LoadOptions { backend: BackendChoice::Reference, ..options(2, 8) };
    assert_eq!(planned(&plain(), &reference).unwrap().working_bytes, buffers + cache);
}

#[test]
fn experts_and_vectors_of_layers_are_planned_and_shared_keys_are_not() {
    let reference = LoadOptions { backend: BackendChoice::Reference, ..options(2, 8) };
    let items = |spec: &Spec, what: &str| {
        let plan = planned(spec, &reference).unwrap();
        let matching: Vec<_> = plan.items.iter().filter(|item| item.shape.starts_with(what)).collect();
        matching.iter().map(|item| item.bytes).sum::<u64>()
    };
    // 7 experts at most, and what they give, 40 wide.
    assert_eq!((items(&mixture(), "scores"), items(&mixture(), "routed")), (4 * 8 * 7, 4 * 8 * 40));
    assert_eq!((items(&plain(), "scores"), items(&plain(), "routed")), (0, 0));
    // Four layers' vectors, twice; caches of the two layers that have their own.
    let vectors = 4 * 8 * 4 * 34;
    assert_eq!((items(&shared(), "extra"), items(&shared(), "projected")), (vectors, vectors));
    let plan = planned(&shared(), &reference).unwrap();
    let slots: Vec<_> = plan.caches.iter().map(|cache| cache.slots).collect();
    assert_eq!(slots, [2, 2, 0, 0]);
    let cache: u64 = plan.items.iter().filter(|i| i.what == "cache").map(|i| i.bytes).sum();
    // 96 positions of 2 heads of 10, and a ring of 16 of 3 heads of 8, in f16.
    assert_eq!(cache, 2 * 2 * 2 * (96 * 20 + 16 * 24));
    let cpu = planned(&mixture(), &options(2, 8)).unwrap();
    let scratch =
        cpu.items.iter().find(|item| item.shape.starts_with("experts")).expect("scratch of experts");
    // A choice is 16 bytes and 4 of its place, three a row; 8 starts; gathered rows; hidden values of 8 rows and of 2
    // more experts of one row, 36 wide twice, 40 wide once.
    assert_eq!(scratch.bytes, 8 * 3 * 20 + 4 * 8 + 4 * 8 * 40 + (8 + 2) * 4 * (2 * 36 + 40));
}

#[test]
fn a_window_keeps_a_ring_and_the_cache_is_exact_for_exact_files() {
    let spec = everything();
    let plan = Plan::new(&spec, 0, [Layout::F32, Layout::F32], &options(1, 4)).unwrap();
    let kept: Vec<_> = plan.caches.iter().map(|c| (c.capacity, c.dtype)).collect();
    assert_eq!(kept, [(96, CacheDtype::F32), (16, CacheDtype::F32), (16, CacheDtype::F32)]);
    let mixed = Plan::new(&spec, 0, [Layout::F32, Layout::Q8 { group: 32 }], &options(1, 4)).unwrap();
    assert!(mixed.caches.iter().all(|c| c.dtype == CacheDtype::F16));
    for dtype in CacheDtype::ALL {
        let asked = LoadOptions { cache: Some(dtype), ..options(1, 4) };
        assert!(planned(&spec, &asked).unwrap().caches.iter().all(|c| c.dtype == dtype));
    }
}

#[test]
fn fewer_bits_take_their_bytes_and_a_scale_a_row() {
    let bytes = |dtype, what| {
        let plan = planned(&plain(), &LoadOptions { cache: Some(dtype), ..options(2, 8) }).unwrap();
        plan.items.iter().filter(|item| item.what == what).map(|item| item.bytes).sum::<u64>()
    };
    // Two layers, 2 slots of 96 positions, 2 heads of 10 numbers; 4-bit values of a head take 16 bytes a 32 of them.
    let heads = 2 * 2 * 96 * 2;
    let sizes = [80, 40, 14 + 14, 14 + 20, 9 + 20].map(|bytes| heads * bytes);
    assert_eq!(CacheDtype::ALL.map(|dtype| bytes(dtype, "cache")), sizes);
    // Room for 8 rows of rotated queries of the widest input, where keys are rotated.
    let scratch = CacheDtype::ALL.map(|dtype| bytes(dtype, "scratch"));
    assert_eq!(scratch[..4], [scratch[0]; 4]);
    assert!(scratch[4] > scratch[0] && (scratch[4] - scratch[0]).is_multiple_of(8 * 4), "{scratch:?}");
}

#[test]
fn the_default_context_is_the_models_own_up_to_a_bound() {
    let mut spec = plain();
    assert_eq!(planned(&spec, &options(1, 8)).unwrap().context, 96);
    spec.context = 1 << 20;
    assert_eq!(planned(&spec, &options(1, 8)).unwrap().context, CONTEXT_DEFAULT);
    let longer = LoadOptions { context: Some(10_000), ..options(1, 8) };
    assert_eq!(planned(&spec, &longer).unwrap().context, 10_000);
}

#[test]
fn a_step_has_room_for_a_row_of_every_slot() {
    let plan = planned(&plain(), &options(32, 8)).unwrap();
    assert_eq!((plan.batch_tokens, plan.logit_rows), (32, 32));
    let plan = planned(&plain(), &options(3, 64)).unwrap();
    assert_eq!(plan.logit_rows, 3 + PROPOSED_MAX);
    let plan = planned(&plain(), &LoadOptions { logit_rows: Some(3), ..options(3, 64) }).unwrap();
    assert_eq!(plan.logit_rows, 3, "no speculation");
    let plan = planned(&plain(), &LoadOptions { logit_rows: Some(9999), ..options(2, 8) }).unwrap();
    assert_eq!((plan.batch_tokens, plan.logit_rows), (8, 8));
}

#[test]
fn options_out_of_bounds_are_refused_with_the_bound() {
    let with = |context, slots, batch_tokens| LoadOptions { context, ..options(slots, batch_tokens) };
    let cases = [
        (with(Some(97), 1, 8), "context", 97, 96),
        (with(Some(0), 1, 8), "context", 0, 96),
        (with(Some(u32::MAX), 1, 8), "context", u64::from(u32::MAX), 96),
        (with(None, 0, 8), "slots", 0, 1024),
        (with(None, 1025, 8), "slots", 1025, 1024),
        (with(None, 1, 0), "batch_tokens", 0, 65536),
        (with(None, 1, 65537), "batch_tokens", 65537, 65536),
    ];
    for (options, option, wrong, bound) in cases {
        let error = planned(&plain(), &options).unwrap_err();
        let LoadError::Option { name, value, max, .. } = error else { panic!("{options:?}: {error}") };
        assert_eq!((name, value, max), (option, wrong, bound));
    }
}

#[test]
fn a_budget_is_kept_to_the_byte_and_the_remedy_is_true() {
    let spec = plain();
    let with = |budget, context| LoadOptions { memory_budget: Some(budget), context, ..options(2, 8) };
    let total = 1000 + planned(&spec, &options(2, 8)).unwrap().working_bytes;
    assert!(planned(&spec, &with(total, None)).is_ok());
    for budget in [total - 1, total - 5000] {
        let LoadError::Budget(over) = planned(&spec, &with(budget, None)).unwrap_err() else { panic!() };
        assert_eq!(over.weight_bytes + over.cache_bytes + over.buffer_bytes, total);
        let fits = over.context_that_fits.expect("a shorter context fits");
        assert!(planned(&spec, &with(budget, Some(fits))).is_ok());
        assert!(planned(&spec, &with(budget, Some(fits + 1))).is_err());
        assert!(over.to_string().contains(&format!("a context of {fits} fits")), "{over}");
    }
    let LoadError::Budget(over) = planned(&spec, &with(500, None)).unwrap_err() else { panic!() };
    assert_eq!(over.context_that_fits, None);
    assert!(over.to_string().contains("fewer bits"), "{over}");
}

/// What [`mixture`] takes in 4 bits: tensors of layers, and of their experts.
fn weights_of_mixture() -> WeightBytes {
    let file = write(&mixture(), Layout::Q4 { group: 32 }, 1);
    let mapped = Mapped::open(&file.path).unwrap();
    let weights = WeightBytes::new(&mapped.spec, |name| mapped.stored(name).unwrap().1);
    assert_eq!(weights.all, mapped.weight_bytes());
    weights
}

#[test]
fn experts_stay_in_the_file_where_they_do_not_fit() {
    let weights = weights_of_mixture();
    // A tile of 16 rows is 16 * (16 + 2) bytes a group of 32. 7 experts of 20 x 40 twice and 40 x 20; 5 of 36 x 40 twice
    // and 40 x 36: 2 and 3 tiles of 2 groups, 3 tiles of 1 group; 3 tiles of 2 groups, thrice.
    let (first, second) = (288 * (2 * 2 * 2 + 3), 288 * 3 * 3 * 2);
    assert_eq!((weights.experts, weights.chosen), (7 * first + 5 * second, (3 * first).max(2 * second)));
    let plan = |budget: u64, expert_memory: Option<u64>| {
        let options = LoadOptions { memory_budget: Some(budget), expert_memory, ..options(2, 8) };
        Plan::new(&mixture(), weights, [Layout::Q4 { group: 32 }], &options)
    };
    let whole = plan(u64::MAX, None).unwrap();
    assert_eq!((whole.experts_on_flash, whole.weight_bytes), (None, weights.all));
    let total = whole.weight_bytes + whole.working_bytes;
    assert_eq!(plan(total, None).unwrap().experts_on_flash, None);

    // Where each of 12 experts' three matrices lie, and for 7 of them 8 scores and a mark.
    let beside = 12 * 3 * 16 + 7 * (4 * 8 + 1);
    let least = total - weights.experts + weights.chosen + beside;
    for budget in [least, least + 1000, total - 1] {
        let plan = plan(budget, None).unwrap();
        let on_flash = plan.experts_on_flash.expect("not all fit");
        let left = budget - (least - weights.chosen);
        assert_eq!((on_flash.file_bytes, on_flash.hot_bytes, on_flash.short), (weights.experts, left, true));
        assert_eq!(
            (plan.weight_bytes + plan.working_bytes, plan.working_bytes),
            (budget, whole.working_bytes + beside)
        );
        let line = |what: &str| plan.items.iter().find(|item| item.what == what).map(|item| item.bytes);
        assert_eq!((line("weights"), line("experts")), (Some(weights.resident()), Some(left)));
    }
    let LoadError::Budget(over) = plan(least - 1, Some(1)).unwrap_err() else { panic!() };
    assert_eq!(over.weight_bytes + over.cache_bytes + over.buffer_bytes, least);
    assert!(over.context_that_fits.is_some(), "{over}");

    // By option, with room for all; never less than one token and layer need.
    for (asked, hot) in [(1, weights.chosen), (weights.chosen + 7, weights.chosen + 7)] {
        let on_flash = plan(u64::MAX, Some(asked)).unwrap().experts_on_flash.expect("no room for all");
        assert_eq!((on_flash.hot_bytes, on_flash.short), (hot, false));
    }
    assert_eq!(plan(u64::MAX, Some(weights.experts)).unwrap().experts_on_flash, None);

    // What copies the weights, or takes them to a device, needs them all.
    let copied = LoadOptions { weights: Placement::Copied, ..options(2, 8) };
    let cuda = LoadOptions { backend: BackendChoice::Cuda, ..options(2, 8) };
    for options in [copied, cuda] {
        let options = LoadOptions { memory_budget: Some(weights.all), expert_memory: Some(1), ..options };
        let refused = Plan::new(&mixture(), weights, [Layout::Q4 { group: 32 }], &options);
        assert!(matches!(refused, Err(LoadError::Budget(over)) if over.weight_bytes == weights.all));
    }
}

#[test]
fn the_largest_numbers_that_a_spec_may_hold_are_refused_without_overflow() {
    let mut spec = plain();
    (spec.dim, spec.vocab, spec.context) = (1 << 20, 1 << 24, 1 << 27);
    let layer = &mut spec.layers[0];
    let most = Experts { choice_bias: true, normalise: true, ..Experts::new(300, 300, 1 << 20) };
    layer.experts = Some(most);
    layer.ffn.as_mut().unwrap().dim = 1 << 20;
    layer.mixer = Mixer::Attention(Attention::new(4096, 4096, 4096));
    for window in [None, Some(1 << 27)] {
        layer_window(&mut spec, window);
        spec.layers = vec![spec.layers[0].clone(); 1024];
        spec.validate().expect("these are the format's own bounds");
        let most = LoadOptions { context: Some(1 << 27), slots: 1024, ..options(1024, 1 << 16) };
        let unlimited = LoadOptions { memory_budget: Some(u64::MAX), ..most.clone() };
        for options in [most, unlimited] {
            let error = Plan::new(&spec, u64::MAX, [], &options).unwrap_err();
            assert!(matches!(error, LoadError::Budget(_)), "{error}");
            assert!(error.to_string().contains("MiB"), "{error}");
        }
    }
}

fn layer_window(spec: &mut Spec, window: Option<u32>) {
    spec.layers[0].attention_mut().unwrap().window = window;
}

#[test]
fn the_table_is_for_people_and_for_programs() {
    let file = write(&everything(), Layout::Q4 { group: 32 }, 1);
    let plan = plan(&Mapped::open(&file.path).unwrap(), &options(2, 4)).unwrap();
    let table = plan.to_string();
    let caches: Vec<_> = table.lines().filter(|line| line.starts_with("cache")).collect();
    assert_eq!(caches.len(), 2, "{table}");
    assert!(caches[1].ends_with("2 ring layers: 2 slots x 16 positions x 2 x 3 heads x 8 f16"), "{table}");
    let json = serde_json::to_value(&plan).unwrap();
    let items = json["items"].as_array().unwrap();
    let sum: u64 = items.iter().map(|item| item["bytes"].as_u64().unwrap()).sum();
    assert_eq!(sum, plan.weight_bytes + plan.working_bytes);
    assert_eq!(json["context"], 96);
}

#[test]
fn what_positions_keep_in_place_of_heads_is_planned() {
    let reference = LoadOptions { backend: BackendChoice::Reference, ..options(2, 8) };
    let cache = |spec: &Spec| -> u64 {
        let plan = planned(spec, &reference).unwrap();
        plan.items.iter().filter(|item| item.what == "cache").map(|item| item.bytes).sum()
    };
    // 2 slots of 96 positions in f16: 37 + 10 and 16 + 10 numbers, and 2 heads of 10, each twice.
    assert_eq!(cache(&latent()), 2 * 96 * 2 * 2 * (47 + 26 + 20));
    // Three layers of 47, and keys alone of 12 and of 33.
    assert_eq!(cache(&sparse()), 2 * 96 * 2 * (3 * 2 * 47 + 12 + 33));
    let plan = planned(&sparse(), &options(2, 8)).unwrap();
    let bytes = |what: &str| {
        plan.items.iter().find(|item| item.shape.starts_with(what)).unwrap_or_else(|| panic!("{what}")).bytes
    };
    // Rows of 8: 3 heads of 47, of 10 and of 18; 3 and 12 scored by, of which up to 12 positions come.
    assert_eq!([bytes("q:"), bytes("rotated q"), bytes("chosen")], [3 * 47, 3 * 10, 12].map(|n| 4 * 8 * n));
    assert_eq!([bytes("index q"), bytes("index weights")], [2 * 33, 3].map(|n| 4 * 8 * n));
    // 3 heads' inputs of 37 numbers for 16 rows, f32, and two groups of 32 quants and three numbers.
    assert_eq!(bytes("inputs of heads"), 3 * 16 * (4 * 37 + 2 * 44));
    // 96 positions are a block of 128.
    assert_eq!(bytes("scores of 96 positions"), 4 * (128 + 96));
}

#[test]
fn a_cache_that_cannot_hold_latents_is_refused_by_name() {
    for dtype in CacheDtype::ALL {
        let planned = planned(&latent(), &LoadOptions { cache: Some(dtype), ..options(2, 8) });
        match dtype {
            CacheDtype::F32 | CacheDtype::F16 | CacheDtype::Int8 => assert!(planned.is_ok(), "{dtype}"),
            CacheDtype::Int8Int4 | CacheDtype::Int4 => {
                let error = planned.unwrap_err().to_string();
                assert!(error.contains(&format!("a cache of {dtype}")) && error.contains("int8"), "{error}");
            }
        }
    }
}
