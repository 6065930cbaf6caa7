//! From a mapped file to the weights of a model.

use muse_format::{Attention, DeltaNet, Dense, Drafter, Embedding, Experts, Layer, Mixer, Spec};
use muse_kernels::{Backend, BackendError, Expert};

use super::{
    Affine, AttentionWeights, DeltaNetWeights, DrafterWeights, ExpertsWeights, FfnWeights, LatentWeights,
    LayerWeights, MixerWeights, OwnNorms, PerLayerHalf, PerLayerWeights, Weights,
};
use crate::weights::Mapped;

/// Takes tensors of a file into a backend.
pub(crate) struct Loader<'a, B> {
    pub mapped: &'a Mapped,
    pub backend: &'a mut B,
}

impl<B: Backend> Loader<'_, B> {
    pub(crate) fn take(&mut self, name: &str, rows: u32, cols: u32) -> Result<B::Weight, BackendError> {
        let copies = self.backend.copies_weights();
        if copies && let Some(range) = self.mapped.extent(name) {
            self.mapped.pages().want(&range);
        }
        let weight = self.backend.load(self.mapped.tensor(name, rows, cols)?)?;
        if copies {
            self.mapped.give_back(name);
        }
        Ok(weight)
    }

    fn take_if(&mut self, wanted: bool, name: &str, cols: u32) -> Result<Option<B::Weight>, BackendError> {
        if wanted { self.take(name, 1, cols).map(Some) } else { Ok(None) }
    }

    pub(crate) fn affine(
        &mut self,
        name: &str,
        rows: u32,
        cols: u32,
        bias: bool,
    ) -> Result<Affine<B::Weight>, BackendError> {
        let weight = self.take(name, rows, cols)?;
        Ok(Affine { weight, bias: self.take_if(bias, &format!("{name}_bias"), rows)? })
    }

    fn layer(
        &mut self,
        i: usize,
        dim: u32,
        layer: &Layer,
        per_layer: Option<u32>,
    ) -> Result<LayerWeights<B::Weight>, BackendError> {
        let ffn = self.ffn(i, dim, layer)?;
        let experts = layer.experts.as_ref().map(|experts| self.experts(i, dim, experts)).transpose()?;
        let name = |part: &str| format!("l{i}.{part}");
        Ok(LayerWeights {
            attn_norm: self.take(&name("attn.norm"), 1, dim)?,
            mixer: self.mixer(i, dim, &layer.mixer)?,
            attn_post_norm: self.take_if(layer.post_norms, &name("attn.post_norm"), dim)?,
            attn_keep: self.take_if(layer.residual_gates, &name("attn.keep"), dim)?,
            ffn_norm: self.take(&name("ffn.norm"), 1, dim)?,
            ffn,
            experts,
            ffn_post_scale: self.take_if(layer.ffn_post_scale, &name("ffn.post_scale"), dim)?,
            ffn_post_norm: self.take_if(layer.post_norms, &name("ffn.post_norm"), dim)?,
            ffn_keep: self.take_if(layer.residual_gates, &name("ffn.keep"), dim)?,
            per_layer: match per_layer {
                None => None,
                Some(width) => Some(PerLayerHalf {
                    gate: self.take(&name("per_layer.gate"), width, dim)?,
                    out: self.take(&name("per_layer.out"), dim, width)?,
                    norm: self.take(&name("per_layer.norm"), 1, dim)?,
                }),
            },
            scale: match layer.scaled {
                false => None,
                true => Some(self.mapped.tensor(&name("scale"), 1, 1)?.f32()[0]),
            },
        })
    }

    fn mixer(&mut self, i: usize, dim: u32, mixer: &Mixer) -> Result<MixerWeights<B::Weight>, BackendError> {
        match mixer {
            Mixer::Attention(attention) => self.attention(i, dim, attention).map(MixerWeights::Attention),
            Mixer::DeltaNet(delta_net) => self.delta_net(i, dim, delta_net).map(MixerWeights::DeltaNet),
            Mixer::Latent(latent) => self.latent(i, dim, latent).map(MixerWeights::Latent),
        }
    }

    fn attention(
        &mut self,
        i: usize,
        dim: u32,
        a: &Attention,
    ) -> Result<AttentionWeights<B::Weight>, BackendError> {
        let own = a.kv_from.is_none();
        let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
        let name = |part: &str| format!("l{i}.{part}");
        Ok(AttentionWeights {
            q: self.affine(&name("attn.q"), q, dim, a.qkv_bias)?,
            kv: match own {
                false => None,
                true => Some([
                    self.affine(&name("attn.k"), kv, dim, a.qkv_bias)?,
                    self.affine(&name("attn.v"), kv, dim, a.qkv_bias)?,
                ]),
            },
            q_norm: self.take_if(a.qk_norm, &name("attn.q_norm"), a.head_dim)?,
            k_norm: self.take_if(a.qk_norm && own, &name("attn.k_norm"), a.head_dim)?,
            v_norm: self.take_if(a.v_norm && own, &name("attn.v_norm"), a.head_dim)?,
            mix_norm: self.take_if(a.mix_norm, &name("attn.mix_norm"), a.head_dim)?,
            gate: if a.out_gate { Some(self.take(&name("attn.gate"), q, dim)?) } else { None },
            out: self.affine(&name("attn.out"), dim, q, a.out_bias)?,
        })
    }

    fn delta_net(
        &mut self,
        i: usize,
        dim: u32,
        d: &DeltaNet,
    ) -> Result<DeltaNetWeights<B::Weight>, BackendError> {
        let name = |part: &str| format!("l{i}.delta.{part}");
        Ok(DeltaNetWeights {
            qkv: self.take(&name("qkv"), d.channels(), dim)?,
            gate: self.take(&name("gate"), d.values(), dim)?,
            decay: self.affine(&name("decay"), d.value_heads, dim, true)?,
            beta: self.take(&name("beta"), d.value_heads, dim)?,
            taps: self.take(&name("taps"), d.taps, d.channels())?,
            rate: self.take(&name("rate"), 1, d.value_heads)?,
            norm: self.take(&name("norm"), 1, d.value_dim)?,
            out: self.take(&name("out"), dim, d.values())?,
        })
    }

    fn ffn(
        &mut self,
        i: usize,
        dim: u32,
        layer: &Layer,
    ) -> Result<Option<FfnWeights<B::Weight>>, BackendError> {
        let Some(ffn) = &layer.ffn else { return Ok(None) };
        let name = |part: &str| format!("l{i}.ffn.{part}");
        Ok(Some(FfnWeights {
            gate: self.affine(&name("gate"), ffn.dim, dim, ffn.bias)?,
            up: self.affine(&name("up"), ffn.dim, dim, ffn.bias)?,
            down: self.affine(&name("down"), dim, ffn.dim, ffn.bias)?,
            token_gate: self.take_if(layer.token_gate, &name("token_gate"), dim)?,
        }))
    }

    fn experts(
        &mut self,
        i: usize,
        dim: u32,
        experts: &Experts,
    ) -> Result<ExpertsWeights<B::Weight>, BackendError> {
        let name = |part: &str| format!("l{i}.experts.{part}");
        let width = experts.latent.unwrap_or(dim);
        let weights = ExpertsWeights {
            router: self.take(&name("router"), experts.count, dim)?,
            choice_bias: self.take_if(experts.choice_bias, &name("choice_bias"), experts.count)?,
            expert_scale: self.take_if(experts.expert_scale, &name("expert_scale"), experts.count)?,
            own_norms: match experts.own_norms {
                false => None,
                true => Some(OwnNorms {
                    router: self.take(&name("router_norm"), 1, dim)?,
                    input: self.take(&name("norm"), 1, dim)?,
                    output: self.take(&name("post_norm"), 1, dim)?,
                    beside: self.take(&name("beside_norm"), 1, dim)?,
                }),
            },
            latent: match experts.latent {
                None => None,
                Some(_) => Some(LatentWeights {
                    into: self.take(&name("in"), width, dim)?,
                    norm: self.take(&name("in_norm"), 1, width)?,
                    out: self.take(&name("out"), dim, width)?,
                }),
            },
            experts: (0..experts.count)
                .map(|e| {
                    Ok(Expert {
                        gate: self.take(&name(&format!("{e}.gate")), experts.dim, width)?,
                        up: self.take(&name(&format!("{e}.up")), experts.dim, width)?,
                        down: self.take(&name(&format!("{e}.down")), width, experts.dim)?,
                    })
                })
                .collect::<Result<_, BackendError>>()?,
            each_norm: match experts.each_norm_eps {
                None => None,
                Some(_) => Some([
                    self.take(&name("each_scale"), 1, width)?,
                    self.take(&name("each_norm"), 1, width)?,
                ]),
            },
        };
        self.backend.load_experts(&weights.experts)?;
        Ok(weights)
    }

    /// The products after pooling, of a model `dim` wide.
    pub fn dense(&mut self, embedding: &Embedding, dim: u32) -> Result<Vec<Affine<B::Weight>>, BackendError> {
        let mut width = dim;
        let product = |(i, dense): (usize, &Dense)| {
            let cols = std::mem::replace(&mut width, dense.dim);
            self.affine(&format!("dense.{i}"), dense.dim, cols, dense.bias)
        };
        embedding.dense.iter().enumerate().map(product).collect()
    }

    fn per_layer(&mut self, spec: &Spec, width: u32) -> Result<PerLayerWeights<B::Weight>, BackendError> {
        let all = spec.per_layer_width();
        Ok(PerLayerWeights {
            table: self.take("per_layer.table", spec.vocab, all)?,
            projection: self.take("per_layer.projection", all, spec.dim)?,
            norm: self.take("per_layer.norm", 1, width)?,
        })
    }

    fn ropes(&mut self, spec: &Spec) -> Result<Vec<B::Weight>, BackendError> {
        (0..spec.ropes).map(|i| self.take(&format!("rope.{i}"), 1, 0)).collect()
    }

    fn layers(&mut self, spec: &Spec) -> Result<Vec<LayerWeights<B::Weight>>, BackendError> {
        let width = spec.per_layer.as_ref().map(|e| e.dim);
        let layers = spec.layers.iter().enumerate();
        layers.map(|(i, layer)| self.layer(i, spec.dim, layer, width)).collect()
    }

    /// What a drafter has of its own.
    pub fn drafter(
        &mut self,
        spec: &Spec,
        drafter: &Drafter,
    ) -> Result<DrafterWeights<B::Weight>, BackendError> {
        let dim = spec.dim;
        Ok(DrafterWeights {
            into: self.affine("drafter.into", dim, drafter.width(dim), false)?,
            read_norm: self.take("drafter.norm", 1, dim)?,
            embed_norm: self.take_if(matches!(drafter, Drafter::Chain(_)), "drafter.embed_norm", dim)?,
            ropes: self.ropes(spec)?,
            layers: self.layers(spec)?,
            norm: self.take("norm", 1, dim)?,
        })
    }

    pub fn weights(&mut self, spec: &Spec) -> Result<Weights<B::Weight>, BackendError> {
        let (vocab, dim) = (spec.vocab, spec.dim);
        let embed = self.take("embed", vocab, dim)?;
        let embed_norm = self.take_if(spec.embed_norm, "embed_norm", dim)?;
        let ropes = self.ropes(spec)?;
        let per_layer = spec.per_layer.as_ref().map(|e| self.per_layer(spec, e.dim)).transpose()?;
        let layers = self.layers(spec)?;
        let norm = self.take("norm", 1, dim)?;
        let head = if spec.tied_head { None } else { Some(self.take("head", vocab, dim)?) };
        Ok(Weights { embed, embed_norm, per_layer, ropes, layers, norm, head })
    }
}
