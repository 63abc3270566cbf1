//! Hotwords: words and phrases that a session expects, made more probable in the beam.
//!
//! Phrases are matched on what prefixes spell, letter by letter, not on tokens: every segmentation of a phrase into pieces counts, and a
//! phrase is found only from the beginning of a word to the end of one. Each matching letter adds the phrase's boost, so that a prefix gains while
//! it grows and is not pruned before it is complete; what a phrase has added is taken back as soon as the spelling leaves it. All phrases are one
//! automaton (Aho and Corasick, "Efficient string matching", CACM 1975): leaving one phrase goes on with another that the
//! last words begin.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use crate::language_model::spellings::Spellings;
use crate::tokens::Tokens;

/// A word or phrase, and how much it is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Hotword {
    /// Words with white space between them. Tried as it stands; in lower case, if the model cannot spell it so.
    pub text: String,
    /// Natural logarithm that each letter adds; see [`Hotwords::BOOST`].
    pub boost: f32,
}

/// Why a hotword is not used, or not as given.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HotwordWarning {
    /// No token spells a part of it.
    #[error("hotword `{text}` is left out: the model has no token for `{character}` there")]
    Unspellable {
        /// As given.
        text: String,
        /// The first character that cannot be reached.
        character: char,
    },
    /// Nothing but white space.
    #[error("hotword {index} is left out: it is empty")]
    Empty {
        /// Place in the list, counted from 0.
        index: usize,
    },
    /// Longer than is accepted.
    #[error(
        "hotword `{start}…` is left out: expected at most {} characters, found {found}",
        Hotwords::MAX_CHARACTERS
    )]
    TooLong {
        /// Its first characters.
        start: String,
        /// Its length.
        found: usize,
    },
    /// Behind the last one that is accepted.
    #[error(
        "{left_out} hotwords are left out: at most {} are accepted",
        Hotwords::MAX_COUNT
    )]
    TooMany {
        /// How many.
        left_out: usize,
    },
    /// A boost out of bounds.
    #[error(
        "hotword `{text}` has boost {used} instead of {found}: expected {} to {}",
        .accepted.start(),
        .accepted.end()
    )]
    Boost {
        /// As given.
        text: String,
        /// As given.
        found: f32,
        /// The nearest accepted one; 0 for what is not a number.
        used: f32,
        /// What is accepted.
        accepted: RangeInclusive<f32>,
    },
}

/// Where a prefix stands in the phrases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HotwordState(u32);

#[derive(Debug, Clone, Default, PartialEq)]
struct Node {
    /// Added since the last phrase on this path was complete: what is taken back.
    pending: f32,
    /// Of `pending`, or of that of a shorter phrase that ends here too, what stays when the word ends here.
    completes: f32,
    is_phrase: bool,
    /// The longest other path that the letters before end with.
    fallback: u32,
}

/// The phrases of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Hotwords {
    nodes: Vec<Node>,
    children: HashMap<(u32, char), u32>,
    /// Of each token: whether it begins a word, and its letters.
    tokens: Vec<(bool, Box<str>)>,
    /// Every word of every phrase.
    words: HashSet<Box<str>>,
    /// How they begin.
    spellings: Spellings,
    best_token: f32,
}

/// Before any word began as a phrase does, and wherever nothing matches.
const NOWHERE: u32 = 0;
/// At the beginning of a word.
const WORD_BEGINS: u32 = 1;
/// What words are separated by in paths.
const SEPARATOR: char = ' ';

impl Hotwords {
    /// Accepted number of hotwords.
    pub const MAX_COUNT: usize = 1000;
    /// Accepted length of a hotword, in characters.
    pub const MAX_CHARACTERS: usize = 100;
    /// Accepted boosts, natural logarithm for each letter. Above, other words suffer and no more hotwords are found; see the curves in `docs/language-model.md`.
    pub const BOOST: RangeInclusive<f32> = 0.0..=2.0;
    /// The boost where none is given: nearly all that can be found is found, for less than one further error in a hundred other words.
    pub const DEFAULT_BOOST: f32 = 1.0;

    /// Builds the automaton of all hotwords that can be used, and names those that cannot.
    pub fn new(tokens: &Tokens, hotwords: &[Hotword]) -> (Self, Vec<HotwordWarning>) {
        Self::with_boosts(tokens, hotwords, Self::BOOST)
    }

