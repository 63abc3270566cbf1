//! Shallow fusion: a language model's words and a session's hotwords in the beam.

use std::sync::Arc;

use super::hotwords::{HotwordState, Hotwords};
use super::scorer::Scorer;
use crate::language_model::{LanguageModel, LanguageModelState};

/// What a beam search is told beside the acoustics. Without language model, bonus and hotwords it says nothing and costs nothing.
#[derive(Debug, Clone, Default)]
pub struct Fusion {
    /// Scores words, as soon as they are complete.
    pub language_model: Option<Arc<LanguageModel>>,
    /// What its natural log-probabilities are multiplied by.
    pub language_model_weight: f32,
    /// Added for each word.
    pub word_bonus: f32,
    /// Added, before the weight, to the log-probability of a word that the language model does not know; words of hotwords are taken for known. See
    /// [`Decoding::unknown_word_log_prob`](super::Decoding::unknown_word_log_prob).
    pub unknown_word_log_prob: f32,
    /// Score letters.
    pub hotwords: Option<Arc<Hotwords>>,
}

/// What [`Fusion`] remembers of a prefix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FusionState {
    words: LanguageModelState,
    hotwords: Option<HotwordState>,
}

impl Fusion {
    fn hotwords(&self) -> Option<&Hotwords> {
        self.hotwords.as_deref().filter(|hotwords| !hotwords.is_empty())
    }
}

/// Shared parts are the same if they are the same object: nobody compares millions of n-grams.
impl PartialEq for Fusion {
    fn eq(&self, other: &Self) -> bool {
        fn same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
            match (one, other) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                (None, None) => true,
                _ => false,
            }
        }
        self.language_model_weight == other.language_model_weight
            && self.word_bonus == other.word_bonus
            && self.unknown_word_log_prob == other.unknown_word_log_prob
            && same(self.language_model.as_ref(), other.language_model.as_ref())
            && same(self.hotwords.as_ref(), other.hotwords.as_ref())
    }
}

impl Scorer for Fusion {
    type State = FusionState;

    fn start(&self) -> FusionState {
        FusionState {
            words: self
                .language_model
                .as_ref()
                .map(|model| model.begin())
                .unwrap_or_default(),
            hotwords: self.hotwords().map(Hotwords::start),
        }
    }

    fn token(&self, state: &FusionState, token: u32) -> (f32, FusionState) {
        match (self.hotwords(), state.hotwords) {
            (Some(hotwords), Some(at)) => {
                let (bonus, next) = hotwords.advance(at, token);
                (
                    bonus,
                    FusionState {
                        hotwords: Some(next),
                        ..*state
                    },
                )
            }
            _ => (0.0, *state),
        }
    }

    fn word(&self, state: &FusionState, word: &str) -> (f32, FusionState) {
        match &self.language_model {
            Some(model) => {
                let (log_prob, words) = model.score(state.words, model.word(word));
                let is_expected = || self.hotwords().is_some_and(|hotwords| hotwords.has_word(word));
                let spelling = if model.knows(word) || is_expected() {
                    0.0
                } else {
                    self.unknown_word_log_prob
                };
                (
                    self.language_model_weight * (log_prob + spelling) + self.word_bonus,
                    FusionState { words, ..*state },
                )
            }
            None => (self.word_bonus, *state),
        }
    }

    fn end(&self, state: &FusionState) -> f32 {
        let words = self.language_model.as_ref();
        let sentence = words.map_or(0.0, |model| self.language_model_weight * model.end(state.words));
        let hotwords = self
            .hotwords()
            .zip(state.hotwords)
            .map_or(0.0, |(hotwords, at)| hotwords.end(at));
        sentence + hotwords
    }

    fn best_token(&self) -> Option<f32> {
        self.hotwords().map(Hotwords::best_token)
    }

    fn best_word(&self) -> Option<f32> {
        // No log-probability is above 0, but a sum of rounded ones behind a back-off can be a little.
        let has_words = self.language_model.is_some() && self.language_model_weight != 0.0;
        // A beam asks for ends only where words have scores, and hotwords are taken back at ends.
        let says_something = has_words || self.word_bonus != 0.0 || self.hotwords().is_some();
        says_something.then_some(self.word_bonus + 0.01)
    }
}
