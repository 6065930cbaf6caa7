//! Rotation tables: `inv_freq` as transformers computes it, one f32 operation after another.
//!
//! Su et al. 2021, <https://arxiv.org/abs/2104.09864>; linear position interpolation: Chen et al. 2023,
//! <https://arxiv.org/abs/2306.15595>; `llama3`: section 4.2 of <https://arxiv.org/abs/2407.21783>.

use super::config::Config;
use crate::checkpoint::ImportError;

/// What tells one table from another.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rope {
    theta: f64,
    /// Part of a head that is rotated, its first elements.
    partial: f64,
    scaling: Scaling,
}

#[derive(Debug, Clone, PartialEq)]
enum Scaling {
    None,
    Linear {
        factor: f32,
    },
    /// The first `part` of the pairs rotate, as fast as if all did; the others stay.
    Proportional {
        part: f64,
        factor: f32,
    },
    Llama3 {
        factor: f32,
        low: f64,
        high: f64,
        original_context: f64,
    },
    /// What each frequency is divided by: a GGUF carries the rule of Llama 3 as its result.
    Factors(Vec<f32>),
}

impl Rope {
    pub const fn plain(theta: f64) -> Self {
        Self { theta, partial: 1.0, scaling: Scaling::None }
    }

    /// Gemma 4's rule for full layers.
    pub const fn proportional(theta: f64, part: f64, factor: f64) -> Self {
        Self { theta, partial: 1.0, scaling: Scaling::Proportional { part, factor: factor as f32 } }
    }

    pub fn theta(&self) -> f64 {
        self.theta
    }

    /// The one table of a model: transformers 4 writes `rope_theta` and `rope_scaling`, transformers 5
    /// `rope_parameters`; where both are there, `rope_scaling` wins.
    pub fn from_model(config: &Config<'_>, default_theta: f64) -> Result<Self, ImportError> {
        Self::from_partial_model(config, default_theta, 1.0)
    }

    /// [`from_model`](Self::from_model) for a family that rotates `default_partial` of a head where nothing is said.
    pub fn from_partial_model(
        config: &Config<'_>,
        default_theta: f64,
        default_partial: f64,
    ) -> Result<Self, ImportError> {
        Self::from_model_but(&[], config, default_theta, default_partial)
    }

    /// [`from_partial_model`](Self::from_partial_model) for a family whose pairs turn by positions along the axes of an
    /// image or a video. Of text, all of those are one.
    pub fn from_model_with_axes(
        config: &Config<'_>,
        default_theta: f64,
        default_partial: f64,
    ) -> Result<Self, ImportError> {
        let axes = &["mrope_interleaved", "mrope_section"];
        Self::from_model_but(axes, config, default_theta, default_partial)
    }

    /// The table of a model whose rope object may have `harmless` keys.
    fn from_model_but(
        harmless: &[&str],
        config: &Config<'_>,
        default_theta: f64,
        default_partial: f64,
    ) -> Result<Self, ImportError> {
        let theta = config.f64("rope_theta")?.unwrap_or(default_theta);
        // Only a family with such a default has been seen to rotate parts of heads.
        if default_partial == 1.0 {
            config.only("partial_rotary_factor", &[1.into()], "only a whole head can be rotated")?;
        }
        let partial = config.f64("partial_rotary_factor")?.unwrap_or(default_partial);
        config.only("rope_interleaved", &[false.into()], "only the half-split order is supported")?;
        let new = config.object("rope_parameters")?;
        match config.object("rope_scaling")?.or(new) {
            None => Ok(Self { partial, ..Self::plain(theta) }),
            Some(object) if default_partial == 1.0 => Self::from_object(&object, theta, config),
            Some(object) => {
                let partial = object.f64("partial_rotary_factor")?.unwrap_or(partial);
                Ok(Self { partial, ..Self::from_partial_object(&object, theta, config, harmless)? })
            }
        }
    }

    /// One `rope_parameters` or `rope_scaling` object of `model`.
    pub fn from_object(object: &Config<'_>, theta: f64, model: &Config<'_>) -> Result<Self, ImportError> {
        object.only("partial_rotary_factor", &[1.into()], "only a whole head can be rotated")?;
        Self::from_partial_object(object, theta, model, &[])
    }

