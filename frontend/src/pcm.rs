//! Headerless PCM to mono `f32`.
//!
//! Clients cut their audio into messages wherever they like, also in the middle of a sample. [`PcmDecoder`] carries
//! the cut sample over, so that the split of the bytes never shows in the samples.

use std::fmt;
use std::str::FromStr;

use crate::{FrontendError, MAX_CHANNELS};

/// Largest magnitude that an `f32le` sample keeps. Full scale is 1, so this leaves room for senders that forgot to
/// divide by 32768, while the power of a spectrum of such samples stays finite.
const MAX_MAGNITUDE: f32 = 32_768.0;

/// Most bytes of one sample.
const MAX_SAMPLE_BYTES: usize = 8;

/// How one sample is written: the encodings of the wire and those that only files have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    U8,
    S16le,
    S24le,
    S32le,
    F32le,
    F64le,
    Mulaw,
    Alaw,
}

impl Layout {
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Layout::U8 | Layout::Mulaw | Layout::Alaw => 1,
            Layout::S16le => 2,
            Layout::S24le => 3,
            Layout::S32le | Layout::F32le => 4,
            Layout::F64le => 8,
        }
    }
}

impl From<Encoding> for Layout {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::S16le => Layout::S16le,
            Encoding::S32le => Layout::S32le,
            Encoding::F32le => Layout::F32le,
            Encoding::Mulaw => Layout::Mulaw,
            Encoding::Alaw => Layout::Alaw,
        }
    }
}

/// How samples are written as bytes. Interleaved when there are several channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Signed 16-bit integers, little-endian.
    S16le,
    /// Signed 32-bit integers, little-endian.
    S32le,
    /// IEEE 754 single precision, little-endian, full scale ±1.
    F32le,
    /// G.711 µ-law, 8 bits.
    Mulaw,
    /// G.711 A-law, 8 bits.
    Alaw,
}

impl Encoding {
    /// All encodings, in the order in which messages list them.
    pub const ALL: [Encoding; 5] = [
        Encoding::S16le,
        Encoding::S32le,
        Encoding::F32le,
        Encoding::Mulaw,
        Encoding::Alaw,
    ];

    /// Bytes of one sample of one channel.
    pub const fn bytes_per_sample(self) -> usize {
        match self {
            Encoding::S16le => Layout::S16le.bytes(),
            Encoding::S32le | Encoding::F32le => Layout::S32le.bytes(),
            Encoding::Mulaw | Encoding::Alaw => Layout::Mulaw.bytes(),
        }
    }

    /// The name on the wire and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Encoding::S16le => "s16le",
            Encoding::S32le => "s32le",
            Encoding::F32le => "f32le",
            Encoding::Mulaw => "mulaw",
            Encoding::Alaw => "alaw",
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Encoding {
    type Err = FrontendError;

    fn from_str(name: &str) -> Result<Self, FrontendError> {
        let known = Encoding::ALL.into_iter().find(|encoding| encoding.name() == name);
        known.ok_or_else(|| FrontendError::UnknownEncoding {
            actual: name.to_owned(),
        })
    }
}

/// How several channels become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ChannelSelection {
    /// The mean of all channels.
    #[default]
    Mix,
    /// One channel, counted from 0.
    One(u16),
}

impl ChannelSelection {
    /// Checks the number of channels, and that a chosen one exists.
    ///
    /// # Errors
    ///
    /// [`FrontendError::ChannelsOutOfRange`] or [`FrontendError::NoSuchChannel`].
    pub fn check(self, channels: u16) -> Result<(), FrontendError> {
        if !(1..=MAX_CHANNELS).contains(&channels) {
            return Err(FrontendError::ChannelsOutOfRange {
                actual: channels,
                max: MAX_CHANNELS,
            });
        }
        match self {
            ChannelSelection::One(chosen) if chosen >= channels => {
                Err(FrontendError::NoSuchChannel { chosen, channels })
            }
            _ => Ok(()),
        }
    }

