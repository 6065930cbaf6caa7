//! Prompts on the NPU, by the library of `examples/rknnrt.rs`, which multiplies what an NPU would: its integers are exact, so
//! what is tested is what a board computes.

mod fake_npu;
#[path = "../src/test_data.rs"]
mod test_data;

use std::sync::Arc;

use fake_npu::library;
use half::f16;
use muse_format::{BlockMut, Layout};
use muse_kernels::{Backend, CpuBackend, Linear, Npu, PromptRows, ReferenceBackend, Span, Tensor};
use test_data::{Random, quantized_bytes};

fn npu() -> Npu {
    Npu::open_at(library().as_os_str()).unwrap()
}

fn packed(layout: Layout, rows: usize, cols: usize, random: &mut Random) -> Tensor {
    let bytes = quantized_bytes(layout, rows, cols, random);
    let len = bytes.len();
    Tensor::new(layout, rows, cols, Arc::new(bytes), 0..len).unwrap()
}

/// `(rows, cols)`
fn dequantized(weight: &Tensor) -> Vec<f32> {
    let mut table = vec![0.0; weight.rows() * weight.cols()];
    let rows: Vec<u32> = (0..weight.rows() as u32).collect();
    ReferenceBackend::new().embed(&mut table, weight, &rows, 1.0).unwrap();
    table
}

/// The largest step that a row of [`quantized_bytes`] may have: its largest magnitude over 127.
fn step(layout: Layout) -> f64 {
    let largest = match layout {
        Layout::Q8 { .. } => 128.0 * 0.1,
        Layout::Q4 { .. } => 8.0 * 0.1,
        Layout::Q4Codebook { .. } => 127.0 * 100.0 / 16_000.0,
        _ => 15.0 * 0.1 + 100.0 / 300.0,
    };
    largest / 127.0
}

/// The variance of what rounding does to each output: an error is anywhere within half a step, of weights with another
/// quarter for the factors that are rounded too, and each for itself.
fn variances(weight: &Tensor, x: &[f32], tokens: usize) -> Vec<f64> {
    let (rows, cols) = (weight.rows(), weight.cols());
    let (table, of_weight) = (dequantized(weight), (1.5 * step(weight.layout())).powi(2) / 12.0);
    let mut variances = Vec::with_capacity(tokens * rows);
    for x in x.chunks_exact(cols).take(tokens) {
        let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let squares: f64 = x.iter().map(|x| f64::from(x * x)).sum();
        let mut of_row = (f64::from(largest) / 127.0).powi(2) / 12.0;
        // Rows with numbers far above the others have 254 times as many steps.
        if f64::from(largest) > 8.0 * (squares / cols as f64).sqrt() {
            of_row /= 254.0 * 254.0;
        }
        variances.extend(table.chunks_exact(cols).map(|row| {
            let weights: f64 = row.iter().map(|w| f64::from(w * w)).sum();
            of_row * weights + of_weight * squares
        }));
    }
    variances
}

fn layouts() -> impl Iterator<Item = Layout> {
    let of = |group| {
        [Layout::Q8 { group }, Layout::Q4 { group }, Layout::Q4Asym { group }, Layout::Q4Codebook { group }]
    };
    [32, 64, 128].into_iter().flat_map(of)
}

/// Spans of one prompt.
fn prompt(tokens: usize) -> Vec<Span> {
    vec![Span { slot: 0, start: 0, len: tokens as u32 }]
}

/// A product of `x` by `weight` of rows that stand as `spans` say.
fn product(
    backend: &mut CpuBackend,
    spans: &[Span],
    x: &Vec<f32>,
    weight: &Tensor,
    bias: &Tensor,
) -> Vec<f32> {
    let tokens = x.len() / weight.cols();
    let mut out = vec![f32::NAN; tokens * weight.rows()];
    backend.prompt_rows(PromptRows::Of(spans));
    backend.linear(x, tokens, &mut [Linear { out: &mut out, weight, bias: Some(bias) }]).unwrap();
    out
}

