//! SegLSTM and MemLSTM in Candle operations, `f32` or `f64`.

use std::collections::BTreeMap;

use candle_core::{D, DType, Result, Tensor};

use crate::encoder::Module;
use crate::encoder::recurrent::scan::{Affine, Gated, Kind};
use crate::error::ModelError;
use crate::loader::Weights;
use crate::module::tensor;

use super::config::{MemLstmConfig, MemType, NormType, SegLstmConfig};
use super::{NORM_EPSILON, lstm_name};

/// States of an LSTM's segments: hidden and cell, each `(directions, items, hidden)`.
#[derive(Debug, Clone)]
pub struct States {
    /// Hidden states.
    pub hidden: Tensor,
    /// Cell states.
    pub cell: Tensor,
}

struct Norm {
    kind: NormType,
    gamma: Tensor,
    beta: Tensor,
}

impl Norm {
    fn load(weights: &Weights, name: &str, kind: NormType) -> std::result::Result<Self, ModelError> {
        let values = |part: &str| -> std::result::Result<Tensor, ModelError> {
            Ok(weights.tensor(&format!("{name}.{part}"))?.flatten_all()?)
        };
        Ok(Self {
            kind,
            gamma: values("gamma")?,
            beta: values("beta")?,
        })
    }

    /// Of `x (items, frames, width)`.
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let mean = |x: &Tensor| match self.kind {
            NormType::ByFrame => x.mean_keepdim(D::Minus1),
            NormType::Global => x.mean_keepdim((1, 2)),
        };
        let centred = x.broadcast_sub(&mean(x)?)?;
        let deviation = (mean(&centred.sqr()?)? + NORM_EPSILON)?.sqrt()?;
        centred
            .broadcast_div(&deviation)?
            .broadcast_mul(&self.gamma)?
            .broadcast_add(&self.beta)
    }
}

/// An LSTM of one or two directions, projected, normed and added to something.
struct Net {
    directions: Vec<Gated>,
    projection: Affine,
    norm: Norm,
}

impl Net {
    fn load(
        weights: &Weights,
        (prefix, lstm, norm): (&str, &str, &str),
        directions: usize,
        kind: NormType,
    ) -> std::result::Result<Self, ModelError> {
        Ok(Self {
            directions: (0..directions)
                .map(|direction| {
                    Gated::load(weights, Kind::Lstm, true, |part| {
                        lstm_name(prefix, lstm, part, direction)
                    })
                })
                .collect::<std::result::Result<_, _>>()?,
            projection: Affine::load(weights, &format!("{prefix}proj"))?,
            norm: Norm::load(weights, norm, kind)?,
        })
    }

    /// `x (items, frames, inputs)` to the normed projection and the states at the end.
    fn run(&self, x: &Tensor, states: Option<&States>) -> Result<(Tensor, States)> {
        let (mut outputs, mut hidden, mut cell) = (Vec::new(), Vec::new(), Vec::new());
        for (index, direction) in self.directions.iter().enumerate() {
            let state = match states {
                Some(states) => vec![states.hidden.get(index)?, states.cell.get(index)?],
                None => direction.zeros(x.dim(0)?)?,
            };
            let (output, state) = direction.run(x, state, None, index == 1)?;
            outputs.push(output);
            hidden.push(state[0].clone());
            cell.push(state[1].clone());
        }
        let output = Tensor::cat(&outputs, D::Minus1)?;
        let states = States {
            hidden: Tensor::stack(&hidden, 0)?,
            cell: Tensor::stack(&cell, 0)?,
        };
        Ok((self.norm.apply(&self.projection.apply(&output)?)?, states))
    }
}

/// An LSTM over the frames of a segment, with a residual around it.
///
/// As a [`Module`] it takes `features (items, frames, input size)` and, to go on, `hidden` and `cell`, each
/// `(directions, items, hidden)`; it gives `output` of the features' shape, `hidden` and `cell`.
pub struct SegLstm {
    net: Net,
    config: SegLstmConfig,
    dtype: DType,
}

impl SegLstm {
    /// Takes the weights in their type.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`super::segment_tensors`] is missing.
    pub fn new(
        config: &SegLstmConfig,
        weights: &Weights,
        prefix: &str,
    ) -> std::result::Result<Self, ModelError> {
        let names = (prefix, "lstm", format!("{prefix}norm"));
        Ok(Self {
            net: Net::load(
                weights,
                (names.0, names.1, &names.2),
                config.directions(),
                config.norm_type,
            )?,
            config: config.clone(),
            dtype: weights.dtype(),
        })
    }

