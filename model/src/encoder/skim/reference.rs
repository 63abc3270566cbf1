//! The reference executor: Candle operations, `f32` or `f64`, whole batches, every variant.
//!
//! The original's peculiarities are kept, because they change results: a number of frames that is a multiple of the
//! segment gets a whole segment of zeros behind it, and overlapping segments are added up, not averaged.

use candle_core::{DType, Tensor};

use crate::encoder::recurrent::scan::Affine;
use crate::encoder::{Geometry, OfflineEncoder};
use crate::error::ModelError;
use crate::loader::Weights;

use super::config::SkimConfig;
use super::geometry;
use super::parts::{MemLstm, SegLstm};

/// Weights as Candle tensors.
pub struct Reference {
    config: SkimConfig,
    geometry: Geometry,
    dtype: DType,
    segments: Vec<SegLstm>,
    memories: Vec<MemLstm>,
    /// Slope of the rectifier below 0.
    slope: Tensor,
    output: Affine,
}

impl Reference {
    /// Takes the weights in their type.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`super::expected_tensors`] is missing.
    pub fn new(config: &SkimConfig, weights: &Weights) -> Result<Self, ModelError> {
        let segment = |block: usize| {
            let prefix = format!("seg_lstms.{block}.");
            SegLstm::new(&config.segment(), weights, &prefix)
        };
        let memories = match config.memory() {
            Some(memory) => (1..config.num_blocks)
                .map(|block| MemLstm::new(&memory, weights, &format!("mem_lstms.{}.", block - 1)))
                .collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        Ok(Self {
            geometry: geometry(config),
            dtype: weights.dtype(),
            segments: (0..config.num_blocks).map(segment).collect::<Result<_, _>>()?,
            memories,
            slope: weights.tensor("output_fc.0.weight")?,
            output: Affine::load(weights, "output_fc.1")?,
            config: config.clone(),
        })
    }

    /// Type of the weights and of all results.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// `features (batch, frames, input size)` to `(batch, frames, output size)`, all items whole.
    ///
    /// # Errors
    /// [`ModelError::Input`] for another width and for no frames.
    pub fn forward(&self, features: &Tensor) -> Result<Tensor, ModelError> {
        let (batch, frames) = match features.dims() {
            &[batch, frames, width] if batch > 0 && frames > 0 && width == self.config.input_size => {
                (batch, frames)
            }
            other => {
                let expected = format!("(batch, frames, {}), not empty", self.config.input_size);
                return Err(ModelError::input("features", expected, format!("{other:?}")));
            }
        };
        let (size, width) = (self.config.segment_size, self.config.input_size);
        let features = features.to_dtype(self.dtype)?;
        // (batch, segments, size, width)
        let segmented = if self.config.seg_overlap {
            split_overlapping(&features, size)?
        } else {
            features
                .pad_with_zeros(1, 0, size - frames % size)?
                .reshape((batch, (), size, width))?
        };
        let count = segmented.dim(1)?;
        let mut x = segmented.contiguous()?.reshape((batch * count, size, width))?;
        let mut states = None;
        for (block, segment) in self.segments.iter().enumerate() {
            let (output, after) = segment.forward(&x, states.as_ref())?;
            x = output;
            states = Some(match self.memories.get(block) {
                Some(memory) => memory.forward(&after, count)?,
                None => after,
            });
        }
        let x = x.reshape((batch, count, size, width))?;
        let x = if self.config.seg_overlap {
            merge_overlapping(&x, frames)?
        } else {
            x.reshape((batch, count * size, width))?.narrow(1, 0, frames)?
        };
        let below = (x.relu()? - &x)?.broadcast_mul(&self.slope)?;
        Ok(self.output.apply(&(x.relu()? - below)?)?)
    }
}

impl OfflineEncoder for Reference {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Items of unequal length run one by one: what a shorter one reads behind its end is the original's padding, not
    /// its neighbours'. Frames past an item's length are zero.
    fn forward(&self, features: &Tensor, lengths: &[usize]) -> Result<(Tensor, Vec<usize>), ModelError> {
        let frames = features.dim(1)?;
        if lengths.iter().all(|&length| length == frames) {
            return Ok((Reference::forward(self, features)?, lengths.to_vec()));
        }
        let mut outputs = Vec::with_capacity(lengths.len());
        for (item, &length) in lengths.iter().enumerate() {
            let own = features.narrow(0, item, 1)?;
            outputs.push(if length == 0 {
                let device = candle_core::Device::Cpu;
                Tensor::zeros((1, frames, self.config.output_size), self.dtype, &device)?
            } else {
                Reference::forward(self, &own.narrow(1, 0, length)?)?.pad_with_zeros(1, 0, frames - length)?
            });
        }
        Ok((Tensor::cat(&outputs, 0)?, lengths.to_vec()))
    }
}

/// `(batch, frames, width)` to segments that begin half a segment apart, `(batch, segments, size, width)`: half a segment
/// of zeros in front, and behind it half a segment after as many as fill the last one.
fn split_overlapping(x: &Tensor, size: usize) -> candle_core::Result<Tensor> {
    let (batch, frames, width) = x.dims3()?;
    let half = size / 2;
    let rest = size - (half + frames % size) % size;
    let padded = x.pad_with_zeros(1, half, rest + half)?;
    let length = padded.dim(1)? - half;
    let row = |begin: usize| {
        padded
            .narrow(1, begin, length)?
            .contiguous()?
            .reshape((batch, length / size, 1, size, width))
    };
    Tensor::cat(&[row(0)?, row(half)?], 2)?.reshape((batch, 2 * (length / size), size, width))
}

/// Adds up what [`split_overlapping`] made of `frames` frames.
fn merge_overlapping(x: &Tensor, frames: usize) -> candle_core::Result<Tensor> {
    let (batch, segments, size, width) = x.dims4()?;
    let pairs = x.reshape((batch, segments / 2, 2, size, width))?;
    let row = |index: usize| {
        pairs
            .narrow(2, index, 1)?
            .contiguous()?
            .reshape((batch, segments / 2 * size, width))
    };
    row(0)?.narrow(1, size / 2, frames)? + row(1)?.narrow(1, 0, frames)?
}
