//! A second way from sound to words: phones and a dictionary of how words are pronounced.
//!
//! A small network has to learn English spelling from what it hears if it writes word pieces; phones it learns from a few hours. So a model may have a second CTC head behind its encoder, which says phones, and a list
//! of [`Pronunciations`]. When an utterance has ended, a [`PhoneJudge`] searches the words that the phones may be, judges these and the texts that the second pass of the first head found,
//! and so both heads and the language model decide together, by a weighted sum of log-probabilities.
//!
//! An output frame of such a model is `(classes + phones) f32`: the log-probs of the word pieces, and behind them those of the phones.

mod lexicon;
mod pronunciations;
mod score;
mod search;
#[cfg(test)]
mod tests;
mod words;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ctc::Decoding;
use crate::language_model::LanguageModel;
use crate::loader::Expected;
use crate::pauses::pause;
use crate::transcript::{Hears, Judgement, TextScorer};

pub use pronunciations::{Pronunciations, PronunciationsError};

use lexicon::Lexicon;
use score::Sounds;
use search::{Search, WIDTH};
use words::Words;

/// Texts of its own that are looked for.
const OWN_TEXTS: usize = 16;

/// A text of its own that is so much less probable than the best one, a natural log, is not worth being aligned to the classes.
const HOPELESS: f64 = 10.0;

/// The phones that a model tells apart beside its word pieces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhonesConfig {
    /// Their names, in the order of the head's classes behind the blank, which is class 0.
    pub names: Vec<String>,
}

impl PhonesConfig {
    /// Classes of the head: the phones and the blank.
    pub fn classes(&self) -> usize {
        self.names.len() + 1
    }

    /// Reports everything that contradicts itself.
    pub fn problems(&self, require: &mut dyn FnMut(bool, String)) {
        let count = self.names.len();
        require(
            (1..256).contains(&count),
            format!("phones.names: expected 1 to 255 names, found {count}"),
        );
        for (index, name) in self.names.iter().enumerate() {
            let is_usable = !name.is_empty() && !name.contains(char::is_whitespace);
            let is_new = !self.names.iter().take(index).any(|other| other == name);
            require(
                is_usable && is_new,
                format!("phones.names: expected different names without blanks, found {name:?}"),
            );
        }
    }
}

/// Tensors of a phone head over encoder frames of `dim` values: `phones.weight (classes, dim)`, `phones.bias (classes)`.
pub fn expected_tensors(config: &PhonesConfig, dim: usize) -> [Expected; 2] {
    [
        ("phones.weight".into(), vec![config.classes(), dim]),
        ("phones.bias".into(), vec![config.classes()]),
    ]
}

/// Judges texts by their phones and what the language model says of their words, and finds others. Immutable; shared by all sessions.
pub struct PhoneJudge {
    classes: usize,
    list: Arc<Pronunciations>,
    lexicon: Lexicon,
    words: Words,
}

impl PhoneJudge {
    /// For frames of so many classes. Its words are weighed as `decoding` says, by the model's own language model: what a session names instead of it, and its weights, count in the second pass only.
    pub fn new(
        classes: usize,
        list: Arc<Pronunciations>,
        language_model: Option<Arc<LanguageModel>>,
        decoding: &Decoding,
    ) -> Self {
        let words = Words::new(&list, language_model, decoding);
        Self {
            classes,
            lexicon: Lexicon::new(&list, |word| words.alone(word).exp()),
            list,
            words,
        }
    }

    /// The texts that `(frames, classes)` probabilities may be, each with its natural log-probability by its phones and its words, the best first; without those that are hopeless beside it. Allocates.
    pub(crate) fn found(&self, probabilities: &[f32]) -> Vec<(String, f64)> {
        let judged = |text: String| {
            let log_prob = self.log_prob(probabilities, &text)?;
            Some((text, log_prob))
        };
        let texts = self.search(probabilities, WIDTH).into_iter();
        let mut found: Vec<(String, f64)> = texts.filter_map(judged).collect();
        found.sort_by(|a, b| b.1.total_cmp(&a.1));
        let best = found.first().map_or(0.0, |&(_, log_prob)| log_prob);
        found.retain(|&(_, log_prob)| log_prob > best - HOPELESS);
        found
    }

    /// The texts that a search of some width finds, the best by its own count first.
    fn search(&self, probabilities: &[f32], width: usize) -> Vec<String> {
        let search = Search::new(&self.lexicon, &self.words, width);
        let texts = search.n_best(probabilities, self.classes, OWN_TEXTS);
        let spelled = |text: Vec<u32>| {
            let words: Vec<&str> = text.iter().map(|&word| self.list.word(word)).collect();
            words.join(" ")
        };
        texts.into_iter().map(spelled).collect()
    }

    /// The natural log-probability of a text by its phones, and what its words say of each other; `None` where the frames have no room for it.
    fn log_prob(&self, probabilities: &[f32], text: &str) -> Option<f64> {
        Some(self.sounds(probabilities, text)? + self.words(text))
    }

    /// The natural log-probability of a text by its phones in `(frames, classes)` probabilities, all its pronunciations together; `None` where the frames have no room for it.
    pub(crate) fn sounds(&self, probabilities: &[f32], text: &str) -> Option<f64> {
        pause();
        let sounds = words_of(text).map(|word| match self.list.find(word) {
            Some(known) => Sounds::Known(self.list.of(known).collect()),
            None => Sounds::Unknown,
        });
        score::log_prob(probabilities, self.classes, &sounds.collect::<Vec<_>>())
    }

    /// What the words of a text say of each other, a natural log.
    fn words(&self, text: &str) -> f64 {
        let (mut said, mut state) = (0.0, self.words.begin());
        for word in words_of(text) {
            let (more, behind) = match self.list.find(word) {
                Some(known) => self.words.word(&state, known),
                None => self.words.unlisted(&state, word),
            };
            said += more;
            state = behind;
        }
        said + self.words.end(state)
    }
}

fn words_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(' ').filter(|word| !word.is_empty())
}

impl TextScorer for PhoneJudge {
    fn hears(&self) -> Hears {
        Hears::BesideClasses(self.classes)
    }

    fn judge(&self, frames: &[f32], texts: &[String]) -> Judgement {
        let probabilities: Vec<f32> = frames.iter().map(|log_prob| log_prob.exp()).collect();
        let log_probs: Vec<Option<f64>> = texts
            .iter()
            .map(|text| self.log_prob(&probabilities, text))
            .collect();
        let best = log_probs
            .iter()
            .flatten()
            .copied()
            .fold(f64::NEG_INFINITY, f64::max);
        let mut found = self.found(&probabilities);
        found.retain(|(text, log_prob)| !texts.contains(text) && *log_prob > best - HOPELESS);
        Judgement { log_probs, found }
    }
}
