//! Checkpoints of the original programs become model directories.
//!
//! A checkpoint is read as data ([`checkpoint`]): what is in its pickle is never imported and never called. Each [`Kind`]
//! maps names and derives the sizes that the shapes tell; what they do not tell (heads, segment lengths…) is given by
//! [`Options::set`]. Every tensor's name, shape, type and values are then checked against the architecture, so that
//! what is written can be loaded.

pub mod checkpoint;
mod emformer;
mod fsmn;
mod funasr;
mod pickle;
mod plain;
mod rnnt;
pub mod sentencepiece;
mod skim;
mod speechbrain;
mod yaml;
mod zip;

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde_json::{Map, Value, json};

use crate::architecture;
use crate::config::Config;
use crate::error::ModelError;
use crate::loader::{self, WEIGHTS_FILE};
use crate::model::{CONFIG_FILE, TOKENS_FILE};
use crate::tokens::Tokens;

pub use checkpoint::Tensors;

/// One kind of checkpoint.
pub struct Kind {
    /// Name on the command line.
    pub name: &'static str,
    /// The original, in a line.
    pub about: &'static str,
    /// Fields of `encoder` that shapes do not tell, with an example: shown when one is missing.
    pub settings: &'static str,
    /// Whether tensors of these names look like this kind.
    pub recognises: fn(&Tensors) -> bool,
    /// Maps a checkpoint.
    pub convert: fn(Tensors, &Options) -> Result<Converted, ModelError>,
}

/// Every kind that can be converted.
pub const KINDS: &[Kind] = &[
    emformer::KIND,
    rnnt::KIND,
    fsmn::KIND,
    funasr::VAD,
    funasr::KEYWORDS,
    funasr::SENSE_VOICE,
    funasr::SANM,
    speechbrain::ENCODER,
    speechbrain::CELLS,
    speechbrain::DECODER,
    skim::SKIM,
    skim::CSR,
    plain::KIND,
];

/// What is said besides the checkpoint.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Fields of the configuration's `encoder`, over what the kind derives.
    pub set: Map<String, Value>,
    /// `id` of the model; the kind's name when left out.
    pub id: Option<String>,
    /// BCP 47 tag of its language.
    pub language: Option<String>,
    /// SPDX expression for the weights.
    pub license: Option<String>,
    /// `tokens.txt`, or a SentencePiece `.model`.
    pub tokens: Option<PathBuf>,
    /// Normalisation of the features: global stats in JSON, or Kaldi's `am.mvn`.
    pub normalisation: Option<PathBuf>,
    /// FunASR's `config.yaml`.
    pub original_config: Option<PathBuf>,
}

/// A model before it is written.
pub struct Converted {
    /// `architecture`, `encoder` and whatever else the kind decides of `config.json`; the rest is filled in.
    pub config: Map<String, Value>,
    /// Tensors under the architecture's names.
    pub tensors: Tensors,
    /// Contents of `tokens.txt`.
    pub tokens: Option<String>,
}

impl Converted {
    /// A model of an architecture whose `encoder` is what was derived, under what was set. Where there is a `head`, it is one of CTC
    /// with the blank first.
    pub fn new(
        architecture: &str,
        mut derived: Map<String, Value>,
        tensors: Tensors,
        options: &Options,
    ) -> Self {
        derived.extend(options.set.clone());
        let mut config = Map::new();
        config.insert("architecture".into(), json!(architecture));
        config.insert("encoder".into(), Value::Object(derived));
        if tensors.contains_key("head.weight") {
            config.insert("ctc".into(), json!({"blank": 0}));
        }
        Self {
            config,
            tensors,
            tokens: None,
        }
    }
}

/// Converts a file and writes the model directory: `config.json`, `model.safetensors`, `README.md`, and `tokens.txt` where
/// there are tokens.
///
/// # Errors
/// [`ModelError::Read`] and [`ModelError::Write`] for files, [`ModelError::Checkpoint`] with every problem of the checkpoint
/// and the settings, naming what was expected and found.
pub fn convert_file(
    kind: &Kind,
    checkpoint: &Path,
    options: &Options,
    directory: &Path,
) -> Result<Config, ModelError> {
    let occupied = [CONFIG_FILE, WEIGHTS_FILE, TOKENS_FILE]
        .iter()
        .map(|name| directory.join(name))
        .find(|path| path.exists());
    if let Some(path) = occupied {
        let source = std::io::Error::new(
            std::io::ErrorKind::AlreadyExists,
            "it exists; choose a new directory, so that no model is half replaced",
        );
        return Err(ModelError::Write { path, source });
    }
    let model = convert(kind, checkpoint, options)?;
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        fs::write(&path, bytes).map_err(|source| ModelError::Write { path, source })
    };
    fs::create_dir_all(directory).map_err(|source| ModelError::Write {
        path: directory.to_owned(),
        source,
    })?;
    write(WEIGHTS_FILE, &model.weights)?;
    if let Some(tokens) = &model.tokens {
        write(TOKENS_FILE, tokens.as_bytes())?;
    }
    write("README.md", card(kind, checkpoint, &model.config).as_bytes())?;
    // Last, since a directory without it is no model.
    let text = serde_json::to_string_pretty(&model.config).map_err(|error| ModelError::Invalid {
        problems: vec![format!("{CONFIG_FILE}: {error}")],
    })?;
    write(CONFIG_FILE, text.as_bytes())?;
    Ok(model.config)
}

