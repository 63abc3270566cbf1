//! ConvNet2 of csr-pytorch: convolutions over a spectrogram, then LSTMs in both directions, for phonemes.
//!
//! Reimplemented from the description of its three published variants. Tensor names are the original's, but for its last
//! layer, `fc.0`, which is the CTC head here (`head`, 46 classes). It reads utterances from both ends and cannot stream.

mod config;
mod phonemes;
mod reference;

pub use config::{ConvNet2Config, Variant};
pub use phonemes::{BLANK, PHONEMES, edit_distance, error_rate};
pub use reference::Reference;

use crate::encoder::Geometry;
use crate::encoder::recurrent::scan::Kind;
use crate::loader::Expected;

/// Values of one frame of the spectrogram.
pub const NUM_FEATURES: usize = 70;
/// Feature frames for one output frame.
pub const SUBSAMPLING: usize = 4;
/// Values of one output frame: both directions' states, added.
pub const HIDDEN: usize = 512;
/// Channels times frequencies behind the last convolution.
pub(crate) const FLATTENED: usize = 1_536;
/// Added to variances before their root.
pub(crate) const NORM_EPSILON: f64 = 1e-5;

/// One convolution: channels in and out, taps to each side's axis, strides and padding as (frequency, time).
pub(crate) struct Convolution {
    pub(crate) name: &'static str,
    pub(crate) channels: (usize, usize),
    pub(crate) taps: usize,
    pub(crate) stride: (usize, usize),
    pub(crate) padding: (usize, usize),
}

const fn convolution(
    name: &'static str,
    channels: (usize, usize),
    taps: usize,
    stride: (usize, usize),
    padding: (usize, usize),
) -> Convolution {
    Convolution {
        name,
        channels,
        taps,
        stride,
        padding,
    }
}

static CONVOLUTIONS: [Convolution; 6] = [
    convolution("layer1", (1, 64), 5, (2, 2), (0, 2)),
    convolution("layer2", (64, 128), 5, (2, 2), (0, 2)),
    convolution("layer3", (128, 256), 3, (2, 1), (0, 1)),
    convolution("layer3p", (256, 256), 3, (1, 1), (1, 1)),
    convolution("layer3p2", (256, 256), 3, (1, 1), (1, 1)),
    convolution("layer4", (256, 512), 3, (2, 1), (0, 1)),
];

impl Variant {
    /// The convolutions in their order.
    pub(crate) fn convolutions(self) -> impl Iterator<Item = &'static Convolution> {
        let deep = self == Self::SixLayers;
        CONVOLUTIONS
            .iter()
            .filter(move |convolution| deep || !convolution.name.starts_with("layer3p"))
    }

    /// The LSTMs in their order.
    pub(crate) fn lstms(self) -> &'static [&'static str] {
        match self {
            Self::TwoLstm | Self::SixLayers => &["rnn", "rnn2"],
            Self::ThreeLstm => &["rnn", "rnn2", "rnn3"],
        }
    }

    /// Whether one batch norm stands between each two LSTMs.
    pub(crate) fn has_norm(self) -> bool {
        self != Self::TwoLstm
    }
}

/// Name of a tensor of an LSTM.
pub(crate) fn lstm_name(lstm: &str, part: &str, backward: bool) -> String {
    let suffix = if backward { "_reverse" } else { "" };
    format!("{lstm}.0.{part}_l0{suffix}")
}

/// Every tensor of the encoder with its shape, without its head.
pub fn expected_tensors(config: &ConvNet2Config) -> Vec<Expected> {
    let mut expected = Vec::new();
    let vectors = |name: String, parts: &[&str], size: usize| {
        parts
            .iter()
            .map(|part| (format!("{name}.{part}"), vec![size]))
            .collect::<Vec<_>>()
    };
    const NORM: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];
    for convolution in config.variant.convolutions() {
        let ((inputs, outputs), taps, name) = (convolution.channels, convolution.taps, convolution.name);
        expected.push((format!("{name}.0.weight"), vec![outputs, inputs, taps, taps]));
        expected.extend(vectors(format!("{name}.0"), &["bias"], outputs));
        expected.extend(vectors(format!("{name}.1"), &NORM, outputs));
    }
    for (index, lstm) in config.variant.lstms().iter().enumerate() {
        let inputs = if index == 0 { FLATTENED } else { HIDDEN };
        for backward in [false, true] {
            expected.extend(
                Kind::Lstm.expected_tensors((inputs, HIDDEN), true, |part| lstm_name(lstm, part, backward)),
            );
        }
    }
    if config.variant.has_norm() {
        expected.extend(vectors("batchNorm.module".into(), &NORM, HIDDEN));
    }
    expected
}

/// What the encoder consumes and produces.
pub fn geometry() -> Geometry {
    Geometry {
        num_features: NUM_FEATURES,
        segment_frames: SUBSAMPLING,
        lookahead_frames: 0,
        subsampling: SUBSAMPLING,
        output_dim: HIDDEN,
    }
}

/// Why the encoder cannot be stepped live.
pub fn cannot_stream() -> String {
    "its LSTMs are bidirectional and read every utterance from its end as well".into()
}
