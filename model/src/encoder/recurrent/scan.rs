//! Recurrences in Candle operations, `f32` or `f64`: what the reference executors of this crate share.
//!
//! PyTorch's cells: blocks of weight rows in the order i, f, g, o for LSTM and r, z, n for GRU, whose hidden bias of n
//! is inside the product with r.

use candle_core::{D, Result, Tensor};
use candle_nn::ops::sigmoid;

use crate::error::ModelError;
use crate::loader::{Expected, Weights};

use super::config::{Cell, Nonlinearity};

/// PyTorch's recurrences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tanh,
    Relu,
    Lstm,
    Gru,
}

impl Kind {
    /// `None` for a cell that is not PyTorch's.
    pub(crate) fn of(cell: Cell, nonlinearity: Nonlinearity) -> Option<Self> {
        match (cell, nonlinearity) {
            (Cell::Lstm, _) => Some(Self::Lstm),
            (Cell::Gru, _) => Some(Self::Gru),
            (Cell::Rnn, Nonlinearity::Tanh) => Some(Self::Tanh),
            (Cell::Rnn, _) => Some(Self::Relu),
            (Cell::Ligru | Cell::QuasiRnn, _) => None,
        }
    }

    /// Blocks of `hidden` rows in its weights.
    pub(crate) fn gates(self) -> usize {
        match self {
            Self::Tanh | Self::Relu => 1,
            Self::Gru => 3,
            Self::Lstm => 4,
        }
    }

    /// Tensors of its state: h, and c for LSTM.
    pub(crate) fn num_states(self) -> usize {
        1 + usize::from(self == Self::Lstm)
    }

    /// Its tensors, `name` making `rnn.weight_ih_l0` of `weight_ih`.
    pub(crate) fn expected_tensors(
        self,
        (inputs, hidden): (usize, usize),
        bias: bool,
        name: impl Fn(&str) -> String,
    ) -> Vec<Expected> {
        let rows = self.gates() * hidden;
        let mut expected = vec![
            (name("weight_ih"), vec![rows, inputs]),
            (name("weight_hh"), vec![rows, hidden]),
        ];
        if bias {
            expected.push((name("bias_ih"), vec![rows]));
            expected.push((name("bias_hh"), vec![rows]));
        }
        expected
    }
}

/// `x Wᵀ (+ b)`.
pub(crate) struct Affine {
    /// `(inputs, outputs)`.
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Affine {
    /// Takes `{name}.weight (outputs, inputs)` and `{name}.bias (outputs)`.
    pub(crate) fn load(weights: &Weights, name: &str) -> std::result::Result<Self, ModelError> {
        let bias = Some(weights.tensor(&format!("{name}.bias"))?);
        Ok(Self {
            bias,
            ..Self::without_bias(weights, name)?
        })
    }

    /// Takes `{name}.weight (outputs, inputs)`.
    pub(crate) fn without_bias(weights: &Weights, name: &str) -> std::result::Result<Self, ModelError> {
        let weight = weights.tensor(&format!("{name}.weight"))?;
        // A convolution with one tap is the same.
        let weight = weight.reshape((weight.dim(0)?, weight.dim(1)?))?;
        let weight = weight.t()?.contiguous()?;
        Ok(Self { weight, bias: None })
    }

    /// Of the last dimension.
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let product = x.contiguous()?.broadcast_matmul(&self.weight)?;
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}

/// One layer and direction of a PyTorch recurrence.
pub(crate) struct Gated {
    kind: Kind,
    /// `(inputs, gates · hidden)`.
    weight_ih: Tensor,
    /// `(hidden, gates · hidden)`.
    weight_hh: Tensor,
    biases: Option<(Tensor, Tensor)>,
}

impl Gated {
    /// Takes the tensors of [`Kind::expected_tensors`].
    pub(crate) fn load(
        weights: &Weights,
        kind: Kind,
        bias: bool,
        name: impl Fn(&str) -> String,
    ) -> std::result::Result<Self, ModelError> {
        let tensor = |part: &str| weights.tensor(&name(part));
        Ok(Self {
            kind,
            weight_ih: tensor("weight_ih")?.t()?.contiguous()?,
            weight_hh: tensor("weight_hh")?.t()?.contiguous()?,
            biases: if bias {
                Some((tensor("bias_ih")?, tensor("bias_hh")?))
            } else {
                None
            },
        })
    }