#[test]
fn products_differ_from_the_reference_by_what_rounding_does() {
    let mut random = Random::new(20);
    let small = [(1, 32, 32), (16, 172, 33), (33, 288, 64), (257, 32, 200), (800, 64, 40), (40, 32, 545)];
    for (threads, layout) in [1, 3].into_iter().cycle().zip(layouts()) {
        // More columns than one product takes, which is long, are the same code for every layout.
        let wide = (layout == Layout::Q4 { group: 64 }).then_some((5, 9000, 32));
        let shapes: Vec<_> = small.into_iter().chain(wide).collect();
        let mut backend = CpuBackend::new(threads).with_npu(npu());
        let weights: Vec<Tensor> =
            shapes.iter().map(|(rows, cols, _)| packed(layout, *rows, *cols, &mut random)).collect();
        weights.iter().for_each(|weight| drop(backend.load(weight.clone()).unwrap()));
        backend.reserve(545, 9000).unwrap();
        for (weight, (rows, cols, tokens)) in weights.iter().zip(shapes) {
            let case = format!("{layout} {rows} x {cols}, {tokens} tokens");
            let (mut x, bias) = (random.normal(tokens * cols), random.normal(rows));
            // A row of zeros, and rows with a number far above the rest.
            x[..cols].fill(0.0);
            for row in [3, 17, 31] {
                x[row * cols + row % cols] = 1000.0;
            }
            let bias = Tensor::from_f32(1, rows, bias);
            let actual = product(&mut backend, &prompt(tokens), &x, weight, &bias);
            let mut expected = vec![0.0; tokens * rows];
            let out = &mut expected;
            ReferenceBackend::new()
                .linear(&x, tokens, &mut [Linear { out, weight, bias: Some(&bias) }])
                .unwrap();
            // The reference rounds activations too, to 8 bits in groups of 32.
            let table = dequantized(weight);
            let exact = |at: usize| {
                let (row, x) = (&table[at % rows * cols..][..cols], &x[at / rows * cols..][..cols]);
                let sum: f64 = row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                sum + f64::from(bias.f32()[at % rows])
            };
            let mut mean = 0.0;
            for (at, variance) in variances(weight, &x, tokens).into_iter().enumerate() {
                let error = (f64::from(actual[at]) - exact(at)).abs();
                let rounding = f64::from(f32::EPSILON) * (cols as f64).sqrt() * exact(at).abs().max(1.0);
                let bound = 6.0 * variance.sqrt() + 8.0 * rounding;
                assert!(error <= bound, "{case}: {at} is {}, not {}, +-{bound}", actual[at], exact(at));
                mean += error * error / (variance + rounding * rounding) / (tokens * rows) as f64;
            }
            assert!(mean <= 1.0, "{case}: {mean} of the variance that rounding has");
            assert_eq!(actual[..rows], *bias.f32(), "{case}: a row of zeros");
        }
    }
}

#[test]
fn rows_that_are_no_prompts_are_the_cpus_to_the_bit() {
    let mut random = Random::new(21);
    let weight = packed(Layout::Q4 { group: 32 }, 100, 128, &mut random);
    let bias = Tensor::from_f32(1, 100, random.normal(100));
    let span = |slot, len| Span { slot, start: 5, len };
    let spans = [span(0, 1), span(1, 31), span(2, 40), span(3, 32), span(4, 2)];
    let x = random.normal(106 * 128);
    let mut with_npu = CpuBackend::new(2).with_npu(npu());
    with_npu.load(weight.clone()).unwrap();
    with_npu.reserve(106, 128).unwrap();
    let mut without = CpuBackend::new(2);
    without.reserve(106, 128).unwrap();
    let [actual, expected] =
        [&mut with_npu, &mut without].map(|backend| product(backend, &spans, &x, &weight, &bias));
    let rows = |all: &[f32], rows: std::ops::Range<usize>| all[rows.start * 100..rows.end * 100].to_vec();
    assert_eq!(rows(&actual, 0..32), rows(&expected, 0..32));
    assert_eq!(rows(&actual, 104..106), rows(&expected, 104..106));
    assert_ne!(rows(&actual, 32..104), rows(&expected, 32..104));
}

#[test]
fn rows_of_other_operations_are_the_cpus_unless_all_are_prompts() {
    let mut random = Random::new(26);
    let weight = packed(Layout::Q8 { group: 64 }, 50, 96, &mut random);
    let x = random.normal(70 * 96);
    let mut with_npu = CpuBackend::new(2).with_npu(npu());
    with_npu.load(weight.clone()).unwrap();
    with_npu.reserve(70, 96).unwrap();
    let mut product = |rows: PromptRows<'_>, tokens: usize| {
        let mut out = vec![0.0; tokens * 50];
        with_npu.prompt_rows(rows);
        with_npu.linear(&x, tokens, &mut [Linear { out: &mut out, weight: &weight, bias: None }]).unwrap();
        out
    };
    let (spans, mut exact) = (prompt(70), vec![0.0; 70 * 50]);
    CpuBackend::new(1)
        .linear(&x, 70, &mut [Linear { out: &mut exact, weight: &weight, bias: None }])
        .unwrap();
    let rounded = product(PromptRows::Of(&spans), 70);
    assert_ne!(rounded, exact);
    // As those of which logits are wanted.
    assert_eq!(product(PromptRows::Of(&spans), 69), exact[..69 * 50]);
    assert_eq!(product(PromptRows::None, 70), exact);
    // As an image's patches.
    assert_eq!(product(PromptRows::All, 70), rounded);
    assert_eq!(product(PromptRows::All, 31), exact[..31 * 50]);
}

