//! The features of torchaudio's streaming RNN-T: every window of audio, a segment and its right context, is transformed
//! alone.
//!
//! A window of `segment_frames + right_context_frames` hops goes through an STFT that is centred and reflects the window's
//! own ends (so the frames at its ends differ from those of its neighbours), a periodic Hann window, a bank of
//! triangles that are straight in Hz with corners on the HTK mel scale, a gain of 32767², the piecewise logarithm and a
//! normalisation. The frame past the last hop is dropped, as the model's time reduction does. The next window begins
//! `segment_frames` later.
//!
//! A window leaves as `segment_frames / group_frames` feature frames, which together hold all of its mel frames in
//! order: so many as the model has encoder frames for it, and each lasts as long as one.
//! (`torchaudio.pipelines.rnnt_pipeline`, 2.11: `get_streaming_feature_extractor` and its example.)

use std::f32::consts::E;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::cmvn::Cmvn;
use super::mel::{MelBank, MelTables, SharedTables, periodic_hann};
use super::{FeatureExtractor, check_setting};
use crate::FrontendError;
use crate::transform::PowerSpectrum;

/// Settings of [`MelWindows`]. The defaults are those of `EMFORMER_RNNT_BASE_LIBRISPEECH`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MelWindowsConfig {
    /// Mel filters.
    pub num_mels: usize,
    /// Samples of the transform and of the Hann window.
    pub n_fft: usize,
    /// Samples from one mel frame to the next.
    pub hop: usize,
    /// Mel frames that a window advances by.
    pub segment_frames: usize,
    /// Mel frames after a segment that are in its window.
    pub right_context_frames: usize,
    /// Mel frames for one encoder frame.
    pub group_frames: usize,
    /// Taken off and multiplied by at the end; one value for each mel filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmvn: Option<Cmvn>,
}

impl Default for MelWindowsConfig {
    fn default() -> Self {
        Self {
            num_mels: 80,
            n_fft: 400,
            hop: 160,
            segment_frames: 16,
            right_context_frames: 4,
            group_frames: 4,
            cmvn: None,
        }
    }
}

impl MelWindowsConfig {
    fn frames(&self) -> usize {
        self.segment_frames + self.right_context_frames
    }

    fn groups(&self) -> usize {
        self.segment_frames / self.group_frames.max(1)
    }

    /// Values of one feature frame: a window's mel frames over its encoder frames.
    pub fn num_features(&self) -> usize {
        self.frames() * self.num_mels / self.groups().max(1)
    }

    /// Samples from one feature frame to the next.
    pub fn frame_shift_samples(&self) -> usize {
        self.group_frames * self.hop
    }
}

/// The extractor; see the [module](self) for what it computes.
#[derive(Debug)]
pub struct MelWindows {
    config: MelWindowsConfig,
    tables: Arc<MelTables>,
    spectrum: PowerSpectrum,
    /// Samples from the next window's beginning on; less than a window between calls.
    buffer: Vec<f32>,
    windows_emitted: u64,
    samples_received: u64,
}

impl MelWindows {
    /// Makes an extractor for audio at `rate_hz`.
    ///
    /// # Errors
    ///
    /// [`FrontendError::FeatureSetting`] naming the first setting that cannot work, or
    /// [`FrontendError::Normalisation`].
    pub fn new(config: &MelWindowsConfig, rate_hz: u32) -> Result<Self, FrontendError> {
        check_setting("num_mels", config.num_mels, 1..=1_024, "use 1 to 1024")?;
        check_setting("n_fft", config.n_fft, 2..=65_536, "use 2 to 65536")?;
        check_setting("hop", config.hop, 1..=65_536, "use 1 to 65536")?;
        check_setting("group_frames", config.group_frames, 1..=1_024, "use 1 to 1024")?;
        check_setting(
            "segment_frames",
            config.segment_frames,
            1..=4_096,
            "use 1 to 4096",
        )?;
        check_setting(
            "right_context_frames",
            config.right_context_frames,
            ..=4_096,
            "use up to 4096",
        )?;
        check_setting(
            "segment_frames % group_frames",
            config.segment_frames % config.group_frames,
            0..=0,
            "use a multiple of `group_frames`",
        )?;
        check_setting(
            "(segment_frames + right_context_frames) * num_mels % groups",
            config.frames() * config.num_mels % config.groups(),
            0..=0,
            "use lengths whose values divide evenly among the segment's groups",
        )?;
        let samples = config.frames() * config.hop;
        check_setting(
            "n_fft",
            config.n_fft / 2,
            ..samples,
            "use less than two windows, so that their ends can be reflected",
        )?;
        if let Some(cmvn) = &config.cmvn {
            cmvn.check(config.num_mels)?;
        }
        static TABLES: SharedTables<(u32, usize, usize)> = SharedTables::new();
        let tables = TABLES.get((rate_hz, config.n_fft, config.num_mels), || MelTables {
            window: periodic_hann(config.n_fft),
            bank: MelBank::htk(rate_hz, config.n_fft, config.num_mels),
        });
        Ok(Self {
            tables,
            spectrum: PowerSpectrum::new(config.n_fft),
            buffer: Vec::new(),
            config: config.clone(),
            windows_emitted: 0,
            samples_received: 0,
        })
    }

