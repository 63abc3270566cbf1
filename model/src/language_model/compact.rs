//! The compact form: `WXNG`, version u16, a DEFLATE stream (RFC 1951), and the CRC-32 of all before. In the stream, all little-endian: order u16, n-grams of each order u32;
//! bytes of the words u32 and the words, each ended by a line feed; then for each order the least and the greatest log-probability and back-off
//! weight f32 and as columns: last words (none at order 1; each as what it is more than the one before behind the same words), log-probabilities u8, and unless at the highest order back-off
//! weights u8 and numbers of children. Words and numbers of children have two bytes where the vocabulary allows, else four, and stand byte by byte: the lowest bytes of all,
//! then the next ones, because most of the higher ones are zero.

use std::collections::HashMap;
use std::f32::consts::LN_10;
use std::io::{Read as _, Take, Write as _};

use flate2::read::DeflateDecoder;

use super::spellings::Spellings;
use super::{BEGIN, END, LanguageModel, LanguageModelError, Level, Logs, MAX_ORDER, UNKNOWN};

const MAGIC: &[u8] = b"WXNG";
const VERSION: u16 = 2;
/// Probabilities below are as good as none; they would spoil the spacing of the others.
const NEVER: f32 = -90.0 * LN_10;
const NEVER_LOG_PROB: f32 = -99.0 * LN_10;
/// Codes of numbers; 0 stands for [`NEVER_LOG_PROB`].
const STEPS: f32 = (u8::MAX - 1) as f32;
/// No model in use inflates to more.
const LARGEST: u64 = 1 << 30;

pub(super) fn is_compact(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Evenly spaced values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
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

    fn code(self, value: f32) -> u8 {
        let range = self.greatest - self.least;
        match value {
            _ if value <= NEVER => 0,
            _ if range <= 0.0 => 1,
            _ => 1 + ((value - self.least) / range * STEPS).round().clamp(0.0, STEPS) as u8,
        }
    }

    pub(super) fn value(self, code: u8) -> f32 {
        match code {
            0 => NEVER_LOG_PROB,
            _ => self.least + (self.greatest - self.least) * (f32::from(code - 1) / STEPS),
        }
    }
}

/// Bytes of an id or of a number of children.
fn width(num_words: usize) -> usize {
    match u16::try_from(num_words) {
        Ok(_) => 2,
        Err(_) => 4,
    }
}

/// Appends the lowest bytes of all numbers, then the next ones.
fn put(bytes: &mut Vec<u8>, numbers: &[u32], width: usize) {
    for place in 0..width {
        bytes.extend(numbers.iter().map(|number| (number >> (8 * place)) as u8));
    }
}

/// What each child's word is more than the one before of the same parent; the first as it is.
fn steps(words: &[u32], first_child: &[u32]) -> Vec<u32> {
    let mut steps = words.to_vec();
    for range in first_child.windows(2) {
        let &[from, to] = range else { continue };
        for child in from as usize + 1..to as usize {
            steps[child] = words[child] - words[child - 1];
        }
    }
    steps
}

pub(super) fn write(model: &LanguageModel) -> Vec<u8> {
    let mut content = (model.order() as u16).to_le_bytes().to_vec();
    for count in model.num_ngrams() {
        content.extend((count as u32).to_le_bytes());
    }
    let text: String = model.words.iter().flat_map(|word| [&**word, "\n"]).collect();
    content.extend((text.len() as u32).to_le_bytes());
    content.extend(text.as_bytes());
    let width = width(model.words.len());
    let mut above: Option<&Level> = None;
    for level in &model.levels {
        let logs =
            [level.log_probs.values(), level.back_offs.values()].map(|values| (Scale::of(&values), values));
        for (scale, _) in &logs {
            content.extend(scale.least.to_le_bytes());
            content.extend(scale.greatest.to_le_bytes());
        }
        if let Some(above) = above {
            put(&mut content, &steps(&level.words, &above.first_child), width);
        }
        for (scale, values) in &logs {
            content.extend(values.iter().map(|&value| scale.code(value)));
        }
        let children: Vec<u32> = level
            .first_child
            .iter()
            .zip(level.first_child.iter().skip(1))
            .map(|(from, to)| to - from)
            .collect();
        put(&mut content, &children, width);
        above = Some(level);
    }
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    let mut packer = flate2::write::DeflateEncoder::new(bytes, flate2::Compression::best());
    // Writing to memory does not fail.
    let mut bytes = match packer.write_all(&content).and_then(|()| packer.finish()) {
        Ok(bytes) => bytes,
        Err(error) => unreachable!("{error}"),
    };
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

/// Unpacks as it reads.
struct Reader<'a>(Take<DeflateDecoder<&'a [u8]>>);

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Result<Vec<u8>, LanguageModelError> {
        let mut taken = Vec::new();
        let read = self.0.by_ref().take(length as u64).read_to_end(&mut taken);
        match read {
            Ok(found) if found == length => Ok(taken),
            Ok(found) => Err(broken(format!("expected {length} further bytes, found {found}"))),
            Err(error) => Err(broken(format!("the stream cannot be unpacked: {error}"))),
        }
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

    fn numbers(&mut self, width: usize, count: usize) -> Result<Vec<u32>, LanguageModelError> {
        let mut numbers: Vec<u32> = self.take(count)?.into_iter().map(u32::from).collect();
        for place in 1..width {
            let bytes = self.take(count)?;
            for (number, byte) in numbers.iter_mut().zip(bytes) {
                *number |= u32::from(byte) << (8 * place);
            }
        }
        Ok(numbers)
    }
}

