//! BERT and what shares its shape (MiniLM, E5, BGE, GTE of 2023): encoders that embed texts. Which tokens speak for the
//! text is said by sentence-transformers' files beside the model, see `embedding.rs`.

use muse_format::{Activation, Attention, Encoder, Ffn, Layer, Spec};

use super::{Config, Draft, Family, Named};
use crate::checkpoint::ImportError;

pub(super) const FAMILY: Family = Family {
    model_type: "bert",
    architecture: "BertModel",
    read,
    harmless: &[
        // Of training, and of heads that an embedding does not pass.
        "attention_probs_dropout_prob",
        "classifier_dropout",
        "gradient_checkpointing",
        "hidden_dropout_prob",
        // There is no head that could be the table.
        "tie_word_embeddings",
    ],
    prefix: "",
    layer: &[],
    fused: |_| None,
    interleaved: false,
    centred: |_| false,
    left_out: &[],
    spelled: &[],
};

/// Our name and theirs of a layer's parts; each has a weight and a bias.
const LAYER: [(&str, &str); 8] = [
    ("attn.q", "attention.self.query"),
    ("attn.k", "attention.self.key"),
    ("attn.v", "attention.self.value"),
    ("attn.out", "attention.output.dense"),
    ("attn.norm", "attention.output.LayerNorm"),
    ("ffn.up", "intermediate.dense"),
    ("ffn.down", "output.dense"),
    ("ffn.norm", "output.LayerNorm"),
];

/// The same of what is not in a layer.
const AROUND: [(&str, &str); 5] = [
    ("embed", "embeddings.word_embeddings.weight"),
    ("positions", "embeddings.position_embeddings.weight"),
    ("types", "embeddings.token_type_embeddings.weight"),
    ("embed_norm", "embeddings.LayerNorm.weight"),
    ("embed_norm_bias", "embeddings.LayerNorm.bias"),
];

fn read(config: &Config<'_>) -> Result<Draft, ImportError> {
    config.only("position_embedding_type", &["absolute".into()], "only absolute is supported")?;
    let (dim, heads) = (config.size("hidden_size", 1 << 20)?, config.size("num_attention_heads", 4096)?);
    if !dim.is_multiple_of(heads) {
        return Err(
            config.refuse("num_attention_heads", format!("hidden_size {dim} must be a multiple of it"))
        );
    }
    let activation = match config.str("hidden_act")?.unwrap_or("gelu") {
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        _ => return Err(config.refuse("hidden_act", "it must be gelu, gelu_new or gelu_pytorch_tanh")),
    };
    let attention = Attention {
        qkv_bias: true,
        out_bias: true,
        bidirectional: true,
        ..Attention::new(heads, heads, dim / heads)
    };
    let ffn = Ffn { dim: config.size("intermediate_size", 1 << 20)?, activation, bias: true };
    let layer = Layer { ffn: Some(ffn), ..Layer::new(attention) };
    let layers = config.size("num_hidden_layers", 1024)?;
    let positions = config.size("max_position_embeddings", 1 << 24)?;
    let norm_eps = config.f64("layer_norm_eps")?.unwrap_or(1e-12) as f32;
    let spec = Spec {
        family: "bert".into(),
        dim,
        vocab: config.size("vocab_size", 1 << 24)?,
        context: positions,
        norm_eps,
        tied_head: true,
        encoder: Some(Encoder { positions, types: config.u32("type_vocab_size")?.unwrap_or(2) }),
        layers: vec![layer; layers as usize],
        ..Spec::default()
    };
    let mut draft = Draft::new(spec, Vec::new());
    draft.named = names(layers).map(|(ours, theirs)| (ours, Named::whole(theirs))).collect();
    // The projection of the first token for classifiers, and a buffer that old versions saved.
    let unused = ["pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"];
    draft.ignored = unused.map(str::to_owned).to_vec();
    Ok(draft)
}

/// Our name and theirs of every tensor.
fn names(layers: u32) -> impl Iterator<Item = (String, String)> {
    let around = AROUND.iter().map(|(ours, theirs)| ((*ours).to_owned(), (*theirs).to_owned()));
    let parts = (0..layers).flat_map(|i| LAYER.iter().map(move |(ours, theirs)| (i, *ours, *theirs)));
    let inside = parts.flat_map(|(i, ours, theirs)| {
        let (ours, theirs) = (format!("l{i}.{ours}"), format!("encoder.layer.{i}.{theirs}"));
        [(ours.clone(), format!("{theirs}.weight")), (format!("{ours}_bias"), format!("{theirs}.bias"))]
    });
    around.chain(inside)
}
