//! The served Emformer: one step for a compact batch of sessions of any age, on plain slices, single-threaded.
//!
//! Norms, projections, feed-forward and head run over the rows of all sessions at once; attention runs session by
//! session over its own rings. The right context's copy of a segment is computed with it and thrown away, as in
//! the original, but its stem outputs are kept for the next step.
//!
//! Where a session's values lie is [`super::layout`]'s matter.

use crate::encoder::kernels::{Linear, Norm, activate, tanh};
use crate::encoder::scratch::ScratchPool;
use crate::encoder::{Geometry, StateCache, StepRow, StreamingEncoder};
use crate::error::ModelError;
use crate::loader::Weights;
use crate::precision::Precision;

use super::attention::{Attention, AttentionRows};
use super::config::{EmformerConfig, OutputNorm};
use super::geometry;
use super::layout::Layout;
use super::stem::{Stem, StemScratch, Window};

/// Rows that pass through the layers together: enough to be worth fetching the weights for, few enough to stay in the cache.
const GROUP_ROWS: usize = 160;

struct Layer {
    norm_input: Norm,
    /// Queries (already scaled), keys, values side by side.
    query_key_value: Linear,
    out_proj: Linear,
    norm_feed_forward: Norm,
    expand: Linear,
    contract: Linear,
    norm_output: Option<Norm>,
}

/// An Emformer that is served: weights shared by all threads, state in each session's [`StateCache`].
pub struct Emformer {
    encoder: EmformerConfig,
    geometry: Geometry,
    layout: Layout,
    attention: Attention,
    stem: Option<Stem>,
    layers: Vec<Layer>,
    norm: Option<Norm>,
    scratch: ScratchPool<Scratch>,
}

/// Buffers of one step; kept, so that a step at work allocates nothing.
#[derive(Default)]
struct Scratch {
    stem: StemScratch,
    sessions: Vec<Session>,
    /// Output of the stem for the new frames of all rows.
    embedded: Vec<f32>,
    /// `(sessions · (R + L), dim)`, right context first: the residual stream.
    stream: Vec<f32>,
    /// Memories of this step that enter a layer, `(sessions, dim)`.
    memories: Vec<f32>,
    /// For each session memories, right context, utterance, summary: normed, but for the memories.
    normed: Vec<f32>,
    projected: Vec<f32>,
    scores: Vec<f32>,
    attended: Vec<f32>,
    mixed: Vec<f32>,
    hidden: Vec<f32>,
}

/// Where one session's rows lie and how much of its rings may be read.
struct Session {
    index: usize,
    /// First row in `normed` and `projected`.
    first_row: usize,
    num_left: usize,
    num_memories: usize,
}

impl Emformer {
    /// Builds the encoder, which multiplies in `f32`.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`super::expected_tensors`] is missing.
    pub fn new(config: &EmformerConfig, weights: &Weights) -> Result<Self, ModelError> {
        Self::with_precision(config, weights, Precision::F32)
    }

