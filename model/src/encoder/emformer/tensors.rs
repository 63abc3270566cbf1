//! The weights as Candle tensors on a device, and what one layer does with them: shared by the executors that are made of
//! Candle operations.
//!
//! Tensors are batch-first, `(batch, rows, dim)`.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::{sigmoid, softmax};

use crate::config::Activation;
use crate::error::ModelError;
use crate::loader::Weights;

use super::config::{EmformerConfig, OutputNorm};
use super::{NORM_EPSILON, STEM_SUBSAMPLING, sinusoids};

pub(super) struct Affine {
    weight: Tensor,
    bias: Tensor,
}

impl Affine {
    fn load(weights: &Weights, name: &str, device: &Device) -> Result<Self, ModelError> {
        let tensor = |kind: &str| -> Result<Tensor, ModelError> {
            Ok(weights.tensor(&format!("{name}.{kind}"))?.to_device(device)?)
        };
        Ok(Self {
            weight: tensor("weight")?,
            bias: tensor("bias")?,
        })
    }

    /// `x Wᵀ + b` over the last dimension.
    fn linear(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.broadcast_matmul(&self.weight.t()?)?.broadcast_add(&self.bias)
    }

    /// Layer norm over the last dimension.
    fn norm(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + NORM_EPSILON)?.sqrt()?;
        centred
            .broadcast_div(&deviation)?
            .broadcast_mul(&self.weight)?
            .broadcast_add(&self.bias)
    }

    /// Convolution of `(batch, channels, time)`, no padding, then GELU.
    fn convolve(&self, x: &Tensor, stride: usize) -> candle_core::Result<Tensor> {
        let channels = self.bias.dim(0)?;
        x.conv1d(&self.weight, 0, stride, 1, 1)?
            .broadcast_add(&self.bias.reshape((1, channels, 1))?)?
            .gelu_erf()
    }
}

pub(super) struct Layer {
    key_value: Affine,
    query: Affine,
    out_proj: Affine,
    norm_feed_forward: Affine,
    expand: Affine,
    contract: Affine,
    norm_input: Affine,
    norm_output: Option<Affine>,
}

struct Stem {
    conv1: Affine,
    conv2: Affine,
    positions: Tensor,
}

/// What a layer attends over besides its own rows.
pub(super) struct Context<'a> {
    /// Memories, not normed.
    pub(super) memories: Option<&'a Tensor>,
    /// Left context's keys and values.
    pub(super) left: Option<(&'a Tensor, &'a Tensor)>,
    /// `(queries, keys) u8`, or with `(batch, 1)` in front and 1 for equal queries: 1 where a key must not be seen.
    pub(super) mask: Option<&'a Tensor>,
    /// Lengths of the utterances.
    pub(super) lengths: &'a [usize],
}

pub(super) struct Attended {
    pub(super) right_context: Option<Tensor>,
    pub(super) utterance: Tensor,
    pub(super) memories: Option<Tensor>,
    /// Left context, then utterance.
    pub(super) key: Tensor,
    pub(super) value: Tensor,
}

/// Weights on a device.
pub(super) struct Tensors {
    pub(super) config: EmformerConfig,
    pub(super) dtype: DType,
    pub(super) device: Device,
    stem: Option<Stem>,
    pub(super) layers: Vec<Layer>,
    norm: Option<Affine>,
}

impl Tensors {
    /// Copies the weights to a device, keeping their type.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`super::expected_tensors`] is missing.
    pub(super) fn new(
        config: &EmformerConfig,
        weights: &Weights,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let encoder = config.clone();
        let load = |name: &str| Affine::load(weights, name, device);
        let layer = |index: usize| -> Result<Layer, ModelError> {
            let load = |name: &str| load(&format!("emformer_layers.{index}.{name}"));
            Ok(Layer {
                key_value: load("attention.emb_to_key_value")?,
                query: load("attention.emb_to_query")?,
                out_proj: load("attention.out_proj")?,
                norm_feed_forward: load("pos_ff.0")?,
                expand: load("pos_ff.1")?,
                contract: load("pos_ff.4")?,
                norm_input: load("layer_norm_input")?,
                norm_output: match encoder.output_norm {
                    OutputNorm::PerLayer => Some(load("layer_norm_output")?),
                    OutputNorm::Final => None,
                },
            })
        };
        let stem = match encoder.position_period {
            Some(period) => {
                let positions =
                    Tensor::from_vec(sinusoids(period, encoder.dim()), (period, encoder.dim()), device)?;
                // Through f32, as Whisper computes them.
                let positions = positions.to_dtype(DType::F32)?.to_dtype(weights.dtype())?;
                Some(Stem {
                    conv1: load("stem.conv1")?,
                    conv2: load("stem.conv2")?,
                    positions,
                })
            }
            None => None,
        };
        Ok(Self {
            dtype: weights.dtype(),
            device: device.clone(),
            stem,
            layers: (0..encoder.num_layers).map(layer).collect::<Result<_, _>>()?,
            norm: match encoder.output_norm {
                OutputNorm::PerLayer => None,
                OutputNorm::Final => Some(load("layer_norm")?),
            },
            config: encoder,
        })
    }

