//! Prefix beam search for words by their phones.
//!
//! The search keeps the most probable beginnings of texts: whole words, and a place in the tree of pronunciations where the open word stands. As in
//! [`PrefixBeam`](crate::ctc::PrefixBeam), paths that end in a blank are counted apart from those that end in a phone, and what is kept is the sum of all paths of a beginning; so words that
//! have several pronunciations are as probable as these are together. Probabilities are plain `f64`, scaled in each frame, with the scales' logarithms beside them.
//!
//! A beginning is worth its acoustics, what the words say of each other, and the best that a word at its place can still be (Ortmanns, Ney and Eiden, "Language-model look-ahead for large vocabulary speech
//! recognition", ICSLP 1996).

use std::collections::HashMap;

use super::lexicon::{Lexicon, ROOT};
use super::words::{Words, WordsState};
use crate::pauses::pause;

/// Beginnings that are kept from frame to frame.
const WIDTH: usize = 128;
/// A beginning whose score, a natural log, is further below the best one's is left out.
const DISTANCE: f64 = 14.0;
/// The least probable phone that is tried; the most probable class always is.
const LEAST: f32 = 3e-4;
/// Frames from one pause to the next.
const UNPAUSED: usize = 8;

/// A sequence of whole words.
#[derive(Debug, Clone, Copy)]
struct History {
    previous: u32,
    word: u32,
    state: WordsState,
    /// What the words say, a natural log.
    said: f64,
}

/// A beginning of a text.
#[derive(Debug, Clone, Copy)]
struct Beginning {
    history: u32,
    node: u32,
    /// Probability of the paths that end in a blank, scaled.
    blank: f64,
    /// Probability of the paths that end in the node's phone, scaled.
    sound: f64,
    score: f64,
}

impl Beginning {
    fn total(&self) -> f64 {
        self.blank + self.sound
    }

    fn place(&self) -> (u32, u32) {
        (self.history, self.node)
    }
}

/// A search of one utterance.
pub(super) struct Search<'a> {
    lexicon: &'a Lexicon,
    words: &'a Words,
    histories: Vec<History>,
    /// Longer histories by the shorter one and the word.
    longer: HashMap<(u32, u32), u32>,
    beam: Vec<Beginning>,
    next: Vec<Beginning>,
    /// Phones that are tried in the frame, with their probabilities.
    tried: Vec<(u8, f64)>,
}

impl<'a> Search<'a> {
    pub(super) fn new(lexicon: &'a Lexicon, words: &'a Words) -> Self {
        let nothing = History {
            previous: 0,
            word: u32::MAX,
            state: words.begin(),
            said: 0.0,
        };
        Self {
            lexicon,
            words,
            histories: vec![nothing],
            longer: HashMap::new(),
            beam: vec![Beginning {
                history: 0,
                node: ROOT,
                blank: 1.0,
                sound: 0.0,
                score: 0.0,
            }],
            next: Vec::new(),
            tried: Vec::new(),
        }
    }

    /// The `count` most probable texts of `(frames, classes)` probabilities, the best first, each as the numbers of its words. Allocates.
    pub(super) fn n_best(mut self, probabilities: &[f32], classes: usize, count: usize) -> Vec<Vec<u32>> {
        for (index, frame) in probabilities.chunks_exact(classes).enumerate() {
            if index % UNPAUSED == 0 {
                pause();
            }
            self.step(frame);
        }
        let mut ended: HashMap<u32, f64> = HashMap::new();
        for entry in std::mem::take(&mut self.beam) {
            if entry.node == ROOT {
                let score = entry.total().ln() + self.words.end(self.history(entry.history).state);
                ended.insert(entry.history, score);
            }
            for &word in self.lexicon.words(entry.node) {
                let longer = self.longer(entry.history, word);
                let History { state, said, .. } = self.history(longer);
                let score = entry.total().ln() + said + self.words.end(state);
                let sum = ended.entry(longer).or_insert(f64::NEG_INFINITY);
                *sum = sum.max(score) + (-(*sum - score).abs()).exp().ln_1p();
            }
        }
        let mut ended: Vec<(u32, f64)> = ended.into_iter().collect();
        ended.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        ended.truncate(count);
        ended.into_iter().map(|(history, _)| self.text(history)).collect()
    }

