//! Files to samples: what decoders and a resampler elsewhere make of the same files (`scripts/golden/sounds.py`), and what
//! becomes of damaged ones.

mod support;

use std::fs;
use std::path::Path;

use muse_format::Audio;
use muse_runtime::{Sound, SoundError};
use support::hearing;
use support::sweep::sweep;

/// Of vectors of 6 samples.
const TOKENS_MAX: u32 = 1000;

fn read(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sounds").join(name)).unwrap()
}

fn audio() -> Audio {
    Audio { rate: 24_000, ..hearing().audio.unwrap() }
}

fn decode(bytes: &[u8]) -> Result<Sound, SoundError> {
    Sound::decode(bytes, &audio(), TOKENS_MAX)
}

#[test]
fn samples_are_those_of_the_reference_implementation() {
    // Files at the tower's rate to rounding; others as another filter of as many decibels has them, where what is in the
    // file is not right at its highest frequency, as the noise of 8 bits is.
    for (name, bound) in [
        ("mono.wav", 1e-7),
        ("mono.flac", 1e-7),
        ("stereo.wav", 5e-6),
        ("float.wav", 5e-6),
        ("wide.wav", 5e-6),
        ("stereo.flac", 5e-6),
        ("deep.flac", 5e-6),
        ("bytes.wav", 5e-4),
    ] {
        let expected = read(&format!("{name}.f32"));
        let expected: Vec<f32> = expected.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let sound = decode(&read(name)).unwrap();
        assert_eq!(sound.samples().len(), expected.len(), "{name}");
        let differences = sound.samples().iter().zip(&expected).map(|(a, e)| (a - e).abs());
        let worst = differences.fold(0.0, |most, x| if x > most || x.is_nan() { x } else { most });
        println!("{name}: {worst:.1e}");
        assert!(worst <= bound && expected.iter().any(|x| *x > 0.4), "{name}: {worst}");
    }
}

/// `mono.wav` with other bytes from `at` on.
fn wav(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = read("mono.wav");
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

/// `mono.flac` whose description of the stream, from byte 8 on, is changed.
fn flac(change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut file = read("mono.flac");
    change(&mut file[8..42]);
    file
}

#[test]
fn what_is_no_recording_is_an_error() {
    type Is = fn(&SoundError) -> bool;
    let broken: Is = |e| matches!(e, SoundError::Broken(_));
    let (format, shape): (Is, Is) = (|e| *e == SoundError::Format, |e| matches!(e, SoundError::Shape { .. }));
    let long: Is = |e| matches!(e, SoundError::TooLong { .. } | SoundError::Samples { .. });
    // A wave of one channel is of 16 bits here: byte 22 has the channels, 24 the rate, 32 bytes of a sample of all
    // channels, 34 its bits, 40 the bytes of all samples.
    let cases: Vec<(&str, Vec<u8>, Is)> = vec![
        ("nothing", Vec::new(), format),
        ("text", b"once upon a time".to_vec(), format),
        ("a picture", b"\x89PNG\r\n\x1a\n0000000".to_vec(), format),
        ("a wave's first bytes", read("mono.wav")[..12].to_vec(), broken),
        ("half a wave", read("mono.wav")[..700].to_vec(), broken),
        ("a wave without its last byte", read("mono.wav")[..1483].to_vec(), broken),
        ("no channels", wav(22, &[0, 0]), broken),
        ("9 channels", wav(22, &[9, 0, 0xc0, 0x5d, 0, 0, 0x80, 0x97, 6, 0, 18, 0]), shape),
        ("no rate", wav(24, &[0; 8]), shape),
        ("a rate of 2^32 - 1", wav(24, &[0xff; 4]), broken),
        ("half a million samples a second", wav(24, &[0x20, 0xa1, 7, 0, 0x40, 0x42, 0x0f, 0]), shape),
        ("other bits", wav(34, &[17, 0]), broken),
        ("no bits", wav(34, &[0, 0]), broken),
        ("compressed", wav(20, &[2, 0]), broken),
        ("no samples", wav(40, &[0; 4]), |e| *e == SoundError::Empty),
        ("an hour that is not there", wav(40, &172_800_000_u32.to_le_bytes()), long),
        ("a length of 2^32 - 2", wav(40, &(u32::MAX - 1).to_le_bytes()), long),
        ("half a stream", read("mono.flac")[..300].to_vec(), broken),
        ("a stream's first bytes", read("mono.flac")[..4].to_vec(), broken),
        ("a stream without its last byte", read("mono.flac")[..535].to_vec(), broken),
        ("no rate of a stream", flac(|info| info[10..12].fill(0)), broken),
        (
            "400000 samples a second",
            flac(|info| (info[10], info[11], info[12]) = (0x61, 0xa8, info[12] & 15)),
            shape,
        ),
        ("a day that is not there", flac(|info| info[14..18].fill(0xff)), long),
        ("a sample too many", flac(|info| info[17] += 1), broken),
        (
            "a sum that is not its frame's",
            {
                let mut file = read("mono.flac");
                let last = file.len() - 1;
                file[last] ^= 1;
                file
            },
            broken,
        ),
        ("too many bytes", vec![0; (64 << 20) + 1], |e| matches!(e, SoundError::Bytes { .. })),
    ];
    let mut wrong = Vec::new();
    for (name, bytes, expected) in cases {
        match decode(&bytes) {
            Err(error) if expected(&error) => {}
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A stream that does not say how long it is.
    let unknown = flac(|info| {
        info[13] &= 0xf0;
        info[14..18].fill(0);
    });
    assert_eq!(decode(&unknown).unwrap().samples().len(), 720);
    let limit = 720 / 6 - 1;
    for file in [unknown, read("mono.wav"), read("mono.flac")] {
        let error = Sound::decode(&file, &audio(), limit).unwrap_err();
        assert_eq!(error, SoundError::TooLong { tokens: 120, limit });
    }
}

#[test]
fn no_byte_that_is_changed_does_more_than_change_the_sound() {
    for name in ["mono.flac", "mono.wav", "bytes.wav"] {
        let file = read(name);
        // The headers, and some of what follows.
        for at in (0..60).chain((60..file.len()).step_by(13)) {
            for &value in sweep(&[0xff, 0x00, 0x7f, 0x80, file[at] ^ 1]) {
                let mut file = file.clone();
                file[at] = value;
                if let Ok(sound) = decode(&file) {
                    let fine = sound.samples().iter().all(|sample| sample.is_finite());
                    assert!(
                        fine && (1..=TOKENS_MAX).contains(&sound.tokens(&audio())),
                        "{name} {at} {value}"
                    );
                }
            }
        }
    }
}
