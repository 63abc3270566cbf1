//! The open utterance: tokens joined to words, with their times and confidences.
//!
//! **Times** are output frames counted from the stream's start. A word starts at the first frame of its first token
//! that has letters: a lone word separator may come long before. CTC marks that a token was said, not how long it
//! lasted: its run is often a single frame. So a word ends [`WORD_TAIL`] behind the last frame of its last token,
//! which is about the length of a spoken letter, but never behind the token that begins the next word, nor behind
//! the last frame that has been seen when the utterance ends. So words never overlap, and each lasts at least one
//! frame.
//!
//! **Confidence** of a word is the probability that it is right, see [`confidence`](crate::confidence).

use std::time::Duration;

use crate::confidence::Evidence;
use crate::ctc::BeamEvent;
use crate::endpoint::frames_in;
use crate::tokens::Tokens;

/// How long a word goes on behind its last token, where nothing follows at once.
pub const WORD_TAIL: Duration = Duration::from_millis(80);

/// Elements and bytes that the standard library's growing containers begin with.
const SMALLEST_VECTOR: usize = 4;
const SMALLEST_STRING: usize = 8;

/// A recognised word.
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    /// As the tokens spell it.
    pub word: String,
    /// First output frame, counted from the stream's start.
    pub start: u64,
    /// The output frame behind the last one; greater than `start`, or `start` where a transducer began the next word in the same frame.
    pub end: u64,
    /// 0 to 1; see [`confidence`](crate::confidence).
    pub confidence: f32,
}

/// A token on the best path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmittedToken {
    /// Its class.
    pub id: u32,
    /// First output frame of its run, counted from the stream's start.
    pub start: u64,
    /// The output frame behind its run.
    pub end: u64,
    /// The highest natural log-posterior in its run.
    pub log_posterior: f32,
}

/// The words of one utterance: a partial while it may change, a final when it never will.
#[derive(Debug, Clone, PartialEq)]
pub struct Utterance {
    /// Counts from 0 in each stream.
    pub utterance: u64,
    /// First output frame of the first word, counted from the stream's start.
    pub start: u64,
    /// The output frame behind the last word.
    pub end: u64,
    /// In order, not overlapping; never empty.
    pub words: Vec<Word>,
    /// Leading words that stand in the final at the same place with the same times and confidence. All words of a
    /// final.
    pub stable_words: usize,
    /// 0 to 1; see [`confidence`](crate::confidence).
    pub confidence: f32,
    /// What the words were joined from, word separators included.
    pub tokens: Vec<EmittedToken>,
    /// What else it may have been, in finals where alternatives are asked for; the best one first.
    pub alternatives: Vec<Alternative>,
}

/// Another hypothesis for a whole utterance, with other words than the utterance and than all other alternatives.
#[derive(Debug, Clone, PartialEq)]
pub struct Alternative {
    /// In order, not overlapping; never empty.
    pub words: Vec<Word>,
    /// 0 to 1; see [`confidence`](crate::confidence).
    pub confidence: f32,
    /// Natural log of how probable it is, measured against the utterance's own words: at most 0.
    pub score: f32,
}

impl Alternative {
    /// The words joined by spaces. Allocates the text.
    pub fn text(&self) -> String {
        join(&self.words)
    }
}

impl Utterance {
    /// The words joined by spaces. Allocates the text.
    pub fn text(&self) -> String {
        join(&self.words)
    }
}

fn join(words: &[Word]) -> String {
    let mut text = String::with_capacity(words.iter().map(|word| word.word.len() + 1).sum());
    for word in words {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&word.word);
    }
    text
}

/// The words that tokens spell, as an utterance that ends at output frame `end`; `None` without letters. Allocates.
pub fn join_tokens(table: &Tokens, tokens: &[EmittedToken], frame: Duration, end: u64) -> Option<Utterance> {
    join_tokens_found_with(Evidence::Acoustics, table, tokens, frame, end)
}

/// As [`join_tokens`], for tokens that were found with a language model, or without.
pub fn join_tokens_found_with(
    evidence: Evidence,
    table: &Tokens,
    tokens: &[EmittedToken],
    frame: Duration,
    end: u64,
) -> Option<Utterance> {
    Hypothesis::new(frames_in(WORD_TAIL, frame), evidence).whole_with(table, 0, end, tokens)
}

