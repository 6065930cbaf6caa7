//! Models as data: each has what another has not.

use muse_format::{
    Activation, Attention, BlockDrafter, ChainDrafter, DeltaNet, Dense, Drafter, Embedding, Encoder, Experts,
    Ffn, Indexer, LatentAttention, Layer, Mixer, PerLayer, Pooling, Score, Sparse, Spec, Temperature,
};

pub fn attention(heads: u32, kv_heads: u32, head_dim: u32) -> Attention {
    Attention { rope: Some(0), ..Attention::new(heads, kv_heads, head_dim) }
}

/// A Llama of two layers whose widths are not multiples of a group or a tile.
pub fn plain() -> Spec {
    let ffn = Ffn { dim: 52, activation: Activation::Silu, bias: false };
    let layer = Layer { ffn: Some(ffn), ..Layer::new(attention(4, 2, 10)) };
    Spec {
        family: "tiny".into(),
        dim: 40,
        vocab: 70,
        context: 96,
        norm_eps: 1e-5,
        tied_head: true,
        ropes: 1,
        layers: vec![layer.clone(), layer],
        ..Spec::default()
    }
}

/// Every field of the spec at a value that matters, layers unlike each other.
pub fn everything() -> Spec {
    let mut spec = plain();
    spec.tied_head = false;
    spec.ropes = 2;
    spec.embed_scale = 6.3;
    spec.embed_norm = true;
    spec.logit_scale = 0.7;
    spec.logit_softcap = Some(2.5);
    let full = &mut spec.layers[0];
    full.post_norms = true;
    full.post_norm_eps = Some(0.3);
    full.attention_mut().unwrap().qk_norm = true;
    full.attention_mut().unwrap().softcap = Some(1.5);
    full.ffn = Some(Ffn { dim: 36, activation: Activation::GeluTanh, bias: true });
    let ring = &mut spec.layers[1];
    ring.mixer = Mixer::Attention(attention(6, 3, 8));
    ring.attention_mut().unwrap().window = Some(5);
    ring.attention_mut().unwrap().rope = Some(1);
    ring.attention_mut().unwrap().qkv_bias = true;
    ring.attention_mut().unwrap().out_bias = true;
    ring.attention_mut().unwrap().out_gate = true;
    let mut still = spec.layers[1].clone();
    still.attention_mut().unwrap().rope = None;
    still.attention_mut().unwrap().window = Some(13);
    still.attention_mut().unwrap().scale = 0.9;
    spec.layers.push(still);
    spec
}

/// Keys and values of earlier layers, full ones and a ring's, and a vector of each token for each layer.
pub fn shared() -> Spec {
    let mut spec = plain();
    spec.per_layer = Some(PerLayer {
        dim: 34,
        table_scale: 2.0,
        projection_scale: 0.4,
        scale: 0.7,
        activation: Activation::GeluTanh,
    });
    spec.layers[0].scaled = true;
    spec.layers[0].attention_mut().unwrap().v_norm = true;
    spec.layers[0].attention_mut().unwrap().qk_norm = true;
    spec.layers[1].mixer = Mixer::Attention(attention(6, 3, 8));
    spec.layers[1].attention_mut().unwrap().window = Some(5);
    for from in [1, 0] {
        let mut layer = spec.layers[from].clone();
        layer.attention_mut().unwrap().kv_from = Some(from as u32);
        layer.scaled = true;
        layer.attention_mut().unwrap().qkv_bias = from == 1;
        layer.ffn = Some(Ffn { dim: 72, activation: Activation::GeluTanh, bias: false });
        spec.layers.push(layer);
    }
    spec
}

