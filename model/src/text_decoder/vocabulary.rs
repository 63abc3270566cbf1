//! What a text decoder reads and writes: parts of words, and how words are spelled with them.
//!
//! A model directory holds the names as UTF-8, one on each line; the line number, counted from 0, is the id. `▁` (U+2581)
//! begins a word. The last three lines are Whisper's names for the beginning of a transcript, for a transcript without
//! times, and for its end. The order is byte-pair encoding's own: what was merged earlier comes first, so an id is a rank.

use std::collections::HashMap;

use crate::tokens::WORD_BOUNDARY;

/// Name of the vocabulary's file in a model directory.
pub const VOCABULARY_FILE: &str = "text_tokens.txt";

/// The last lines, in this order: a transcript begins, it has no times, it ends.
pub const SPECIAL_NAMES: [&str; 3] = ["<|startoftranscript|>", "<|notimestamps|>", "<|endoftext|>"];

const BYTE_ORDER_MARK: char = '\u{feff}';

/// Why a vocabulary cannot be used: every problem of the file, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{VOCABULARY_FILE}: {}", join(.problems))]
#[non_exhaustive]
pub struct TextVocabularyError {
    /// At least one.
    pub problems: Vec<TextVocabularyProblem>,
}

/// One problem of a vocabulary; lines are counted from 1, as editors do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextVocabularyProblem {
    /// There is nothing to spell with.
    #[error("no names besides the special ones")]
    NoNames,
    /// A line without a name would be an id that spells nothing.
    #[error("line {line} is empty")]
    EmptyLine {
        /// Counted from 1.
        line: usize,
    },
    /// White space, as in the "name id" files of other toolkits.
    #[error(
        "line {line} holds white space: expected one name on each line, its number is the id, found `{found}`"
    )]
    WhiteSpace {
        /// Counted from 1.
        line: usize,
        /// As written.
        found: String,
    },
    /// Two ids with one spelling.
    #[error("line {line} repeats `{name}` of line {first_line}")]
    Repeated {
        /// Counted from 1.
        line: usize,
        /// Where the name stands first.
        first_line: usize,
        /// As written.
        name: String,
    },
    /// A word boundary that is not at the head of its name.
    #[error("line {line} holds `▁` inside the name `{name}`: expected it only at the beginning")]
    BoundaryInside {
        /// Counted from 1.
        line: usize,
        /// As written.
        name: String,
    },
    /// The special names are not at the end.
    #[error("line {line}: expected `{expected}` (the last lines are {}), found {}",
        SPECIAL_NAMES.join(", "), .found.as_ref().map_or_else(|| "no line".to_owned(), |name| format!("`{name}`")))]
    Special {
        /// Counted from 1.
        line: usize,
        /// Which name belongs there.
        expected: &'static str,
        /// As written.
        found: Option<String>,
    },
}

/// At most this many problems are written out; the rest are counted.
const PROBLEMS_SHOWN: usize = 10;

fn join(problems: &[TextVocabularyProblem]) -> String {
    let shown = problems.iter().take(PROBLEMS_SHOWN);
    let mut shown: Vec<String> = shown.map(ToString::to_string).collect();
    if problems.len() > PROBLEMS_SHOWN {
        shown.push(format!("and {} more", problems.len() - PROBLEMS_SHOWN));
    }
    shown.join("; ")
}

/// Names and ids of a text decoder, shared by all sessions of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextVocabulary {
    names: Box<[Box<str>]>,
    /// Of everything but the special names, which no text spells.
    ids: HashMap<Box<str>, u32>,
}

