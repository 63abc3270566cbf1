//! A second, wider search of what an utterance had not settled when it ended.
//!
//! A live beam is narrow, and it settles early, because listeners wait for stable words. When an utterance ends there is time for a
//! wide one, but only behind the words that were called stable: they never change. So this keeps the log-probs of the frames behind the last stable
//! word, as far as the first pass tried their classes, and searches them once more: from that word's end on, with what the scorer knows of all words before.
//!
//! Where another network judges what is found (see [`crate::transcript::TextScorer`]), the features are kept beside them, and a little of
//! what came before the first word.
//!
//! **Bounds.** At most [`SecondPass::SPAN`] of frames is kept, and width times frames never exceeds [`SecondPass::WORK`]; an utterance that needs
//! more gets a narrower second pass, or none if that would be no wider than the first.

use std::sync::Arc;
use std::time::Duration;

use half::f16;

use super::align::align;
use super::beam::{BeamHypothesis, PrefixBeam};
use super::options::Pruning;
use super::scorer::Scorer;
use crate::endpoint::frames_in;
use crate::hypothesis::{EmittedToken, Word};
use crate::pauses::pause;
use crate::tokens::Tokens;

/// Where the frames begin that are searched once more.
#[derive(Debug, Clone, PartialEq)]
struct Beginning<T> {
    frame: u64,
    /// The token before, and whether it sounds up to here, so that going on with it is no new token.
    last: Option<u32>,
    is_sounding: bool,
    /// The scorer's state behind the tokens before; it has not been told that `word` is complete.
    state: T,
    word: String,
    /// Whether only a new word may follow: what comes before is final.
    is_between_words: bool,
}

/// The frames of one stream that a second pass would search.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SecondPass<S: Scorer> {
    tokens: Arc<Tokens>,
    /// Of the second pass.
    width: usize,
    /// Of the first.
    pruning: Pruning,
    scorer: S,
    most_frames: usize,
    beginning: Beginning<S::State>,
    /// Classes and their natural log-probs, frame behind frame.
    classes: Vec<(u32, f32)>,
    /// Where each frame's classes end.
    ends: Vec<u32>,
    /// Values of the features of an output frame; 0 where none are kept.
    heard_len: usize,
    /// Features of the frames: those of `ends`, and before them up to [`LEAD`](Self::LEAD).
    heard: Vec<f16>,
    /// Words of the open utterance that lie before the beginning.
    num_words: usize,
    /// What is kept is not all that is needed; so until the next stable word.
    is_incomplete: bool,
    /// Settings changed within the utterance.
    is_spoilt: bool,
}

impl<S: Scorer + Clone> SecondPass<S> {
    /// Audio that is kept at most.
    pub(crate) const SPAN: Duration = Duration::from_secs(10);
    /// Frames times width that a second pass searches at most.
    pub(crate) const WORK: usize = 16_000;
    /// Frames from one pause of the search to the next: a few milliseconds.
    const UNPAUSED: usize = 8;
    /// Frames kept from before the first word: a class is most probable some time after its sound began.
    const LEAD: usize = 25;
    /// Frames behind the last token that belong to its sound.
    const TAIL: usize = 15;

    /// For a first pass that stands at output frame `frame`, `last` its sounding token.
    pub(crate) fn new(
        tokens: Arc<Tokens>,
        width: usize,
        pruning: Pruning,
        frame_duration: Duration,
        scorer: S,
        frame: u64,
        last: Option<u32>,
    ) -> Self {
        Self {
            beginning: Beginning {
                frame,
                last,
                is_sounding: last.is_some(),
                state: scorer.start(),
                word: String::new(),
                is_between_words: false,
            },
            most_frames: most_frames(frame_duration),
            tokens,
            width,
            pruning,
            scorer,
            classes: Vec::new(),
            ends: Vec::new(),
            heard_len: 0,
            heard: Vec::new(),
            num_words: 0,
            is_incomplete: false,
            is_spoilt: false,
        }
    }

    /// Has features of so many values for each frame kept as well.
    pub(crate) fn with_heard(mut self, dim: usize) -> Self {
        self.heard_len = dim;
        self
    }

    /// Keeps a frame: the classes that the first pass tried in it, and its features where these are kept.
    pub(crate) fn keep(&mut self, tried: impl Iterator<Item = (u32, f32)>, heard: &[f32]) {
        if self.is_incomplete {
            return;
        }
        if self.ends.len() == self.most_frames {
            self.clear();
            self.is_incomplete = true;
            return;
        }
        self.classes.extend(tried);
        self.ends.push(self.classes.len() as u32);
        if heard.len() == self.heard_len {
            self.heard.extend(heard.iter().copied().map(f16::from_f32));
        } else {
            self.is_spoilt = true;
        }
    }

