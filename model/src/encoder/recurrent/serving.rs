//! The served recurrent encoder: one step for a compact batch of sessions of any age, on plain slices,
//! single-threaded.
//!
//! A recurrence has no notion of age, so all rows of a step go through every product together. Layout of a session's
//! values: for each layer h `(hidden)` and, for LSTM, c `(hidden)`; QuasiRNN keeps its running average as h.

use crate::encoder::kernels::{Linear, Norm, sigmoid, tanh, vectorised};
use crate::encoder::scratch::ScratchPool;
use crate::encoder::{Geometry, StateCache, StepRow, StreamingEncoder, check_rows};
use crate::error::ModelError;
use crate::loader::Weights;

use super::config::{Cell, Nonlinearity, Normalization, RecurrentConfig};
use super::kernel::{GateScratch, GatedKernel, to_time_major};
use super::scan::Kind;
use super::{NORM_EPSILON, cannot_stream, direction_name, geometry};

/// Sessions that share one pass through the layers.
const GROUP: usize = 32;

enum Layer {
    Gated(GatedKernel),
    LightGru {
        /// A batch norm is part of it.
        input: Linear,
        norm: Option<Norm>,
        recurrent: Linear,
    },
    Quasi(Linear),
}

/// A unidirectional recurrent encoder that is served: weights shared by all threads, state in each session's cache.
pub struct Recurrent {
    config: RecurrentConfig,
    geometry: Geometry,
    layers: Vec<Layer>,
    scratch: ScratchPool<Scratch>,
}

#[derive(Default)]
struct Scratch {
    gates: GateScratch,
    /// `(frames, rows, width)`: input of a layer.
    input: Vec<f32>,
    /// `(frames, rows, hidden)`: output of a layer.
    output: Vec<f32>,
    h: Vec<f32>,
    c: Vec<f32>,
}

impl Recurrent {
    /// Builds the encoder.
    ///
    /// # Errors
    /// [`ModelError::CannotStream`] for a bidirectional one, [`ModelError::Invalid`] when a tensor of
    /// [`super::expected_tensors`] is missing.
    pub fn new(config: &RecurrentConfig, weights: &Weights) -> Result<Self, ModelError> {
        if let Some(reason) = cannot_stream(config) {
            return Err(ModelError::CannotStream { reason });
        }
        Ok(Self {
            geometry: geometry(config),
            layers: (0..config.num_layers)
                .map(|layer| load_layer(config, weights, layer))
                .collect::<Result<_, _>>()?,
            config: config.clone(),
            scratch: ScratchPool::default(),
        })
    }

    /// Values of one layer in a session's state.
    fn layer_state_len(&self) -> usize {
        (1 + usize::from(self.config.cell == Cell::Lstm)) * self.config.hidden_size
    }

    fn state_len(&self) -> usize {
        self.config.num_layers * self.layer_state_len()
    }

