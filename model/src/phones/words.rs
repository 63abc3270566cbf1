//! What words say of each other: a language model over the words of a list of pronunciations, with a weight and a bonus for each word.

use std::sync::Arc;

use super::pronunciations::Pronunciations;
use crate::ctc::Decoding;
use crate::language_model::{LanguageModel, LanguageModelState, WordId};

/// Scores sequences of words by their numbers in a list.
pub(super) struct Words {
    language_model: Option<Arc<LanguageModel>>,
    /// Of each word of the list its number in the language model, and whether that knows it.
    ids: Vec<(WordId, bool)>,
    weight: f32,
    bonus: f32,
    unknown: f32,
}

/// The words before.
pub(super) type WordsState = LanguageModelState;

impl Words {
    /// Weights are those of `decoding`.
    pub(super) fn new(
        list: &Pronunciations,
        language_model: Option<Arc<LanguageModel>>,
        decoding: &Decoding,
    ) -> Self {
        let ids = match &language_model {
            Some(model) => (0..list.num_words() as u32)
                .map(|word| (model.word(list.word(word)), model.knows(list.word(word))))
                .collect(),
            None => Vec::new(),
        };
        Self {
            language_model,
            ids,
            weight: decoding.language_model_weight,
            bonus: decoding.word_bonus,
            unknown: decoding.unknown_word_log_prob,
        }
    }

    /// Nothing has been said.
    pub(super) fn begin(&self) -> WordsState {
        self.language_model
            .as_ref()
            .map(|model| model.begin())
            .unwrap_or_default()
    }

    /// What a word adds behind others, a natural log, and the state behind it.
    pub(super) fn word(&self, state: &WordsState, word: u32) -> (f64, WordsState) {
        match (&self.language_model, self.ids.get(word as usize)) {
            (Some(model), Some(&(id, is_known))) => self.scored(model, state, id, is_known),
            _ => (0.0, *state),
        }
    }

    /// As [`word`](Self::word), of one that is not in the list. If the language model does not know it either, it has been paid for in the second pass, or is a hotword.
    pub(super) fn unlisted(&self, state: &WordsState, word: &str) -> (f64, WordsState) {
        match &self.language_model {
            Some(model) => self.scored(model, state, model.word(word), true),
            None => (0.0, *state),
        }
    }

    /// The most that a word ever adds. A sum of rounded logarithms behind a back-off can be a little above 0.
    pub(super) fn best(&self) -> f64 {
        self.language_model
            .as_ref()
            .map_or(0.0, |_| f64::from(self.bonus) + 0.01)
    }

    /// What a word adds if nothing is known of those before.
    pub(super) fn alone(&self, word: u32) -> f32 {
        match &self.language_model {
            Some(model) => self.word(&model.nothing_before(), word).0 as f32,
            None => 0.0,
        }
    }

    /// What the end adds.
    pub(super) fn end(&self, state: WordsState) -> f64 {
        self.language_model
            .as_ref()
            .map_or(0.0, |model| f64::from(self.weight * model.end(state)))
    }

    fn scored(
        &self,
        model: &LanguageModel,
        state: &WordsState,
        id: WordId,
        is_known: bool,
    ) -> (f64, WordsState) {
        let (log_prob, state) = model.score(*state, id);
        let unknown = if is_known { 0.0 } else { self.unknown };
        (f64::from(self.weight * (log_prob + unknown) + self.bonus), state)
    }
}
