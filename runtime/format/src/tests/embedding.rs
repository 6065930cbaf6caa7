use super::{meta, refuses_with, spec, write};
use crate::*;

/// An encoder that embeds texts.
pub(super) fn spec_of_encoder() -> Spec {
    let attention =
        Attention { qkv_bias: true, out_bias: true, bidirectional: true, ..Attention::new(2, 2, 8) };
    let ffn = Ffn { dim: 20, activation: Activation::Gelu, bias: true };
    Spec {
        ropes: 0,
        embedding: Some(Embedding {
            pooling: Pooling::First,
            dense: vec![
                Dense { dim: 24, bias: true, tanh: true },
                Dense { dim: 12, bias: false, tanh: false },
            ],
            normalise: true,
            prompts: [("query".into(), "find: ".into())].into(),
            default_prompt: Some("query".into()),
        }),
        encoder: Some(Encoder { positions: 64, types: 2 }),
        layers: vec![Layer { ffn: Some(ffn), ..Layer::new(attention) }; 2],
        ..spec()
    }
}

#[test]
fn an_encoder_has_tables_norms_with_biases_and_products_after_pooling() {
    let meta = Meta { spec: spec_of_encoder(), ..meta() };
    let bytes = write(&meta, Layout::F32);
    let file = File::parse(&bytes).unwrap();
    assert_eq!(file.spec, meta.spec);
    assert_eq!(file.spec.embedding.as_ref().unwrap().width(16), 12);
    for (name, shape) in [
        ("positions", Some((64, 16))),
        ("types", Some((2, 16))),
        ("embed_norm_bias", Some((1, 16))),
        ("l1.attn.q_bias", Some((1, 16))),
        ("l1.attn.norm_bias", Some((1, 16))),
        ("l1.ffn.up", Some((20, 16))),
        ("l1.ffn.up_bias", Some((1, 20))),
        ("l1.ffn.down", Some((16, 20))),
        ("l1.ffn.gate", None),
        ("norm", None),
        ("head", None),
        ("dense.0", Some((24, 16))),
        ("dense.0_bias", Some((1, 24))),
        ("dense.1", Some((12, 24))),
        ("dense.1_bias", None),
    ] {
        assert_eq!(file.tensor(name).map(|t| (t.rows, t.cols)), shape, "{name}");
    }
}

#[test]
fn a_model_that_embeds_is_whole_or_refused() {
    type Change = fn(&mut Spec);
    let cases: [(&str, Change); 12] = [
        ("an encoder embeds texts", |s| {
            s.embedding = None;
            s.layers.iter_mut().for_each(|l| l.attention_mut().unwrap().bidirectional = false);
        }),
        ("only a model that embeds texts and a drafter may see what follows", |s| {
            (s.encoder, s.embedding) = (None, None)
        }),
        ("an encoder has a row for every position", |s| s.context = 65),
        ("it must be at least 1", |s| s.encoder.as_mut().unwrap().types = 0),
        ("an encoder has no rotation", |s| s.embed_norm = true),
        ("an encoder's layers have", |s| s.layers[1].attention_mut().unwrap().qk_norm = true),
        ("an encoder's layers have", |s| s.layers[1].ffn.as_mut().unwrap().bias = false),
        ("an encoder's layers have", |s| s.layers[1].post_norms = true),
        ("of one shape", |s| s.layers[1].mixer = Mixer::Attention(Attention::new(1, 1, 16))),
        ("has no head", |s| s.tied_head = false),
        ("it must name one of the prompts", |s| {
            s.embedding.as_mut().unwrap().default_prompt = Some("passage".into());
        }),
        ("it must be at least 1", |s| s.embedding.as_mut().unwrap().dense[1].dim = 0),
    ];
    spec_of_encoder().validate().unwrap();
    for (expected, change) in cases {
        let mut spec = spec_of_encoder();
        change(&mut spec);
        refuses_with(&spec, expected);
    }
}
