//! Audio files to mono blocks, under limits.
//!
//! A file comes from someone unknown: every length in it is a claim. [`AudioFile::open`] looks at the first bytes to see
//! what it is (names and content types are not asked), refuses what is too large in any direction before anything is
//! decoded, and then [`AudioFile::next_block`] gives the audio a block at a time, so that memory does not grow with the
//! length of the file.
//!
//! * WAV is read here: headers of every usual kind, also those of programs that write to a pipe and so
//!   cannot know the length.
//! * FLAC, Ogg, MP3, M4A and WebM are taken apart by symphonia, behind `catch_unwind`, and never by its probing of all
//!   formats: the first bytes decide.
//! * Opus packets go to `opus-pure`, since symphonia has no decoder for them.

mod error;
mod m4a;
mod opus;
mod packets;
mod sniff;
mod source;
mod wav;

pub use error::ContainerError;

use std::fmt;
use std::io::{Cursor, Read, Seek};
use std::time::{Duration, Instant};

use crate::MAX_CHANNELS;
use crate::pcm::ChannelSelection;
use source::Source;

/// What a file may ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodeLimits {
    /// Most bytes of the file.
    pub max_bytes: u64,
    /// Longest audio.
    pub max_duration: Duration,
    /// Most channels, never above [`MAX_CHANNELS`].
    pub max_channels: u16,
    /// Most samples, all channels together, that one compressed packet may decode to. Checked before a decoder is
    /// made, since some decoders allocate by what the file claims.
    pub max_packet_samples: u64,
    /// When decoding must be done: checked at each read of the file and between blocks.
    pub deadline: Option<Instant>,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self {
            max_bytes: 512 << 20,
            max_duration: Duration::from_secs(4 * 3_600),
            max_channels: MAX_CHANNELS,
            max_packet_samples: 1 << 20,
            deadline: None,
        }
    }
}

impl DecodeLimits {
    fn check_deadline(&self) -> Result<(), ContainerError> {
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(ContainerError::TimedOut),
            _ => Ok(()),
        }
    }

    fn check_rate(&self, rate_hz: u32) -> Result<(), ContainerError> {
        Ok(crate::error::check_rate(rate_hz)?)
    }

    fn check_channels(&self, channels: u16, selection: ChannelSelection) -> Result<(), ContainerError> {
        let max = self.max_channels.min(MAX_CHANNELS);
        if channels > max {
            return Err(ContainerError::TooManyChannels {
                actual: channels,
                max,
            });
        }
        Ok(selection.check(channels)?)
    }

    /// Checks what a header says of the length.
    fn check_declared(&self, samples: u64, rate_hz: u32) -> Result<(), ContainerError> {
        if samples > self.max_samples(rate_hz) {
            return Err(ContainerError::TooLong {
                max: self.max_duration,
            });
        }
        Ok(())
    }

    /// Most samples of one channel.
    fn max_samples(&self, rate_hz: u32) -> u64 {
        (self.max_duration.as_secs_f64() * f64::from(rate_hz)) as u64
    }
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AudioFormat {
    /// `wav`, `flac`, `ogg`, `mp3`, `m4a`, `webm` or `aac`.
    pub container: &'static str,
    /// How the samples are written, such as `16-bit integer` or `opus`.
    pub codec: &'static str,
}

impl fmt::Display for AudioFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.container, self.codec)
    }
}

/// What was odd about a file that could be read all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// The file ends before its own end: what is there was decoded.
    Truncated {
        /// Bytes that the file says it has, where it says so.
        declared_bytes: Option<u64>,
        /// Bytes that are there.
        present_bytes: u64,
    },
    /// Packets that could not be decoded and were left out.
    DamagedPackets {
        /// How many.
        count: u64,
    },
    /// Values that were NaN or infinite and became 0.
    NonFinite {
        /// How many.
        count: u64,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::Truncated {
                declared_bytes: Some(declared),
                present_bytes,
            } => {
                write!(
                    formatter,
                    "the file is truncated: {present_bytes} of {declared} bytes of audio are there"
                )
            }
            Warning::Truncated {
                declared_bytes: None, ..
            } => formatter.write_str("the file is truncated: what is there was decoded"),
            Warning::DamagedPackets { count } => {
                write!(formatter, "{count} damaged packets were left out")
            }
            Warning::NonFinite { count } => {
                write!(formatter, "{count} samples that were not finite numbers became 0")
            }
        }
    }
}

/// A file that is being decoded.
///
/// ```no_run
/// use waxwing_frontend::container::{AudioFile, DecodeLimits};
/// use waxwing_frontend::pcm::ChannelSelection;
/// let file = std::fs::File::open("clip.wav")?;
/// let mut audio = AudioFile::open(file, DecodeLimits::default(), ChannelSelection::Mix)?;
/// let mut samples = Vec::new();
/// while audio.next_block(&mut samples)? {
///     // … use the samples, at `audio.rate_hz()` …
///     samples.clear();
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct AudioFile {
    decoder: Box<dyn Decode>,
    limits: DecodeLimits,
    info: Info,
    samples_decoded: u64,
    /// The end was reached, or an error: nothing comes any more.
    done: bool,
}

