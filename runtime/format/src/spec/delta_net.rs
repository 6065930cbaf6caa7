//! A layer's mixer that keeps a matrix of fixed size for each head in place of keys and values.

use serde::{Deserialize, Serialize};

use super::bounded;
use crate::{FormatError, Role};

/// Largest [`DeltaNet::key_dim`].
pub const DELTA_KEY_DIM_MAX: u32 = 256;
const HEADS_MAX: u32 = 4096;
const VALUE_DIM_MAX: u32 = 4096;
const TAPS_MAX: u32 = 16;

/// Gated DeltaNet: queries, keys and values go through a short convolution; each head's state forgets by a factor and
/// is corrected along the key; what the query reads is normed and gated by `silu(gate(x))`. Yang et al. 2024,
/// <https://arxiv.org/abs/2412.06464>.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeltaNet {
    pub key_heads: u32,
    /// A multiple of `key_heads`; neighbours share a key head.
    pub value_heads: u32,
    pub key_dim: u32,
    pub value_dim: u32,
    /// Rows that the convolution sees, its own included.
    pub taps: u32,
}

impl DeltaNet {
    /// Width of queries, keys and values together.
    pub fn channels(&self) -> u32 {
        2 * self.key_heads * self.key_dim + self.values()
    }

    /// Width of values, and of what comes out.
    pub fn values(&self) -> u32 {
        self.value_heads * self.value_dim
    }

    pub(super) fn validate(&self, layer: usize) -> Result<(), FormatError> {
        let bounds = [
            ("key_heads", self.key_heads, HEADS_MAX),
            ("value_heads", self.value_heads, HEADS_MAX),
            ("key_dim", self.key_dim, DELTA_KEY_DIM_MAX),
            ("value_dim", self.value_dim, VALUE_DIM_MAX),
            ("taps", self.taps, TAPS_MAX),
        ];
        let field = |name: &str| format!("layers[{layer}].delta_net.{name}");
        for (name, value, max) in bounds {
            bounded(field(name), value, max)?;
        }
        if !self.value_heads.is_multiple_of(self.key_heads) {
            let value = format!("{} of {} key heads", self.value_heads, self.key_heads);
            let rule = "value heads must be a multiple of key heads";
            return Err(FormatError::Spec { field: field("value_heads"), value, rule });
        }
        Ok(())
    }

    /// Shows `add` the role, name, rows and columns of one tensor after another until it fails.
    pub(crate) fn try_each_tensor<E>(
        &self,
        dim: u32,
        add: &mut impl FnMut(Role, &str, u32, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        add(Role::Matrix, "delta.qkv", self.channels(), dim)?;
        add(Role::Matrix, "delta.gate", self.values(), dim)?;
        add(Role::Router, "delta.decay", self.value_heads, dim)?;
        add(Role::Vector, "delta.decay_bias", 1, self.value_heads)?;
        add(Role::Router, "delta.beta", self.value_heads, dim)?;
        add(Role::Vector, "delta.taps", self.taps, self.channels())?;
        add(Role::Vector, "delta.rate", 1, self.value_heads)?;
        add(Role::Vector, "delta.norm", 1, self.value_dim)?;
        add(Role::Matrix, "delta.out", dim, self.values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Attention, Ffn, Layer, Mixer, Spec};

    const HEADS: DeltaNet = DeltaNet { key_heads: 2, value_heads: 6, key_dim: 3, value_dim: 5, taps: 4 };

    fn spec(delta_net: DeltaNet) -> Spec {
        let ffn = Some(Ffn { dim: 20, activation: Activation::Silu, bias: false });
        let attention = Layer { ffn: ffn.clone(), ..Layer::new(Attention::new(2, 1, 8)) };
        let layer = Layer { ffn, token_gate: true, ..Layer::of(Mixer::DeltaNet(delta_net)) };
        let layers = vec![layer, attention];
        Spec { dim: 16, vocab: 40, context: 64, norm_eps: 1e-6, tied_head: true, layers, ..Spec::default() }
    }

    #[test]
    fn a_layer_asks_for_the_tensors_of_its_mixer() {
        let spec = spec(HEADS);
        spec.validate().unwrap();
        let tensors = spec.tensors();
        let own: Vec<_> = tensors
            .iter()
            .filter(|t| t.name.starts_with("l0."))
            .map(|t| (&t.name[3..], t.rows, t.cols))
            .collect();
        let mixer = [
            ("delta.qkv", 42, 16),
            ("delta.gate", 30, 16),
            ("delta.decay", 6, 16),
            ("delta.decay_bias", 1, 6),
            ("delta.beta", 6, 16),
            ("delta.taps", 4, 42),
            ("delta.rate", 1, 6),
            ("delta.norm", 1, 5),
            ("delta.out", 16, 30),
        ];
        assert_eq!((own[0], &own[1..10]), (("attn.norm", 1, 16), &mixer[..]));
        assert_eq!(own.last(), Some(&("ffn.token_gate", 1, 16)));
        assert!(tensors.iter().any(|t| t.name == "l1.attn.q"));
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<Spec>(&json).unwrap(), spec);
        assert!(json.contains(r#""mixer":{"delta_net":{"key_heads":2,"#), "{json}");
    }

    #[test]
    fn heads_out_of_bounds_are_refused_by_field() {
        let cases = [
            ("key_heads", DeltaNet { key_heads: 0, ..HEADS }),
            ("key_heads", DeltaNet { key_heads: 4097, ..HEADS }),
            ("value_heads", DeltaNet { value_heads: 0, ..HEADS }),
            ("value_heads", DeltaNet { value_heads: 7, ..HEADS }),
            ("value_heads", DeltaNet { value_heads: u32::MAX, ..HEADS }),
            ("key_dim", DeltaNet { key_dim: 0, ..HEADS }),
            ("key_dim", DeltaNet { key_dim: DELTA_KEY_DIM_MAX + 1, ..HEADS }),
            ("value_dim", DeltaNet { value_dim: u32::MAX, ..HEADS }),
            ("taps", DeltaNet { taps: 0, ..HEADS }),
            ("taps", DeltaNet { taps: 17, ..HEADS }),
        ];
        for (name, delta_net) in cases {
            let error = spec(delta_net.clone()).validate().unwrap_err();
            let expected = format!("layers[0].delta_net.{name}");
            assert!(
                matches!(&error, FormatError::Spec { field, .. } if *field == expected),
                "{delta_net:?}: {error}"
            );
        }
        let most = DeltaNet {
            key_heads: HEADS_MAX,
            value_heads: HEADS_MAX,
            key_dim: DELTA_KEY_DIM_MAX,
            value_dim: VALUE_DIM_MAX,
            taps: TAPS_MAX,
        };
        spec(most).validate().unwrap();
        let mut gateless = spec(HEADS);
        gateless.layers[0].ffn = None;
        let error = gateless.validate().unwrap_err();
        assert!(
            matches!(&error, FormatError::Spec { field, .. } if field == "layers[0].token_gate"),
            "{error}"
        );
    }
}