/// An encoder of two layers, with a product after pooling that is wider than anything else.
pub fn encoder() -> Spec {
    let ffn = Ffn { dim: 52, activation: Activation::Gelu, bias: true };
    let attention =
        Attention { qkv_bias: true, out_bias: true, bidirectional: true, ..Attention::new(4, 4, 10) };
    let layer = Layer { ffn: Some(ffn), ..Layer::new(attention) };
    Spec {
        ropes: 0,
        embedding: Some(Embedding {
            pooling: Pooling::Mean,
            dense: vec![Dense { dim: 90, bias: true, tanh: true }],
            normalise: true,
            prompts: [("query".into(), "q: ".into())].into(),
            default_prompt: None,
        }),
        encoder: Some(Encoder { positions: 100, types: 2 }),
        layers: vec![layer.clone(), layer],
        ..plain()
    }
}

/// [`plain`] with a window, to both sides, and the vectors of texts in place of a head.
pub fn embedding_decoder() -> Spec {
    let mut spec = plain();
    for layer in &mut spec.layers {
        layer.attention_mut().unwrap().bidirectional = true;
    }
    spec.layers[1].attention_mut().unwrap().window = Some(4);
    spec.embedding = encoder().embedding;
    spec
}

/// Two layers of experts: alone and chosen by softmax, and beside a dense feed-forward by biased sigmoids.
pub fn mixture() -> Spec {
    let mut spec = plain();
    let experts = Experts { normalise: true, ..Experts::new(7, 3, 20) };
    spec.layers[0].ffn = None;
    spec.layers[0].experts = Some(experts.clone());
    spec.layers[1].experts = Some(Experts {
        activation: Activation::GeluTanh,
        score: Score::Sigmoid,
        choice_bias: true,
        scale: 1.7,
        ..Experts::new(5, 2, 36)
    });
    spec
}

/// Two layers of experts that run at widths of their own, alone and beside a dense feed-forward, with norms of what they
/// give; gates on the residual stream, and a norm of what attention reads.
pub fn gated() -> Spec {
    let mut spec = plain();
    let latent = |width: u32, experts: Experts| Experts {
        latent: Some(width),
        logit_scale: 1.3,
        each_norm_eps: Some(0.1),
        ..experts
    };
    let [first, second] = &mut spec.layers[..] else { panic!("plain has two layers") };
    first.ffn = None;
    first.experts = Some(latent(24, Experts { choice_bias: true, ..Experts::new(6, 2, 20) }));
    second.experts = Some(latent(36, Experts { score: Score::Sigmoid, ..Experts::new(4, 3, 12) }));
    second.ffn_post_scale = true;
    for layer in [first, second] {
        layer.post_norms = true;
        layer.post_norm_eps = Some(0.2);
        layer.residual_gates = true;
        let attention = layer.attention_mut().expect("plain attends");
        (attention.mix_norm, attention.out_gate) = (true, true);
    }
    spec
}

/// Experts that read the residual stream by norms of their own, one layer's with a factor for each, beside dense
/// feed-forwards.
pub fn beside() -> Spec {
    let mut spec = plain();
    let experts = Experts { own_norms: true, normalise: true, ..Experts::new(5, 2, 20) };
    spec.layers[1].experts = Some(Experts { expert_scale: true, latent: Some(24), ..experts.clone() });
    spec.layers[0].experts = Some(experts);
    spec.layers[0].post_norms = true;
    spec
}

/// A layer that attends by chunks and one whose queries grow with their positions, with one expert for each token, which
/// reads as much of it as its score says, beside dense feed-forwards.
pub fn chunked() -> Spec {
    let mut spec = plain();
    let experts = Experts { score: Score::Sigmoid, weigh_input: true, ..Experts::new(5, 1, 20) };
    spec.layers[0].experts = Some(Experts { used: 2, ..experts.clone() });
    spec.layers[1].experts = Some(experts);
    spec.layers[0].attention_mut().unwrap().chunk = Some(6);
    let second = spec.layers[1].attention_mut().unwrap();
    (second.rope, second.temperature) = (None, Some(Temperature { every: 3, strength: 0.4 }));
    spec
}

