//! The tower over images.
//!
//! The reference implementation turns the first half of a head by the column and the second by the row, each with its pairs
//! half of that apart; ours turns pairs half a head apart: of a head's four quarters the second and the third change
//! places, in queries, keys and their norms. Both are turned from 1 on in place of 0, by which no product of the two
//! differs. Its patches hold the channels of a pixel side by side: the columns of the first matrix are in our order.
//!
//! The table of positions has 10240 entries of either coordinate. Those are kept that an image of the most tokens can reach.

use muse_format::{Activation, CLIPS, Fit, Given, Join, Laid, Pixels, Resampling, Vision, VisionLayer};

use super::super::config::Config;
use super::super::mla::Part;
use super::super::origin::Named;
use super::super::{Blocks, Draft, ImageMarkers, Marker, Rope, Rows, Transform, image_processor};
use crate::checkpoint::ImportError;

/// What an image may have of tokens, as the reference implementation takes it.
const TOKENS: [u32; 5] = [70, 140, 280, 560, 1120];

/// Norms and products of a block by our names and theirs; those of which a head's quarters are in another order.
const NORMS: [(&str, &str); 4] = [
    ("attn.norm", "input_layernorm"),
    ("attn.post_norm", "post_attention_layernorm"),
    ("ffn.norm", "pre_feedforward_layernorm"),
    ("ffn.post_norm", "post_feedforward_layernorm"),
];
const PRODUCTS: [(&str, &str, bool); 7] = [
    ("attn.q", "self_attn.q_proj", true),
    ("attn.k", "self_attn.k_proj", true),
    ("attn.v", "self_attn.v_proj", false),
    ("attn.out", "self_attn.o_proj", false),
    ("ffn.gate", "mlp.gate_proj", false),
    ("ffn.up", "mlp.up_proj", false),
    ("ffn.down", "mlp.down_proj", false),
];
/// [`CLIPS`] by their names.
const THEIR_CLIPS: [&str; 4] = ["input_min", "input_max", "output_min", "output_max"];

/// Adds the tower to a draft of the text model, where there is one and a prompt can hold its token.
pub(super) fn read(config: &Config<'_>, text: &Config<'_>, draft: &mut Draft) -> Result<(), ImportError> {
    let vocab = draft.spec.vocab;
    let token = |key: &str, or: u32| Ok::<_, ImportError>(config.u32(key)?.unwrap_or(or));
    let image = token("image_token_id", 258_880)?;
    if image >= vocab || !config.has("vision_config") {
        return Ok(());
    }
    let others = [token("video_token_id", 258_884)?, token("audio_token_id", 258_881)?];
    let around = [token("boi_token_id", 255_999)?, token("eoi_token_id", 258_882)?];
    let tower = config.model("vision_config")?;
    tower.only("model_type", &["gemma4_vision".into()], "only gemma4_vision is supported")?;
    // Of each of their tables of positions.
    let entries = tower.size_or("position_embedding_size", 1 << 24, 10 * 1024)?;
    let vision = Vision {
        token: image,
        blank_tokens: [image].into_iter().chain(others.into_iter().filter(|id| *id < vocab)).collect(),
        blank: text.u32("pad_token_id")?.unwrap_or(0),
        joint: text.str("use_bidirectional_attention")? == Some("vision"),
        ..vision(&tower, entries)?
    };
    let (frequencies, dim) = (frequencies(&tower, vision.head_dim())?, vision.dim);
    draft.spec.vision = Some(vision);
    // What text models have; nothing reads it here.
    tower.finish(&["max_position_embeddings"])?;
    draft.computed.insert("vision.rope".into(), frequencies);
    draft.computed.insert("vision.mean_norm".into(), vec![1.0; dim as usize]);
    name_tensors(draft, entries as usize);
    let around = Some(around.map(Marker::Id));
    draft.image_markers = Some(ImageMarkers::new("image_token_id", Marker::Id(image), around));
    draft.read_processor = Some(read_processor);
    Ok(())
}

/// What the graph knows of the tower, whose tables of positions have so many entries.
fn vision(tower: &Config<'_>, entries: u32) -> Result<Vision, ImportError> {
    let rule = "only gelu_pytorch_tanh is supported";
    tower.only("hidden_activation", &["gelu_pytorch_tanh".into()], rule)?;
    tower.only("attention_bias", &[false.into()], "biases are not supported")?;
    let (dim, heads) =
        (tower.size_or("hidden_size", 1 << 20, 768)?, tower.size_or("num_attention_heads", 4096, 12)?);
    if !dim.is_multiple_of(4 * heads) {
        return Err(tower.refuse("hidden_size", format!("it must be {heads} heads of a multiple of 4")));
    }
    let (head_dim, key_heads) =
        (tower.size_or("head_dim", 4096, 64)?, tower.size_or("num_key_value_heads", 4096, 12)?);
    if head_dim != dim / heads {
        return Err(
            tower.refuse("head_dim", format!("it must be {}, a head's part of the width", dim / heads))
        );
    }
    if key_heads != heads {
        return Err(tower.refuse("num_key_value_heads", "every head must have keys of its own"));
    }
    let merge = tower.size_or("pooling_kernel_size", 16, 3)?;
    if merge == 1 {
        let rule = "the reference implementation takes empty patches for vectors where none are joined";
        return Err(tower.refuse("pooling_kernel_size", rule));
    }
    let positions = entries.min(TOKENS[4] * merge);
    let norm_eps = tower.f64("rms_norm_eps")?.unwrap_or(1e-6) as f32;
    let layers = tower.size_or("num_hidden_layers", 1024, 16)?;
    let standardized = tower.bool("standardize", false)?;
    Ok(Vision {
        pixels: Pixels {
            resampling: Resampling::Bicubic,
            fit: Fit::Fill,
            given: Given::Padded,
            patch: tower.size_or("patch_size", 256, 16)?,
            frames: 1,
            tokens_max: 280,
            mean: [0.5; 3],
            deviation: [0.5; 3],
            ..Pixels::default()
        },
        dim,
        heads,
        ffn_dim: tower.size_or("intermediate_size", 1 << 20, 3072)?,
        activation: Activation::GeluTanh,
        rms: true,
        post_norms: true,
        head_norms: true,
        gated: true,
        bias: false,
        clipped: tower.bool("use_clipped_linears", false)?,
        scale: Some(1.0),
        pre_norm: false,
        post_norm: false,
        outer_norm_eps: norm_eps,
        norm_eps,
        positions,
        laid: Laid::Axes,
        frequencies: head_dim / 4,
        merge,
        join: Join::Mean { standardized, rooted: true },
        adapter_dim: dim,
        adapter_down: false,
        vector_norm: false,
        layers: (0..layers).map(|_| VisionLayer { window: None }).collect(),
        ..Vision::default()
    })
}

