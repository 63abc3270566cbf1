//! Mono samples at the model's rate to feature frames.
//!
//! A model's `config.json` says which features it was trained on; [`FeatureConfig`] is that part of it, and
//! [`FeatureConfig::extractor`] makes the streaming object.

mod chain;
pub mod cmvn;
pub mod csr;
pub mod fbank;
pub mod lfr;
pub mod log_mel;
mod mel;
pub mod mel_windows;

pub use cmvn::Cmvn;
pub use csr::{CsrSpectrogram, CsrSpectrogramConfig};
pub use fbank::{KaldiFbank, KaldiFbankConfig, WindowType};
pub use lfr::{FrameStacker, LfrConfig};
pub use log_mel::{StreamingLogMel, StreamingLogMelConfig};
pub use mel_windows::{MelWindows, MelWindowsConfig};

use serde::{Deserialize, Serialize};

use crate::FrontendError;

/// The features of a model: `{"type": "streaming_log_mel", …}`. Settings that are left out have their defaults, and
/// unknown ones are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum FeatureConfig {
    /// Whisper's filter bank with a fixed floor, with stacking where it is set.
    StreamingLogMel(StreamingLogMelConfig),
    /// Kaldi's filter bank, with stacking and normalisation where they are set.
    KaldiFbank(KaldiFbankConfig),
    /// The windows of torchaudio's streaming RNN-T.
    MelWindows(MelWindowsConfig),
    /// The spectrogram of csr-pytorch.
    CsrSpectrogram(CsrSpectrogramConfig),
}

impl Default for FeatureConfig {
    fn default() -> Self {
        FeatureConfig::StreamingLogMel(StreamingLogMelConfig::default())
    }
}

impl FeatureConfig {
    /// Values of one frame.
    pub fn num_features(&self) -> usize {
        match self {
            FeatureConfig::StreamingLogMel(config) => config.num_features(),
            FeatureConfig::KaldiFbank(config) => config.num_features(),
            FeatureConfig::MelWindows(config) => config.num_features(),
            FeatureConfig::CsrSpectrogram(config) => config.num_mels,
        }
    }

    /// Samples at `rate_hz` from one frame to the next.
    pub fn frame_shift_samples(&self, rate_hz: u32) -> usize {
        match self {
            FeatureConfig::StreamingLogMel(config) => config.frame_shift_samples(),
            FeatureConfig::KaldiFbank(config) => config.frame_shift_samples(rate_hz),
            FeatureConfig::MelWindows(config) => config.frame_shift_samples(),
            FeatureConfig::CsrSpectrogram(config) => config.frame_shift_samples(rate_hz),
        }
    }

    /// Bytes of the vectors in it.
    pub(crate) fn heap_bytes(&self) -> usize {
        let cmvn = match self {
            FeatureConfig::KaldiFbank(config) => config.cmvn.as_ref(),
            FeatureConfig::MelWindows(config) => config.cmvn.as_ref(),
            FeatureConfig::StreamingLogMel(_) | FeatureConfig::CsrSpectrogram(_) => None,
        };
        cmvn.map_or(0, |cmvn| cmvn.state_bytes() - size_of::<Cmvn>())
    }

    /// Samples behind a segment that its features already hold, where they bring their own right context.
    pub fn lookahead_samples(&self) -> usize {
        match self {
            FeatureConfig::MelWindows(config) => config.right_context_frames * config.hop,
            FeatureConfig::StreamingLogMel(_)
            | FeatureConfig::KaldiFbank(_)
            | FeatureConfig::CsrSpectrogram(_) => 0,
        }
    }

    /// Makes the extractor for audio at `rate_hz`.
    ///
    /// # Errors
    ///
    /// [`FrontendError::FeatureSetting`] naming the first setting that cannot work, or
    /// [`FrontendError::Normalisation`].
    pub fn extractor(&self, rate_hz: u32) -> Result<Box<dyn FeatureExtractor>, FrontendError> {
        crate::error::check_rate(rate_hz)?;
        Ok(match self {
            FeatureConfig::StreamingLogMel(config) => {
                let bank = StreamingLogMel::new(config, rate_hz)?;
                match config.lfr {
                    None => Box::new(bank),
                    Some(_) => Box::new(chain::Chain::new(bank, config.lfr, None)?),
                }
            }
            FeatureConfig::MelWindows(config) => Box::new(MelWindows::new(config, rate_hz)?),
            FeatureConfig::CsrSpectrogram(config) => Box::new(CsrSpectrogram::new(config, rate_hz)?),
            FeatureConfig::KaldiFbank(config) => {
                let bank = KaldiFbank::new(config, rate_hz)?;
                if config.lfr.is_none() && config.cmvn.is_none() {
                    Box::new(bank)
                } else {
                    Box::new(chain::Chain::new(bank, config.lfr, config.cmvn.clone())?)
                }
            }
        })
    }
}

/// Samples in, feature frames out, for one stream.
///
/// Any split of the samples gives bit-identical frames, memory is bounded, and nothing is allocated for a frame except
/// to grow the caller's vector.
pub trait FeatureExtractor: Send + std::fmt::Debug {
    /// Values of one frame.
    fn num_features(&self) -> usize;

    /// Takes mono samples and appends the frames that they complete, `(frames, features) f32` row-major, to
    /// `features`.
    fn push(&mut self, samples: &[f32], features: &mut Vec<f32>);

    /// Samples until `frames` more frames are out. Exact; saturates.
    fn samples_needed_for(&self, frames: u64) -> u64;

    /// Frames since the beginning or the last reset.
    fn frames_emitted(&self) -> u64;

    /// Samples since the beginning or the last reset.
    fn samples_received(&self) -> u64;

    /// As new.
    fn reset(&mut self);

    /// Bytes held for the stream now. What it only reads and shares with all others of its kind is not counted.
    fn state_bytes(&self) -> usize;

    /// The most that [`state_bytes`](Self::state_bytes) becomes: from the first frame on it is this.
    fn max_state_bytes(&self) -> usize;
}

/// A setting that must lie in a range.
fn check_setting<T: PartialOrd + std::fmt::Display>(
    field: &'static str,
    actual: T,
    range: impl std::ops::RangeBounds<T>,
    expected: &'static str,
) -> Result<(), FrontendError> {
    if range.contains(&actual) {
        Ok(())
    } else {
        Err(FrontendError::FeatureSetting {
            field,
            actual: actual.to_string(),
            expected,
        })
    }
}

#[cfg(test)]
mod csr_tests;
#[cfg(test)]
mod tests;