#[test]
fn of_several_products_those_of_packed_weights_are_the_npus() {
    let mut random = Random::new(27);
    let weights = [
        packed(Layout::Q4 { group: 32 }, 30, 64, &mut random),
        Tensor::from_f32(7, 64, random.normal(7 * 64)),
        packed(Layout::Q8 { group: 32 }, 300, 64, &mut random),
    ];
    let x = random.normal(40 * 64);
    let run = |mut backend: CpuBackend, together: bool| {
        weights.iter().for_each(|weight| drop(backend.load(weight.clone()).unwrap()));
        backend.reserve(40, 64).unwrap();
        let spans = prompt(40);
        backend.prompt_rows(PromptRows::Of(&spans));
        let mut outs = weights.each_ref().map(|weight| vec![f32::NAN; 40 * weight.rows()]);
        let products = outs.iter_mut().zip(&weights).map(|(out, weight)| Linear { out, weight, bias: None });
        let mut products: Vec<_> = products.collect();
        if together {
            backend.linear(&x, 40, &mut products).unwrap();
        } else {
            products.chunks_mut(1).for_each(|product| backend.linear(&x, 40, product).unwrap());
        }
        drop(products);
        outs
    };
    let together = run(CpuBackend::new(2).with_npu(npu()), true);
    assert_eq!(together, run(CpuBackend::new(1).with_npu(npu()), false));
    let [q4, float, q8] = run(CpuBackend::new(1), true);
    assert_eq!(together[1], float);
    assert!(together[0] != q4 && together[2] != q8);
}

#[test]
fn float_weights_are_the_cpus() {
    let mut random = Random::new(22);
    let weight = Tensor::from_f32(20, 64, random.normal(20 * 64));
    let bias = Tensor::from_f32(1, 20, random.normal(20));
    let x = random.normal(64 * 64);
    let mut backend = CpuBackend::new(1).with_npu(npu());
    backend.load(weight.clone()).unwrap();
    backend.reserve(64, 64).unwrap();
    let expected = product(&mut CpuBackend::new(1), &prompt(64), &x, &weight, &bias);
    assert_eq!(product(&mut backend, &prompt(64), &x, &weight, &bias), expected);
}

#[test]
fn what_is_not_finite_stays_in_its_rows() {
    let mut random = Random::new(23);
    for layout in layouts().filter(|layout| layout.group() < 128) {
        let mut bytes = quantized_bytes(layout, 40, 160, &mut random);
        // Scales of the first and the second group of two rows of the first tile.
        for (group, row, scale) in [(0, 3, f32::NAN), (1, 11, f32::INFINITY)] {
            let block = &mut bytes[group * layout.block_bytes()..][..layout.block_bytes()];
            BlockMut::new(layout, block).set_scale(row, f16::from_f32(scale).to_bits());
        }
        let len = bytes.len();
        let weight = Tensor::new(layout, 40, 160, Arc::new(bytes), 0..len).unwrap();
        let bias = Tensor::from_f32(1, 40, vec![0.0; 40]);
        let mut x = random.normal(50 * 160);
        (x[5 * 160 + 7], x[9 * 160]) = (f32::NAN, f32::INFINITY);
        let mut backend = CpuBackend::new(2).with_npu(npu());
        backend.load(weight.clone()).unwrap();
        backend.reserve(50, 160).unwrap();
        let out = product(&mut backend, &prompt(50), &x, &weight, &bias);
        for (at, out) in out.iter().enumerate() {
            let (row, output) = (at / 40, at % 40);
            assert_eq!(
                out.is_finite(),
                !matches!(row, 5 | 9) && !matches!(output, 3 | 11),
                "{layout} {row}, {output}: {out}"
            );
        }
    }
}

#[test]
fn a_library_that_is_not_there_or_another_is_an_error() {
    let of = |path: &str| Npu::open_at(path.as_ref()).err().unwrap().to_string();
    let missing = of("librknnrt-of-no-board.so");
    assert!(missing.starts_with("librknnrt.so cannot be opened (librknnrt-of-no-board.so: "), "{missing}");
    let another = of("libc.so.6");
    assert!(another.starts_with("librknnrt.so is too old ("), "{another}");
    assert!(another.contains("rknn_matmul_create"), "{another}");
}
