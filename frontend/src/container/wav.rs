//! WAV: RIFF chunks around plain samples.
//!
//! The header is taken as a claim. Programs that write to a pipe cannot know the length and leave 0, 0xFFFFFFFF or a
//! number near 2 GiB: then the bytes that are there count, rounded down to whole samples. A length that was meant and is
//! not reached is a truncated file, which is decoded as far as it goes, with a warning. Once the chunks are known, the
//! samples are plain PCM and go through the same decoder as those of a stream, so that a file and a stream give the
//! same samples. (Multimedia Programming Interface 1.0, 1991; `WAVE_FORMAT_EXTENSIBLE`: Microsoft, 2001; RF64: EBU
//! Tech 3306.)

use std::io::{Seek, SeekFrom};

use super::source::Source;
use super::{AudioFormat, ContainerError, Decode, DecodeLimits, Info, Warning};
use crate::pcm::{ChannelSelection, Layout, PcmDecoder};

/// Chunks that are looked at before the samples; a file with more is not one that a recorder wrote.
const MAX_CHUNKS: usize = 256;
/// Bytes that are decoded at once.
const BLOCK_BYTES: usize = 32 << 10;
/// Lengths from here on are what programs write that cannot seek back: 0x7FFFF000 and thereabouts, 0xFFFFFFFF.
const UNKNOWN_FROM: u32 = 0x7FFF_0000;

const FORMAT: &str = "wav";
const TAG_PCM: u16 = 0x0001;
const TAG_FLOAT: u16 = 0x0003;
const TAG_ALAW: u16 = 0x0006;
const TAG_MULAW: u16 = 0x0007;
const TAG_EXTENSIBLE: u16 = 0xFFFE;
/// The end of every subformat of an extensible header that stands for an old tag.
const SUBFORMAT_TAIL: [u8; 14] = [
    0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x80, 0x00, 0x00, 0xAA, 0x00, 0x38, 0x9B, 0x71,
];

/// A WAV file between its header and its end.
pub(super) struct Wav {
    source: Source,
    decoder: PcmDecoder,
    /// Bytes of samples that were not read yet: present ones, whole samples only.
    left: u64,
    truncated: Option<Warning>,
    block: Vec<u8>,
}

/// What the `fmt ` chunk says.
struct SampleFormat {
    layout: Layout,
    codec: &'static str,
    channels: u16,
    rate_hz: u32,
}

impl Wav {
    pub(super) fn open(
        mut source: Source,
        limits: &DecodeLimits,
        selection: ChannelSelection,
    ) -> Result<(Info, Box<dyn Decode>), ContainerError> {
        let (format, data) = read_chunks(&mut source)?;
        limits.check_rate(format.rate_hz)?;
        limits.check_channels(format.channels, selection)?;
        let decoder = PcmDecoder::with_layout(format.layout, format.channels, selection)?;
        let frame_bytes = decoder.frame_bytes() as u64;
        let present = source.len().saturating_sub(data.start);
        let (length, truncated) = match data.declared {
            Some(declared) if declared <= present => (declared, None),
            Some(declared) => {
                let truncated = Warning::Truncated {
                    declared_bytes: Some(declared),
                    present_bytes: present,
                };
                (present, Some(truncated))
            }
            None => (present, None),
        };
        let left = length - length % frame_bytes;
        if left == 0 {
            return Err(ContainerError::NoAudio { format: FORMAT });
        }
        limits.check_declared(left / frame_bytes, format.rate_hz)?;
        source.seek(SeekFrom::Start(data.start))?;
        let info = Info {
            format: AudioFormat {
                container: FORMAT,
                codec: format.codec,
            },
            rate_hz: format.rate_hz,
            channels: format.channels,
            declared_samples: Some(left / frame_bytes),
        };
        let block = vec![0; BLOCK_BYTES - BLOCK_BYTES % decoder.frame_bytes()];
        Ok((
            info,
            Box::new(Wav {
                source,
                decoder,
                left,
                truncated,
                block,
            }),
        ))
    }
}

impl Decode for Wav {
    fn next_block(&mut self, out: &mut Vec<f32>) -> Result<bool, ContainerError> {
        let wanted = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(self.block.len());
        let block = &mut self.block[..wanted];
        let count = self.source.read_up_to(block)?;
        self.decoder.push(&block[..count], out);
        // A file that shrinks while it is read ends early.
        self.left = if count == wanted {
            self.left - count as u64
        } else {
            0
        };
        Ok(count > 0)
    }

    fn warnings(&self) -> Vec<Warning> {
        let count = self.decoder.non_finite_replaced();
        let non_finite = (count > 0).then_some(Warning::NonFinite { count });
        self.truncated.into_iter().chain(non_finite).collect()
    }
}

/// Where the samples are.
struct Data {
    start: u64,
    /// Their length, unless the writer could not know it.
    declared: Option<u64>,
}

fn damaged(reason: impl Into<String>) -> ContainerError {
    ContainerError::Damaged {
        format: FORMAT,
        reason: reason.into(),
    }
}

fn read_exactly<const N: usize>(source: &mut Source) -> Result<[u8; N], ContainerError> {
    let mut bytes = [0; N];
    match source.read_up_to(&mut bytes)? {
        count if count == N => Ok(bytes),
        _ => Err(damaged("it ends inside its header")),
    }
}

