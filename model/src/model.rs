//! A model directory, loaded and ready to serve: configuration, tokens and an encoder with a CTC head, which is stepped live or, where it
//! cannot stream, given whole utterances.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use waxwing_frontend::features::FeatureConfig;

use crate::config::Config;
use crate::encoder::{Geometry, StateCache, StepRow, StreamingEncoder};
use crate::error::ModelError;
use crate::language_model::LanguageModel;
use crate::phones::{PhoneJudge, Pronunciations};
use crate::second_listener::{SecondListener, WithPhones};
use crate::tokens::Tokens;
use crate::transcript::{Decoding, TextScorer, Transcriber, TranscriberOptions};
use crate::transducer::Networks;
use crate::whole::WholeEncoder;

mod loading;

pub use loading::{
    CONFIG_FILE, LANGUAGE_MODEL_FILE, PRONUNCIATIONS_FILE, Parts, TEXT_TOKENS_FILE, TOKENS_FILE,
};

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
    /// Who judges the second pass; made when it is first asked for, since a language model may come later and its words take a while.
    text_scorer: OnceLock<Option<Arc<dyn TextScorer>>>,
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
    /// The same model with a language model of its own, which its sessions hear where they name no other.
    #[must_use]
    pub fn with_language_model(mut self, language_model: Arc<LanguageModel>) -> Self {
        self.language_model = Some(language_model);
        self.text_scorer = OnceLock::new();
        self
    }

    fn new_text_scorer(&self) -> Option<Arc<dyn TextScorer>> {
        let phones = match (&self.pronunciations, &self.config.phones) {
            (Some(list), Some(phones)) => {
                let (list, language_model) = (Arc::clone(list), self.language_model.clone());
                let decoding = self.searched(Decoding::default());
                Some(PhoneJudge::new(phones.classes(), list, language_model, &decoding))
            }
            _ => None,
        };
        match (self.second_listener.clone(), phones) {
            (Some(listener), Some(phones)) => Some(Arc::new(WithPhones::new(listener, phones))),
            (Some(listener), None) => Some(listener),
            (None, Some(phones)) => Some(Arc::new(phones)),
            (None, None) => None,
        }
    }

    /// Who judges what the second pass finds, if anybody does: a second listener, or the phones.
    pub fn text_scorer(&self) -> Option<&Arc<dyn TextScorer>> {
        self.text_scorer.get_or_init(|| self.new_text_scorer()).as_ref()
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
        } else if self.text_scorer().is_some() {
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
            .with_text_scorer(self.text_scorer().cloned()),
        }
    }

    /// The most bytes that such a decoder ever holds.
    pub fn max_transcriber_bytes(&self, decoding: &Decoding) -> usize {
        match &self.transducer {
            Some(networks) => Transcriber::max_transducer_state_bytes(&self.tokens, networks, decoding),
            None => {
                let scorer = self.text_scorer();
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
