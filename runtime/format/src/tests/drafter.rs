use super::embedding::spec_of_encoder;
use super::experts::spec_with_experts;
use super::vision::spec_with_vision;
use super::{meta, refuses_with, spec, write};
use crate::*;

/// A drafter of two layers that reads three of its target's.
fn spec_of_drafter() -> Spec {
    let attention = Attention {
        bidirectional: true,
        window: Some(5),
        rope: Some(0),
        qk_norm: true,
        ..Attention::new(2, 1, 8)
    };
    let ffn = Ffn { dim: 20, activation: Activation::Silu, bias: false };
    Spec {
        drafter: Some(Drafter::Block(BlockDrafter { reads: vec![2, 0, 3], block: 6, mask: 39 })),
        layers: vec![Layer { ffn: Some(ffn), ..Layer::new(attention) }; 2],
        ..spec()
    }
}

#[test]
fn a_drafter_has_layers_alone_and_what_reads_its_target() {
    let meta = Meta { spec: spec_of_drafter(), ..meta() };
    let bytes = write(&meta, Layout::F32);
    let file = File::parse(&bytes).unwrap();
    assert_eq!(file.spec, meta.spec);
    for (name, shape) in [
        ("drafter.into", Some((16, 48))),
        ("drafter.norm", Some((1, 16))),
        ("l1.attn.q_norm", Some((1, 8))),
        ("norm", Some((1, 16))),
        ("embed", None),
        ("head", None),
    ] {
        assert_eq!(file.tensor(name).map(|t| (t.rows, t.cols)), shape, "{name}");
    }
}

#[test]
fn a_drafter_is_whole_or_refused() {
    type Change = fn(&mut Spec);
    fn drafter(spec: &mut Spec) -> &mut BlockDrafter {
        match &mut spec.drafter {
            Some(Drafter::Block(block)) => block,
            other => panic!("{other:?}"),
        }
    }
    let cases: [(&str, Change); 17] = [
        ("it reads 1 to 64 layers", |s| drafter(s).reads.clear()),
        ("it reads 1 to 64 layers", |s| drafter(s).reads = vec![0; 65]),
        ("layers times dim", |s| (s.dim, drafter(s).reads) = (1 << 20, vec![0; 2])),
        ("it must be at least 1", |s| drafter(s).block = 0),
        ("it must be at least 1", |s| drafter(s).block = 65),
        ("at least one mask", |s| drafter(s).block = 1),
        ("it must be a token", |s| drafter(s).mask = 40),
        ("layers are of attention to both sides", |s| {
            s.layers[1].attention_mut().unwrap().bidirectional = false;
        }),
        ("layers are of attention to both sides", |s| s.layers[1].post_norms = true),
        ("layers are of attention to both sides", |s| s.layers[1].scaled = true),
        ("layers are of attention to both sides", |s| s.layers[1].token_gate = true),
        ("layers are of attention to both sides", |s| {
            s.layers[1].experts = spec_with_experts().layers[0].experts.clone()
        }),
        ("layers are of attention to both sides", |s| {
            s.layers[1].attention_mut().unwrap().temperature = Some(Temperature { every: 4, strength: 0.1 });
        }),
        ("layers are of attention to both sides", |s| s.layers[1].attention_mut().unwrap().kv_from = Some(0)),
        ("a drafter has layers alone", |s| s.tied_head = false),
        ("a drafter has layers alone", |s| s.vision = spec_with_vision().vision),
        ("a drafter has layers alone", |s| s.embedding = spec_of_encoder().embedding),
    ];
    spec_of_drafter().validate().unwrap();
    for (expected, change) in cases {
        let mut spec = spec_of_drafter();
        change(&mut spec);
        refuses_with(&spec, expected);
    }
}

/// A drafter of one token after another.
fn spec_of_chain() -> Spec {
    let attention = Attention { out_gate: true, rope: Some(0), qk_norm: true, ..Attention::new(2, 1, 8) };
    let ffn = Ffn { dim: 20, activation: Activation::Silu, bias: false };
    Spec {
        drafter: Some(Drafter::Chain(ChainDrafter { chain: 3 })),
        layers: vec![Layer { ffn: Some(ffn), ..Layer::new(attention) }],
        ..spec()
    }
}

#[test]
fn a_chain_has_a_layer_and_what_reads_a_token_and_its_target() {
    let meta = Meta { spec: spec_of_chain(), ..meta() };
    let bytes = write(&meta, Layout::F32);
    let file = File::parse(&bytes).unwrap();
    assert_eq!(file.spec, meta.spec);
    for (name, shape) in [
        ("drafter.into", Some((16, 32))),
        ("drafter.norm", Some((1, 16))),
        ("drafter.embed_norm", Some((1, 16))),
        ("l0.attn.gate", Some((16, 16))),
        ("norm", Some((1, 16))),
        ("embed", None),
        ("head", None),
    ] {
        assert_eq!(file.tensor(name).map(|t| (t.rows, t.cols)), shape, "{name}");
    }
    let json = |text: &str| serde_json::from_str::<Drafter>(text).ok();
    assert_eq!(json(r#"{"chain":3}"#), meta.spec.drafter);
    assert_eq!(json(r#"{"reads":[2,0,3],"block":6,"mask":39}"#), spec_of_drafter().drafter);
    for other in [r#"{"chain":3,"mask":1}"#, r#"{"chain":-1}"#, r#"{"reads":[1],"block":6}"#, "{}"] {
        assert_eq!(json(other), None, "{other}");
    }
}

#[test]
fn a_chain_is_whole_or_refused() {
    type Change = fn(&mut Spec);
    fn attention(spec: &mut Spec) -> &mut Attention {
        spec.layers[0].attention_mut().unwrap()
    }
    let cases: [(&str, Change); 14] = [
        ("it must be at least 1", |s| s.drafter = Some(Drafter::Chain(ChainDrafter { chain: 0 }))),
        ("it must be at least 1", |s| s.drafter = Some(Drafter::Chain(ChainDrafter { chain: 17 }))),
        ("dim must be 524288 at most", |s| s.dim = (1 << 19) + 2),
        ("one layer each", |s| s.layers = vec![s.layers[0].clone(); 2]),
        ("attention to all that lies before", |s| attention(s).window = Some(5)),
        ("attention to all that lies before", |s| attention(s).chunk = Some(5)),
        ("attention to all that lies before", |s| attention(s).bidirectional = true),
        ("attention to all that lies before", |s| {
            attention(s).temperature = Some(Temperature { every: 4, strength: 0.1 });
        }),
        ("attention to all that lies before", |s| s.layers[0].post_norms = true),
        ("attention to all that lies before", |s| s.layers[0].residual_gates = true),
        ("attention to all that lies before", |s| {
            let choosing = Indexer { heads: 1, head_dim: 4, top: 2, norm_eps: 1e-6 };
            s.layers[0].mixer = Mixer::Latent(LatentAttention {
                heads: 2,
                query_rank: Some(4),
                rank: 8,
                key_dim: 4,
                rope_dim: 2,
                value_dim: 4,
                scale: 0.5,
                rope: 0,
                norm_eps: 1e-6,
                bias: false,
                sparse: Some(Sparse::Own(choosing)),
            });
        }),
        ("a drafter has layers alone", |s| s.tied_head = false),
        ("a drafter has layers alone", |s| s.embed_norm = true),
        ("a drafter has layers alone", |s| s.vision = spec_with_vision().vision),
    ];
    spec_of_chain().validate().unwrap();
    for (expected, change) in cases {
        let mut spec = spec_of_chain();
        change(&mut spec);
        refuses_with(&spec, expected);
    }
}
