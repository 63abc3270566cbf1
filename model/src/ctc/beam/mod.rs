//! Prefix beam search, one frame at a time.
//!
//! The search keeps the most probable spellings ("prefixes") and sums, for each, the probability of all paths that spell
//! it (Graves, "Supervised Sequence Labelling with Recurrent Neural Networks", 2012, §7.5.2; Hannun et al., "First-pass large
//! vocabulary continuous speech recognition using bi-directional recurrent DNNs", arXiv 1408.2873, algorithm 1). Paths that end
//! in a blank are counted apart from those that end in the last token, because only behind a blank the same token is a
//! new one.
//!
//! **Numbers.** Probabilities are plain `f64`, scaled by a power of two after each frame, so that a path costs a
//! multiplication instead of logarithms; what falls 700 nats behind the best prefix becomes 0. The scales are counted as an
//! integer: scores stay exact on endless audio.
//!
//! **Work.** Prefixes that only stay need one pass over the beam. A prefix is extended only where the extension can get into
//! the beam at all: it must beat the worst of those that stay. In a frame that is surely a blank nothing is extended.
//!
//! **Memory.** Tokens that all prefixes share, with one most probable time, are settled: they leave the beam as
//! [`BeamEvent`]s and never change. After [`Pruning::settle_frames`] the best prefix's tokens are settled in any case, and
//! prefixes that disagree are dropped. Frames allocate only while the arenas still grow to their largest use.

mod marks;
mod prefixes;
mod step;

use std::sync::Arc;

use self::marks::{Marks, Path};
use self::prefixes::{NONE, Prefixes};
use self::step::exponent;
use super::options::Pruning;
use super::scorer::Scorer;
use crate::hypothesis::EmittedToken;
use crate::tokens::Tokens;

pub use self::marks::BeamEvent;

/// How often old tokens are looked for, in frames.
pub(crate) const SETTLE_EVERY: u64 = 4;

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    node: u32,
    /// The prefix's last token; [`NONE`] for a prefix without tokens.
    token: u32,
    /// Probability of the paths that end in a blank, scaled.
    blank: f64,
    /// Probability of the paths that end in the last token, scaled.
    sound: f64,
    /// The most probable one of each; the same where there is only one kind.
    blank_path: Path,
    sound_path: Path,
}

impl Entry {
    fn total(&self) -> f64 {
        self.blank + self.sound
    }

    fn best_path(&self) -> &Path {
        let sound_is_better = self.sound_path.viterbi > self.blank_path.viterbi;
        if self.sound > 0.0 && (sound_is_better || self.blank <= 0.0) {
            &self.sound_path
        } else {
            &self.blank_path
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    score: f64,
    /// Place in the beam of the prefix that stays or is extended.
    from: u32,
    /// The token that is appended; [`NONE`] where the prefix stays.
    token: u32,
}

/// A class that is tried in the frame.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tried {
    class: u32,
    log_prob: f32,
    /// Scaled.
    probability: f64,
}

/// One of the n best.
#[derive(Debug, Clone, PartialEq)]
pub struct BeamHypothesis {
    /// What was settled since the search was last restarted is not among them.
    pub tokens: Vec<EmittedToken>,
    /// Natural log of the probability of all paths that spell it, and what the scorer added: since the stream's
    /// start, or since its last restart for the scorer's part.
    pub score: f64,
    /// Of `score`, what the scorer added.
    pub scored: f64,
}

/// Streaming CTC prefix beam search over the log-probs of one stream.
#[derive(Debug, Clone, PartialEq)]
pub struct PrefixBeam<S: Scorer> {
    tokens: Arc<Tokens>,
    pruning: Pruning,
    scorer: S,
    tree: Prefixes<S::State>,
    marks: Marks,
    beam: Vec<Entry>,
    best: usize,
    frame: u64,
    /// Probabilities are those in the beam times two to this power.
    exponent: i64,
    scale: f64,
    events: Vec<BeamEvent>,
    /// The part of the open word that has left the tree.
    word_head: String,
    /// The prefix without tokens may only go on with a new word.
    is_between_words: bool,
    // Scratch.
    next: Vec<Entry>,
    stays: Vec<[f64; 2]>,
    candidates: Vec<Candidate>,
    tried: Vec<Tried>,
    /// Of each class, 0 where it is not tried.
    probabilities: Vec<f64>,
    spelled: Vec<u32>,
    word: String,
}

impl<S: Scorer> PrefixBeam<S> {
    /// A search at the start of a stream.
    pub fn new(tokens: Arc<Tokens>, pruning: Pruning, scorer: S) -> Self {
        let mut search = Self {
            tree: Prefixes::new(NONE, scorer.start()),
            marks: Marks::new(NONE, 0),
            probabilities: vec![0.0; tokens.len()],
            tokens,
            pruning,
            scorer,
            beam: Vec::new(),
            best: 0,
            frame: 0,
            exponent: 0,
            scale: 1.0,
            events: Vec::new(),
            word_head: String::new(),
            is_between_words: false,
            next: Vec::new(),
            stays: Vec::new(),
            candidates: Vec::new(),
            tried: Vec::new(),
            spelled: Vec::new(),
            word: String::new(),
        };
        search.begin_with(NONE, 0, 1.0, 0.0);
        search
    }

