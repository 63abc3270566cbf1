//! Whisper's two convolutions as a stream: every feature frame goes in once, every output comes out once.
//!
//! `conv1` has stride 1, `conv2` stride 2, both three taps and GELU. Zeros stand in front of the stream only: one
//! frame before the features, one before `conv1`'s outputs. Output `j` sees features up to `2 j + 2`.

use crate::config::Activation;
use crate::encoder::StepRow;
use crate::encoder::kernels::{Linear, activate};
use crate::error::ModelError;
use crate::loader::Weights;

use super::{STEM_LOOKAHEAD, STEM_TAPS, sinusoids};

/// Feature frames that a session carries from step to step.
const CARRIED_FEATURES: usize = 2;

pub(super) struct Stem {
    conv1: Linear,
    conv2: Linear,
    positions: Vec<f32>,
    num_features: usize,
    dim: usize,
    period: usize,
}

/// Buffers of one batched run.
#[derive(Default)]
pub(super) struct StemScratch {
    taps: Vec<f32>,
    hidden: Vec<f32>,
}

/// What the sessions' windows are made of, in encoder frames.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) segment: usize,
    pub(super) right: usize,
}

/// One session's part of a run.
struct StemRow<'a> {
    /// [`Stem::state_len`] values: two feature frames, then one output of `conv1`.
    carried: &'a mut [f32],
    /// New feature frames.
    features: &'a [f32],
    /// Whether these are the first of the stream.
    is_first: bool,
    /// Encoder frames before these.
    position: u64,
}

impl Stem {
    pub(super) fn new(
        weights: &Weights,
        num_features: usize,
        dim: usize,
        period: usize,
    ) -> Result<Self, ModelError> {
        let convolution = |name: &str, inputs: usize| -> Result<Linear, ModelError> {
            // (outputs, inputs, taps) → (outputs, taps · inputs): three frames side by side are one row.
            let weight = weights
                .tensor(&format!("{name}.weight"))?
                .transpose(1, 2)?
                .contiguous()?;
            let weight: Vec<f32> = weight
                .to_dtype(candle_core::DType::F32)?
                .flatten_all()?
                .to_vec1()?;
            Ok(Linear::new(
                &weight,
                weights.values(&format!("{name}.bias"))?,
                STEM_TAPS * inputs,
            ))
        };
        Ok(Self {
            conv1: convolution("stem.conv1", num_features)?,
            conv2: convolution("stem.conv2", dim)?,
            positions: sinusoids(period, dim)
                .into_iter()
                .map(|value| value as f32)
                .collect(),
            num_features,
            dim,
            period,
        })
    }

    /// Values that a session carries.
    pub(super) fn state_len(&self) -> usize {
        CARRIED_FEATURES * self.num_features + self.dim
    }

    fn row<'a>(&self, row: &'a mut StepRow<'_>, window: Window) -> StemRow<'a> {
        let steps = row.state.steps;
        StemRow {
            carried: &mut row.state.values[..self.state_len()],
            features: row.features,
            is_first: steps == 0,
            position: match steps {
                0 => 0,
                steps => steps * window.segment as u64 + window.right as u64,
            },
        }
    }

    /// Encoder frames that a row gives.
    fn output_frames(&self, row: &StemRow<'_>) -> usize {
        let frames = row.features.len() / self.num_features;
        (if row.is_first {
            frames - STEM_LOOKAHEAD
        } else {
            frames
        }) / super::STEM_SUBSAMPLING
    }

    /// Appends every row's `(output frames, dim)` to `outputs`, positions added. What it carries are the first
    /// [`state_len`](Self::state_len) values of each state.
    pub(super) fn run(
        &self,
        rows: &mut [StepRow<'_>],
        window: Window,
        scratch: &mut StemScratch,
        outputs: &mut Vec<f32>,
    ) {
        let (num_features, dim) = (self.num_features, self.dim);
        scratch.taps.clear();
        for row in rows.iter_mut() {
            let row = self.row(row, window);
            let (past, _) = row.carried.split_at_mut(CARRIED_FEATURES * num_features);
            // The first run has one frame in front, zeros; later ones have the last two.
            let front = if row.is_first {
                &mut past[..num_features]
            } else {
                &mut past[..]
            };
            if row.is_first {
                front.fill(0.0);
            }
            append_windows(&mut scratch.taps, front, row.features, num_features, 1);
            let carried_from = row.features.len() - CARRIED_FEATURES * num_features;
            past.copy_from_slice(&row.features[carried_from..]);
        }
        let count = scratch.taps.len() / (STEM_TAPS * num_features);
        scratch.hidden.resize(count * dim, 0.0);
        self.conv1.apply(count, &scratch.taps, &mut scratch.hidden);
        activate(&mut scratch.hidden[..count * dim], Activation::Gelu);

        scratch.taps.clear();
        let mut hidden = &scratch.hidden[..count * dim];
        for row in rows.iter_mut() {
            let row = self.row(row, window);
            let (own, rest) = hidden.split_at(super::STEM_SUBSAMPLING * self.output_frames(&row) * dim);
            hidden = rest;
            let (_, past) = row.carried.split_at_mut(CARRIED_FEATURES * num_features);
            if row.is_first {
                past.fill(0.0);
            }
            append_windows(&mut scratch.taps, past, own, dim, super::STEM_SUBSAMPLING);
            past.copy_from_slice(&own[own.len() - dim..]);
        }
        let count = scratch.taps.len() / (STEM_TAPS * dim);
        let begin = outputs.len();
        outputs.resize(begin + count * dim, 0.0);
        let new = &mut outputs[begin..];
        self.conv2.apply(count, &scratch.taps, new);
        activate(new, Activation::Gelu);

        let mut frames = new.chunks_exact_mut(dim);
        for row in rows.iter_mut() {
            let row = self.row(row, window);
            let first = (row.position % self.period as u64) as usize;
            for (index, frame) in (0..self.output_frames(&row)).zip(&mut frames) {
                let position = (first + index) % self.period;
                for (value, sinusoid) in frame.iter_mut().zip(&self.positions[position * dim..]) {
                    *value += sinusoid;
                }
            }
        }
    }
}

/// Appends every window of three frames, `stride` apart, of `front` followed by `new`, each as one row.
fn append_windows(windows: &mut Vec<f32>, front: &[f32], new: &[f32], width: usize, stride: usize) {
    let front_frames = front.len() / width;
    let frames = front_frames + new.len() / width;
    for begin in (0..frames.saturating_sub(STEM_TAPS - 1)).step_by(stride) {
        for frame in begin..begin + STEM_TAPS {
            let (source, index) = if frame < front_frames {
                (front, frame)
            } else {
                (new, frame - front_frames)
            };
            windows.extend_from_slice(&source[index * width..][..width]);
        }
    }
}
