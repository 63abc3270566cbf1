//! Recurrent encoders: RNN, LSTM, GRU, light GRU and quasi-recurrent networks.
//!
//! As `speechbrain.nnet.RNN` 1.1 (Apache-2), whose tensor names are kept. [`Reference`] in Candle operations is the
//! oracle and the only executor of bidirectional models; [`Recurrent`] on plain slices serves the others live, with
//! every session's states in its cache. [`CellStack`] is the frame-by-frame form.

mod cells;
mod config;
pub(crate) mod kernel;
mod module;
mod reference;
pub(crate) mod scan;
mod serving;

pub use cells::CellStack;
pub use config::{Cell, CellStackConfig, Nonlinearity, Normalization, RecurrentConfig};
pub use module::RecurrentModule;
pub use reference::{Hidden, Reference, truncated_lengths};
pub use serving::Recurrent;

use crate::encoder::Geometry;
use crate::loader::Expected;

use scan::Kind;

/// Added to variances before their root.
pub(crate) const NORM_EPSILON: f64 = 1e-5;
/// Slope of a leaky rectifier below 0.
pub(crate) const LEAK: f64 = 0.01;

/// PyTorch's name of one layer's and direction's tensor.
pub(crate) fn direction_name(part: &str, layer: usize, backward: bool) -> String {
    let suffix = if backward { "_reverse" } else { "" };
    format!("rnn.{part}_l{layer}{suffix}")
}

/// Every tensor of the encoder with its shape.
pub fn expected_tensors(config: &RecurrentConfig) -> Vec<Expected> {
    let hidden = config.hidden_size;
    let mut expected = Vec::new();
    for layer in 0..config.num_layers {
        let inputs = config.layer_input(layer);
        if let Some(kind) = Kind::of(config.cell, config.nonlinearity()) {
            for direction in 0..config.directions() {
                expected.extend(kind.expected_tensors((inputs, hidden), config.bias, |part| {
                    direction_name(part, layer, direction == 1)
                }));
            }
        } else if config.cell == Cell::QuasiRnn {
            let rows = (2 + usize::from(config.output_gate())) * hidden;
            expected.push((format!("qrnn.{layer}.w.weight"), vec![rows, inputs]));
            expected.push((format!("qrnn.{layer}.w.bias"), vec![rows]));
        } else {
            let rows = 2 * hidden;
            expected.push((format!("rnn.{layer}.w.weight"), vec![rows, inputs]));
            expected.push((format!("rnn.{layer}.u.weight"), vec![rows, hidden]));
            let parts: &[&str] = match config.normalization() {
                Normalization::BatchNorm => &["weight", "bias", "running_mean", "running_var"],
                Normalization::LayerNorm => &["weight", "bias"],
            };
            let norm = |part: &&str| (format!("rnn.{layer}.norm.{part}"), vec![rows]);
            expected.extend(parts.iter().map(norm));
        }
    }
    expected
}

/// What a step consumes and produces: frames one by one, none ahead.
pub fn geometry(config: &RecurrentConfig) -> Geometry {
    Geometry {
        num_features: config.input_size,
        segment_frames: if config.bidirectional {
            1
        } else {
            config.segment_length
        },
        lookahead_frames: 0,
        subsampling: 1,
        output_dim: config.hidden_size * config.directions(),
    }
}

/// Why the encoder cannot be stepped live, or `None` when it can.
pub fn cannot_stream(config: &RecurrentConfig) -> Option<String> {
    config
        .bidirectional
        .then(|| "it is bidirectional and reads every utterance from its end as well".into())
}
