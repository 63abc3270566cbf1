//! ARPA text: `\data\` with the number of n-grams of each order, then for each order the section `\N-grams:` of lines
//! `log10-probability`, words, and unless at the highest order a log10 back-off weight that may be left out; at last `\end\`.

use std::collections::HashMap;
use std::f32::consts::LN_10;
use std::io::{BufRead, Read};

use super::spellings::Spellings;
use super::{BEGIN, END, LanguageModel, LanguageModelError, Level, Logs, MAX_ORDER, UNKNOWN};

/// As in KenLM, for a file without `<unk>`.
const MISSING_UNKNOWN_LOG10: f32 = -100.0;
/// No line of a sane file is longer.
const MAX_LINE_BYTES: u64 = 1 << 16;

struct Ngram {
    words: [u32; MAX_ORDER],
    log_prob: f32,
    back_off: f32,
    line: usize,
}

struct Lines<R> {
    reader: R,
    line: usize,
    text: String,
}

impl<R: BufRead> Lines<R> {
    /// The next line that is not blank, without white space around it.
    fn next(&mut self) -> Result<&str, LanguageModelError> {
        loop {
            self.line += 1;
            let mut bytes = Vec::new();
            (&mut self.reader)
                .take(MAX_LINE_BYTES)
                .read_until(b'\n', &mut bytes)?;
            if bytes.is_empty() {
                return Err(self.error("expected `\\end\\`, found the end of the file".to_owned()));
            }
            if bytes.len() as u64 == MAX_LINE_BYTES {
                return Err(self.error(format!("longer than {MAX_LINE_BYTES} bytes")));
            }
            let Ok(text) = String::from_utf8(bytes) else {
                return Err(self.error("not UTF-8".to_owned()));
            };
            if !text.trim().is_empty() {
                self.text = text;
                return Ok(self.text.trim());
            }
        }
    }

    fn error(&self, reason: String) -> LanguageModelError {
        LanguageModelError::Arpa {
            line: self.line,
            reason,
        }
    }
}

/// Reads an ARPA text.
pub(super) fn read(reader: impl BufRead) -> Result<LanguageModel, LanguageModelError> {
    let mut lines = Lines {
        reader,
        line: 0,
        text: String::new(),
    };
    // What some tools write before the data is free text.
    while lines.next()? != "\\data\\" {}
    let counts = read_counts(&mut lines)?;
    let order = counts.len();
    let mut words: Vec<Box<str>> = vec![UNKNOWN.into()];
    let mut ids: HashMap<Box<str>, u32> = HashMap::from([(UNKNOWN.into(), 0)]);
    let mut unigrams = Level {
        log_probs: vec![MISSING_UNKNOWN_LOG10 * LN_10],
        back_offs: vec![0.0],
        ..Level::default()
    };
    let mut has_unknown = false;
    for_each_ngram(
        &mut lines,
        1,
        order,
        counts.first().copied().unwrap_or(0),
        |lines, spelled, log_prob, back_off| {
            let word = spelled.first().copied().unwrap_or("");
            if word == UNKNOWN || word == "<UNK>" {
                if std::mem::replace(&mut has_unknown, true) {
                    return Err(lines.error(format!("`{word}` is listed twice")));
                }
                set_first(&mut unigrams.log_probs, log_prob);
                set_first(&mut unigrams.back_offs, back_off);
                return Ok(());
            }
            let Ok(id) = u32::try_from(words.len()) else {
                return Err(lines.error("more words than can be numbered".to_owned()));
            };
            if ids.insert(word.into(), id).is_some() {
                return Err(lines.error(format!("`{word}` is listed twice")));
            }
            words.push(word.into());
            unigrams.log_probs.push(log_prob);
            unigrams.back_offs.push(back_off);
            Ok(())
        },
    )?;
    unigrams.words = (0..).take(words.len()).collect();
    let special = |name: &str| {
        ids.get(name)
            .copied()
            .ok_or_else(|| lines.error(format!("expected `{name}` among the 1-grams, found none")))
    };
    let (begin, end) = (special(BEGIN)?, special(END)?);
    let mut levels = vec![unigrams];
    let mut parents: Vec<[u32; MAX_ORDER]> = (0..)
        .take(words.len())
        .map(|word| [word, 0, 0, 0, 0, 0])
        .collect();
    for (length, &count) in (2..).zip(counts.iter().skip(1)) {
        let mut ngrams = Vec::new();
        for_each_ngram(
            &mut lines,
            length,
            order,
            count,
            |lines, spelled, log_prob, back_off| {
                let mut key = [0; MAX_ORDER];
                for (place, &word) in key.iter_mut().zip(spelled) {
                    *place = *ids
                        .get(if word == "<UNK>" { UNKNOWN } else { word })
                        .ok_or_else(|| lines.error(format!("`{word}` is not among the 1-grams")))?;
                }
                ngrams.push(Ngram {
                    words: key,
                    log_prob,
                    back_off,
                    line: lines.line,
                });
                Ok(())
            },
        )?;
        ngrams.sort_by_key(|ngram| ngram.words);
        let level = hang(&ngrams, length, &parents, &mut levels)?;
        levels.push(level);
        parents = ngrams.iter().map(|ngram| ngram.words).collect();
    }
    let last = lines.next()?.to_owned();
    if last != "\\end\\" {
        return Err(lines.error(format!("expected `\\end\\`, found `{last}`")));
    }
    if let Some(highest) = levels.last_mut() {
        highest.back_offs = Vec::new();
    }
    Ok(LanguageModel {
        spellings: Spellings::new(words.iter().map(|word| &**word)),
        words,
        ids,
        levels: levels.into_iter().map(exact).collect(),
        unknown: 0,
        begin,
        end,
    })
}

