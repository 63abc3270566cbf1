//! The reference executor: Candle operations, `f32` or `f64`, any device, whole batches.
//!
//! [`Reference::forward`] and [`Reference::infer`] reproduce torchaudio's methods of the same names, with what they
//! do to batches of unequal lengths: the padding mask is relative to the longest item, a batch of one is never masked,
//! right-context columns never are. The one deliberate difference: torchaudio converts scores to `f32` before the
//! softmax even in an `f64` model, this executor computes in the weights' type throughout.
//!
//! Tensors are batch-first, `(batch, rows, dim)`.

use candle_core::{DType, Device, Tensor};

use crate::encoder::{Geometry, OfflineEncoder};
use crate::error::ModelError;
use crate::loader::Weights;

use super::config::EmformerConfig;
use super::tensors::{Context, Tensors};
use super::{STEM_LOOKAHEAD, STEM_SUBSAMPLING, geometry};

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

/// The oracle.
pub struct Reference {
    tensors: Tensors,
    geometry: Geometry,
}

impl Reference {
    /// Copies the weights to a device, keeping their type.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`super::expected_tensors`] is missing.
    pub fn new(config: &EmformerConfig, weights: &Weights, device: &Device) -> Result<Self, ModelError> {
        Ok(Self {
            tensors: Tensors::new(config, weights, device)?,
            geometry: geometry(config),
        })
    }

    /// Type of the weights and of all results.
    pub fn dtype(&self) -> DType {
        self.tensors.dtype
    }

    /// Runs whole feature streams from their beginning through the stem: `(batch, 2 n + 1, features)` →
    /// `(batch, n, dim)`, positions from 0. Without a stem the input is returned.
    ///
    /// # Errors
    /// [`ModelError::Input`] for a number of frames that is not odd.
    pub fn embed(&self, features: &Tensor) -> Result<Tensor, ModelError> {
        if self.tensors.config.position_period.is_none() {
            return Ok(features.clone());
        }
        let (batch, frames, width) = features.dims3()?;
        if frames < STEM_SUBSAMPLING + STEM_LOOKAHEAD || frames % STEM_SUBSAMPLING != STEM_LOOKAHEAD {
            return Err(ModelError::Input {
                name: "features",
                expected: "an odd number of frames, 3 or more".into(),
                actual: format!("{frames} frames"),
            });
        }
        let Tensors { dtype, device, .. } = &self.tensors;
        let zeros = Tensor::zeros((batch, 1, width), *dtype, device)?;
        let carried = Tensor::zeros((batch, self.tensors.config.dim()), *dtype, device)?;
        let positions = (0..batch).flat_map(|_| 0..(frames / STEM_SUBSAMPLING) as u64);
        let positions: Vec<u64> = positions.collect();
        let features = Tensor::cat(&[&zeros, features], 1)?;
        Ok(self.tensors.convolve(&features, &carried, &positions)?.0)
    }

    /// Whole utterances: `(batch, T + R, dim)` → `(batch, T, dim)`. The last R frames are right context only;
    /// `lengths` do not count them.
    ///
    /// # Errors
    /// [`ModelError::Input`] for shapes that do not fit.
    pub fn forward(&self, input: &Tensor, lengths: &[usize]) -> Result<Tensor, ModelError> {
        let (batch, frames, dim) = input.dims3()?;
        let (segment, right) = (
            self.tensors.config.segment_length,
            self.tensors.config.right_context_length,
        );
        let count = frames.saturating_sub(right);
        require(
            dim == self.tensors.config.dim(),
            "input",
            || format!("frames of {}", self.tensors.config.dim()),
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
        let mut memories = if self.tensors.uses_memory() {
            drop_last(&self.tensors.segment_means(&x)?)?
        } else {
            None
        };
        for layer in &self.tensors.layers {
            let summary = self.tensors.summary(layer, &x)?;
            let context = Context {
                memories: memories.as_ref(),
                left: None,
                mask: Some(&mask),
                lengths,
            };
            let out =
                self.tensors
                    .run_layer(layer, &x, right_context.as_ref(), summary.as_ref(), &context)?;
            (x, right_context) = (out.utterance, out.right_context);
            memories = match out.memories {
                Some(next) => drop_last(&next)?,
                None => None,
            };
        }
        self.tensors.finish(x)
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
        let (segment, right) = (
            self.tensors.config.segment_length,
            self.tensors.config.right_context_length,
        );
        require(
            dim == self.tensors.config.dim(),
            "input",
            || format!("frames of {}", self.tensors.config.dim()),
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
        states.resize_with(self.tensors.layers.len(), LayerState::default);
        let mut right_context = if right > 0 {
            Some(input.narrow(1, segment, right)?)
        } else {
            None
        };
        let mut x = input.narrow(1, 0, segment)?;
        let mut memories = if self.tensors.uses_memory() {
            Some(self.tensors.segment_means(&x)?)
        } else {
            None
        };
        for (layer, state) in self.tensors.layers.iter().zip(states.iter_mut()) {
            let summary = self.tensors.summary(layer, &x)?;
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
            let out =
                self.tensors
                    .run_layer(layer, &x, right_context.as_ref(), summary.as_ref(), &context)?;
            if let Some(new) = &memories {
                let all: Vec<&Tensor> = state.memory.iter().chain([new]).collect();
                state.memory = last_rows(&Tensor::cat(&all, 1)?, self.tensors.config.max_memory_size)?;
            }
            state.key = last_rows(&out.key, self.tensors.config.left_context_length)?;
            state.value = last_rows(&out.value, self.tensors.config.left_context_length)?;
            state.past_length += segment;
            (x, right_context, memories) = (out.utterance, out.right_context, out.memories);
        }
        Ok((self.tensors.finish(x)?, lengths))
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

    /// Mask of [`Reference::forward`]: rows right context, utterance, summaries; columns memories, right context,
    /// utterance.
    fn mask(&self, num_segments: usize, count: usize) -> Result<Tensor, ModelError> {
        let config = &self.tensors.config;
        let (segment, right) = (config.segment_length, config.right_context_length);
        let num_memories = if self.tensors.uses_memory() {
            num_segments - 1
        } else {
            0
        };
        let num_right = num_segments * right;
        let visible = |index: usize, sees_memories: bool| {
            let own_right = num_memories + index * right;
            let utterance = num_memories + num_right;
            let begin = (index * segment).saturating_sub(config.left_context_length);
            let end = ((index + 1) * segment).min(count);
            let memories = if sees_memories && self.tensors.uses_memory() {
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
        let num_summaries = if self.tensors.uses_memory() {
            num_segments
        } else {
            0
        };
        let summary_rows = (0..num_summaries).map(|row| (row, false));
        let mut values: Vec<u8> = Vec::new();
        for (index, sees_memories) in right_rows.chain(utterance_rows).chain(summary_rows) {
            let sees = visible(index, sees_memories);
            values.extend((0..columns).map(|column| u8::from(!sees(&column))));
        }
        let rows = values.len() / columns;
        Ok(Tensor::from_vec(values, (rows, columns), &self.tensors.device)?)
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
        Ok(Tensor::from_vec(
            values,
            (own + 1, columns),
            &self.tensors.device,
        )?)
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
        let features = features.to_dtype(self.dtype())?.pad_with_zeros(1, 0, missing)?;
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
