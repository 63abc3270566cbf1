//! A SAN-M encoder on named tensors, as its original is called.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use crate::config::Config;
use crate::encoder::Module;
use crate::encoder::head::CtcHead;
use crate::error::ModelError;
use crate::loader::Weights;
use crate::module::{lengths, tensor};

use super::{Reference, SanmConfig};

/// `input (batch, frames, features)` and `lengths (batch) i64` in; `output (batch, queries + frames, dim)`, what follows the
/// queries' own frames being the utterance, and, for a model with a head, `log_probs` out. In chunks, the input ends with the
/// frames that the last chunk looks ahead to, which `output` lacks.
pub struct SanmModule {
    reference: Reference,
    head: Option<CtcHead>,
}

impl SanmModule {
    /// Builds the encoder, with the model's head if it has one.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for missing tensors.
    pub fn new(sizes: &SanmConfig, config: &Config, weights: &Weights) -> Result<Self, ModelError> {
        Ok(Self {
            reference: Reference::new(sizes, weights, &Device::Cpu)?,
            head: config.ctc.as_ref().map(|_| CtcHead::new(weights)).transpose()?,
        })
    }
}

impl Module for SanmModule {
    fn run(&self, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, ModelError> {
        let output = self
            .reference
            .run(tensor(inputs, "input")?, &lengths(inputs, "lengths")?)?;
        let mut outputs = BTreeMap::new();
        if let Some(head) = &self.head {
            outputs.insert("log_probs".to_owned(), head.log_probs(&output)?);
        }
        outputs.insert("output".to_owned(), output);
        Ok(outputs)
    }
}
