//! Back-off n-gram language models: how probable a word is behind the words before it.
//!
//! A model is read from an ARPA file (plain or gzip) or from the compact form that [`LanguageModel::to_bytes`] writes, which loads
//! without parsing text. The law is Katz's back-off as ARPA files define it: a listed n-gram has its own probability, any other that of the same
//! word behind the shorter history, times the history's back-off weight if the history is listed. A word that is not in the vocabulary
//! scores as `<unk>`; where the file lists none, its log10 probability is -100, as in KenLM.

mod arpa;
mod compact;
pub(crate) mod spellings;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use compact::Scale;
use spellings::Spellings;

/// The longest n-grams that are read.
pub const MAX_ORDER: usize = 6;

const UNKNOWN: &str = "<unk>";
const BEGIN: &str = "<s>";
const END: &str = "</s>";

/// Why a language model cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LanguageModelError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The stream cannot be read or unpacked.
    #[error("cannot read the language model: {0}")]
    Read(#[from] std::io::Error),
    /// The text is not an ARPA file.
    #[error("ARPA line {line}: {reason}")]
    Arpa {
        /// Counted from 1.
        line: usize,
        /// What was expected and what was found.
        reason: String,
    },
    /// The bytes are not an intact compact model.
    #[error("compact language model: {0}")]
    Compact(String),
}

/// A word of a [`LanguageModel`], or its unknown word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WordId(u32);

/// The words before, as far as the model looks back: all that distinguishes two prefixes to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LanguageModelState {
    /// The oldest first; behind `len` all 0.
    words: [u32; MAX_ORDER - 1],
    len: u8,
}

/// Natural logs.
#[derive(Debug, Clone, PartialEq)]
enum Logs {
    /// As they were read from a text.
    Exact(Vec<f32>),
    /// As the compact form has them: most of a large model stays as small as its file.
    Coded(Scale, Vec<u8>),
}

impl Logs {
    fn get(&self, index: usize) -> Option<f32> {
        match self {
            Self::Exact(values) => values.get(index).copied(),
            Self::Coded(scale, codes) => codes.get(index).map(|&code| scale.value(code)),
        }
    }

    fn values(&self) -> Vec<f32> {
        match self {
            Self::Exact(values) => values.clone(),
            Self::Coded(scale, codes) => codes.iter().map(|&code| scale.value(code)).collect(),
        }
    }
}

/// The n-grams of one order, sorted by their words, as one layer of a trie.
#[derive(Debug, Clone, Default, PartialEq)]
struct Level<Values = Logs> {
    /// The last word of each; the words before it are those of its parent. The first level lists all words in order.
    words: Vec<u32>,
    log_probs: Values,
    /// Empty at the highest order.
    back_offs: Values,
    /// Where the children of each begin in the next level, and behind all of them its length; empty at the highest order.
    first_child: Vec<u32>,
}

/// An n-gram model. Immutable; shared by all sessions.
#[derive(Clone, PartialEq)]
pub struct LanguageModel {
    words: Vec<Box<str>>,
    ids: HashMap<Box<str>, u32>,
    spellings: Spellings,
    levels: Vec<Level>,
    unknown: u32,
    begin: u32,
    end: u32,
}

impl LanguageModel {
    /// Reads a file in any of the accepted forms.
    ///
    /// # Errors
    /// The file cannot be read, or see [`from_bytes`](Self::from_bytes).
    pub fn load(path: &Path) -> Result<Self, LanguageModelError> {
        let bytes = std::fs::read(path).map_err(|source| LanguageModelError::File {
            path: path.to_owned(),
            source,
        })?;
        Self::from_bytes(&bytes)
    }