    /// As [`new`](Self::new), with other bounds for boosts: for who measures where the damage begins.
    pub fn with_boosts(
        tokens: &Tokens,
        hotwords: &[Hotword],
        boosts: RangeInclusive<f32>,
    ) -> (Self, Vec<HotwordWarning>) {
        let mut warnings = Vec::new();
        let mut built = Self {
            nodes: vec![Node::default(), Node::default()],
            children: HashMap::from([((NOWHERE, SEPARATOR), WORD_BEGINS)]),
            tokens: (0..)
                .take(tokens.len())
                .map(|id| (tokens.begins_word(id), tokens.spelling(id).into()))
                .collect(),
            words: HashSet::new(),
            spellings: Spellings::default(),
            best_token: 0.0,
        };
        let mut phrases = Vec::new();
        for (index, hotword) in hotwords.iter().take(Self::MAX_COUNT).enumerate() {
            let text = hotword.text.split_whitespace().collect::<Vec<_>>().join(" ");
            let length = text.chars().count();
            if text.is_empty() {
                warnings.push(HotwordWarning::Empty { index });
            } else if length > Self::MAX_CHARACTERS {
                warnings.push(HotwordWarning::TooLong {
                    start: text.chars().take(20).collect(),
                    found: length,
                });
            } else {
                let spelled = match built.unspellable(&text) {
                    None => Ok(text.clone()),
                    Some(character) => {
                        let lower = text.to_lowercase();
                        match built.unspellable(&lower) {
                            None => Ok(lower),
                            Some(_) => Err(character),
                        }
                    }
                };
                match spelled {
                    Ok(spelled) => {
                        phrases.push((spelled, accepted(&text, hotword.boost, &boosts, &mut warnings)))
                    }
                    Err(character) => warnings.push(HotwordWarning::Unspellable { text, character }),
                }
            }
        }
        if let Some(left_out) = hotwords
            .len()
            .checked_sub(Self::MAX_COUNT)
            .filter(|&count| count > 0)
        {
            warnings.push(HotwordWarning::TooMany { left_out });
        }
        built.words = phrases
            .iter()
            .flat_map(|(phrase, _)| phrase.split(SEPARATOR))
            .map(Box::from)
            .collect();
        built.spellings = Spellings::new(built.words.iter().map(|word| &**word));
        built.add(&phrases);
        (built, warnings)
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 2
    }

    /// Whether a word is, or is part of, what is looked for.
    pub fn has_word(&self, word: &str) -> bool {
        self.words.contains(word)
    }

    /// How the words of phrases begin.
    pub(crate) fn spellings(&self) -> &Spellings {
        &self.spellings
    }

    /// Bytes held on the heap: for each letter of the phrases some fifty, for each token of the model some thirty.
    pub fn heap_bytes(&self) -> usize {
        // A map's table has a control byte beside each place.
        let places = size_of::<((u32, char), u32)>() + 1;
        let letters = |texts: &mut dyn Iterator<Item = &Box<str>>| -> usize {
            texts.map(|text| size_of_val(&**text)).sum()
        };
        self.nodes.capacity() * size_of::<Node>()
            + self.children.capacity() * places
            + self.tokens.capacity() * size_of::<(bool, Box<str>)>()
            + letters(&mut self.tokens.iter().map(|(_, spelling)| spelling))
            + self.words.capacity() * (size_of::<Box<str>>() + 1)
            + letters(&mut self.words.iter())
            + self.spellings.heap_bytes()
    }

    /// The state of a prefix without tokens: a word begins.
    pub fn start(&self) -> HotwordState {
        HotwordState(WORD_BEGINS)
    }

    /// Appends a token: what that adds, negative where something is taken back, and the state behind it. Does not allocate.
    pub fn advance(&self, state: HotwordState, token: u32) -> (f32, HotwordState) {
        let Some((begins_word, letters)) = self.tokens.get(token as usize) else {
            return (0.0, state);
        };
        let (mut at, mut bonus) = (state.0, 0.0);
        for letter in begins_word
            .then_some(SEPARATOR)
            .into_iter()
            .chain(letters.chars())
        {
            let (gain, next) = self.letter(at, letter);
            bonus += gain;
            at = next;
        }
        (bonus, HotwordState(at))
    }

    /// The utterance ends in `state`: takes back what is not complete, and so is never positive.
    pub fn end(&self, state: HotwordState) -> f32 {
        self.node(state.0).completes - self.node(state.0).pending
    }

    /// The most that [`advance`](Self::advance) adds.
    pub fn best_token(&self) -> f32 {
        self.best_token
    }

    fn node(&self, index: u32) -> &Node {
        static NONE: Node = Node {
            pending: 0.0,
            completes: 0.0,
            is_phrase: false,
            fallback: NOWHERE,
        };
        self.nodes.get(index as usize).unwrap_or(&NONE)
    }

    fn letter(&self, at: u32, letter: char) -> (f32, u32) {
        let next = self.follow(at, letter);
        let kept = if letter == SEPARATOR {
            self.node(at).completes
        } else {
            0.0
        };
        (kept + self.node(next).pending - self.node(at).pending, next)
    }

    fn follow(&self, mut at: u32, letter: char) -> u32 {
        loop {
            if let Some(&child) = self.children.get(&(at, letter)) {
                return child;
            }
            if at == NOWHERE {
                return NOWHERE;
            }
            at = self.node(at).fallback;
        }
    }

