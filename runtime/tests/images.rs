//! Images in the place of tokens, whatever the backend, the layout and the sizes of steps.

mod support;

use muse_format::{Layout, Spec, Vision};
use muse_runtime::{
    BackendChoice, Engine, Image, ImageError, LoadOptions, Mapped, Medium, eval, load_mapped, plan,
};
use support::perceived::{engine_of, logits, perceive_the_same};
use support::{
    Rng, byte_text, difference, plain, seeing, seeing_jointly, seeing_jointly_everywhere,
    seeing_with_a_class, write,
};

/// 3, 1 and 12 tokens, with text around them and without.
const GRIDS: [(u64, u64); 3] = [(2, 6), (2, 2), (6, 8)];

fn image(grid: (u64, u64), seed: u64) -> Medium {
    let vision = seeing().vision.unwrap();
    let values = Rng(seed).signed_numbers((grid.0 * grid.1) as usize * vision.pixels.values() as usize);
    Image::from_patches(grid.0, grid.1, values, &vision, 12).unwrap().into()
}

/// Tokens of which as many as an image has are 9.
fn prompt(rng: &mut Rng) -> Vec<u32> {
    let mut tokens: Vec<u32> = (0..3).map(|_| 20 + rng.next() % 50).collect();
    for (i, (rows, cols)) in GRIDS.iter().enumerate() {
        tokens.extend(std::iter::repeat_n(9, (rows * cols / 4) as usize));
        // Nothing stands between the second and the third.
        tokens.extend((0..5 * (1 - i % 2)).map(|_| 20 + rng.next() % 50));
    }
    tokens
}

fn engine(layout: Layout, backend: BackendChoice, batch_tokens: u32) -> Box<dyn Engine> {
    engine_of(&seeing(), layout, backend, batch_tokens)
}

#[test]
fn steps_and_backends_see_the_same() {
    use BackendChoice::{Cpu, Reference};
    see_the_same(&[(Reference, 7), (Cpu, 64), (Cpu, 5), (Cpu, 1)]);
}

/// On a device, or the emulated one of `scripts/cuda.sh`.
#[cfg(feature = "cuda")]
#[test]
fn the_cuda_backend_sees_the_same() {
    see_the_same(&[(BackendChoice::Cuda, 64), (BackendChoice::Cuda, 5)]);
}

/// What the reference sees in one step, of these backends and rows a step.
fn see_the_same(others: &[(BackendChoice, u32)]) {
    let tokens = prompt(&mut Rng(2));
    let images: Vec<_> = GRIDS.into_iter().zip(1..).map(|(grid, seed)| image(grid, seed)).collect();
    for spec in [seeing(), seeing_jointly(), seeing_jointly_everywhere(), seeing_with_a_class()] {
        let Vision { joint, class, .. } = *spec.vision.as_ref().unwrap();
        perceive_the_same(&spec, &tokens, &images, others, &format!("joint: {joint}, class: {class}"));
    }
}

#[test]
fn an_image_whose_tokens_see_each_other_is_read_in_one_step() {
    let tokens = prompt(&mut Rng(2));
    let images: Vec<_> = GRIDS.into_iter().zip(1..).map(|(grid, seed)| image(grid, seed)).collect();
    let mut engine = engine_of(&seeing_jointly(), Layout::F32, BackendChoice::Cpu, 1);
    assert_eq!(engine.info().batch_tokens, 12);
    let every = logits(&mut *engine, &tokens, &images);
    // Also where only the middle of one is asked for.
    for position in [4, 5, 11, 17, tokens.len() - 1] {
        let input = eval::Input { tokens: &tokens, media: &images };
        let row = eval::logits(&mut *engine, input, Some(position as u64)).unwrap();
        let (error, deviation) = difference(&row, &every[position * 70..][..70]);
        assert!(error <= 1e-4 * deviation, "{position}: {error} of {deviation}");
    }
    // What is behind counts within an image of 12, and does not beyond it.
    let seen = |change: &dyn Fn(&mut Spec)| {
        let mut spec = seeing_jointly();
        change(&mut spec);
        logits(&mut *engine_of(&spec, Layout::F32, BackendChoice::Cpu, 64), &tokens, &images)
    };
    let causal = seen(&|spec| spec.vision.as_mut().unwrap().joint = false);
    let (error, deviation) = difference(&every[..3 * 70], &causal[..3 * 70]);
    assert!(error <= 1e-4 * deviation, "{error} of {deviation} before all images");
    let (error, deviation) = difference(&every[12 * 70..20 * 70], &causal[12 * 70..20 * 70]);
    assert!(error > 0.1 * deviation, "{error} of {deviation}");
    let limited = LoadOptions { image_tokens: Some(3), batch_tokens: 2, ..LoadOptions::default() };
    let file = write(&seeing_jointly(), Layout::F32, 5);
    let plan = plan(&Mapped::open(&file.path).unwrap(), &limited).unwrap();
    assert_eq!(plan.batch_tokens, 3);
}