    /// Zeros for a batch: `(batch, hidden)` for each tensor of the state.
    pub(crate) fn zeros(&self, batch: usize) -> Result<Vec<Tensor>> {
        let (hidden, like) = (self.weight_hh.dim(0)?, &self.weight_hh);
        let zeros = Tensor::zeros((batch, hidden), like.dtype(), like.device())?;
        Ok(vec![zeros; self.kind.num_states()])
    }

    /// The input's share of the gates, `(…, inputs)` → `(…, gates · hidden)`.
    pub(crate) fn project(&self, x: &Tensor) -> Result<Tensor> {
        let projected = x.contiguous()?.broadcast_matmul(&self.weight_ih)?;
        match &self.biases {
            Some((bias, _)) => projected.broadcast_add(bias),
            None => Ok(projected),
        }
    }

    /// One step: `projected (batch, gates · hidden)` and the state before it → the state after it, h first.
    pub(crate) fn advance(&self, projected: &Tensor, state: &[Tensor]) -> Result<Vec<Tensor>> {
        let h = &state[0];
        let recurrent = h.contiguous()?.matmul(&self.weight_hh)?;
        let recurrent = match &self.biases {
            Some((_, bias)) => recurrent.broadcast_add(bias)?,
            None => recurrent,
        };
        if self.kind == Kind::Gru {
            let (input, recurrent) = (projected.chunk(3, D::Minus1)?, recurrent.chunk(3, D::Minus1)?);
            let reset = sigmoid(&(&input[0] + &recurrent[0])?)?;
            let update = sigmoid(&(&input[1] + &recurrent[1])?)?;
            let new = (&input[2] + (reset * &recurrent[2])?)?.tanh()?;
            return Ok(vec![((&update * h)? + (update.affine(-1.0, 1.0)? * new)?)?]);
        }
        let gates = (projected + recurrent)?;
        Ok(match self.kind {
            Kind::Tanh => vec![gates.tanh()?],
            Kind::Lstm => {
                let gates = gates.chunk(4, D::Minus1)?;
                let kept = (sigmoid(&gates[1])? * &state[1])?;
                let c = (kept + (sigmoid(&gates[0])? * gates[2].tanh()?)?)?;
                vec![(sigmoid(&gates[3])? * c.tanh()?)?, c]
            }
            Kind::Relu | Kind::Gru => vec![gates.relu()?],
        })
    }

    /// A whole pass over `x (batch, frames, inputs)`: `(batch, frames, hidden)` and the last state.
    pub(crate) fn run(
        &self,
        x: &Tensor,
        state: Vec<Tensor>,
        lengths: Option<&[usize]>,
        backward: bool,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let projected = self.project(x)?;
        scan(x.dim(1)?, lengths, backward, state, |frame, state| {
            let next = self.advance(&projected.narrow(1, frame, 1)?.squeeze(1)?, state)?;
            Ok((next[0].clone(), next))
        })
    }
}

/// Walks a batch frame by frame. `step` takes a frame's index and the state before it, and gives an output
/// `(batch, …)` and the state after it. Frames at or past an item's length leave its state alone and give zeros, so a
/// backward walk begins at each item's own last frame.
pub(crate) fn scan(
    frames: usize,
    lengths: Option<&[usize]>,
    backward: bool,
    mut state: Vec<Tensor>,
    mut step: impl FnMut(usize, &[Tensor]) -> Result<(Tensor, Vec<Tensor>)>,
) -> Result<(Tensor, Vec<Tensor>)> {
    let mut outputs = Vec::with_capacity(frames);
    for index in 0..frames {
        let frame = if backward { frames - 1 - index } else { index };
        let (mut output, mut next) = step(frame, &state)?;
        if let Some(lengths) = lengths.filter(|lengths| lengths.iter().any(|&length| length <= frame)) {
            let valid: Vec<u8> = lengths.iter().map(|&length| u8::from(frame < length)).collect();
            let valid = Tensor::new(valid.as_slice(), output.device())?.unsqueeze(1)?;
            let choose = |new: &Tensor, old: &Tensor| valid.broadcast_as(new.shape())?.where_cond(new, old);
            output = choose(&output, &output.zeros_like()?)?;
            for (new, old) in next.iter_mut().zip(&state) {
                *new = choose(new, old)?;
            }
        }
        outputs.push(output);
        state = next;
    }
    if backward {
        outputs.reverse();
    }
    Ok((Tensor::stack(&outputs, 1)?, state))
}