    fn window_samples(&self) -> usize {
        self.config.frames() * self.config.hop
    }

    /// Bytes held with a buffer of so many samples.
    fn state_bytes_with(&self, buffered: usize) -> usize {
        let cmvn = self.config.cmvn.as_ref().map_or(0, Cmvn::state_bytes);
        size_of_val(self) + buffered * size_of::<f32>() + cmvn
    }

    fn emit(&mut self, features: &mut Vec<f32>) {
        let Self {
            config,
            tables,
            spectrum,
            buffer,
            ..
        } = self;
        let MelTables { window: hann, bank } = &**tables;
        let begin = features.len();
        spectrum.with(|spectrum| {
            for frame in 0..config.frames() {
                let first = frame * config.hop;
                for (index, (windowed, weight)) in spectrum.input().iter_mut().zip(hann.iter()).enumerate() {
                    *windowed = buffer[reflected(first + index, config.n_fft / 2, buffer.len())] * weight;
                }
                features.extend(
                    bank.energies(spectrum.compute())
                        .map(|energy| piecewise_log(energy * GAIN)),
                );
            }
        });
        if let Some(cmvn) = &config.cmvn {
            cmvn.apply(&mut features[begin..]);
        }
    }
}

/// Twice the decibels of a 16-bit sample's largest value: 32767².
const GAIN: f32 = 1_073_676_289.0;

/// The original takes the logarithm of what is above e in place, then divides by e whatever is not above e, the new
/// logarithms included.
fn piecewise_log(value: f32) -> f32 {
    let value = if value > E { value.ln() } else { value };
    if value <= E { value / E } else { value }
}

/// Index of a sample in a window that is continued by its mirror image, `half` samples in front.
fn reflected(index: usize, half: usize, samples: usize) -> usize {
    if index < half {
        half - index
    } else {
        let index = index - half;
        if index < samples {
            index
        } else {
            2 * (samples - 1) - index
        }
    }
}

impl FeatureExtractor for MelWindows {
    fn num_features(&self) -> usize {
        self.config.num_features()
    }

    fn push(&mut self, mut samples: &[f32], features: &mut Vec<f32>) {
        self.samples_received += samples.len() as u64;
        let window = self.window_samples();
        let advance = self.config.segment_frames * self.config.hop;
        if !samples.is_empty() {
            self.buffer.reserve_exact(window - self.buffer.len());
        }
        while !samples.is_empty() {
            let (taken, rest) = samples.split_at(samples.len().min(window - self.buffer.len()));
            self.buffer.extend_from_slice(taken);
            samples = rest;
            if self.buffer.len() == window {
                self.emit(features);
                self.windows_emitted += 1;
                self.buffer.drain(..advance);
            }
        }
    }

    fn samples_needed_for(&self, frames: u64) -> u64 {
        let windows = frames.div_ceil(self.config.groups() as u64);
        let Some(further) = windows.checked_sub(1) else {
            return 0;
        };
        let advance = (self.config.segment_frames * self.config.hop) as u64;
        further
            .saturating_mul(advance)
            .saturating_add((self.window_samples() - self.buffer.len()) as u64)
    }

    fn frames_emitted(&self) -> u64 {
        self.windows_emitted * self.config.groups() as u64
    }

    fn samples_received(&self) -> u64 {
        self.samples_received
    }

    fn reset(&mut self) {
        self.buffer.clear();
        (self.windows_emitted, self.samples_received) = (0, 0);
    }

    fn state_bytes(&self) -> usize {
        self.state_bytes_with(self.buffer.capacity())
    }

    fn max_state_bytes(&self) -> usize {
        self.state_bytes_with(self.window_samples())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_jumps_where_the_originals_does() {
        for (value, expected) in [
            (0.5f32, 0.5 / E),
            (2.7, 2.7 / E),
            (3.0, 3f32.ln() / E),
            (15.1, 15.1f32.ln() / E),
            (15.2, 15.2f32.ln()),
            (1e6, 1e6f32.ln()),
        ] {
            assert_eq!(piecewise_log(value), expected, "{value}");
        }
    }

    #[test]
    fn ends_are_reflected_without_their_last_sample() {
        let order: Vec<usize> = (0..9).map(|index| reflected(index, 2, 5)).collect();
        assert_eq!(order, [2, 1, 0, 1, 2, 3, 4, 3, 2]);
    }
}
