//! The served SkiM: one step for a compact batch of sessions of any age, on plain slices, single-threaded.
//!
//! A session crosses a segment's border after every `segment_size` of its own frames, wherever that falls in a step. A
//! batch is cut at the borders of all its rows; only the rows that stand at one go through the MemLSTMs.
//!
//! Layout of a session's values, vectors of `hidden` each: h and c of every SegLSTM, then h and c of every LSTM of every
//! MemLSTM.

use crate::encoder::kernels::{Linear, vectorised};
use crate::encoder::recurrent::kernel::{GateScratch, GatedKernel, to_time_major};
use crate::encoder::recurrent::scan::Kind;
use crate::encoder::scratch::ScratchPool;
use crate::encoder::{Geometry, StateCache, StepRow, StreamingEncoder, check_rows};
use crate::error::ModelError;
use crate::loader::Weights;

use super::config::{MemType, SkimConfig};
use super::{NORM_EPSILON, cannot_stream, geometry, lstm_name};

/// Sessions that share one pass through the blocks.
const GROUP: usize = 32;

/// An LSTM, its projection and the norm of that.
struct Net {
    lstm: GatedKernel,
    projection: Linear,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

/// A causal SkiM that is served: weights shared by all threads, state in each session's cache.
pub struct Skim {
    config: SkimConfig,
    geometry: Geometry,
    mem_type: MemType,
    segments: Vec<Net>,
    /// For each MemLSTM its nets: the hidden's, the cell's, as far as there are any.
    memories: Vec<Vec<Net>>,
    slope: f32,
    output: Linear,
    scratch: ScratchPool<Scratch>,
}

#[derive(Default)]
struct Scratch {
    /// `(frames, rows, input size)`.
    stream: Vec<f32>,
    /// States of all rows, `(vectors, rows, hidden)`.
    states: Vec<f32>,
    net: NetScratch,
    /// States of the rows that stand at a border: a segment's, and a MemLSTM's two.
    border: [Vec<f32>; 3],
    result: Vec<f32>,
    borders: Vec<usize>,
    frames_at: Vec<usize>,
}

#[derive(Default)]
struct NetScratch {
    gates: GateScratch,
    hidden: Vec<f32>,
    projected: Vec<f32>,
}

impl Net {
    fn load(
        weights: &Weights,
        (prefix, lstm, norm): (&str, &str, &str),
        (inputs, hidden): (usize, usize),
    ) -> Result<Self, ModelError> {
        Ok(Self {
            lstm: GatedKernel::load(weights, Kind::Lstm, (inputs, hidden), true, |part| {
                lstm_name(prefix, lstm, part, 0)
            })?,
            projection: Linear::new(
                &weights.values(&format!("{prefix}proj.weight"))?,
                weights.values(&format!("{prefix}proj.bias"))?,
                hidden,
            ),
            gamma: weights.values(&format!("{norm}.gamma"))?,
            beta: weights.values(&format!("{norm}.beta"))?,
        })
    }

    fn products(&self) -> usize {
        self.lstm.products() + self.projection.products()
    }