/// Joins tokens to words. Holds only the open utterance: completed words and the tokens of the open one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Hypothesis {
    tail_frames: u64,
    evidence: Evidence,
    tokens: Vec<EmittedToken>,
    words: Vec<Word>,
    /// Index in `tokens` of the open word's first token.
    open_from: usize,
    /// First frame of the open word's first letter.
    open_start: Option<u64>,
    /// What begins earlier belongs to an utterance that is final, or to words that never change.
    floor: u64,
}

impl Hypothesis {
    pub(crate) fn new(tail_frames: u64, evidence: Evidence) -> Self {
        Self {
            tail_frames,
            evidence,
            tokens: Vec::new(),
            words: Vec::new(),
            open_from: 0,
            open_start: None,
            floor: 0,
        }
    }

    /// What counts now.
    pub(crate) fn evidence(&self) -> Evidence {
        self.evidence
    }

    /// From the next complete word on. Returns what counted before.
    pub(crate) fn set_evidence(&mut self, evidence: Evidence) -> Evidence {
        std::mem::replace(&mut self.evidence, evidence)
    }

    /// The complete words, and the tokens that they were joined from.
    pub(crate) fn completed(&self) -> (&[Word], &[EmittedToken]) {
        (&self.words, self.tokens.get(..self.open_from).unwrap_or_default())
    }

    /// As [`completed`](Self::completed), so many of them.
    pub(crate) fn first(&self, table: &Tokens, num_words: usize) -> (&[Word], &[EmittedToken]) {
        let words = self.words.get(..num_words).unwrap_or(&self.words);
        let tokens = self.tokens.get(..self.tokens_of(table, num_words));
        (words, tokens.unwrap_or_default())
    }

    /// How many tokens the first words are joined from: every word but the first begins with a token that begins one.
    fn tokens_of(&self, table: &Tokens, num_words: usize) -> usize {
        if num_words == 0 || num_words >= self.words.len() {
            return if num_words == 0 { 0 } else { self.open_from };
        }
        let begins = (1..self.open_from).filter(|&at| {
            let token = self.tokens.get(at);
            token.is_some_and(|token| table.begins_word(token.id))
        });
        begins
            .skip(num_words - 1)
            .chain([self.open_from])
            .next()
            .unwrap_or_default()
    }

    /// Forgets everything behind the first so many complete words.
    pub(crate) fn keep_words(&mut self, table: &Tokens, num_words: usize) {
        self.open_from = self.tokens_of(table, num_words);
        self.words.truncate(num_words);
        self.tokens.truncate(self.open_from);
        self.open_start = None;
    }

    /// Puts other words behind the first `num_words`, as far as they are complete and end at `until` or before; behind them stays what was
    /// there and begins later. Without others the words that are there count. Returns how many words come before what stayed.
    pub(crate) fn commit(
        &mut self,
        table: &Tokens,
        num_words: usize,
        others: Option<&[EmittedToken]>,
        until: u64,
    ) -> usize {
        let Some(others) = others else {
            let ended = self
                .words
                .iter()
                .skip(num_words)
                .take_while(|word| word.end <= until);
            return num_words + ended.count();
        };
        let before = self.tokens.clone();
        self.keep_words(table, num_words);
        for token in others {
            self.push_whole(table, token);
        }
        let ended = self
            .words
            .iter()
            .skip(num_words)
            .take_while(|word| word.end <= until);
        let committed = num_words + ended.count();
        self.keep_words(table, committed);
        let from = match self.words.last() {
            Some(last) if committed > 0 => last.end,
            _ => 0,
        };
        self.floor = self.floor.max(from);
        // What begins within the words that are stable now is another hearing of them.
        let later = before.iter().skip_while(|token| {
            let is_first = committed == 0;
            !is_first && (token.start < from || !table.begins_word(token.id))
        });
        for token in later {
            self.push_whole(table, token);
        }
        committed
    }

    /// Takes a whole token.
    pub(crate) fn push_whole(&mut self, table: &Tokens, token: &EmittedToken) {
        self.push(table, token.id, token.start, 0.0);
        self.apply(table, &BeamEvent::Ended(*token));
    }