    /// Runs further feature frames through the stem: `features (batch, front + frames, width)` begin with the frames that the
    /// first convolution still sees, `carried (batch, dim)` is its last output; both are zeros in front of a stream. `positions`
    /// are those of all output frames, item after item. Returns `(batch, output frames, dim)` and what is carried on.
    pub(super) fn convolve(
        &self,
        features: &Tensor,
        carried: &Tensor,
        positions: &[u64],
    ) -> Result<(Tensor, Tensor), ModelError> {
        let Some(stem) = &self.stem else {
            return Ok((features.clone(), carried.clone()));
        };
        let x = stem.conv1.convolve(&features.transpose(1, 2)?.contiguous()?, 1)?;
        let last = x.narrow(2, x.dim(2)? - 1, 1)?.squeeze(2)?.contiguous()?;
        let x = Tensor::cat(&[&carried.unsqueeze(2)?, &x], 2)?;
        let x = stem
            .conv2
            .convolve(&x, STEM_SUBSAMPLING)?
            .transpose(1, 2)?
            .contiguous()?;
        let period = stem.positions.dim(0)? as u64;
        let index: Vec<u32> = positions
            .iter()
            .map(|position| (position % period) as u32)
            .collect();
        let sinusoids = stem
            .positions
            .index_select(&Tensor::new(index, &self.device)?, 0)?;
        Ok(((&x + sinusoids.reshape(x.shape())?)?, last))
    }

    pub(super) fn finish(&self, x: Tensor) -> Result<Tensor, ModelError> {
        match &self.norm {
            Some(norm) => Ok(norm.norm(&x)?),
            None => Ok(x),
        }
    }

    pub(super) fn uses_memory(&self) -> bool {
        self.config.max_memory_size > 0
    }

    /// `(batch, rows, dim)` → `(batch, segments, dim)`; the last, partial one has the mean of its own rows.
    pub(super) fn segment_means(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let (rows, segment) = (x.dim(1)?, self.config.segment_length);
        let mean = |begin: usize| x.narrow(1, begin, segment.min(rows - begin))?.mean_keepdim(1);
        let means: Vec<Tensor> = (0..rows)
            .step_by(segment)
            .map(mean)
            .collect::<candle_core::Result<_>>()?;
        Ok(Tensor::cat(&means, 1)?)
    }

    pub(super) fn summary(&self, layer: &Layer, x: &Tensor) -> Result<Option<Tensor>, ModelError> {
        if !self.uses_memory() {
            return Ok(None);
        }
        Ok(Some(self.segment_means(&layer.norm_input.norm(x)?)?))
    }

