//! The served SAN-M encoder: one chunk for a compact batch of sessions of any age, on plain slices, single-threaded.
//!
//! A step computes a window: the frames before the chunk again, the chunk, and those after it. Norms and products run over the
//! windows of all sessions at once; attention and memory run session by session, attention over the keys and values that the
//! session has kept and those of the window.
//!
//! Layout of a session's values: the last frames heard, scaled and with positions, `(before + after, features)` · for each
//! layer keys `(kept, dim)`, values `(kept, dim)`, oldest first. How many rows are valid follows from the number of steps,
//! so rows that were never written are never read.

use crate::config::Activation;
use crate::encoder::kernels::{Linear, Matrix, Norm, activate, product, softmax_rows, vectorised};
use crate::encoder::scratch::ScratchPool;
use crate::encoder::{Geometry, StateCache, StepRow, StreamingEncoder, check_rows};
use crate::error::ModelError;
use crate::loader::Weights;

use super::{ChunkConfig, SanmConfig};

/// Sessions that share one pass through the layers. Larger groups gain nothing in the products and lose the cache.
const GROUP: usize = 8;

struct Layer {
    norm1: Norm,
    /// Queries (already scaled), keys, values side by side.
    query_key_value: Linear,
    /// `(taps, dim)`, oldest first, with 1 added to the current frame's.
    memory: Vec<f32>,
    out: Linear,
    norm2: Norm,
    expand: Linear,
    contract: Linear,
    has_residual: bool,
}

/// A SAN-M encoder that is served in chunks: weights shared by all threads, state in each session's [`StateCache`].
pub struct Sanm {
    config: SanmConfig,
    chunk: ChunkConfig,
    geometry: Geometry,
    layers: Vec<Layer>,
    after_norm: Norm,
    tp_norm: Option<Norm>,
    scratch: ScratchPool<Scratch>,
}

/// Buffers of one step; kept, so that a step at work allocates nothing.
#[derive(Default)]
struct Scratch {
    /// `(sessions · window, width)`: the residual stream.
    stream: Vec<f32>,
    normed: Vec<f32>,
    projected: Vec<f32>,
    scores: Vec<f32>,
    attended: Vec<f32>,
    mixed: Vec<f32>,
    hidden: Vec<f32>,
}

impl Sanm {
    /// Builds the encoder of a configuration with chunks.
    ///
    /// # Errors
    /// [`ModelError::CannotStream`] without chunks; [`ModelError::Invalid`] when a tensor of
    /// [`SanmConfig::expected_tensors`] is missing.
    pub fn new(config: &SanmConfig, weights: &Weights) -> Result<Self, ModelError> {
        let Some(chunk) = config.chunk else {
            let reason = config.cannot_stream().unwrap_or_default();
            return Err(ModelError::CannotStream { reason });
        };
        let dim = config.output_size;
        let linear = |name: &str, inputs: usize| -> Result<Linear, ModelError> {
            let weight = weights.values(&format!("{name}.weight"))?;
            Ok(Linear::new(
                &weight,
                weights.values(&format!("{name}.bias"))?,
                inputs,
            ))
        };
        let norm = |name: &str| -> Result<Norm, ModelError> {
            let weight = weights.values(&format!("{name}.weight"))?;
            let bias = weights.values(&format!("{name}.bias"))?;
            Ok(Norm::new(weight, bias).with_epsilon(config.norm_epsilon as f32))
        };
        let layer = |(name, inputs): (String, usize)| -> Result<Layer, ModelError> {
            let mut weight = weights.values(&format!("{name}.self_attn.linear_q_k_v.weight"))?;
            let mut bias = weights.values(&format!("{name}.self_attn.linear_q_k_v.bias"))?;
            let scale = ((dim / config.attention_heads) as f32).powf(-0.5);
            weight[..dim * inputs]
                .iter_mut()
                .for_each(|value| *value *= scale);
            bias[..dim].iter_mut().for_each(|value| *value *= scale);
            let kernel = weights.values(&format!("{name}.self_attn.fsmn_block.weight"))?;
            let taps = config.kernel_size;
            let mut memory: Vec<f32> = (0..taps * dim)
                .map(|index| kernel[index % dim * taps + index / dim])
                .collect();
            let current = config.memory_reach().0 * dim;
            memory[current..][..dim]
                .iter_mut()
                .for_each(|value| *value += 1.0);
            Ok(Layer {
                norm1: norm(&format!("{name}.norm1"))?,
                query_key_value: Linear::new(&weight, bias, inputs),
                memory,
                out: linear(&format!("{name}.self_attn.linear_out"), dim)?,
                norm2: norm(&format!("{name}.norm2"))?,
                expand: linear(&format!("{name}.feed_forward.w_1"), dim)?,
                contract: linear(&format!("{name}.feed_forward.w_2"), config.linear_units)?,
                has_residual: inputs == dim,
            })
        };
        Ok(Self {
            chunk,
            geometry: config.geometry(),
            layers: config.layers().into_iter().map(layer).collect::<Result<_, _>>()?,
            after_norm: norm("after_norm")?,
            tp_norm: config.tp_norm.then(|| norm("tp_norm")).transpose()?,
            config: config.clone(),
            scratch: ScratchPool::default(),
        })
    }

