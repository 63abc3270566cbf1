//! The reference executor: Candle operations, `f32` or `f64`, any device, whole batches.
//!
//! [`Reference::forward`] and [`Reference::infer`] reproduce torchaudio's methods of the same names, with what they
//! do to batches of unequal lengths: the padding mask is relative to the longest item, a batch of one is never masked,
//! right-context columns never are. The one deliberate difference: torchaudio converts scores to `f32` before the
//! softmax even in an `f64` model, this executor computes in the weights' type throughout.
//!
//! Tensors are batch-first, `(batch, rows, dim)`.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::{sigmoid, softmax};

use crate::config::Activation;
use crate::encoder::{Geometry, OfflineEncoder};
use crate::error::ModelError;
use crate::loader::Weights;

use super::config::{EmformerConfig, OutputNorm};
use super::{NORM_EPSILON, STEM_LOOKAHEAD, STEM_SUBSAMPLING, geometry, sinusoids};

struct Affine {
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

struct Layer {
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

/// What one layer remembers between calls of [`Reference::infer`]: only valid rows, oldest first.
#[derive(Debug, Clone, Default)]
pub struct LayerState {
    /// `(batch, min(M, calls), dim)`; none before the first call or when the bank has no room.
    pub memory: Option<Tensor>,
    /// `(batch, min(LC, past), dim)`, after projection.
    pub key: Option<Tensor>,
    /// As `key`.
    pub value: Option<Tensor>,
    /// Frames seen; grows by a whole segment with every call.
    pub past_length: usize,
}

/// What a layer attends over besides its own rows.
struct Context<'a> {
    /// Memories, not normed.
    memories: Option<&'a Tensor>,
    /// Left context's keys and values.
    left: Option<(&'a Tensor, &'a Tensor)>,
    /// `(queries, keys) u8`, 1 where a key must not be seen.
    mask: Option<&'a Tensor>,
    /// Lengths of the utterances.
    lengths: &'a [usize],
}

struct Attended {
    right_context: Option<Tensor>,
    utterance: Tensor,
    memories: Option<Tensor>,
    /// Left context and utterance.
    key: Tensor,
    value: Tensor,
}

/// Weights as Candle tensors.
pub struct Reference {
    config: EmformerConfig,
    dtype: DType,
    device: Device,
    stem: Option<Stem>,
    layers: Vec<Layer>,
    norm: Option<Affine>,
    geometry: Geometry,
}

impl Reference {
    /// Copies the weights to a device, keeping their type.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`super::expected_tensors`] is missing.
    pub fn new(config: &EmformerConfig, weights: &Weights, device: &Device) -> Result<Self, ModelError> {
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
            geometry: geometry(config),
            config: encoder,
        })
    }

    /// Type of the weights and of all results.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Runs whole feature streams from their beginning through the stem: `(batch, 2 n + 1, features)` →
    /// `(batch, n, dim)`, positions from 0. Without a stem the input is returned.
    ///
    /// # Errors
    /// [`ModelError::Input`] for a number of frames that is not odd.
    pub fn embed(&self, features: &Tensor) -> Result<Tensor, ModelError> {
        let Some(stem) = &self.stem else {
            return Ok(features.clone());
        };
        let (batch, frames, width) = features.dims3()?;
        if frames < STEM_SUBSAMPLING + STEM_LOOKAHEAD || frames % STEM_SUBSAMPLING != STEM_LOOKAHEAD {
            return Err(ModelError::Input {
                name: "features",
                expected: "an odd number of frames, 3 or more".into(),
                actual: format!("{frames} frames"),
            });
        }
        let zeros = Tensor::zeros((batch, width, 1), self.dtype, &self.device)?;
        let x = Tensor::cat(&[&zeros, &features.transpose(1, 2)?.contiguous()?], 2)?;
        let x = stem.conv1.convolve(&x, 1)?;
        let zeros = Tensor::zeros((batch, self.config.dim(), 1), self.dtype, &self.device)?;
        let x = Tensor::cat(&[&zeros, &x], 2)?;
        let x = stem
            .conv2
            .convolve(&x, STEM_SUBSAMPLING)?
            .transpose(1, 2)?
            .contiguous()?;
        let period = stem.positions.dim(0)?;
        let index: Vec<u32> = (0..x.dim(1)?).map(|frame| (frame % period) as u32).collect();
        let index = Tensor::new(index, &self.device)?;
        Ok(x.broadcast_add(&stem.positions.index_select(&index, 0)?)?)
    }

    /// Whole utterances: `(batch, T + R, dim)` → `(batch, T, dim)`. The last R frames are right context only;
    /// `lengths` do not count them.
    ///
    /// # Errors
    /// [`ModelError::Input`] for shapes that do not fit.
    pub fn forward(&self, input: &Tensor, lengths: &[usize]) -> Result<Tensor, ModelError> {
        let (batch, frames, dim) = input.dims3()?;
        let (segment, right) = (self.config.segment_length, self.config.right_context_length);
        let count = frames.saturating_sub(right);
        require(
            dim == self.config.dim(),
            "input",
            || format!("frames of {}", self.config.dim()),
            dim,
        )?;
        require(count > 0, "input", || format!("more than {right} frames"), frames)?;
        self.check_lengths(lengths, batch, count)?;
        let num_segments = count.div_ceil(segment);
        let mut blocks = Vec::new();
        for index in 1..=num_segments {
            let begin = if index < num_segments {
                index * segment
            } else {
                count
            };
            if right > 0 {
                blocks.push(input.narrow(1, begin, right)?);
            }
        }
        let mut right_context = cat(&blocks.iter().collect::<Vec<_>>())?;
        let mut x = input.narrow(1, 0, count)?;
        let mask = self.mask(num_segments, count)?;
        let mut memories = if self.uses_memory() {
            drop_last(&self.segment_means(&x)?)?
        } else {
            None
        };
        for layer in &self.layers {
            let summary = self.summary(layer, &x)?;
            let context = Context {
                memories: memories.as_ref(),
                left: None,
                mask: Some(&mask),
                lengths,
            };
            let out = self.run_layer(layer, &x, right_context.as_ref(), summary.as_ref(), &context)?;
            (x, right_context) = (out.utterance, out.right_context);
            memories = match out.memories {
                Some(next) => drop_last(&next)?,
                None => None,
            };
        }
        self.finish(x)
    }

    /// One segment of every item, as torchaudio streams: `(batch, L + R, dim)` → `(batch, L, dim)` and the output
    /// lengths. `lengths` count the right context. `states` are empty at the beginning, then one for each layer.
    ///
    /// # Errors
    /// [`ModelError::Input`] for shapes that do not fit.
    pub fn infer(
        &self,
        input: &Tensor,
        lengths: &[usize],
        states: &mut Vec<LayerState>,
    ) -> Result<(Tensor, Vec<usize>), ModelError> {
        let (batch, frames, dim) = input.dims3()?;
        let (segment, right) = (self.config.segment_length, self.config.right_context_length);
        require(
            dim == self.config.dim(),
            "input",
            || format!("frames of {}", self.config.dim()),
            dim,
        )?;
        require(
            frames == segment + right,
            "input",
            || format!("{} frames", segment + right),
            frames,
        )?;
        require(
            lengths.len() == batch,
            "lengths",
            || format!("{batch} of them"),
            lengths.len(),
        )?;
        let lengths: Vec<usize> = lengths
            .iter()
            .map(|length| length.saturating_sub(right))
            .collect();
        self.check_lengths(&lengths, batch, segment)?;
        states.resize_with(self.layers.len(), LayerState::default);
        let mut right_context = if right > 0 {
            Some(input.narrow(1, segment, right)?)
        } else {
            None
        };
        let mut x = input.narrow(1, 0, segment)?;
        let mut memories = if self.uses_memory() {
            Some(self.segment_means(&x)?)
        } else {
            None
        };
        for (layer, state) in self.layers.iter().zip(states.iter_mut()) {
            let summary = self.summary(layer, &x)?;
            let mask = match &state.memory {
                Some(memory) => Some(self.summary_mask(memory.dim(1)?, state, right + segment)?),
                None => None,
            };
            let context = Context {
                memories: state.memory.as_ref(),
                left: state.key.as_ref().zip(state.value.as_ref()),
                mask: mask.as_ref(),
                lengths: &lengths,
            };
            let out = self.run_layer(layer, &x, right_context.as_ref(), summary.as_ref(), &context)?;
            if let Some(new) = &memories {
                let all: Vec<&Tensor> = state.memory.iter().chain([new]).collect();
                state.memory = last_rows(&Tensor::cat(&all, 1)?, self.config.max_memory_size)?;
            }
            state.key = last_rows(&out.key, self.config.left_context_length)?;
            state.value = last_rows(&out.value, self.config.left_context_length)?;
            state.past_length += segment;
            (x, right_context, memories) = (out.utterance, out.right_context, out.memories);
        }
        Ok((self.finish(x)?, lengths))
    }

    fn finish(&self, x: Tensor) -> Result<Tensor, ModelError> {
        match &self.norm {
            Some(norm) => Ok(norm.norm(&x)?),
            None => Ok(x),
        }
    }

    fn uses_memory(&self) -> bool {
        self.config.max_memory_size > 0
    }

    fn check_lengths(&self, lengths: &[usize], batch: usize, frames: usize) -> Result<(), ModelError> {
        require(
            lengths.len() == batch,
            "lengths",
            || format!("{batch} of them"),
            lengths.len(),
        )?;
        let longest = lengths.iter().copied().max().unwrap_or(0);
        require(
            longest <= frames,
            "lengths",
            || format!("at most {frames}"),
            longest,
        )
    }

    /// `(batch, rows, dim)` → `(batch, segments, dim)`; the last, partial one has the mean of its own rows.
    fn segment_means(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let (rows, segment) = (x.dim(1)?, self.config.segment_length);
        let mean = |begin: usize| x.narrow(1, begin, segment.min(rows - begin))?.mean_keepdim(1);
        let means: Vec<Tensor> = (0..rows)
            .step_by(segment)
            .map(mean)
            .collect::<candle_core::Result<_>>()?;
        Ok(Tensor::cat(&means, 1)?)
    }

    fn summary(&self, layer: &Layer, x: &Tensor) -> Result<Option<Tensor>, ModelError> {
        if !self.uses_memory() {
            return Ok(None);
        }
        Ok(Some(self.segment_means(&layer.norm_input.norm(x)?)?))
    }

    fn run_layer(
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
        if lengths.len() == 1 {
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

    /// Mask of [`Reference::forward`]: rows right context, utterance, summaries; columns memories, right context,
    /// utterance.
    fn mask(&self, num_segments: usize, count: usize) -> Result<Tensor, ModelError> {
        let config = &self.config;
        let (segment, right) = (config.segment_length, config.right_context_length);
        let num_memories = if self.uses_memory() { num_segments - 1 } else { 0 };
        let num_right = num_segments * right;
        let visible = |index: usize, sees_memories: bool| {
            let own_right = num_memories + index * right;
            let utterance = num_memories + num_right;
            let begin = (index * segment).saturating_sub(config.left_context_length);
            let end = ((index + 1) * segment).min(count);
            let memories = if sees_memories && self.uses_memory() {
                index.saturating_sub(config.max_memory_size)..index
            } else {
                0..0
            };
            move |column: &usize| {
                memories.contains(column)
                    || (own_right..own_right + right).contains(column)
                    || (utterance + begin..utterance + end).contains(column)
            }
        };
        let columns = num_memories + num_right + count;
        let right_rows = (0..num_right).map(|row| (row / right.max(1), true));
        let utterance_rows = (0..count).map(|row| (row / segment, true));
        let num_summaries = if self.uses_memory() { num_segments } else { 0 };
        let summary_rows = (0..num_summaries).map(|row| (row, false));
        let mut values: Vec<u8> = Vec::new();
        for (index, sees_memories) in right_rows.chain(utterance_rows).chain(summary_rows) {
            let sees = visible(index, sees_memories);
            values.extend((0..columns).map(|column| u8::from(!sees(&column))));
        }
        let rows = values.len() / columns;
        Ok(Tensor::from_vec(values, (rows, columns), &self.device)?)
    }

    /// Mask of [`Reference::infer`]: the summary, which is the last row, does not see the memories.
    fn summary_mask(
        &self,
        num_memories: usize,
        state: &LayerState,
        own: usize,
    ) -> Result<Tensor, ModelError> {
        let num_left = state.key.as_ref().map_or(Ok(0), |key| key.dim(1))?;
        let columns = num_memories + own + num_left;
        let mut values = vec![0u8; (own + 1) * columns];
        values[own * columns..][..num_memories].fill(1);
        Ok(Tensor::from_vec(values, (own + 1, columns), &self.device)?)
    }
}

impl OfflineEncoder for Reference {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// torchaudio's `forward`, with its treatment of unequal lengths. A stem that halves the frame rate rounds up.
    fn forward(&self, features: &Tensor, lengths: &[usize]) -> Result<(Tensor, Vec<usize>), ModelError> {
        let geometry = &self.geometry;
        let frames = features.dim(1)?.saturating_sub(geometry.lookahead_frames);
        let missing = frames.next_multiple_of(geometry.subsampling) - frames;
        let features = features.to_dtype(self.dtype)?.pad_with_zeros(1, 0, missing)?;
        let lengths: Vec<usize> = lengths
            .iter()
            .map(|length| length.div_ceil(geometry.subsampling))
            .collect();
        let output = Reference::forward(self, &self.embed(&features)?, &lengths)?;
        Ok((output, lengths))
    }
}

fn require<T: std::fmt::Display>(
    holds: bool,
    name: &'static str,
    expected: impl FnOnce() -> String,
    actual: T,
) -> Result<(), ModelError> {
    if holds {
        return Ok(());
    }
    Err(ModelError::Input {
        name,
        expected: expected(),
        actual: actual.to_string(),
    })
}

fn cat(parts: &[&Tensor]) -> Result<Option<Tensor>, ModelError> {
    if parts.is_empty() {
        Ok(None)
    } else {
        Ok(Some(Tensor::cat(parts, 1)?))
    }
}

fn drop_last(x: &Tensor) -> Result<Option<Tensor>, ModelError> {
    let rows = x.dim(1)?;
    if rows > 1 {
        Ok(Some(x.narrow(1, 0, rows - 1)?))
    } else {
        Ok(None)
    }
}

fn last_rows(x: &Tensor, limit: usize) -> Result<Option<Tensor>, ModelError> {
    let rows = x.dim(1)?;
    let kept = rows.min(limit);
    if kept == 0 {
        Ok(None)
    } else {
        Ok(Some(x.narrow(1, rows - kept, kept)?.contiguous()?))
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
