//! What the engine needs of a model: a seam, so that tests can step one that errs, panics, hangs or returns NaN.

use std::sync::Arc;

use waxwing_frontend::features::FeatureConfig;
use waxwing_model::encoder::{Geometry, StateCache, StepRow};
use waxwing_model::tokens::Tokens;
use waxwing_model::transcript::{Decoding, Hears, Transcriber, TranscriberOptions};

/// A failed step, in words for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StepFailed(pub String);

/// A model that the engine can step; shared by all workers.
pub trait StepModel: Send + Sync + 'static {
    /// Name on the wire.
    fn id(&self) -> &str;
    /// Sizes of a step; `output_dim` is the number of classes and what is said beside them.
    fn geometry(&self) -> &Geometry;
    /// Features that it was trained on.
    fn features(&self) -> FeatureConfig;
    /// Rate that they are made at.
    fn sample_rate_hz(&self) -> u32;
    /// Classes of its output.
    fn tokens(&self) -> &Arc<Tokens>;
    /// Duration of an output frame.
    fn output_frame_seconds(&self) -> f64;
    /// How words are searched for where nobody says how.
    fn default_decoding(&self) -> Decoding {
        Decoding::default()
    }
    /// Whether its beams hear a language model where nobody says otherwise.
    fn has_language_model(&self) -> bool {
        false
    }
    /// What whoever judges its second pass hears; `None` where nobody does.
    fn text_scorer_hears(&self) -> Option<Hears> {
        None
    }
    /// Makes the decoder of a new stream's output.
    fn transcriber(&self, options: TranscriberOptions) -> Transcriber {
        Transcriber::new(Arc::clone(self.tokens()), self.output_frame_seconds(), options)
    }
    /// The most bytes that such a decoder ever holds.
    fn max_transcriber_bytes(&self, decoding: &Decoding) -> usize {
        Transcriber::max_state_bytes(self.tokens(), self.output_frame_seconds(), decoding, 0)
    }
    /// Why it cannot be stepped live, or `None` when it can. Such a model hears whole utterances and nothing else.
    fn cannot_stream(&self) -> Option<&str> {
        None
    }
    /// Encodes a whole utterance, `(frames + look-ahead, features) f32`, into `(output frames, classes) f32` log-probs.
    ///
    /// # Errors
    /// [`StepFailed`]; also for a model that is stepped.
    fn encode_whole(&self, _features: &[f32]) -> Result<Vec<f32>, StepFailed> {
        Err(StepFailed("this model is stepped".into()))
    }
    /// A fresh state for one slot.
    fn new_state(&self) -> StateCache;
    /// Makes a used state as new.
    fn reset(&self, state: &mut StateCache);
    /// Advances every row by one segment and leaves `(output_frames, output_dim) f32` in each: log-probs, or what its
    /// transcriber takes instead.
    ///
    /// # Errors
    /// [`StepFailed`]; the rows' states are then unusable until reset.
    fn step(&self, rows: &mut [StepRow<'_>]) -> Result<(), StepFailed>;
}
