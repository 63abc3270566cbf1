//! Sizes of the recurrent encoders and of stacks of cells.

use serde::{Deserialize, Serialize};

use crate::config::require_sizes;

/// Arguments of `speechbrain.nnet.RNN`'s classes `RNN`, `LSTM`, `GRU`, `LiGRU` and `QuasiRNN`, under their own names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecurrentConfig {
    /// Which of the five.
    pub cell: Cell,
    /// Values of one input frame.
    pub input_size: usize,
    /// Values of one direction's output frame.
    pub hidden_size: usize,
    /// Layers, each on the output of the one before.
    #[serde(default = "one")]
    pub num_layers: usize,
    /// Read every layer's input backwards as well. LiGRU and QuasiRNN read it with the same weights.
    #[serde(default)]
    pub bidirectional: bool,
    /// Whether RNN, LSTM and GRU have biases. LiGRU has the norm's, QuasiRNN always has one.
    #[serde(default = "yes")]
    pub bias: bool,
    /// Of RNN (relu or tanh) and of LiGRU's candidate; relu where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonlinearity: Option<Nonlinearity>,
    /// Of LiGRU's transformed input; `batchnorm` where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalization: Option<Normalization>,
    /// Whether QuasiRNN has an output gate; it has where this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_gate: Option<bool>,
    /// Of QuasiRNN: share of the forget gate that is taken off. 0 where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zoneout: Option<f64>,
    /// Frames that one live step advances by. Any number gives the same output; more make fewer, larger steps.
    #[serde(default = "eight")]
    pub segment_length: usize,
    /// Used while training only; kept so that a constructor's arguments can be written down whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
}

/// Arguments of speechbrain's `RNNCell`, `LSTMCell` and `GRUCell`: a stack of cells that is stepped frame by frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellStackConfig {
    /// `rnn`, `lstm` or `gru`.
    pub cell: Cell,
    /// Values of one input.
    pub input_size: usize,
    /// Values of one output.
    pub hidden_size: usize,
    /// Cells, each on the output of the one before.
    #[serde(default = "one")]
    pub num_layers: usize,
    /// Whether the cells have biases.
    #[serde(default = "yes")]
    pub bias: bool,
    /// Of RNN cells: relu or tanh; tanh where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonlinearity: Option<Nonlinearity>,
}

/// The recurrence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cell {
    /// Elman's.
    Rnn,
    /// With cell state, input, forget and output gate.
    Lstm,
    /// With reset and update gate.
    Gru,
    /// Light GRU: update gate only, normed input (Ravanelli et al., 2018).
    Ligru,
    /// Gates from the input alone, then a running average (Bradbury et al., 2016).
    QuasiRnn,
}

/// Element-wise function of a candidate state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nonlinearity {
    /// Hyperbolic tangent.
    Tanh,
    /// max(x, 0)
    Relu,
    /// Sine; LiGRU only.
    Sin,
    /// x, or 0.01 x below 0; LiGRU only.
    LeakyRelu,
}

/// How LiGRU norms its transformed input. speechbrain takes any other word for `layernorm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalization {
    /// By running statistics of the training data.
    BatchNorm,
    /// Over the values of each frame, candidate and gate together.
    LayerNorm,
}

fn one() -> usize {
    1
}

fn eight() -> usize {
    8
}

fn yes() -> bool {
    true
}

impl RecurrentConfig {
    /// 1, or 2 when it reads backwards as well.
    pub fn directions(&self) -> usize {
        1 + usize::from(self.bidirectional)
    }

    /// Values of a layer's input frame.
    pub fn layer_input(&self, layer: usize) -> usize {
        if layer == 0 {
            self.input_size
        } else {
            self.hidden_size * self.directions()
        }
    }

    /// The candidate's function.
    pub fn nonlinearity(&self) -> Nonlinearity {
        self.nonlinearity.unwrap_or(Nonlinearity::Relu)
    }

    /// LiGRU's norm.
    pub fn normalization(&self) -> Normalization {
        self.normalization.unwrap_or(Normalization::BatchNorm)
    }

    /// Whether QuasiRNN has an output gate.
    pub fn output_gate(&self) -> bool {
        self.output_gate.unwrap_or(true)
    }

    /// What QuasiRNN's forget gate is multiplied with.
    pub fn keep(&self) -> f64 {
        1.0 - self.zoneout.unwrap_or(0.0)
    }

    /// Reports every contradiction.
    pub(crate) fn problems(&self, require: &mut dyn FnMut(bool, String)) {
        require_sizes(
            require,
            1,
            &[
                ("input_size", self.input_size),
                ("hidden_size", self.hidden_size),
                ("num_layers", self.num_layers),
                ("segment_length", self.segment_length),
            ],
        );
        let rnn_or_ligru = matches!(self.cell, Cell::Rnn | Cell::Ligru);
        let plain = matches!(self.nonlinearity(), Nonlinearity::Relu | Nonlinearity::Tanh);
        require(
            rnn_or_ligru || self.nonlinearity.is_none(),
            "encoder.nonlinearity: only rnn and ligru have a choice".into(),
        );
        require(
            self.cell != Cell::Rnn || plain,
            "encoder.nonlinearity: expected relu or tanh for an rnn".into(),
        );
        require(
            self.cell == Cell::Ligru || self.normalization.is_none(),
            "encoder.normalization: only ligru has one".into(),
        );
        let quasi = self.cell == Cell::QuasiRnn;
        require(
            quasi || (self.output_gate.is_none() && self.zoneout.is_none()),
            "encoder.output_gate and encoder.zoneout: only quasirnn has them".into(),
        );
        require(
            !quasi || self.bias,
            "encoder.bias: expected true for a quasirnn, found false".into(),
        );
        require(
            (0.0..=1.0).contains(&self.zoneout.unwrap_or(0.0)),
            format!("encoder.zoneout: expected 0 to 1, found {:?}", self.zoneout),
        );
    }
}

impl CellStackConfig {
    /// The function of an RNN cell.
    pub fn nonlinearity(&self) -> Nonlinearity {
        self.nonlinearity.unwrap_or(Nonlinearity::Tanh)
    }

    /// Reports every contradiction.
    pub(crate) fn problems(&self, require: &mut dyn FnMut(bool, String)) {
        require_sizes(
            require,
            1,
            &[
                ("input_size", self.input_size),
                ("hidden_size", self.hidden_size),
                ("num_layers", self.num_layers),
            ],
        );
        require(
            matches!(self.cell, Cell::Rnn | Cell::Lstm | Cell::Gru),
            format!("encoder.cell: expected rnn, lstm or gru, found {:?}", self.cell),
        );
        require(
            self.cell == Cell::Rnn || self.nonlinearity.is_none(),
            "encoder.nonlinearity: only rnn has a choice".into(),
        );
        require(
            matches!(self.nonlinearity(), Nonlinearity::Relu | Nonlinearity::Tanh),
            "encoder.nonlinearity: expected relu or tanh".into(),
        );
    }
}
