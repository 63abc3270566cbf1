//! From files to a model: everything that is wrong with any of them is found at once.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use waxwing_frontend::features::FeatureConfig;

use super::{Executor, Model};
use crate::architecture;
use crate::config::{Config, CtcConfig, EncoderConfig};
use crate::device::Device;
use crate::error::ModelError;
use crate::language_model::LanguageModel;
use crate::loader::{self, WEIGHTS_FILE, Weights};
use crate::module::classes;
use crate::phones::Pronunciations;
use crate::precision::Precision;
use crate::second_listener::SecondListener;
use crate::text_decoder::TextVocabulary;
use crate::tokens::Tokens;
use crate::transducer::Networks;
use crate::whole::WholeEncoder;

/// Name of the configuration in a model directory.
pub const CONFIG_FILE: &str = "config.json";
/// Name of the classes' spellings in a model directory.
pub const TOKENS_FILE: &str = "tokens.txt";
/// Name of a second listener's vocabulary in a model directory.
pub const TEXT_TOKENS_FILE: &str = "text_tokens.txt";
/// Name of the list of pronunciations in the directory of a model that says phones, in a form that [`Pronunciations::from_bytes`] reads.
pub const PRONUNCIATIONS_FILE: &str = "pronunciations.txt.gz";
/// Name of the language model in a model directory, in any form that [`LanguageModel::from_bytes`] reads. It may be missing.
pub const LANGUAGE_MODEL_FILE: &str = "language_model.bin";

/// The contents of a model's files, such as those embedded in the binary.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// [`CONFIG_FILE`].
    pub config_json: &'a str,
    /// [`TOKENS_FILE`].
    pub tokens_txt: &'a str,
    /// [`TEXT_TOKENS_FILE`], for a model with a second listener.
    pub text_tokens_txt: Option<&'a str>,
    /// [`PRONUNCIATIONS_FILE`], for a model that says phones.
    pub pronunciations: Option<&'a [u8]>,
    /// [`WEIGHTS_FILE`].
    pub safetensors: &'a [u8],
}

impl Model {
    /// Loads `config.json`, `tokens.txt`, `model.safetensors` and, where they are there, `text_tokens.txt`, `pronunciations.txt.gz` and `language_model.bin`
    /// of a directory, to run on the CPU.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] with every problem of all files, unreadable ones included.
    pub fn load(directory: &Path) -> Result<Self, ModelError> {
        Self::load_on(directory, &Device::Cpu)
    }

    /// As [`Model::load`], to run on a device.
    ///
    /// # Errors
    /// Also [`ModelError::Tensor`] when the device refuses.
    pub fn load_on(directory: &Path, device: &Device) -> Result<Self, ModelError> {
        Self::load_in(directory, device, Precision::F32)
    }

    /// As [`Model::load_on`], in a precision.
    ///
    /// # Errors
    /// Also [`ModelError::Invalid`] for a precision that the architecture or the device does not have.
    pub fn load_in(directory: &Path, device: &Device, precision: Precision) -> Result<Self, ModelError> {
        let mut problems = Vec::new();
        let there = |name: &str| Some(directory.join(name)).filter(|path| path.exists());
        let config = taken(loader::read_text(&directory.join(CONFIG_FILE)), &mut problems);
        let tokens = taken(loader::read_text(&directory.join(TOKENS_FILE)), &mut problems);
        let text_tokens = there(TEXT_TOKENS_FILE).map(|path| loader::read_text(&path));
        let text_tokens = text_tokens.and_then(|read| taken(read, &mut problems));
        let pronunciations = there(PRONUNCIATIONS_FILE).map(|path| loader::read_bytes(&path));
        let pronunciations = pronunciations.and_then(|read| taken(read, &mut problems));
        let weights = taken(loader::read_bytes(&directory.join(WEIGHTS_FILE)), &mut problems);
        let language_model = there(LANGUAGE_MODEL_FILE)
            .map(|path| LanguageModel::load(&path).map_err(|error| format!("{}: {error}", path.display())));
        let language_model = language_model.and_then(|read| taken(read, &mut problems));
        let (Some(config), Some(tokens), Some(weights), true) =
            (config, tokens, weights, problems.is_empty())
        else {
            return Err(ModelError::Invalid { problems });
        };
        let parts = Parts {
            config_json: &config,
            tokens_txt: &tokens,
            text_tokens_txt: text_tokens.as_deref(),
            pronunciations: pronunciations.as_deref(),
            safetensors: &weights,
        };
        let model = Self::from_parts_in(&parts, device, precision)?;
        Ok(match language_model {
            Some(language_model) => model.with_language_model(Arc::new(language_model)),
            None => model,
        })
    }

