//! The reference executor: Candle operations, `f32` or `f64`, whole batches.
//!
//! [`Reference::forward`] takes exact lengths for every cell and returns states as PyTorch lays them out.
//! [`Reference::forward_as_original`] does what speechbrain does, mistakes included, for comparing with it:
//! relative lengths lose a frame where the product is rounded down, a bidirectional LiGRU returns its states in
//! scrambled order, and QuasiRNN returns the last item's whole sequence in their place.

use candle_core::{D, DType, Tensor};
use candle_nn::ops::{leaky_relu, sigmoid};

use crate::encoder::{Geometry, OfflineEncoder};
use crate::error::ModelError;
use crate::loader::Weights;

use super::config::{Cell, Nonlinearity, Normalization, RecurrentConfig};
use super::scan::{Gated, Kind, scan};
use super::{NORM_EPSILON, direction_name, geometry};

/// What a recurrence remembers, each `(layers · directions, batch, hidden)`, directions innermost.
#[derive(Debug, Clone)]
pub struct Hidden {
    /// Hidden states; QuasiRNN's running averages.
    pub hidden: Tensor,
    /// Cell states of LSTM.
    pub cell: Option<Tensor>,
}

struct LightGru {
    /// `(inputs, 2 · hidden)`.
    input: Tensor,
    /// `(hidden, 2 · hidden)`.
    recurrent: Tensor,
    weight: Tensor,
    bias: Tensor,
    /// Mean and variance of a batch norm.
    running: Option<(Tensor, Tensor)>,
}

struct Quasi {
    weight: Tensor,
    bias: Tensor,
}

enum Layer {
    /// One for each direction.
    Gated(Vec<Gated>),
    LightGru(LightGru),
    Quasi(Quasi),
}

/// Weights as Candle tensors.
pub struct Reference {
    config: RecurrentConfig,
    geometry: Geometry,
    dtype: DType,
    layers: Vec<Layer>,
}

/// One layer's results: outputs `(batch, frames, hidden · directions)`, what QuasiRNN returns as state where it differs
/// (the averages of all frames), and each direction's last state.
struct LayerOutput {
    output: Tensor,
    averages: Option<Tensor>,
    states: Vec<Vec<Tensor>>,
}

