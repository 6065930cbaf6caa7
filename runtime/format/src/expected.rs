//! The tensors that a [`Spec`] asks for.

use crate::{Attention, Experts, Join, Layer, Mixer, PerLayer, Spec, Vision};

/// What names end with of the bounds of a tower's product: of what goes in, then of what comes out.
pub const CLIPS: [&str; 4] = ["in_min", "in_max", "out_min", "out_max"];

/// How a tensor is used, which decides the layouts it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A matrix `out_features x in_features`: any layout.
    Matrix,
    /// A table read by row and, where tied, as a matrix: any layout.
    Table,
    /// Norm weights, biases, frequencies, `1 x n`, the taps of a convolution, `taps x n`, and a table that is read between
    /// its rows: f32.
    Vector,
    /// A matrix whose few products decide much, which weights are used or how fast a state forgets: a float layout.
    Router,
}

/// A tensor that a [`Spec`] asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub name: String,
    pub rows: u64,
    pub cols: u64,
    pub role: Role,
}

impl Spec {
    /// Every tensor of the model, in file order: the order in which a forward pass reads them.
    /// A rotation table's width may be anything from 1 to `head_dim / 2`; its `cols` here is 0.
    pub fn tensors(&self) -> Vec<Expected> {
        let mut list = Vec::new();
        let all: Result<(), std::convert::Infallible> = self.try_each_tensor(|tensor| {
            list.push(tensor);
            Ok(())
        });
        let Ok(()) = all;
        list
    }

    /// Shows `visit` one tensor of [`tensors`](Self::tensors) after another until it fails.
    pub(crate) fn try_each_tensor<E>(
        &self,
        mut visit: impl FnMut(Expected) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut add = |role: Role, name: String, rows: u32, cols: u32| {
            visit(Expected { name, rows: rows.into(), cols: cols.into(), role })
        };
        match &self.drafter {
            Some(drafter) => drafter.try_each_tensor(self.dim, &mut add)?,
            None => add(Role::Table, "embed".into(), self.vocab, self.dim)?,
        }
        if self.embed_norm {
            add(Role::Vector, "embed_norm".into(), 1, self.dim)?;
        }
        if let Some(e) = &self.per_layer {
            let all = self.per_layer_width();
            add(Role::Table, "per_layer.table".into(), self.vocab, all)?;
            add(Role::Matrix, "per_layer.projection".into(), all, self.dim)?;
            add(Role::Vector, "per_layer.norm".into(), 1, e.dim)?;
        }
        for i in 0..self.ropes {
            add(Role::Vector, format!("rope.{i}"), 1, 0)?;
        }
        if let Some(encoder) = &self.encoder {
            encoder.try_each_tensor(self.dim, &self.layers, &mut add)?;
        } else {
            for (i, layer) in self.layers.iter().enumerate() {
                let prefixed = |part: &str| format!("l{i}.{part}");
                let each = |role, part: &str, rows, cols| add(role, prefixed(part), rows, cols);
                layer.try_each_tensor(self.dim, self.per_layer.as_ref(), each)?;
            }
            add(Role::Vector, "norm".into(), 1, self.dim)?;
        }
        if !self.tied_head {
            add(Role::Matrix, "head".into(), self.vocab, self.dim)?;
        }
        if let Some(embedding) = &self.embedding {
            embedding.try_each_tensor(self.dim, &mut add)?;
        }
        if let Some(vision) = &self.vision {
            vision.try_each_tensor(self.dim, &mut add)?;
        }
        match &self.audio {
            Some(audio) => audio.try_each_tensor(self.dim, &mut add),
            None => Ok(()),
        }
    }
}

