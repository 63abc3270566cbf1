//! The executor: Candle operations, `f32` or `f64`, whole batches.
//!
//! The original lets convolutions see what padding became in the layer before, so the last frames of a shorter item
//! depend on its neighbours. [`Reference::forward`] masks padding behind every layer: an item's result is what it is
//! alone. [`Reference::forward_as_original`] does not, for comparing.

use candle_core::{D, DType, Device, Tensor};

use crate::encoder::recurrent::scan::{Gated, Kind};
use crate::encoder::{Geometry, OfflineEncoder};
use crate::error::ModelError;
use crate::loader::Weights;

use super::config::ConvNet2Config;
use super::{Convolution, FLATTENED, NORM_EPSILON, NUM_FEATURES, SUBSAMPLING, geometry, lstm_name};

/// Upper bound of the activation behind a convolution; 0 is the lower.
const CEILING: f64 = 20.0;

/// A batch norm by its running statistics, as a factor and an offset for each channel.
struct Norm {
    scale: Tensor,
    offset: Tensor,
}

impl Norm {
    fn load(weights: &Weights, name: &str) -> Result<Self, ModelError> {
        let tensor = |part: &str| weights.tensor(&format!("{name}.{part}"));
        let deviation = (tensor("running_var")? + NORM_EPSILON)?.sqrt()?;
        let scale = (tensor("weight")? / deviation)?;
        let offset = (tensor("bias")? - (tensor("running_mean")? * &scale)?)?;
        Ok(Self { scale, offset })
    }
}

struct Layer {
    sizes: &'static Convolution,
    /// `(outputs, inputs · taps, taps)`: all rows of a frequency's window side by side.
    weight: Tensor,
    bias: Tensor,
    norm: Norm,
}

impl Layer {
    fn load(weights: &Weights, sizes: &'static Convolution) -> Result<Self, ModelError> {
        let name = sizes.name;
        let ((inputs, outputs), taps) = (sizes.channels, sizes.taps);
        let weight = weights.tensor(&format!("{name}.0.weight"))?;
        Ok(Self {
            sizes,
            weight: weight.reshape((outputs, inputs * taps, taps))?,
            bias: weights.tensor(&format!("{name}.0.bias"))?,
            norm: Norm::load(weights, &format!("{name}.1"))?,
        })
    }

    /// `(batch, channels, frequencies, frames)`. Each output frequency is one convolution over time.
    fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (taps, stride, padding) = (self.sizes.taps, self.sizes.stride, self.sizes.padding);
        let x = x.pad_with_zeros(2, padding.0, padding.0)?;
        let (batch, channels, frequencies, frames) = x.dims4()?;
        let rows = (0..=frequencies - taps).step_by(stride.0).map(|begin| {
            x.narrow(2, begin, taps)?
                .contiguous()?
                .reshape((batch, channels * taps, frames))?
                .conv1d(&self.weight, padding.1, stride.1, 1, 1)
        });
        let rows: Vec<Tensor> = rows.collect::<candle_core::Result<_>>()?;
        let per_channel = |values: &Tensor| values.reshape((1, (), 1, 1));
        Tensor::stack(&rows, 2)?
            .broadcast_add(&per_channel(&self.bias)?)?
            .broadcast_mul(&per_channel(&self.norm.scale)?)?
            .broadcast_add(&per_channel(&self.norm.offset)?)?
            .clamp(0.0, CEILING)
    }
}

/// Weights as Candle tensors.
pub struct Reference {
    geometry: Geometry,
    dtype: DType,
    layers: Vec<Layer>,
    /// Both directions of each LSTM.
    lstms: Vec<[Gated; 2]>,
    norm: Option<Norm>,
}

impl Reference {
    /// Takes the weights in their type.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`super::expected_tensors`] is missing.
    pub fn new(config: &ConvNet2Config, weights: &Weights) -> Result<Self, ModelError> {
        let variant = config.variant;
        let lstm = |name: &&str| -> Result<[Gated; 2], ModelError> {
            let direction = |backward: bool| {
                Gated::load(weights, Kind::Lstm, true, |part| lstm_name(name, part, backward))
            };
            Ok([direction(false)?, direction(true)?])
        };
        Ok(Self {
            geometry: geometry(),
            dtype: weights.dtype(),
            layers: variant
                .convolutions()
                .map(|sizes| Layer::load(weights, sizes))
                .collect::<Result<_, _>>()?,
            lstms: variant.lstms().iter().map(lstm).collect::<Result<_, _>>()?,
            norm: match variant.has_norm() {
                true => Some(Norm::load(weights, "batchNorm.module")?),
                false => None,
            },
        })
    }

