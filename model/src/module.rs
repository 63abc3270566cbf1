//! What `waxwing run` runs: the module of a model directory on named tensors.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::architecture;
use crate::config::Config;
use crate::encode::{Encoder, Mode};
use crate::encoder::Module;
use crate::error::ModelError;
use crate::loader::{self, WEIGHTS_FILE, Weights};
use crate::model::CONFIG_FILE;

/// A whole encoder as a module: `features (batch, frames + look-ahead, features)` and `lengths (batch) i64` in,
/// `output (batch, output frames, dim)`, `lengths (batch) i64` and, for a model with a head, `log_probs` out.
pub struct EncoderModule(Encoder);

impl EncoderModule {
    /// Builds the encoder of whole utterances.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for missing tensors.
    pub fn new(config: &Config, weights: &Weights) -> Result<Self, ModelError> {
        Ok(Self(Encoder::new(config, weights)?))
    }
}

impl Module for EncoderModule {
    fn run(&self, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, ModelError> {
        let lengths = lengths(inputs, "lengths")?;
        let encoded = self
            .0
            .encode(tensor(inputs, "features")?, &lengths, Mode::Whole)?;
        encoded.into_tensors()
    }
}

/// A tensor that a module asks for.
///
/// # Errors
/// [`ModelError::Input`] when there is none of that name.
pub fn tensor<'a>(
    inputs: &'a BTreeMap<String, Tensor>,
    name: &'static str,
) -> Result<&'a Tensor, ModelError> {
    inputs.get(name).ok_or_else(|| {
        let found: Vec<&str> = inputs.keys().map(String::as_str).collect();
        ModelError::input(name, "a tensor of that name", found.join(", "))
    })
}

/// A tensor of lengths, `(batch)` of any whole type.
///
/// # Errors
/// [`ModelError::Input`] when there is none of that name, for another rank, and for a value below 1.
pub fn lengths(inputs: &BTreeMap<String, Tensor>, name: &'static str) -> Result<Vec<usize>, ModelError> {
    let lengths = tensor(inputs, name)?;
    if lengths.rank() != 1 {
        return Err(ModelError::input(name, "1 dimension", lengths.rank()));
    }
    let lengths: Vec<i64> = lengths.to_dtype(DType::I64)?.to_vec1()?;
    lengths
        .into_iter()
        .map(|length| {
            let whole = usize::try_from(length).ok().filter(|&length| length > 0);
            whole.ok_or_else(|| ModelError::input(name, "at least 1 frame of every item", length))
        })
        .collect()
}

/// Loads the module of a model directory. Needs neither features nor tokens there.
///
/// # Errors
/// [`ModelError::Read`], or [`ModelError::Invalid`] with every problem found.
pub fn load(directory: &Path) -> Result<Box<dyn Module>, ModelError> {
    let config = Config::from_json(&loader::read_text(&directory.join(CONFIG_FILE))?)?;
    let bytes = loader::read_bytes(&directory.join(WEIGHTS_FILE))?;
    let weights = Weights::from_safetensors(
        &bytes,
        &architecture::expected_with(&config, classes(&config, &bytes)),
    )?;
    architecture::module(&config, &weights)
}

/// Rows of the head and of a second listener in a file, for a model that has them.
pub(crate) fn classes(config: &Config, safetensors: &[u8]) -> Classes {
    // What is missing is reported as such, for any number of classes.
    let rows = |name: &str| {
        Weights::shape_of(safetensors, name)
            .and_then(|shape| shape.first().copied())
            .unwrap_or(1)
    };
    Classes {
        head: config.ctc.as_ref().map(|_| rows("head.weight")),
        text: config
            .second_listener
            .as_ref()
            .map(|_| rows("text_decoder.embedding.weight")),
    }
}

/// How many classes the parts of a model tell apart; `None` where it has no such part.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Classes {
    /// Of the CTC head.
    pub(crate) head: Option<usize>,
    /// Of a second listener's text decoder.
    pub(crate) text: Option<usize>,
}

/// Runs the module of a directory on the tensors of one safetensors file and writes its results to another.
///
/// # Errors
/// As [`load`], [`ModelError::Input`] for tensors that are missing or do not fit, [`ModelError::Tensor`] for a file
/// that cannot be read or written.
pub fn run_file(directory: &Path, inputs: &Path, output: &Path) -> Result<(), ModelError> {
    let module = load(directory)?;
    let inputs = candle_core::safetensors::load(inputs, &Device::Cpu)?;
    let outputs = module.run(&inputs.into_iter().collect())?;
    Ok(candle_core::safetensors::save(
        &outputs.into_iter().collect(),
        output,
    )?)
}
