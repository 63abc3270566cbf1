//! Emformer: segments that see themselves, a left context, a right context and a bank of earlier summaries.
//!
//! Shi et al., *Emformer: Efficient Memory Transformer Based Acoustic Model for Low Latency Streaming Speech
//! Recognition* (2021), as in `torchaudio.models.Emformer` 2.11 (BSD-2), whose tensor names are kept. A
//! `whisper-emformer` puts Whisper's two convolutions and its sinusoids in front.
//!
//! Three executors run the same weights: [`Reference`] in Candle operations (whole utterances, torchaudio's own
//! streaming, `f32` and `f64`, any device) is the oracle of the tests; [`Emformer`] on plain slices is what is served on a CPU,
//! [`DeviceEmformer`] in Candle operations, with its sessions' states on the device, on a GPU.

mod attention;
mod config;
mod device;
mod layout;
mod planes;
mod reference;
mod serving;
mod stem;
mod tensors;

pub use config::{EmformerConfig, OutputNorm, WeightInitScaleStrategy};
pub use device::DeviceEmformer;
pub use reference::{LayerState, Reference};
pub use serving::Emformer;

use crate::encoder::Geometry;
use crate::loader::Expected;

/// Feature frames for one encoder frame behind Whisper's stem.
pub(crate) const STEM_SUBSAMPLING: usize = 2;
/// Feature frames past its own two that the last encoder frame of a run needs: one for each convolution's right
/// side, of which the second falls on the pair's own second frame.
pub(crate) const STEM_LOOKAHEAD: usize = 1;
/// Taps of both convolutions.
pub(crate) const STEM_TAPS: usize = 3;
/// Added to variances before their root.
pub(crate) const NORM_EPSILON: f64 = 1e-5;

/// Every tensor of the encoder, with its shape.
pub fn expected_tensors(encoder: &EmformerConfig) -> Vec<Expected> {
    let (dim, ffn) = (encoder.dim(), encoder.ffn_dim);
    let mut expected: Vec<Expected> = Vec::new();
    let mut affine = |name: String, weight: Vec<usize>| {
        let rows = weight.first().copied().unwrap_or(0);
        expected.push((format!("{name}.weight"), weight));
        expected.push((format!("{name}.bias"), vec![rows]));
    };
    if encoder.has_stem() {
        affine("stem.conv1".into(), vec![dim, encoder.input_dim, STEM_TAPS]);
        affine("stem.conv2".into(), vec![dim, dim, STEM_TAPS]);
    }
    for layer in 0..encoder.num_layers {
        let prefix = format!("emformer_layers.{layer}");
        affine(format!("{prefix}.attention.emb_to_key_value"), vec![2 * dim, dim]);
        affine(format!("{prefix}.attention.emb_to_query"), vec![dim, dim]);
        affine(format!("{prefix}.attention.out_proj"), vec![dim, dim]);
        affine(format!("{prefix}.pos_ff.0"), vec![dim]);
        affine(format!("{prefix}.pos_ff.1"), vec![ffn, dim]);
        affine(format!("{prefix}.pos_ff.4"), vec![dim, ffn]);
        affine(format!("{prefix}.layer_norm_input"), vec![dim]);
        if encoder.output_norm == OutputNorm::PerLayer {
            affine(format!("{prefix}.layer_norm_output"), vec![dim]);
        }
    }
    if encoder.output_norm == OutputNorm::Final {
        affine("layer_norm".into(), vec![dim]);
    }
    expected
}

/// What a step of this encoder consumes and produces.
pub fn geometry(encoder: &EmformerConfig) -> Geometry {
    let (subsampling, lookahead) = if encoder.has_stem() {
        (STEM_SUBSAMPLING, STEM_LOOKAHEAD)
    } else {
        (1, 0)
    };
    Geometry {
        num_features: encoder.input_dim,
        segment_frames: subsampling * encoder.segment_length,
        lookahead_frames: subsampling * encoder.right_context_length + lookahead,
        subsampling,
        output_dim: encoder.dim(),
    }
}

/// `(period, dim) f64`: Whisper's positions, sines in the first half of a row and cosines in the second.
pub(crate) fn sinusoids(period: usize, dim: usize) -> Vec<f64> {
    let half = dim / 2;
    let step = 10_000f64.ln() / (half as f64 - 1.0);
    let mut values = Vec::with_capacity(period * dim);
    for position in 0..period {
        let angle = |index: usize| position as f64 * (-step * index as f64).exp();
        values.extend((0..half).map(|index| angle(index).sin()));
        values.extend((0..half).map(|index| angle(index).cos()));
    }
    values
}