    /// [`from_object`](Self::from_object) where the part of a head is the caller's to read.
    fn from_partial_object(
        object: &Config<'_>,
        theta: f64,
        model: &Config<'_>,
        harmless: &[&str],
    ) -> Result<Self, ImportError> {
        let theta = object.f64("rope_theta")?.unwrap_or(theta);
        let legacy = object.str("type")?;
        let need = |key: &str| {
            object.f64(key)?.ok_or_else(|| object.refuse(key, "this kind of rope needs a number above zero"))
        };
        let kind = object.str("rope_type")?.or(legacy).unwrap_or("default");
        let scaling = match kind {
            "default" => Scaling::None,
            "linear" => Scaling::Linear { factor: need("factor")? as f32 },
            "llama3" => {
                let context = f64::from(model.size("max_position_embeddings", u32::MAX)?);
                let original_context = object.f64("original_max_position_embeddings")?.unwrap_or(context);
                let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
                if high < low {
                    return Err(object.refuse("high_freq_factor", "it must not be below low_freq_factor"));
                }
                Scaling::Llama3 { factor: need("factor")? as f32, low, high, original_context }
            }
            "factors" => {
                let factors = object.numbers("factors")?.unwrap_or_default();
                Scaling::Factors(factors.into_iter().map(|f| f as f32).collect())
            }
            _ => {
                let key = if object.has("rope_type") { "rope_type" } else { "type" };
                return Err(object.refuse(key, "supported are default, linear and llama3"));
            }
        };
        object.finish(harmless)?;
        Ok(Self { theta, partial: 1.0, scaling })
    }

    /// Elements of a head of `head_dim` that are rotated.
    pub fn rotated(&self, head_dim: u32) -> u32 {
        (f64::from(head_dim) * self.partial) as u32
    }

    /// Refuses a part of a head of which no pairs can be made.
    pub fn check_pairs(&self, model: &Config<'_>, head_dim: u32) -> Result<(), ImportError> {
        let rotated = self.rotated(head_dim);
        if rotated == 0 || !rotated.is_multiple_of(2) || rotated > head_dim {
            let rule =
                format!("it makes {rotated} of {head_dim} elements of a head, and pairs of them are rotated");
            return Err(model.refuse("partial_rotary_factor", rule));
        }
        Ok(())
    }

    /// Half as many inverse frequencies as elements are rotated; `None` where the config lists another number of
    /// factors.
    pub fn frequencies(&self, head_dim: u32) -> Option<Vec<f32>> {
        let rotated = self.rotated(head_dim);
        // The power is rounded once from f64: the nearest f32 to what any f32 library should give.
        let plain = |i: u32| {
            let exponent = (2 * i) as f32 / rotated as f32;
            1.0 / f64::from(self.theta as f32).powf(f64::from(exponent)) as f32
        };
        if let Scaling::Proportional { part, factor } = self.scaling {
            let turning = (part * f64::from(head_dim) / 2.0) as u32;
            return Some(
                (0..rotated / 2).map(|i| if i < turning { plain(i) / factor } else { 0.0 }).collect(),
            );
        }
        (0..rotated / 2).map(|i| self.scaling.apply(i as usize, plain(i))).collect()
    }
}

impl Scaling {
    fn apply(&self, index: usize, frequency: f32) -> Option<f32> {
        match self {
            Scaling::None | Scaling::Proportional { .. } => Some(frequency),
            Scaling::Linear { factor } => Some(frequency / factor),
            Scaling::Factors(factors) => Some(frequency / factors.get(index)?),
            Scaling::Llama3 { factor, low, high, original_context } => {
                let wavelength = (2.0 * std::f64::consts::PI) as f32 / frequency;
                if wavelength > (original_context / low) as f32 {
                    return Some(frequency / factor);
                }
                // Where both factors are one, nothing lies between them.
                if wavelength < (original_context / high) as f32 || high == low {
                    return Some(frequency);
                }
                let smooth = (*original_context as f32 / wavelength - *low as f32) / (high - low) as f32;
                Some((1.0 - smooth) * frequency / factor + smooth * frequency)
            }
        }
    }
}
