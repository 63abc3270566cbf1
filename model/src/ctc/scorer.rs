//! What a beam search asks of anything that knows more than the acoustics: language models, word bonuses, hotwords.
//!
//! A [`Scorer`] sees a prefix grow. It keeps what it has to know of a prefix in a small state that is copied
//! when the prefix branches, and it answers with natural logarithms that are added to the prefix's score. It is asked
//! at two moments: for every token ([`token`](Scorer::token), where hotwords live) and for every word as soon as its last
//! token is known to be the last ([`word`](Scorer::word), where language models live: part of a word has no
//! probability of its own). The search is compiled for each scorer, so a scorer that has nothing to say costs nothing.

use std::fmt::Debug;

/// Adds to the scores of prefixes. The same state and the same input must always give the same answer.
pub trait Scorer {
    /// What is remembered of a prefix.
    type State: Copy + Debug + PartialEq;

    /// The state of a prefix without tokens, where an utterance begins.
    fn start(&self) -> Self::State;

    /// `token` is appended: what that adds, and the state behind it. Where the token begins a new word, the one before
    /// it was reported by [`word`](Self::word) just before.
    fn token(&self, state: &Self::State, token: u32) -> (f32, Self::State);

    /// The open word is complete and spelled `word`, which is never empty: what that adds, and the state behind it.
    fn word(&self, state: &Self::State, word: &str) -> (f32, Self::State);

    /// The utterance ends in `state`, its last word reported: what that adds.
    fn end(&self, state: &Self::State) -> f32;

    /// The most that [`token`](Self::token) ever adds, so that prefixes without hope need not be asked about; `None` if it is
    /// never to be called because tokens have no scores.
    fn best_token(&self) -> Option<f32>;

    /// The most that [`word`](Self::word) ever adds; `None` if it is never to be called because words have no scores.
    fn best_word(&self) -> Option<f32>;
}

/// Acoustics alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NoScorer;

impl Scorer for NoScorer {
    type State = ();

    fn start(&self) {}

    fn token(&self, (): &(), _token: u32) -> (f32, ()) {
        (0.0, ())
    }

    fn word(&self, (): &(), _word: &str) -> (f32, ()) {
        (0.0, ())
    }

    fn end(&self, (): &()) -> f32 {
        0.0
    }

    fn best_token(&self) -> Option<f32> {
        None
    }

    fn best_word(&self) -> Option<f32> {
        None
    }
}