/// Of 12 tokens, in the layers without a window.
#[test]
fn an_image_whose_tokens_see_each_other_everywhere_does_so_without_a_window() {
    let tokens = prompt(&mut Rng(2));
    let images: Vec<_> = GRIDS.into_iter().zip(1..).map(|(grid, seed)| image(grid, seed)).collect();
    let seen = |everywhere: bool| {
        let mut spec = seeing_jointly_everywhere();
        spec.vision.as_mut().unwrap().joint_everywhere = everywhere;
        logits(&mut *engine_of(&spec, Layout::F32, BackendChoice::Cpu, 64), &tokens, &images)
    };
    let (everywhere, by_windows) = (seen(true), seen(false));
    let (error, deviation) = difference(&everywhere[..3 * 70], &by_windows[..3 * 70]);
    assert!(error <= 1e-4 * deviation, "{error} of {deviation} before all images");
    let (error, deviation) = difference(&everywhere[12 * 70..18 * 70], &by_windows[12 * 70..18 * 70]);
    assert!(error > 0.01 * deviation, "{error} of {deviation}");
}

#[test]
fn every_image_counts_and_only_where_it_is() {
    let (tokens, vocab) = (prompt(&mut Rng(2)), 70);
    let mut engine = engine(Layout::F32, BackendChoice::Cpu, 64);
    let images: Vec<_> = GRIDS.into_iter().zip(1..).map(|(grid, seed)| image(grid, seed)).collect();
    let expected = logits(&mut *engine, &tokens, &images);
    for (changed, first) in [(0, 3), (1, 11), (2, 12)] {
        let mut others = images.clone();
        others[changed] = image(GRIDS[changed], 77);
        let actual = logits(&mut *engine, &tokens, &others);
        assert_eq!(actual[..first * vocab], expected[..first * vocab], "before image {changed}");
        let (error, deviation) = difference(&actual[first * vocab..], &expected[first * vocab..]);
        assert!(error > 0.1 * deviation, "image {changed}: {error} of {deviation}");
    }
    // The engine holds another image now, and comes back to these.
    assert_eq!(logits(&mut *engine, &tokens, &images), expected);
}

#[test]
fn tokens_of_images_without_images_are_token_0() {
    let mut engine = engine(Layout::F32, BackendChoice::Cpu, 64);
    let blank = logits(&mut *engine, &[30, 0, 0, 40], &[]);
    assert_eq!(logits(&mut *engine, &[30, 9, 11, 40], &[]), blank);
}