/// Recurrent layers around one of attention: heads that share keys, one without a convolution, and a feed-forward with a
/// gate for each token beside experts.
pub fn recurrent() -> Spec {
    let mut spec = mixture();
    let delta_net = DeltaNet { key_heads: 2, value_heads: 6, key_dim: 9, value_dim: 7, taps: 4 };
    let experts = spec.layers[0].clone();
    spec.layers[0].mixer = Mixer::DeltaNet(delta_net.clone());
    spec.layers[1].attention_mut().unwrap().out_gate = true;
    spec.layers[1].token_gate = true;
    let still = DeltaNet { key_heads: 1, value_heads: 1, key_dim: 33, value_dim: 40, taps: 1 };
    spec.layers.push(Layer { mixer: Mixer::DeltaNet(still), ..spec.layers[1].clone() });
    spec.layers.push(Layer { mixer: Mixer::DeltaNet(DeltaNet { taps: 2, ..delta_net }), ..experts });
    spec
}

/// Two layers over latents, with and without a width that queries are made of, around one of attention.
pub fn latent() -> Spec {
    let mut spec = plain();
    let compressed = LatentAttention {
        heads: 3,
        query_rank: Some(22),
        rank: 37,
        key_dim: 18,
        rope_dim: 10,
        value_dim: 13,
        scale: 0.3,
        rope: 0,
        norm_eps: 0.1,
        bias: true,
        sparse: None,
    };
    let direct =
        LatentAttention { heads: 5, query_rank: None, rank: 16, value_dim: 70, bias: false, ..compressed };
    let last = Layer { mixer: Mixer::Latent(direct), ..spec.layers[0].clone() };
    spec.layers[0].mixer = Mixer::Latent(compressed);
    spec.layers.push(last);
    spec
}

/// Latents of which layers meet some positions: those that they choose, those that the layer before chose, and others.
pub fn sparse() -> Spec {
    let mut spec = latent();
    spec.layers[1] = spec.layers[0].clone();
    spec.layers[2] = spec.layers[0].clone();
    let own = |heads, head_dim, top| Sparse::Own(Indexer { heads, head_dim, top, norm_eps: 0.1 });
    for (layer, sparse) in spec.layers.iter_mut().zip([own(3, 12, 7), Sparse::Earlier, own(2, 33, 12)]) {
        let Mixer::Latent(latent) = &mut layer.mixer else { panic!("latent has a layer over latents first") };
        latent.sparse = Some(sparse);
    }
    spec
}

/// What drafts for [`plain`] and others of its width and vocabulary, of the first layer's outputs: windows of 5 and 9 to
/// either side and a layer without, blocks of 7.
pub fn drafter() -> Spec {
    let attention = |window| Attention { window, bidirectional: true, qk_norm: true, ..attention(4, 2, 10) };
    let ffn = Ffn { dim: 36, activation: Activation::Silu, bias: false };
    let layer = |window| Layer { ffn: Some(ffn.clone()), ..Layer::new(attention(window)) };
    Spec {
        family: "drafter".into(),
        drafter: Some(Drafter::Block(BlockDrafter { reads: vec![0, 0], block: 7, mask: 69 })),
        layers: [Some(5), None, Some(9)].map(layer).to_vec(),
        ..plain()
    }
}

/// A drafter of one token after another, of any of the models here that are as wide as [`plain`].
pub fn chain() -> Spec {
    let attention = Attention { qk_norm: true, out_gate: true, ..attention(4, 2, 10) };
    let ffn = Ffn { dim: 36, activation: Activation::Silu, bias: false };
    Spec {
        family: "chain".into(),
        drafter: Some(Drafter::Chain(ChainDrafter { chain: 4 })),
        layers: vec![Layer { ffn: Some(ffn), ..Layer::new(attention) }],
        ..plain()
    }
}

/// [`chain`] of latent attention, of more heads than any layer of [`latent`] has.
pub fn latent_chain() -> Spec {
    let mut spec = chain();
    let Mixer::Latent(first) = &latent().layers[0].mixer else {
        panic!("latent has a layer over latents first")
    };
    spec.layers[0].mixer = Mixer::Latent(LatentAttention { heads: 6, ..first.clone() });
    spec
}
