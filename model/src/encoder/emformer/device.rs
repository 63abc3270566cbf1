//! The Emformer on a GPU: one step for sessions of any age, in Candle operations on whole batches.
//!
//! A session's state stays a value in host memory, in the layout of the CPU executor: a step uploads the valid rows of all
//! its sessions in one copy, and one copy brings back what they must remember together with the encoder's output. So nothing on the
//! device outlives a step, a session may move between executors, and a device that fails takes no session's past
//! with it. Rows that may not be read are uploaded as zeros and masked.

use candle_core::{DType, Device, Tensor};

use crate::encoder::{Geometry, StateCache, StepRow, StreamingEncoder};
use crate::error::ModelError;
use crate::loader::Weights;

use super::config::EmformerConfig;
use super::layout::Layout;
use super::tensors::{Context, Tensors};
use super::{STEM_LOOKAHEAD, STEM_SUBSAMPLING, geometry};

/// Sessions that share one step on the device: bounds its memory. More are stepped in turns.
const MAX_BATCH: usize = 512;
/// Feature frames that the stem carries from step to step.
const CARRIED_FEATURES: usize = 2;

/// An Emformer whose steps run on a device. One thread should step it; others wait for the device.
pub struct DeviceEmformer {
    tensors: Tensors,
    layout: Layout,
    geometry: Geometry,
    device: Device,
    dim: usize,
    segment: usize,
    right: usize,
    left: usize,
    memories: usize,
    num_layers: usize,
    has_stem: bool,
}

/// The encoder frames of some sessions, and what their stems carry on.
struct Embedded {
    /// `(sessions, new frames, dim)`.
    frames: Tensor,
    /// Last output of the first convolution, `(sessions, dim)`; none without a stem.
    carried: Option<Tensor>,
}

impl DeviceEmformer {
    /// Copies the weights to a device.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`super::expected_tensors`] is missing, [`ModelError::Tensor`] when the device
    /// refuses.
    pub fn new(encoder: &EmformerConfig, weights: &Weights, device: &Device) -> Result<Self, ModelError> {
        let tensors = Tensors::new(encoder, weights, device)?;
        let dim = encoder.dim();
        let has_stem = encoder.position_period.is_some();
        let stem_len = if has_stem {
            CARRIED_FEATURES * encoder.input_dim + dim
        } else {
            0
        };
        Ok(Self {
            layout: Layout::new(encoder, stem_len),
            geometry: geometry(encoder),
            device: device.clone(),
            dim,
            segment: encoder.segment_length,
            right: encoder.right_context_length,
            left: encoder.left_context_length,
            memories: encoder.max_memory_size,
            num_layers: encoder.num_layers,
            has_stem,
            tensors,
        })
    }