    /// Builds a model without a second listener from the contents of its three files.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] with every problem of all three.
    pub fn from_parts(
        config_json: &str,
        tokens_txt: &str,
        safetensors: &[u8],
        device: &Device,
    ) -> Result<Self, ModelError> {
        let parts = Parts {
            config_json,
            tokens_txt,
            text_tokens_txt: None,
            pronunciations: None,
            safetensors,
        };
        Self::from_parts_in(&parts, device, Precision::F32)
    }

    /// As [`Model::from_parts`], from all its files, in a precision.
    ///
    /// # Errors
    /// Also for a precision that the architecture or the device does not have.
    pub fn from_parts_in(
        parts: &Parts<'_>,
        device: &Device,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let Parts {
            config_json,
            tokens_txt,
            text_tokens_txt,
            pronunciations,
            safetensors,
        } = *parts;
        let mut problems = Vec::new();
        let config = collect(Config::from_json(config_json), &mut problems)?;
        let tokens = match Tokens::parse(tokens_txt) {
            Ok(tokens) => Some(tokens),
            Err(error) => {
                problems.push(error.to_string());
                None
            }
        };
        let Some(config) = config else {
            return Err(ModelError::Invalid { problems });
        };
        problems.extend(decoder_problem(&config, tokens.as_ref()));
        let vocabulary = vocabulary(&config, text_tokens_txt, &mut problems);
        let pronunciations = pronounced(&config, pronunciations, &mut problems);
        let num_features = architecture::served_num_features(&config);
        match &config.features {
            None => problems.push(format!(
                "{CONFIG_FILE}: features: missing, a served model needs them"
            )),
            Some(features) if num_features.is_some_and(|width| width != features.num_features()) => problems
                .push(format!(
                    "{CONFIG_FILE}: encoder.input_dim: expected {} (the size of a feature frame), found {}",
                    features.num_features(),
                    num_features.unwrap_or(0)
                )),
            Some(features) => {
                if let Err(error) = features.extractor(config.sample_rate) {
                    problems.push(format!("{CONFIG_FILE}: features: {error}"));
                }
            }
        }
        let cannot_stream = architecture::cannot_stream(&config.encoder);
        if architecture::geometry(&config.encoder).is_none() {
            problems.extend(
                cannot_stream
                    .iter()
                    .map(|reason| format!("{CONFIG_FILE}: architecture: {reason}")),
            );
        }
        // Without usable tokens the head's own size is taken, so that the rest of the file is still checked.
        let mut classes = classes(&config, safetensors);
        if let (Some(_), Some(tokens)) = (&config.ctc, &tokens) {
            classes.head = Some(tokens.len());
        }
        if let Some(vocabulary) = &vocabulary {
            classes.text = Some(vocabulary.len());
        }
        let weights = collect(
            Weights::from_safetensors(safetensors, &architecture::expected_with(&config, classes)),
            &mut problems,
        )?;
        match (weights, tokens, config.features.clone()) {
            (Some(weights), Some(tokens), Some(features)) if problems.is_empty() => Ok(Self {
                pronunciations: pronunciations.map(Arc::new),
                text_scorer: OnceLock::new(),
                encoder: match cannot_stream {
                    None => Executor::Steps(architecture::streaming_encoder_in(
                        &config, &weights, device, precision,
                    )?),
                    Some(reason) => {
                        Executor::Whole(WholeEncoder::new(&config, &weights, tokens.len(), reason)?)
                    }
                },
                transducer: match &config.encoder {
                    EncoderConfig::EmformerRnnt(sizes) => Some(Arc::new(Networks::new(sizes, &weights)?)),
                    _ => None,
                },
                second_listener: match (&config.second_listener, vocabulary, &features) {
                    (Some(sizes), Some(vocabulary), FeatureConfig::StreamingLogMel(mel)) => {
                        // Whole numbers: the final waits for it, and it need not be exact to the last bit.
                        let (hears, whole) = ((mel.num_mels, mel.lowest()), Precision::Int8);
                        let vocabulary = Arc::new(vocabulary);
                        Some(Arc::new(SecondListener::new(
                            sizes, hears, vocabulary, &weights, whole,
                        )?))
                    }
                    _ => None,
                },
                config,
                features,
                tokens: Arc::new(tokens),
                language_model: None,
            }),
            _ => Err(ModelError::Invalid { problems }),
        }
    }
}