    /// Takes a new token of the best path, first seen at `frame`. One that spells nothing and begins nothing
    /// leaves no trace.
    pub(crate) fn push(&mut self, table: &Tokens, id: u32, frame: u64, log_posterior: f32) {
        let has_letters = !table.spelling(id).is_empty();
        let begins_word = table.begins_word(id);
        if !has_letters && !begins_word {
            return;
        }
        if begins_word {
            self.close_word(table, frame);
            // A separator that no letters followed; dropped here so that a row of them takes no memory.
            self.tokens.truncate(self.open_from);
        }
        if has_letters && self.open_start.is_none() {
            self.open_start = Some(frame);
        }
        self.tokens.push(EmittedToken {
            id,
            start: frame,
            end: frame + 1,
            log_posterior,
        });
    }

    /// Takes a further frame of the run of `id`; ignored when the run began in an utterance that is final.
    pub(crate) fn extend(&mut self, id: u32, frame: u64, log_posterior: f32) {
        if let Some(last) = self.tokens.last_mut()
            && last.id == id
            && last.end == frame
        {
            last.end = frame + 1;
            last.log_posterior = last.log_posterior.max(log_posterior);
        }
    }

    /// Takes what a beam has settled, or would settle if its best prefix won. What concerns a token of an utterance
    /// that is final is ignored.
    pub(crate) fn apply(&mut self, table: &Tokens, event: &BeamEvent) {
        match event {
            // What begins within stable words is another hearing of them.
            BeamEvent::Began { start, .. } if *start < self.floor => {}
            BeamEvent::Began { id, start } => self.push(table, *id, *start, 0.0),
            BeamEvent::Ended(token) => {
                if let Some(last) = self.tokens.last_mut()
                    && (last.id, last.start) == (token.id, token.start)
                {
                    *last = *token;
                }
            }
        }
    }

    /// Whether a word is open: letters without a beginning of the next word behind them.
    pub(crate) fn has_open_word(&self) -> bool {
        self.open_start.is_some()
    }

    /// First frame of the first word, `None` while there is no letter.
    pub(crate) fn start(&self) -> Option<u64> {
        self.words.first().map(|word| word.start).or(self.open_start)
    }

    pub(crate) fn has_completed_words(&self) -> bool {
        !self.words.is_empty()
    }

    /// What has been heard up to `now`, the number of frames seen; the open word counts as not stable. Allocates.
    pub(crate) fn partial(&self, table: &Tokens, utterance: u64, now: u64) -> Option<Utterance> {
        let mut words = self.words.clone();
        let stable_words = words.len();
        words.extend(self.open_word(table, now));
        make_utterance(utterance, words, stable_words, self.tokens.clone())
    }

    /// As [`partial`](Self::partial), with `tail` behind what is settled, of which no word is stable.
    pub(crate) fn partial_with(
        &self,
        table: &Tokens,
        utterance: u64,
        now: u64,
        tail: &[BeamEvent],
    ) -> Option<Utterance> {
        let mut whole = self.clone();
        for event in tail {
            whole.apply(table, event);
        }
        let mut partial = whole.partial(table, utterance, now)?;
        partial.stable_words = self.words.len();
        Some(partial)
    }

    /// The utterance if it ended at `now` with `tail` behind what is settled.
    pub(crate) fn whole_with(
        &self,
        table: &Tokens,
        utterance: u64,
        now: u64,
        tail: &[EmittedToken],
    ) -> Option<Utterance> {
        let mut whole = self.clone();
        for token in tail {
            // The first one may go on with the last settled one, or with one of the utterance before.
            let known_until = whole.tokens.last().map(|last| last.start + 1);
            if token.start >= known_until.unwrap_or(whole.floor) {
                whole.push_whole(table, token);
            } else {
                whole.apply(table, &BeamEvent::Ended(*token));
            }
        }
        whole.take_all(table, utterance, now)
    }

    /// Ends the utterance with all its words, at `now`. A separator behind the last word stays for the next one.
    pub(crate) fn take_all(&mut self, table: &Tokens, utterance: u64, now: u64) -> Option<Utterance> {
        self.close_word(table, now);
        let all = self.take_completed(utterance);
        self.floor = now;
        all
    }

