//! Sizes of the attentional decoder.

use serde::{Deserialize, Serialize};

use crate::config::require_sizes;
use crate::encoder::recurrent::{Cell, CellStackConfig, Nonlinearity};

/// Arguments of `speechbrain.nnet.RNN.AttentionalRNNDecoder`, under their own names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionDecoderConfig {
    /// Cells: `rnn`, `gru` or `lstm`.
    pub rnn_type: Cell,
    /// How encoder frames are weighted.
    pub attn_type: AttentionType,
    /// Values of a cell's output and of the decoder's.
    pub hidden_size: usize,
    /// Values of the weighted sum.
    pub attn_dim: usize,
    /// Cells on top of one another.
    pub num_layers: usize,
    /// Values of one encoder frame.
    pub enc_dim: usize,
    /// Values of one input.
    pub input_size: usize,
    /// Of `rnn` cells; relu where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonlinearity: Option<Nonlinearity>,
    /// Factor on the scores before the softmax; key-value attention has its own.
    #[serde(default = "unscaled")]
    pub scaling: f64,
    /// Channels of the convolution over the last weights; location-aware attention only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<usize>,
    /// Frames to each side that this convolution sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_size: Option<usize>,
    /// Whether the cells have biases.
    #[serde(default = "yes")]
    pub bias: bool,
}

/// How encoder frames are weighted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttentionType {
    /// By what is in the frame.
    Content,
    /// By what is in the frame and by where the last weights were.
    Location,
    /// By a scaled product of keys and query.
    KeyValue,
}

fn unscaled() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

impl AttentionDecoderConfig {
    /// The stack of cells, which reads an input and a context side by side.
    pub(crate) fn cells(&self) -> CellStackConfig {
        CellStackConfig {
            cell: self.rnn_type,
            input_size: self.input_size.saturating_add(self.attn_dim),
            hidden_size: self.hidden_size,
            num_layers: self.num_layers,
            bias: self.bias,
            nonlinearity: (self.rnn_type == Cell::Rnn)
                .then_some(self.nonlinearity.unwrap_or(Nonlinearity::Relu)),
        }
    }

    /// Reports every contradiction.
    pub(crate) fn problems(&self, require: &mut dyn FnMut(bool, String)) {
        require_sizes(
            require,
            1,
            &[
                ("attn_dim", self.attn_dim),
                ("enc_dim", self.enc_dim),
                ("input_size", self.input_size),
            ],
        );
        self.cells().problems(require);
        require(
            self.scaling.is_finite() && self.scaling > 0.0,
            "encoder.scaling: expected a finite number above 0".into(),
        );
        if self.attn_type == AttentionType::Location {
            for (name, size) in [("channels", self.channels), ("kernel_size", self.kernel_size)] {
                require(
                    size.is_some_and(|size| (1..=1 << 16).contains(&size)),
                    format!(
                        "encoder.{name}: expected 1 to 65536 for location-aware attention, found {size:?}"
                    ),
                );
            }
        }
    }
}
