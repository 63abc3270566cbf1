//! Whole utterances: all log-probs at once, the n best at the end.

use std::sync::Arc;

use super::beam::{BeamEvent, BeamHypothesis, PrefixBeam};
use super::greedy::GreedyDecoder;
use super::options::Pruning;
use super::scorer::Scorer;
use crate::hypothesis::EmittedToken;
use crate::tokens::Tokens;

/// The `count` best spellings of `log_probs` `(frames, classes) f32`, the best first, as a search over the whole utterance
/// finds them: nothing is settled before all prefixes agree. Allocates.
pub fn n_best<S: Scorer>(
    tokens: Arc<Tokens>,
    log_probs: &[f32],
    pruning: Pruning,
    scorer: S,
    count: usize,
) -> Vec<BeamHypothesis> {
    let num_classes = tokens.len();
    let pruning = Pruning {
        settle_frames: u64::MAX,
        ..pruning
    };
    let mut search = PrefixBeam::new(tokens, pruning, scorer);
    let mut settled = Vec::new();
    for frame in log_probs.chunks_exact(num_classes) {
        search.step(frame);
        settled.extend(search.drain_events().filter_map(ended));
    }
    let mut found = search.n_best(count);
    for hypothesis in &mut found {
        hypothesis.tokens.splice(0..0, settled.iter().copied());
    }
    found
}

/// The token that an event tells all of.
pub(super) fn ended(event: BeamEvent) -> Option<EmittedToken> {
    match event {
        BeamEvent::Ended(token) => Some(token),
        BeamEvent::Began { .. } => None,
    }
}

/// The best path of `log_probs` `(frames, classes) f32`; its score is the log-probability of that one path. Allocates.
pub fn best_path_tokens(tokens: &Tokens, log_probs: &[f32]) -> BeamHypothesis {
    let mut decoder = GreedyDecoder::new(tokens.blank());
    let mut emitted: Vec<EmittedToken> = Vec::new();
    let mut score = 0.0;
    for (frame, row) in (0..).zip(log_probs.chunks_exact(tokens.len())) {
        let decision = decoder.step(row);
        score += f64::from(decision.log_posterior);
        if decision.class == tokens.blank() {
            continue;
        }
        match emitted.last_mut() {
            Some(last) if !decision.is_new => {
                last.end = frame + 1;
                last.log_posterior = last.log_posterior.max(decision.log_posterior);
            }
            _ => emitted.push(EmittedToken {
                id: decision.class,
                start: frame,
                end: frame + 1,
                log_posterior: decision.log_posterior,
            }),
        }
    }
    BeamHypothesis {
        tokens: emitted,
        score,
        scored: 0.0,
    }
}