/// Goes through the chunks up to `data`.
fn read_chunks(source: &mut Source) -> Result<(SampleFormat, Data), ContainerError> {
    let [r0, r1, r2, r3, s0, s1, s2, s3, ..] = read_exactly::<12>(source)?;
    let riff_length = u32::from_le_bytes([s0, s1, s2, s3]);
    let is_rf64 = [r0, r1, r2, r3] != *b"RIFF";
    let mut format = None;
    let mut length_in_ds64 = None;
    let mut position = 12u64;
    for _ in 0..MAX_CHUNKS {
        let [i0, i1, i2, i3, l0, l1, l2, l3] = match read_exactly::<8>(source) {
            Ok(header) => header,
            Err(ContainerError::Damaged { .. }) => break,
            Err(error) => return Err(error),
        };
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        position += 8;
        match &[i0, i1, i2, i3] {
            b"data" => {
                let format = format.ok_or_else(|| damaged("its samples come before their format"))?;
                let declared = match length_in_ds64 {
                    Some(length) if is_rf64 => Some(length),
                    _ => declared_length(length, riff_length, source.len()),
                };
                return Ok((
                    format,
                    Data {
                        start: position,
                        declared,
                    },
                ));
            }
            b"fmt " => format = Some(read_format(source, length)?),
            b"ds64" if is_rf64 => {
                let [.., d0, d1, d2, d3, d4, d5, d6, d7] = read_exactly::<16>(source)?;
                length_in_ds64 = Some(u64::from_le_bytes([d0, d1, d2, d3, d4, d5, d6, d7]));
            }
            _ => {}
        }
        // Chunks begin at even offsets.
        position += u64::from(length) + u64::from(length % 2);
        source.seek(SeekFrom::Start(position))?;
    }
    Err(if format.is_some() {
        ContainerError::NoAudio { format: FORMAT }
    } else {
        damaged("it has no format chunk")
    })
}

/// What the `data` chunk's own length says: nothing for 0 and for the numbers of writers that cannot seek back, unless
/// the rest of the header shows that a 0 was meant.
fn declared_length(length: u32, riff_length: u32, file_length: u64) -> Option<u64> {
    let riff_is_right = (u64::from(riff_length) + 8).abs_diff(file_length) <= 1;
    match length {
        0 if !riff_is_right => None,
        length if length >= UNKNOWN_FROM => None,
        length => Some(u64::from(length)),
    }
}

fn read_format(source: &mut Source, length: u32) -> Result<SampleFormat, ContainerError> {
    if length < 16 {
        return Err(damaged(format!(
            "its format chunk has {length} bytes and needs 16"
        )));
    }
    let mut chunk = [0; 40];
    let wanted = chunk.len().min(length as usize);
    if source.read_up_to(&mut chunk[..wanted])? < wanted {
        return Err(damaged("it ends inside its header"));
    }
    let u16_at = |offset: usize| u16::from_le_bytes([chunk[offset], chunk[offset + 1]]);
    let mut tag = u16_at(0);
    let channels = u16_at(2);
    let rate_hz = u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]);
    let block_align = u16_at(12);
    let bits = u16_at(14);
    if tag == TAG_EXTENSIBLE {
        if wanted < 40 || chunk[26..40] != SUBFORMAT_TAIL {
            return Err(ContainerError::Unsupported {
                found: "an extensible WAV of an unknown codec".to_owned(),
            });
        }
        tag = u16_at(24);
    }
    // Samples of fewer bits than their bytes hold stand at the upper end, so the bytes alone decide.
    let bytes = block_align.checked_div(channels).unwrap_or(0);
    let (layout, codec) = match (tag, bytes) {
        (TAG_PCM, 1) => (Layout::U8, "8-bit integer"),
        (TAG_PCM, 2) => (Layout::S16le, "16-bit integer"),
        (TAG_PCM, 3) => (Layout::S24le, "24-bit integer"),
        (TAG_PCM, 4) => (Layout::S32le, "32-bit integer"),
        (TAG_FLOAT, 4) => (Layout::F32le, "32-bit float"),
        (TAG_FLOAT, 8) => (Layout::F64le, "64-bit float"),
        (TAG_MULAW, 1) => (Layout::Mulaw, "mu-law"),
        (TAG_ALAW, 1) => (Layout::Alaw, "A-law"),
        (TAG_PCM | TAG_FLOAT | TAG_MULAW | TAG_ALAW, _)
            if block_align == 0 || block_align % channels.max(1) != 0 =>
        {
            return Err(damaged(format!(
                "{channels} channels do not fit into blocks of {block_align} bytes"
            )));
        }
        _ => {
            return Err(ContainerError::Unsupported {
                found: codec_name(tag, bits),
            });
        }
    };
    if block_align % channels != 0 || bits.div_ceil(8) != bytes {
        return Err(damaged(format!(
            "{channels} channels of {bits} bits do not make blocks of {block_align} bytes"
        )));
    }
    Ok(SampleFormat {
        layout,
        codec,
        channels,
        rate_hz,
    })
}

fn codec_name(tag: u16, bits: u16) -> String {
    match tag {
        TAG_PCM => format!("a WAV of {bits}-bit integers"),
        TAG_FLOAT => format!("a WAV of {bits}-bit floats"),
        0x0002 | 0x0011 => "a WAV with ADPCM inside".to_owned(),
        0x0031 => "a WAV with GSM 6.10 inside".to_owned(),
        0x0055 => "a WAV with MP3 inside".to_owned(),
        _ => format!("a WAV with codec {tag:#06x} inside"),
    }
}

#[cfg(test)]
#[path = "wav_tests.rs"]
mod tests;