    /// Ends the utterance behind its last completed word; the open one stays.
    pub(crate) fn take_completed(&mut self, utterance: u64) -> Option<Utterance> {
        let words = std::mem::take(&mut self.words);
        self.floor = words.last().map_or(self.floor, |word| word.end);
        let tokens = self.tokens.drain(..self.open_from).collect();
        self.open_from = 0;
        let stable_words = words.len();
        make_utterance(utterance, words, stable_words, tokens)
    }

    /// Ends the utterance behind so many of its words; what comes behind them stays.
    pub(crate) fn take_first(
        &mut self,
        table: &Tokens,
        utterance: u64,
        num_words: usize,
    ) -> Option<Utterance> {
        let num_tokens = self.tokens_of(table, num_words);
        let words: Vec<Word> = self.words.drain(..num_words.min(self.words.len())).collect();
        self.floor = words.last().map_or(self.floor, |word| word.end);
        let tokens = self.tokens.drain(..num_tokens).collect();
        self.open_from -= num_tokens;
        make_utterance(utterance, words, num_words, tokens)
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        let spellings: usize = self.words.iter().map(|word| word.word.capacity()).sum();
        self.tokens.capacity() * size_of::<EmittedToken>()
            + self.words.capacity() * size_of::<Word>()
            + spellings
    }

    /// The most that [`heap_bytes`](Self::heap_bytes) can be with that many tokens. A growing vector or string holds
    /// at most twice what it needs, or its smallest size.
    pub(crate) fn max_heap_bytes(num_tokens: usize, longest_spelling: usize) -> usize {
        let each = size_of::<EmittedToken>() + size_of::<Word>() + longest_spelling.max(SMALLEST_STRING);
        num_tokens
            .max(SMALLEST_VECTOR)
            .saturating_mul(2)
            .saturating_mul(each)
    }

    /// Completes the open word if it has letters: nothing that starts before `until` belongs to a later one.
    fn close_word(&mut self, table: &Tokens, until: u64) {
        if let Some(word) = self.open_word(table, until) {
            self.words.push(word);
            self.open_from = self.tokens.len();
            self.open_start = None;
        }
    }

    fn open_word(&self, table: &Tokens, until: u64) -> Option<Word> {
        let start = self.open_start?;
        let tokens = self.tokens.get(self.open_from..)?;
        let last = tokens.last()?;
        let word: String = tokens.iter().map(|token| table.spelling(token.id)).collect();
        Some(Word {
            confidence: self.evidence.confidence(tokens, word.chars().count()),
            word,
            start,
            end: (last.end + self.tail_frames).min(until),
        })
    }
}

