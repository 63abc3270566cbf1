//! The second pass judged by somebody else: a network that hears the utterance again, a [second listener](crate::second_listener), or the [phones](crate::phones) of the same network.
//!
//! Its judgement needs whole words with what follows them, so where there is one, words become stable behind the second pass and not behind the first:
//! at the end of the utterance or, in an utterance that goes on and on, some seconds late. Until then the first pass's words are shown.
//!
//! This is what Sainath et al., "Two-Pass End-to-End Speech Recognition", Interspeech 2019, §2, call rescoring.

use std::sync::Arc;
use std::time::Duration;

use super::deferred::Due;
use super::{Decoder, Transcriber};
use crate::confidence::Evidence;
use crate::ctc::BeamHypothesis;
use crate::endpoint::frames_in;
use crate::tokens::Tokens;

/// Texts that are judged, the most probable ones of the wide beam.
const MOST_TEXTS: usize = 16;

/// An utterance of this length gets its first words judged before it ends. Shorter than what a second pass can hold.
const LONGEST_UNJUDGED: Duration = Duration::from_secs(8);

/// Words that ended less than this ago may still change their minds.
const STILL_OPEN: Duration = Duration::from_secs(2);

/// What a [`TextScorer`] is given of each output frame, and how many values that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hears {
    /// The features that one output frame of the encoder advances by.
    Features(usize),
    /// What the model says beside its classes: an output frame is `(classes + values) f32`.
    BesideClasses(usize),
}

impl Hears {
    /// Values for an output frame.
    pub fn frame_len(self) -> usize {
        match self {
            Self::Features(values) | Self::BesideClasses(values) => values,
        }
    }

    /// Values that lie behind the classes in an output frame.
    pub fn beside_classes(self) -> usize {
        match self {
            Self::Features(_) => 0,
            Self::BesideClasses(values) => values,
        }
    }
}

/// Says how well texts fit to what was heard.
pub trait TextScorer: Send + Sync {
    /// What it is given.
    fn hears(&self) -> Hears;

    /// What it thinks of texts, lower-case words with single blanks between, given what it hears of all that was said, `(output frames, values) f32`.
    fn judge(&self, frames: &[f32], texts: &[String]) -> Judgement;
}

/// What a [`TextScorer`] says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Judgement {
    /// The natural log-probability of each text; `None` for one that cannot be judged.
    pub log_probs: Vec<Option<f64>>,
    /// Texts that it heard itself, with theirs.
    pub found: Vec<(String, f64)>,
}

/// A shared [`TextScorer`]; equal to itself only.
#[derive(Clone)]
pub(super) struct Scorer(pub(super) Arc<dyn TextScorer>);

impl PartialEq for Scorer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for Scorer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TextScorer")
    }
}

impl Transcriber {
    /// The same transcriber with a text scorer, which is heard where the options give it a weight and there is a second pass. It is to be fed by
    /// [`accept_heard`](Self::accept_heard).
    #[must_use]
    pub fn with_text_scorer(mut self, scorer: Option<Arc<dyn TextScorer>>) -> Self {
        self.text_scorer = scorer.map(Scorer);
        let dim = self.heard_len();
        self.second_pass = self.second_pass.map(|kept| Box::new(kept.with_heard(dim)));
        self
    }

    /// Values of the features of a frame that the second pass keeps; 0 where nothing is rescored.
    pub(super) fn heard_len(&self) -> usize {
        match &self.text_scorer {
            Some(scorer) if self.rescoring_weight > 0.0 => scorer.0.hears().frame_len(),
            _ => 0,
        }
    }

    /// Values that lie behind the classes in each frame that it takes.
    pub(super) fn beside_classes(&self) -> usize {
        let scorer = self.text_scorer.as_ref();
        scorer.map_or(0, |scorer| scorer.0.hears().beside_classes())
    }

    /// Whether the open utterance will be judged.
    pub(super) fn is_rescoring(&self) -> bool {
        self.heard_len() > 0 && self.second_pass.as_ref().is_some_and(|kept| !kept.is_lost())
    }

    /// Leading words of the hypothesis that stay as they are.
    pub(super) fn stable_words(&self) -> usize {
        match &self.second_pass {
            Some(kept) if self.is_rescoring() => kept.num_words(),
            _ => self.hypothesis.completed().0.len(),
        }
    }

    /// So many hypotheses of a second pass are needed where `count` are asked for.
    pub(super) fn hypotheses_needed(&self, count: usize) -> usize {
        if self.is_rescoring() {
            count.max(MOST_TEXTS)
        } else {
            count
        }
    }

