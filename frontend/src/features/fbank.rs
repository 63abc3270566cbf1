//! Kaldi filter banks, frame by frame.
//!
//! As Kaldi's `compute-fbank-feats` and PyPI's `kaldi-native-fbank` (its online extractor, before the input is finished):
//! the mean is taken off a frame, then pre-emphasis, a window, zeros up to a power of two, the power spectrum, triangles
//! on the scale 1127·ln(1 + f/700) whose slopes are straight in mel, and the logarithm. (Kaldi,
//! `feat/feature-window.cc`, `feat/mel-computations.cc`, `feat/feature-fbank.cc`.)
//!
//! Kaldi's models were trained on samples in 16-bit units: `input_scale` brings ours there.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::cmvn::Cmvn;
use super::lfr::LfrConfig;
use super::mel::{MelBank, MelTables, SharedTables};
use super::{FeatureExtractor, check_setting};
use crate::FrontendError;
use crate::transform::{FrameBuffer, Left, PowerSpectrum};

/// Kaldi's floor under a logarithm.
const EPSILON: f32 = f32::EPSILON;

/// The window that a frame is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowType {
    /// A Hann window to the power 0.85: Kaldi's own, which goes to 0 at its ends.
    #[default]
    Povey,
    /// 0.54 − 0.46 cos.
    Hamming,
    /// 0.5 − 0.5 cos.
    Hanning,
    /// Half a sine.
    Sine,
    /// 1.
    Rectangular,
    /// 0.42 − 0.5 cos + 0.08 cos 2.
    Blackman,
}

impl WindowType {
    /// `(length) f32`.
    fn values(self, length: usize) -> Vec<f32> {
        let last = length.saturating_sub(1).max(1) as f64;
        let value = |index: usize| {
            let angle = std::f64::consts::TAU * index as f64 / last;
            match self {
                WindowType::Povey => (0.5 - 0.5 * angle.cos()).powf(0.85),
                WindowType::Hamming => 0.54 - 0.46 * angle.cos(),
                WindowType::Hanning => 0.5 - 0.5 * angle.cos(),
                WindowType::Sine => (angle / 2.0).sin(),
                WindowType::Rectangular => 1.0,
                WindowType::Blackman => 0.42 - 0.5 * angle.cos() + 0.08 * (2.0 * angle).cos(),
            }
        };
        (0..length).map(|index| value(index) as f32).collect()
    }
}

/// Settings of [`KaldiFbank`]: Kaldi's names and Kaldi's defaults, except 80 bins and no dither.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KaldiFbankConfig {
    /// Mel filters: values of one frame, one more with `use_energy`.
    pub num_mel_bins: usize,
    /// Length of a frame in milliseconds.
    pub frame_length_ms: f32,
    /// From one frame to the next in milliseconds.
    pub frame_shift_ms: f32,
    /// Share of the previous sample that is taken off each sample.
    pub preemphasis: f32,
    /// Take the mean off each frame.
    pub remove_dc_offset: bool,
    /// The window.
    pub window_type: WindowType,
    /// Extend the frame with zeros to a power of two before the transform.
    pub round_to_power_of_two: bool,
    /// Frames begin at the first sample; else frame *t* is centred on the middle of its shift, and the stream is mirrored
    /// in front of its first sample.
    pub snip_edges: bool,
    /// Lower edge of the first filter in Hz.
    pub low_freq: f32,
    /// Upper edge of the last filter in Hz; 0 or less counts from half the rate.
    pub high_freq: f32,
    /// Put the logarithm of the frame's energy in front.
    pub use_energy: bool,
    /// Take that energy before pre-emphasis and window.
    pub raw_energy: bool,
    /// Floor under that energy; 0 for none.
    pub energy_floor: f32,
    /// With `use_energy`, put it last.
    pub htk_compat: bool,
    /// Logarithms of the filters' outputs.
    pub use_log_fbank: bool,
    /// Power spectrum; else magnitude.
    pub use_power: bool,
    /// Samples are multiplied by this first: 32768 for models of Kaldi's tradition, 1 for those trained on ±1.
    pub input_scale: f32,
    /// Random noise on the samples. Only 0: with noise a split of the input would show.
    pub dither: f32,
    /// Stack frames after that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lfr: Option<LfrConfig>,
    /// Normalise last: vectors for the stacked frames where there is stacking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmvn: Option<Cmvn>,
}