impl Reference {
    /// Takes the weights in their type.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`super::expected_tensors`] is missing.
    pub fn new(config: &RecurrentConfig, weights: &Weights) -> Result<Self, ModelError> {
        let layers = (0..config.num_layers)
            .map(|layer| load_layer(config, weights, layer))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            geometry: geometry(config),
            dtype: weights.dtype(),
            config: config.clone(),
            layers,
        })
    }

    /// Type of the weights and of all results.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Runs `features (batch, frames, input size)` to `(batch, frames, hidden · directions)` and the states at each
    /// item's end. Frames past an item's length give zeros and leave its state alone; without lengths all are whole.
    ///
    /// # Errors
    /// [`ModelError::Input`] for lengths or an initial state that do not fit.
    pub fn forward(
        &self,
        features: &Tensor,
        lengths: Option<&[usize]>,
        initial: Option<&Hidden>,
    ) -> Result<(Tensor, Hidden), ModelError> {
        let (output, layers) = self.run(features, lengths, initial)?;
        let states: Vec<&Vec<Tensor>> = layers.iter().flat_map(|layer| &layer.states).collect();
        let stacked = |index: usize| -> Result<Tensor, ModelError> {
            let tensors: Vec<&Tensor> = states.iter().map(|state| &state[index]).collect();
            Ok(Tensor::stack(&tensors, 0)?)
        };
        let cell = match self.config.cell {
            Cell::Lstm => Some(stacked(1)?),
            _ => None,
        };
        Ok((
            output,
            Hidden {
                hidden: stacked(0)?,
                cell,
            },
        ))
    }

    /// As speechbrain 1.1: `relative` lengths in 0 to 1 are multiplied by the frames in `f32` and rounded down, the
    /// output ends with the longest item, and the states are what LiGRU and QuasiRNN really return.
    ///
    /// # Errors
    /// As [`Reference::forward`]; also for lengths given to LiGRU or QuasiRNN, and where a length becomes 0.
    pub fn forward_as_original(
        &self,
        features: &Tensor,
        relative: Option<&[f32]>,
        initial: Option<&Hidden>,
    ) -> Result<(Tensor, Hidden), ModelError> {
        let frames = features.dims3().map_err(ModelError::from)?.1;
        let light = matches!(self.config.cell, Cell::Ligru | Cell::QuasiRnn);
        let lengths = match relative {
            None => None,
            Some(_) if light => {
                return Err(ModelError::input(
                    "relative_lengths",
                    "none for ligru and quasirnn",
                    "some",
                ));
            }
            Some(relative) => Some(truncated_lengths(relative, frames)?),
        };
        if !light {
            let (output, hidden) = self.forward(features, lengths.as_deref(), initial)?;
            let longest = lengths.map_or(frames, |lengths| lengths.into_iter().max().unwrap_or(frames));
            return Ok((output.narrow(1, 0, longest)?, hidden));
        }
        let (output, layers) = self.run(features, None, initial)?;
        let batch = features.dim(0)?;
        let hidden = if self.config.cell == Cell::QuasiRnn {
            let last: Vec<Tensor> = layers
                .iter()
                .map(|layer| {
                    let averages = layer.averages.as_ref().unwrap_or(&layer.output);
                    averages.get(batch - 1)
                })
                .collect::<candle_core::Result<_>>()?;
            Tensor::stack(&last, 0)?
        } else {
            let last: Vec<Tensor> = layers
                .iter()
                .map(|layer| layer.output.narrow(1, frames - 1, 1)?.squeeze(1))
                .collect::<candle_core::Result<_>>()?;
            let stacked = Tensor::stack(&last, 1)?;
            if self.config.bidirectional {
                stacked
                    .contiguous()?
                    .reshape((2 * self.config.num_layers, batch, self.config.hidden_size))?
            } else {
                stacked.transpose(0, 1)?.contiguous()?
            }
        };
        Ok((output, Hidden { hidden, cell: None }))
    }

    fn run(
        &self,
        features: &Tensor,
        lengths: Option<&[usize]>,
        initial: Option<&Hidden>,
    ) -> Result<(Tensor, Vec<LayerOutput>), ModelError> {
        let (batch, frames, width) = features
            .dims3()
            .map_err(|_| ModelError::input("features", "3 dimensions", features.rank()))?;
        if width != self.config.input_size || frames == 0 || batch == 0 {
            return Err(ModelError::input(
                "features",
                format!("(batch, frames, {}), not empty", self.config.input_size),
                format!("{:?}", features.dims()),
            ));
        }
        if let Some(lengths) = lengths {
            let longest = lengths.iter().copied().max().unwrap_or(0);
            if lengths.len() != batch || longest > frames {
                return Err(ModelError::input(
                    "lengths",
                    format!("{batch} values up to {frames}"),
                    format!("{lengths:?}"),
                ));
            }
        }
        let directions = self.config.directions();
        let mut x = features.to_dtype(self.dtype)?;
        let mut outputs = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let mut run = LayerOutput {
                output: x.clone(),
                averages: None,
                states: Vec::new(),
            };
            let mut sides = Vec::new();
            let mut averages = Vec::new();
            for direction in 0..directions {
                let state = self.initial_state(initial, index * directions + direction, batch)?;
                let backward = direction == 1;
                let (output, average, state) = self.run_direction(layer, &x, state, lengths, backward)?;
                sides.push(output);
                averages.extend(average);
                run.states.push(state);
            }
            run.output = Tensor::cat(&sides, D::Minus1)?;
            if !averages.is_empty() {
                run.averages = Some(Tensor::cat(&averages, D::Minus1)?);
            }
            x = run.output.clone();
            outputs.push(run);
        }
        Ok((x, outputs))
    }

    fn initial_state(
        &self,
        initial: Option<&Hidden>,
        index: usize,
        batch: usize,
    ) -> Result<Vec<Tensor>, ModelError> {
        let hidden_size = self.config.hidden_size;
        let count = self.config.num_layers * self.config.directions();
        let num_states = 1 + usize::from(self.config.cell == Cell::Lstm);
        let Some(initial) = initial else {
            let device = candle_core::Device::Cpu;
            let zeros = Tensor::zeros((batch, hidden_size), self.dtype, &device)?;
            return Ok(vec![zeros; num_states]);
        };
        let given = [Some(&initial.hidden), initial.cell.as_ref()];
        let given: Vec<&Tensor> = given.into_iter().flatten().collect();
        if given.len() != num_states {
            return Err(ModelError::input(
                "cell",
                if num_states == 2 {
                    "a cell state beside the hidden one"
                } else {
                    "no cell state"
                },
                given.len() - 1,
            ));
        }
        given
            .into_iter()
            .map(|tensor| {
                if tensor.dims() != [count, batch, hidden_size] {
                    return Err(ModelError::input(
                        "hidden",
                        format!("[{count}, {batch}, {hidden_size}]"),
                        format!("{:?}", tensor.dims()),
                    ));
                }
                Ok(tensor.get(index)?.to_dtype(self.dtype)?)
            })
            .collect()
    }

    /// Output, QuasiRNN's averages, last state.
    fn run_direction(
        &self,
        layer: &Layer,
        x: &Tensor,
        state: Vec<Tensor>,
        lengths: Option<&[usize]>,
        backward: bool,
    ) -> Result<(Tensor, Option<Tensor>, Vec<Tensor>), ModelError> {
        let frames = x.dim(1)?;
        Ok(match layer {
            Layer::Gated(directions) => {
                let gated = &directions[usize::from(backward)];
                let (output, state) = gated.run(x, state, lengths, backward)?;
                (output, None, state)
            }
            Layer::LightGru(cell) => {
                let transformed = cell.transform(x)?;
                let nonlinearity = self.config.nonlinearity();
                let (output, state) = scan(frames, lengths, backward, state, |frame, state| {
                    let transformed = transformed.narrow(1, frame, 1)?.squeeze(1)?;
                    let h = cell.advance(&transformed, &state[0], nonlinearity)?;
                    Ok((h.clone(), vec![h]))
                })?;
                (output, None, state)
            }
            Layer::Quasi(cell) => {
                let gates = x.contiguous()?.broadcast_matmul(&cell.weight)?;
                let gates = gates.broadcast_add(&cell.bias)?;
                let count = 2 + usize::from(self.config.output_gate());
                let gates = gates.chunk(count, D::Minus1)?;
                let new = gates[0].tanh()?;
                let forget = (sigmoid(&gates[1])? * self.config.keep())?;
                let (averages, state) = scan(frames, lengths, backward, state, |frame, state| {
                    let forget = forget.narrow(1, frame, 1)?.squeeze(1)?;
                    let new = new.narrow(1, frame, 1)?.squeeze(1)?;
                    let c = ((&forget * new)? + (forget.affine(-1.0, 1.0)? * &state[0])?)?;
                    Ok((c.clone(), vec![c]))
                })?;
                let output = match gates.get(2) {
                    Some(gate) => (sigmoid(gate)? * &averages)?,
                    None => averages.clone(),
                };
                (output, Some(averages), state)
            }
        })
    }
}