impl TextVocabulary {
    /// Reads the text of a vocabulary. Accepts Unix and Windows line ends, with or without the last one.
    ///
    /// # Errors
    /// Names every problem of the file at once.
    pub fn parse(text: &str) -> Result<Self, TextVocabularyError> {
        let names: Vec<&str> = text
            .strip_prefix(BYTE_ORDER_MARK)
            .unwrap_or(text)
            .lines()
            .collect();
        let num_texts = names.len().saturating_sub(SPECIAL_NAMES.len());
        let mut problems = Vec::new();
        let mut first_lines = HashMap::new();
        for (index, &name) in names.iter().enumerate() {
            let line = index + 1;
            let owned = || name.to_owned();
            if name.is_empty() {
                problems.push(TextVocabularyProblem::EmptyLine { line });
            } else if name.contains(char::is_whitespace) {
                problems.push(TextVocabularyProblem::WhiteSpace { line, found: owned() });
            } else if name.chars().skip(1).any(|c| c == WORD_BOUNDARY) {
                problems.push(TextVocabularyProblem::BoundaryInside { line, name: owned() });
            } else if let Some(&first_line) = first_lines.get(name) {
                problems.push(TextVocabularyProblem::Repeated {
                    line,
                    first_line,
                    name: owned(),
                });
            }
            first_lines.entry(name).or_insert(line);
        }
        for (offset, expected) in SPECIAL_NAMES.into_iter().enumerate() {
            let found = names.get(num_texts + offset).copied();
            if found != Some(expected) {
                problems.push(TextVocabularyProblem::Special {
                    line: num_texts + offset + 1,
                    expected,
                    found: found.map(str::to_owned),
                });
            }
        }
        if num_texts == 0 && problems.is_empty() {
            problems.push(TextVocabularyProblem::NoNames);
        }
        if !problems.is_empty() {
            return Err(TextVocabularyError { problems });
        }
        Ok(Self {
            ids: (0..)
                .zip(&names[..num_texts])
                .map(|(id, &name)| (name.into(), id))
                .collect(),
            names: names.into_iter().map(Into::into).collect(),
        })
    }

    /// Number of names, the special ones included: the classes that the decoder chooses from.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Always false: there are at least the special names.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// A name as in the file, or `None` for an id that is none.
    pub fn name(&self, id: u32) -> Option<&str> {
        Some(self.names.get(usize::try_from(id).ok()?)?)
    }

    /// Begins every transcript. All ids below this one spell something.
    pub fn start(&self) -> u32 {
        (self.len() - SPECIAL_NAMES.len()) as u32
    }

    /// Follows [`start`](Self::start): a transcript without times.
    pub fn silent(&self) -> u32 {
        self.start() + 1
    }

    /// Ends every transcript.
    pub fn end(&self) -> u32 {
        self.start() + 2
    }

    /// Spells words, parted by white space. `None` when a character of a word is not in the vocabulary.
    pub fn encode(&self, text: &str) -> Option<Vec<u32>> {
        let mut ids = Vec::new();
        for word in text.split_whitespace() {
            self.spell(word, &mut ids)?;
        }
        Some(ids)
    }

    /// What the ids spell, words parted by one blank. Special ids, and those that are none, spell nothing.
    pub fn decode(&self, ids: &[u32]) -> String {
        let names = ids.iter().filter(|&&id| id < self.start());
        let joined: String = names.filter_map(|&id| self.name(id)).collect();
        joined.replace(WORD_BOUNDARY, " ").trim().to_owned()
    }