    /// Adds the normed projection of the LSTM's outputs to `values (frames, rows, inputs)`, which is its input too.
    fn add(
        &self,
        (frames, rows): (usize, usize),
        values: &mut [f32],
        (h, c): (&mut [f32], &mut [f32]),
        scratch: &mut NetScratch,
    ) {
        let NetScratch {
            gates,
            hidden,
            projected,
        } = scratch;
        hidden.resize(frames * h.len(), 0.0);
        self.lstm.run((frames, rows), values, h, c, hidden, gates);
        projected.resize(values.len(), 0.0);
        self.projection.apply(frames * rows, hidden, projected);
        add_norm(projected, &self.gamma, &self.beta, values);
    }
}

vectorised! {
    /// Adds the norm of each projected row to the values.
    fn add_norm(projected: &[f32], gamma: &[f32], beta: &[f32], values: &mut [f32]) {
        let width = gamma.len();
        for (to, from) in values.chunks_exact_mut(width).zip(projected.chunks_exact(width)) {
            let mean = from.iter().sum::<f32>() / width as f32;
            let variance = from
                .iter()
                .map(|value| (value - mean) * (value - mean))
                .sum::<f32>()
                / width as f32;
            let scale = 1.0 / (variance + NORM_EPSILON as f32).sqrt();
            for (((to, from), gamma), beta) in to.iter_mut().zip(from).zip(gamma).zip(beta) {
                *to += (from - mean) * scale * gamma + beta;
            }
        }
    }
}

impl Skim {
    /// Builds the encoder.
    ///
    /// # Errors
    /// [`ModelError::CannotStream`] for one that is not causal, [`ModelError::Invalid`] when a tensor of
    /// [`super::expected_tensors`] is missing.
    pub fn new(config: &SkimConfig, weights: &Weights) -> Result<Self, ModelError> {
        let mem_type = match (cannot_stream(config), config.mem_type) {
            (None, Some(mem_type)) => mem_type,
            (reason, _) => {
                let reason = reason.unwrap_or_default();
                return Err(ModelError::CannotStream { reason });
            }
        };
        let (inputs, hidden) = (config.input_size, config.hidden_size);
        let segment = |block: usize| {
            let prefix = format!("seg_lstms.{block}.");
            let norm = format!("{prefix}norm");
            Net::load(weights, (&prefix, "lstm", &norm), (inputs, hidden))
        };
        let memory = |block: usize| -> Result<Vec<Net>, ModelError> {
            let states = [("h", mem_type.has_hidden()), ("c", mem_type.has_cell())];
            let present = states.into_iter().filter(|(_, present)| *present);
            present
                .map(|(state, _)| {
                    let prefix = format!("mem_lstms.{block}.{state}_net.");
                    let norm = format!("mem_lstms.{block}.{state}_norm");
                    Net::load(weights, (&prefix, "rnn", &norm), (hidden, hidden))
                })
                .collect()
        };
        let slope = weights.values("output_fc.0.weight")?;
        Ok(Self {
            geometry: geometry(config),
            mem_type,
            segments: (0..config.num_blocks).map(segment).collect::<Result<_, _>>()?,
            memories: (1..config.num_blocks)
                .map(|block| memory(block - 1))
                .collect::<Result<_, _>>()?,
            slope: slope.first().copied().unwrap_or(0.0),
            output: Linear::new(
                &weights.values("output_fc.1.weight")?,
                weights.values("output_fc.1.bias")?,
                inputs,
            ),
            config: config.clone(),
            scratch: ScratchPool::default(),
        })
    }

    /// Vectors in a session's state.
    fn num_vectors(&self) -> usize {
        2 * (self.segments.len() + self.memories.iter().map(Vec::len).sum::<usize>())
    }

    fn state_len(&self) -> usize {
        self.num_vectors() * self.config.hidden_size
    }

    fn step_group(&self, rows: &mut [StepRow<'_>], scratch: &mut Scratch) {
        let (frames, count) = (self.geometry.segment_frames, rows.len());
        let (width, hidden) = (self.config.input_size, self.config.hidden_size);
        scratch.stream.resize(frames * count * width, 0.0);
        let features = rows.iter().map(|row| row.features);
        to_time_major(features, (frames, width), &mut scratch.stream);
        scratch.states.resize(count * self.state_len(), 0.0);
        let states = rows.iter().map(|row| &*row.state.values);
        to_time_major(states, (self.num_vectors(), hidden), &mut scratch.states);

        // Frames of this step at which some row begins a segment.
        let size = self.config.segment_size as u64;
        let position = |row: &StepRow<'_>| row.state.steps.wrapping_mul(frames as u64);
        let begins = |row: &StepRow<'_>, frame: usize| {
            let position = position(row) + frame as u64;
            position > 0 && position.is_multiple_of(size)
        };
        scratch.frames_at.clear();
        let at_border = (0..frames).filter(|&frame| rows.iter().any(|row| begins(row, frame)));
        scratch.frames_at.extend(at_border);
        scratch.frames_at.push(frames);
        let mut begin = 0;
        for index in 0..scratch.frames_at.len() {
            let end = scratch.frames_at[index];
            self.run_blocks(begin..end, count, scratch);
            if end < frames {
                scratch.borders.clear();
                let crossing = (0..count).filter(|&row| begins(&rows[row], end));
                scratch.borders.extend(crossing);
                self.cross(count, scratch);
            }
            begin = end;
        }

        for value in &mut scratch.stream {
            *value *= if *value < 0.0 { self.slope } else { 1.0 };
        }
        let outputs = self.output.outputs();
        scratch.result.resize(frames * count * outputs, 0.0);
        self.output
            .apply(frames * count, &scratch.stream, &mut scratch.result);
        for (row, step) in rows.iter_mut().enumerate() {
            step.output.clear();
            for frame in 0..frames {
                let at = (frame * count + row) * outputs;
                step.output.extend_from_slice(&scratch.result[at..][..outputs]);
            }
            for (vector, values) in step.state.values.chunks_exact_mut(hidden).enumerate() {
                values.copy_from_slice(&scratch.states[(vector * count + row) * hidden..][..hidden]);
            }
            step.state.steps += 1;
        }
    }

