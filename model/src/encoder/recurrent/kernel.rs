//! PyTorch's recurrences on plain slices, over the rows of many sessions at once.
//!
//! Everything is time-major, `(frames, rows, values)`: the input's share of the gates is one product over all frames and
//! rows, the state's share one product over all rows for each frame.

use crate::encoder::kernels::{Linear, sigmoid, tanh, vectorised};
use crate::error::ModelError;
use crate::loader::Weights;

use super::scan::Kind;

/// One layer of a PyTorch recurrence, forward.
pub(crate) struct GatedKernel {
    kind: Kind,
    input: Linear,
    recurrent: Linear,
    hidden: usize,
}

/// Buffers of a pass.
#[derive(Default)]
pub(crate) struct GateScratch {
    pub(crate) projected: Vec<f32>,
    pub(crate) recurrent: Vec<f32>,
}

impl GatedKernel {
    /// Takes the tensors of [`Kind::expected_tensors`].
    pub(crate) fn load(
        weights: &Weights,
        kind: Kind,
        (inputs, hidden): (usize, usize),
        bias: bool,
        name: impl Fn(&str) -> String,
    ) -> Result<Self, ModelError> {
        let linear = |weight: &str, offset: &str, columns: usize| -> Result<Linear, ModelError> {
            let offsets = if bias {
                weights.values(&name(offset))?
            } else {
                vec![0.0; kind.gates() * hidden]
            };
            Ok(Linear::new(&weights.values(&name(weight))?, offsets, columns))
        };
        Ok(Self {
            kind,
            input: linear("weight_ih", "bias_ih", inputs)?,
            recurrent: linear("weight_hh", "bias_hh", hidden)?,
            hidden,
        })
    }

    /// Multiplications in the matrix products of one frame.
    pub(crate) fn products(&self) -> usize {
        self.input.products() + self.recurrent.products()
    }

    /// Advances `h` and, for LSTM, `c`, both `(rows, hidden)`, over `input (frames, rows, inputs)`; every frame's h goes
    /// to `output (frames, rows, hidden)`.
    pub(crate) fn run(
        &self,
        (frames, rows): (usize, usize),
        input: &[f32],
        h: &mut [f32],
        c: &mut [f32],
        output: &mut [f32],
        scratch: &mut GateScratch,
    ) {
        let gates = self.kind.gates() * self.hidden;
        let GateScratch { projected, recurrent } = scratch;
        projected.resize(frames * rows * gates, 0.0);
        recurrent.resize(rows * gates, 0.0);
        self.input.apply(frames * rows, input, projected);
        let steps = projected
            .chunks_exact(rows * gates)
            .zip(output.chunks_exact_mut(rows * self.hidden));
        for (projected, output) in steps {
            self.recurrent.apply(rows, h, recurrent);
            for row in 0..rows {
                let gates_of = row * gates..(row + 1) * gates;
                let own = row * self.hidden..(row + 1) * self.hidden;
                let cell = if self.kind == Kind::Lstm {
                    &mut c[own.clone()]
                } else {
                    &mut []
                };
                let (projected, recurrent) = (&projected[gates_of.clone()], &recurrent[gates_of]);
                advance(self.kind, projected, recurrent, &mut h[own], cell);
            }
            output.copy_from_slice(h);
        }
    }
}

vectorised! {
    /// One row's step: its shares of the gates, and its state in place.
    fn advance(kind: Kind, input: &[f32], recurrent: &[f32], h: &mut [f32], c: &mut [f32]) {
        let hidden = h.len();
        match kind {
            Kind::Tanh => {
                for ((h, input), recurrent) in h.iter_mut().zip(input).zip(recurrent) {
                    *h = tanh(input + recurrent);
                }
            }
            Kind::Relu => {
                for ((h, input), recurrent) in h.iter_mut().zip(input).zip(recurrent) {
                    let sum = input + recurrent;
                    // Written so that a NaN stays one.
                    *h = if sum < 0.0 { 0.0 } else { sum };
                }
            }
            Kind::Gru => {
                let (input, recurrent) = (&input[..3 * hidden], &recurrent[..3 * hidden]);
                for j in 0..hidden {
                    let reset = sigmoid(input[j] + recurrent[j]);
                    let update = sigmoid(input[hidden + j] + recurrent[hidden + j]);
                    let new = tanh(input[2 * hidden + j] + reset * recurrent[2 * hidden + j]);
                    h[j] = (1.0 - update) * new + update * h[j];
                }
            }
            Kind::Lstm => {
                let (input, recurrent) = (&input[..4 * hidden], &recurrent[..4 * hidden]);
                let c = &mut c[..hidden];
                for j in 0..hidden {
                    let gate = |block: usize| input[block * hidden + j] + recurrent[block * hidden + j];
                    c[j] = sigmoid(gate(1)) * c[j] + sigmoid(gate(0)) * tanh(gate(2));
                    h[j] = sigmoid(gate(3)) * tanh(c[j]);
                }
            }
        }
    }
}

/// Copies `frames` frames of every row, row after row, to time-major order: `(rows, frames, width)` →
/// `(frames, rows, width)`.
pub(crate) fn to_time_major<'a>(
    rows: impl ExactSizeIterator<Item = &'a [f32]>,
    (frames, width): (usize, usize),
    output: &mut [f32],
) {
    let count = rows.len();
    for (row, values) in rows.enumerate() {
        for (frame, values) in values.chunks_exact(width).take(frames).enumerate() {
            output[(frame * count + row) * width..][..width].copy_from_slice(values);
        }
    }
}