    /// Continues at frame `frame` behind a best path whose last frame was `class`.
    pub(crate) fn continue_after(&mut self, class: u32, frame: u64) {
        self.frame = frame;
        if class == self.tokens.blank() {
            self.begin_with(NONE, frame, 1.0, 0.0);
        } else {
            self.begin_with(class, frame, 0.0, 1.0);
        }
    }

    /// Begins anew at frame `frame`, behind words that are final: `state` and `word` are the scorer's state and the last word, which the scorer has
    /// not been told of; `sounding` is the token whose run reaches up to here; `is_between_words` lets only a new word follow.
    pub(crate) fn begin_behind(
        &mut self,
        sounding: Option<u32>,
        frame: u64,
        state: S::State,
        word: &str,
        is_between_words: bool,
    ) {
        self.frame = frame;
        match sounding {
            Some(token) => self.begin_with(token, frame, 0.0, 1.0),
            None => self.begin_with(NONE, frame, 1.0, 0.0),
        }
        let root = self.tree.root();
        self.tree.get_mut(root).state = state;
        self.word_head.push_str(word);
        self.is_between_words = is_between_words;
    }

    /// The classes that were tried in the last frame, with their natural log-probs.
    pub(crate) fn tried(&self) -> impl Iterator<Item = (u32, f32)> + '_ {
        self.tried.iter().map(|tried| (tried.class, tried.log_prob))
    }

    /// Takes the next frame's log-probs `(classes) f32`. A frame without any finite value changes nothing. Values
    /// that are not numbers are impossible classes.
    pub fn step(&mut self, log_probs: &[f32]) {
        let frame = self.frame;
        self.frame += 1;
        self.choose_classes(log_probs);
        if self.tried.is_empty() {
            return;
        }
        for tried in &self.tried {
            self.probabilities[tried.class as usize] = tried.probability;
        }
        self.let_stay();
        self.extend();
        self.select();
        self.build(log_probs, frame);
        for tried in &self.tried {
            self.probabilities[tried.class as usize] = 0.0;
        }
        self.replace_beam();
        self.settle();
        if frame % SETTLE_EVERY == SETTLE_EVERY - 1 {
            self.settle_old();
        }
    }

