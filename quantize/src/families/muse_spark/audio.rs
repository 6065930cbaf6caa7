//! The tower over sounds of Muse Spark: causal convolutions, whose weights of a channel lie in a row of theirs and in a
//! column of ours. Its vectors are normalised as embeddings are, without weights, which are ones here.

use muse_format::{Activation, Audio, AudioStage};

use super::super::config::Config;
use super::super::origin::Named;
use super::super::{Draft, ImageMarkers, Marker, Transform};
use crate::checkpoint::ImportError;

/// Samples of a second where `feature_extractor` does not say.
const RATE: u32 = 24_000;

/// The names of a block's parts; all but the norm have biases.
const BLOCK_NAMES: [(&str, &str); 4] =
    [("conv", "conv"), ("norm", "norm"), ("up", "mlp.fc1"), ("down", "mlp.fc2")];

/// Adds the tower to a draft of the text model; `blank_tokens` are embedded as token 0 where nothing takes their place.
pub(super) fn read(
    config: &Config<'_>,
    draft: &mut Draft,
    token: u32,
    blank_tokens: Vec<u32>,
) -> Result<(), ImportError> {
    let tower = config.model("audio_config")?;
    tower.only("model_type", &["muse_spark_audio".into()], "only muse_spark_audio is supported")?;
    tower.only("hidden_act", &["gelu".into()], "only gelu is supported")?;
    let dim = draft.spec.dim;
    tower.only(
        "out_hidden_size",
        &[dim.into()],
        &format!("it must be the text model's hidden_size, {dim}"),
    )?;
    let stages = stages(&tower)?;
    let norm_eps = tower.f64("rms_norm_eps")?;
    draft.spec.audio = Some(Audio {
        token,
        blank_tokens,
        rate: RATE,
        taps: tower.size("conv_kernel_size", 64)?,
        activation: Activation::Gelu,
        norm_eps: norm_eps.ok_or_else(|| tower.refuse("rms_norm_eps", "it must be a number above zero"))?
            as f32,
        vector_norm: true,
        stages,
    });
    tower.finish(&[])?;
    draft.computed.insert("audio.vector_norm".into(), vec![1.0; dim as usize]);
    name_tensors(draft);
    let around = Some(["<|soft_audio_start|>", "<|soft_audio_end|>"].map(Marker::Text));
    draft.audio_markers = Some(ImageMarkers::new("audio_token_id", Marker::Text("<|audio|>"), around));
    Ok(())
}

fn stages(tower: &Config<'_>) -> Result<Vec<AudioStage>, ImportError> {
    let count = tower.size("num_hidden_layers", 64)?;
    let list = |key: &str, max: u32| {
        let list = tower.indices(key)?.filter(|list| list.len() == count as usize);
        let list = list.filter(|list| list.iter().all(|size| (1..=max).contains(size)));
        list.ok_or_else(|| tower.refuse(key, format!("it must hold {count} whole numbers from 1 to {max}")))
    };
    let (patches, dims, depths) =
        (list("patch_sizes", 1 << 20)?, list("hidden_sizes", 1 << 20)?, list("depths", 64)?);
    let ratio = tower.f64("mlp_ratio")?;
    let ratio = ratio.ok_or_else(|| tower.refuse("mlp_ratio", "it must be a number above zero"))?;
    let stage = |((patch, dim), blocks): ((u32, u32), u32)| {
        // Cut to a whole number, as the reference implementation does.
        let ffn_dim = (f64::from(dim) * ratio) as u32;
        AudioStage { patch, dim, ffn_dim, blocks }
    };
    Ok(patches.into_iter().zip(dims).zip(depths).map(stage).collect())
}

fn name_tensors(draft: &mut Draft) {
    let audio = draft.spec.audio.as_ref().expect("it was just read");
    let blocks: Vec<_> = audio.stages.iter().map(|stage| stage.blocks).collect();
    let mut name = |ours: String, theirs: &str, transform: Transform| {
        let theirs = format!("model.audio_tower.{theirs}");
        draft.named.insert(ours, Named { transform, ..Named::whole(theirs) });
    };
    for (ours, theirs) in [("norm", "norm"), ("projection", "proj"), ("post_norm", "post_proj_norm")] {
        name(format!("audio.{ours}"), &format!("{theirs}.weight"), Transform::AsIs);
    }
    name("audio.projection_bias".into(), "proj.bias", Transform::AsIs);
    for (stage, blocks) in blocks.into_iter().enumerate() {
        let embedder = format!("layers.{stage}.patch_embedder");
        name(format!("audio.s{stage}.patch"), &format!("{embedder}.proj.weight"), Transform::AsIs);
        name(format!("audio.s{stage}.patch_bias"), &format!("{embedder}.proj.bias"), Transform::AsIs);
        name(format!("audio.s{stage}.norm"), &format!("{embedder}.norm.weight"), Transform::AsIs);
        for block in 0..blocks {
            for (ours, theirs) in BLOCK_NAMES {
                let transform = match ours {
                    "conv" => Transform::Transpose { first: 0 },
                    _ => Transform::AsIs,
                };
                let ours = format!("audio.s{stage}.b{block}.{ours}");
                let theirs = format!("layers.{stage}.conv_blocks.{block}.{theirs}");
                name(ours.clone(), &format!("{theirs}.weight"), transform);
                if !ours.ends_with("norm") {
                    name(format!("{ours}_bias"), &format!("{theirs}.bias"), Transform::AsIs);
                }
            }
        }
    }
}

/// Takes from the settings of a feature extractor what the model's config does not say; what is absent is as in the
/// reference implementation.
///
/// # Errors
/// [`ImportError::Config`] for sounds of several channels, of other samples a vector than the tower's, or padded with
/// something else than silence at the end.
pub(in super::super) fn read_extractor(config: &Config<'_>, audio: &mut Audio) -> Result<(), ImportError> {
    config.only("feature_size", &[1.into()], "only one channel is supported")?;
    config.only("padding_value", &[0.into()], "only silence is supported")?;
    config.only("padding_side", &["right".into()], "only the right is supported")?;
    let samples = audio.samples();
    config.only("samples_per_token", &[samples.into()], &format!("it must be the tower's, {samples}"))?;
    if config.has("sampling_rate") {
        audio.rate = config.size("sampling_rate", 1 << 20)?;
    }
    config.finish(&["feature_extractor_type", "processor_class", "return_attention_mask"])
}
