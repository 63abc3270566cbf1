//! A model directory, loaded and ready to serve: configuration, tokens and an encoder with a CTC head, which is stepped live or, where it
//! cannot stream, given whole utterances.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use waxwing_frontend::features::FeatureConfig;

use crate::architecture;
use crate::config::{Config, CtcConfig, EncoderConfig};
use crate::device::Device;
use crate::encoder::{Geometry, StateCache, StepRow, StreamingEncoder};
use crate::error::ModelError;
use crate::language_model::LanguageModel;
use crate::loader::{self, WEIGHTS_FILE, Weights};
use crate::module::classes;
use crate::phones::{PhoneJudge, Pronunciations};
use crate::precision::Precision;
use crate::second_listener::{SecondListener, WithPhones};
use crate::text_decoder::TextVocabulary;
use crate::tokens::Tokens;
use crate::transcript::{Decoding, TextScorer, Transcriber, TranscriberOptions};
use crate::transducer::Networks;
use crate::whole::WholeEncoder;

/// Name of the configuration in a model directory.
pub const CONFIG_FILE: &str = "config.json";
/// Name of the classes' spellings in a model directory.
pub const TOKENS_FILE: &str = "tokens.txt";
/// Name of a second listener's vocabulary in a model directory.
pub const TEXT_TOKENS_FILE: &str = "text_tokens.txt";
/// Name of the list of pronunciations in the directory of a model with a phone head, in a form that [`Pronunciations::from_bytes`] reads.
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

/// How long a sample may wait inside the model, by design and not by load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// Audio that one step advances by.
    pub segment: Duration,
    /// Audio past the end of a segment that its step waits for: right context and stem.
    pub right_context: Duration,
}

/// A servable model. Holds no session: share it by `Arc`, step it from any thread.
pub struct Model {
    config: Config,
    features: FeatureConfig,
    tokens: Arc<Tokens>,
    encoder: Executor,
    transducer: Option<Arc<Networks>>,
    second_listener: Option<Arc<SecondListener>>,
    pronunciations: Option<Arc<Pronunciations>>,
    /// Who judges the second pass.
    text_scorer: Option<Arc<dyn TextScorer>>,
    language_model: Option<Arc<LanguageModel>>,
}

