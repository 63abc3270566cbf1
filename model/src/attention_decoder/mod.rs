//! The attentional RNN decoder: cells that read one input and one weighted sum of encoder outputs at a time.
//!
//! As `speechbrain.nnet.RNN.AttentionalRNNDecoder` 1.1 with `speechbrain.nnet.attention` (Apache-2), whose tensor names
//! are kept. Content-based attention is Bahdanau's (2014), location-aware attention Chorowski's (2015), key-value
//! attention the single head of Vaswani et al. (2017). It sees whole utterances: a live stream cannot use it.
//!
//! The original keeps the encoder's projections and the last weights in the module until they are reset. Here they are
//! a [`DecoderState`], so that one decoder serves any number of utterances at once.

mod attention;
mod config;

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Tensor};

use crate::encoder::Module;
use crate::encoder::recurrent::scan::Affine;
use crate::encoder::recurrent::{CellStack, Hidden};
use crate::error::ModelError;
use crate::loader::{Expected, Weights};
use crate::module::{lengths, tensor};

use attention::{Attended, Attention};

pub use config::{AttentionDecoderConfig, AttentionType};

/// Every tensor of the decoder with its shape.
pub fn expected_tensors(config: &AttentionDecoderConfig) -> Vec<Expected> {
    let (hidden, attention) = (config.hidden_size, config.attn_dim);
    let mut expected = attention::expected_tensors(config);
    expected.push(("proj.weight".into(), vec![hidden, hidden + attention]));
    expected.push(("proj.bias".into(), vec![hidden]));
    expected.extend(CellStack::expected_tensors(&config.cells(), "rnn."));
    expected
}

/// The decoder in Candle operations, `f32` or `f64`.
///
/// As a [`Module`] it takes `inputs (batch, steps, input size)`, `encoder_output (batch, frames, encoder dim)` and either
/// `lengths (batch) i64` in encoder frames or `relative_lengths (batch) f32` (rounded to the nearest, halves to even); it
/// gives `output (batch, steps, hidden)` and `attention (batch, steps, frames)`.
pub struct AttentionDecoder {
    config: AttentionDecoderConfig,
    attention: Attention,
    projection: Affine,
    cells: CellStack,
    dtype: DType,
}

/// What a batch of utterances remembers from step to step.
#[derive(Debug, Clone)]
pub struct DecoderState {
    attended: Attended,
    /// `(batch, attention dim)`: the last weighted sum.
    context: Tensor,
    hidden: Option<Hidden>,
}

impl AttentionDecoder {
    /// Takes the weights in their type.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`expected_tensors`] is missing.
    pub fn new(config: &AttentionDecoderConfig, weights: &Weights) -> Result<Self, ModelError> {
        Ok(Self {
            attention: Attention::new(config, weights)?,
            projection: Affine::load(weights, "proj")?,
            cells: CellStack::new(&config.cells(), weights, "rnn.")?,
            dtype: weights.dtype(),
            config: config.clone(),
        })
    }

    /// Begins to decode `encoder_output (batch, frames, encoder dim)`, of whose frames `lengths` are real.
    ///
    /// # Errors
    /// [`ModelError::Input`] for shapes that do not fit and for lengths of 0 or beyond the frames.
    pub fn begin(&self, encoder_output: &Tensor, lengths: &[usize]) -> Result<DecoderState, ModelError> {
        let (batch, frames, width) = encoder_output
            .dims3()
            .map_err(|_| ModelError::input("encoder_output", "3 dimensions", encoder_output.rank()))?;
        if width != self.config.enc_dim {
            let expected = format!("frames of {}", self.config.enc_dim);
            return Err(ModelError::input("encoder_output", expected, width));
        }
        if lengths.len() != batch || lengths.iter().any(|length| !(1..=frames).contains(length)) {
            return Err(ModelError::input(
                "lengths",
                format!("{batch} values from 1 to {frames}"),
                format!("{lengths:?}"),
            ));
        }
        let encoder_output = encoder_output.to_dtype(self.dtype)?;
        Ok(DecoderState {
            attended: self.attention.begin(&encoder_output, lengths)?,
            context: Tensor::zeros((batch, self.config.attn_dim), self.dtype, &Device::Cpu)?,
            hidden: None,
        })
    }

    /// One step over `input (batch, input size)`: `(batch, hidden)` and the weights `(batch, frames)`.
    ///
    /// # Errors
    /// [`ModelError::Input`] for an input of another width or batch.
    pub fn step(&self, input: &Tensor, state: &mut DecoderState) -> Result<(Tensor, Tensor), ModelError> {
        let expected = [state.context.dim(0)?, self.config.input_size];
        if input.dims() != expected {
            return Err(ModelError::input(
                "inputs",
                format!("{expected:?} at each step"),
                format!("{:?}", input.dims()),
            ));
        }
        let input = Tensor::cat(&[&input.to_dtype(self.dtype)?, &state.context], D::Minus1)?;
        let (output, hidden) = self.cells.step(&input, state.hidden.as_ref())?;
        state.hidden = Some(hidden);
        let (context, weights) = self.attention.attend(&mut state.attended, &output)?;
        let joined = Tensor::cat(&[&context, &output], D::Minus1)?;
        state.context = context;
        Ok((self.projection.apply(&joined)?, weights))
    }

    /// All steps of `inputs (batch, steps, input size)`: `(batch, steps, hidden)` and `(batch, steps, frames)`.
    ///
    /// # Errors
    /// As [`AttentionDecoder::begin`] and [`AttentionDecoder::step`]; also for no steps.
    pub fn forward(
        &self,
        inputs: &Tensor,
        encoder_output: &Tensor,
        lengths: &[usize],
    ) -> Result<(Tensor, Tensor), ModelError> {
        let (_, steps, _) = inputs
            .dims3()
            .map_err(|_| ModelError::input("inputs", "3 dimensions", inputs.rank()))?;
        if steps == 0 {
            return Err(ModelError::input("inputs", "1 step or more", 0));
        }
        let mut state = self.begin(encoder_output, lengths)?;
        let (mut outputs, mut weights) = (Vec::new(), Vec::new());
        for step in 0..steps {
            let (output, weight) = self.step(&inputs.narrow(1, step, 1)?.squeeze(1)?, &mut state)?;
            outputs.push(output);
            weights.push(weight);
        }
        Ok((Tensor::stack(&outputs, 1)?, Tensor::stack(&weights, 1)?))
    }
}

impl Module for AttentionDecoder {
    fn run(&self, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, ModelError> {
        let encoder_output = tensor(inputs, "encoder_output")?;
        let lengths = match inputs.get("relative_lengths") {
            Some(relative) => {
                let frames = encoder_output.dims().get(1).copied().unwrap_or(0);
                let relative: Vec<f32> = relative.to_dtype(DType::F32)?.to_vec1()?;
                rounded_lengths(&relative, frames)
            }
            None => lengths(inputs, "lengths")?,
        };
        let (output, attention) = self.forward(tensor(inputs, "inputs")?, encoder_output, &lengths)?;
        Ok(BTreeMap::from([
            ("output".to_owned(), output),
            ("attention".to_owned(), attention),
        ]))
    }
}

/// speechbrain's lengths: `relative · frames` in `f32`, rounded to the nearest, halves to even.
pub fn rounded_lengths(relative: &[f32], frames: usize) -> Vec<usize> {
    relative
        .iter()
        .map(|relative| (relative * frames as f32).round_ties_even() as usize)
        .collect()
}
