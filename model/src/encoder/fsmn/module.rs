//! An FSMN on named tensors, as its original is called.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use crate::config::Config;
use crate::encoder::Module;
use crate::encoder::head::CtcHead;
use crate::error::ModelError;
use crate::loader::Weights;
use crate::module::tensor;

use super::{Program, Reference};

/// The network over whole utterances: `input (batch, frames, features)` and, if wanted, `pad_mask (batch, frames)` with 1 for a frame
/// that memories may see, in; `output (batch, frames, dim)`, the values inside by the names of [`super::Run::inner`] and, for
/// a model with a head, `log_probs` out.
///
/// Other than in `encode`, frames that a network looks ahead to are not asked for: memories see zeros past the end, as in the
/// originals.
pub struct FsmnModule {
    reference: Reference,
    head: Option<CtcHead>,
}

impl FsmnModule {
    /// Builds the network of a program, with the model's head if it has one.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for missing tensors.
    pub fn new(program: &Program, config: &Config, weights: &Weights) -> Result<Self, ModelError> {
        Ok(Self {
            reference: Reference::new(program, weights, &Device::Cpu)?,
            head: config.ctc.as_ref().map(|_| CtcHead::new(weights)).transpose()?,
        })
    }
}

impl Module for FsmnModule {
    fn run(&self, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, ModelError> {
        let run = self
            .reference
            .run(tensor(inputs, "input")?, inputs.get("pad_mask"))?;
        let mut outputs = run.inner;
        if let Some(head) = &self.head {
            outputs.insert("log_probs".to_owned(), head.log_probs(&run.output)?);
        }
        outputs.insert("output".to_owned(), run.output);
        Ok(outputs)
    }
}
