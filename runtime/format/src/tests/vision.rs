use super::{meta, refuses_field, spec, write};
use crate::*;

/// The small spec with a tower.
pub(super) fn spec_with_vision() -> Spec {
    let vision = Vision {
        token: 3,
        blank_tokens: vec![3, 4],
        pixels: Pixels { patch: 2, frames: 2, tokens_max: 8, ..Pixels::default() },
        dim: 8,
        heads: 2,
        ffn_dim: 12,
        positions: 3,
        frequencies: 1,
        merge: 2,
        adapter_dim: 6,
        layers: vec![VisionLayer { window: Some(3) }, VisionLayer { window: None }],
        video: Some(Video {
            token: 4,
            rate: 2.0,
            frames_min: 2,
            frames_max: 6,
            taken: Taken::Before,
            fit: Fit::Area { pixels_min: 4, pixels_max: 64 },
            tokens_max: 8,
        }),
        ..Vision::default()
    };
    Spec { vision: Some(vision), ..spec() }
}

#[test]
fn a_tower_has_its_tensors_behind_the_decoder() {
    let meta = Meta { spec: spec_with_vision(), ..meta() };
    let bytes = write(&meta, Layout::F32);
    let file = File::parse(&bytes).unwrap();
    assert_eq!(file.spec, meta.spec);
    let shape = |name: &str| file.tensor(name).map(|t| (t.rows, t.cols, t.layout));
    assert_eq!(shape("vision.patch").map(|(rows, cols, _)| (rows, cols)), Some((8, 24)));
    assert_eq!(shape("vision.positions"), Some((9, 8, Layout::F32)));
    assert_eq!(shape("vision.l1.ffn.down_bias"), Some((1, 8, Layout::F32)));
    assert_eq!(shape("vision.adapter.up").map(|(rows, cols, _)| (rows, cols)), Some((6, 32)));
    assert_eq!(shape("vision.l2.attn.q"), None);
    let last = file.tensors().last().unwrap();
    assert_eq!((last.name, last.cols), ("vision.norm", u64::from(meta.spec.dim)));
}

#[test]
fn a_tower_is_checked_by_the_name_of_its_field() {
    spec_with_vision().validate().unwrap();
    type Change = fn(&mut Vision);
    fn video(v: &mut Vision) -> &mut Video {
        v.video.as_mut().unwrap()
    }
    let cases: [(&str, Change); 37] = [
        ("vision.token", |v| v.blank = u32::MAX),
        ("vision.scale", |v| v.scale = Some(0.0)),
        ("vision.adapter_dim", |v| v.join = Join::Mean { standardized: false, rooted: true }),
        ("vision.pixels.frames", |v| v.pixels.given = Given::Padded),
        ("vision.pixels.frames", |v| v.pixels.given = Given::Planes),
        ("vision.class", |v| v.class = true),
        ("vision.positions", |v| v.pixels.tiles = Some(4)),
        ("vision.pixels.tiles", |v| (v.positions, v.pixels.tiles) = (4, Some(0))),
        ("vision.pixels.tiles", |v| {
            (v.positions, v.pixels.patch, v.pixels.tiles) = (4, 256, Some(64));
        }),
        ("vision.positions", |v| v.pixels.fit = Fit::Table),
        ("vision.pixels.fit", |v| (v.positions, v.pixels.patch, v.pixels.fit) = (4096, 256, Fit::Table)),
        ("vision.joint_everywhere", |v| v.joint_everywhere = true),
        ("vision.token", |v| v.token = u32::MAX),
        ("vision.token", |v| v.blank_tokens.push(u32::MAX)),
        ("vision.blank_tokens", |v| v.blank_tokens = vec![0; 17]),
        ("vision.pixels.patch", |v| v.pixels.patch = 0),
        ("vision.pixels.tokens_max", |v| v.pixels.tokens_max = u32::MAX),
        ("vision.pixels.mean", |v| v.pixels.mean[1] = f32::NAN),
        ("vision.pixels.deviation", |v| v.pixels.deviation[2] = 0.0),
        ("vision.heads", |v| v.heads = 0),
        ("vision.dim", |v| v.dim = 9),
        ("vision.frequencies", |v| v.frequencies = 2),
        ("vision.frequencies", |v| v.frequencies = 1 << 30),
        ("vision.merge", |v| v.merge = 17),
        ("vision.norm_eps", |v| v.norm_eps = -1.0),
        ("vision.outer_norm_eps", |v| v.outer_norm_eps = f32::INFINITY),
        ("vision.layers", |v| v.layers.clear()),
        ("vision.layers[].window", |v| v.layers[1].window = Some(4)),
        ("vision.layers[0].window", |v| v.layers[0].window = Some(0)),
        ("vision.video.token", |v| video(v).token = u32::MAX),
        ("vision.video.rate", |v| video(v).rate = 0.0),
        ("vision.video.rate", |v| video(v).rate = f64::NAN),
        ("vision.video.frames_max", |v| video(v).frames_max = 1 << 17),
        ("vision.video.frames_min", |v| video(v).frames_min = 7),
        ("vision.video.tokens_max", |v| video(v).tokens_max = 0),
        ("vision.video.fit.pixels_max", |v| video(v).fit = Fit::Area { pixels_min: 1, pixels_max: 1 << 31 }),
        ("vision.video.fit.pixels_min", |v| video(v).fit = Fit::Area { pixels_min: 9, pixels_max: 8 }),
    ];
    for (field, change) in cases {
        let mut spec = spec_with_vision();
        change(spec.vision.as_mut().unwrap());
        refuses_field(&spec, field);
    }
}

#[test]
fn a_tower_of_other_blocks_has_other_tensors() {
    let mut spec = spec_with_vision();
    let vision = spec.vision.as_mut().unwrap();
    (vision.rms, vision.post_norms, vision.head_norms, vision.gated) = (true, true, true, true);
    (vision.bias, vision.clipped, vision.post_norm) = (false, true, false);
    (vision.laid, vision.join) = (Laid::Axes, Join::Mean { standardized: true, rooted: true });
    (vision.adapter_dim, vision.adapter_down) = (8, false);
    spec.validate().unwrap();
    let tensors: Vec<_> = spec.tensors().into_iter().map(|t| (t.name, t.rows, t.cols)).collect();
    let shape = |name: &str| tensors.iter().find(|(own, ..)| own == name).map(|(_, r, c)| (*r, *c));
    assert_eq!(shape("vision.positions"), Some((6, 8)));
    for (name, expected) in [
        ("vision.l0.attn.norm", (1, 8)),
        ("vision.l0.attn.post_norm", (1, 8)),
        ("vision.l1.attn.k_norm", (1, 4)),
        ("vision.l1.ffn.gate", (12, 8)),
        ("vision.l1.ffn.post_norm", (1, 8)),
        ("vision.l1.ffn.down_out_max", (1, 1)),
        ("vision.mean_shift", (1, 8)),
        ("vision.mean_norm", (1, 8)),
    ] {
        assert_eq!(shape(name), Some(expected), "{name}");
    }
    for name in ["vision.l0.attn.norm_bias", "vision.l0.attn.q_bias", "vision.post_norm", "vision.adapter.up"]
    {
        assert_eq!(shape(name), None, "{name}");
    }
}
