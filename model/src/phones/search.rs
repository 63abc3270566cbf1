//! Prefix beam search for words by their phones.
//!
//! The search keeps the most probable beginnings of texts: whole words, and a place in the tree of pronunciations where the open word stands. As in
//! [`PrefixBeam`](crate::ctc::PrefixBeam), paths that end in a blank are counted apart from those that end in a phone, and what is kept is the sum of all paths of a beginning; so words that
//! have several pronunciations are as probable as these are together. What words say of each other is multiplied in as soon as a word is complete. Probabilities are plain `f64`, scaled in each frame so that the best is near 1;
//! nobody needs to know by how much.
//!
//! A beginning is worth its probability times the best that a word at its place can still add (Ortmanns, Ney and Eiden, "Language-model look-ahead for large vocabulary speech
//! recognition", ICSLP 1996).

use foldhash::{HashMap, HashMapExt};

use super::lexicon::{Lexicon, ROOT};
use super::words::{Words, WordsState};
use crate::pauses::pause;

/// Beginnings that are kept from frame to frame, where nobody says otherwise.
pub(super) const WIDTH: usize = 128;
/// A beginning that is worth less than this part of the best one is left out: 14 nats.
const LEAST_SHARE: f64 = 8e-7;
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
    /// What the last word multiplies by.
    factor: f64,
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
    worth: f64,
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
    width: usize,
    histories: Vec<History>,
    /// Longer histories by the shorter one and the word.
    longer: HashMap<(u32, u32), u32>,
    beam: Vec<Beginning>,
    next: Vec<Beginning>,
    /// Phones that are tried in the frame, with their probabilities.
    tried: Vec<(u8, f64)>,
    /// The most that a word ever multiplies by.
    best_factor: f64,
}

impl<'a> Search<'a> {
    /// At the start of an utterance, keeping at most `width` beginnings.
    pub(super) fn new(lexicon: &'a Lexicon, words: &'a Words, width: usize) -> Self {
        let nothing = History {
            previous: 0,
            word: u32::MAX,
            state: words.begin(),
            factor: 1.0,
        };
        Self {
            lexicon,
            words,
            width,
            histories: vec![nothing],
            longer: HashMap::new(),
            beam: vec![Beginning {
                history: 0,
                node: ROOT,
                blank: 1.0,
                sound: 0.0,
                worth: 1.0,
            }],
            next: Vec::new(),
            tried: Vec::new(),
            best_factor: words.best().exp(),
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
                let end = self.words.end(self.history(entry.history).state);
                ended.insert(entry.history, entry.total() * end.exp());
            }
            for &word in self.lexicon.words(entry.node) {
                let longer = self.longer(entry.history, word);
                let History { state, factor, .. } = self.history(longer);
                *ended.entry(longer).or_default() += entry.total() * factor * self.words.end(state).exp();
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
        if self.tried.is_empty() {
            // A blank and nothing else: all stay, and none gains on another.
            for entry in &mut self.beam {
                (entry.blank, entry.sound) = (entry.total(), 0.0);
            }
            return;
        }
        self.next.clear();
        let likeliest = self
            .tried
            .iter()
            .map(|&(_, probability)| probability)
            .fold(0.0, f64::max);
        let mut highest = 0.0;
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
            // The most that a longer one can be.
            let most = entry.total() * likeliest;
            if most * f64::from(self.lexicon.ahead(entry.node)) > highest * LEAST_SHARE {
                self.extend(entry, &mut highest);
            }
            if most * self.best_factor <= highest * LEAST_SHARE {
                continue;
            }
            for &word in self.lexicon.words(entry.node) {
                let longer = self.longer(entry.history, word);
                let factor = self.history(longer).factor;
                if most * factor > highest * LEAST_SHARE {
                    self.begin_word(entry, longer, factor, &mut highest);
                }
            }
        }
        self.keep_best(highest);
    }

    /// Proposes the longer beginnings of the open word: the phones that are tried, behind the paths of `entry`.
    fn extend(&mut self, entry: Beginning, highest: &mut f64) {
        let mut tried = 0;
        for child in self.lexicon.children(entry.node) {
            let phone = self.lexicon.phone(child);
            // Both are sorted.
            while self.tried.get(tried).is_some_and(|&(other, _)| other < phone) {
                tried += 1;
            }
            match self.tried.get(tried) {
                Some(&(other, probability)) if other == phone => {
                    self.propose_behind(entry, phone, (entry.history, child), probability, highest);
                }
                Some(_) => {}
                None => break,
            }
        }
    }

    /// Proposes the first phones of a next word, where the open one is complete with a factor for it.
    fn begin_word(&mut self, entry: Beginning, history: u32, factor: f64, highest: &mut f64) {
        for index in 0..self.tried.len() {
            let (phone, probability) = self.tried[index];
            if let Some(child) = self.lexicon.first(phone) {
                self.propose_behind(entry, phone, (history, child), factor * probability, highest);
            }
        }
    }

    /// Proposes a place behind the paths of `entry`; only behind a blank the same phone is a new one.
    fn propose_behind(
        &mut self,
        entry: Beginning,
        phone: u8,
        (history, node): (u32, u32),
        factor: f64,
        highest: &mut f64,
    ) {
        let is_again = phone == self.lexicon.phone(entry.node);
        let before = if is_again { entry.blank } else { entry.total() };
        let longer = Beginning {
            history,
            node,
            blank: 0.0,
            sound: before * factor,
            worth: 0.0,
        };
        self.propose(longer, highest);
    }

    fn propose(&mut self, mut proposed: Beginning, highest: &mut f64) {
        proposed.worth = proposed.total() * f64::from(self.lexicon.ahead(proposed.node));
        if proposed.worth > *highest * LEAST_SHARE {
            *highest = highest.max(proposed.worth);
            self.next.push(proposed);
        }
    }

    /// Joins what is proposed several times, and makes the best of it the beam.
    fn keep_best(&mut self, highest: f64) {
        self.next.retain(|entry| entry.worth > highest * LEAST_SHARE);
        self.next.sort_unstable_by_key(Beginning::place);
        self.next.dedup_by(|other, kept| {
            let is_same = other.place() == kept.place();
            if is_same {
                kept.blank += other.blank;
                kept.sound += other.sound;
                kept.worth += other.worth;
            }
            is_same
        });
        if self.next.len() > self.width {
            self.next
                .select_nth_unstable_by(self.width, |a, b| b.worth.total_cmp(&a.worth));
            self.next.truncate(self.width);
        }
        let best = (0..self.next.len()).max_by(|&a, &b| self.next[a].worth.total_cmp(&self.next[b].worth));
        // A frame in which nothing is possible changes nothing.
        let Some(best) = best else { return };
        // The best one first: what is worth too little is then seen at once.
        self.next.swap(0, best);
        let scale = self.next[0].worth.recip();
        for entry in &mut self.next {
            entry.blank *= scale;
            entry.sound *= scale;
        }
        std::mem::swap(&mut self.beam, &mut self.next);
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
            factor: said.exp(),
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