    /// `features (items, frames, input size)` to as many, and the states at the end.
    ///
    /// # Errors
    /// [`ModelError::Input`] for shapes that do not fit.
    pub fn forward(
        &self,
        features: &Tensor,
        states: Option<&States>,
    ) -> std::result::Result<(Tensor, States), ModelError> {
        let items = match features.dims() {
            &[items, frames, width] if frames > 0 && width == self.config.input_size => items,
            other => {
                let expected = format!("(items, frames, {}), not empty", self.config.input_size);
                return Err(ModelError::input("features", expected, format!("{other:?}")));
            }
        };
        let expected = [self.config.directions(), items, self.config.hidden_size];
        let states = match states {
            Some(states) => Some(states.checked(expected, self.dtype)?),
            None => None,
        };
        let features = features.to_dtype(self.dtype)?;
        let (output, states) = self.net.run(&features, states.as_ref())?;
        Ok(((features + output)?, states))
    }
}

/// LSTMs over the last states of a row of segments.
///
/// As a [`Module`] it takes `hidden` and `cell`, each `(directions, items · segments, hidden)`, the segments of an item
/// one after the other. With `segments (1) i64` it runs over the whole row ([`MemLstm::forward`]). Without, it takes one
/// segment ([`MemLstm::step`]) and, to go on, the states of its own LSTMs as `h_net_hidden`, `h_net_cell`, `c_net_hidden`,
/// `c_net_cell`, each `(directions, items, hidden)`. It gives what it was given names for.
pub struct MemLstm {
    config: MemLstmConfig,
    hidden: Option<Net>,
    cell: Option<Net>,
    dtype: DType,
}

impl MemLstm {
    /// Takes the weights in their type.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`super::memory_tensors`] is missing.
    pub fn new(
        config: &MemLstmConfig,
        weights: &Weights,
        prefix: &str,
    ) -> std::result::Result<Self, ModelError> {
        let net = |state: &str, present: bool| -> std::result::Result<Option<Net>, ModelError> {
            if !present {
                return Ok(None);
            }
            let (net, norm) = (format!("{prefix}{state}_net."), format!("{prefix}{state}_norm"));
            let names = (net.as_str(), "rnn", norm.as_str());
            Net::load(weights, names, config.directions(), config.norm_type).map(Some)
        };
        Ok(Self {
            hidden: net("h", config.mem_type.has_hidden())?,
            cell: net("c", config.mem_type.has_cell())?,
            config: config.clone(),
            dtype: weights.dtype(),
        })
    }

    /// A row of `segments` for each item: what each segment of the next block begins with. A causal one hands every
    /// result on to the segment after, and zeros to the first.
    ///
    /// # Errors
    /// [`ModelError::Input`] for shapes that do not fit.
    pub fn forward(&self, states: &States, segments: usize) -> std::result::Result<States, ModelError> {
        let rows = states.hidden.dims().get(1).copied().unwrap_or(0);
        if segments == 0 || rows % segments != 0 {
            return Err(ModelError::input(
                "segments",
                format!("a divisor of the {rows} states"),
                segments,
            ));
        }
        let directions = self.config.directions();
        let states = states.checked([directions, rows, self.config.hidden_size], self.dtype)?;
        let width = directions * self.config.hidden_size;
        let hand_on = |state: &Tensor, net: Option<&Net>, dropped: bool| -> Result<Tensor> {
            let row = state
                .transpose(0, 1)?
                .contiguous()?
                .reshape((rows / segments, segments, width))?;
            let mut row = match net {
                Some(net) => (&row + net.run(&row, None)?.0)?,
                None if dropped => row.zeros_like()?,
                None => row,
            };
            if !self.config.bidirectional {
                row = row
                    .pad_with_zeros(1, 1, 0)?
                    .narrow(1, 0, segments)?
                    .contiguous()?;
            }
            row.reshape((rows, directions, self.config.hidden_size))?
                .transpose(0, 1)?
                .contiguous()
        };
        let trained = self.config.mem_type != MemType::Id;
        Ok(States {
            hidden: hand_on(&states.hidden, self.hidden.as_ref(), trained)?,
            cell: hand_on(&states.cell, self.cell.as_ref(), trained)?,
        })
    }

