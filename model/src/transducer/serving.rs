//! The served transcriber: time reduction, the served Emformer, output projection and norm, on plain slices.

use super::config::RnntConfig;
use super::{geometry, window_geometry};
use crate::encoder::emformer::Emformer;
use crate::encoder::kernels::{Linear, Norm};
use crate::encoder::scratch::ScratchPool;
use crate::encoder::{Geometry, StateCache, StepRow, StreamingEncoder};
use crate::error::ModelError;
use crate::loader::Weights;
use crate::precision::Precision;

/// A transcriber whose steps give encoder frames `(segment / stride, encoding) f32`. Its state is the Emformer's.
pub struct TransducerEncoder {
    geometry: Geometry,
    /// `(stride · reduced width)` of a group, from its frames side by side.
    input: Linear,
    input_dim: usize,
    group_dim: usize,
    emformer: Emformer,
    output: Linear,
    norm: Norm,
    scratch: ScratchPool<Scratch>,
}

#[derive(Default)]
struct Scratch {
    reduced: Vec<f32>,
    encoded: Vec<f32>,
    projected: Vec<f32>,
}

impl TransducerEncoder {
    /// Builds the transcriber. With `windows` every step takes a whole window, segment and right context, whose features
    /// were made for it alone, as torchaudio streams; without, the right context is the next segment's beginning and is
    /// kept in the state. The precision is that of the Emformer's layers.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`super::expected_tensors`] is missing.
    pub fn new(
        config: &RnntConfig,
        weights: &Weights,
        windows: bool,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let emformer = config.emformer();
        let weight = weights.values("transcriber.input_linear.weight")?;
        let zeros = vec![0.0; config.time_reduction_input_dim];
        Ok(Self {
            geometry: if windows {
                window_geometry(config)
            } else {
                geometry(config)
            },
            input: Linear::new(&weight, zeros, config.input_dim),
            input_dim: config.input_dim,
            group_dim: emformer.dim(),
            output: Linear::new(
                &weights.values("transcriber.output_linear.weight")?,
                weights.values("transcriber.output_linear.bias")?,
                emformer.dim(),
            ),
            norm: Norm::new(
                weights.values("transcriber.layer_norm.weight")?,
                weights.values("transcriber.layer_norm.bias")?,
            ),
            emformer: {
                let weights = weights.under("transcriber.transformer.");
                let emformer = Emformer::with_precision(&emformer, &weights, precision)?;
                if windows {
                    emformer.with_whole_windows()
                } else {
                    emformer
                }
            },
            scratch: ScratchPool::default(),
        })
    }

    fn check(&self, rows: &[StepRow<'_>]) -> Result<(), ModelError> {
        for (row, step) in rows.iter().enumerate() {
            let expected = self.geometry.frames_needed(step.state.steps) * self.geometry.num_features;
            let actual = step.features.len();
            if expected != actual {
                return Err(ModelError::FeatureCount {
                    row,
                    expected,
                    actual,
                });
            }
        }
        Ok(())
    }

    fn run(&self, rows: &mut [StepRow<'_>], scratch: &mut Scratch) -> Result<(), ModelError> {
        let Scratch {
            reduced,
            encoded,
            projected,
        } = scratch;
        encoded.clear();
        rows.iter()
            .for_each(|row| encoded.extend_from_slice(row.features));
        let frames = encoded.len() / self.input_dim;
        reduced.resize(frames * self.input.outputs(), 0.0);
        self.input.apply(frames, encoded, reduced);
        // Groups of frames side by side are the rows of the next width: nothing has to move.
        let mut rest = reduced.as_slice();
        let mut inner: Vec<StepRow<'_>> = rows
            .iter_mut()
            .map(|row| {
                let own = row.features.len() / self.input_dim * self.input.outputs();
                let (features, others) = rest.split_at(own);
                rest = others;
                StepRow {
                    state: row.state,
                    features,
                    output: row.output,
                }
            })
            .collect();
        self.emformer.step(&mut inner)?;
        drop(inner);
        encoded.clear();
        rows.iter().for_each(|row| encoded.extend_from_slice(row.output));
        let frames = encoded.len() / self.group_dim;
        projected.resize(frames * self.output.outputs(), 0.0);
        self.output.apply(frames, encoded, projected);
        self.norm.apply_in_place(projected);
        let mut rest = projected.as_slice();
        for row in rows {
            let (own, others) = rest.split_at(row.output.len() / self.group_dim * self.output.outputs());
            rest = others;
            row.output.clear();
            row.output.extend_from_slice(own);
        }
        Ok(())
    }
}

impl StreamingEncoder for TransducerEncoder {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn products_per_step(&self) -> u64 {
        let inner = self.emformer.geometry();
        let groups = inner.frames_needed(1) + inner.lookahead_frames;
        let reduction = groups * self.group_dim * self.input_dim;
        let projection = self.geometry.output_frames() * self.group_dim * self.output.outputs();
        self.emformer.products_per_step() + (reduction + projection) as u64
    }

    fn new_state(&self) -> StateCache {
        self.emformer.new_state()
    }

    fn reset(&self, state: &mut StateCache) {
        self.emformer.reset(state);
    }

    fn step(&self, rows: &mut [StepRow<'_>]) -> Result<(), ModelError> {
        self.check(rows)?;
        self.scratch.with(|scratch| self.run(rows, scratch))
    }
}
