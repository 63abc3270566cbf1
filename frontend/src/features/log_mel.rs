//! Streaming log-mel: Whisper's features without a look at the rest of the utterance.
//!
//! Frame *t* covers the samples `[hop·t − left_padding, hop·t − left_padding + n_fft)`, with zeros in front of the first
//! sample where Whisper reflects. |STFT|² under a periodic Hann window goes through Slaney's mel bank; then
//! `log10(max(mel, log_floor))` with a floor from the configuration where Whisper takes the utterance's maximum − 8;
//! then `(x + 4) / 4`. (A. Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, 2022, and its
//! code `whisper/audio.py`.)

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::lfr::LfrConfig;
use super::mel::{MelBank, MelTables, SharedTables, periodic_hann};
use super::{FeatureExtractor, check_setting};
use crate::FrontendError;
use crate::transform::{FrameBuffer, Left, PowerSpectrum};

/// Settings of [`StreamingLogMel`]. The defaults are Whisper's at 16 kHz.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamingLogMelConfig {
    /// Mel filters: values of one frame.
    pub num_mels: usize,
    /// Samples of one frame: the length of the window and of the transform.
    pub n_fft: usize,
    /// Samples from one frame to the next.
    pub hop: usize,
    /// Zeros in front of the first sample; less than `n_fft`.
    pub left_padding: usize,
    /// Smallest mel power: what silence becomes.
    pub log_floor: f32,
    /// Stacking of frames, where it is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lfr: Option<LfrConfig>,
}

impl Default for StreamingLogMelConfig {
    fn default() -> Self {
        Self {
            num_mels: 80,
            n_fft: 400,
            hop: 160,
            left_padding: 200,
            log_floor: 1e-7,
            lfr: None,
        }
    }
}

impl StreamingLogMelConfig {
    /// Values of one frame, stacked where `lfr` is set.
    pub fn num_features(&self) -> usize {
        self.num_mels * self.lfr.map_or(1, |lfr| lfr.stack)
    }

    /// Samples from one frame to the next.
    pub fn frame_shift_samples(&self) -> usize {
        self.hop * self.lfr.map_or(1, |lfr| lfr.stride)
    }

    /// The lowest value of a feature: silence.
    pub fn lowest(&self) -> f32 {
        scaled(self.log_floor)
    }
}

/// Whisper's scale: four decades are 1.
fn scaled(energy: f32) -> f32 {
    (energy.log10() + 4.0) / 4.0
}

/// The extractor without `lfr`; see the [module](self) for what it computes.
#[derive(Debug)]
pub struct StreamingLogMel {
    log_floor: f32,
    tables: Arc<MelTables>,
    frames: FrameBuffer,
    spectrum: PowerSpectrum,
    frames_emitted: u64,
    samples_received: u64,
}

impl StreamingLogMel {
    /// Makes an extractor for audio at `rate_hz`.
    ///
    /// # Errors
    ///
    /// [`FrontendError::FeatureSetting`] naming the first setting that cannot work.
    pub fn new(config: &StreamingLogMelConfig, rate_hz: u32) -> Result<Self, FrontendError> {
        check_setting("num_mels", config.num_mels, 1..=1_024, "use 1 to 1024")?;
        check_setting("n_fft", config.n_fft, 2..=65_536, "use 2 to 65536")?;
        check_setting("hop", config.hop, 1..=65_536, "use 1 to 65536")?;
        check_setting(
            "left_padding",
            config.left_padding,
            ..config.n_fft,
            "use less than `n_fft`",
        )?;
        check_setting("log_floor", config.log_floor, 1e-30..=1.0, "use 1e-30 to 1")?;
        static TABLES: SharedTables<(u32, usize, usize)> = SharedTables::new();
        let tables = TABLES.get((rate_hz, config.n_fft, config.num_mels), || MelTables {
            window: periodic_hann(config.n_fft),
            bank: MelBank::slaney(rate_hz, config.n_fft, config.num_mels),
        });
        Ok(Self {
            log_floor: config.log_floor,
            tables,
            frames: FrameBuffer::new(config.n_fft, config.hop, Left::Zeros(config.left_padding)),
            spectrum: PowerSpectrum::new(config.n_fft),
            frames_emitted: 0,
            samples_received: 0,
        })
    }
}

impl FeatureExtractor for StreamingLogMel {
    fn num_features(&self) -> usize {
        self.tables.bank.len()
    }

    fn push(&mut self, samples: &[f32], features: &mut Vec<f32>) {
        self.samples_received += samples.len() as u64;
        let Self {
            log_floor,
            tables,
            frames,
            spectrum,
            frames_emitted,
            ..
        } = self;
        let MelTables { window, bank } = &**tables;
        frames.push(samples, |frame| {
            spectrum.with(|spectrum| {
                for ((windowed, sample), weight) in spectrum.input().iter_mut().zip(frame).zip(window.iter())
                {
                    *windowed = sample * weight;
                }
                let power = spectrum.compute();
                features.extend(bank.energies(power).map(|energy| scaled(energy.max(*log_floor))));
                *frames_emitted += 1;
            })
        });
    }

    fn samples_needed_for(&self, frames: u64) -> u64 {
        self.frames.samples_needed_for(frames)
    }

    fn frames_emitted(&self) -> u64 {
        self.frames_emitted
    }

    fn samples_received(&self) -> u64 {
        self.samples_received
    }

    fn reset(&mut self) {
        self.frames.reset();
        (self.frames_emitted, self.samples_received) = (0, 0);
    }

    fn state_bytes(&self) -> usize {
        size_of_val(self) + self.frames.state_bytes()
    }

    fn max_state_bytes(&self) -> usize {
        size_of_val(self) + self.frames.max_state_bytes()
    }
}
