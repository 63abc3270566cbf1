//! The compact form, all little-endian: `WXNG`, version u16, order u16, n-grams of each order u32; bytes of the words u32 and the words, each
//! ended by a line feed; then for each order the least and the greatest log-probability and back-off weight f32 and as columns: last words (u16
//! where the vocabulary allows, else u32; none at order 1), log-probabilities u16, and unless at the highest order back-off weights u16 and
//! numbers of children (as wide as words); at last the CRC-32 of all before.

use std::collections::HashMap;
use std::f32::consts::LN_10;

use super::spellings::Spellings;
use super::{BEGIN, END, LanguageModel, LanguageModelError, Level, MAX_ORDER, UNKNOWN};

const MAGIC: &[u8] = b"WXNG";
const VERSION: u16 = 1;
/// Probabilities below are as good as none; they would spoil the spacing of the others.
const NEVER: f32 = -90.0 * LN_10;
const NEVER_LOG_PROB: f32 = -99.0 * LN_10;
/// Codes of numbers; 0 stands for [`NEVER_LOG_PROB`].
const STEPS: f32 = (u16::MAX - 1) as f32;

pub(super) fn is_compact(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Evenly spaced values.
#[derive(Clone, Copy)]
struct Scale {
    least: f32,
    greatest: f32,
}

impl Scale {
    fn of(values: &[f32]) -> Self {
        let usual = || values.iter().copied().filter(|&value| value > NEVER);
        let least = usual().fold(f32::INFINITY, f32::min);
        let greatest = usual().fold(f32::NEG_INFINITY, f32::max);
        if least <= greatest {
            Self { least, greatest }
        } else {
            Self {
                least: 0.0,
                greatest: 0.0,
            }
        }
    }

    fn code(self, value: f32) -> u16 {
        let range = self.greatest - self.least;
        match value {
            _ if value <= NEVER => 0,
            _ if range <= 0.0 => 1,
            _ => 1 + ((value - self.least) / range * STEPS).round().clamp(0.0, STEPS) as u16,
        }
    }

    fn value(self, code: u16) -> f32 {
        match code {
            0 => NEVER_LOG_PROB,
            _ => self.least + (self.greatest - self.least) * (f32::from(code - 1) / STEPS),
        }
    }
}

/// Whether ids and numbers of children fit 16 bits.
fn is_narrow(num_words: usize) -> bool {
    num_words <= usize::from(u16::MAX)
}

pub(super) fn write(model: &LanguageModel) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((model.order() as u16).to_le_bytes());
    for count in model.num_ngrams() {
        bytes.extend((count as u32).to_le_bytes());
    }
    let text: String = model.words.iter().flat_map(|word| [&**word, "\n"]).collect();
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text.as_bytes());
    let narrow = is_narrow(model.words.len());
    let put = |bytes: &mut Vec<u8>, number: u32| match narrow {
        true => bytes.extend((number as u16).to_le_bytes()),
        false => bytes.extend(number.to_le_bytes()),
    };
    for (index, level) in model.levels.iter().enumerate() {
        let log_probs = Scale::of(&level.log_probs);
        let back_offs = Scale::of(&level.back_offs);
        for bound in [
            log_probs.least,
            log_probs.greatest,
            back_offs.least,
            back_offs.greatest,
        ] {
            bytes.extend(bound.to_le_bytes());
        }
        if index > 0 {
            level.words.iter().for_each(|&word| put(&mut bytes, word));
        }
        bytes.extend(
            level
                .log_probs
                .iter()
                .flat_map(|&value| log_probs.code(value).to_le_bytes()),
        );
        bytes.extend(
            level
                .back_offs
                .iter()
                .flat_map(|&value| back_offs.code(value).to_le_bytes()),
        );
        for pair in level.first_child.windows(2) {
            put(
                &mut bytes,
                pair.iter().copied().reduce(|from, to| to - from).unwrap_or(0),
            );
        }
    }
    let sum = checksum(&bytes);
    bytes.extend(sum.to_le_bytes());
    bytes
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut sum = flate2::Crc::new();
    sum.update(bytes);
    sum.sum()
}

fn broken(reason: impl Into<String>) -> LanguageModelError {
    LanguageModelError::Compact(reason.into())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], LanguageModelError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| broken(format!("expected {length} further bytes, found {}", self.0.len())))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], LanguageModelError> {
        self.take(N)?.try_into().map_err(|_| broken("cut short"))
    }

    fn number(&mut self) -> Result<usize, LanguageModelError> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn scale(&mut self) -> Result<Scale, LanguageModelError> {
        let scale = Scale {
            least: f32::from_le_bytes(self.array()?),
            greatest: f32::from_le_bytes(self.array()?),
        };
        let range = scale.greatest - scale.least;
        match range.is_finite() && range >= 0.0 {
            true => Ok(scale),
            false => Err(broken("a range of values is not a range")),
        }
    }

    fn values(&mut self, scale: Scale, count: usize) -> Result<Vec<f32>, LanguageModelError> {
        Ok(pairs(self.take(count.saturating_mul(2))?)
            .map(|code| scale.value(code))
            .collect())
    }

    fn numbers(&mut self, narrow: bool, count: usize) -> Result<Vec<u32>, LanguageModelError> {
        Ok(match narrow {
            true => pairs(self.take(count.saturating_mul(2))?)
                .map(u32::from)
                .collect(),
            false => {
                let bytes = self.take(count.saturating_mul(4))?.chunks_exact(4);
                bytes
                    .map(|four| {
                        four.iter()
                            .rev()
                            .fold(0, |number, &byte| number << 8 | u32::from(byte))
                    })
                    .collect()
            }
        })
    }
}

