//! A recurrent encoder on named tensors, with the states that it begins and ends with.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use crate::encoder::Module;
use crate::error::ModelError;
use crate::module::{lengths, tensor};

use super::reference::{Hidden, Reference};

/// The reference executor as a module.
///
/// Takes `features (batch, frames, input size)`; to go on from earlier states `hidden` and for LSTM `cell`, each
/// `(layers · directions, batch, hidden)`; and for items of unequal length either `lengths (batch) i64` in frames or
/// `relative_lengths (batch) f32`, with which it computes as the original does, mistakes included
/// ([`Reference::forward_as_original`]). Gives `output (batch, frames, hidden · directions)`, `hidden` and `cell`.
pub struct RecurrentModule(Reference);

impl RecurrentModule {
    /// Runs this executor.
    pub fn new(reference: Reference) -> Self {
        Self(reference)
    }
}

impl Module for RecurrentModule {
    fn run(&self, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, ModelError> {
        let features = tensor(inputs, "features")?;
        let initial = Hidden::given(inputs);
        let (output, hidden) = match inputs.get("relative_lengths") {
            Some(relative) => {
                let relative: Vec<f32> = relative.to_dtype(DType::F32)?.to_vec1()?;
                self.0
                    .forward_as_original(features, Some(&relative), initial.as_ref())?
            }
            None => {
                let lengths = match inputs.contains_key("lengths") {
                    true => Some(lengths(inputs, "lengths")?),
                    false => None,
                };
                self.0.forward(features, lengths.as_deref(), initial.as_ref())?
            }
        };
        Ok(hidden.with_output(output))
    }
}

impl Hidden {
    /// The tensors `hidden` and `cell`, if the first is there.
    pub(crate) fn given(inputs: &BTreeMap<String, Tensor>) -> Option<Self> {
        Some(Self {
            hidden: inputs.get("hidden")?.clone(),
            cell: inputs.get("cell").cloned(),
        })
    }

    /// Together with an `output`, by name.
    pub(crate) fn with_output(self, output: Tensor) -> BTreeMap<String, Tensor> {
        let mut tensors = BTreeMap::from([("output".to_owned(), output), ("hidden".to_owned(), self.hidden)]);
        tensors.extend(self.cell.map(|cell| ("cell".to_owned(), cell)));
        tensors
    }
}
