//! How an utterance ends: with the best hypothesis, or with what a second pass finds behind its stable words.

use super::{Decoder, Transcriber};
use crate::ctc::BeamHypothesis;
use crate::hypothesis::{Alternative, Utterance};

impl Transcriber {
    pub(super) fn end_utterance(&mut self) -> Option<Utterance> {
        let mut others = Vec::new();
        // Some differ only in what is not seen.
        let count = if self.alternatives > 1 {
            4 * self.alternatives
        } else {
            1
        };
        let (earliest, stable_words) = (self.earliest(), self.stable_words());
        let redone = self.second_pass(count);
        let is_redone = !redone.is_empty();
        if let Decoder::Beam(search) = &mut self.decoder {
            if self.alternatives > 1 && !is_redone {
                others = search.n_best(count);
            }
            search.end_utterance(if self.hypothesis.start().is_some() {
                0
            } else {
                earliest
            });
            if is_redone {
                search.drain_events().for_each(drop);
            }
            if let Some(second_pass) = &mut self.second_pass {
                second_pass.ended(self.frames_seen, search.sounding());
            }
        }
        if let (Decoder::Transducer(stage), true) = (&self.decoder, self.alternatives > 1) {
            others = stage.n_best();
        }
        if is_redone {
            self.hypothesis.keep_words(&self.tokens, stable_words);
            others = redone;
        }
        // Of the words that come now; the first pass goes on with its own.
        let before = self.judged_evidence(is_redone);
        let alternatives = self.other_wordings(&others);
        if let Some(best) = others.first().filter(|_| is_redone) {
            for token in &best.tokens {
                self.hypothesis.push_whole(&self.tokens, token);
            }
        }
        self.apply_settled();
        let end = self.settle_transducer();
        let ended = self.hypothesis.take_all(&self.tokens, self.utterances_ended, end);
        self.hypothesis.set_evidence(before);
        let mut ended = ended?;
        let text = ended.text();
        ended.alternatives = alternatives
            .into_iter()
            .filter(|other| other.text() != text)
            .take(self.alternatives.saturating_sub(1))
            .collect();
        Some(ended)
    }

    /// The first frame that the open utterance may begin at: another hypothesis may begin earlier than the best, but no utterance is longer than its limit.
    fn earliest(&self) -> u64 {
        self.frames_seen
            .saturating_sub(self.detector.max_utterance_frames())
    }

    /// The best ways on from the last stable word by the second pass; empty where what the first pass heard counts.
    pub(super) fn second_pass(&self, count: usize) -> Vec<BeamHypothesis> {
        let Some(second_pass) = &self.second_pass else {
            return Vec::new();
        };
        let mut found = second_pass.n_best(self.hypotheses_needed(count));
        let first_letter = |found: &BeamHypothesis| {
            let mut tokens = found.tokens.iter();
            tokens
                .find(|token| !self.tokens.spelling(token.id).is_empty())
                .map(|token| token.start)
        };
        let earliest = if self.stable_words() == 0 {
            self.earliest()
        } else {
            0
        };
        let is_in_time = |found: &BeamHypothesis| first_letter(found).is_none_or(|start| start >= earliest);
        found.retain(is_in_time);
        self.rescore(&mut found);
        found.retain(is_in_time);
        match found.first().and_then(first_letter) {
            Some(_) => found,
            None => Vec::new(),
        }
    }

    /// What the n best say, each text once, the utterance's own included.
    fn other_wordings(&self, n_best: &[BeamHypothesis]) -> Vec<Alternative> {
        let mut texts: Vec<String> = Vec::new();
        let mut alternatives = Vec::new();
        let best = n_best
            .iter()
            .map(|found| found.score)
            .fold(f64::NEG_INFINITY, f64::max);
        if self.alternatives < 2 {
            return alternatives;
        }
        for hypothesis in n_best {
            let whole = self.hypothesis.whole_with(
                &self.tokens,
                self.utterances_ended,
                self.frames_seen,
                &hypothesis.tokens,
            );
            // An empty one cannot be shown.
            let Some(whole) = whole else {
                continue;
            };
            let text = whole.text();
            if texts.contains(&text) {
                continue;
            }
            texts.push(text);
            alternatives.push(Alternative {
                words: whole.words,
                confidence: whole.confidence,
                score: (hypothesis.score - best) as f32,
            });
            if alternatives.len() > self.alternatives {
                break;
            }
        }
        alternatives
    }
}
