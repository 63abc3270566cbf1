//! The classes of a CTC head: what each output id spells and where words begin.
//!
//! A model directory holds them as `tokens.txt`, UTF-8, one class on each line; the line number, counted from 0, is
//! the id. `<blank>` is CTC's blank. `▁` (U+2581) at the head of a token begins a word, as in SentencePiece; a
//! character model has `▁` alone as its word separator. One rule reads both. Other names in angle brackets
//! (`<unk>`, `<s>`) spell nothing.

use std::collections::HashMap;

/// Begins a word: U+2581, SentencePiece's visible space.
pub const WORD_BOUNDARY: char = '▁';

const BLANK: &str = "<blank>";
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Why a `tokens.txt` cannot be used: every problem in the file, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tokens.txt: {}", join(.problems))]
#[non_exhaustive]
pub struct TokensError {
    /// At least one.
    pub problems: Vec<TokensProblem>,
}

/// One problem of a `tokens.txt`; lines are counted from 1, as editors do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokensProblem {
    /// The file is empty.
    #[error("no tokens")]
    NoTokens,
    /// No line is `<blank>`.
    #[error("no line is `{BLANK}`")]
    NoBlank,
    /// A line without a token would shift the meaning of no id, but it is never what was meant.
    #[error("line {line} is empty")]
    EmptyLine {
        /// Counted from 1.
        line: usize,
    },
    /// Two ids with one spelling.
    #[error("line {line} repeats `{token}` of line {first_line}")]
    Repeated {
        /// Counted from 1.
        line: usize,
        /// Where the token stands first.
        first_line: usize,
        /// As written.
        token: String,
    },
    /// White space, as in the "token id" files of other toolkits.
    #[error(
        "line {line} holds white space: expected one token on each line, its number is the id, found `{found}`"
    )]
    WhiteSpace {
        /// Counted from 1.
        line: usize,
        /// As written.
        found: String,
    },
    /// A word boundary that is not at the head of its token.
    #[error("line {line} holds `▁` inside the token `{token}`: expected it only at the beginning")]
    BoundaryInside {
        /// Counted from 1.
        line: usize,
        /// As written.
        token: String,
    },
}

/// At most this many problems are written out; the rest are counted.
const PROBLEMS_SHOWN: usize = 10;

fn join(problems: &[TokensProblem]) -> String {
    let mut shown: Vec<String> = problems
        .iter()
        .take(PROBLEMS_SHOWN)
        .map(ToString::to_string)
        .collect();
    if problems.len() > PROBLEMS_SHOWN {
        shown.push(format!("and {} more", problems.len() - PROBLEMS_SHOWN));
    }
    shown.join("; ")
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    /// As in the file.
    name: Box<str>,
    /// Where the spelling begins in `name`: behind the boundary mark, or at the end for what spells nothing.
    spelling_from: usize,
    begins_word: bool,
}

/// The classes of a CTC head, shared by all sessions of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    tokens: Box<[Token]>,
    blank: u32,
}

impl Tokens {
    /// Reads the text of a `tokens.txt`. Accepts Unix and Windows line ends, with or without the last one.
    ///
    /// # Errors
    /// Names every problem of the file at once.
    pub fn parse(text: &str) -> Result<Self, TokensError> {
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        let mut problems = Vec::new();
        let mut tokens = Vec::new();
        let mut first_lines = HashMap::new();
        for (index, name) in text.lines().enumerate() {
            let line = index + 1;
            if name.is_empty() {
                problems.push(TokensProblem::EmptyLine { line });
            } else if name.contains(char::is_whitespace) {
                problems.push(TokensProblem::WhiteSpace {
                    line,
                    found: name.to_owned(),
                });
            } else if name.chars().skip(1).any(|c| c == WORD_BOUNDARY) {
                problems.push(TokensProblem::BoundaryInside {
                    line,
                    token: name.to_owned(),
                });
            } else if let Some(&first_line) = first_lines.get(name) {
                problems.push(TokensProblem::Repeated {
                    line,
                    first_line,
                    token: name.to_owned(),
                });
            }
            first_lines.entry(name).or_insert(line);
            tokens.push(Token::new(name));
        }
        let blank = first_lines
            .get(BLANK)
            .and_then(|line| u32::try_from(line - 1).ok());
        if tokens.is_empty() {
            problems.push(TokensProblem::NoTokens);
        } else if blank.is_none() {
            problems.push(TokensProblem::NoBlank);
        }
        match blank {
            Some(blank) if problems.is_empty() => Ok(Self {
                tokens: tokens.into(),
                blank,
            }),
            _ => Err(TokensError { problems }),
        }
    }

