//! The Emformer RNN-T: a transcriber turns features into encoder frames, a predictor turns the tokens so far into one
//! vector, a joiner scores the next token of every pair, and a search finds the tokens.
//!
//! Graves, *Sequence Transduction with Recurrent Neural Networks* (2012), as in `torchaudio.models.RNNT` 2.11 with
//! `RNNTBeamSearch` and `torchaudio.pipelines.EMFORMER_RNNT_BASE_LIBRISPEECH` (BSD-2), whose tensor names are kept.
//!
//! [`Reference`] is Candle operations, `f32` and `f64`: the oracle, and what `run` runs. [`TransducerEncoder`],
//! [`Networks`] and [`Search`] work on plain slices and are what is served.

mod config;
mod module;
mod networks;
mod reference;
mod search;
mod serving;
mod stage;

pub use config::{RnntConfig, SearchConfig};
pub use module::TransducerModule;
pub use networks::{Networks, Prediction};
pub use reference::{Reference, TokenState};
pub use search::{Emission, Hypothesis, Search};
pub use serving::TransducerEncoder;
pub(crate) use stage::{Heard, Stage};

use crate::encoder::{Geometry, emformer};
use crate::loader::Expected;

/// Every tensor of the model, with its shape.
pub fn expected_tensors(config: &RnntConfig) -> Vec<Expected> {
    let emformer = config.emformer();
    let (hidden, encoding) = (config.symbol_embedding_dim, config.encoding_dim);
    let mut expected: Vec<Expected> = vec![
        (
            "transcriber.input_linear.weight".into(),
            vec![config.time_reduction_input_dim, config.input_dim],
        ),
        (
            "predictor.embedding.weight".into(),
            vec![config.num_symbols, hidden],
        ),
    ];
    expected.extend(
        emformer::expected_tensors(&emformer)
            .into_iter()
            .map(|(name, shape)| (format!("transcriber.transformer.{name}"), shape)),
    );
    let mut affine = |name: String, weight: Vec<usize>| {
        let rows = weight.first().copied().unwrap_or(0);
        expected.push((format!("{name}.weight"), weight));
        expected.push((format!("{name}.bias"), vec![rows]));
    };
    affine("transcriber.output_linear".into(), vec![encoding, emformer.dim()]);
    affine("transcriber.layer_norm".into(), vec![encoding]);
    affine("predictor.input_layer_norm".into(), vec![hidden]);
    affine("predictor.linear".into(), vec![encoding, hidden]);
    affine("predictor.output_layer_norm".into(), vec![encoding]);
    affine("joiner.linear".into(), vec![config.num_symbols, encoding]);
    for layer in 0..config.num_lstm_layers {
        let prefix = format!("predictor.lstm_layers.{layer}");
        if config.lstm_layer_norm {
            affine(format!("{prefix}.g_norm"), vec![4 * hidden]);
            affine(format!("{prefix}.c_norm"), vec![hidden]);
        }
    }
    for layer in 0..config.num_lstm_layers {
        let prefix = format!("predictor.lstm_layers.{layer}");
        expected.push((format!("{prefix}.x2g.weight"), vec![4 * hidden, hidden]));
        expected.push((format!("{prefix}.p2g.weight"), vec![4 * hidden, hidden]));
        if !config.lstm_layer_norm {
            expected.push((format!("{prefix}.x2g.bias"), vec![4 * hidden]));
        }
    }
    expected
}

/// What a step of the transcriber consumes and produces, fed with plain feature frames.
pub fn geometry(config: &RnntConfig) -> Geometry {
    Geometry {
        num_features: config.input_dim,
        segment_frames: config.segment_length,
        lookahead_frames: config.right_context_length,
        subsampling: config.time_reduction_stride,
        output_dim: config.encoding_dim,
    }
}

/// As [`geometry`], fed with whole windows: a segment comes as one frame for each encoder frame of it, and these together
/// hold the segment and its right context (`mel_windows` features).
pub fn window_geometry(config: &RnntConfig) -> Geometry {
    let frames = config.segment_length / config.time_reduction_stride.max(1);
    Geometry {
        num_features: (config.segment_length + config.right_context_length) * config.input_dim
            / frames.max(1),
        segment_frames: frames,
        lookahead_frames: 0,
        subsampling: 1,
        output_dim: config.encoding_dim,
    }
}