#[test]
fn what_does_not_fit_is_refused_with_numbers() {
    let mut engine = engine(Layout::F32, BackendChoice::Reference, 64);
    let (small, large) = (image((2, 2), 1), image((2, 6), 2));
    let error = |engine: &mut dyn Engine, tokens: &[u32], media: &[Medium]| {
        eval::logits(engine, eval::Input { tokens, media }, None).unwrap_err().to_string()
    };
    let large = std::slice::from_ref(&large);
    assert_eq!(
        error(&mut *engine, &[1, 9, 9, 2, 9], large),
        "image 0 is 3 tokens; 2 of id 9 are left for it in a row"
    );
    assert_eq!(
        error(&mut *engine, &[1, 2], large),
        "image 0 is 3 tokens; 0 of id 9 are left for it in a row"
    );
    let message = "1 tokens of id 9 are left over: 1 images need fewer";
    assert_eq!(error(&mut *engine, &[9, 2, 9], std::slice::from_ref(&small)), message);
    let file = write(&plain(), Layout::F32, 5);
    let mapped = Mapped::open(&file.path).unwrap();
    let mut blind = load_mapped(&mapped, &LoadOptions::default(), byte_text(70)).unwrap();
    assert_eq!(error(&mut *blind, &[9, 9, 9], large), "the model takes no images");

    let vision = seeing().vision.unwrap();
    let of = |rows, cols, count| Image::from_patches(rows, cols, vec![0.0; count], &vision, 12).unwrap_err();
    assert_eq!(of(2, 3, 144), ImageError::Grid { rows: 2, cols: 3, merge: 2 });
    assert_eq!(of(0, 0, 0), ImageError::Grid { rows: 0, cols: 0, merge: 2 });
    assert_eq!(of(2, 26, 1), ImageError::TooLarge { tokens: 13, limit: 12 });
    assert!(matches!(of(u64::MAX, u64::MAX, 1), ImageError::TooLarge { limit: 12, .. }));
    assert!(matches!(of(2, 2, 95), ImageError::Values { actual: 95, expected: 96, .. }));
}

/// Pixels as a processor elsewhere would have taken them apart: two frames of red, green and blue.
#[test]
fn pixels_become_patches_frame_and_channel_first() {
    let vision = seeing().vision.unwrap();
    let rgb: Vec<u8> = (0..4 * 8 * 3).map(|i| (i * 7 % 256) as u8).collect();
    let image = Image::from_rgb(2, 4, rgb.clone(), &vision, 12).unwrap();
    let (mut patch, mut expected) = (Vec::new(), Vec::new());
    image.patch(6, &vision.pixels, &mut patch);
    for _frame in 0..2 {
        for channel in 0..3 {
            for (y, x) in [(2, 4), (2, 5), (3, 4), (3, 5)] {
                let value = f32::from(rgb[(y * 8 + x) * 3 + channel]) / 255.0;
                expected.push((value - vision.pixels.mean[channel]) / vision.pixels.deviation[channel]);
            }
        }
    }
    let (error, _) = difference(&patch, &expected);
    assert!(error <= 8.0 * f64::from(f32::EPSILON) * 4.0, "{error}");
    assert_ne!(image.hash(), Image::from_rgb(4, 2, rgb, &vision, 12).unwrap().hash());
}

#[test]
fn a_plan_bounds_images_by_the_option_and_the_context() {
    let file = write(&seeing(), Layout::F32, 5);
    let mapped = Mapped::open(&file.path).unwrap();
    let of = |options: LoadOptions| {
        let plan = plan(&mapped, &options).unwrap();
        let items = plan.items.iter().filter(|item| item.what == "images");
        (
            load_mapped(&mapped, &options, byte_text(70))
                .unwrap()
                .info()
                .vision
                .clone()
                .unwrap()
                .image_tokens,
            items.map(|item| item.bytes).sum::<u64>(),
        )
    };
    let (tokens, bytes) = of(LoadOptions::default());
    assert_eq!(tokens, 12);
    let (fewer, smaller) = of(LoadOptions { image_tokens: Some(4), ..LoadOptions::default() });
    assert!(fewer == 4 && smaller < bytes, "{smaller} of {bytes}");
    assert_eq!(of(LoadOptions { context: Some(7), ..LoadOptions::default() }).0, 7);
    let none = LoadOptions { image_tokens: Some(0), ..LoadOptions::default() };
    assert!(plan(&mapped, &none).unwrap_err().to_string().starts_with("image_tokens is 0"));
}
