//! Sounds in the place of tokens, whatever the backend, the layout and the sizes of steps.

mod support;

use muse_format::Layout;
use muse_runtime::{
    BackendChoice, Engine, Image, LoadOptions, Mapped, Medium, Sound, SoundError, eval, load_mapped, plan,
};
use support::perceived::{engine_of, logits, perceive_the_same};
use support::{Rng, byte_text, difference, hearing, plain, write};

/// Tokens that stand for a vector of a sound and of an image.
const SOUND: u32 = 13;
const IMAGE: u32 = 9;
/// Samples of sounds of 1, 20 and 4 vectors, of which the second is more than a stretch.
const LENS: [usize; 3] = [1, 120, 19];

fn sound(len: usize, seed: u64) -> Medium {
    let audio = hearing().audio.unwrap();
    Sound::from_samples(Rng(seed).signed_numbers(len), &audio, 20).unwrap().into()
}

fn image(seed: u64) -> Medium {
    let vision = hearing().vision.unwrap();
    let values = Rng(seed).signed_numbers(4 * vision.pixels.values() as usize);
    Image::from_patches(2, 2, values, &vision, 1).unwrap().into()
}

/// Text, a sound, a sound behind it, an image, and another sound.
fn prompt() -> (Vec<u32>, Vec<Medium>) {
    let mut tokens = vec![30, 31, SOUND];
    tokens.extend([SOUND; 20]);
    tokens.extend([32, IMAGE, 33, SOUND, SOUND, SOUND, SOUND, 34]);
    let mut media: Vec<_> = LENS.into_iter().zip(1..).map(|(len, seed)| sound(len, seed)).collect();
    media.push(image(4));
    (tokens, media)
}

fn engine(layout: Layout, backend: BackendChoice, batch_tokens: u32) -> Box<dyn Engine> {
    engine_of(&hearing(), layout, backend, batch_tokens)
}

#[test]
fn steps_and_backends_hear_the_same() {
    use BackendChoice::{Cpu, Reference};
    hear_the_same(&[(Reference, 7), (Cpu, 64), (Cpu, 5), (Cpu, 1)]);
}

/// On a device, or the emulated one of `scripts/cuda.sh`.
#[cfg(feature = "cuda")]
#[test]
fn the_cuda_backend_hears_the_same() {
    hear_the_same(&[(BackendChoice::Cuda, 64), (BackendChoice::Cuda, 5)]);
}

/// What the reference hears in one step, of these backends and rows a step.
fn hear_the_same(others: &[(BackendChoice, u32)]) {
    let (tokens, media) = prompt();
    perceive_the_same(&hearing(), &tokens, &media, others, "sounds");
}

#[test]
fn every_sound_counts_and_only_where_it_is() {
    let ((tokens, media), vocab) = (prompt(), 70);
    let mut engine = engine(Layout::F32, BackendChoice::Cpu, 64);
    let expected = logits(&mut *engine, &tokens, &media);
    for (changed, first) in [(0, 2), (1, 3), (2, 26)] {
        let mut others = media.clone();
        others[changed] = sound(LENS[changed], 77);
        let actual = logits(&mut *engine, &tokens, &others);
        assert_eq!(actual[..first * vocab], expected[..first * vocab], "before sound {changed}");
        let (error, deviation) = difference(&actual[first * vocab..], &expected[first * vocab..]);
        assert!(error > 0.1 * deviation, "sound {changed}: {error} of {deviation}");
    }
    // What comes later in a sound changes nothing before it.
    let mut longer = Rng(2).signed_numbers(LENS[1]);
    longer[60..].iter_mut().for_each(|sample| *sample = -*sample);
    let longer = Sound::from_samples(longer, &hearing().audio.unwrap(), 20).unwrap();
    let others = [media[0].clone(), longer.into(), media[2].clone(), media[3].clone()];
    let actual = logits(&mut *engine, &tokens, &others);
    assert_eq!(actual[..13 * vocab], expected[..13 * vocab]);
    assert_ne!(actual[13 * vocab..14 * vocab], expected[13 * vocab..14 * vocab]);
    // The engine holds another sound now, and comes back to these.
    assert_eq!(logits(&mut *engine, &tokens, &media), expected);
    // Without them the tokens are token 0.
    let blank: Vec<u32> = tokens.iter().map(|t| if [SOUND, IMAGE].contains(t) { 0 } else { *t }).collect();
    assert_eq!(logits(&mut *engine, &tokens, &[]), logits(&mut *engine, &blank, &[]));
}

#[test]
fn what_does_not_fit_is_refused_with_numbers() {
    let mut engine = engine(Layout::F32, BackendChoice::Reference, 64);
    let error = |engine: &mut dyn Engine, tokens: &[u32], media: &[Medium]| {
        eval::logits(engine, eval::Input { tokens, media }, None).unwrap_err().to_string()
    };
    let three = [sound(13, 1)];
    let few = "sound 0 is 3 tokens; 2 of id 13 are left for it in a row";
    assert_eq!(error(&mut *engine, &[1, SOUND, SOUND, 2, SOUND], &three), few);
    let many = "1 tokens of id 13 are left over: 1 sounds need fewer";
    assert_eq!(error(&mut *engine, &[SOUND, SOUND, SOUND, SOUND], &three), many);
    let file = write(&plain(), Layout::F32, 5);
    let mapped = Mapped::open(&file.path).unwrap();
    let mut deaf = load_mapped(&mapped, &LoadOptions::default(), byte_text(70)).unwrap();
    assert_eq!(error(&mut *deaf, &[SOUND; 3], &three), "the model takes no sounds");

    let audio = hearing().audio.unwrap();
    let of = |samples: Vec<f32>| Sound::from_samples(samples, &audio, 2).unwrap_err();
    assert_eq!(of(Vec::new()), SoundError::Empty);
    assert_eq!(of(vec![0.0; 13]), SoundError::TooLong { tokens: 3, limit: 2 });
    for bad in [f32::NAN, f32::INFINITY, -65_537.0] {
        assert_eq!(of(vec![0.0, 1.0, bad]), SoundError::Range { sample: 2 });
    }
}

#[test]
fn a_plan_bounds_sounds_by_the_option_and_the_context() {
    let file = write(&hearing(), Layout::F32, 5);
    let mapped = Mapped::open(&file.path).unwrap();
    let of = |options: LoadOptions| {
        let plan = plan(&mapped, &options).unwrap();
        let items = plan.items.iter().filter(|item| item.what == "sounds");
        let engine = load_mapped(&mapped, &options, byte_text(70)).unwrap();
        (engine.info().audio.as_ref().unwrap().audio_tokens, items.map(|item| item.bytes).sum::<u64>())
    };
    let (tokens, bytes) = of(LoadOptions::default());
    assert_eq!(tokens, hearing().context);
    let (fewer, smaller) = of(LoadOptions { audio_tokens: Some(4), ..LoadOptions::default() });
    assert!(fewer == 4 && smaller < bytes, "{smaller} of {bytes}");
    assert_eq!(of(LoadOptions { context: Some(7), ..LoadOptions::default() }).0, 7);
    let none = LoadOptions { audio_tokens: Some(0), ..LoadOptions::default() };
    assert!(plan(&mapped, &none).unwrap_err().to_string().starts_with("audio_tokens is 0"));
}
