//! A transducer's search as the decoder of a live stream: which tokens are certain, which may still change.

use std::sync::Arc;

use super::config::RnntConfig;
use super::networks::Networks;
use super::search::{Emission, Hypothesis, Search};
use crate::ctc::BeamHypothesis;
use crate::hypothesis::EmittedToken;
use crate::tokens::Tokens;

/// What the best hypothesis says of a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Heard {
    /// A token with letters was emitted.
    Letter,
    /// Only tokens without letters were.
    Doubtful,
    /// None was; with the log-prob of that.
    Blank(f32),
}

/// Tokens after which an utterance is ended, so that a session's memory is bounded whatever the model says: more than a
/// minute of speech has.
const MOST_TOKENS: usize = 1_024;

/// The search of one stream, and where the next token may start.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stage {
    search: Search,
    /// Start of the last settled token.
    last_start: Option<u64>,
    /// Unsettled tokens of the best hypothesis, as last shown.
    shown: Vec<u32>,
    /// Tokens settled since the last decision.
    settled: usize,
}

impl Stage {
    pub(crate) fn new(networks: Arc<Networks>) -> Self {
        Self {
            search: Search::new(networks),
            last_start: None,
            shown: Vec::new(),
            settled: 0,
        }
    }

    /// Values of one encoder frame.
    pub(crate) fn frame_len(&self) -> usize {
        self.search.frame_len()
    }

    /// Reads the next encoder frame, the stream's `frame`-th; the tokens that this makes certain are appended to `settled`.
    /// Also says whether the best hypothesis has become another one.
    pub(crate) fn step(
        &mut self,
        table: &Tokens,
        values: &[f32],
        frame: u64,
        settled: &mut Vec<EmittedToken>,
    ) -> (Heard, bool) {
        self.search.accept(values);
        let best = self.search.hypotheses().first();
        let new = best.map_or(&[][..], Hypothesis::emissions).iter().rev();
        let mut new = new.take_while(|emission| emission.frame == frame).peekable();
        let heard = if new.peek().is_none() {
            Heard::Blank(best.map_or(0.0, Hypothesis::blank_log_prob))
        } else if new.any(|emission| !table.spelling(emission.token).is_empty()) {
            Heard::Letter
        } else {
            Heard::Doubtful
        };
        let tail = self.best_tail();
        let tokens = timed(
            table,
            &tail[..self.search.num_certain().min(tail.len())],
            self.last_start,
        );
        self.search.forget(tokens.len());
        self.settled += tokens.len();
        self.last_start = tokens.last().map(|token| token.start).or(self.last_start);
        settled.extend(tokens);
        let tokens = self.best_tail().iter().map(|emission| emission.token);
        let changed = !settled.is_empty() || !tokens.clone().eq(self.shown.iter().copied());
        if changed {
            self.shown = tokens.collect();
        }
        (heard, changed)
    }

    /// Decides for the best hypothesis: all its tokens are settled, and what comes is measured anew, as at a stream's start.
    pub(crate) fn settle_all(&mut self, table: &Tokens, settled: &mut Vec<EmittedToken>) {
        let tokens = timed(table, &self.search.decide(), self.last_start);
        self.last_start = tokens.last().map(|token| token.start).or(self.last_start);
        settled.extend(tokens);
        self.shown.clear();
        self.settled = 0;
    }

    /// Unsettled tokens of the best hypothesis, in order.
    pub(crate) fn tail(&self, table: &Tokens) -> Vec<EmittedToken> {
        timed(table, self.best_tail(), self.last_start)
    }

    /// The hypotheses, the best first, by their unsettled tokens.
    pub(crate) fn n_best(&self, table: &Tokens) -> Vec<BeamHypothesis> {
        let hypotheses = self.search.hypotheses().iter();
        hypotheses
            .map(|hypothesis| BeamHypothesis {
                tokens: timed(table, hypothesis.emissions(), self.last_start),
                score: f64::from(hypothesis.score()),
                scored: 0.0,
            })
            .collect()
    }

    /// The output frame behind all tokens: where an utterance can end.
    pub(crate) fn end(&self) -> u64 {
        self.last_start.map_or(0, |start| start + 1)
    }

    /// Whether the utterance must be ended, however the speech goes on.
    pub(crate) fn is_full(&self) -> bool {
        self.settled + self.best_tail().len() >= MOST_TOKENS
    }

    /// Tokens that an utterance can have, those of the frame that fills it included.
    pub(crate) fn most_tokens(config: &RnntConfig) -> usize {
        MOST_TOKENS + config.search.step_max_tokens
    }

    /// The most that [`heap_bytes`](Self::heap_bytes) can be.
    pub(crate) fn max_heap_bytes(config: &RnntConfig) -> usize {
        // The other hypotheses can be longer than the best by what they said since they parted from it.
        let tokens = 2 * Self::most_tokens(config);
        Search::max_heap_bytes(config, tokens) + 2 * tokens * size_of::<u32>()
    }

    /// Bytes on the heap, the networks not counted.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.search.heap_bytes() + self.shown.capacity() * size_of::<u32>()
    }

    fn best_tail(&self) -> &[Emission] {
        self.search
            .hypotheses()
            .first()
            .map_or(&[], Hypothesis::emissions)
    }
}

/// Emissions as tokens with times. One frame may emit several words; each is moved on to a frame of its own, so that words
/// never overlap and each lasts at least a frame.
fn timed(table: &Tokens, emissions: &[Emission], mut last_start: Option<u64>) -> Vec<EmittedToken> {
    let emissions = emissions.iter();
    emissions
        .map(|emission| {
            let earliest = match last_start {
                Some(last) if table.begins_word(emission.token) => last + 1,
                Some(last) => last,
                None => 0,
            };
            let start = emission.frame.max(earliest);
            last_start = Some(start);
            EmittedToken {
                id: emission.token,
                start,
                end: start + 1,
                log_posterior: emission.log_prob,
            }
        })
        .collect()
}
