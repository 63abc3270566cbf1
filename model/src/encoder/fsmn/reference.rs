//! The reference executor: Candle operations over whole utterances, in the weights' type, on any device.

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::{sigmoid, softmax};

use crate::config::Activation;
use crate::encoder::emformer::NORM_EPSILON;
use crate::encoder::{Geometry, OfflineEncoder};
use crate::error::ModelError;
use crate::loader::Weights;

use super::program::{Layout, Operation, Program};

enum Weighted {
    /// `(inputs, outputs)`.
    Linear {
        weight: Tensor,
        bias: Option<Tensor>,
        rows: usize,
    },
    /// `(rows, width)`.
    Join(Tensor),
    Memory {
        taps: Vec<(isize, Tensor)>,
        beside: bool,
    },
    Norm {
        weight: Tensor,
        bias: Tensor,
    },
    Plain(Operation),
}

/// Weights as Candle tensors.
pub struct Reference {
    program: Program,
    geometry: Geometry,
    operations: Vec<Weighted>,
    dtype: DType,
}

/// What a run gives.
#[derive(Debug)]
pub struct Run {
    /// `(batch, frames, output)`.
    pub output: Tensor,
    /// Values inside, by name: `cells.{i}`, `memories.{i}` or `blocks.{i}`, each `(batch, frames, width)`.
    pub inner: BTreeMap<String, Tensor>,
}

impl Reference {
    /// Copies the weights to a device, keeping their type.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`Program::expected_tensors`] is missing.
    pub fn new(program: &Program, weights: &Weights, device: &Device) -> Result<Self, ModelError> {
        let dtype = weights.dtype();
        let load =
            |name: &str| -> Result<Tensor, ModelError> { Ok(weights.tensor(name)?.to_device(device)?) };
        let mut operations = Vec::new();
        for operation in program.operations() {
            operations.push(match operation {
                Operation::Linear {
                    factors, bias, rows, ..
                } => {
                    let factors = factors
                        .iter()
                        .map(|factor| {
                            let weight = load(&factor.name)?;
                            Ok(match factor.layout {
                                Layout::OutputsInputs => weight.t()?.contiguous()?,
                                Layout::InputsOutputs => weight,
                            })
                        })
                        .collect::<Result<Vec<_>, ModelError>>()?;
                    Weighted::Linear {
                        weight: Tensor::cat(&factors, 0)?,
                        bias: bias.as_deref().map(load).transpose()?,
                        rows: *rows,
                    }
                }
                Operation::Memory { taps, width, beside } => {
                    let taps = taps
                        .resolve(weights, *width)?
                        .into_iter()
                        .map(|tap| {
                            let coefficients = Tensor::from_vec(tap.coefficients, *width, device)?;
                            Ok((tap.offset, coefficients.to_dtype(dtype)?))
                        })
                        .collect::<Result<_, ModelError>>()?;
                    Weighted::Memory {
                        taps,
                        beside: *beside,
                    }
                }
                Operation::Norm { name, .. } => Weighted::Norm {
                    weight: load(&format!("{name}.weight"))?,
                    bias: load(&format!("{name}.bias"))?,
                },
                Operation::Join { name, .. } => Weighted::Join(load(&format!("{name}.weight"))?),
                plain => Weighted::Plain(plain.clone()),
            });
        }
        Ok(Self {
            program: program.clone(),
            geometry: program.geometry(),
            operations,
            dtype,
        })
    }

    /// Type of the weights and of all results.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The network that it runs.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Runs `input (batch, frames, features)`; `mask (batch, frames)` is 1 for a frame that memories may see and 0 for
    /// padding. Frames outside of the input count as 0. As in the original cells, a padded frame still has an output.
    ///
    /// # Errors
    /// [`ModelError::Input`] for shapes that do not fit.
    pub fn run(&self, input: &Tensor, mask: Option<&Tensor>) -> Result<Run, ModelError> {
        let expected = self.geometry.num_features;
        let dims = input.dims().to_vec();
        if dims.len() != 3 || dims[1] == 0 || dims[2] != expected {
            return Err(ModelError::Input {
                name: "input",
                expected: format!("(batch, frames, {expected}) with at least one frame"),
                actual: format!("{dims:?}"),
            });
        }
        let mask = match mask {
            Some(mask) if mask.dims() != &dims[..2] => {
                return Err(ModelError::Input {
                    name: "pad_mask",
                    expected: format!("{:?}, a value for each frame of the input", &dims[..2]),
                    actual: format!("{:?}", mask.dims()),
                });
            }
            Some(mask) => Some(mask.to_dtype(self.dtype)?.unsqueeze(2)?),
            None => None,
        };
        let mut x = input.to_dtype(self.dtype)?;
        let mut kept: BTreeMap<usize, Tensor> = BTreeMap::new();
        let mut inner = BTreeMap::new();
        for (index, operation) in self.operations.iter().enumerate() {
            x = apply(operation, x, mask.as_ref(), &mut kept)?;
            for name in self.program.marks_at(index + 1) {
                inner.insert(name.to_owned(), x.clone());
            }
        }
        Ok(Run { output: x, inner })
    }
}