    /// One segment of each item, of a causal one: `memory` holds the states of the hidden's and the cell's LSTM.
    ///
    /// # Errors
    /// [`ModelError::Input`] for shapes that do not fit, and for a bidirectional one.
    pub fn step(
        &self,
        states: &States,
        memory: &mut [Option<States>; 2],
    ) -> std::result::Result<States, ModelError> {
        if self.config.bidirectional {
            let expected = "whole rows of segments, for a bidirectional MemLSTM";
            return Err(ModelError::input("segments", expected, "one step"));
        }
        let items = states.hidden.dims().get(1).copied().unwrap_or(0);
        let shape = [1, items, self.config.hidden_size];
        let states = states.checked(shape, self.dtype)?;
        let trained = self.config.mem_type != MemType::Id;
        let mut hand_on =
            |index: usize, state: &Tensor, net: Option<&Net>| -> std::result::Result<Tensor, ModelError> {
                let Some(net) = net else {
                    return Ok(if trained {
                        state.zeros_like()?
                    } else {
                        state.clone()
                    });
                };
                let before = match &memory[index] {
                    Some(before) => Some(before.checked(shape, self.dtype)?),
                    None => None,
                };
                // (1, items, hidden) → (items, 1, hidden).
                let row = state.transpose(0, 1)?.contiguous()?;
                let (output, after) = net.run(&row, before.as_ref())?;
                memory[index] = Some(after);
                Ok((row + output)?.transpose(0, 1)?.contiguous()?)
            };
        Ok(States {
            hidden: hand_on(0, &states.hidden, self.hidden.as_ref())?,
            cell: hand_on(1, &states.cell, self.cell.as_ref())?,
        })
    }
}

impl States {
    fn checked(&self, expected: [usize; 3], dtype: DType) -> std::result::Result<Self, ModelError> {
        for (name, tensor) in [("hidden", &self.hidden), ("cell", &self.cell)] {
            if tensor.dims() != expected {
                return Err(ModelError::input(
                    name,
                    format!("{expected:?}"),
                    format!("{:?}", tensor.dims()),
                ));
            }
        }
        Ok(Self {
            hidden: self.hidden.to_dtype(dtype)?,
            cell: self.cell.to_dtype(dtype)?,
        })
    }

    fn into_tensors(self) -> BTreeMap<String, Tensor> {
        BTreeMap::from([("hidden".to_owned(), self.hidden), ("cell".to_owned(), self.cell)])
    }
}

impl Module for SegLstm {
    fn run(
        &self,
        inputs: &BTreeMap<String, Tensor>,
    ) -> std::result::Result<BTreeMap<String, Tensor>, ModelError> {
        let states = match inputs.contains_key("hidden") {
            true => Some(States {
                hidden: tensor(inputs, "hidden")?.clone(),
                cell: tensor(inputs, "cell")?.clone(),
            }),
            false => None,
        };
        let (output, states) = self.forward(tensor(inputs, "features")?, states.as_ref())?;
        let mut tensors = states.into_tensors();
        tensors.insert("output".into(), output);
        Ok(tensors)
    }
}

impl Module for MemLstm {
    fn run(
        &self,
        inputs: &BTreeMap<String, Tensor>,
    ) -> std::result::Result<BTreeMap<String, Tensor>, ModelError> {
        let states = States {
            hidden: tensor(inputs, "hidden")?.clone(),
            cell: tensor(inputs, "cell")?.clone(),
        };
        if inputs.contains_key("segments") {
            let segments = crate::module::lengths(inputs, "segments")?;
            let segments = segments.first().copied().unwrap_or(0);
            return Ok(self.forward(&states, segments)?.into_tensors());
        }
        let given = |net: &str| {
            Some(States {
                hidden: inputs.get(&format!("{net}_hidden"))?.clone(),
                cell: inputs.get(&format!("{net}_cell"))?.clone(),
            })
        };
        let mut memory = ["h_net", "c_net"].map(given);
        let mut tensors = self.step(&states, &mut memory)?.into_tensors();
        for (net, states) in ["h_net", "c_net"].into_iter().zip(memory) {
            for (name, tensor) in states.map(States::into_tensors).into_iter().flatten() {
                tensors.insert(format!("{net}_{name}"), tensor);
            }
        }
        Ok(tensors)
    }
}