/// `ngram N=COUNT` for every order from 1; ends with the header of the first section.
fn read_counts<R: BufRead>(lines: &mut Lines<R>) -> Result<Vec<usize>, LanguageModelError> {
    let mut counts = Vec::new();
    loop {
        let text = lines.next()?.to_owned();
        if text == "\\1-grams:" && !counts.is_empty() {
            return Ok(counts);
        }
        let expected = counts.len() + 1;
        let count = text
            .strip_prefix("ngram ")
            .and_then(|rest| rest.split_once('='))
            .filter(|(order, _)| order.trim().parse() == Ok(expected))
            .and_then(|(_, count)| count.trim().parse().ok());
        let Some(count) = count else {
            return Err(lines.error(format!(
                "expected `ngram {expected}=` and a number, found `{text}`"
            )));
        };
        if expected > MAX_ORDER {
            return Err(lines.error(format!("order {expected}, at most {MAX_ORDER} is read")));
        }
        counts.push(count);
    }
}

/// Reads `count` lines of the section of n-grams of this length, behind its header unless it is the first.
fn for_each_ngram<R: BufRead>(
    lines: &mut Lines<R>,
    length: usize,
    order: usize,
    count: usize,
    mut take: impl FnMut(&Lines<R>, &[&str], f32, f32) -> Result<(), LanguageModelError>,
) -> Result<(), LanguageModelError> {
    if length > 1 {
        let expected = format!("\\{length}-grams:");
        let found = lines.next()?.to_owned();
        if found != expected {
            return Err(lines.error(format!("expected `{expected}`, found `{found}`")));
        }
    }
    for taken in 0..count {
        let text = lines.next()?.to_owned();
        if text.starts_with('\\') {
            return Err(lines.error(format!("expected {count} {length}-grams, found {taken}")));
        }
        let fields: Vec<&str> = text
            .split([' ', '\t'])
            .filter(|field| !field.is_empty())
            .collect();
        let expects_back_off = length < order;
        let has_back_off = fields.len() == length + 2;
        if fields.len() != length + 1 && !has_back_off {
            let back_off = if expects_back_off {
                " and perhaps a back-off weight"
            } else {
                ""
            };
            return Err(lines.error(format!(
                "expected a log10 probability, {length} words{back_off}, found {} fields",
                fields.len()
            )));
        }
        let number = |text: &str| text.parse::<f32>().ok().filter(|number| number.is_finite());
        let (first, rest) = fields.split_first().unwrap_or((&"", &[]));
        let log_prob = number(first).filter(|&number| number <= 0.0).ok_or_else(|| {
            lines.error(format!(
                "expected a log10 probability of at most 0, found `{first}`"
            ))
        })?;
        let (words, weight) = rest.split_at(length);
        let back_off = match weight.first() {
            None => 0.0,
            Some(text) => number(text)
                .ok_or_else(|| lines.error(format!("expected a back-off weight, found `{text}`")))?,
        };
        take(lines, words, log_prob * LN_10, back_off * LN_10)?;
    }
    Ok(())
}

/// Makes a level of sorted n-grams and tells the level above where its children are.
fn hang(
    ngrams: &[Ngram],
    length: usize,
    parents: &[[u32; MAX_ORDER]],
    levels: &mut [Level<Vec<f32>>],
) -> Result<Level<Vec<f32>>, LanguageModelError> {
    let error = |ngram: &Ngram, reason: &str| LanguageModelError::Arpa {
        line: ngram.line,
        reason: reason.to_owned(),
    };
    if u32::try_from(ngrams.len()).is_err() {
        return Err(LanguageModelError::Compact(
            "more n-grams than can be numbered".to_owned(),
        ));
    }
    let mut level: Level<Vec<f32>> = Level::default();
    let mut first_child = Vec::with_capacity(parents.len() + 1);
    let mut rest = ngrams.iter().peekable();
    for parent in parents {
        first_child.push(level.words.len() as u32);
        let mut last = None;
        while let Some(ngram) =
            rest.next_if(|ngram| ngram.words.get(..length - 1) == parent.get(..length - 1))
        {
            let word = ngram.words.get(length - 1).copied().unwrap_or(0);
            if last == Some(word) {
                return Err(error(ngram, "the n-gram is listed twice"));
            }
            last = Some(word);
            level.words.push(word);
            level.log_probs.push(ngram.log_prob);
            level.back_offs.push(ngram.back_off);
        }
    }
    first_child.push(level.words.len() as u32);
    if let Some(ngram) = rest.next() {
        return Err(error(
            ngram,
            "the n-gram without its last word is not listed at the order below",
        ));
    }
    if let Some(above) = levels.last_mut() {
        above.first_child = first_child;
    }
    Ok(level)
}

fn exact(level: Level<Vec<f32>>) -> Level {
    Level {
        words: level.words,
        log_probs: Logs::Exact(level.log_probs),
        back_offs: Logs::Exact(level.back_offs),
        first_child: level.first_child,
    }
}

fn set_first(values: &mut [f32], value: f32) {
    if let Some(first) = values.first_mut() {
        *first = value;
    }
}