impl Default for KaldiFbankConfig {
    fn default() -> Self {
        Self {
            num_mel_bins: 80,
            frame_length_ms: 25.0,
            frame_shift_ms: 10.0,
            preemphasis: 0.97,
            remove_dc_offset: true,
            window_type: WindowType::Povey,
            round_to_power_of_two: true,
            snip_edges: true,
            low_freq: 20.0,
            high_freq: 0.0,
            use_energy: false,
            raw_energy: true,
            energy_floor: 0.0,
            htk_compat: false,
            use_log_fbank: true,
            use_power: true,
            input_scale: 32_768.0,
            dither: 0.0,
            lfr: None,
            cmvn: None,
        }
    }
}

impl KaldiFbankConfig {
    /// Values of one frame, after stacking.
    pub fn num_features(&self) -> usize {
        self.num_bank_features() * self.lfr.map_or(1, |lfr| lfr.stack)
    }

    /// Samples at `rate_hz` from one frame to the next, after stacking.
    pub fn frame_shift_samples(&self, rate_hz: u32) -> usize {
        milliseconds(self.frame_shift_ms, rate_hz) * self.lfr.map_or(1, |lfr| lfr.stride)
    }

    /// Values of one frame of the filter bank itself.
    fn num_bank_features(&self) -> usize {
        self.num_mel_bins + usize::from(self.use_energy)
    }
}

/// As Kaldi: the product in `f32`, cut to a whole number.
fn milliseconds(time_ms: f32, rate_hz: u32) -> usize {
    (rate_hz as f32 * 0.001 * time_ms) as usize
}

/// The extractor of the filter bank alone, without `lfr` and `cmvn`; see the [module](self) for what it computes.
#[derive(Debug)]
pub struct KaldiFbank {
    /// Without what comes behind the bank.
    config: KaldiFbankConfig,
    tables: Arc<MelTables>,
    frames: FrameBuffer,
    spectrum: PowerSpectrum,
    frames_emitted: u64,
    samples_received: u64,
}