    pub(super) fn run_layer(
        &self,
        layer: &Layer,
        utterance: &Tensor,
        right_context: Option<&Tensor>,
        summary: Option<&Tensor>,
        context: &Context<'_>,
    ) -> Result<Attended, ModelError> {
        let rows: Vec<&Tensor> = right_context.into_iter().chain([utterance]).collect();
        let residual = Tensor::cat(&rows, 1)?;
        let normed = layer.norm_input.norm(&residual)?;
        let num_right = right_context.map_or(Ok(0), |x| x.dim(1))?;
        let num_utterance = utterance.dim(1)?;
        let num_memories = context.memories.map_or(Ok(0), |x| x.dim(1))?;

        let queries: Vec<&Tensor> = [&normed].into_iter().chain(summary).collect();
        let query = layer.query.linear(&Tensor::cat(&queries, 1)?)?;
        let keys: Vec<&Tensor> = context.memories.into_iter().chain([&normed]).collect();
        let key_value = layer.key_value.linear(&Tensor::cat(&keys, 1)?)?;
        let dim = self.config.dim();
        let mut key = key_value.narrow(2, 0, dim)?.contiguous()?;
        let mut value = key_value.narrow(2, dim, dim)?.contiguous()?;
        let longest = context.lengths.iter().copied().max().unwrap_or(0);
        if let Some((left_key, left_value)) = context.left {
            // A short final segment puts the left context among the utterance's keys: the attention is the same, the
            // order of what is remembered is not.
            let at = num_memories + num_right + num_utterance - longest;
            key = insert(&key, left_key, at)?;
            value = insert(&value, left_value, at)?;
        }
        let num_left = context.left.map_or(Ok(0), |(key, _)| key.dim(1))?;
        let padding = self.padding(
            context.lengths,
            key.dim(1)?,
            num_memories + num_right + num_utterance - longest + num_left,
        )?;
        let attended =
            layer
                .out_proj
                .linear(&self.attend(&query, &key, &value, context.mask, padding.as_ref())?)?;

        let memories = match summary {
            Some(summary) => {
                let out = attended.narrow(1, num_right + num_utterance, summary.dim(1)?)?;
                Some(if self.config.tanh_on_mem {
                    out.tanh()?
                } else {
                    out.clamp(-10f64, 10f64)?
                })
            }
            None => None,
        };
        let x = (attended.narrow(1, 0, num_right + num_utterance)? + residual)?;
        let hidden = layer.expand.linear(&layer.norm_feed_forward.norm(&x)?)?;
        let hidden = match self.config.activation {
            Activation::Relu => hidden.relu()?,
            Activation::Gelu => hidden.gelu_erf()?,
            Activation::Silu => (&hidden * sigmoid(&hidden)?)?,
        };
        let mut x = (layer.contract.linear(&hidden)? + x)?;
        if let Some(norm) = &layer.norm_output {
            x = norm.norm(&x)?;
        }
        let kept = num_memories + num_right;
        Ok(Attended {
            right_context: if num_right > 0 {
                Some(x.narrow(1, 0, num_right)?)
            } else {
                None
            },
            utterance: x.narrow(1, num_right, num_utterance)?,
            memories,
            key: key.narrow(1, kept, key.dim(1)? - kept)?,
            value: value.narrow(1, kept, value.dim(1)? - kept)?,
        })
    }

    fn attend(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        mask: Option<&Tensor>,
        padding: Option<&Tensor>,
    ) -> candle_core::Result<Tensor> {
        let heads = self.config.num_heads;
        let head_dim = self.config.dim() / heads;
        let split = |x: &Tensor| -> candle_core::Result<Tensor> {
            let (batch, rows, _) = x.dims3()?;
            x.reshape((batch, rows, heads, head_dim))?
                .transpose(1, 2)?
                .contiguous()
        };
        let query = (split(query)? * (head_dim as f64).powf(-0.5))?;
        let mut scores = query.matmul(&split(key)?.t()?)?;
        let hidden = Tensor::new(self.config.negative_inf, &self.device)?
            .to_dtype(self.dtype)?
            .broadcast_as(scores.shape())?;
        if let Some(mask) = mask {
            scores = mask.broadcast_as(scores.shape())?.where_cond(&hidden, &scores)?;
        }
        if let Some(padding) = padding {
            let (batch, keys) = padding.dims2()?;
            let padding = padding.reshape((batch, 1, 1, keys))?;
            scores = padding
                .broadcast_as(scores.shape())?
                .where_cond(&hidden, &scores)?;
        }
        softmax(&scores, D::Minus1)?
            .matmul(&split(value)?)?
            .transpose(1, 2)?
            .contiguous()?
            .flatten_from(2)
    }

    /// `(batch, keys) u8`, 1 for keys past an item's end; none for a batch of one.
    fn padding(&self, lengths: &[usize], keys: usize, before: usize) -> Result<Option<Tensor>, ModelError> {
        // Items of one length have no keys past their end.
        if lengths.iter().min() == lengths.iter().max() {
            return Ok(None);
        }
        let values: Vec<u8> = lengths
            .iter()
            .flat_map(|length| (0..keys).map(move |key| u8::from(key >= length + before)))
            .collect();
        Ok(Some(Tensor::from_vec(
            values,
            (lengths.len(), keys),
            &self.device,
        )?))
    }
}

fn insert(x: &Tensor, rows: &Tensor, at: usize) -> Result<Tensor, ModelError> {
    let count = x.dim(1)?;
    let before = x.narrow(1, 0, at)?;
    if at == count {
        return Ok(Tensor::cat(&[&before, rows], 1)?);
    }
    let after = x.narrow(1, at, count - at)?;
    Ok(if at == 0 {
        Tensor::cat(&[rows, &after], 1)?
    } else {
        Tensor::cat(&[&before, rows, &after], 1)?
    })
}