    fn input_len(&self) -> usize {
        (self.chunk.size[0] + self.chunk.size[2]) * self.config.input_size
    }

    fn layer_len(&self) -> usize {
        2 * self.chunk.most_kept() * self.config.output_size
    }

    fn state_len(&self) -> usize {
        self.input_len() + self.layers.len() * self.layer_len()
    }

    fn step_group(&self, rows: &mut [StepRow<'_>], scratch: &mut Scratch) {
        scratch.stream.clear();
        for row in rows.iter_mut() {
            self.embed(row, &mut scratch.stream);
        }
        let dim = self.config.output_size;
        for (index, layer) in self.layers.iter().enumerate() {
            self.run_layer(index, layer, rows, scratch);
            if index + 1 == self.config.num_blocks {
                self.after_norm.apply_in_place(&mut scratch.stream);
            }
        }
        if let Some(norm) = &self.tp_norm {
            norm.apply_in_place(&mut scratch.stream);
        }
        let [before, frames, _] = self.chunk.size;
        for (row, window) in rows
            .iter_mut()
            .zip(scratch.stream.chunks_exact(self.chunk.window() * dim))
        {
            row.state.steps += 1;
            row.output.clear();
            row.output
                .extend_from_slice(&window[before * dim..][..frames * dim]);
        }
    }

    /// Appends the session's window, scaled and with positions, to `stream`, and keeps what the next one begins with.
    fn embed(&self, row: &mut StepRow<'_>, stream: &mut Vec<f32>) {
        let width = self.config.input_size;
        let [before, frames, after] = self.chunk.size;
        let begin = stream.len();
        let held = &mut row.state.values[..self.input_len()];
        let first_position = if row.state.steps == 0 {
            stream.resize(begin + before * width, 0.0);
            0
        } else {
            stream.extend_from_slice(held);
            row.state.steps * frames as u64 + after as u64
        };
        let scale = (self.config.output_size as f64).sqrt();
        for (position, frame) in (first_position..).zip(row.features.chunks_exact(width)) {
            let at = stream.len();
            stream.extend_from_slice(frame);
            let embedded = &mut stream[at..];
            self.config.write_position(position, |index, value| {
                embedded[index] = (f64::from(embedded[index]) * scale + value) as f32;
            });
        }
        let held_len = held.len();
        held.copy_from_slice(&stream[stream.len() - held_len..]);
    }

    fn run_layer(&self, index: usize, layer: &Layer, rows: &mut [StepRow<'_>], scratch: &mut Scratch) {
        let dim = self.config.output_size;
        let window = self.chunk.window();
        let count = rows.len() * window;
        scratch.normed.resize(scratch.stream.len(), 0.0);
        layer.norm1.apply(&scratch.stream, &mut scratch.normed);
        scratch.projected.resize(count * 3 * dim, 0.0);
        layer
            .query_key_value
            .apply(count, &scratch.normed, &mut scratch.projected);
        scratch.attended.resize(count * dim, 0.0);
        let begin = self.input_len() + index * self.layer_len();
        for ((row, projected), attended) in rows
            .iter_mut()
            .zip(scratch.projected.chunks_exact(window * 3 * dim))
            .zip(scratch.attended.chunks_exact_mut(window * dim))
        {
            let kept = &mut row.state.values[begin..][..self.layer_len()];
            let (keys, values) = kept.split_at_mut(kept.len() / 2);
            let num_kept = self.chunk.kept_after(row.state.steps);
            let earlier = (&keys[..num_kept * dim], &values[..num_kept * dim]);
            self.attend(projected, earlier, &mut scratch.scores, attended);
            self.keep(row.state.steps, projected, keys, dim);
            self.keep(row.state.steps, projected, values, 2 * dim);
        }
        scratch.mixed.resize(count * dim, 0.0);
        layer.out.apply(count, &scratch.attended, &mut scratch.mixed);
        for (projected, mixed) in scratch
            .projected
            .chunks_exact(window * 3 * dim)
            .zip(scratch.mixed.chunks_exact_mut(window * dim))
        {
            self.remember(layer, projected, mixed);
        }
        if layer.has_residual {
            let stream = scratch.stream.iter_mut();
            stream
                .zip(&scratch.mixed)
                .for_each(|(value, mixed)| *value += mixed);
        } else {
            std::mem::swap(&mut scratch.stream, &mut scratch.mixed);
        }
        let units = self.config.linear_units;
        scratch.mixed.resize(count * dim, 0.0);
        layer.norm2.apply(&scratch.stream, &mut scratch.mixed);
        scratch.hidden.resize(count * units, 0.0);
        layer.expand.apply(count, &scratch.mixed, &mut scratch.hidden);
        activate(&mut scratch.hidden, Activation::Relu);
        layer
            .contract
            .apply_adding(count, &scratch.hidden, &mut scratch.stream);
    }

    /// Attention of one window over the kept rows and its own, head by head.
    fn attend(
        &self,
        projected: &[f32],
        (keys, values): (&[f32], &[f32]),
        scores: &mut Vec<f32>,
        attended: &mut [f32],
    ) {
        let dim = self.config.output_size;
        let width = dim / self.config.attention_heads;
        let (window, kept) = (self.chunk.window(), keys.len() / dim);
        let columns = kept + window;
        scores.resize(window * columns, 0.0);
        for head in (0..dim).step_by(width) {
            let own = |part: usize| Matrix::rows(&projected[part * dim + head..], 3 * dim);
            let query = own(0);
            if kept > 0 {
                let keys = Matrix::rows(&keys[head..], dim).transposed();
                product((window, kept, width), scores, columns, query, keys, false);
            }
            let own_scores = &mut scores[kept..];
            product(
                (window, window, width),
                own_scores,
                columns,
                query,
                own(1).transposed(),
                false,
            );
            softmax_rows(scores, columns);
            let output = &mut attended[head..];
            if kept > 0 {
                let values = Matrix::rows(&values[head..], dim);
                product(
                    (window, width, kept),
                    output,
                    dim,
                    Matrix::rows(scores, columns),
                    values,
                    false,
                );
            }
            let own_weights = Matrix::rows(&scores[kept..], columns);
            product(
                (window, width, window),
                output,
                dim,
                own_weights,
                own(2),
                kept > 0,
            );
        }
    }

    /// Adds the memory of the values to `mixed`.
    fn remember(&self, layer: &Layer, projected: &[f32], mixed: &mut [f32]) {
        let dim = self.config.output_size;
        let before = self.config.memory_reach().0;
        add_neighbours(
            &layer.memory,
            before,
            dim,
            &projected[..self.chunk.window() * 3 * dim],
            mixed,
        );
    }

    /// Appends the window's keys or values, those after the chunk left out, and drops the oldest.
    fn keep(&self, steps: u64, projected: &[f32], kept: &mut [f32], part: usize) {
        let dim = self.config.output_size;
        let limit = self.chunk.kept_after(steps + 1);
        let added = self.chunk.kept_by_a_step().min(limit);
        let held = self.chunk.kept_after(steps);
        let staying = limit - added;
        kept.copy_within((held - staying) * dim..held * dim, 0);
        let first = self.chunk.kept_by_a_step() - added;
        for (slot, row) in kept[staying * dim..limit * dim]
            .chunks_exact_mut(dim)
            .zip(projected.chunks_exact(3 * dim).skip(first))
        {
            slot.copy_from_slice(&row[part..][..dim]);
        }
    }
}

vectorised! {
    /// Adds to each frame its neighbours' values, the last third of what is projected of a frame, weighted by `memory (taps, dim)`, of whose taps `before` lie in front.
    fn add_neighbours(memory: &[f32], before: usize, dim: usize, projected: &[f32], mixed: &mut [f32]) {
        let window = projected.len() / (3 * dim);
        for (frame, sum) in mixed.chunks_exact_mut(dim).enumerate() {
            for (tap, coefficients) in memory.chunks_exact(dim).enumerate() {
                let Some(source) = (frame + tap)
                    .checked_sub(before)
                    .filter(|&source| source < window)
                else {
                    continue;
                };
                let values = &projected[(source * 3 + 2) * dim..][..dim];
                for ((sum, value), coefficient) in sum.iter_mut().zip(values).zip(coefficients) {
                    *sum += value * coefficient;
                }
            }
        }
    }
}

impl StreamingEncoder for Sanm {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn products_per_step(&self) -> u64 {
        let (dim, units, window) = (
            self.config.output_size,
            self.config.linear_units,
            self.chunk.window(),
        );
        let keys = window + self.chunk.kept_after(u64::MAX);
        let layers: usize = self
            .config
            .layers()
            .iter()
            .map(|(_, inputs)| window * (3 * inputs * dim + 2 * keys * dim + dim * dim + 2 * dim * units))
            .sum();
        layers as u64
    }

    fn new_state(&self) -> StateCache {
        StateCache::new(self.state_len())
    }

    fn step(&self, rows: &mut [StepRow<'_>]) -> Result<(), ModelError> {
        check_rows(self.state_len(), rows, |steps| self.geometry.values_needed(steps))?;
        self.scratch.with(|scratch| {
            for group in rows.chunks_mut(GROUP) {
                self.step_group(group, scratch);
            }
        });
        Ok(())
    }
}
