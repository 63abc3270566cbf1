//! The three ways to weight encoder frames.

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::ops::softmax;

use crate::encoder::recurrent::scan::Affine;
use crate::error::ModelError;
use crate::loader::{Expected, Weights};

use super::config::{AttentionDecoderConfig, AttentionType};

/// Content-based, with or without a view of the last weights.
struct Additive {
    encoder: Affine,
    decoder: Affine,
    score: Affine,
    output: Affine,
    location: Option<Location>,
    scaling: f64,
}

struct Location {
    /// `(channels, 1, 2 · kernel size + 1)`.
    taps: Tensor,
    linear: Affine,
    padding: usize,
}

struct KeyValue {
    key: Affine,
    query: Affine,
    value: Affine,
    scaling: f64,
}

enum Kind {
    Additive(Additive),
    KeyValue(KeyValue),
}

pub(super) struct Attention(Kind);

/// An utterance's part: the encoder's frames projected once, which of them are real, and the last weights.
#[derive(Debug, Clone)]
pub(super) struct Attended {
    /// Projected frames or keys, `(batch, frames, attention dim)`.
    keys: Tensor,
    /// What is summed: encoder frames, or values.
    values: Tensor,
    /// `(batch, frames) u8`.
    valid: Tensor,
    /// `(batch, frames)`.
    weights: Tensor,
}

/// Every tensor of the attention with its shape.
pub(super) fn expected_tensors(config: &AttentionDecoderConfig) -> Vec<Expected> {
    let (attention, encoder, hidden) = (config.attn_dim, config.enc_dim, config.hidden_size);
    let mut expected = Vec::new();
    let mut linear = |name: &str, inputs: usize| {
        expected.push((format!("attn.{name}.weight"), vec![attention, inputs]));
        expected.push((format!("attn.{name}.bias"), vec![attention]));
    };
    if config.attn_type == AttentionType::KeyValue {
        linear("key_linear", encoder);
        linear("query_linear", hidden);
        linear("value_linear", encoder);
        return expected;
    }
    linear("mlp_enc", encoder);
    linear("mlp_dec", hidden);
    linear("mlp_out", encoder);
    if config.attn_type == AttentionType::Location {
        let (channels, taps) = (
            config.channels.unwrap_or(0),
            2 * config.kernel_size.unwrap_or(0) + 1,
        );
        linear("mlp_loc", channels);
        expected.push(("attn.conv_loc.weight".into(), vec![channels, 1, taps]));
    }
    expected.push(("attn.mlp_attn.weight".into(), vec![1, attention]));
    expected
}

impl Attention {
    pub(super) fn new(
        config: &AttentionDecoderConfig,
        weights: &Weights,
    ) -> std::result::Result<Self, ModelError> {
        let linear = |name: &str| Affine::load(weights, &format!("attn.{name}"));
        Ok(Self(match config.attn_type {
            AttentionType::KeyValue => Kind::KeyValue(KeyValue {
                key: linear("key_linear")?,
                query: linear("query_linear")?,
                value: linear("value_linear")?,
                // Through f32, as the original's.
                scaling: f64::from((config.attn_dim as f32).sqrt()),
            }),
            AttentionType::Content | AttentionType::Location => Kind::Additive(Additive {
                encoder: linear("mlp_enc")?,
                decoder: linear("mlp_dec")?,
                score: Affine::without_bias(weights, "attn.mlp_attn")?,
                output: linear("mlp_out")?,
                location: match config.attn_type {
                    AttentionType::Location => Some(Location {
                        taps: weights.tensor("attn.conv_loc.weight")?,
                        linear: linear("mlp_loc")?,
                        padding: config.kernel_size.unwrap_or(0),
                    }),
                    _ => None,
                },
                scaling: config.scaling,
            }),
        }))
    }

    /// Projects `encoder_output (batch, frames, encoder dim)`; the first weights are even over the real frames.
    pub(super) fn begin(&self, encoder_output: &Tensor, lengths: &[usize]) -> Result<Attended> {
        let (batch, frames, _) = encoder_output.dims3()?;
        let each = |value: &dyn Fn(usize) -> f64| -> Result<Tensor> {
            let mut values = vec![0.0f64; batch * frames];
            for (row, &length) in values.chunks_exact_mut(frames).zip(lengths) {
                row[..length].fill(value(length));
            }
            Tensor::from_vec(values, (batch, frames), &Device::Cpu)
        };
        let (keys, values) = match &self.0 {
            Kind::Additive(additive) => (additive.encoder.apply(encoder_output)?, encoder_output.clone()),
            Kind::KeyValue(attention) => (
                attention.key.apply(encoder_output)?,
                attention.value.apply(encoder_output)?,
            ),
        };
        Ok(Attended {
            weights: each(&|length| 1.0 / length as f64)?.to_dtype(keys.dtype())?,
            valid: each(&|_| 1.0)?.to_dtype(DType::U8)?,
            keys,
            values: values.contiguous()?,
        })
    }

    /// The weighted sum `(batch, attention dim)` for `decoder (batch, hidden)`, and the weights `(batch, frames)`.
    pub(super) fn attend(&self, attended: &mut Attended, decoder: &Tensor) -> Result<(Tensor, Tensor)> {
        let scores = match &self.0 {
            Kind::Additive(additive) => {
                let query = additive.decoder.apply(decoder)?.unsqueeze(1)?;
                let mut sum = attended.keys.broadcast_add(&query)?;
                if let Some(location) = &additive.location {
                    let weights = attended.weights.unsqueeze(1)?.contiguous()?;
                    let near = weights.conv1d(&location.taps, location.padding, 1, 1, 1)?;
                    sum = (sum + location.linear.apply(&near.transpose(1, 2)?)?)?;
                }
                let scores = additive.score.apply(&sum.tanh()?)?.squeeze(D::Minus1)?;
                (scores * additive.scaling)?
            }
            Kind::KeyValue(attention) => {
                let query = attention.query.apply(decoder)?.unsqueeze(2)?;
                (attended.keys.matmul(&query)?.squeeze(2)? / attention.scaling)?
            }
        };
        let never =
            Tensor::full(f64::NEG_INFINITY, scores.shape(), scores.device())?.to_dtype(scores.dtype())?;
        let weights = softmax(&attended.valid.where_cond(&scores, &never)?, D::Minus1)?;
        let sum = weights.unsqueeze(1)?.matmul(&attended.values)?.squeeze(1)?;
        let context = match &self.0 {
            Kind::Additive(additive) => additive.output.apply(&sum)?,
            Kind::KeyValue(_) => sum,
        };
        attended.weights = weights.clone();
        Ok((context, weights))
    }
}