    /// Builds the encoder. With another precision the products of its layers are in that; a stem's, a small part of
    /// the work, stay in `f32`.
    ///
    /// # Errors
    /// As [`Emformer::new`].
    pub fn with_precision(
        config: &EmformerConfig,
        weights: &Weights,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let encoder = config.clone();
        let dim = encoder.dim();
        let linear_in = |name: &str, inputs: usize, precision: Precision| -> Result<Linear, ModelError> {
            let weight = weights.values(&format!("{name}.weight"))?;
            let bias = weights.values(&format!("{name}.bias"))?;
            Ok(Linear::with_precision(&weight, bias, inputs, precision))
        };
        let linear = |name: &str, inputs: usize| linear_in(name, inputs, precision);
        // The feed-forward part bears inputs of eight bits best: two thirds of the work are done there, and less than a third of the noise (its power) would be made.
        let of_feed_forward = match precision {
            Precision::Int8 => Precision::W8A8,
            other => other,
        };
        let norm = |name: &str| -> Result<Norm, ModelError> {
            Ok(Norm::new(
                weights.values(&format!("{name}.weight"))?,
                weights.values(&format!("{name}.bias"))?,
            ))
        };
        let layer = |index: usize| -> Result<Layer, ModelError> {
            let prefix = format!("emformer_layers.{index}");
            let scale = ((dim / encoder.num_heads) as f32).powf(-0.5);
            let joined = |kind: &str| -> Result<Vec<f32>, ModelError> {
                let mut values = weights.values(&format!("{prefix}.attention.emb_to_query.{kind}"))?;
                values.iter_mut().for_each(|value| *value *= scale);
                values.extend(weights.values(&format!("{prefix}.attention.emb_to_key_value.{kind}"))?);
                Ok(values)
            };
            Ok(Layer {
                norm_input: norm(&format!("{prefix}.layer_norm_input"))?,
                query_key_value: Linear::with_precision(&joined("weight")?, joined("bias")?, dim, precision),
                out_proj: linear(&format!("{prefix}.attention.out_proj"), dim)?,
                norm_feed_forward: norm(&format!("{prefix}.pos_ff.0"))?,
                expand: linear_in(&format!("{prefix}.pos_ff.1"), dim, of_feed_forward)?,
                contract: linear_in(&format!("{prefix}.pos_ff.4"), encoder.ffn_dim, of_feed_forward)?,
                norm_output: match encoder.output_norm {
                    OutputNorm::PerLayer => Some(norm(&format!("{prefix}.layer_norm_output"))?),
                    OutputNorm::Final => None,
                },
            })
        };
        let stem = encoder
            .position_period
            .map(|period| Stem::new(weights, encoder.input_dim, dim, period))
            .transpose()?;
        let layout = Layout::new(config, stem.as_ref().map_or(0, Stem::state_len));
        Ok(Self {
            geometry: geometry(config),
            layout,
            attention: Attention::new(dim, encoder.num_heads, encoder.negative_inf as f32),
            stem,
            layers: (0..encoder.num_layers).map(layer).collect::<Result<_, _>>()?,
            norm: match encoder.output_norm {
                OutputNorm::PerLayer => None,
                OutputNorm::Final => Some(norm("layer_norm")?),
            },
            encoder,
            scratch: ScratchPool::default(),
        })
    }

    /// Lets every step bring a whole window, segment and right context, as a first step does. For a model without a stem,
    /// whose right context was computed for the window alone, as torchaudio streams an RNN-T.
    pub(crate) fn with_whole_windows(mut self) -> Self {
        debug_assert!(self.stem.is_none(), "a stem carries frames from step to step");
        self.layout.whole_windows = true;
        self
    }