    /// What has been settled since the last call, in order.
    pub fn drain_events(&mut self) -> impl Iterator<Item = BeamEvent> + '_ {
        self.events.drain(..)
    }

    /// What the best prefix says behind what is settled, appended to `events`.
    pub fn best_tail(&self, events: &mut Vec<BeamEvent>) {
        self.marks.report_path(self.beam[self.best].best_path(), events);
    }

    /// Changes when the best prefix or its times do.
    pub fn best_serial(&self) -> u64 {
        self.marks.serial(self.beam[self.best].best_path().mark)
    }

    /// Tokens of the best prefix that are not settled, the last one first, with their first frames. Does not allocate.
    pub fn unsettled(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let mut mark = self.beam[self.best].best_path().mark;
        std::iter::from_fn(move || {
            let previous = self.marks.previous(mark)?;
            let item = (self.marks.token(mark), self.marks.start(mark));
            mark = previous;
            Some(item)
        })
    }

    /// The `count` best prefixes, the best first, as if the utterance ended here: the scorer has been told of the last word
    /// and of the end. Allocates.
    pub fn n_best(&mut self, count: usize) -> Vec<BeamHypothesis> {
        let mut ranked: Vec<(f64, usize)> = (0..self.beam.len())
            .map(|place| (self.end_score(place), place))
            .collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        ranked.truncate(count);
        let mut events = Vec::new();
        ranked
            .into_iter()
            .map(|(score, place)| {
                let entry = &self.beam[place];
                events.clear();
                self.marks.report_path(entry.best_path(), &mut events);
                let ended = |event: &BeamEvent| match event {
                    BeamEvent::Ended(token) => Some(*token),
                    BeamEvent::Began { .. } => None,
                };
                let acoustic = self.log_of(entry.total()) - self.tree.get(entry.node).scored;
                BeamHypothesis {
                    tokens: events.iter().filter_map(ended).collect(),
                    score,
                    scored: score - acoustic,
                }
            })
            .collect()
    }

    /// Ends the utterance with the prefix that is best if it ends here: settles all of it and leaves the beam with it alone.
    /// A sound that goes on is still the same token; the scorer begins anew. A prefix whose first unsettled letter is before frame `earliest` is not
    /// taken, the one that is best now excepted.
    pub fn end_utterance(&mut self, earliest: u64) {
        let mut best = (f64::NEG_INFINITY, self.best);
        for place in 0..self.beam.len() {
            let score = self.end_score(place);
            if score > best.0 && (place == self.best || !self.is_before(place, earliest)) {
                best = (score, place);
            }
        }
        self.restart_with(best.1);
    }

    fn is_before(&self, place: usize, earliest: u64) -> bool {
        let mut mark = self.beam[place].best_path().mark;
        let mut is_before = false;
        while let Some(previous) = self.marks.previous(mark) {
            let has_letters = !self.tokens.spelling(self.marks.token(mark)).is_empty();
            is_before |= has_letters && self.marks.start(mark) < earliest;
            mark = previous;
        }
        is_before
    }

    /// Leaves the beam with its best prefix alone and settles that. The scorer begins anew.
    pub(crate) fn restart_with_best(&mut self) {
        self.restart_with(self.best);
    }

    /// Whether the best prefix ends in a sound now, and which.
    pub(crate) fn sounding(&self) -> Option<u32> {
        let entry = &self.beam[self.best];
        (entry.sound > entry.blank && entry.token != NONE).then_some(entry.token)
    }

    /// Settles the best prefix up to its last token that begins a word. Prefixes that disagree are dropped.
    pub(crate) fn settle_to_word(&mut self) {
        let mut mark = self.beam[self.best].best_path().mark;
        while let Some(previous) = self.marks.previous(mark) {
            if self.tokens.begins_word(self.marks.token(mark)) {
                self.keep_only(|search, path| search.goes_through(path, mark));
                return;
            }
            mark = previous;
        }
    }

    /// Has another scorer from here on. It knows nothing of what was heard, so the best prefix is settled first.
    pub(crate) fn set_scorer(&mut self, scorer: S)
    where
        S: PartialEq,
    {
        if self.scorer != scorer {
            self.scorer = scorer;
            self.restart_with_best();
        }
    }

    pub(crate) fn set_pruning(&mut self, pruning: Pruning) {
        self.pruning = pruning;
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.tree.heap_bytes()
            + self.marks.heap_bytes()
            + (self.beam.capacity() + self.next.capacity()) * size_of::<Entry>()
            + self.candidates.capacity() * size_of::<Candidate>()
            + self.tried.capacity() * size_of::<Tried>()
            + self.events.capacity() * size_of::<BeamEvent>()
            + self.stays.capacity() * size_of::<[f64; 2]>()
            + self.probabilities.capacity() * size_of::<f64>()
            + self.spelled.capacity() * size_of::<u32>()
            + self.word.capacity()
            + self.word_head.capacity()
    }

    /// The most that [`heap_bytes`](Self::heap_bytes) can be. A growing vector holds at most twice what it needs.
    pub(crate) fn max_heap_bytes(tokens: &Tokens, pruning: &Pruning) -> usize {
        let width = pruning.beam_width;
        let classes = tokens.len();
        // A list has one mark a frame at most, and each prefix has two lists; new ones come before old ones go.
        let depth =
            usize::try_from(pruning.settle_frames.saturating_add(SETTLE_EVERY + 1)).unwrap_or(usize::MAX);
        let marks = (2 * width * depth + 4 * width) * Marks::BYTES;
        let nodes = (width * depth + 2 * width) * Prefixes::<S::State>::NODE_BYTES;
        let each = 2 * size_of::<Entry>() + size_of::<[f64; 2]>();
        let candidates = width * (1 + pruning.max_tokens.min(classes)) * size_of::<Candidate>();
        let tried = classes * (size_of::<Tried>() + size_of::<f64>());
        let events = 2 * depth * size_of::<BeamEvent>();
        let spelling = 2 * (depth + 1) * (tokens.longest_spelling() + size_of::<u32>() + 8);
        2 * (marks + nodes + width * each + candidates + tried + events + spelling)
    }

    /// Lets go what all prefixes agree on.
    fn settle(&mut self) {
        while let Some(token) = self.tree.advance() {
            self.is_between_words = false;
            if self.tokens.begins_word(token) {
                self.word_head.clear();
            }
            self.word_head.push_str(self.tokens.spelling(token));
        }
        self.marks.settle(&mut self.events);
    }

    /// Settles what the best prefix said long ago, and its silence since: no other may have said more by then. So no list of marks
    /// grows longer than the time, even where the best prefix says nothing.
    fn settle_old(&mut self) {
        let Some(limit) = self.frame.checked_sub(self.pruning.settle_frames) else {
            return;
        };
        let said = self.said_by(self.beam[self.best].best_path(), limit);
        self.keep_only(|search, path| search.said_by(path, limit) == said);
    }

    /// The last mark of a path that began at frame `limit` or before.
    fn said_by(&self, path: &Path, limit: u64) -> u32 {
        let mut mark = path.mark;
        while let Some(previous) = self
            .marks
            .previous(mark)
            .filter(|_| self.marks.start(mark) > limit)
        {
            mark = previous;
        }
        mark
    }

    /// Drops all paths but some, and prefixes without a path left.
    fn keep_only(&mut self, is_kept: impl Fn(&Self, &Path) -> bool) {
        self.next.clear();
        for entry in &self.beam {
            let mut kept = entry.clone();
            let blank = entry.blank > 0.0 && is_kept(self, &entry.blank_path);
            let sound = entry.sound > 0.0 && is_kept(self, &entry.sound_path);
            match (blank, sound) {
                (false, false) => continue,
                (true, false) => kept.sound_path = entry.blank_path,
                (false, true) => kept.blank_path = entry.sound_path,
                (true, true) => {}
            }
            self.marks.acquire(kept.blank_path.mark);
            self.marks.acquire(kept.sound_path.mark);
            self.next.push(kept);
        }
        // Scales must not be counted twice.
        self.exponent += i64::from(exponent(self.scale));
        self.replace_beam();
        self.settle();
    }

    fn goes_through(&self, path: &Path, wanted: u32) -> bool {
        let start = self.marks.start(wanted);
        let mut mark = path.mark;
        while mark != wanted {
            match self.marks.previous(mark) {
                Some(previous) if self.marks.start(mark) > start => mark = previous,
                _ => return false,
            }
        }
        true
    }

    fn restart_with(&mut self, place: usize) {
        let entry = &self.beam[place];
        let path = *entry.best_path();
        self.marks.report_path(&path, &mut self.events);
        let (token, blank, sound) = (entry.token, entry.blank, entry.sound);
        self.begin_with(token, self.marks.start(path.mark), blank, sound);
        for entry in &mut self.beam {
            for kept in [&mut entry.blank_path, &mut entry.sound_path] {
                (kept.end, kept.log_posterior) = (path.end, path.log_posterior);
            }
        }
    }

    /// A beam of one prefix that ends in `token`, whose run began at `start`.
    fn begin_with(&mut self, token: u32, start: u64, blank: f64, sound: f64) {
        self.tree.restart(token, self.scorer.start(), 0.0);
        self.marks.restart(token, start);
        self.word_head.clear();
        self.is_between_words = false;
        let path = Path {
            viterbi: 0.0,
            mark: self.marks.root(),
            end: start,
            log_posterior: 0.0,
        };
        self.marks.acquire(path.mark);
        self.marks.acquire(path.mark);
        self.beam.clear();
        self.beam.push(Entry {
            node: self.tree.root(),
            token,
            blank,
            sound,
            blank_path: path,
            sound_path: path,
        });
        self.best = 0;
    }

    fn log_of(&self, value: f64) -> f64 {
        value.ln() + self.exponent as f64 * std::f64::consts::LN_2
    }

    /// A prefix's score if the utterance ends here.
    fn end_score(&mut self, place: usize) -> f64 {
        let entry = &self.beam[place];
        let (node, total) = (entry.node, entry.total());
        let said = match self.scorer.best_word() {
            None => 0.0,
            Some(_) => {
                let (said, state) = self.complete_word(node);
                said + self.scorer.end(&state)
            }
        };
        self.log_of(total) + f64::from(said)
    }
}
