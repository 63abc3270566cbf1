//! The parts of an RNN-T as `run` runs them; which one is told by the names of the inputs.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::RnntConfig;
use super::networks::Networks;
use super::reference::{Reference, TokenState};
use super::search::Search;
use crate::encoder::Module;
use crate::encoder::emformer::LayerState;
use crate::error::ModelError;
use crate::loader::Weights;
use crate::module::{lengths, tensor};

/// An RNN-T on named tensors; floats in the weights' type, but for the search, which is `f32`:
///
/// * transcriber: `features (batch, T + R, features)`, `lengths (batch)` → `output (batch, T / stride, encoding)`, `lengths`;
/// * streaming transcriber: `window (batch, L + R, features)`, `lengths` with the right context, and after the first window
///   `state.{layer}.{key,value,memory}`, `past_length (1)` → `output`, `lengths`, and these states, valid rows only;
/// * predictor: `tokens (batch, tokens) i64`, after the first call `state.{layer}.{h,c}` → `output (batch, tokens, encoding)`,
///   states;
/// * joiner: `source (batch, T, encoding)`, `target (batch, U, encoding)` → `logits (batch, T, U, classes)`;
/// * search: `encoded (frames, encoding)`, or `features (1, T + R, features)`, or `windows (windows, L + R, features)`,
///   with `beam (1) i64` → `tokens (hypotheses, longest) i64` filled up with −1, `scores (hypotheses) f32`, the best first,
///   without the leading blank.
pub struct TransducerModule {
    config: RnntConfig,
    weights: Weights,
    reference: Reference,
}

impl TransducerModule {
    /// Builds all parts.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`super::expected_tensors`] is missing.
    pub fn new(config: &RnntConfig, weights: &Weights) -> Result<Self, ModelError> {
        Ok(Self {
            config: config.clone(),
            weights: weights.clone(),
            reference: Reference::new(config, weights)?,
        })
    }