pub(super) fn read(bytes: &[u8]) -> Result<LanguageModel, LanguageModelError> {
    let (content, sum) = bytes.split_last_chunk::<4>().ok_or_else(|| broken("cut short"))?;
    let (expected, found) = (u32::from_le_bytes(*sum), checksum(content));
    if expected != found {
        return Err(broken(format!(
            "expected the checksum {expected:08x}, found {found:08x}: the file is damaged"
        )));
    }
    let head = content.split_at_checked(MAGIC.len() + 2);
    let (&[.., low, high], packed) = head.ok_or_else(|| broken("cut short"))? else {
        return Err(broken("cut short"));
    };
    let version = u16::from_le_bytes([low, high]);
    if version != VERSION {
        return Err(broken(format!(
            "expected version {VERSION}, found {version}: convert the ARPA file again"
        )));
    }
    let mut reader = Reader(DeflateDecoder::new(packed).take(LARGEST));
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
    let text = reader.take(length)?;
    let text = std::str::from_utf8(&text).map_err(|_| broken("the words are not UTF-8"))?;
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
    match reader.0.read(&mut [0]) {
        Ok(0) => Ok(LanguageModel {
            spellings: Spellings::new(words.iter().map(|word| &**word)),
            words,
            ids,
            levels,
            unknown,
            begin,
            end,
        }),
        _ => Err(broken("there is more behind the last n-gram")),
    }
}

fn read_level(
    reader: &mut Reader<'_>,
    above: Option<&Level>,
    count: usize,
    num_words: usize,
    is_highest: bool,
) -> Result<Level, LanguageModelError> {
    let width = width(num_words);
    let (log_prob_scale, back_off_scale) = (reader.scale()?, reader.scale()?);
    let words = match above {
        None => (0..).take(count).collect(),
        Some(above) => children(reader.numbers(width, count)?, &above.first_child, num_words)?,
    };
    let log_probs = Logs::Coded(log_prob_scale, reader.take(count)?);
    let (mut back_offs, mut first_child) = (Logs::Exact(Vec::new()), Vec::new());
    if !is_highest {
        back_offs = Logs::Coded(back_off_scale, reader.take(count)?);
        let mut next = 0_u32;
        first_child.push(next);
        for number in reader.numbers(width, count)? {
            next = next
                .checked_add(number)
                .ok_or_else(|| broken("too many children"))?;
            first_child.push(next);
        }
    }
    Ok(Level {
        words,
        log_probs,
        back_offs,
        first_child,
    })
}

/// The words of all children from the steps between them.
fn children(
    mut words: Vec<u32>,
    first_child: &[u32],
    num_words: usize,
) -> Result<Vec<u32>, LanguageModelError> {
    let count = words.len();
    if first_child
        .last()
        .is_none_or(|&children| children as usize != count)
    {
        return Err(broken(format!(
            "the order above has not the {count} children that are listed"
        )));
    }
    for range in first_child.windows(2) {
        let &[from, to] = range else { continue };
        let of_parent = words.get_mut(from as usize..to as usize).unwrap_or_default();
        let mut before = None;
        for word in of_parent {
            let next = match before {
                None => Some(*word),
                Some(before) => u32::checked_add(before, *word).filter(|&next| next > before),
            };
            *word = next
                .filter(|&next| (next as usize) < num_words)
                .ok_or_else(|| broken("the n-grams are not in order"))?;
            before = Some(*word);
        }
    }
    Ok(words)
}