    /// Frames of all rows through all SegLSTMs.
    fn run_blocks(&self, frames: std::ops::Range<usize>, count: usize, scratch: &mut Scratch) {
        if frames.is_empty() {
            return;
        }
        let row_width = count * self.config.input_size;
        let stream = &mut scratch.stream[frames.start * row_width..frames.end * row_width];
        let len = count * self.config.hidden_size;
        for (segment, states) in self.segments.iter().zip(scratch.states.chunks_exact_mut(2 * len)) {
            segment.add(
                (frames.len(), count),
                stream,
                states.split_at_mut(len),
                &mut scratch.net,
            );
        }
    }

    /// Brings the rows in `borders` into their next segment: each block begins with what the block before left, through
    /// their MemLSTM; the first begins with zeros.
    fn cross(&self, count: usize, scratch: &mut Scratch) {
        let hidden = self.config.hidden_size;
        let Scratch {
            states,
            net,
            border: [values, h, c],
            borders,
            ..
        } = scratch;
        let crossing = borders.len();
        let vector_len = count * hidden;
        let gather = |states: &[f32], vector: usize, to: &mut Vec<f32>| {
            to.clear();
            for &row in borders.iter() {
                to.extend_from_slice(&states[vector * vector_len + row * hidden..][..hidden]);
            }
        };
        let scatter = |states: &mut [f32], vector: usize, from: &[f32]| {
            for (&row, from) in borders.iter().zip(from.chunks_exact(hidden)) {
                states[vector * vector_len + row * hidden..][..hidden].copy_from_slice(from);
            }
        };
        let mut first_vector =
            2 * self.segments.len() + 2 * self.memories.iter().map(Vec::len).sum::<usize>();
        // From the last on, so that none is overwritten before it is read.
        for (block, memory) in self.memories.iter().enumerate().rev() {
            first_vector -= 2 * memory.len();
            let mut nets = memory.iter().enumerate();
            let kinds = [self.mem_type.has_hidden(), self.mem_type.has_cell()];
            for (state, trained) in kinds.into_iter().enumerate() {
                gather(states, 2 * block + state, values);
                if let Some((index, own)) = trained.then(|| nets.next()).flatten() {
                    let vector = first_vector + 2 * index;
                    gather(states, vector, h);
                    gather(states, vector + 1, c);
                    own.add((1, crossing), values, (h, c), net);
                    scatter(states, vector, h);
                    scatter(states, vector + 1, c);
                } else if self.mem_type != MemType::Id {
                    values.fill(0.0);
                }
                scatter(states, 2 * (block + 1) + state, values);
            }
        }
        values.clear();
        values.resize(crossing * hidden, 0.0);
        scatter(states, 0, values);
        scatter(states, 1, values);
    }
}

impl StreamingEncoder for Skim {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn products_per_step(&self) -> u64 {
        let frames = self.geometry.segment_frames;
        let segments: usize = self.segments.iter().map(Net::products).sum();
        let memories: usize = self.memories.iter().flatten().map(Net::products).sum();
        let borders = frames.div_ceil(self.config.segment_size);
        (frames * (segments + self.output.products()) + borders * memories) as u64
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
