//! Stacks of cells, one input at a time, in Candle operations: speechbrain's `RNNCell`, `LSTMCell` and `GRUCell`.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use crate::encoder::Module;
use crate::error::ModelError;
use crate::loader::{Expected, Weights};
use crate::module::tensor;

use super::config::CellStackConfig;
use super::reference::Hidden;
use super::scan::{Gated, Kind};

/// Cells on top of one another.
///
/// As a [`Module`] it takes `input (batch, input size)` and, to go on, `hidden (layers, batch, hidden)` and for LSTM
/// `cell` of the same shape; it gives `output (batch, hidden)`, `hidden` and for LSTM `cell`.
pub struct CellStack {
    config: CellStackConfig,
    cells: Vec<Gated>,
    num_states: usize,
    dtype: DType,
}

/// The cells' kind; the configuration's own check leaves PyTorch's only.
fn kind(config: &CellStackConfig) -> Kind {
    Kind::of(config.cell, config.nonlinearity()).unwrap_or(Kind::Tanh)
}

fn layer_input(config: &CellStackConfig, layer: usize) -> usize {
    if layer == 0 {
        config.input_size
    } else {
        config.hidden_size
    }
}

impl CellStack {
    /// Every tensor of the stack with its shape, names beginning with `prefix`.
    pub fn expected_tensors(config: &CellStackConfig, prefix: &str) -> Vec<Expected> {
        (0..config.num_layers)
            .flat_map(|layer| {
                let sizes = (layer_input(config, layer), config.hidden_size);
                kind(config).expected_tensors(sizes, config.bias, |part| {
                    format!("{prefix}rnn_cells.{layer}.{part}")
                })
            })
            .collect()
    }

    /// Takes the weights in their type.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`CellStack::expected_tensors`] is missing.
    pub fn new(config: &CellStackConfig, weights: &Weights, prefix: &str) -> Result<Self, ModelError> {
        let kind = kind(config);
        Ok(Self {
            cells: (0..config.num_layers)
                .map(|layer| {
                    Gated::load(weights, kind, config.bias, |part| {
                        format!("{prefix}rnn_cells.{layer}.{part}")
                    })
                })
                .collect::<Result<_, _>>()?,
            num_states: kind.num_states(),
            config: config.clone(),
            dtype: weights.dtype(),
        })
    }

    /// One step over `input (batch, input size)`: the top cell's `(batch, hidden)` and all states, each
    /// `(layers, batch, hidden)`. Without states it begins with zeros.
    ///
    /// # Errors
    /// [`ModelError::Input`] for what does not fit.
    pub fn step(&self, input: &Tensor, before: Option<&Hidden>) -> Result<(Tensor, Hidden), ModelError> {
        let (batch, width) = input
            .dims2()
            .map_err(|_| ModelError::input("input", "2 dimensions", input.rank()))?;
        if width != self.config.input_size {
            return Err(ModelError::input(
                "input",
                format!("{} values for each item", self.config.input_size),
                width,
            ));
        }
        let before: Option<Vec<&Tensor>> = before.map(|before| {
            [Some(&before.hidden), before.cell.as_ref()]
                .into_iter()
                .flatten()
                .collect()
        });
        if let Some(before) = &before {
            let expected = [self.config.num_layers, batch, self.config.hidden_size];
            if before.len() != self.num_states || before.iter().any(|state| state.dims() != expected) {
                let found: Vec<&[usize]> = before.iter().map(|state| state.dims()).collect();
                return Err(ModelError::input(
                    "hidden",
                    format!("{} tensors of shape {expected:?}", self.num_states),
                    format!("{found:?}"),
                ));
            }
        }
        let mut x = input.to_dtype(self.dtype)?;
        let mut after = vec![Vec::new(); self.num_states];
        for (layer, cell) in self.cells.iter().enumerate() {
            let state = match &before {
                Some(before) => before
                    .iter()
                    .map(|state| state.get(layer)?.to_dtype(self.dtype))
                    .collect::<candle_core::Result<_>>()?,
                None => cell.zeros(batch)?,
            };
            let state = cell.advance(&cell.project(&x)?, &state)?;
            x = state[0].clone();
            for (all, own) in after.iter_mut().zip(state) {
                all.push(own);
            }
        }
        let cell = match after.get(1) {
            Some(cells) => Some(Tensor::stack(cells, 0)?),
            None => None,
        };
        let hidden = Tensor::stack(&after[0], 0)?;
        Ok((x, Hidden { hidden, cell }))
    }
}

impl Module for CellStack {
    fn run(&self, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, ModelError> {
        let (output, hidden) = self.step(tensor(inputs, "input")?, Hidden::given(inputs).as_ref())?;
        Ok(hidden.with_output(output))
    }
}