    fn step_group(&self, rows: &mut [StepRow<'_>], scratch: &mut Scratch) {
        let (frames, count, hidden) = (self.geometry.segment_frames, rows.len(), self.config.hidden_size);
        scratch.input.resize(frames * count * self.config.input_size, 0.0);
        to_time_major(
            rows.iter().map(|row| row.features),
            (frames, self.config.input_size),
            &mut scratch.input,
        );
        for buffer in [&mut scratch.h, &mut scratch.c] {
            buffer.resize(count * hidden, 0.0);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let begin = index * self.layer_state_len();
            let is_lstm = self.config.cell == Cell::Lstm;
            for (row, step) in rows.iter().enumerate() {
                let state = &step.state.values[begin..][..self.layer_state_len()];
                scratch.h[row * hidden..][..hidden].copy_from_slice(&state[..hidden]);
                if is_lstm {
                    scratch.c[row * hidden..][..hidden].copy_from_slice(&state[hidden..]);
                }
            }
            scratch.output.resize(frames * count * hidden, 0.0);
            self.run_layer(layer, (frames, count), scratch);
            for (row, step) in rows.iter_mut().enumerate() {
                let state = &mut step.state.values[begin..][..self.layer_state_len()];
                state[..hidden].copy_from_slice(&scratch.h[row * hidden..][..hidden]);
                if is_lstm {
                    state[hidden..].copy_from_slice(&scratch.c[row * hidden..][..hidden]);
                }
            }
            std::mem::swap(&mut scratch.input, &mut scratch.output);
        }
        for (row, step) in rows.iter_mut().enumerate() {
            step.state.steps += 1;
            step.output.clear();
            for frame in 0..frames {
                let at = (frame * count + row) * hidden;
                step.output.extend_from_slice(&scratch.input[at..][..hidden]);
            }
        }
    }

    fn run_layer(&self, layer: &Layer, (frames, rows): (usize, usize), scratch: &mut Scratch) {
        let hidden = self.config.hidden_size;
        let Scratch {
            gates,
            input,
            output,
            h,
            c,
        } = scratch;
        match layer {
            Layer::Gated(kernel) => kernel.run((frames, rows), input, h, c, output, gates),
            Layer::LightGru {
                input: linear,
                norm,
                recurrent,
            } => {
                let GateScratch {
                    projected,
                    recurrent: shares,
                } = gates;
                projected.resize(frames * rows * 2 * hidden, 0.0);
                shares.resize(rows * 2 * hidden, 0.0);
                linear.apply(frames * rows, input, projected);
                if let Some(norm) = norm {
                    norm.apply_in_place(projected);
                }
                let nonlinearity = self.config.nonlinearity();
                let steps = projected
                    .chunks_exact(rows * 2 * hidden)
                    .zip(output.chunks_exact_mut(rows * hidden));
                for (projected, output) in steps {
                    recurrent.apply(rows, h, shares);
                    let gates = projected
                        .chunks_exact(2 * hidden)
                        .zip(shares.chunks_exact(2 * hidden));
                    for ((projected, shares), h) in gates.zip(h.chunks_exact_mut(hidden)) {
                        advance_light(nonlinearity, projected, shares, h);
                    }
                    output.copy_from_slice(h);
                }
            }
            Layer::Quasi(linear) => {
                let width = linear.outputs();
                gates.projected.resize(frames * rows * width, 0.0);
                linear.apply(frames * rows, input, &mut gates.projected);
                let keep = self.config.keep() as f32;
                let steps = gates
                    .projected
                    .chunks_exact(rows * width)
                    .zip(output.chunks_exact_mut(rows * hidden));
                for (projected, output) in steps {
                    let rows = projected
                        .chunks_exact(width)
                        .zip(h.chunks_exact_mut(hidden).zip(output.chunks_exact_mut(hidden)));
                    for (gates, (average, output)) in rows {
                        advance_quasi(keep, gates, average, output);
                    }
                }
            }
        }
    }
}

impl StreamingEncoder for Recurrent {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn products_per_step(&self) -> u64 {
        let products = |layer: &Layer| match layer {
            Layer::Gated(kernel) => kernel.products(),
            Layer::LightGru { input, recurrent, .. } => input.products() + recurrent.products(),
            Layer::Quasi(input) => input.products(),
        };
        (self.geometry.segment_frames * self.layers.iter().map(products).sum::<usize>()) as u64
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

vectorised! {
    fn advance_light(nonlinearity: Nonlinearity, projected: &[f32], shares: &[f32], h: &mut [f32]) {
        let hidden = h.len();
        let (projected, shares) = (&projected[..2 * hidden], &shares[..2 * hidden]);
        let candidate = |value: f32| match nonlinearity {
            Nonlinearity::Tanh => tanh(value),
            Nonlinearity::Relu if value < 0.0 => 0.0,
            Nonlinearity::LeakyRelu if value < 0.0 => value * super::LEAK as f32,
            Nonlinearity::Relu | Nonlinearity::LeakyRelu => value,
            Nonlinearity::Sin => value.sin(),
        };
        for j in 0..hidden {
            let update = sigmoid(projected[hidden + j] + shares[hidden + j]);
            h[j] = update * h[j] + (1.0 - update) * candidate(projected[j] + shares[j]);
        }
    }
}

vectorised! {
    fn advance_quasi(keep: f32, gates: &[f32], average: &mut [f32], output: &mut [f32]) {
        let hidden = average.len();
        let (new, gates) = gates.split_at(hidden);
        let (forget, gate) = gates.split_at(hidden);
        for j in 0..hidden {
            let forget = keep * sigmoid(forget[j]);
            average[j] = forget * tanh(new[j]) + (1.0 - forget) * average[j];
        }
        if gate.is_empty() {
            output.copy_from_slice(average);
        } else {
            for ((output, average), gate) in output.iter_mut().zip(average.iter()).zip(gate) {
                *output = sigmoid(*gate) * average;
            }
        }
    }
}

fn load_layer(config: &RecurrentConfig, weights: &Weights, layer: usize) -> Result<Layer, ModelError> {
    let (inputs, hidden) = (config.layer_input(layer), config.hidden_size);
    if let Some(kind) = Kind::of(config.cell, config.nonlinearity()) {
        let name = |part: &str| direction_name(part, layer, false);
        let kernel = GatedKernel::load(weights, kind, (inputs, hidden), config.bias, name)?;
        return Ok(Layer::Gated(kernel));
    }
    if config.cell == Cell::QuasiRnn {
        let weight = weights.values(&format!("qrnn.{layer}.w.weight"))?;
        let bias = weights.values(&format!("qrnn.{layer}.w.bias"))?;
        return Ok(Layer::Quasi(Linear::new(&weight, bias, inputs)));
    }
    let values = |part: &str| weights.values(&format!("rnn.{layer}.{part}"));
    let mut weight = values("w.weight")?;
    let (scale, offset) = (values("norm.weight")?, values("norm.bias")?);
    let recurrent = Linear::new(&values("u.weight")?, vec![0.0; 2 * hidden], hidden);
    Ok(match config.normalization() {
        Normalization::LayerNorm => Layer::LightGru {
            input: Linear::new(&weight, vec![0.0; 2 * hidden], inputs),
            norm: Some(Norm::new(scale, offset)),
            recurrent,
        },
        Normalization::BatchNorm => {
            let (mean, variance) = (values("norm.running_mean")?, values("norm.running_var")?);
            let mut bias = Vec::with_capacity(2 * hidden);
            for (index, row) in weight.chunks_exact_mut(inputs).enumerate() {
                let scale = f64::from(scale[index]) / (f64::from(variance[index]) + NORM_EPSILON).sqrt();
                for value in row {
                    *value = (f64::from(*value) * scale) as f32;
                }
                bias.push((f64::from(offset[index]) - f64::from(mean[index]) * scale) as f32);
            }
            Layer::LightGru {
                input: Linear::new(&weight, bias, inputs),
                norm: None,
                recurrent,
            }
        }
    })
}
