//! What can be wrong with a request to this crate, short of a damaged file
//! ([`ContainerError`](crate::container::ContainerError) says those).

/// Why a decoder, resampler, extractor or front end cannot be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FrontendError {
    /// The name is none of the PCM encodings.
    #[error("unknown encoding \"{actual}\"; use one of s16le, s32le, f32le, mulaw, alaw")]
    UnknownEncoding {
        /// What was asked for.
        actual: String,
    },
    /// A sample rate outside of what is taken.
    #[error("sample rate {actual} Hz is out of range; use {min} to {max} Hz")]
    RateOutOfRange {
        /// What was asked for, in Hz.
        actual: u32,
        /// Lowest rate taken, in Hz.
        min: u32,
        /// Highest rate taken, in Hz.
        max: u32,
    },
    /// No channel, or more channels than are taken.
    #[error("{actual} channels are out of range; use 1 to {max}")]
    ChannelsOutOfRange {
        /// What was asked for.
        actual: u16,
        /// Most channels taken.
        max: u16,
    },
    /// One channel was chosen that the audio does not have.
    #[error("channel {chosen} does not exist; the audio has {channels} and they are counted from 0")]
    NoSuchChannel {
        /// Index that was asked for.
        chosen: u16,
        /// Channels of the audio.
        channels: u16,
    },
    /// A feature setting that cannot work.
    #[error("feature setting `{field}` is {actual}; {expected}")]
    FeatureSetting {
        /// Name of the setting.
        field: &'static str,
        /// Its value.
        actual: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A text in Kaldi's matrix format that could not be read.
    #[error("the normalisation file cannot be read: {reason}")]
    Normalisation {
        /// What is wrong with it.
        reason: String,
    },
}

/// Checks `actual` against the rates that are taken.
pub(crate) fn check_rate(actual: u32) -> Result<(), FrontendError> {
    let (min, max) = (crate::MIN_RATE_HZ, crate::MAX_RATE_HZ);
    if (min..=max).contains(&actual) {
        Ok(())
    } else {
        Err(FrontendError::RateOutOfRange { actual, min, max })
    }
}