    /// The first character that no segmentation into tokens gets past, if there is one.
    fn unspellable(&self, text: &str) -> Option<char> {
        for word in text.split(SEPARATOR) {
            let mut reached = vec![false; word.len() + 1];
            let mut furthest = 0;
            for from in 0..word.len() {
                if from > 0 && !reached.get(from).copied().unwrap_or(false) {
                    continue;
                }
                let rest = word.get(from..).unwrap_or("");
                for (begins_word, letters) in &self.tokens {
                    // A lone separator begins a word too, and any token may go on behind it.
                    let fits = !letters.is_empty() && rest.starts_with(&**letters);
                    if fits && (*begins_word == (from == 0) || (from == 0 && self.has_lone_separator())) {
                        let to = from + letters.len();
                        furthest = furthest.max(to);
                        if let Some(place) = reached.get_mut(to) {
                            *place = true;
                        }
                    }
                }
            }
            if reached.last() != Some(&true) {
                return word
                    .get(furthest..)
                    .and_then(|rest| rest.chars().next())
                    .or(word.chars().next());
            }
        }
        None
    }

    fn has_lone_separator(&self) -> bool {
        self.tokens
            .iter()
            .any(|(begins_word, letters)| *begins_word && letters.is_empty())
    }

    fn add(&mut self, phrases: &[(String, f32)]) {
        let mut boosts = vec![0.0_f32; self.nodes.len()];
        let mut parents = vec![(NOWHERE, SEPARATOR); self.nodes.len()];
        for (phrase, boost) in phrases {
            let mut at = WORD_BEGINS;
            for letter in phrase.chars() {
                let new = self.nodes.len() as u32;
                let next = *self.children.entry((at, letter)).or_insert(new);
                if next == new {
                    self.nodes.push(Node::default());
                    boosts.push(0.0);
                    parents.push((at, letter));
                }
                at = next;
                if let (Some(known), true) = (boosts.get_mut(at as usize), letter != SEPARATOR) {
                    *known = known.max(*boost);
                }
            }
            if let Some(node) = self.nodes.get_mut(at as usize) {
                node.is_phrase = true;
            }
        }
        // Fallbacks are shorter than what they stand for, so they are ready when paths are taken by length.
        let mut by_length = vec![(0_u32, WORD_BEGINS)];
        let mut length = vec![0_u32; self.nodes.len()];
        for index in 2..self.nodes.len() {
            let parent = parents.get(index).map_or(NOWHERE, |parent| parent.0);
            let of_parent = length.get(parent as usize).copied().unwrap_or(0);
            if let Some(place) = length.get_mut(index) {
                *place = of_parent + 1;
            }
            by_length.push((of_parent + 1, index as u32));
        }
        by_length.sort_unstable();
        for (_, index) in by_length.into_iter().skip(1) {
            let (parent, letter) = parents
                .get(index as usize)
                .copied()
                .unwrap_or((NOWHERE, SEPARATOR));
            let fallback = self.follow(self.node(parent).fallback, letter);
            let before = self.node(parent);
            let is_new = letter == SEPARATOR && before.is_phrase;
            let pending = if is_new { 0.0 } else { before.pending }
                + boosts.get(index as usize).copied().unwrap_or(0.0);
            let completes = match self.node(index).is_phrase {
                true => pending,
                // Never more than what can be taken back, where boosts differ.
                false => self.node(fallback).completes.min(pending),
            };
            if let Some(node) = self.nodes.get_mut(index as usize) {
                (node.pending, node.completes, node.fallback) = (pending, completes, fallback);
            }
        }
        self.best_token = self.most_of_a_letter() * (1 + self.longest_token()) as f32;
    }

    fn longest_token(&self) -> usize {
        self.tokens
            .iter()
            .map(|(_, letters)| letters.chars().count())
            .max()
            .unwrap_or(0)
    }

    /// The most that any letter adds anywhere: a child's own, or where a phrase is left for another, what that holds.
    fn most_of_a_letter(&self) -> f32 {
        let nodes = (0..).take(self.nodes.len());
        let letters: HashSet<char> = self.children.keys().map(|&(_, letter)| letter).collect();
        nodes
            .flat_map(|at| letters.iter().map(move |&letter| (at, letter)))
            .map(|(at, letter)| self.letter(at, letter).0)
            .fold(0.0, f32::max)
    }
}

fn accepted(text: &str, boost: f32, boosts: &RangeInclusive<f32>, warnings: &mut Vec<HotwordWarning>) -> f32 {
    let used = if boost.is_nan() {
        0.0
    } else {
        boost.max(*boosts.start()).min(*boosts.end())
    };
    if used != boost {
        warnings.push(HotwordWarning::Boost {
            text: text.to_owned(),
            found: boost,
            used,
            accepted: boosts.clone(),
        });
    }
    used
}