impl OfflineEncoder for Reference {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn forward(&self, features: &Tensor, lengths: &[usize]) -> Result<(Tensor, Vec<usize>), ModelError> {
        let (output, _) = Reference::forward(self, features, Some(lengths), None)?;
        Ok((output, lengths.to_vec()))
    }
}

impl LightGru {
    /// `norm(W x)`.
    fn transform(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let x = x.contiguous()?.broadcast_matmul(&self.input)?;
        let (centred, variance) = match &self.running {
            Some((mean, variance)) => (x.broadcast_sub(mean)?, variance.clone()),
            None => {
                let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
                let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
                (centred, variance)
            }
        };
        centred
            .broadcast_div(&(variance + NORM_EPSILON)?.sqrt()?)?
            .broadcast_mul(&self.weight)?
            .broadcast_add(&self.bias)
    }

    fn advance(
        &self,
        transformed: &Tensor,
        h: &Tensor,
        nonlinearity: Nonlinearity,
    ) -> candle_core::Result<Tensor> {
        let gates = (transformed + h.contiguous()?.matmul(&self.recurrent)?)?;
        let gates = gates.chunk(2, D::Minus1)?;
        let candidate = match nonlinearity {
            Nonlinearity::Tanh => gates[0].tanh()?,
            Nonlinearity::Relu => gates[0].relu()?,
            Nonlinearity::Sin => gates[0].sin()?,
            Nonlinearity::LeakyRelu => leaky_relu(&gates[0], super::LEAK)?,
        };
        let update = sigmoid(&gates[1])?;
        (&update * h)? + (update.affine(-1.0, 1.0)? * candidate)?
    }
}

fn load_layer(config: &RecurrentConfig, weights: &Weights, layer: usize) -> Result<Layer, ModelError> {
    if let Some(kind) = Kind::of(config.cell, config.nonlinearity()) {
        let directions = (0..config.directions()).map(|direction| {
            Gated::load(weights, kind, config.bias, |part| {
                direction_name(part, layer, direction == 1)
            })
        });
        return Ok(Layer::Gated(directions.collect::<Result<_, _>>()?));
    }
    let transposed =
        |name: String| -> Result<Tensor, ModelError> { Ok(weights.tensor(&name)?.t()?.contiguous()?) };
    if config.cell == Cell::QuasiRnn {
        return Ok(Layer::Quasi(Quasi {
            weight: transposed(format!("qrnn.{layer}.w.weight"))?,
            bias: weights.tensor(&format!("qrnn.{layer}.w.bias"))?,
        }));
    }
    let norm = |part: &str| weights.tensor(&format!("rnn.{layer}.norm.{part}"));
    Ok(Layer::LightGru(LightGru {
        input: transposed(format!("rnn.{layer}.w.weight"))?,
        recurrent: transposed(format!("rnn.{layer}.u.weight"))?,
        weight: norm("weight")?,
        bias: norm("bias")?,
        running: match config.normalization() {
            Normalization::BatchNorm => Some((norm("running_mean")?, norm("running_var")?)),
            Normalization::LayerNorm => None,
        },
    }))
}

/// speechbrain's lengths: `relative · frames` in `f32`, rounded down, so that 13/22 of 22 frames are 12.
///
/// # Errors
/// [`ModelError::Input`] for one outside of `frames`, or that becomes 0.
pub fn truncated_lengths(relative: &[f32], frames: usize) -> Result<Vec<usize>, ModelError> {
    let length = |&relative: &f32| {
        let length = (relative * frames as f32) as usize;
        if relative.is_finite() && (1..=frames).contains(&length) {
            Ok(length)
        } else {
            Err(ModelError::input(
                "relative_lengths",
                format!("shares of {frames} frames that leave at least 1"),
                relative,
            ))
        }
    };
    relative.iter().map(length).collect()
}