impl KaldiFbank {
    /// Makes an extractor for audio at `rate_hz`.
    ///
    /// # Errors
    ///
    /// [`FrontendError::FeatureSetting`] naming the first setting that cannot work.
    pub fn new(config: &KaldiFbankConfig, rate_hz: u32) -> Result<Self, FrontendError> {
        let nyquist = rate_hz as f32 / 2.0;
        check_setting("num_mel_bins", config.num_mel_bins, 3..=1_024, "use 3 to 1024")?;
        check_setting(
            "frame_length_ms",
            config.frame_length_ms,
            1.0..=1_000.0,
            "use 1 to 1000",
        )?;
        check_setting(
            "frame_shift_ms",
            config.frame_shift_ms,
            1.0..=1_000.0,
            "use 1 to 1000",
        )?;
        check_setting("preemphasis", config.preemphasis, 0.0..=1.0, "use 0 to 1")?;
        check_setting(
            "low_freq",
            config.low_freq,
            0.0..nyquist,
            "use 0 to half the sample rate",
        )?;
        check_setting(
            "high_freq",
            config.high_freq,
            -nyquist..=nyquist,
            "use up to half the sample rate",
        )?;
        let high_freq = if config.high_freq > 0.0 {
            config.high_freq
        } else {
            nyquist + config.high_freq
        };
        check_setting(
            "high_freq",
            high_freq - config.low_freq,
            1.0..,
            "use more than `low_freq`",
        )?;
        check_setting(
            "energy_floor",
            config.energy_floor,
            0.0..=f32::MAX,
            "use 0 or more",
        )?;
        check_setting("input_scale", config.input_scale, 1e-6..=1e6, "use 1e-6 to 1e6")?;
        check_setting("dither", config.dither, 0.0..=0.0, "use 0")?;
        let length = milliseconds(config.frame_length_ms, rate_hz);
        let shift = milliseconds(config.frame_shift_ms, rate_hz);
        let n_fft = if config.round_to_power_of_two {
            length.next_power_of_two()
        } else {
            length
        };
        let left = if config.snip_edges {
            Left::Zeros(0)
        } else if length / 2 >= shift / 2 {
            Left::Reflection(length / 2 - shift / 2)
        } else {
            Left::Drop(shift / 2 - length / 2)
        };
        let config = KaldiFbankConfig {
            lfr: None,
            cmvn: None,
            ..config.clone()
        };
        static TABLES: SharedTables<(u32, KaldiFbankConfig)> = SharedTables::new();
        let tables = TABLES.get((rate_hz, config.clone()), || MelTables {
            window: config.window_type.values(length),
            bank: MelBank::kaldi(rate_hz, n_fft, config.num_mel_bins, config.low_freq, high_freq),
        });
        Ok(Self {
            tables,
            frames: FrameBuffer::new(length, shift, left),
            spectrum: PowerSpectrum::new(n_fft),
            frames_emitted: 0,
            samples_received: 0,
            config,
        })
    }
}

/// The logarithm of a frame's energy.
fn log_energy(frame: &[f32], floor: f32) -> f32 {
    let energy: f32 = frame.iter().map(|sample| sample * sample).sum();
    let log = energy.max(EPSILON).ln();
    if floor > 0.0 { log.max(floor.ln()) } else { log }
}

impl FeatureExtractor for KaldiFbank {
    fn num_features(&self) -> usize {
        self.config.num_bank_features()
    }

    fn push(&mut self, samples: &[f32], features: &mut Vec<f32>) {
        self.samples_received += samples.len() as u64;
        let Self {
            config,
            tables,
            frames,
            spectrum,
            frames_emitted,
            ..
        } = self;
        let MelTables { window, bank } = &**tables;
        frames.push(samples, |samples| {
            spectrum.with(|spectrum| {
                let (frame, padding) = spectrum.input().split_at_mut(samples.len());
                padding.fill(0.0);
                for (value, sample) in frame.iter_mut().zip(samples) {
                    *value = sample * config.input_scale;
                }
                if config.remove_dc_offset {
                    let mean = frame.iter().sum::<f32>() / frame.len() as f32;
                    frame.iter_mut().for_each(|value| *value -= mean);
                }
                let mut energy = if config.use_energy {
                    log_energy(frame, config.energy_floor)
                } else {
                    0.0
                };
                if config.preemphasis != 0.0 {
                    for index in (1..frame.len()).rev() {
                        frame[index] -= config.preemphasis * frame[index - 1];
                    }
                    frame[0] -= config.preemphasis * frame[0];
                }
                for (value, weight) in frame.iter_mut().zip(window.iter()) {
                    *value *= weight;
                }
                if config.use_energy && !config.raw_energy {
                    energy = log_energy(frame, config.energy_floor);
                }
                let power = spectrum.compute();
                if !config.use_power {
                    power.iter_mut().for_each(|value| *value = value.sqrt());
                }
                if config.use_energy && !config.htk_compat {
                    features.push(energy);
                }
                let log = |value: f32| {
                    if config.use_log_fbank {
                        value.max(EPSILON).ln()
                    } else {
                        value
                    }
                };
                features.extend(bank.energies(power).map(log));
                if config.use_energy && config.htk_compat {
                    features.push(energy);
                }
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