fn make_utterance(
    utterance: u64,
    words: Vec<Word>,
    stable_words: usize,
    tokens: Vec<EmittedToken>,
) -> Option<Utterance> {
    let (start, end) = (words.first()?.start, words.last()?.end);
    let confidence = words.iter().map(|word| word.confidence).sum::<f32>() / words.len() as f32;
    Some(Utterance {
        utterance,
        start,
        end,
        words,
        stable_words,
        confidence,
        tokens,
        alternatives: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Tokens {
        Tokens::parse("<blank>\n▁\na\nb\n▁the\n<unk>\n").unwrap()
    }

    fn word(text: &str, start: u64, end: u64, confidence: f32) -> Word {
        Word {
            word: text.to_owned(),
            start,
            end,
            confidence,
        }
    }

    #[test]
    fn a_word_starts_at_its_first_letter_and_ends_behind_its_tail() {
        let table = table();
        let mut hypothesis = Hypothesis::new(2, Evidence::Acoustics);
        for (id, frame) in [(1, 3), (2, 10), (3, 12)] {
            hypothesis.push(&table, id, frame, 0.0);
        }
        hypothesis.extend(3, 13, 0.0);
        let partial = hypothesis.partial(&table, 7, 40).unwrap();
        assert_eq!(partial.words, [word("ab", 10, 16, 1.0)]);
        assert_eq!(
            (
                partial.utterance,
                partial.start,
                partial.end,
                partial.stable_words
            ),
            (7, 10, 16, 0)
        );
        assert_eq!(
            hypothesis.partial(&table, 7, 14).unwrap().end,
            14,
            "not behind the last frame seen"
        );
    }

    #[test]
    fn the_tail_stops_where_the_next_word_begins() {
        let table = table();
        let mut hypothesis = Hypothesis::new(5, Evidence::Acoustics);
        for (id, frame) in [(4, 0), (1, 2), (2, 3), (4, 4)] {
            hypothesis.push(&table, id, frame, 0.0);
        }
        let all = hypothesis.take_all(&table, 0, 20).unwrap();
        assert_eq!(
            all.words,
            [
                word("the", 0, 2, 1.0),
                word("a", 3, 4, 1.0),
                word("the", 4, 10, 1.0)
            ]
        );
        assert_eq!(all.text(), "the a the");
        assert_eq!(all.stable_words, 3);
    }

    #[test]
    fn words_are_as_sure_as_their_tokens_and_the_utterance_as_its_words_on_average() {
        let table = table();
        for evidence in [
            Evidence::Acoustics,
            Evidence::LanguageModel,
            Evidence::SecondListener,
            Evidence::Phones,
        ] {
            let mut hypothesis = Hypothesis::new(1, Evidence::Acoustics);
            assert_eq!(hypothesis.set_evidence(evidence), Evidence::Acoustics);
            hypothesis.push(&table, 1, 0, 0.5f32.ln());
            hypothesis.push(&table, 2, 1, 0.1f32.ln());
            hypothesis.extend(2, 2, 0.5f32.ln());
            hypothesis.push(&table, 4, 5, 0.0);
            let all = hypothesis.take_all(&table, 0, 6).unwrap();
            // The separator counts, and the best of a run.
            let expected = [
                evidence.confidence(&all.tokens[..2], 1),
                evidence.confidence(&all.tokens[2..], 3),
            ];
            assert_eq!([all.words[0].confidence, all.words[1].confidence], expected);
            assert!(
                (all.confidence - (expected[0] + expected[1]) / 2.0).abs() < 1e-6,
                "{all:?}"
            );
            if evidence == Evidence::Acoustics {
                assert!(
                    (expected[0] - 1.0 / (1.0 + 2.0649 * 2.2255)).abs() < 1e-4,
                    "{all:?}"
                );
                assert_eq!(expected[1], 1.0);
            }
        }
    }

    #[test]
    fn separators_without_letters_make_no_word_and_take_no_memory() {
        let table = table();
        let mut hypothesis = Hypothesis::new(1, Evidence::Acoustics);
        for frame in 0..1000 {
            hypothesis.push(&table, 1, 2 * frame, 0.0);
            hypothesis.push(&table, 5, 2 * frame + 1, 0.0);
        }
        assert_eq!(hypothesis.start(), None);
        assert_eq!(hypothesis.tokens.len(), 1);
        assert_eq!(hypothesis.take_all(&table, 0, 2000), None);
        hypothesis.push(&table, 2, 2000, 0.0);
        assert_eq!(
            hypothesis.take_all(&table, 0, 2001).unwrap().words,
            [word("a", 2000, 2001, 1.0)]
        );
    }

    #[test]
    fn the_open_word_stays_when_the_utterance_is_cut() {
        let table = table();
        let mut hypothesis = Hypothesis::new(1, Evidence::Acoustics);
        for (id, frame) in [(4, 0), (1, 5), (2, 6)] {
            hypothesis.push(&table, id, frame, 0.0);
        }
        assert_eq!(hypothesis.take_completed(0).unwrap().text(), "the");
        hypothesis.push(&table, 3, 8, 0.0);
        assert_eq!(
            hypothesis.take_all(&table, 1, 9).unwrap().words,
            [word("ab", 6, 9, 1.0)]
        );
    }

    #[test]
    fn a_run_that_began_before_the_final_adds_nothing() {
        let table = table();
        let mut hypothesis = Hypothesis::new(1, Evidence::Acoustics);
        hypothesis.push(&table, 2, 0, -1.0);
        assert!(hypothesis.take_all(&table, 0, 1).is_some());
        hypothesis.extend(2, 1, 0.0);
        assert_eq!(hypothesis.take_all(&table, 1, 2), None);
    }
}
