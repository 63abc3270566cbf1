//! How words are pronounced: a list of words, each with one or more sequences of phones.

use std::io::Read;
use std::ops::Range;

use flate2::read::MultiGzDecoder;

/// Words and their pronunciations, sorted by word. Phones are classes of a phone head: 1 is the first name, 0 its blank.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pronunciations {
    letters: String,
    /// Where each word ends in `letters`.
    word_ends: Vec<u32>,
    /// Of each word its first pronunciation; behind all of them their number.
    first_pronunciation: Vec<u32>,
    phones: Vec<u8>,
    /// Where each pronunciation ends in `phones`.
    phone_ends: Vec<u32>,
}

/// A list that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PronunciationsError {
    /// It is not text, or its packing is broken.
    #[error("{0}")]
    Read(#[from] std::io::Error),
    /// A line is not a word, a tab, and phones with blanks between.
    #[error("line {line}: {reason}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What was expected and what was found.
        reason: String,
    },
}

impl Pronunciations {
    /// Reads a text, plain or packed with gzip: a line for each pronunciation, `word<TAB>PHONE PHONE …`, of phones among `names`. A word may have several lines, in any place.
    ///
    /// # Errors
    /// Names the line that cannot be read, and what was expected there.
    pub fn from_bytes(bytes: &[u8], names: &[String]) -> Result<Self, PronunciationsError> {
        let mut text = String::new();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            MultiGzDecoder::new(bytes).read_to_string(&mut text)?;
        } else {
            let mut plain = bytes;
            plain.read_to_string(&mut text)?;
        }
        let mut lines = Vec::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let refused = |reason: String| PronunciationsError::Line {
                line: index + 1,
                reason,
            };
            let (word, said) = line
                .split_once('\t')
                .filter(|(word, _)| !word.is_empty() && !word.contains(' '))
                .ok_or_else(|| refused(format!("expected a word, a tab and its phones, found {line:?}")))?;
            let phones: Vec<u8> = said
                .split(' ')
                .map(|phone| {
                    let class = names.iter().position(|name| name == phone);
                    let class = class.and_then(|class| u8::try_from(class + 1).ok());
                    class.ok_or_else(|| {
                        refused(format!(
                            "expected phones of config.json's `phones.names`, found {phone:?}"
                        ))
                    })
                })
                .collect::<Result<_, _>>()?;
            lines.push((word, phones));
        }
        lines.sort_unstable();
        lines.dedup();
        let mut made = Self::default();
        for (word, phones) in lines {
            let is_new = made.word_ends.is_empty() || made.word(made.word_ends.len() as u32 - 1) != word;
            if is_new {
                made.letters.push_str(word);
                made.word_ends.push(made.letters.len() as u32);
                made.first_pronunciation.push(made.phone_ends.len() as u32);
            }
            made.phones.extend(phones);
            made.phone_ends.push(made.phones.len() as u32);
        }
        made.first_pronunciation.push(made.phone_ends.len() as u32);
        Ok(made)
    }

    /// Number of words.
    pub fn num_words(&self) -> usize {
        self.word_ends.len()
    }

    /// The spelling of a word by its number.
    pub fn word(&self, index: u32) -> &str {
        let span = span(&self.word_ends, index);
        self.letters.get(span).unwrap_or_default()
    }

    /// The number of a word; `None` for one that is not in the list.
    pub fn find(&self, word: &str) -> Option<u32> {
        let (mut low, mut high) = (0, self.word_ends.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.word(middle as u32).cmp(word) {
                std::cmp::Ordering::Equal => return Some(middle as u32),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The pronunciations of a word, none of them empty.
    pub fn of(&self, index: u32) -> impl Iterator<Item = &[u8]> + '_ {
        let at = |index: usize| self.first_pronunciation.get(index).copied().unwrap_or_default();
        (at(index as usize)..at(index as usize + 1))
            .map(|said| self.phones.get(span(&self.phone_ends, said)).unwrap_or_default())
    }
}

/// The part with a number, of parts that lie behind each other and end there.
fn span(ends: &[u32], index: u32) -> Range<usize> {
    let begin = match index.checked_sub(1) {
        Some(previous) => ends.get(previous as usize).copied().unwrap_or_default(),
        None => 0,
    };
    begin as usize..ends.get(index as usize).copied().unwrap_or(begin) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        ["AH", "B", "K", "T"].map(String::from).to_vec()
    }

    #[test]
    fn words_are_found_with_all_that_they_sound_like() {
        let text = "cut\tK AH T\nbut\tB AH T\ncut\tK T\n\nbut\tB AH T\n";
        let list = Pronunciations::from_bytes(text.as_bytes(), &names()).unwrap();
        assert_eq!(list.num_words(), 2);
        let cut = list.find("cut").unwrap();
        assert_eq!(list.word(cut), "cut");
        let said: Vec<&[u8]> = list.of(cut).collect();
        assert_eq!(said, [&[3, 1, 4][..], &[3, 4]]);
        assert_eq!(list.of(list.find("but").unwrap()).count(), 1);
        for missing in ["", "cu", "cuts", "a", "z"] {
            assert_eq!(list.find(missing), None);
        }
    }

    #[test]
    fn a_packed_list_is_the_same_list() {
        let text = b"cut\tK AH T\n";
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut packed, text).unwrap();
        let packed = packed.finish().unwrap();
        let plain = Pronunciations::from_bytes(text, &names()).unwrap();
        assert_eq!(Pronunciations::from_bytes(&packed, &names()).unwrap(), plain);
        assert!(Pronunciations::from_bytes(&packed[..packed.len() / 2], &names()).is_err());
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, expected) in [
            (
                "cut\tK AH T\nbut B AH T\n",
                "line 2: expected a word, a tab and its phones, found \"but B AH T\"",
            ),
            ("a word\tAH\n", "line 1: expected a word, a tab and its phones"),
            (
                "cut\tK UH T\n",
                "line 1: expected phones of config.json's `phones.names`, found \"UH\"",
            ),
            ("cut\t\n", "line 1: expected phones"),
        ] {
            let error = Pronunciations::from_bytes(text.as_bytes(), &names())
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