    fn clear(&mut self) {
        self.classes.clear();
        self.ends.clear();
        self.heard.clear();
    }

    /// Frames that are kept.
    pub(crate) fn frames(&self) -> usize {
        self.ends.len()
    }

    /// Words of the open utterance that are behind the second pass: they never change.
    pub(crate) fn num_words(&self) -> usize {
        self.num_words
    }

    /// Whether what is kept cannot be searched again: not all of it is there, or it was kept for other settings.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_spoilt || self.is_incomplete
    }

    /// Values of the features of an output frame; 0 where none are kept.
    pub(crate) fn heard_len(&self) -> usize {
        self.heard_len
    }

    /// The features of all that is kept, `(frames, values) f32`, silence behind output frame `end` left out. Allocates.
    pub(crate) fn heard(&self, end: u64) -> Vec<f32> {
        let spoken = usize::try_from(end.saturating_sub(self.beginning.frame)).unwrap_or(usize::MAX);
        let frames = (self.lead() + spoken).saturating_add(Self::TAIL);
        let values = frames.saturating_mul(self.heard_len).min(self.heard.len());
        self.heard
            .iter()
            .take(values)
            .map(|value| value.to_f32())
            .collect()
    }

    /// Frames from before the beginning.
    fn lead(&self) -> usize {
        (self.heard.len() / self.heard_len.max(1)).saturating_sub(self.ends.len())
    }

    /// Nothing is open at `frame`, and nothing has been said since the beginning: it moves here.
    pub(crate) fn nothing_yet(&mut self, frame: u64) {
        if self.num_words == 0 && !self.is_spoilt {
            let lead = Self::LEAD * self.heard_len;
            self.heard.drain(..self.heard.len().saturating_sub(lead));
            self.classes.clear();
            self.ends.clear();
            self.is_incomplete = false;
            let beginning = &mut self.beginning;
            (beginning.frame, beginning.last, beginning.is_sounding) = (frame, None, false);
        }
    }

    /// Moves the beginning behind the words that are stable now. `words` are those of the open utterance, `stable_tokens` what they were
    /// joined from, and `now` is the number of frames seen.
    pub(crate) fn settled(&mut self, words: &[Word], stable_tokens: &[EmittedToken], now: u64) {
        let (Some(last_word), Some(last)) = (words.last(), stable_tokens.last()) else {
            return;
        };
        if words.len() <= self.num_words {
            return;
        }
        let from = self.beginning.frame;
        for token in stable_tokens.iter().filter(|token| token.start >= from) {
            if self.tokens.begins_word(token.id) {
                self.tell_word();
            }
            let (_, state) = self.scorer.token(&self.beginning.state, token.id);
            self.beginning.state = state;
            self.beginning.word.push_str(self.tokens.spelling(token.id));
        }
        self.num_words = words.len();
        let frame = last_word.end.min(now);
        let dropped = usize::try_from(frame.saturating_sub(from)).unwrap_or(usize::MAX);
        if self.is_incomplete {
            // Frames between the word's end and here are lost.
            self.is_incomplete = frame < now;
            self.beginning.frame = frame;
        } else {
            self.drop_frames(dropped);
            self.beginning.frame = frame;
        }
        self.beginning.last = Some(last.id);
        self.beginning.is_sounding = last.end >= frame;
        self.beginning.is_between_words = true;
    }

    /// Takes over other settings; if they are others, the open utterance gets no second pass.
    pub(crate) fn reconfigure(&mut self, width: usize, pruning: Pruning, scorer: S)
    where
        S: PartialEq,
    {
        if (self.width, self.pruning) != (width, pruning) || self.scorer != scorer {
            (self.width, self.pruning, self.scorer) = (width, pruning, scorer);
            self.spoil();
        }
    }

    /// The open utterance gets no second pass.
    pub(crate) fn spoil(&mut self) {
        self.is_spoilt = true;
    }

    /// An utterance ended at `frame`, all of it final; `last` is the first pass's sounding token.
    pub(crate) fn ended(&mut self, frame: u64, last: Option<u32>) {
        self.clear();
        self.num_words = 0;
        (self.is_incomplete, self.is_spoilt) = (false, false);
        self.beginning.frame = frame;
        self.beginning.last = last;
        self.beginning.is_sounding = last.is_some();
        self.beginning.state = self.scorer.start();
        self.beginning.word.clear();
        self.beginning.is_between_words = false;
    }

    /// The words before the beginning became a final of their own; the open word and the scorer go on.
    pub(crate) fn cut(&mut self) {
        self.num_words = 0;
    }

    /// What is left of a width when so many frames are searched.
    fn affordable(width: usize, frames: usize) -> usize {
        width.min(Self::WORK / frames.max(1))
    }

    /// The `count` best ways on from the last stable word, the best first; empty where there is no second pass. Allocates.
    pub(crate) fn n_best(&self, count: usize) -> Vec<BeamHypothesis> {
        let width = Self::affordable(self.width, self.ends.len());
        if self.is_lost() || self.ends.is_empty() || width <= self.pruning.beam_width {
            return Vec::new();
        }
        let pruning = Pruning {
            beam_width: width,
            settle_frames: u64::MAX,
            ..self.pruning
        };
        let Beginning {
            frame,
            last,
            is_sounding,
            state,
            word,
            is_between_words,
        } = &self.beginning;
        let mut search = PrefixBeam::new(Arc::clone(&self.tokens), pruning, self.scorer.clone());
        let sounding = last.filter(|_| *is_sounding);
        search.begin_behind(sounding, *frame, *state, word, *is_between_words);
        let mut log_probs = vec![f32::NEG_INFINITY; self.tokens.len()];
        let (mut settled, mut from) = (Vec::new(), 0);
        for (index, &end) in self.ends.iter().enumerate() {
            if index % Self::UNPAUSED == 0 {
                pause();
            }
            let classes = self.classes.get(from as usize..end as usize).unwrap_or_default();
            from = end;
            fill(&mut log_probs, classes.iter().copied());
            search.step(&log_probs);
            fill(
                &mut log_probs,
                classes.iter().map(|&(class, _)| (class, f32::NEG_INFINITY)),
            );
            settled.extend(search.drain_events().filter_map(super::whole::ended));
        }
        let mut found = search.n_best(count);
        for hypothesis in &mut found {
            hypothesis.tokens.splice(0..0, settled.iter().copied());
            // The run that goes on from before the beginning.
            let goes_on = |token: &EmittedToken| Some(token.id) == sounding && token.start == *frame;
            if hypothesis.tokens.first().is_some_and(goes_on) {
                hypothesis.tokens.remove(0);
            }
        }
        found
    }

    /// The way on from the last stable word that spells `text`, which somebody else found, scored as those of [`n_best`](Self::n_best) are. `None` where there is no
    /// second pass, or the frames have no room for such words. Allocates.
    pub(crate) fn spelled(&self, text: &str) -> Option<BeamHypothesis> {
        if self.is_lost() {
            return None;
        }
        let beginning = &self.beginning;
        let sounding = beginning.last.filter(|_| beginning.is_sounding);
        let begins = [0].iter().chain(&self.ends);
        let frames = begins.zip(&self.ends);
        let frames =
            frames.map(|(&from, &end)| self.classes.get(from as usize..end as usize).unwrap_or_default());
        let aligned = align(&self.tokens, text, sounding, beginning.frame, frames)?;
        let scored = self.scored(&aligned.tokens);
        Some(BeamHypothesis {
            tokens: aligned.tokens,
            score: aligned.log_prob + scored,
            scored,
        })
    }

    /// What the scorer adds for these tokens behind the beginning, if the utterance ends behind them.
    fn scored(&self, tokens: &[EmittedToken]) -> f64 {
        let (mut scored, mut state) = (0.0, self.beginning.state);
        let mut word = self.beginning.word.clone();
        let tell = |state: &mut S::State, word: &mut String| {
            let (said, next) = match word.as_str() {
                "" => return 0.0,
                word => self.scorer.word(state, word),
            };
            word.clear();
            *state = next;
            f64::from(said)
        };
        for token in tokens {
            if self.tokens.begins_word(token.id) {
                scored += tell(&mut state, &mut word);
            }
            let (said, next) = self.scorer.token(&state, token.id);
            scored += f64::from(said);
            state = next;
            word.push_str(self.tokens.spelling(token.id));
        }
        scored + tell(&mut state, &mut word) + f64::from(self.scorer.end(&state))
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.classes.capacity() * size_of::<(u32, f32)>()
            + self.ends.capacity() * size_of::<u32>()
            + self.heard.capacity() * size_of::<f16>()
            + self.beginning.word.capacity()
    }

    /// The most that [`heap_bytes`](Self::heap_bytes) can be. A growing vector holds at most twice what it needs.
    pub(crate) fn max_heap_bytes(
        tokens: &Tokens,
        pruning: &Pruning,
        frame_duration: Duration,
        heard_len: usize,
    ) -> usize {
        let classes = pruning.max_tokens.min(tokens.len());
        let frames = most_frames(frame_duration);
        let each = classes * size_of::<(u32, f32)>() + size_of::<u32>();
        let word = tokens.longest_spelling().saturating_mul(frames);
        let heard = (frames + Self::LEAD).saturating_mul(heard_len * size_of::<f16>());
        let kept = frames.saturating_mul(each).saturating_add(heard);
        kept.saturating_add(word).saturating_mul(2)
    }

    fn tell_word(&mut self) {
        if !self.beginning.word.is_empty() {
            let (_, state) = self.scorer.word(&self.beginning.state, &self.beginning.word);
            self.beginning.state = state;
            self.beginning.word.clear();
        }
    }

    fn drop_frames(&mut self, count: usize) {
        let count = count.min(self.ends.len());
        let Some(gone) = count.checked_sub(1).and_then(|last| self.ends.get(last).copied()) else {
            return;
        };
        let heard = ((self.lead() + count) * self.heard_len).min(self.heard.len());
        self.heard.drain(..heard);
        self.classes.drain(..gone as usize);
        self.ends.drain(..count);
        for end in &mut self.ends {
            *end -= gone;
        }
    }
}