    /// One mono sample from one sample of each channel. Never out of bounds after [`check`](Self::check).
    pub(crate) fn mono(self, samples: &[f32]) -> f32 {
        match self {
            ChannelSelection::One(chosen) => samples.get(usize::from(chosen)).copied().unwrap_or(0.0),
            ChannelSelection::Mix if samples.len() == 1 => samples[0],
            ChannelSelection::Mix => samples.iter().sum::<f32>() / samples.len().max(1) as f32,
        }
    }
}

/// Turns bytes of one [`Encoding`] into mono samples.
///
/// ```
/// use waxwing_frontend::pcm::{ChannelSelection, Encoding, PcmDecoder};
/// let mut decoder = PcmDecoder::new(Encoding::S16le, 1, ChannelSelection::Mix)?;
/// let mut samples = Vec::new();
/// decoder.push(&[0x00, 0x40, 0x00], &mut samples); // a sample and a half
/// assert_eq!((samples.as_slice(), decoder.pending_bytes()), (&[0.5][..], 1));
/// decoder.push(&[0xC0], &mut samples);
/// assert_eq!((samples.as_slice(), decoder.pending_bytes()), (&[0.5, -0.5][..], 0));
/// # Ok::<(), waxwing_frontend::FrontendError>(())
/// ```
#[derive(Debug, Clone)]
pub struct PcmDecoder {
    layout: Layout,
    channels: u16,
    selection: ChannelSelection,
    /// Bytes of a sample (of all channels) whose end has not arrived.
    carried: [u8; MAX_SAMPLE_BYTES * MAX_CHANNELS as usize],
    carried_len: usize,
    non_finite_replaced: u64,
}

impl PcmDecoder {
    /// Makes a decoder.
    ///
    /// # Errors
    ///
    /// When the channels are none or too many, or the chosen one does not exist.
    pub fn new(
        encoding: Encoding,
        channels: u16,
        selection: ChannelSelection,
    ) -> Result<Self, FrontendError> {
        Self::with_layout(encoding.into(), channels, selection)
    }

    /// As [`new`](Self::new), also for what only files have.
    pub(crate) fn with_layout(
        layout: Layout,
        channels: u16,
        selection: ChannelSelection,
    ) -> Result<Self, FrontendError> {
        selection.check(channels)?;
        Ok(Self {
            layout,
            channels,
            selection,
            carried: [0; MAX_SAMPLE_BYTES * MAX_CHANNELS as usize],
            carried_len: 0,
            non_finite_replaced: 0,
        })
    }

