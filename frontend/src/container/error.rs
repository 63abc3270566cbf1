//! What can be wrong with a file. Each text is written for the sender and says what to do.

use std::time::Duration;

use crate::FrontendError;

/// What a sender can use instead.
const SUPPORTED: &str = "WAV (PCM, float, mu-law, A-law), FLAC, MP3, M4A (AAC-LC), Ogg (Vorbis, Opus, FLAC) or WebM (Opus, Vorbis)";

/// Why a file cannot be read, or not to its end.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// No bytes.
    #[error("the file is empty; send an audio file")]
    Empty,
    /// Bytes that begin like no audio file.
    #[error("the file is not audio: it looks like {looks_like}; send {SUPPORTED}")]
    NotAudio {
        /// What it looks like.
        looks_like: &'static str,
    },
    /// Audio in a format or codec that is not read.
    #[error("{found} is not supported; convert the file to {SUPPORTED}")]
    Unsupported {
        /// The format or codec.
        found: String,
    },
    /// A sound file without sound.
    #[error("the {format} file holds no audio; check how it was recorded")]
    NoAudio {
        /// The format.
        format: &'static str,
    },
    /// More bytes than allowed.
    #[error("the file is larger than {max_bytes} bytes; send it in parts, or compressed as FLAC or Opus")]
    TooManyBytes {
        /// Most bytes allowed.
        max_bytes: u64,
    },
    /// More audio than allowed.
    #[error("the audio is longer than {} seconds; send it in parts", max.as_secs())]
    TooLong {
        /// Longest audio allowed.
        max: Duration,
    },
    /// More channels than allowed.
    #[error("the audio has {actual} channels and at most {max} are taken; mix it down")]
    TooManyChannels {
        /// Channels of the file.
        actual: u16,
        /// Most channels allowed.
        max: u16,
    },
    /// One channel was chosen that the file does not have.
    #[error("channel {chosen} does not exist; the audio has {channels} and they are counted from 0")]
    NoSuchChannel {
        /// Index that was asked for.
        chosen: u16,
        /// Channels of the file.
        channels: u16,
    },
    /// A sample rate outside of what is taken.
    #[error("the sample rate of {actual} Hz is out of range; resample the file to {min} to {max} Hz")]
    RateOutOfRange {
        /// Rate of the file, in Hz.
        actual: u32,
        /// Lowest rate taken, in Hz.
        min: u32,
        /// Highest rate taken, in Hz.
        max: u32,
    },
    /// A packet that would decode to more than is taken at once.
    #[error("the file asks for {actual} samples in one packet and at most {max} are taken; encode it again")]
    PacketTooLarge {
        /// Samples of all channels that the file asks for.
        actual: u64,
        /// Most samples allowed.
        max: u64,
    },
    /// Decoding passed the caller's deadline.
    #[error("decoding took longer than allowed; send a shorter file, or one as WAV or FLAC")]
    TimedOut,
    /// The file breaks its own format.
    #[error("the {format} file is damaged: {reason}; encode or download it again")]
    Damaged {
        /// The format.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The file could not be read.
    #[error("the file cannot be read: {reason}")]
    Io {
        /// What the system said.
        reason: String,
    },
}

impl From<std::io::Error> for ContainerError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::TimedOut => ContainerError::TimedOut,
            _ => ContainerError::Io {
                reason: error.to_string(),
            },
        }
    }
}

impl From<FrontendError> for ContainerError {
    fn from(error: FrontendError) -> Self {
        match error {
            FrontendError::ChannelsOutOfRange { actual, max } => {
                ContainerError::TooManyChannels { actual, max }
            }
            FrontendError::NoSuchChannel { chosen, channels } => {
                ContainerError::NoSuchChannel { chosen, channels }
            }
            FrontendError::RateOutOfRange { actual, min, max } => {
                ContainerError::RateOutOfRange { actual, min, max }
            }
            other => ContainerError::Damaged {
                format: "audio",
                reason: other.to_string(),
            },
        }
    }
}
