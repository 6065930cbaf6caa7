use super::vision::spec_with_vision;
use super::{meta, refuses_field, write};
use crate::*;

/// The small spec with a tower over sounds: 6 samples a vector.
fn spec_with_audio() -> Spec {
    let stages = vec![
        AudioStage { patch: 3, dim: 4, ffn_dim: 6, blocks: 2 },
        AudioStage { patch: 2, dim: 10, ffn_dim: 12, blocks: 1 },
    ];
    let audio = Audio {
        token: 3,
        blank_tokens: vec![3, 4],
        rate: 100,
        taps: 5,
        activation: Activation::Gelu,
        norm_eps: 1e-6,
        vector_norm: true,
        stages,
    };
    Spec { audio: Some(audio), ..spec_with_vision() }
}

#[test]
fn a_tower_over_sounds_has_its_tensors_at_the_end() {
    let meta = Meta { spec: spec_with_audio(), ..meta() };
    let bytes = write(&meta, Layout::F32);
    let file = File::parse(&bytes).unwrap();
    assert_eq!(file.spec, meta.spec);
    let shape = |name: &str| file.tensor(name).map(|t| (t.rows, t.cols));
    assert_eq!(shape("audio.s0.patch"), Some((4, 3)));
    assert_eq!(shape("audio.s1.patch"), Some((10, 8)));
    assert_eq!(shape("audio.s0.b1.conv"), Some((5, 4)));
    assert_eq!(shape("audio.s1.b0.down_bias"), Some((1, 10)));
    assert_eq!(shape("audio.s1.b1.up"), None);
    let last = file.tensors().last().unwrap();
    assert_eq!((last.name, last.cols), ("audio.vector_norm", u64::from(meta.spec.dim)));
    let audio = meta.spec.audio.as_ref().unwrap();
    assert_eq!((audio.samples(), audio.rows(0), audio.rows(1)), (6, 2, 1));
    assert_eq!([0, 1, 6, 7, u64::MAX].map(|samples| audio.tokens(samples)), [0, 1, 1, 2, u64::MAX / 6 + 1]);
    assert_eq!([4, 5].map(|token| meta.spec.embedded_as(token)), [0, 5]);
}

#[test]
fn a_tower_over_sounds_is_checked_by_the_name_of_its_field() {
    spec_with_audio().validate().unwrap();
    type Change = fn(&mut Audio);
    let cases: [(&str, Change); 14] = [
        ("audio.token", |a| a.token = u32::MAX),
        ("audio.token", |a| a.blank_tokens.push(u32::MAX)),
        ("audio.blank_tokens", |a| a.blank_tokens = vec![0; 17]),
        ("audio.rate", |a| a.rate = 0),
        ("audio.taps", |a| a.taps = 0),
        ("audio.taps", |a| a.taps = 65),
        ("audio.norm_eps", |a| a.norm_eps = f32::NAN),
        ("audio.stages", |a| a.stages.clear()),
        ("audio.stages", |a| a.stages = vec![a.stages[0].clone(); 65]),
        ("audio.stages[0].patch", |a| a.stages[0].patch = 0),
        ("audio.stages[1].dim", |a| a.stages[1].dim = u32::MAX),
        ("audio.stages[1].ffn_dim", |a| a.stages[1].ffn_dim = 0),
        ("audio.stages[0].blocks", |a| a.stages[0].blocks = 65),
        ("audio.stages[1].patch", |a| a.stages[1].patch = 1 << 20),
    ];
    for (field, change) in cases {
        let mut spec = spec_with_audio();
        change(spec.audio.as_mut().unwrap());
        refuses_field(&spec, field);
    }
}