/// What is known of a file when it is open.
#[derive(Debug, Clone, Copy)]
struct Info {
    format: AudioFormat,
    rate_hz: u32,
    channels: u16,
    /// Samples of one channel by the header.
    declared_samples: Option<u64>,
}

/// The decoder of one kind of file.
trait Decode: Send {
    /// Appends the next mono samples; false when there are none and none will come.
    fn next_block(&mut self, out: &mut Vec<f32>) -> Result<bool, ContainerError>;

    /// What was odd so far.
    fn warnings(&self) -> Vec<Warning>;
}

impl AudioFile {
    /// Opens a file and checks its header against `limits`. Reads; decodes at most one packet.
    ///
    /// # Errors
    ///
    /// [`ContainerError`] says what is wrong and what to do.
    pub fn open(
        reader: impl Read + Seek + Send + Sync + 'static,
        limits: DecodeLimits,
        selection: ChannelSelection,
    ) -> Result<Self, ContainerError> {
        let source = Source::new(Box::new(reader), &limits)?;
        let (info, decoder) = sniff::open(source, &limits, selection)?;
        let audio = Self {
            decoder,
            limits,
            info,
            samples_decoded: 0,
            done: false,
        };
        match info.declared_samples {
            Some(declared) if declared > audio.limits.max_samples(info.rate_hz) => {
                Err(ContainerError::TooLong {
                    max: audio.limits.max_duration,
                })
            }
            _ => Ok(audio),
        }
    }

    /// [`open`](Self::open) for bytes in memory.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn from_bytes(
        bytes: impl AsRef<[u8]> + Send + Sync + 'static,
        limits: DecodeLimits,
        selection: ChannelSelection,
    ) -> Result<Self, ContainerError> {
        Self::open(Cursor::new(bytes), limits, selection)
    }

    /// [`open`](Self::open) for a stream that cannot seek, such as standard input: reads it to its end first, at most
    /// `limits.max_bytes`.
    ///
    /// # Errors
    ///
    /// As there, and [`ContainerError::TooManyBytes`] once the limit is passed.
    pub fn from_stream(
        stream: impl Read,
        limits: DecodeLimits,
        selection: ChannelSelection,
    ) -> Result<Self, ContainerError> {
        let mut bytes = Vec::new();
        stream
            .take(limits.max_bytes.saturating_add(1))
            .read_to_end(&mut bytes)?;
        Self::from_bytes(bytes, limits, selection)
    }

    /// Appends the next block of mono samples at [`rate_hz`](Self::rate_hz), `(samples) f32`, to `out`; false at the
    /// end of the audio, with nothing appended. A block is at most some 100,000 samples.
    ///
    /// # Errors
    ///
    /// [`ContainerError`]; what was appended before it is good audio. After an error the file is at its end.
    pub fn next_block(&mut self, out: &mut Vec<f32>) -> Result<bool, ContainerError> {
        if self.done {
            return Ok(false);
        }
        let before = out.len();
        let more = self
            .limits
            .check_deadline()
            .and_then(|()| self.decoder.next_block(out));
        self.done = !matches!(more, Ok(true));
        self.samples_decoded += (out.len() - before) as u64;
        if self.samples_decoded > self.limits.max_samples(self.info.rate_hz) {
            self.done = true;
            return Err(ContainerError::TooLong {
                max: self.limits.max_duration,
            });
        }
        if matches!(more, Ok(false)) && self.samples_decoded == 0 {
            return Err(ContainerError::NoAudio {
                format: self.info.format.container,
            });
        }
        more
    }

    /// Rate of the samples, in Hz.
    pub fn rate_hz(&self) -> u32 {
        self.info.rate_hz
    }

    /// Channels of the file, before they became one.
    pub fn channels(&self) -> u16 {
        self.info.channels
    }

    /// What the file is.
    pub fn format(&self) -> AudioFormat {
        self.info.format
    }

    /// How long the audio is by the header, which may say nothing or be wrong.
    pub fn declared_duration(&self) -> Option<Duration> {
        let seconds = |samples: u64| samples as f64 / f64::from(self.info.rate_hz);
        self.info
            .declared_samples
            .and_then(|samples| Duration::try_from_secs_f64(seconds(samples)).ok())
    }

    /// Samples that were given so far.
    pub fn samples_decoded(&self) -> u64 {
        self.samples_decoded
    }

    /// What was odd about the file so far; complete when the end was reached.
    pub fn warnings(&self) -> Vec<Warning> {
        self.decoder.warnings()
    }

    /// Whether the file ends before its own end, as far as was seen.
    pub fn truncated(&self) -> bool {
        self.warnings()
            .iter()
            .any(|warning| matches!(warning, Warning::Truncated { .. }))
    }
}

impl fmt::Debug for AudioFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AudioFile")
            .field("info", &self.info)
            .field("samples_decoded", &self.samples_decoded)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod fuzz_tests;