    /// Lets the scorer put the hypotheses of the second pass in order.
    pub(super) fn rescore(&self, found: &mut Vec<BeamHypothesis>) {
        let (Some(scorer), Some(kept)) = (&self.text_scorer, &self.second_pass) else {
            return;
        };
        if !self.is_rescoring() {
            return;
        }
        let texts: Vec<String> = found.iter().map(|found| text_of(&self.tokens, found)).collect();
        // Where the first listener hears nothing, the second one is not asked: it would make words of noise.
        if texts.first().is_none_or(String::is_empty) {
            return;
        }
        let end = found
            .iter()
            .filter_map(|found| found.tokens.last())
            .map(|last| last.end);
        let judgement = scorer.0.judge(&kept.heard(end.max().unwrap_or(0)), &texts);
        // What cannot be judged, or was forgotten, is as improbable as the worst of the others.
        let finite = |score: Option<f64>| score.filter(|score| score.is_finite());
        let judged = judgement.log_probs.iter().copied();
        let judged = judged.chain(std::iter::repeat(None)).take(found.len());
        let worst = judged.clone().filter_map(finite).fold(0.0, f64::min);
        let weight = f64::from(self.rescoring_weight);
        for (found, score) in found.iter_mut().zip(judged) {
            found.score += weight * finite(score).unwrap_or(worst);
        }
        let mut known = texts;
        for (text, log_prob) in judgement.found {
            if text.is_empty() || known.contains(&text) || !log_prob.is_finite() {
                continue;
            }
            if let Some(mut own) = kept.spelled(&text) {
                own.score += weight * log_prob;
                found.push(own);
            }
            known.push(text);
        }
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
    }

    /// Lets a second pass that is rescored forget silence before the first word, and judges the first words of a long utterance. Returns `false`
    /// where words are as stable as the first pass says.
    pub(super) fn move_rescored(&mut self) -> bool {
        if !self.is_rescoring() {
            return false;
        }
        let (Some(kept), Decoder::Beam(search)) = (&mut self.second_pass, &self.decoder) else {
            return false;
        };
        let is_silent = self.hypothesis.start().is_none()
            && search.unsettled().next().is_none()
            && search.sounding().is_none();
        let longest = frames_in(LONGEST_UNJUDGED, self.frame);
        if is_silent {
            kept.nothing_yet(self.frames_seen);
        } else if kept.frames() as u64 >= longest && self.frames_seen >= self.next_judgement {
            let open = frames_in(STILL_OPEN, self.frame);
            let until = self.frames_seen.saturating_sub(open);
            self.due = Some(Due::Commit { until });
            self.next_judgement = self.frames_seen + open;
        }
        true
    }

    /// Has the words that come next judged by what a text scorer heard too, where it did; returns what counted before.
    pub(super) fn judged_evidence(&mut self, is_redone: bool) -> Evidence {
        let judged = match &self.text_scorer {
            Some(scorer) if is_redone && self.is_rescoring() => match scorer.0.hears() {
                Hears::Features(_) => Evidence::SecondListener,
                Hears::BesideClasses(_) => Evidence::Phones,
            },
            _ => self.hypothesis.evidence(),
        };
        self.hypothesis.set_evidence(judged)
    }

    /// Makes the second pass's words stable, as far as they end at output frame `until` or before, but for the last one.
    pub(super) fn commit(&mut self, until: u64) {
        let found = self.second_pass(1);
        let before = self.judged_evidence(!found.is_empty());
        let Some(kept) = &mut self.second_pass else {
            return;
        };
        // Without a second pass the first one's words count.
        let best = found.first().map(|best| best.tokens.as_slice());
        let stable = self
            .hypothesis
            .commit(&self.tokens, kept.num_words(), best, until);
        self.hypothesis.set_evidence(before);
        let (words, tokens) = self.hypothesis.first(&self.tokens, stable);
        kept.settled(words, tokens, self.frames_seen);
        self.revision += 1;
    }
}

/// What a hypothesis says, its words with single blanks between.
fn text_of(tokens: &Tokens, hypothesis: &BeamHypothesis) -> String {
    let mut text = String::new();
    for token in &hypothesis.tokens {
        let spelling = tokens.spelling(token.id);
        if tokens.begins_word(token.id) && !text.is_empty() && !text.ends_with(' ') {
            text.push(' ');
        }
        text.push_str(spelling);
    }
    text.truncate(text.trim_end().len());
    text
}