    /// `features (batch, frames, 70)` to `(batch, ⌈frames / 4⌉, 512)`, each item as if it were alone. Frames past an
    /// item's end are zero.
    ///
    /// # Errors
    /// [`ModelError::Input`] for shapes and lengths that do not fit.
    pub fn forward(&self, features: &Tensor, lengths: &[usize]) -> Result<Tensor, ModelError> {
        self.run(features, lengths, true)
    }

    /// As the original: convolutions see what is behind a shorter item's end.
    ///
    /// # Errors
    /// As [`Reference::forward`].
    pub fn forward_as_original(&self, features: &Tensor, lengths: &[usize]) -> Result<Tensor, ModelError> {
        self.run(features, lengths, false)
    }

    fn run(&self, features: &Tensor, lengths: &[usize], masked: bool) -> Result<Tensor, ModelError> {
        let (batch, frames) = match features.dims() {
            &[batch, frames, NUM_FEATURES] if batch > 0 && frames > 0 => (batch, frames),
            other => {
                let expected = format!("(batch, frames, {NUM_FEATURES}), not empty");
                return Err(ModelError::input("features", expected, format!("{other:?}")));
            }
        };
        if lengths.len() != batch || lengths.iter().any(|&length| length > frames) {
            return Err(ModelError::input(
                "lengths",
                format!("{batch} values up to {frames}"),
                format!("{lengths:?}"),
            ));
        }
        let mut lengths = lengths.to_vec();
        let mut x = features
            .to_dtype(self.dtype)?
            .transpose(1, 2)?
            .unsqueeze(1)?
            .contiguous()?;
        if masked {
            x = mask(&x, &lengths)?;
        }
        for layer in &self.layers {
            x = layer.apply(&x)?;
            lengths
                .iter_mut()
                .for_each(|length| *length = length.div_ceil(layer.sizes.stride.1));
            if masked {
                x = mask(&x, &lengths)?;
            }
        }
        let frames = x.dim(3)?;
        let mut x = x
            .reshape((batch, FLATTENED, frames))?
            .transpose(1, 2)?
            .contiguous()?;
        for (index, directions) in self.lstms.iter().enumerate() {
            if let Some(norm) = self.norm.as_ref().filter(|_| index > 0) {
                x = x.broadcast_mul(&norm.scale)?.broadcast_add(&norm.offset)?;
            }
            let run = |backward: bool| -> candle_core::Result<Tensor> {
                let direction = &directions[usize::from(backward)];
                Ok(direction
                    .run(&x, direction.zeros(batch)?, Some(&lengths), backward)?
                    .0)
            };
            x = (run(false)? + run(true)?)?;
        }
        Ok(x)
    }
}

impl OfflineEncoder for Reference {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn forward(&self, features: &Tensor, lengths: &[usize]) -> Result<(Tensor, Vec<usize>), ModelError> {
        let output = Reference::forward(self, features, lengths)?;
        let lengths = lengths
            .iter()
            .map(|length| length.div_ceil(SUBSAMPLING))
            .collect();
        Ok((output, lengths))
    }
}

/// Zeros in place of the frames past each item's length, `x (batch, …, frames)`.
fn mask(x: &Tensor, lengths: &[usize]) -> candle_core::Result<Tensor> {
    let frames = x.dim(D::Minus1)?;
    if lengths.iter().all(|&length| length >= frames) {
        return Ok(x.clone());
    }
    let valid: Vec<u8> = lengths
        .iter()
        .flat_map(|&length| (0..frames).map(move |frame| u8::from(frame < length)))
        .collect();
    let valid = Tensor::from_vec(valid, (lengths.len(), 1, 1, frames), &Device::Cpu)?;
    valid.broadcast_as(x.shape())?.where_cond(x, &x.zeros_like()?)
}