    /// Decodes `bytes` and appends the samples that they complete, `(samples) f32` mono, to `out`. Allocates only to
    /// grow `out`.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<f32>) {
        let frame_bytes = self.frame_bytes();
        out.reserve((self.carried_len + bytes.len()) / frame_bytes);
        if self.carried_len > 0 {
            let (head, rest) = bytes.split_at(bytes.len().min(frame_bytes - self.carried_len));
            self.carry(head);
            bytes = rest;
            if self.carried_len < frame_bytes {
                return;
            }
            let carried = self.carried;
            self.carried_len = 0;
            self.decode(&carried[..frame_bytes], out);
        }
        let (whole, rest) = bytes.split_at(bytes.len() - bytes.len() % frame_bytes);
        self.decode(whole, out);
        self.carry(rest);
    }

    /// Bytes of a sample whose end has not arrived.
    pub fn pending_bytes(&self) -> usize {
        self.carried_len
    }

    /// Values that were NaN or infinite and became 0, since the decoder was made or reset.
    pub fn non_finite_replaced(&self) -> u64 {
        self.non_finite_replaced
    }

    /// Bytes of one sample of all channels.
    pub fn frame_bytes(&self) -> usize {
        self.layout.bytes() * usize::from(self.channels)
    }

    /// Forgets the carried bytes and the count: as new.
    pub fn reset(&mut self) {
        self.carried_len = 0;
        self.non_finite_replaced = 0;
    }

    fn carry(&mut self, bytes: &[u8]) {
        self.carried[self.carried_len..self.carried_len + bytes.len()].copy_from_slice(bytes);
        self.carried_len += bytes.len();
    }

    /// `bytes` is a whole number of samples of all channels.
    fn decode(&mut self, bytes: &[u8], out: &mut Vec<f32>) {
        match self.layout {
            Layout::U8 => self.each(bytes, out, |[b], _| (f32::from(b) - 128.0) / 128.0),
            Layout::S16le => self.each(bytes, out, |b, _| s16(i16::from_le_bytes(b))),
            Layout::S24le => self.each(bytes, out, |[a, b, c], _| s32(i32::from_le_bytes([0, a, b, c]))),
            Layout::S32le => self.each(bytes, out, |b, _| s32(i32::from_le_bytes(b))),
            Layout::F32le => self.each(bytes, out, |b, replaced| counted(f32::from_le_bytes(b), replaced)),
            Layout::F64le => self.each(bytes, out, |b, replaced| {
                counted(f64::from_le_bytes(b) as f32, replaced)
            }),
            Layout::Mulaw => self.each(bytes, out, |[b], _| s16(mulaw_to_i16(b))),
            Layout::Alaw => self.each(bytes, out, |[b], _| s16(alaw_to_i16(b))),
        }
    }

    fn each<const N: usize>(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<f32>,
        value: impl Fn([u8; N], &mut u64) -> f32,
    ) {
        let (values, _) = bytes.as_chunks::<N>();
        let replaced = &mut self.non_finite_replaced;
        if self.channels == 1 {
            out.extend(values.iter().map(|&bytes| value(bytes, replaced)));
            return;
        }
        let mut samples = [0.0; MAX_CHANNELS as usize];
        for frame in values.chunks_exact(usize::from(self.channels)) {
            for (sample, &bytes) in samples.iter_mut().zip(frame) {
                *sample = value(bytes, replaced);
            }
            out.push(self.selection.mono(&samples[..frame.len()]));
        }
    }
}

/// A 16-bit sample at full scale ±1.
pub(crate) fn s16(value: i16) -> f32 {
    f32::from(value) / 32_768.0
}

/// A 32-bit sample at full scale ±1, rounded to `f32`.
pub(crate) fn s32(value: i32) -> f32 {
    value as f32 / 2_147_483_648.0
}

/// [`finite`], counting what it replaced.
pub(crate) fn counted(value: f32, replaced: &mut u64) -> f32 {
    *replaced += u64::from(!value.is_finite());
    finite(value)
}

/// NaN and infinities become 0, and what is far beyond full scale is limited, so that features stay finite.
pub(crate) fn finite(value: f32) -> f32 {
    if value.is_finite() {
        value.clamp(-MAX_MAGNITUDE, MAX_MAGNITUDE)
    } else {
        0.0
    }
}

/// G.711 µ-law (ITU-T G.711, table 2) to 16-bit linear.
pub(crate) fn mulaw_to_i16(code: u8) -> i16 {
    const BIAS: i16 = 0x84;
    let code = !code;
    let exponent = (code >> 4) & 7;
    let mantissa = i16::from(code & 0x0F);
    let magnitude = (((mantissa << 3) + BIAS) << exponent) - BIAS;
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// G.711 A-law (ITU-T G.711, table 1) to 16-bit linear.
pub(crate) fn alaw_to_i16(code: u8) -> i16 {
    let code = code ^ 0x55;
    let exponent = (code >> 4) & 7;
    let mantissa = i16::from(code & 0x0F) << 4;
    let magnitude = match exponent {
        0 => mantissa + 0x08,
        _ => (mantissa + 0x108) << (exponent - 1),
    };
    if code & 0x80 == 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
#[path = "pcm_tests.rs"]
mod tests;