    fn stream(&self, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, ModelError> {
        let state = |layer: usize, name: &str| -> Result<Option<Tensor>, ModelError> {
            match inputs.get(&format!("state.{layer}.{name}")) {
                Some(state) => Ok(Some(state.to_dtype(self.reference.dtype())?)),
                None => Ok(None),
            }
        };
        let past_length = match inputs.get("past_length") {
            Some(_) => lengths(inputs, "past_length")?.first().copied().unwrap_or(0),
            None => 0,
        };
        let mut states = (0..self.config.transformer_num_layers)
            .map(|layer| {
                Ok(LayerState {
                    memory: state(layer, "memory")?,
                    key: state(layer, "key")?,
                    value: state(layer, "value")?,
                    past_length,
                })
            })
            .collect::<Result<Vec<_>, ModelError>>()?;
        let given = lengths(inputs, "lengths")?;
        let (output, given) =
            self.reference
                .transcribe_streaming(tensor(inputs, "window")?, &given, &mut states)?;
        let mut outputs = BTreeMap::from([("output".to_owned(), output), numbers("lengths", &given)?]);
        for (layer, state) in states.into_iter().enumerate() {
            for (name, tensor) in [
                ("memory", state.memory),
                ("key", state.key),
                ("value", state.value),
            ] {
                outputs.extend(tensor.map(|tensor| (format!("state.{layer}.{name}"), tensor)));
            }
            outputs.extend([numbers("past_length", &[state.past_length])?]);
        }
        Ok(outputs)
    }

    fn predict(&self, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, ModelError> {
        let tokens = tensor(inputs, "tokens")?;
        let (_, count) = tokens
            .dims2()
            .map_err(|_| ModelError::input("tokens", "2 dimensions", tokens.rank()))?;
        let flat: Vec<i64> = tokens.to_dtype(DType::I64)?.flatten_all()?.to_vec1()?;
        let flat = flat
            .into_iter()
            .map(|token| u32::try_from(token).map_err(|_| ModelError::input("tokens", "classes", token)))
            .collect::<Result<Vec<u32>, _>>()?;
        let tokens: Vec<Vec<u32>> = flat.chunks(count.max(1)).map(<[u32]>::to_vec).collect();
        let mut state = TokenState::new();
        if inputs.contains_key("state.0.h") {
            for layer in 0..self.config.num_lstm_layers {
                let part = |name: &str| -> Result<Tensor, ModelError> {
                    let name = format!("state.{layer}.{name}");
                    let state = inputs
                        .get(&name)
                        .ok_or_else(|| ModelError::input("state", name, "none of that name"))?;
                    Ok(state.to_dtype(self.reference.dtype())?)
                };
                state.push((part("h")?, part("c")?));
            }
        }
        let output = self.reference.predict(&tokens, &mut state)?;
        let mut outputs = BTreeMap::from([("output".to_owned(), output)]);
        for (layer, (h, c)) in state.into_iter().enumerate() {
            outputs.insert(format!("state.{layer}.h"), h);
            outputs.insert(format!("state.{layer}.c"), c);
        }
        Ok(outputs)
    }

    fn search(&self, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, ModelError> {
        let beam = lengths(inputs, "beam")?.first().copied().unwrap_or(0);
        if beam == 0 || beam >= self.config.num_symbols {
            let expected = format!("1 to {}", self.config.num_symbols - 1);
            return Err(ModelError::input("beam", expected, beam));
        }
        let mut config = self.config.clone();
        config.search.beam_width = beam;
        let networks = Networks::new(&config, &self.weights)?;
        let encoded = if let Some(encoded) = inputs.get("encoded") {
            encoded.clone()
        } else if let Some(windows) = inputs.get("windows") {
            let (count, frames, _) = windows
                .dims3()
                .map_err(|_| ModelError::input("windows", "3 dimensions", windows.rank()))?;
            let mut states = Vec::new();
            let encoded = (0..count)
                .map(|index| {
                    let window = windows.narrow(0, index, 1)?;
                    let (encoded, _) =
                        self.reference
                            .transcribe_streaming(&window, &[frames], &mut states)?;
                    Ok(encoded)
                })
                .collect::<Result<Vec<_>, ModelError>>()?;
            Tensor::cat(&encoded, 1)?.squeeze(0)?
        } else {
            let features = tensor(inputs, "features")?;
            if features.rank() != 3 || features.dim(0)? != 1 {
                return Err(ModelError::input(
                    "features",
                    "shape (1, frames, features)",
                    format!("{:?}", features.dims()),
                ));
            }
            let frames = features.dim(1)?.saturating_sub(self.config.right_context_length);
            self.reference.transcribe(features, &[frames])?.0.squeeze(0)?
        };
        let frames: Vec<Vec<f32>> = encoded.to_dtype(DType::F32)?.to_vec2()?;
        let mut search = Search::new(Arc::new(networks));
        for frame in frames {
            if frame.len() != search.frame_len() {
                return Err(ModelError::input(
                    "encoded",
                    search.frame_len().to_string(),
                    frame.len(),
                ));
            }
            search.accept(&frame);
        }
        let hypotheses = search.hypotheses();
        let longest = hypotheses.iter().map(|h| h.emissions().len()).max().unwrap_or(0);
        let mut tokens: Vec<i64> = Vec::new();
        for hypothesis in hypotheses {
            tokens.extend(
                hypothesis
                    .emissions()
                    .iter()
                    .map(|emission| i64::from(emission.token)),
            );
            tokens.resize(tokens.len() + longest - hypothesis.emissions().len(), -1);
        }
        let scores: Vec<f32> = hypotheses.iter().map(|hypothesis| hypothesis.score()).collect();
        let tokens = Tensor::from_vec(tokens, (scores.len(), longest), &Device::Cpu)?;
        Ok(BTreeMap::from([
            ("tokens".to_owned(), tokens),
            ("scores".to_owned(), Tensor::new(scores, &Device::Cpu)?),
        ]))
    }
}

impl Module for TransducerModule {
    fn run(&self, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, ModelError> {
        if inputs.contains_key("beam") {
            self.search(inputs)
        } else if inputs.contains_key("tokens") {
            self.predict(inputs)
        } else if inputs.contains_key("source") {
            let dtype = self.reference.dtype();
            let source = tensor(inputs, "source")?.to_dtype(dtype)?;
            let target = tensor(inputs, "target")?.to_dtype(dtype)?;
            let logits = self.reference.join(&source, &target)?;
            Ok(BTreeMap::from([("logits".to_owned(), logits)]))
        } else if inputs.contains_key("window") {
            self.stream(inputs)
        } else {
            let given = lengths(inputs, "lengths")?;
            let (output, given) = self.reference.transcribe(tensor(inputs, "features")?, &given)?;
            Ok(BTreeMap::from([
                ("output".to_owned(), output),
                numbers("lengths", &given)?,
            ]))
        }
    }
}

fn numbers(name: &str, values: &[usize]) -> Result<(String, Tensor), ModelError> {
    let values: Vec<i64> = values.iter().map(|&value| value as i64).collect();
    Ok((name.to_owned(), Tensor::new(values, &Device::Cpu)?))
}
