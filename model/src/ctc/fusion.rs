//! Shallow fusion: a language model's words and a session's hotwords in the beam.

use std::sync::Arc;

use super::hotwords::{HotwordState, Hotwords};
use super::scorer::Scorer;
use crate::language_model::spellings::{NOWHERE, WORD_BEGINS};
use crate::language_model::{LanguageModel, LanguageModelState};
use crate::tokens::Tokens;

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
    /// What the search spells with. With it `unknown_word_log_prob` is added as soon as no word begins as the open one does, without it when the word is
    /// complete; a prefix that pays late outlives better ones that paid in time, and glues words together.
    pub tokens: Option<Arc<Tokens>>,
    /// Score letters.
    pub hotwords: Option<Arc<Hotwords>>,
}

/// What [`Fusion`] remembers of a prefix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FusionState {
    words: LanguageModelState,
    /// What the open word spells, among the language model's words and among those of hotwords; nowhere in both is an unknown word that is paid for.
    spelled: (u32, u32),
    hotwords: Option<HotwordState>,
}

const NO_LETTER: (u32, u32) = (WORD_BEGINS, WORD_BEGINS);
const UNKNOWN: (u32, u32) = (NOWHERE, NOWHERE);

impl Fusion {
    fn hotwords(&self) -> Option<&Hotwords> {
        self.hotwords.as_deref().filter(|hotwords| !hotwords.is_empty())
    }

    /// What an unknown word costs.
    fn unknown(&self) -> f32 {
        self.language_model_weight * self.unknown_word_log_prob
    }

    /// Language model and tokens, if the open word has to be spelled along.
    fn speller(&self) -> Option<(&LanguageModel, &Tokens)> {
        let model = self.language_model.as_deref().filter(|_| self.unknown() != 0.0)?;
        Some((model, self.tokens.as_deref()?))
    }

    /// The open word's places behind `token`.
    fn spell(&self, model: &LanguageModel, tokens: &Tokens, spelled: (u32, u32), token: u32) -> (u32, u32) {
        let from = if tokens.begins_word(token) {
            NO_LETTER
        } else {
            spelled
        };
        let letters = tokens.spelling(token);
        let expected = |hotwords: &Hotwords| hotwords.spellings().follow(from.1, letters);
        (
            model.spellings().follow(from.0, letters),
            self.hotwords().map_or(NOWHERE, expected),
        )
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
            && same(self.tokens.as_ref(), other.tokens.as_ref())
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
            spelled: NO_LETTER,
            hotwords: self.hotwords().map(Hotwords::start),
        }
    }

    fn token(&self, state: &FusionState, token: u32) -> (f32, FusionState) {
        let (mut said, mut next) = (0.0, *state);
        if let (Some(hotwords), Some(at)) = (self.hotwords(), state.hotwords) {
            let (bonus, behind) = hotwords.advance(at, token);
            said += bonus;
            next.hotwords = Some(behind);
        }
        if let Some((model, tokens)) = self.speller() {
            next.spelled = self.spell(model, tokens, state.spelled, token);
            let was_paid = state.spelled == UNKNOWN && !tokens.begins_word(token);
            if next.spelled == UNKNOWN && !was_paid {
                said += self.unknown();
            }
        }
        (said, next)
    }

    fn word(&self, state: &FusionState, word: &str) -> (f32, FusionState) {
        match &self.language_model {
            Some(model) => {
                let (log_prob, words) = model.score(state.words, model.word(word));
                let is_expected = || self.hotwords().is_some_and(|hotwords| hotwords.has_word(word));
                let is_paid = state.spelled == UNKNOWN || model.knows(word) || is_expected();
                let spelling = if is_paid { 0.0 } else { self.unknown() };
                let next = FusionState {
                    words,
                    spelled: NO_LETTER,
                    ..*state
                };
                (
                    self.language_model_weight * log_prob + spelling + self.word_bonus,
                    next,
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
        let hotwords = self.hotwords().map(Hotwords::best_token);
        hotwords.or(self.speller().map(|_| 0.0))
    }

    fn best_word(&self) -> Option<f32> {
        // No log-probability is above 0, but a sum of rounded ones behind a back-off can be a little.
        let has_words = self.language_model.is_some() && self.language_model_weight != 0.0;
        // A beam asks for ends only where words have scores, and hotwords are taken back at ends.
        let says_something = has_words || self.word_bonus != 0.0 || self.hotwords().is_some();
        says_something.then_some(self.word_bonus + 0.01)
    }
}