    /// Steps rows whose states are of one kind first: those that have never been stepped need more frames.
    fn step_batch(&self, rows: &mut [&mut StepRow<'_>]) -> Result<(), ModelError> {
        rows.sort_by_key(|row| row.state.steps > 0);
        let num_first = rows.partition_point(|row| row.state.steps == 0);
        let num_later = rows.len() - num_first;
        let state = self.upload_states(rows)?;
        let first = self.embed(&rows[..num_first])?;
        let later = self.embed(&rows[num_first..])?;
        let pending_len = self.layout.pending().len();
        let windows = match (&first, &later) {
            (first, Some(later)) => {
                let pending = state
                    .narrow(0, num_first, num_later)?
                    .narrow(1, 0, pending_len)?
                    .reshape((num_later, self.right, self.dim))?;
                let later = if self.right > 0 {
                    Tensor::cat(&[&pending, &later.frames], 1)?
                } else {
                    later.frames.clone()
                };
                let parts: Vec<&Tensor> = first.iter().map(|first| &first.frames).chain([&later]).collect();
                Tensor::cat(&parts, 0)?
            }
            (Some(first), None) => first.frames.clone(),
            (None, None) => return Ok(()),
        };
        let carried: Vec<&Tensor> = [&first, &later]
            .into_iter()
            .flatten()
            .filter_map(|embedded| embedded.carried.as_ref())
            .collect();

        let mut kept = Vec::new();
        if !carried.is_empty() {
            kept.push(Tensor::cat(&carried, 0)?);
        }
        let output = self.run_layers(rows, &windows, &state, &mut kept)?;
        kept.push(output);
        self.download(rows, &kept)
    }

    /// `(sessions, values behind the stem's) f32` on the device; what must not be read is zero.
    fn upload_states(&self, rows: &[&mut StepRow<'_>]) -> Result<Tensor, ModelError> {
        let layout = &self.layout;
        let begin = layout.stem().end;
        let width = layout.len() - begin;
        let mut values = vec![0f32; rows.len() * width];
        for (row, values) in rows.iter().zip(values.chunks_exact_mut(width.max(1))) {
            let StateCache { values: state, steps } = &*row.state;
            let mut copy = |from: std::ops::Range<usize>| {
                values[from.start - begin..from.end - begin].copy_from_slice(&state[from]);
            };
            if *steps == 0 {
                continue;
            }
            copy(layout.pending());
            let (left, memories) = (
                layout.num_left(*steps) * self.dim,
                layout.num_memories(*steps) * self.dim,
            );
            for layer in 0..self.num_layers {
                for (range, valid) in [
                    (layout.keys(layer), left),
                    (layout.values(layer), left),
                    (layout.memories(layer), memories),
                ] {
                    copy(range.start..range.start + valid);
                }
            }
        }
        let values = Tensor::from_vec(values, (rows.len(), width), &self.device)?;
        Ok(values.to_dtype(self.tensors.dtype)?)
    }

    /// New features of rows of one kind through the stem; none for no rows.
    fn embed(&self, rows: &[&mut StepRow<'_>]) -> Result<Option<Embedded>, ModelError> {
        let Some(example) = rows.first() else {
            return Ok(None);
        };
        let (is_first, width) = (example.state.steps == 0, self.geometry.num_features);
        let frames = self.geometry.frames_needed(example.state.steps);
        let dtype = self.tensors.dtype;
        if !self.has_stem {
            let values: Vec<f32> = rows.iter().flat_map(|row| row.features).copied().collect();
            let frames =
                Tensor::from_vec(values, (rows.len(), frames, width), &self.device)?.to_dtype(dtype)?;
            return Ok(Some(Embedded {
                frames,
                carried: None,
            }));
        }
        // In front of a stream stand zeros: one frame, and one output of the first convolution.
        let front = if is_first { 1 } else { CARRIED_FEATURES };
        let mut features = Vec::with_capacity(rows.len() * (front + frames) * width);
        let mut carried = Vec::with_capacity(rows.len() * self.dim);
        let mut positions = Vec::new();
        let new = if is_first {
            self.segment + self.right
        } else {
            self.segment
        };
        for row in rows {
            let stem = &row.state.values[self.layout.stem()];
            if is_first {
                features.resize(features.len() + width, 0.0);
                carried.resize(carried.len() + self.dim, 0.0);
            } else {
                let (past, output) = stem.split_at(CARRIED_FEATURES * width);
                features.extend_from_slice(past);
                carried.extend_from_slice(output);
            }
            features.extend_from_slice(row.features);
            let steps = row.state.steps;
            let position = if is_first {
                0
            } else {
                steps * self.segment as u64 + self.right as u64
            };
            positions.extend((position..).take(new));
        }
        let features = Tensor::from_vec(features, (rows.len(), front + frames, width), &self.device)?;
        let carried = Tensor::from_vec(carried, (rows.len(), self.dim), &self.device)?;
        let (frames, carried) =
            self.tensors
                .convolve(&features.to_dtype(dtype)?, &carried.to_dtype(dtype)?, &positions)?;
        debug_assert_eq!(frames.dim(1)?, new);
        debug_assert_eq!(
            STEM_SUBSAMPLING * new + if is_first { STEM_LOOKAHEAD } else { 0 },
            self.geometry.frames_needed(example.state.steps)
        );
        Ok(Some(Embedded {
            frames,
            carried: Some(carried),
        }))
    }

    /// Windows `(sessions, L + R, dim)` through all layers and the final norm; `kept` receives what the sessions remember.
    fn run_layers(
        &self,
        rows: &[&mut StepRow<'_>],
        windows: &Tensor,
        state: &Tensor,
        kept: &mut Vec<Tensor>,
    ) -> Result<Tensor, ModelError> {
        let sessions = rows.len();
        let mut x = windows.narrow(1, 0, self.segment)?.contiguous()?;
        let mut right_context = None;
        if self.right > 0 {
            let right = windows.narrow(1, self.segment, self.right)?.contiguous()?;
            kept.push(right.flatten_from(1)?);
            right_context = Some(right);
        }
        let mut new_memory = match self.memories {
            0 => None,
            _ => Some(self.tensors.segment_means(&x)?),
        };
        let mask = self.mask(rows)?;
        let lengths = vec![self.segment; sessions];
        let begin = self.layout.stem().end;
        let part = |range: std::ops::Range<usize>, count: usize| -> Result<Option<Tensor>, ModelError> {
            if range.is_empty() {
                return Ok(None);
            }
            let part = state.narrow(1, range.start - begin, range.len())?;
            Ok(Some(part.reshape((sessions, count, self.dim))?))
        };
        for index in 0..self.num_layers {
            let layer = &self.tensors.layers[index];
            let memories = part(self.layout.memories(index), self.memories)?;
            let left =
                part(self.layout.keys(index), self.left)?.zip(part(self.layout.values(index), self.left)?);
            let summary = self.tensors.summary(layer, &x)?;
            let context = Context {
                memories: memories.as_ref(),
                left: left.as_ref().map(|(key, value)| (key, value)),
                mask: Some(&mask),
                lengths: &lengths,
            };
            let out =
                self.tensors
                    .run_layer(layer, &x, right_context.as_ref(), summary.as_ref(), &context)?;
            let survivors = self.segment.min(self.left);
            if survivors > 0 {
                // The segment's keys and values lie behind those of the left context.
                let first = self.left + self.segment - survivors;
                kept.push(out.key.narrow(1, first, survivors)?.flatten_from(1)?);
                kept.push(out.value.narrow(1, first, survivors)?.flatten_from(1)?);
            }
            if let Some(memory) = &new_memory {
                kept.push(memory.flatten_from(1)?);
            }
            (x, right_context, new_memory) = (out.utterance, out.right_context, out.memories);
        }
        let encoded = self.tensors.finish(x)?;
        Ok(encoded.flatten_from(1)?)
    }

    /// `(sessions, 1, queries, keys) u8`, 1 where a key must not be seen: columns memories, right context, left context,
    /// utterance; the summary, the last row, does not see the memories.
    fn mask(&self, rows: &[&mut StepRow<'_>]) -> Result<Tensor, ModelError> {
        let own = self.right + self.segment;
        let summaries = usize::from(self.memories > 0);
        let num_queries = own + summaries;
        let num_keys = self.memories + own + self.left;
        let left_begin = self.memories + self.right;
        let mut values = Vec::with_capacity(rows.len() * num_queries * num_keys);
        for row in rows {
            let num_memories = self.layout.num_memories(row.state.steps);
            let num_left = self.layout.num_left(row.state.steps);
            for query in 0..num_queries {
                let seen = if query < own { num_memories } else { 0 };
                values.extend((0..num_keys).map(|key| {
                    let hidden_memory = key < self.memories && key >= seen;
                    let hidden_left = key >= left_begin + num_left && key < left_begin + self.left;
                    u8::from(hidden_memory || hidden_left)
                }));
            }
        }
        let shape = (rows.len(), 1, num_queries, num_keys);
        Ok(Tensor::from_vec(values, shape, &self.device)?)
    }

    /// Brings `kept` back in one copy and writes it to the states and outputs. Until then no state has been changed.
    fn download(&self, rows: &mut [&mut StepRow<'_>], kept: &[Tensor]) -> Result<(), ModelError> {
        let all = Tensor::cat(kept, 1)?.to_dtype(DType::F32)?;
        let width = all.dim(1)?;
        let all: Vec<f32> = all.flatten_all()?.to_vec1()?;
        for (row, kept) in rows.iter_mut().zip(all.chunks_exact(width)) {
            let StateCache { values: state, steps } = &mut *row.state;
            let mut rest = kept;
            let mut take = |count: usize| {
                let (taken, further) = rest.split_at(count);
                rest = further;
                taken
            };
            if self.has_stem {
                let stem = &mut state[self.layout.stem()];
                let (past, output) = stem.split_at_mut(CARRIED_FEATURES * self.geometry.num_features);
                past.copy_from_slice(&row.features[row.features.len() - past.len()..]);
                output.copy_from_slice(take(self.dim));
            }
            let pending = self.layout.pending();
            state[pending.clone()].copy_from_slice(take(pending.len()));
            for layer in 0..self.num_layers {
                for ring in [self.layout.keys(layer), self.layout.values(layer)] {
                    let new = take(self.segment.min(self.left) * self.dim);
                    let places = self.layout.ring_places(*steps);
                    for ((_, place), frame) in places.zip(new.chunks_exact(self.dim)) {
                        state[ring.clone()][place].copy_from_slice(frame);
                    }
                }
                if self.memories > 0 {
                    let place = self.layout.memory_place(*steps);
                    state[self.layout.memories(layer)][place].copy_from_slice(take(self.dim));
                }
            }
            row.output.clear();
            row.output.extend_from_slice(rest);
            *steps += 1;
        }
        Ok(())
    }
}

impl StreamingEncoder for DeviceEmformer {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn products_per_step(&self) -> u64 {
        self.tensors.config.products_per_step()
    }

    fn new_state(&self) -> StateCache {
        self.layout.new_state()
    }

    fn step(&self, rows: &mut [StepRow<'_>]) -> Result<(), ModelError> {
        self.layout.check(&self.geometry, rows)?;
        let mut rows: Vec<&mut StepRow<'_>> = rows.iter_mut().collect();
        for batch in rows.chunks_mut(MAX_BATCH) {
            self.step_batch(batch)?;
        }
        Ok(())
    }
}
