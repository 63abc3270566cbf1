//! One session's way from mono samples to feature frames.

use crate::FrontendError;
use crate::features::{FeatureConfig, FeatureExtractor};
use crate::resample::Resampler;

/// Input samples that go through the stages at once; bounds what is held between them.
const CHUNK_SAMPLES: usize = 2_048;

/// What a front end is made for.
#[derive(Debug, Clone, PartialEq)]
pub struct FrontendConfig {
    /// Rate of the samples that are pushed, 8 to 192 kHz.
    pub input_rate_hz: u32,
    /// Rate that the model's features are made at.
    pub model_rate_hz: u32,
    /// The model's features.
    pub features: FeatureConfig,
}

/// Resampling and features of one session: mono `f32` at the input rate in, feature frames out.
///
/// ```
/// use waxwing_frontend::features::FeatureConfig;
/// use waxwing_frontend::{Frontend, FrontendConfig};
/// let config = FrontendConfig { input_rate_hz: 48_000, model_rate_hz: 16_000, features: FeatureConfig::default() };
/// let mut frontend = Frontend::new(config)?;
/// let needed = frontend.samples_needed_for(1);
/// let mut features = Vec::new();
/// frontend.push(&vec![0.0; needed as usize - 1], &mut features);
/// assert!(features.is_empty());
/// frontend.push(&[0.0], &mut features);
/// assert_eq!(features.len(), frontend.num_features());
/// # Ok::<(), waxwing_frontend::FrontendError>(())
/// ```
#[derive(Debug)]
pub struct Frontend {
    config: FrontendConfig,
    resampler: Resampler,
    extractor: Box<dyn FeatureExtractor>,
    /// Samples at the model's rate on their way from one to the other; empty between calls. Made with the first audio.
    resampled: Vec<f32>,
    /// Counts from the stream's beginning; the stages' own counters go with them.
    samples_received: u64,
    frames_emitted: u64,
}

impl Frontend {
    /// Makes the stages.
    ///
    /// # Errors
    ///
    /// [`FrontendError::RateOutOfRange`], or [`FrontendError::FeatureSetting`] naming what cannot work.
    pub fn new(config: FrontendConfig) -> Result<Self, FrontendError> {
        let resampler = Resampler::new(config.input_rate_hz, config.model_rate_hz)?;
        let extractor = config.features.extractor(config.model_rate_hz)?;
        Ok(Self {
            resampled: Vec::new(),
            config,
            resampler,
            extractor,
            samples_received: 0,
            frames_emitted: 0,
        })
    }

    /// Takes mono samples at the input rate and appends the frames that they complete, `(frames, features) f32`
    /// row-major, to `features`. Samples are expected to be finite, as [`PcmDecoder`](crate::pcm::PcmDecoder) and
    /// [`AudioFile`](crate::container::AudioFile) make them. Allocates what it computes with at the first samples; then only to grow `features`.
    pub fn push(&mut self, samples: &[f32], features: &mut Vec<f32>) {
        let before = features.len();
        if self.passes_through() {
            self.extractor.push(samples, features);
        } else if !samples.is_empty() {
            self.resampled.reserve_exact(self.max_resampled());
            for chunk in samples.chunks(CHUNK_SAMPLES) {
                self.resampler.push(chunk, &mut self.resampled);
                self.extractor.push(&self.resampled, features);
                self.resampled.clear();
            }
        }
        self.samples_received += samples.len() as u64;
        self.frames_emitted += ((features.len() - before) / self.num_features()) as u64;
    }

    /// Pushes that many zeros at the input rate: virtual silence, which brings every real sample through the delays
    /// without any terminal flush.
    pub fn push_silence(&mut self, samples: u64, features: &mut Vec<f32>) {
        const SILENCE: [f32; CHUNK_SAMPLES] = [0.0; CHUNK_SAMPLES];
        let mut left = samples;
        while left > 0 {
            let chunk = usize::try_from(left).unwrap_or(usize::MAX).min(SILENCE.len());
            self.push(&SILENCE[..chunk], features);
            left -= chunk as u64;
        }
    }

    /// Further input samples until `frames` more frames exist than were emitted so far. Exact: that many give them
    /// and one less does not. Saturates.
    pub fn samples_needed_for(&self, frames: u64) -> u64 {
        let samples = self.extractor.samples_needed_for(frames);
        if self.passes_through() {
            samples
        } else {
            self.resampler.samples_needed_for(samples)
        }
    }

    /// Input samples since the beginning or the last reset.
    pub fn samples_received(&self) -> u64 {
        self.samples_received
    }

    /// Frames since the beginning or the last reset.
    pub fn frames_emitted(&self) -> u64 {
        self.frames_emitted
    }

    /// Values of one frame.
    pub fn num_features(&self) -> usize {
        self.extractor.num_features()
    }

    /// What it was made for.
    pub fn config(&self) -> &FrontendConfig {
        &self.config
    }

    /// As new.
    pub fn reset(&mut self) {
        self.resampler.reset();
        self.extractor.reset();
        self.resampled.clear();
        (self.samples_received, self.frames_emitted) = (0, 0);
    }

    fn passes_through(&self) -> bool {
        self.config.input_rate_hz == self.config.model_rate_hz
    }

    /// The most samples that are between the stages at once.
    fn max_resampled(&self) -> usize {
        if self.passes_through() {
            0
        } else {
            self.resampler.max_output_for(CHUNK_SAMPLES)
        }
    }

    /// Bytes held for the session now: before the first audio little more than what it was made for.
    pub fn state_bytes(&self) -> usize {
        size_of_val(self)
            + self.config.features.heap_bytes()
            + self.resampler.state_bytes()
            + self.extractor.state_bytes()
            + self.resampled.capacity() * size_of::<f32>()
    }

    /// The most that [`state_bytes`](Self::state_bytes) becomes: from the first frame on it is this.
    pub fn max_state_bytes(&self) -> usize {
        size_of_val(self)
            + self.config.features.heap_bytes()
            + self.resampler.max_state_bytes()
            + self.extractor.max_state_bytes()
            + self.max_resampled() * size_of::<f32>()
    }
}

#[cfg(test)]
#[path = "frontend_tests.rs"]
mod tests;