    fn step_group(&self, rows: &mut [StepRow<'_>], scratch: &mut Scratch) {
        let dim = self.encoder.dim();
        let segment = self.encoder.segment_length;
        self.embed(rows, scratch);
        if self.encoder.max_memory_size > 0 {
            self.first_memories(rows.len(), scratch);
        }
        for index in 0..self.layers.len() {
            self.run_layer(index, rows, scratch);
        }
        // The last layer has left only the utterance's rows, session after session.
        let count = rows.len() * segment;
        let encoded = &mut scratch.stream[..count * dim];
        if let Some(norm) = &self.norm {
            norm.apply_in_place(encoded);
        }
        for (row, encoded) in rows.iter_mut().zip(encoded.chunks_exact(segment * dim)) {
            row.state.steps += 1;
            row.output.clear();
            row.output.extend_from_slice(encoded);
        }
    }

    /// Fills `stream` with each session's right context and utterance, and keeps the right context in the state.
    fn embed(&self, rows: &mut [StepRow<'_>], scratch: &mut Scratch) {
        let dim = self.encoder.dim();
        let (segment, right) = (self.encoder.segment_length, self.encoder.right_context_length);
        let stem_len = self.layout.stem().end;
        scratch.embedded.clear();
        if let Some(stem) = &self.stem {
            let window = Window { segment, right };
            stem.run(rows, window, &mut scratch.stem, &mut scratch.embedded);
        } else {
            rows.iter()
                .for_each(|row| scratch.embedded.extend_from_slice(row.features));
        }
        scratch.stream.clear();
        let mut embedded = scratch.embedded.as_slice();
        for row in rows.iter_mut() {
            let is_first = self.layout.brings_window(row.state.steps);
            let pending = &mut row.state.values[stem_len..][..right * dim];
            let new_frames = if is_first { segment + right } else { segment };
            let (new, rest) = embedded.split_at(new_frames * dim);
            embedded = rest;
            // The window is the pending frames, unless this is the first step, and the new ones. Its first L frames
            // are the utterance, its last R the right context, which goes in front.
            let held: &[f32] = if is_first { &[] } else { pending };
            let from_held = held.len().saturating_sub(segment * dim);
            let from_new = right * dim - from_held;
            scratch.stream.extend_from_slice(&held[held.len() - from_held..]);
            scratch.stream.extend_from_slice(&new[new.len() - from_new..]);
            let utterance_held = held.len() - from_held;
            scratch.stream.extend_from_slice(&held[..utterance_held]);
            scratch
                .stream
                .extend_from_slice(&new[..segment * dim - utterance_held]);
            let begin = scratch.stream.len() - (segment + right) * dim;
            pending.copy_from_slice(&scratch.stream[begin..][..right * dim]);
        }
    }

    /// The first layer's memories: means of the segments as they come.
    fn first_memories(&self, sessions: usize, scratch: &mut Scratch) {
        let dim = self.encoder.dim();
        let (segment, right) = (self.encoder.segment_length, self.encoder.right_context_length);
        scratch.memories.resize(sessions * dim, 0.0);
        let blocks = scratch.stream.chunks_exact((right + segment) * dim);
        for (memory, block) in scratch.memories.chunks_exact_mut(dim).zip(blocks) {
            mean_of_rows(&block[right * dim..], memory);
        }
    }

    fn run_layer(&self, index: usize, rows: &mut [StepRow<'_>], scratch: &mut Scratch) {
        let layer = &self.layers[index];
        let dim = self.encoder.dim();
        let (segment, right) = (self.encoder.segment_length, self.encoder.right_context_length);
        let window = right + segment;
        let is_last = index + 1 == self.layers.len();
        let num_summaries = usize::from(self.encoder.max_memory_size > 0);
        let state_begin = self.layout.keys(index).start;
        let ring_len = self.encoder.left_context_length * dim;

        // What nobody reads after the last layer is not computed: right context and summaries are keys only there.
        let skipped = if is_last { right } else { 0 };
        let summaries_out = if is_last { 0 } else { num_summaries };
        let num_queries = window - skipped + summaries_out;

        self.gather(state_begin, rows, layer, scratch);
        let count = scratch.normed.len() / dim;
        scratch.projected.resize(count * 3 * dim, 0.0);
        layer
            .query_key_value
            .apply(count, &scratch.normed, &mut scratch.projected);

        scratch.attended.resize(rows.len() * num_queries * dim, 0.0);
        for ((session, row), attended) in scratch
            .sessions
            .iter()
            .zip(rows.iter_mut())
            .zip(scratch.attended.chunks_exact_mut(num_queries * dim))
        {
            let state = &mut row.state.values[state_begin..][..self.layout.layer_len()];
            let (keys, rest) = state.split_at_mut(ring_len);
            let (values, memories) = rest.split_at_mut(ring_len);
            let num_rows = session.num_memories + window + num_summaries;
            let projected = &scratch.projected[session.first_row * 3 * dim..][..num_rows * 3 * dim];
            let attention_rows = AttentionRows {
                projected,
                first_query: session.num_memories + skipped,
                num_queries,
                num_keys: session.num_memories + window,
                num_memories: session.num_memories,
                has_summary: summaries_out > 0,
                left_keys: &keys[..session.num_left * dim],
                left_values: &values[..session.num_left * dim],
            };
            self.attention.run(&attention_rows, &mut scratch.scores, attended);
            let utterance = &projected[(session.num_memories + right) * 3 * dim..][..segment * 3 * dim];
            self.remember(row.state.steps, utterance, keys, values);
            if num_summaries > 0 {
                let place = self.layout.memory_place(row.state.steps);
                memories[place].copy_from_slice(&scratch.memories[session.index * dim..][..dim]);
            }
        }

        let count = rows.len() * num_queries;
        scratch.mixed.resize(count * dim, 0.0);
        layer.out_proj.apply(count, &scratch.attended, &mut scratch.mixed);
        let kept = window - skipped;
        for (index, mixed) in scratch.mixed[..count * dim]
            .chunks_exact(num_queries * dim)
            .enumerate()
        {
            let from = (index * window + skipped) * dim;
            scratch
                .stream
                .copy_within(from..from + kept * dim, index * kept * dim);
            let stream = &mut scratch.stream[index * kept * dim..][..kept * dim];
            stream
                .iter_mut()
                .zip(mixed)
                .for_each(|(value, mixed)| *value += mixed);
            if summaries_out > 0 {
                let memory = &mut scratch.memories[index * dim..][..dim];
                let squash = |value: f32| {
                    if self.encoder.tanh_on_mem {
                        tanh(value)
                    } else {
                        value.clamp(-10.0, 10.0)
                    }
                };
                memory
                    .iter_mut()
                    .zip(&mixed[kept * dim..])
                    .for_each(|(memory, &value)| *memory = squash(value));
            }
        }

        let count = rows.len() * kept;
        let stream = &mut scratch.stream[..count * dim];
        layer
            .norm_feed_forward
            .apply(stream, &mut scratch.mixed[..count * dim]);
        scratch.hidden.resize(count * self.encoder.ffn_dim, 0.0);
        layer.expand.apply(count, &scratch.mixed, &mut scratch.hidden);
        activate(
            &mut scratch.hidden[..count * self.encoder.ffn_dim],
            self.encoder.activation,
        );
        layer.contract.apply_adding(count, &scratch.hidden, stream);
        if let Some(norm) = &layer.norm_output {
            norm.apply_in_place(stream);
        }
    }

    /// Fills `normed` with what the layer projects, and says in `sessions` where each session's rows are.
    fn gather(&self, state_begin: usize, rows: &[StepRow<'_>], layer: &Layer, scratch: &mut Scratch) {
        let encoder = &self.encoder;
        let dim = encoder.dim();
        let (segment, right) = (encoder.segment_length, encoder.right_context_length);
        let window = right + segment;
        let num_summaries = usize::from(encoder.max_memory_size > 0);
        let memories_begin = state_begin + 2 * encoder.left_context_length * dim;
        scratch.sessions.clear();
        scratch.normed.clear();
        for (index, row) in rows.iter().enumerate() {
            let steps = row.state.steps;
            let session = Session {
                index,
                first_row: scratch.normed.len() / dim,
                num_left: self.layout.num_left(steps),
                num_memories: self.layout.num_memories(steps),
            };
            let memories = &row.state.values[memories_begin..][..session.num_memories * dim];
            scratch.normed.extend_from_slice(memories);
            let begin = scratch.normed.len();
            scratch.normed.resize(begin + (window + num_summaries) * dim, 0.0);
            let (normed, summary) = scratch.normed[begin..].split_at_mut(window * dim);
            layer
                .norm_input
                .apply(&scratch.stream[index * window * dim..][..window * dim], normed);
            if num_summaries > 0 {
                mean_of_rows(&normed[right * dim..], summary);
            }
            scratch.sessions.push(session);
        }
    }

    /// Writes the segment's keys and values to the rings.
    fn remember(&self, steps: u64, utterance: &[f32], keys: &mut [f32], values: &mut [f32]) {
        let dim = self.encoder.dim();
        for (frame, place) in self.layout.ring_places(steps) {
            let projected = &utterance[frame * 3 * dim..][..3 * dim];
            keys[place.clone()].copy_from_slice(&projected[dim..2 * dim]);
            values[place].copy_from_slice(&projected[2 * dim..]);
        }
    }
}

impl StreamingEncoder for Emformer {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn products_per_step(&self) -> u64 {
        self.encoder.products_per_step()
    }

    fn new_state(&self) -> StateCache {
        self.layout.new_state()
    }

    fn step(&self, rows: &mut [StepRow<'_>]) -> Result<(), ModelError> {
        self.layout
            .check(&self.geometry, rows, |state| state.values.len())?;
        self.scratch.with(|scratch| {
            let rows_each = self.encoder.right_context_length + self.encoder.segment_length;
            // Groups of one size, so that none is left with a few rows only.
            let groups = (rows.len() * rows_each).div_ceil(GROUP_ROWS).max(1);
            for group in rows.chunks_mut(rows.len().div_ceil(groups).max(1)) {
                self.step_group(group, scratch);
            }
        });
        Ok(())
    }
}

fn mean_of_rows(rows: &[f32], mean: &mut [f32]) {
    mean.fill(0.0);
    let mut count = 0.0;
    for row in rows.chunks_exact(mean.len()) {
        mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value);
        count += 1.0;
    }
    mean.iter_mut().for_each(|mean| *mean /= count);
}
