//! A transducer's search as the decoder of a live stream: which tokens are certain, which may still change.

use std::sync::Arc;

use super::config::RnntConfig;
use super::networks::Networks;
use super::search::{Emission, Hypothesis, Search};
use crate::ctc::{BeamHypothesis, Decoding};
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

/// The search of one stream.
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
    pub(crate) fn new(networks: Arc<Networks>, decoding: &Decoding) -> Self {
        let mut stage = Self {
            search: Search::new(networks),
            last_start: None,
            shown: Vec::new(),
            settled: 0,
        };
        stage.configure(decoding);
        stage
    }

    /// Takes the width of the beam from the next frame on.
    pub(crate) fn configure(&mut self, decoding: &Decoding) {
        let width = width(self.search.config(), decoding);
        self.search.set_beam_width(width);
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
        let tokens = timed(&tail[..self.search.num_certain().min(tail.len())]);
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
    pub(crate) fn settle_all(&mut self, settled: &mut Vec<EmittedToken>) {
        let tokens = timed(&self.search.decide());
        self.last_start = tokens.last().map(|token| token.start).or(self.last_start);
        settled.extend(tokens);
        self.shown.clear();
        self.settled = 0;
    }

    /// Unsettled tokens of the best hypothesis, in order.
    pub(crate) fn tail(&self) -> Vec<EmittedToken> {
        timed(self.best_tail())
    }

    /// The hypotheses, the best first, by their unsettled tokens.
    pub(crate) fn n_best(&self) -> Vec<BeamHypothesis> {
        let hypotheses = self.search.hypotheses().iter();
        hypotheses
            .map(|hypothesis| BeamHypothesis {
                tokens: timed(hypothesis.emissions()),
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
    pub(crate) fn max_heap_bytes(config: &RnntConfig, decoding: &Decoding) -> usize {
        // The other hypotheses can be longer than the best by what they said since they parted from it.
        let tokens = 2 * Self::most_tokens(config);
        // A beam that was made narrower keeps its hypotheses until the next frame.
        let beam_width = width(config, decoding).max(config.search.beam_width);
        Search::max_heap_bytes(config, beam_width, tokens) + 2 * tokens * size_of::<u32>()
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

/// The beam's width: the session's where it asks for a beam, which a width of 1 does not, else the model's own. The original needs more
/// classes than hypotheses.
fn width(config: &RnntConfig, decoding: &Decoding) -> usize {
    match decoding.beam_width {
        0 | 1 => config.search.beam_width,
        asked => asked.min(config.num_symbols.saturating_sub(1)),
    }
}

/// Emissions as tokens with times. One frame may emit several words, which then begin in the same frame.
fn timed(emissions: &[Emission]) -> Vec<EmittedToken> {
    let emissions = emissions.iter();
    emissions
        .map(|emission| EmittedToken {
            id: emission.token,
            start: emission.frame,
            end: emission.frame + 1,
            log_posterior: emission.log_prob,
        })
        .collect()
}