    /// Number of classes, the blank included: the output dimension of the CTC head.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Always false: there is at least the blank.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The id of CTC's blank.
    pub fn blank(&self) -> u32 {
        self.blank
    }

    /// The token as written in the file, or `None` for an id that is no class.
    pub fn name(&self, id: u32) -> Option<&str> {
        self.get(id).map(|token| &*token.name)
    }

    /// What the token adds to a word: its name without the boundary mark; empty for the blank, for a lone
    /// boundary, for `<unk>` and its like, and for an id that is no class.
    pub fn spelling(&self, id: u32) -> &str {
        self.get(id)
            .map_or("", |token| token.name.get(token.spelling_from..).unwrap_or(""))
    }

    /// Whether the token begins a new word.
    pub fn begins_word(&self, id: u32) -> bool {
        self.get(id).is_some_and(|token| token.begins_word)
    }

    /// Bytes of the longest spelling.
    pub fn longest_spelling(&self) -> usize {
        self.tokens
            .iter()
            .map(|token| token.name.len() - token.spelling_from)
            .max()
            .unwrap_or(0)
    }

    fn get(&self, id: u32) -> Option<&Token> {
        self.tokens.get(usize::try_from(id).ok()?)
    }
}

impl Token {
    fn new(name: &str) -> Self {
        let begins_word = name.starts_with(WORD_BOUNDARY);
        let spells_nothing = name.len() > 2 && name.starts_with('<') && name.ends_with('>');
        let spelling_from = if begins_word {
            WORD_BOUNDARY.len_utf8()
        } else if spells_nothing {
            name.len()
        } else {
            0
        };
        Self {
            name: name.into(),
            spelling_from,
            begins_word,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_characters_and_word_pieces_by_one_rule() {
        let tokens = Tokens::parse("<blank>\n▁\na\n▁the\ning\n<unk>\n'\n<\n").unwrap();
        assert_eq!(tokens.len(), 8);
        assert_eq!(tokens.blank(), 0);
        let read: Vec<_> = (0..9)
            .map(|id| (tokens.begins_word(id), tokens.spelling(id)))
            .collect();
        let expected = [
            (false, ""),
            (true, ""),
            (false, "a"),
            (true, "the"),
            (false, "ing"),
            (false, ""),
            (false, "'"),
            (false, "<"),
            (false, ""),
        ];
        assert_eq!(read, expected);
        assert_eq!(tokens.name(3), Some("▁the"));
        assert_eq!(tokens.name(8), None);
    }

    #[test]
    fn blank_may_stand_anywhere() {
        let tokens = Tokens::parse("a\nb\n<blank>").unwrap();
        assert_eq!(tokens.blank(), 2);
    }

    #[test]
    fn windows_line_ends_and_byte_order_mark_are_no_part_of_tokens() {
        assert_eq!(
            Tokens::parse("\u{feff}<blank>\r\n▁a\r\n"),
            Tokens::parse("<blank>\n▁a\n")
        );
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let error = Tokens::parse("a\n\nb 3\na\nc▁d\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "tokens.txt: line 2 is empty; line 3 holds white space: expected one token on each line, its number is \
             the id, found `b 3`; line 4 repeats `a` of line 1; line 5 holds `▁` inside the token `c▁d`: expected \
             it only at the beginning; no line is `<blank>`"
        );
    }

    #[test]
    fn empty_file_says_so() {
        assert_eq!(
            Tokens::parse("").unwrap_err().to_string(),
            "tokens.txt: no tokens"
        );
    }

    #[test]
    fn a_file_of_another_format_gives_a_short_message() {
        let text: String = (0..5000).map(|id| format!("token{id} {id}\n")).collect();
        let error = Tokens::parse(&text).unwrap_err();
        assert_eq!(error.problems.len(), 5001);
        assert!(error.to_string().len() < 2000);
        assert!(error.to_string().ends_with("and 4991 more"));
    }
}