/// The vocabulary of a second listener, where the model has one.
fn vocabulary(config: &Config, text: Option<&str>, problems: &mut Vec<String>) -> Option<TextVocabulary> {
    config.second_listener.as_ref()?;
    let Some(text) = text else {
        problems.push(format!(
            "{TEXT_TOKENS_FILE}: missing, a second listener needs its vocabulary"
        ));
        return None;
    };
    TextVocabulary::parse(text)
        .map_err(|error| problems.push(error.to_string()))
        .ok()
}

/// The pronunciations of a model that says phones.
fn pronounced(config: &Config, list: Option<&[u8]>, problems: &mut Vec<String>) -> Option<Pronunciations> {
    let phones = config.phones.as_ref()?;
    let Some(list) = list else {
        problems.push(format!(
            "{PRONUNCIATIONS_FILE}: missing, a model that says phones needs to know how words are pronounced"
        ));
        return None;
    };
    Pronunciations::from_bytes(list, &phones.names)
        .map_err(|error| problems.push(format!("{PRONUNCIATIONS_FILE}: {error}")))
        .ok()
}

/// What keeps the encoder's output from becoming the words of `tokens.txt`.
fn decoder_problem(config: &Config, tokens: Option<&Tokens>) -> Option<String> {
    let blank = tokens.map(|tokens| tokens.blank() as usize);
    match (&config.encoder, &config.ctc, blank) {
        (EncoderConfig::EmformerRnnt(_), Some(_), _) => Some(format!(
            "{CONFIG_FILE}: ctc: not for a transducer, whose joiner scores the classes"
        )),
        (EncoderConfig::EmformerRnnt(sizes), None, Some(blank)) => {
            let classes = tokens.map_or(0, Tokens::len);
            (classes != sizes.num_symbols || blank + 1 != classes).then(|| {
                format!(
                    "{TOKENS_FILE}: expected {} tokens, the last one <blank>, found {classes} and <blank> as number {}",
                    sizes.num_symbols,
                    blank + 1
                )
            })
        }
        (EncoderConfig::EmformerRnnt(_), None, None) => None,
        (_, None, _) => Some(format!(
            "{CONFIG_FILE}: ctc: missing, a served model needs a CTC head"
        )),
        (_, Some(CtcConfig { blank }), Some(expected)) if *blank != expected => Some(format!(
            "{CONFIG_FILE}: ctc.blank: expected {expected} (the line of <blank> in {TOKENS_FILE}), found {blank}"
        )),
        _ => None,
    }
}

/// What was read of a file; otherwise why not, among the problems.
fn taken<T, E: std::fmt::Display>(read: Result<T, E>, problems: &mut Vec<String>) -> Option<T> {
    read.map_err(|error| problems.push(error.to_string())).ok()
}

/// Keeps the problems of an invalid part and goes on; other errors end the loading.
fn collect<T>(part: Result<T, ModelError>, problems: &mut Vec<String>) -> Result<Option<T>, ModelError> {
    match part {
        Ok(part) => Ok(Some(part)),
        Err(ModelError::Invalid { problems: found }) => {
            problems.extend(found);
            Ok(None)
        }
        Err(other) => Err(other),
    }
}