    /// Reads a compact model, or an ARPA text that may be packed with gzip; the first bytes tell which.
    ///
    /// # Errors
    /// A malformed ARPA text is refused with its line, a compact model that is not intact with what is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LanguageModelError> {
        if compact::is_compact(bytes) {
            compact::read(bytes)
        } else if bytes.starts_with(&[0x1f, 0x8b]) {
            arpa::read(std::io::BufReader::new(flate2::read::MultiGzDecoder::new(bytes)))
        } else {
            arpa::read(bytes)
        }
    }

    /// The compact form: 8 bits for each logarithm, evenly spaced over their range at each order, so that each is kept within 1/508 of that range (about 0.03 of a natural log for
    /// models in use), packed, and a checksum. Log10 probabilities below -90 become -99.
    pub fn to_bytes(&self) -> Vec<u8> {
        compact::write(self)
    }

    /// The length of the longest n-grams.
    pub fn order(&self) -> usize {
        self.levels.len()
    }

    /// Number of n-grams of each order, shortest first.
    pub fn num_ngrams(&self) -> Vec<usize> {
        self.levels.iter().map(|level| level.words.len()).collect()
    }

    /// All words, the special ones included, in the order of their ids.
    pub fn words(&self) -> impl Iterator<Item = (&str, WordId)> {
        self.words.iter().zip(0..).map(|(word, id)| (&**word, WordId(id)))
    }

    /// The id of a word; that of `<unk>` for one that the model does not know.
    pub fn word(&self, word: &str) -> WordId {
        WordId(self.ids.get(word).copied().unwrap_or(self.unknown))
    }

    /// Whether the model knows a word, and so whether [`word`](Self::word) gives an id of its own.
    pub fn knows(&self, word: &str) -> bool {
        self.ids.contains_key(word)
    }

    /// How its words begin.
    pub(crate) fn spellings(&self) -> &Spellings {
        &self.spellings
    }

    /// The state at the beginning of a sentence.
    pub fn begin(&self) -> LanguageModelState {
        LanguageModelState::default().after(self.begin, self.order())
    }

    /// The state that knows of no words before.
    pub fn nothing_before(&self) -> LanguageModelState {
        LanguageModelState::default()
    }

    /// The natural logarithm of the probability of `word` in `state`, and the state behind it. Does not allocate.
    pub fn score(&self, state: LanguageModelState, word: WordId) -> (f32, LanguageModelState) {
        let id = if (word.0 as usize) < self.words.len() {
            word.0
        } else {
            self.unknown
        };
        (self.log_prob(state.words(), id), state.after(id, self.order()))
    }

    /// The natural logarithm of the probability that the sentence ends in `state`.
    pub fn end(&self, state: LanguageModelState) -> f32 {
        self.log_prob(state.words(), self.end)
    }

    fn log_prob(&self, history: &[u32], word: u32) -> f32 {
        let mut back_off = 0.0;
        for skipped in 0..history.len() {
            let Some(context) = history.get(skipped..).and_then(|context| self.find(context)) else {
                continue;
            };
            let (level, index) = context;
            if let Some(child) = self.child(level, index, word) {
                return back_off
                    + self
                        .levels
                        .get(level + 1)
                        .and_then(|level| level.log_probs.get(child))
                        .unwrap_or(0.0);
            }
            back_off += self
                .levels
                .get(level)
                .and_then(|level| level.back_offs.get(index))
                .unwrap_or(0.0);
        }
        let unigram = self
            .levels
            .first()
            .and_then(|level| level.log_probs.get(word as usize));
        back_off + unigram.unwrap_or(f32::NEG_INFINITY)
    }

    /// The level and the index in it of an n-gram, if it is listed.
    fn find(&self, ngram: &[u32]) -> Option<(usize, usize)> {
        let (first, rest) = ngram.split_first()?;
        let mut index = *first as usize;
        for (level, &word) in rest.iter().enumerate() {
            index = self.child(level, index, word)?;
        }
        Some((rest.len(), index))
    }

    fn child(&self, level: usize, index: usize, word: u32) -> Option<usize> {
        let first_child = &self.levels.get(level)?.first_child;
        let from = *first_child.get(index)? as usize;
        let to = *first_child.get(index + 1)? as usize;
        let children = self.levels.get(level + 1)?.words.get(from..to)?;
        Some(from + children.binary_search(&word).ok()?)
    }
}

impl LanguageModelState {
    fn words(&self) -> &[u32] {
        self.words.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// Appends a word and forgets what a model of this order does not look at.
    fn after(self, word: u32, order: usize) -> Self {
        let mut next = Self::default();
        let kept = order.saturating_sub(1).min(MAX_ORDER - 1);
        let before = self.words();
        let old = before
            .get(before.len().saturating_sub(kept.saturating_sub(1))..)
            .unwrap_or(&[]);
        let words = old.iter().copied().chain([word]).take(kept);
        for (place, word) in next.words.iter_mut().zip(words) {
            *place = word;
            next.len += 1;
        }
        next
    }
}

impl fmt::Debug for LanguageModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LanguageModel")
            .field("num_ngrams", &self.num_ngrams())
            .finish_non_exhaustive()
    }
}