fn fill(log_probs: &mut [f32], classes: impl Iterator<Item = (u32, f32)>) {
    for (class, log_prob) in classes {
        if let Some(place) = log_probs.get_mut(class as usize) {
            *place = log_prob;
        }
    }
}

fn most_frames(frame_duration: Duration) -> usize {
    usize::try_from(frames_in(
        SecondPass::<super::scorer::NoScorer>::SPAN,
        frame_duration,
    ))
    .unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctc::scorer::NoScorer;

    const FRAME: Duration = Duration::from_millis(20);
    const LEAST: usize = 4;

    fn tokens() -> Arc<Tokens> {
        Arc::new(Tokens::parse("<blank>\n▁a\nb\nc\n").unwrap())
    }

    fn listening(width: usize) -> SecondPass<NoScorer> {
        SecondPass::new(
            tokens(),
            width,
            Pruning::width_only(LEAST),
            FRAME,
            NoScorer,
            0,
            None,
        )
    }

    fn noise(frame: usize) -> impl Iterator<Item = (u32, f32)> {
        (0..4).map(move |class| (class, -1.2 - 0.1 * ((class as usize * 7 + frame * 5) % 4) as f32))
    }

    /// What keeps a second pass from making other sessions wait: no utterance and no width makes it search more than this.
    #[test]
    fn the_work_is_bounded_whatever_is_asked_for() {
        let longest = most_frames(FRAME);
        for frames in 1..=longest {
            for width in [0, 1, 64, 200, 500, usize::MAX] {
                let affordable = SecondPass::<NoScorer>::affordable(width, frames);
                assert!(affordable * frames <= SecondPass::<NoScorer>::WORK && affordable <= width);
            }
        }
        // The default of 64 is not made narrower within five seconds.
        assert_eq!(SecondPass::<NoScorer>::affordable(64, longest / 2), 64);
    }

    #[test]
    fn what_is_longer_than_the_span_is_not_searched_again_and_takes_no_memory() {
        let mut second_pass = listening(16);
        let longest = most_frames(FRAME);
        for frame in 0..longest {
            second_pass.keep(noise(frame), &[]);
        }
        assert!(!second_pass.n_best(1).is_empty());
        let most = SecondPass::<NoScorer>::max_heap_bytes(&tokens(), &Pruning::width_only(LEAST), FRAME, 0);
        assert!(second_pass.heap_bytes() <= most);
        for frame in 0..longest {
            second_pass.keep(noise(frame), &[]);
        }
        assert!(second_pass.n_best(1).is_empty());
        assert!(second_pass.ends.is_empty() && second_pass.heap_bytes() <= most);
    }

    #[test]
    fn a_pass_that_would_be_no_wider_than_the_first_is_left_out() {
        for (width, is_made) in [(0, false), (LEAST, false), (LEAST + 1, true)] {
            let mut second_pass = listening(width);
            (0..20).for_each(|frame| second_pass.keep(noise(frame), &[]));
            assert_eq!(!second_pass.n_best(1).is_empty(), is_made, "{width}");
        }
    }
}
