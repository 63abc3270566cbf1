//! The zip files that `torch.save` writes: entries are stored, never compressed, so their bytes lie in the file as they
//! are. ZIP64 is read, because weights above 4 GB need it.

use std::collections::BTreeMap;
use std::ops::Range;

const END_OF_DIRECTORY: &[u8] = b"PK\x05\x06";
const END_OF_DIRECTORY_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";
const DIRECTORY_ENTRY: &[u8] = b"PK\x01\x02";
const LOCAL_HEADER: &[u8] = b"PK\x03\x04";
const MAX_COMMENT_BYTES: usize = 65_535;
const IN_EXTRA_FIELD: u64 = 0xffff_ffff;

/// The entries of an archive in memory.
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    range: Range<usize>,
    crc: u32,
    /// Neither compressed nor encrypted.
    is_stored: bool,
}

impl<'a> Archive<'a> {
    /// Reads the directory at the end of the file.
    ///
    /// # Errors
    /// In words: what is not as it should be.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, String> {
        let truncated = || "the zip file is cut off or damaged: its directory cannot be read".to_owned();
        let tail = bytes.len().saturating_sub(MAX_COMMENT_BYTES + 22);
        let end = bytes[tail..]
            .windows(4)
            .rposition(|window| window == END_OF_DIRECTORY)
            .map(|at| tail + at)
            .ok_or_else(truncated)?;
        let mut count = number(bytes, end + 10, 2).ok_or_else(truncated)?;
        let mut at = number(bytes, end + 16, 4).ok_or_else(truncated)?;
        let locator = end
            .checked_sub(20)
            .filter(|&at| starts_with(bytes, at, LOCATOR_64));
        if let Some(locator) = locator {
            let end = index(number(bytes, locator + 8, 8).ok_or_else(truncated)?)?;
            if !starts_with(bytes, end, END_OF_DIRECTORY_64) {
                return Err(truncated());
            }
            count = number(bytes, end.saturating_add(32), 8).ok_or_else(truncated)?;
            at = number(bytes, end.saturating_add(48), 8).ok_or_else(truncated)?;
        }
        let mut entries = BTreeMap::new();
        let mut at = index(at)?;
        for _ in 0..count {
            let (name, entry, next) = read_entry(bytes, at)?.ok_or_else(truncated)?;
            entries.insert(name, entry);
            at = next;
        }
        Ok(Self { bytes, entries })
    }

    /// Names of all entries.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Bytes of an entry, checked against its CRC; `None` when there is none of that name.
    pub(super) fn get(&self, name: &str) -> Result<Option<&'a [u8]>, String> {
        let Some(entry) = self.entries.get(name) else {
            return Ok(None);
        };
        if !entry.is_stored {
            return Err(format!(
                "{name}: compressed or encrypted; torch.save stores its entries as they are, so this is another program's zip file"
            ));
        }
        let bytes = self
            .bytes
            .get(entry.range.clone())
            .ok_or_else(|| format!("{name}: the file ends before the entry does"))?;
        if crc32(bytes) != entry.crc {
            return Err(format!(
                "{name}: the bytes do not match their checksum; get the file again"
            ));
        }
        Ok(Some(bytes))
    }
}

fn read_entry(bytes: &[u8], at: usize) -> Result<Option<(String, Entry, usize)>, String> {
    if !starts_with(bytes, at, DIRECTORY_ENTRY) {
        return Ok(None);
    }
    let field = |offset: usize, width: usize| number(bytes, at + offset, width);
    let (Some(flags), Some(method), Some(crc)) = (field(8, 2), field(10, 2), field(16, 4)) else {
        return Ok(None);
    };
    let (Some(mut stored), Some(mut size), Some(mut local)) = (field(20, 4), field(24, 4), field(42, 4))
    else {
        return Ok(None);
    };
    let lengths = (field(28, 2), field(30, 2), field(32, 2));
    let (Some(name_len), Some(extra_len), Some(comment_len)) = lengths else {
        return Ok(None);
    };
    let name_end = at + 46 + index(name_len)?;
    let extra_end = name_end + index(extra_len)?;
    let (Some(name), Some(extra)) = (bytes.get(at + 46..name_end), bytes.get(name_end..extra_end)) else {
        return Ok(None);
    };
    let name = String::from_utf8_lossy(name).into_owned();
    // The ZIP64 field holds those of the three numbers that did not fit, in this order.
    let mut rest = zip64_field(extra);
    for value in [&mut size, &mut stored, &mut local] {
        if *value == IN_EXTRA_FIELD
            && let Some(long) = number(rest, 0, 8)
        {
            *value = long;
            rest = rest.get(8..).unwrap_or(&[]);
        }
    }
    let local = index(local)?;
    if !starts_with(bytes, local, LOCAL_HEADER) {
        return Ok(None);
    }
    let (Some(name_len), Some(extra_len)) = (number(bytes, local + 26, 2), number(bytes, local + 28, 2))
    else {
        return Ok(None);
    };
    let begin = local + 30 + index(name_len)? + index(extra_len)?;
    let end = begin.saturating_add(index(size)?);
    let crc = u32::try_from(crc).unwrap_or(0);
    let entry = Entry {
        range: begin..end,
        crc,
        is_stored: method == 0 && flags & 1 == 0 && stored == size,
    };
    Ok(Some((name, entry, extra_end + index(comment_len)?)))
}

fn zip64_field(mut extra: &[u8]) -> &[u8] {
    while let (Some(id), Some(len)) = (number(extra, 0, 2), number(extra, 2, 2)) {
        let end = 4 + usize::try_from(len).unwrap_or(usize::MAX - 4);
        if id == 1 {
            return extra.get(4..end).unwrap_or(&[]);
        }
        extra = extra.get(end..).unwrap_or(&[]);
    }
    &[]
}

/// A little-endian number of 2, 4 or 8 bytes.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u64::from(byte)),
    )
}

fn starts_with(bytes: &[u8], at: usize, mark: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|bytes| bytes.starts_with(mark))
}

fn index(value: u64) -> Result<usize, String> {
    usize::try_from(value)
        .ok()
        .filter(|&value| value < usize::MAX / 4)
        .ok_or_else(|| "the zip file's directory points outside of it".to_owned())
}

/// CRC-32 as zip uses it.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut value = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 {
                    0xedb8_8320 ^ value >> 1
                } else {
                    value >> 1
                };
                bit += 1;
            }
            table[byte] = value;
            byte += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, &byte| {
        TABLE[((crc ^ u32::from(byte)) & 0xff) as usize] ^ crc >> 8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_zip() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