impl Layer {
    /// Shows `add` the role, name, rows and columns of one tensor after another until it fails.
    fn try_each_tensor<E>(
        &self,
        dim: u32,
        per_layer: Option<&PerLayer>,
        mut add: impl FnMut(Role, &str, u32, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        add(Role::Vector, "attn.norm", 1, dim)?;
        match &self.mixer {
            Mixer::Attention(attention) => attention.try_each_tensor(dim, &mut add)?,
            Mixer::DeltaNet(delta_net) => delta_net.try_each_tensor(dim, &mut add)?,
            Mixer::Latent(latent) => latent.try_each_tensor(dim, &mut add)?,
        }
        if self.post_norms {
            add(Role::Vector, "attn.post_norm", 1, dim)?;
        }
        if self.residual_gates {
            add(Role::Vector, "attn.keep", 1, dim)?;
        }
        add(Role::Vector, "ffn.norm", 1, dim)?;
        if let Some(ffn) = &self.ffn {
            for (name, bias, rows, cols) in [
                ("ffn.gate", "ffn.gate_bias", ffn.dim, dim),
                ("ffn.up", "ffn.up_bias", ffn.dim, dim),
                ("ffn.down", "ffn.down_bias", dim, ffn.dim),
            ] {
                add(Role::Matrix, name, rows, cols)?;
                if ffn.bias {
                    add(Role::Vector, bias, 1, rows)?;
                }
            }
            if self.token_gate {
                add(Role::Router, "ffn.token_gate", 1, dim)?;
            }
        }
        if let Some(experts) = &self.experts {
            experts.try_each_tensor(dim, &mut add)?;
        }
        if self.ffn_post_scale {
            add(Role::Vector, "ffn.post_scale", 1, dim)?;
        }
        if self.post_norms {
            add(Role::Vector, "ffn.post_norm", 1, dim)?;
        }
        if self.residual_gates {
            add(Role::Vector, "ffn.keep", 1, dim)?;
        }
        if let Some(e) = per_layer {
            add(Role::Matrix, "per_layer.gate", e.dim, dim)?;
            add(Role::Matrix, "per_layer.out", dim, e.dim)?;
            add(Role::Vector, "per_layer.norm", 1, dim)?;
        }
        if self.scaled {
            add(Role::Vector, "scale", 1, 1)?;
        }
        Ok(())
    }
}

impl Attention {
    fn try_each_tensor<E>(
        &self,
        dim: u32,
        add: &mut impl FnMut(Role, &str, u32, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let own = if self.kv_from.is_none() { 3 } else { 1 };
        let products =
            [("attn.q", "attn.q_bias", q), ("attn.k", "attn.k_bias", kv), ("attn.v", "attn.v_bias", kv)];
        for (name, bias, rows) in products.into_iter().take(own) {
            add(Role::Matrix, name, rows, dim)?;
            if self.qkv_bias {
                add(Role::Vector, bias, 1, rows)?;
            }
        }
        let norms =
            [("attn.q_norm", self.qk_norm), ("attn.k_norm", self.qk_norm), ("attn.v_norm", self.v_norm)];
        for (name, _) in norms.into_iter().take(own).filter(|(_, wanted)| *wanted) {
            add(Role::Vector, name, 1, self.head_dim)?;
        }
        if self.mix_norm {
            add(Role::Vector, "attn.mix_norm", 1, self.head_dim)?;
        }
        if self.out_gate {
            add(Role::Matrix, "attn.gate", q, dim)?;
        }
        add(Role::Matrix, "attn.out", dim, q)?;
        if self.out_bias {
            add(Role::Vector, "attn.out_bias", 1, dim)?;
        }
        Ok(())
    }
}

impl Experts {
    /// An expert's matrices lie together: a token reads all three of the few that it uses.
    fn try_each_tensor<E>(
        &self,
        dim: u32,
        add: &mut impl FnMut(Role, &str, u32, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.own_norms {
            add(Role::Vector, "experts.router_norm", 1, dim)?;
        }
        add(Role::Router, "experts.router", self.count, dim)?;
        if self.choice_bias {
            add(Role::Vector, "experts.choice_bias", 1, self.count)?;
        }
        if self.expert_scale {
            add(Role::Vector, "experts.expert_scale", 1, self.count)?;
        }
        if self.own_norms {
            add(Role::Vector, "experts.norm", 1, dim)?;
        }
        let width = self.latent.unwrap_or(dim);
        if self.latent.is_some() {
            add(Role::Matrix, "experts.in", width, dim)?;
            add(Role::Vector, "experts.in_norm", 1, width)?;
        }
        for e in 0..self.count {
            add(Role::Matrix, &format!("experts.{e}.gate"), self.dim, width)?;
            add(Role::Matrix, &format!("experts.{e}.up"), self.dim, width)?;
            add(Role::Matrix, &format!("experts.{e}.down"), width, self.dim)?;
        }
        if self.each_norm_eps.is_some() {
            add(Role::Vector, "experts.each_scale", 1, width)?;
            add(Role::Vector, "experts.each_norm", 1, width)?;
        }
        if self.latent.is_some() {
            add(Role::Matrix, "experts.out", dim, width)?;
        }
        if self.own_norms {
            add(Role::Vector, "experts.post_norm", 1, dim)?;
            add(Role::Vector, "experts.beside_norm", 1, dim)?;
        }
        Ok(())
    }
}

impl Vision {
    /// In the order in which a forward pass over an image reads them; `dim` is the width of the residual stream.
    fn try_each_tensor<E>(
        &self,
        dim: u32,
        add: &mut impl FnMut(Role, String, u32, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        let named = |part: &str| format!("vision.{part}");
        let layers = (0..self.layers.len()).map(|i| format!("vision.l{i}"));
        add(Role::Matrix, named("patch"), self.dim, self.pixels.values())?;
        if self.patch_bias {
            add(Role::Vector, named("patch_bias"), 1, self.dim)?;
        }
        add(Role::Vector, named("positions"), self.position_entries(), self.dim)?;
        for part in ["class", "class_position"].into_iter().filter(|_| self.class) {
            add(Role::Vector, named(part), 1, self.dim)?;
        }
        if self.frequencies > 0 {
            add(Role::Vector, named("rope"), 1, self.frequencies)?;
        }
        let norm = |add: &mut dyn FnMut(Role, String, u32, u32) -> Result<(), E>, name: String| {
            add(Role::Vector, name.clone(), 1, self.dim)?;
            if self.rms { Ok(()) } else { add(Role::Vector, format!("{name}_bias"), 1, self.dim) }
        };
        if self.pre_norm {
            norm(add, named("pre_norm"))?;
        }
        for layer in layers {
            norm(add, format!("{layer}.attn.norm"))?;
            for part in ["q", "k", "v", "out"] {
                self.try_product(add, format!("{layer}.attn.{part}"), self.dim, self.dim)?;
                if self.head_norms && part != "out" {
                    add(Role::Vector, format!("{layer}.attn.{part}_norm"), 1, self.head_dim())?;
                }
            }
            if self.post_norms {
                norm(add, format!("{layer}.attn.post_norm"))?;
            }
            norm(add, format!("{layer}.ffn.norm"))?;
            if self.gated {
                self.try_product(add, format!("{layer}.ffn.gate"), self.ffn_dim, self.dim)?;
            }
            self.try_product(add, format!("{layer}.ffn.up"), self.ffn_dim, self.dim)?;
            self.try_product(add, format!("{layer}.ffn.down"), self.dim, self.ffn_dim)?;
            if self.post_norms {
                norm(add, format!("{layer}.ffn.post_norm"))?;
            }
        }
        if self.post_norm {
            norm(add, named("post_norm"))?;
        }
        if let Join::Mean { standardized, .. } = self.join {
            for part in ["mean_shift", "mean_scale"].into_iter().filter(|_| standardized) {
                add(Role::Vector, named(part), 1, self.dim)?;
            }
            add(Role::Vector, named("mean_norm"), 1, self.dim)?;
        }
        let mut product = |name: &str, rows: u32, cols: u32| {
            add(Role::Matrix, named(name), rows, cols)?;
            match self.adapter_bias {
                true => add(Role::Vector, named(&format!("{name}_bias")), 1, rows),
                false => Ok(()),
            }
        };
        if self.adapter() {
            product("adapter.up", self.adapter_dim, self.dim * self.merged())?;
        }
        if self.adapter_down {
            product("adapter.down", self.adapter_dim, self.adapter_dim)?;
        }
        product("projection", dim, self.adapter_dim)?;
        if self.vector_norm {
            add(Role::Vector, named("norm"), 1, dim)?;
        }
        Ok(())
    }
    /// A product of a block, its bias, and the least and the most of what goes into it and of what comes out.
    fn try_product<E>(
        &self,
        add: &mut impl FnMut(Role, String, u32, u32) -> Result<(), E>,
        name: String,
        rows: u32,
        cols: u32,
    ) -> Result<(), E> {
        add(Role::Matrix, name.clone(), rows, cols)?;
        if self.bias {
            add(Role::Vector, format!("{name}_bias"), 1, rows)?;
        }
        for bound in CLIPS.into_iter().filter(|_| self.clipped) {
            add(Role::Vector, format!("{name}_{bound}"), 1, 1)?;
        }
        Ok(())
    }
}