fn pairs(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks_exact(2).map(|two| {
        two.iter()
            .rev()
            .fold(0, |number, &byte| number << 8 | u16::from(byte))
    })
}

pub(super) fn read(bytes: &[u8]) -> Result<LanguageModel, LanguageModelError> {
    let (content, sum) = bytes.split_last_chunk::<4>().ok_or_else(|| broken("cut short"))?;
    let (expected, found) = (u32::from_le_bytes(*sum), checksum(content));
    if expected != found {
        return Err(broken(format!(
            "expected the checksum {expected:08x}, found {found:08x}: the file is damaged"
        )));
    }
    let mut reader = Reader(content);
    reader.take(MAGIC.len())?;
    let version = u16::from_le_bytes(reader.array()?);
    if version != VERSION {
        return Err(broken(format!(
            "expected version {VERSION}, found {version}: convert the ARPA file again"
        )));
    }
    let order = usize::from(u16::from_le_bytes(reader.array()?));
    if !(1..=MAX_ORDER).contains(&order) {
        return Err(broken(format!(
            "expected an order of 1 to {MAX_ORDER}, found {order}"
        )));
    }
    let counts = (0..order)
        .map(|_| reader.number())
        .collect::<Result<Vec<_>, _>>()?;
    let length = reader.number()?;
    let text = std::str::from_utf8(reader.take(length)?).map_err(|_| broken("the words are not UTF-8"))?;
    let words: Vec<Box<str>> = text.split_terminator('\n').map(Into::into).collect();
    if Some(&words.len()) != counts.first() {
        return Err(broken(format!(
            "expected {counts:?} n-grams, found {} words",
            words.len()
        )));
    }
    let ids: HashMap<Box<str>, u32> = words.iter().cloned().zip(0..).collect();
    if ids.len() != words.len() {
        return Err(broken("a word is listed twice"));
    }
    let special = |name: &str| {
        ids.get(name)
            .copied()
            .ok_or_else(|| broken(format!("`{name}` is missing")))
    };
    let (unknown, begin, end) = (special(UNKNOWN)?, special(BEGIN)?, special(END)?);
    let mut levels: Vec<Level> = Vec::with_capacity(order);
    for (index, &count) in counts.iter().enumerate() {
        let level = read_level(&mut reader, levels.last(), count, words.len(), index + 1 == order)?;
        levels.push(level);
    }
    match reader.0.len() {
        0 => Ok(LanguageModel {
            spellings: Spellings::new(words.iter().map(|word| &**word)),
            words,
            ids,
            levels,
            unknown,
            begin,
            end,
        }),
        left => Err(broken(format!("{left} bytes behind the last n-gram"))),
    }
}

fn read_level(
    reader: &mut Reader<'_>,
    above: Option<&Level>,
    count: usize,
    num_words: usize,
    is_highest: bool,
) -> Result<Level, LanguageModelError> {
    let narrow = is_narrow(num_words);
    let (log_prob_scale, back_off_scale) = (reader.scale()?, reader.scale()?);
    let words = match above {
        None => (0..).take(count).collect(),
        Some(_) => reader.numbers(narrow, count)?,
    };
    let log_probs = reader.values(log_prob_scale, count)?;
    let (mut back_offs, mut first_child) = (Vec::new(), Vec::new());
    if !is_highest {
        back_offs = reader.values(back_off_scale, count)?;
        let mut next = 0_u32;
        first_child.push(next);
        for number in reader.numbers(narrow, count)? {
            next = next
                .checked_add(number)
                .ok_or_else(|| broken("too many children"))?;
            first_child.push(next);
        }
    }
    if let Some(above) = above {
        if above
            .first_child
            .last()
            .is_none_or(|&children| children as usize != count)
        {
            return Err(broken(format!(
                "the order above has not the {count} children that are listed"
            )));
        }
        let sorted = above.first_child.windows(2).all(|range| {
            let [from, to] = range else { return false };
            let children = words.get(*from as usize..*to as usize).unwrap_or(&[]);
            children.is_sorted_by(|one, other| one < other)
        });
        if !sorted || words.iter().any(|&word| word as usize >= num_words) {
            return Err(broken("the n-grams are not in order"));
        }
    }
    Ok(Level {
        words,
        log_probs,
        back_offs,
        first_child,
    })
}