struct Written {
    config: Config,
    weights: Vec<u8>,
    tokens: Option<String>,
}

fn convert(kind: &Kind, path: &Path, options: &Options) -> Result<Written, ModelError> {
    let tensors = checkpoint::read(path)?;
    let other = KINDS
        .iter()
        .find(|other| ![kind.name, plain::KIND.name].contains(&other.name) && (other.recognises)(&tensors));
    let unlike = (!(kind.recognises)(&tensors)).then(|| unlike(kind, other, &tensors));
    let explained = |error: ModelError| match error {
        ModelError::Invalid { mut problems } => {
            problems.splice(0..0, unlike.clone());
            ModelError::Checkpoint {
                file: path.to_owned(),
                problems,
            }
        }
        other => other,
    };
    if unlike.is_some() && other.is_some() {
        return Err(explained(ModelError::Invalid { problems: Vec::new() }));
    }
    (kind.convert)(tensors, options)
        .and_then(|converted| finish(kind, converted, options))
        .map_err(explained)
}

fn unlike(kind: &Kind, other: Option<&Kind>, tensors: &Tensors) -> String {
    let names: Vec<&str> = tensors.keys().map(String::as_str).take(6).collect();
    let found = match other {
        Some(other) => format!("this looks like `{}` ({})", other.name, other.about),
        None => format!("found tensors such as {}", names.join(", ")),
    };
    format!(
        "expected a checkpoint of `{}` ({}), {found}",
        kind.name, kind.about
    )
}

fn finish(kind: &Kind, converted: Converted, options: &Options) -> Result<Written, ModelError> {
    let mut fields = converted.config;
    fields.insert("format".into(), json!(crate::config::FORMAT));
    fields.insert("id".into(), json!(options.id.as_deref().unwrap_or(kind.name)));
    for (name, value) in [("language", &options.language), ("license", &options.license)] {
        if let Some(value) = value {
            fields.insert(name.into(), json!(value));
        }
    }
    let mut tokens = converted.tokens;
    if let (None, Some(path)) = (&tokens, &options.tokens) {
        tokens = Some(loader::read_text(path)?);
    }
    if let Some(text) = &tokens {
        Tokens::parse(text).map_err(|error| invalid(error.to_string()))?;
    }
    let config: Config = serde_json::from_value(Value::Object(fields)).map_err(|error| {
        invalid(format!(
            "{error}; sizes that the tensors' shapes do not tell are given by --set, here: {}",
            kind.settings
        ))
    })?;
    config.check()?;
    if let Some(features) = &config.features {
        features
            .extractor(config.sample_rate)
            .map_err(|error| invalid(format!("features: {error}")))?;
    }
    // A model of mixed types would be loaded as its widest; whole numbers are no weights.
    let weights = safetensors::serialize(&converted.tensors, None)
        .map_err(|error| invalid(format!("the tensors cannot be written: {error}")))?;
    let classes = crate::module::classes(&config, &weights);
    loader::Weights::check(
        "checkpoint",
        &weights,
        &architecture::expected_with(&config, classes),
    )?;
    Ok(Written {
        config,
        weights,
        tokens,
    })
}

fn card(kind: &Kind, checkpoint: &Path, config: &Config) -> String {
    let file = checkpoint
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let license = config
        .license
        .as_deref()
        .unwrap_or("not stated: it is that of the checkpoint");
    format!(
        "# {}\n\nConverted by `waxwing convert {}` from `{file}`: {}.\n\nLicence of the weights: {license}\n",
        config.id, kind.name, kind.about
    )
}

fn invalid(problem: String) -> ModelError {
    ModelError::Invalid {
        problems: vec![problem],
    }
}

/// A dimension of a tensor that must be there.
fn dimension(tensors: &Tensors, name: &str, dimension: usize) -> Result<usize, ModelError> {
    let found = tensors.get(name).map(Tensor::dims);
    found
        .and_then(|dims| dims.get(dimension).copied())
        .ok_or_else(|| ModelError::Invalid {
            problems: vec![match found {
                None => format!("{name}: missing"),
                Some(dims) => format!(
                    "{name}: expected at least {} dimensions, found shape {dims:?}",
                    dimension + 1
                ),
            }],
        })
}

/// How many of `prefix.0.`, `prefix.1.`, … there are.
fn count_layers(tensors: &Tensors, prefix: &str) -> usize {
    (0..)
        .take_while(|index| {
            let prefix = format!("{prefix}.{index}.");
            tensors.keys().any(|name| name.starts_with(&prefix))
        })
        .count()
}

/// The tensors with one leading prefix taken off where all of them have it, as wrappers of models add it.
fn without_prefix(tensors: Tensors, prefix: &str) -> Tensors {
    if tensors.keys().all(|name| name.starts_with(prefix)) {
        tensors
            .into_iter()
            .map(|(name, tensor)| (name[prefix.len()..].to_owned(), tensor))
            .collect()
    } else {
        tensors
    }
}
