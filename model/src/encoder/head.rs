//! The CTC head behind any encoder: a linear layer over its output frames and a log-softmax over the classes.

use candle_core::{D, Tensor};
use candle_nn::ops::log_softmax;

use crate::encoder::kernels::{Linear, log_softmax_rows};
use crate::encoder::scratch::ScratchPool;
use crate::encoder::{Geometry, StateCache, StepRow, StreamingEncoder};
use crate::error::ModelError;
use crate::loader::{Expected, Weights};

/// Sessions that share one pass through the head, so that its rows stay in the cache.
const GROUP: usize = 8;

/// Tensors of a head over encoder frames of `dim` values: `head.weight (classes, dim)`, `head.bias (classes)`.
pub fn expected_tensors(classes: usize, dim: usize) -> [Expected; 2] {
    [
        ("head.weight".into(), vec![classes, dim]),
        ("head.bias".into(), vec![classes]),
    ]
}

/// The head in Candle operations, in the weights' type: for whole utterances.
pub struct CtcHead {
    weight: Tensor,
    bias: Tensor,
}

impl CtcHead {
    /// Takes the head of a model.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`expected_tensors`] is missing.
    pub fn new(weights: &Weights) -> Result<Self, ModelError> {
        Ok(Self {
            weight: weights.tensor("head.weight")?,
            bias: weights.tensor("head.bias")?,
        })
    }

    /// Log-probs of encoder output, `(batch, frames, dim)` → `(batch, frames, classes)`, in the weights' type.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] for another width.
    pub fn log_probs(&self, encoded: &Tensor) -> Result<Tensor, ModelError> {
        let scores = encoded
            .to_dtype(self.weight.dtype())?
            .broadcast_matmul(&self.weight.t()?)?
            .broadcast_add(&self.bias)?;
        Ok(log_softmax(&scores, D::Minus1)?)
    }
}

/// A streaming encoder whose output frames are log-probs: of the classes and, where the model has a phone head, behind them of the phones.
pub struct WithHead {
    encoder: Box<dyn StreamingEncoder>,
    /// One for each distribution.
    heads: Vec<Linear>,
    geometry: Geometry,
    scratch: ScratchPool<Scratch>,
}

#[derive(Default)]
struct Scratch {
    encoded: Vec<f32>,
    log_probs: Vec<f32>,
}

impl WithHead {
    /// Puts a head behind an encoder, and a phone head beside it if the model has one.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`expected_tensors`], or of [`phones::expected_tensors`](crate::phones::expected_tensors), is missing.
    pub fn new(
        encoder: Box<dyn StreamingEncoder>,
        weights: &Weights,
        has_phones: bool,
    ) -> Result<Self, ModelError> {
        let mut geometry = encoder.geometry().clone();
        let inputs = geometry.output_dim;
        let head = |name: &str| -> Result<Linear, ModelError> {
            let weight = weights.values(&format!("{name}.weight"))?;
            Ok(Linear::new(
                &weight,
                weights.values(&format!("{name}.bias"))?,
                inputs,
            ))
        };
        let mut heads = vec![head("head")?];
        if has_phones {
            heads.push(head("phones")?);
        }
        geometry.output_dim = heads.iter().map(Linear::outputs).sum();
        Ok(Self {
            encoder,
            heads,
            geometry,
            scratch: ScratchPool::default(),
        })
    }

    fn apply(&self, rows: &mut [StepRow<'_>], scratch: &mut Scratch) {
        let Scratch { encoded, log_probs } = scratch;
        encoded.clear();
        rows.iter().for_each(|row| encoded.extend_from_slice(row.output));
        let (inputs, width) = (self.encoder.geometry().output_dim, self.geometry.output_dim);
        let frames = encoded.len() / inputs;
        for row in &mut *rows {
            let own = row.output.len() / inputs;
            row.output.clear();
            row.output.resize(own * width, 0.0);
        }
        let mut from = 0;
        for head in &self.heads {
            let classes = head.outputs();
            log_probs.resize(frames * classes, 0.0);
            head.apply(frames, encoded, log_probs);
            log_softmax_rows(log_probs, classes);
            let said = log_probs.chunks_exact(classes);
            let places = rows.iter_mut().flat_map(|row| row.output.chunks_exact_mut(width));
            for (place, said) in places.zip(said) {
                place[from..from + classes].copy_from_slice(said);
            }
            from += classes;
        }
    }
}

impl StreamingEncoder for WithHead {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn products_per_step(&self) -> u64 {
        let inputs = self.encoder.geometry().output_dim;
        self.encoder.products_per_step()
            + (self.geometry.output_frames() * inputs * self.geometry.output_dim) as u64
    }

    fn new_state(&self) -> StateCache {
        self.encoder.new_state()
    }

    fn reset(&self, state: &mut StateCache) {
        self.encoder.reset(state);
    }

    fn to_host(&self, state: &StateCache) -> Result<StateCache, ModelError> {
        self.encoder.to_host(state)
    }

    fn step(&self, rows: &mut [StepRow<'_>]) -> Result<(), ModelError> {
        self.encoder.step(rows)?;
        self.scratch.with(|scratch| {
            for group in rows.chunks_mut(GROUP) {
                self.apply(group, scratch);
            }
        });
        Ok(())
    }
}
