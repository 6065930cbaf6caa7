//! The weights of a model: the tensors of a file as a backend holds them.

use muse_kernels::Expert;

/// The weights of a model. Matrices are `(out_features, in_features)`.
pub struct Weights<W> {
    pub embed: W,              // (vocab, dim)
    pub embed_norm: Option<W>, // (dim)
    pub per_layer: Option<PerLayerWeights<W>>,
    pub ropes: Vec<W>, // (n / 2) each, n <= head_dim
    pub layers: Vec<LayerWeights<W>>,
    pub norm: W,         // (dim)
    pub head: Option<W>, // (vocab, dim); none where the embedding is the head
}

impl<W> Weights<W> {
    /// What makes logits.
    pub fn output(&self) -> &W {
        self.head.as_ref().unwrap_or(&self.embed)
    }
}

/// The weights of a drafter, which takes table and head from its target.
pub struct DrafterWeights<W> {
    pub into: Affine<W>,       // (dim, layers read * dim), or (dim, 2 * dim)
    pub read_norm: W,          // (dim): of what `into` gives, or of what the target gave
    pub embed_norm: Option<W>, // (dim): of a token's embedding
    pub ropes: Vec<W>,         // (n / 2) each, n <= head_dim
    pub layers: Vec<LayerWeights<W>>,
    pub norm: W, // (dim)
}

/// What makes each layer's vector of a token.
pub struct PerLayerWeights<W> {
    pub table: W,      // (vocab, layers * per_layer)
    pub projection: W, // (layers * per_layer, dim)
    pub norm: W,       // (per_layer)
}

/// What a layer makes of its vector of a token.
pub struct PerLayerHalf<W> {
    pub gate: W, // (per_layer, dim)
    pub out: W,  // (dim, per_layer)
    pub norm: W, // (dim)
}

/// One block.
pub struct LayerWeights<W> {
    pub attn_norm: W, // (dim)
    pub mixer: MixerWeights<W>,
    pub attn_post_norm: Option<W>, // (dim)
    pub attn_keep: Option<W>,      // (dim)
    pub ffn_norm: W,               // (dim)
    pub ffn: Option<FfnWeights<W>>,
    pub experts: Option<ExpertsWeights<W>>,
    pub ffn_post_scale: Option<W>, // (dim)
    pub ffn_post_norm: Option<W>,  // (dim)
    pub ffn_keep: Option<W>,       // (dim)
    pub per_layer: Option<PerLayerHalf<W>>,
    pub scale: Option<f32>,
}

/// What a layer mixes tokens by.
pub enum MixerWeights<W> {
    Attention(AttentionWeights<W>),
    DeltaNet(DeltaNetWeights<W>),
    Latent(LatentAttentionWeights<W>),
}

/// Grouped-query attention.
pub struct AttentionWeights<W> {
    pub q: Affine<W>,               // (heads * head_dim, dim)
    pub kv: Option<[Affine<W>; 2]>, // (kv_heads * head_dim, dim) each; none where an earlier layer's are read
    pub q_norm: Option<W>,          // (head_dim)
    pub k_norm: Option<W>,          // (head_dim)
    pub v_norm: Option<W>,          // (head_dim)
    pub mix_norm: Option<W>,        // (head_dim)
    pub gate: Option<W>,            // (heads * head_dim, dim)
    pub out: Affine<W>,             // (dim, heads * head_dim)
}

/// Gated DeltaNet; `channels` are queries, keys and values together.
pub struct DeltaNetWeights<W> {
    pub qkv: W,           // (channels, dim)
    pub gate: W,          // (value_heads * value_dim, dim)
    pub decay: Affine<W>, // (value_heads, dim)
    pub beta: W,          // (value_heads, dim)
    pub taps: W,          // (taps, channels)
    pub rate: W,          // (value_heads)
    pub norm: W,          // (value_dim)
    pub out: W,           // (dim, value_heads * value_dim)
}

/// Multi-head latent attention; `query` is what queries are made of.
pub struct LatentAttentionWeights<W> {
    pub q_down: Option<NormedProduct<W>>, // (query, dim), (query); none where queries are made of the input
    pub q: W,                             // (heads * key_dim, query)
    pub q_rope: W,                        // (heads * rope_dim, query)
    pub latent: NormedProduct<W>,         // (rank, dim), (rank)
    pub k_rope: Affine<W>,                // (rope_dim, dim)
    pub key_up: W,                        // (heads * rank, key_dim)
    pub value_up: W,                      // (heads * value_dim, rank)
    pub out: Affine<W>,                   // (dim, heads * value_dim)
    pub index: Option<IndexWeights<W>>,
}

/// What scores the positions that queries meet.
pub struct IndexWeights<W> {
    pub q: W,           // (heads * head_dim, query)
    pub k: W,           // (head_dim, dim)
    pub k_norm: [W; 2], // weights and biases, (head_dim) each
    pub weight: W,      // (heads, dim)
}

/// A matrix and the norm of its product.
pub struct NormedProduct<W> {
    pub product: Affine<W>, // (out, in)
    pub norm: W,            // (out)
}

/// A dense feed-forward.
pub struct FfnWeights<W> {
    pub gate: Affine<W>,       // (ffn_dim, dim)
    pub up: Affine<W>,         // (ffn_dim, dim)
    pub down: Affine<W>,       // (dim, ffn_dim)
    pub token_gate: Option<W>, // (1, dim)
}

/// A mixture of experts.
pub struct ExpertsWeights<W> {
    pub router: W,               // (experts, dim)
    pub choice_bias: Option<W>,  // (experts)
    pub expert_scale: Option<W>, // (experts)
    pub own_norms: Option<OwnNorms<W>>,
    pub latent: Option<LatentWeights<W>>,
    pub experts: Vec<Expert<W>>,
    /// What an expert gives is multiplied by the first and normed with the second.
    pub each_norm: Option<[W; 2]>, // (width) each
}

/// Norms around experts that read the residual stream.
pub struct OwnNorms<W> {
    pub router: W, // (dim): of what the router reads
    pub input: W,  // (dim): of what experts read
    pub output: W, // (dim): of what they give
    pub beside: W, // (dim): of what the feed-forward beside them gives
}

/// What makes the input of experts that run at a width of their own, and takes their output back.
pub struct LatentWeights<W> {
    pub into: W, // (latent, dim)
    pub norm: W, // (latent)
    pub out: W,  // (dim, latent)
}

/// A matrix and what is added to its product.
pub struct Affine<W> {
    pub weight: W,       // (out, in)
    pub bias: Option<W>, // (out)
}