impl OfflineEncoder for Reference {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// An item's frames behind its own look-ahead are padding to every memory.
    fn forward(&self, features: &Tensor, lengths: &[usize]) -> Result<(Tensor, Vec<usize>), ModelError> {
        let (batch, frames, _) = features.dims3()?;
        let lookahead = self.geometry.lookahead_frames;
        let mask: Vec<u8> = lengths
            .iter()
            .flat_map(|length| (0..frames).map(move |frame| u8::from(frame < length + lookahead)))
            .collect();
        let mask = Tensor::from_vec(mask, (batch, frames), features.device())?;
        let output = self.run(features, Some(&mask))?.output;
        let output = output
            .narrow(1, 0, frames.saturating_sub(lookahead))?
            .contiguous()?;
        Ok((output, lengths.to_vec()))
    }
}

fn apply(
    operation: &Weighted,
    x: Tensor,
    mask: Option<&Tensor>,
    kept: &mut BTreeMap<usize, Tensor>,
) -> candle_core::Result<Tensor> {
    Ok(match operation {
        Weighted::Linear { weight, bias, rows } => {
            let (batch, frames, width) = x.dims3()?;
            let parts = x.reshape((batch, frames * rows, width / rows))?;
            let product = parts.broadcast_matmul(weight)?;
            let sum = match bias {
                Some(bias) => product.broadcast_add(bias)?,
                None => product,
            };
            sum.reshape((batch, frames, ()))?
        }
        Weighted::Join(coefficients) => {
            let (batch, frames, _) = x.dims3()?;
            let (rows, width) = coefficients.dims2()?;
            x.reshape((batch, frames, rows, width))?
                .broadcast_mul(coefficients)?
                .sum(2)?
        }
        Weighted::Memory { taps, beside } => {
            let source = match mask {
                Some(mask) => x.broadcast_mul(mask)?,
                None => x.clone(),
            };
            let mut memory = source.zeros_like()?;
            for (offset, coefficients) in taps {
                memory = (memory + shifted(&source, *offset)?.broadcast_mul(coefficients)?)?;
            }
            if *beside {
                Tensor::cat(&[&x, &memory], 2)?
            } else {
                memory
            }
        }
        Weighted::Norm { weight, bias } => {
            let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
            let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + NORM_EPSILON)?.sqrt()?;
            centred
                .broadcast_div(&deviation)?
                .broadcast_mul(weight)?
                .broadcast_add(bias)?
        }
        Weighted::Plain(operation) => match operation {
            Operation::Activation(Activation::Relu) => x.relu()?,
            Operation::Activation(Activation::Gelu) => x.gelu_erf()?,
            Operation::Activation(Activation::Silu) => (&x * sigmoid(&x)?)?,
            Operation::Keep { slot } => {
                kept.insert(*slot, x.clone());
                x
            }
            Operation::Add { slot } => match kept.get(slot) {
                Some(earlier) => (x + earlier)?,
                None => candle_core::bail!("skip {slot} has no source"),
            },
            Operation::Windows { window } => {
                let runs = window
                    .runs()
                    .map(|run| x.narrow(2, run.start, run.len()))
                    .collect::<candle_core::Result<Vec<_>>>()?;
                Tensor::cat(&runs, 2)?
            }
            Operation::Softmax => softmax(&x, D::Minus1)?,
            Operation::Linear { .. }
            | Operation::Join { .. }
            | Operation::Memory { .. }
            | Operation::Norm { .. } => x,
        },
    })
}

/// Frame `t` becomes what frame `t + offset` was, 0 outside.
fn shifted(x: &Tensor, offset: isize) -> candle_core::Result<Tensor> {
    let frames = x.dim(1)?;
    let by = offset.unsigned_abs();
    if by >= frames {
        x.zeros_like()
    } else if offset < 0 {
        x.narrow(1, 0, frames - by)?.pad_with_zeros(1, by, 0)
    } else {
        x.narrow(1, by, frames - by)?.pad_with_zeros(1, 0, by)
    }
}