    /// Byte-pair encoding: joins, again and again, the two neighbours whose union has the lowest id, the leftmost of equals.
    fn spell(&self, word: &str, ids: &mut Vec<u32>) -> Option<()> {
        if word.contains(WORD_BOUNDARY) {
            return None;
        }
        let word = format!("{WORD_BOUNDARY}{word}");
        // Where each part begins, and the id of its union with the next one.
        let mut begins: Vec<usize> = word.char_indices().map(|(at, _)| at).collect();
        let union = |begins: &[usize], part: usize| {
            let end = begins.get(part + 2).copied().unwrap_or(word.len());
            self.ids.get(&word[begins[part]..end]).copied()
        };
        let mut unions: Vec<Option<u32>> = (0..begins.len() - 1).map(|part| union(&begins, part)).collect();
        loop {
            let ranked = unions.iter().enumerate();
            let best = ranked.filter_map(|(part, id)| Some(((*id)?, part))).min();
            let Some((_, part)) = best else { break };
            begins.remove(part + 1);
            unions.remove(part);
            for near in part.saturating_sub(1)..=part {
                if near < unions.len() {
                    unions[near] = union(&begins, near);
                }
            }
        }
        for (part, &begin) in begins.iter().enumerate() {
            let end = begins.get(part + 1).copied().unwrap_or(word.len());
            ids.push(*self.ids.get(&word[begin..end])?);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(names: &[&str]) -> TextVocabulary {
        TextVocabulary::parse(&[names, &SPECIAL_NAMES].concat().join("\n")).unwrap()
    }

    #[test]
    fn merges_the_lowest_rank_first_and_the_leftmost_of_equals() {
        let names = ["▁", "a", "b", "c", "bc", "ab", "▁a", "aa", "▁ab", "cab"];
        let vocabulary = vocabulary(&names);
        let spelled = |text: &str| {
            let ids = vocabulary.encode(text)?;
            Some(
                ids.iter()
                    .map(|&id| vocabulary.name(id).unwrap())
                    .collect::<Vec<_>>(),
            )
        };
        // `bc` is earlier than `ab`, although `ab` stands further left.
        assert_eq!(spelled("abc").unwrap(), ["▁a", "bc"]);
        assert_eq!(spelled("ab").unwrap(), ["▁ab"]);
        // `▁a` comes before `aa`; of the two `aa` left of `aaaa` then the first.
        assert_eq!(spelled("aaaa").unwrap(), ["▁a", "aa", "a"]);
        assert_eq!(spelled("cab  ab\n").unwrap(), ["▁", "cab", "▁ab"]);
        assert_eq!(spelled("").unwrap(), Vec::<&str>::new());
        for unspelt in ["abd", "a é", "a▁b", "<|endoftext|>", "A"] {
            assert_eq!(spelled(unspelt), None, "{unspelt}");
        }
    }

    /// The rule as it is usually written: strings, and a search of all pairs before each merge.
    fn plainly(vocabulary: &TextVocabulary, word: &str) -> Vec<u32> {
        let id = |name: &str| vocabulary.ids.get(name).copied();
        let mut parts: Vec<String> = format!("▁{word}").chars().map(String::from).collect();
        loop {
            let pairs = parts.windows(2).enumerate();
            let best = pairs
                .filter_map(|(at, pair)| Some((id(&pair.concat())?, at)))
                .min();
            let Some((_, at)) = best else { break };
            let second = parts.remove(at + 1);
            parts[at].push_str(&second);
        }
        parts.iter().map(|part| id(part).unwrap()).collect()
    }

    proptest::proptest! {
        #[test]
        fn spells_as_the_plain_rule_and_decodes_to_the_same(words in proptest::collection::vec("[abc]{1,12}", 0..4), seed in 0usize..1000) {
            let mut names = vec!["▁".to_owned(), "a".into(), "b".into(), "c".into()];
            let mut state = seed;
            for _ in 0..30 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let (left, right) = (&names[(state >> 33) % names.len()], &names[(state >> 45) % names.len()]);
                let union = format!("{left}{right}");
                if !names.contains(&union) && !right.starts_with('▁') {
                    names.push(union);
                }
            }
            let vocabulary = vocabulary(&names.iter().map(String::as_str).collect::<Vec<_>>());
            let expected: Vec<u32> = words.iter().flat_map(|word| plainly(&vocabulary, word)).collect();
            let text = words.join(" ");
            let ids = vocabulary.encode(&text).unwrap();
            proptest::prop_assert_eq!(&ids, &expected);
            proptest::prop_assert_eq!(vocabulary.decode(&ids), text);
        }
    }

    #[test]
    fn special_and_foreign_ids_spell_nothing() {
        let vocabulary = vocabulary(&["▁", "a", "▁a"]);
        let (start, silent, end) = (vocabulary.start(), vocabulary.silent(), vocabulary.end());
        assert_eq!((start, silent, end, vocabulary.len()), (3, 4, 5, 6));
        assert_eq!(vocabulary.decode(&[start, silent, 2, 1, 99, 2, end]), "aa a");
        assert_eq!(vocabulary.name(6), None);
    }

    #[test]
    fn names_every_problem_at_once() {
        let error =
            TextVocabulary::parse("a\n\nb c\na▁\na\n<|startoftranscript|>\n<|endoftext|>\n").unwrap_err();
        let message = error.to_string();
        for part in [
            "text_tokens.txt: line 2 is empty",
            "line 3 holds white space",
            "found `b c`",
            "line 4 holds `▁` inside the name `a▁`",
            "line 5 repeats `a` of line 1",
            "line 5: expected `<|startoftranscript|>`",
            "line 6: expected `<|notimestamps|>`",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
        let message = TextVocabulary::parse("").unwrap_err().to_string();
        assert!(message.contains("found no line"), "{message}");
        let message = TextVocabulary::parse(&SPECIAL_NAMES.join("\r\n"))
            .unwrap_err()
            .to_string();
        assert!(message.contains("no names besides the special ones"), "{message}");
    }
}