/// How a model's encoder runs.
enum Executor {
    /// Step by step, many sessions at once.
    Steps(Box<dyn StreamingEncoder>),
    /// An utterance at a time.
    Whole(WholeEncoder),
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
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
                text_scorer: None,
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
            }
            .judged()),
            _ => Err(ModelError::Invalid { problems }),
        }
    }

    /// The same model with a language model of its own, which its sessions hear where they name no other.
    #[must_use]
    pub fn with_language_model(mut self, language_model: Arc<LanguageModel>) -> Self {
        self.language_model = Some(language_model);
        self.judged()
    }

    /// The same model with whoever judges its second pass, as it is now.
    fn judged(mut self) -> Self {
        let phones = match (&self.pronunciations, &self.config.phones) {
            (Some(list), Some(phones)) => {
                let (list, language_model) = (Arc::clone(list), self.language_model.clone());
                let decoding = self.searched(Decoding::default());
                Some(PhoneJudge::new(phones.classes(), list, language_model, &decoding))
            }
            _ => None,
        };
        self.text_scorer = match (self.second_listener.clone(), phones) {
            (Some(listener), Some(phones)) => Some(Arc::new(WithPhones::new(listener, phones))),
            (Some(listener), None) => Some(listener),
            (None, Some(phones)) => Some(Arc::new(phones)),
            (None, None) => None,
        };
        self
    }

    /// Who judges what the second pass finds, if anybody does: a second listener, or the phones.
    pub fn text_scorer(&self) -> Option<&Arc<dyn TextScorer>> {
        self.text_scorer.as_ref()
    }

    /// The language model beside it, if there is one.
    pub fn language_model(&self) -> Option<&Arc<LanguageModel>> {
        self.language_model.as_ref()
    }

    /// The network that hears each utterance again at its end, if there is one.
    pub fn second_listener(&self) -> Option<&Arc<SecondListener>> {
        self.second_listener.as_ref()
    }

    /// How words are searched for where nobody says how: by a beam where the model has a language model, which only a beam hears, or somebody
    /// who judges a second pass; by the best path otherwise. Its own `search` goes before.
    pub fn default_decoding(&self) -> Decoding {
        let decoding = if self.transducer.is_some() {
            Decoding::default()
        } else if self.text_scorer.is_some() {
            Decoding::with_second_listener()
        } else if self.language_model.is_some() {
            Decoding::with_language_model()
        } else {
            Decoding::default()
        };
        self.searched(decoding)
    }

    /// Settings with what suits the model.
    fn searched(&self, decoding: Decoding) -> Decoding {
        match self.config.search {
            Some(search) => search.over(decoding),
            None => decoding,
        }
    }

    /// The name it is asked for by.
    pub fn id(&self) -> &str {
        &self.config.id
    }

    /// Its `config.json`.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How audio becomes its features.
    pub fn features(&self) -> &FeatureConfig {
        &self.features
    }

    /// Rate of the audio that its features are made from.
    pub fn sample_rate_hz(&self) -> u32 {
        self.config.sample_rate
    }

    /// What its classes spell.
    pub fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    /// Predictor and joiner of a transducer, whose steps give encoder frames; `None` for a model whose steps give log-probs.
    pub fn transducer(&self) -> Option<&Arc<Networks>> {
        self.transducer.as_ref()
    }

    /// What a step consumes and produces, or an utterance where the model cannot stream; `output_dim` is the number of classes and what
    /// is said beside them, or the width of an encoder frame of a transducer.
    pub fn geometry(&self) -> &Geometry {
        match &self.encoder {
            Executor::Steps(encoder) => encoder.geometry(),
            Executor::Whole(encoder) => encoder.geometry(),
        }
    }

    /// Why the model cannot be stepped live, or `None` when it can.
    pub fn cannot_stream(&self) -> Option<&str> {
        match &self.encoder {
            Executor::Steps(_) => None,
            Executor::Whole(encoder) => Some(encoder.reason()),
        }
    }

    /// Encodes one whole utterance of a model that cannot stream: `(frames + look-ahead, features) f32` row by row into `(output frames,
    /// classes) f32` log-probs, for its [`transcriber`](Self::transcriber). Takes long and allocates much: attention grows with the
    /// square of the frames.
    ///
    /// # Errors
    /// [`ModelError::Input`] for features that do not fit, or a model that is stepped.
    pub fn encode_whole(&self, features: &[f32]) -> Result<Vec<f32>, ModelError> {
        match &self.encoder {
            Executor::Steps(_) => Err(ModelError::input(
                "model",
                "one that cannot stream",
                "one whose encoder is stepped",
            )),
            Executor::Whole(encoder) => encoder.log_probs(features),
        }
    }

    /// Delays that the model itself causes.
    pub fn latency(&self) -> Latency {
        let geometry = self.geometry();
        let duration = |frames: usize| Duration::from_secs_f64(frames as f64 * self.feature_frame_seconds());
        let in_features = self.features.lookahead_samples() as f64 / f64::from(self.config.sample_rate);
        Latency {
            segment: duration(geometry.segment_frames),
            right_context: duration(geometry.lookahead_frames) + Duration::from_secs_f64(in_features),
        }
    }

    /// Seconds from one feature frame to the next.
    pub fn feature_frame_seconds(&self) -> f64 {
        self.features.frame_shift_samples(self.config.sample_rate) as f64 / f64::from(self.config.sample_rate)
    }

    /// Seconds from one output frame to the next.
    pub fn output_frame_seconds(&self) -> f64 {
        self.feature_frame_seconds() * self.geometry().subsampling as f64
    }

    /// Multiply-adds in the matrix products of one session's step, its left context full; 0 where there are no steps.
    pub fn products_per_step(&self) -> u64 {
        match &self.encoder {
            Executor::Steps(encoder) => encoder.products_per_step(),
            Executor::Whole(_) => 0,
        }
    }

    /// Makes the decoder of a new session's output frames.
    pub fn transcriber(&self, options: TranscriberOptions) -> Transcriber {
        let (tokens, frame_seconds) = (Arc::clone(&self.tokens), self.output_frame_seconds());
        match &self.transducer {
            Some(networks) => {
                Transcriber::for_transducer(tokens, Arc::clone(networks), frame_seconds, options)
            }
            None => Transcriber::with_own_language_model(
                tokens,
                frame_seconds,
                options,
                self.language_model.clone(),
            )
            .with_text_scorer(self.text_scorer.clone()),
        }
    }

    /// The most bytes that such a decoder ever holds.
    pub fn max_transcriber_bytes(&self, decoding: &Decoding) -> usize {
        match &self.transducer {
            Some(networks) => Transcriber::max_transducer_state_bytes(&self.tokens, networks, decoding),
            None => {
                let scorer = self.text_scorer.as_ref();
                let dim = scorer.map_or(0, |scorer| scorer.hears().frame_len());
                Transcriber::max_state_bytes(&self.tokens, self.output_frame_seconds(), decoding, dim)
            }
        }
    }

    /// Allocates the state of a new session; an empty one where there are no steps.
    pub fn new_state(&self) -> StateCache {
        match &self.encoder {
            Executor::Steps(encoder) => encoder.new_state(),
            Executor::Whole(_) => StateCache::new(0),
        }
    }

    /// Makes a state as good as new, whatever it holds.
    pub fn reset(&self, state: &mut StateCache) {
        match &self.encoder {
            Executor::Steps(encoder) => encoder.reset(state),
            Executor::Whole(_) => state.steps = 0,
        }
    }

    /// Advances every row by one segment; each row's output becomes `(output_frames, output_dim) f32` log-probs.
    ///
    /// # Errors
    /// As [`StreamingEncoder::step`], and [`ModelError::CannotStream`].
    pub fn step(&self, rows: &mut [StepRow<'_>]) -> Result<(), ModelError> {
        match &self.encoder {
            Executor::Steps(encoder) => encoder.step(rows),
            Executor::Whole(encoder) => Err(ModelError::CannotStream {
                reason: encoder.reason().into(),
            }),
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