/// Inverse frequencies of each coordinate, which turns half of a head.
fn frequencies(tower: &Config<'_>, head_dim: u32) -> Result<Vec<f32>, ImportError> {
    let mut theta = 100.0;
    if let Some(rope) = tower.object("rope_parameters")? {
        rope.only("rope_type", &["axial".into(), "default".into()], "only axial is supported")?;
        theta = rope.f64("rope_theta")?.unwrap_or(theta);
        rope.finish(&[])?;
    }
    Ok(Rope::plain(theta).frequencies(head_dim / 2).expect("a plain table has any width"))
}

/// `entries` are those of each of their tables of positions.
fn name_tensors(draft: &mut Draft, entries: usize) {
    let vision = draft.spec.vision.as_ref().expect("it was just read");
    let (dim, head_dim, kept) = (vision.dim as usize, vision.head_dim() as usize, vision.positions as usize);
    let mut named = Vec::new();
    let mut whole = |ours: String, theirs: String, transform: Transform| {
        named.push((ours, Named { transform, ..Named::whole(theirs) }));
    };
    let tower = |part: &str| format!("model.vision_tower.{part}");
    let patch = Transform::ColumnsGathered { outer: 3, width: 1 };
    whole("vision.patch".into(), tower("patch_embedder.input_proj.weight"), patch);
    let projection = "model.embed_vision.embedding_projection.weight";
    whole("vision.projection".into(), projection.into(), Transform::AsIs);
    if matches!(vision.join, Join::Mean { standardized: true, .. }) {
        whole("vision.mean_shift".into(), tower("std_bias"), Transform::Times { factor: -1.0 });
        whole("vision.mean_scale".into(), tower("std_scale"), Transform::AsIs);
    }
    let crossed = Rows { crossed: Some(head_dim / 4), ..Rows::default() };
    for block in 0..vision.layers.len() {
        let ours = |part: &str| format!("vision.l{block}.{part}");
        let theirs = |part: &str| tower(&format!("encoder.layers.{block}.{part}"));
        for (our, their) in NORMS {
            named.push((ours(our), Named::whole(theirs(&format!("{their}.weight")))));
        }
        for (our, their, turned) in PRODUCTS {
            let rows = if turned { crossed } else { Rows::default() };
            let matrix = Named { rows, ..Named::whole(theirs(&format!("{their}.linear.weight"))) };
            named.push((ours(our), matrix));
            for (our_clip, their_clip) in CLIPS.into_iter().zip(THEIR_CLIPS).filter(|_| vision.clipped) {
                let bound = Named::whole(theirs(&format!("{their}.{their_clip}")));
                let bound = Named { transform: Transform::Bounded, ..bound };
                named.push((ours(&format!("{our}_{our_clip}")), bound));
            }
        }
        for part in ["q", "k"] {
            let norm = Named::whole(theirs(&format!("self_attn.{part}_norm.weight")));
            named.push((ours(&format!("attn.{part}_norm")), Named { rows: crossed, ..norm }));
        }
        draft.computed.insert(ours("attn.v_norm"), vec![1.0; head_dim]);
    }
    draft.named.extend(named);
    let positions = Part {
        theirs: tower("patch_embedder.position_embedding_table"),
        shape: (2 * entries, dim),
        rows: Rows { blocks: Some(Blocks { len: kept, every: entries }), ..Rows::default() },
        transform: Transform::AsIs,
    };
    draft.parts.insert("vision.positions".into(), positions);
}

/// Takes the most tokens of an image from `preprocessor_config.json`; the rest must be as the tower has it.
pub(in super::super) fn read_processor(config: &Config<'_>, vision: &mut Vision) -> Result<(), ImportError> {
    let key = "max_soft_tokens";
    let tokens = config.u32(key)?.unwrap_or(280);
    if !TOKENS.contains(&tokens) {
        return Err(config.refuse(key, format!("it must be one of {TOKENS:?}")));
    }
    vision.pixels.tokens_max = tokens;
    config.only(
        "pooling_kernel_size",
        &[vision.merge.into()],
        &format!("it must be the tower's, {}", vision.merge),
    )?;
    // How many tokens a prompt has for an image follows from its size.
    config.only("image_seq_length", &[280.into(), tokens.into()], "it must be max_soft_tokens")?;
    image_processor::read_unmoved(config, vision, (3, "bicubic"))
}