    /// Takes a frame's probabilities; class 0 is the blank.
    fn step(&mut self, frame: &[f32]) {
        let blank = f64::from(frame.first().copied().unwrap_or_default());
        let best = frame.iter().copied().fold(0.0, f32::max);
        self.tried.clear();
        for (class, &probability) in frame.iter().enumerate().skip(1) {
            if probability >= LEAST || probability >= best {
                self.tried.push((class as u8, f64::from(probability)));
            }
        }
        self.next.clear();
        let mut highest = f64::NEG_INFINITY;
        for place in 0..self.beam.len() {
            let entry = self.beam[place];
            let phone = self.lexicon.phone(entry.node);
            let again = self
                .tried
                .iter()
                .find(|&&(tried, _)| tried == phone && entry.node != ROOT);
            let stays = Beginning {
                blank: entry.total() * blank,
                sound: again.map_or(0.0, |&(_, probability)| entry.sound * probability),
                ..entry
            };
            self.propose(stays, &mut highest);
            if self.tried.is_empty() {
                continue;
            }
            self.extend(entry, entry.node, entry.history, &mut highest);
            for index in 0..self.lexicon.words(entry.node).len() {
                let word = self.lexicon.words(entry.node)[index];
                let longer = self.longer(entry.history, word);
                self.extend(entry, ROOT, longer, &mut highest);
            }
        }
        self.keep_best(highest);
    }

    /// Proposes what lies behind `node`: the phones that are tried, behind the paths of `entry`.
    fn extend(&mut self, entry: Beginning, node: u32, history: u32, highest: &mut f64) {
        let last = self.lexicon.phone(entry.node);
        let mut tried = 0;
        for child in self.lexicon.children(node) {
            let phone = self.lexicon.phone(child);
            // Both are sorted.
            while self.tried.get(tried).is_some_and(|&(other, _)| other < phone) {
                tried += 1;
            }
            match self.tried.get(tried) {
                Some(&(other, probability)) if other == phone => {
                    // Only behind a blank the same phone is a new one.
                    let before = if phone == last { entry.blank } else { entry.total() };
                    let longer = Beginning {
                        history,
                        node: child,
                        blank: 0.0,
                        sound: before * probability,
                        score: 0.0,
                    };
                    self.propose(longer, highest);
                }
                Some(_) => {}
                None => break,
            }
        }
    }

    fn propose(&mut self, mut proposed: Beginning, highest: &mut f64) {
        let total = proposed.total();
        if total <= 0.0 {
            return;
        }
        let said = self.history(proposed.history).said;
        proposed.score = total.ln() + said + f64::from(self.lexicon.ahead(proposed.node));
        if proposed.score >= *highest - DISTANCE {
            *highest = highest.max(proposed.score);
            self.next.push(proposed);
        }
    }

    /// Joins what is proposed several times, and makes the best of it the beam.
    fn keep_best(&mut self, highest: f64) {
        self.next.retain(|entry| entry.score >= highest - DISTANCE);
        self.next.sort_unstable_by_key(Beginning::place);
        self.next.dedup_by(|other, kept| {
            let is_same = other.place() == kept.place();
            if is_same {
                let before = kept.total();
                kept.blank += other.blank;
                kept.sound += other.sound;
                kept.score += (kept.total() / before).ln();
            }
            is_same
        });
        if self.next.len() > WIDTH {
            self.next
                .select_nth_unstable_by(WIDTH, |a, b| b.score.total_cmp(&a.score));
            self.next.truncate(WIDTH);
        }
        let scale = self.next.iter().map(Beginning::total).fold(0.0, f64::max).recip();
        if scale.is_finite() {
            for entry in &mut self.next {
                entry.blank *= scale;
                entry.sound *= scale;
            }
            std::mem::swap(&mut self.beam, &mut self.next);
        }
    }

    fn history(&self, index: u32) -> History {
        self.histories[index as usize]
    }

    /// The history with a further word.
    fn longer(&mut self, history: u32, word: u32) -> u32 {
        if let Some(&known) = self.longer.get(&(history, word)) {
            return known;
        }
        let before = self.history(history);
        let (said, state) = self.words.word(&before.state, word);
        let made = self.histories.len() as u32;
        self.histories.push(History {
            previous: history,
            word,
            state,
            said: before.said + said,
        });
        self.longer.insert((history, word), made);
        made
    }

    fn text(&self, mut history: u32) -> Vec<u32> {
        let mut words = Vec::new();
        while history != 0 {
            let entry = self.history(history);
            words.push(entry.word);
            history = entry.previous;
        }
        words.reverse();
        words
    }
}
