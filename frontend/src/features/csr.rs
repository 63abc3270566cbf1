//! The spectrogram of csr-pytorch, in `f64` until the last step.
//!
//! Pre-emphasis 0.97; frames of 20 ms every 10 ms without a window; |FFT|² over 512 points divided by 512; triangles on
//! the scale 2595·log₁₀(1 + f/700) whose corners fall on whole bins; the natural logarithm, with f64's epsilon in place
//! of zero; times 2. (As `python_speech_features` by James Lyons, on which the original builds.)

use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};
use serde::{Deserialize, Serialize};

use super::{FeatureExtractor, check_setting};
use crate::FrontendError;

/// Points of the transform.
const POINTS: usize = 512;
/// Share of the previous sample that is taken off each sample.
const PREEMPHASIS: f64 = 0.97;
/// What the original's normalisation by a deviation of 0.5 comes to.
const GAIN: f64 = 2.0;

/// Settings of [`CsrSpectrogram`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CsrSpectrogramConfig {
    /// Mel filters: values of one frame.
    pub num_mels: usize,
    /// Samples are multiplied by this first: 1 for models trained on ±1, 32768 for the earlier ones, trained on 16-bit
    /// units.
    pub input_scale: f64,
}

impl Default for CsrSpectrogramConfig {
    fn default() -> Self {
        Self {
            num_mels: 70,
            input_scale: 1.0,
        }
    }
}

impl CsrSpectrogramConfig {
    /// Samples at `rate_hz` from one frame to the next.
    pub fn frame_shift_samples(&self, rate_hz: u32) -> usize {
        rounded(rate_hz, 10)
    }
}

/// Milliseconds in samples, halves upwards.
fn rounded(rate_hz: u32, milliseconds: u32) -> usize {
    ((u64::from(rate_hz) * u64::from(milliseconds) + 500) / 1_000) as usize
}

/// One triangle: its first bin and its weights.
#[derive(Debug)]
struct Triangle {
    first: usize,
    weights: Vec<f64>,
}

/// The extractor; see the [module](self) for what it computes.
pub struct CsrSpectrogram {
    input_scale: f64,
    length: usize,
    shift: usize,
    bank: Vec<Triangle>,
    fft: Arc<dyn RealToComplex<f64>>,
    input: Vec<f64>,
    spectrum: Vec<Complex<f64>>,
    scratch: Vec<Complex<f64>>,
    /// Pre-emphasised samples from the next frame's beginning on.
    pending: Vec<f64>,
    previous: f64,
    frames_emitted: u64,
    samples_received: u64,
}

impl CsrSpectrogram {
    /// Makes an extractor for audio at `rate_hz`.
    ///
    /// # Errors
    ///
    /// [`FrontendError::FeatureSetting`] naming the first setting that cannot work.
    pub fn new(config: &CsrSpectrogramConfig, rate_hz: u32) -> Result<Self, FrontendError> {
        check_setting("num_mels", config.num_mels, 1..=256, "use 1 to 256")?;
        check_setting("input_scale", config.input_scale, 1e-6..=1e9, "use 1e-6 to 1e9")?;
        let length = rounded(rate_hz, 20);
        let shift = config.frame_shift_samples(rate_hz);
        check_setting(
            "sample_rate",
            length,
            ..=POINTS,
            "use a rate at which 20 ms are at most 512 samples, such as 16000",
        )?;
        let fft = RealFftPlanner::<f64>::new().plan_fft_forward(POINTS);
        let spectrum = fft.make_output_vec();
        Ok(Self {
            input_scale: config.input_scale,
            length,
            shift,
            bank: triangles(config.num_mels, f64::from(rate_hz)),
            input: fft.make_input_vec(),
            scratch: fft.make_scratch_vec(),
            spectrum,
            fft,
            pending: Vec::with_capacity(length),
            previous: 0.0,
            frames_emitted: 0,
            samples_received: 0,
        })
    }

    /// Ends a file as the original does: zeros behind the last pre-emphasised sample fill the frame that it stands in.
    /// In a stream, silence behind it does nearly the same: only its own first pre-emphasised sample is not zero.
    pub fn finish(&mut self, features: &mut Vec<f32>) {
        let started = if self.frames_emitted == 0 {
            self.samples_received > 0
        } else {
            self.pending.len() > self.length - self.shift
        };
        if started {
            self.pending.resize(self.length, 0.0);
            self.emit(features);
        }
    }

    /// Transforms the frame at the beginning of `pending` and moves on by one shift.
    fn emit(&mut self, features: &mut Vec<f32>) {
        self.input.fill(0.0);
        self.input[..self.length].copy_from_slice(&self.pending[..self.length]);
        let done = self
            .fft
            .process_with_scratch(&mut self.input, &mut self.spectrum, &mut self.scratch);
        debug_assert!(done.is_ok(), "all lengths come from the plan");
        let spectrum = &self.spectrum;
        features.extend(self.bank.iter().map(|triangle| {
            let bins = spectrum[triangle.first..].iter();
            let energy: f64 = triangle
                .weights
                .iter()
                .zip(bins)
                .map(|(weight, bin)| weight * bin.norm_sqr() / POINTS as f64)
                .sum();
            let energy = if energy == 0.0 { f64::EPSILON } else { energy };
            (energy.ln() * GAIN) as f32
        }));
        self.pending.drain(..self.shift);
        self.frames_emitted += 1;
    }
}

/// Triangles from 0 Hz to half the rate whose corners are whole bins.
fn triangles(num_mels: usize, rate_hz: f64) -> Vec<Triangle> {
    let mel = |hz: f64| 2595.0 * (1.0 + hz / 700.0).log10();
    let hz = |mel: f64| 700.0 * (10f64.powf(mel / 2595.0) - 1.0);
    let step = mel(rate_hz / 2.0) / (num_mels + 1) as f64;
    let corner = |index: usize| {
        let bin = ((POINTS + 1) as f64 * hz(step * index as f64) / rate_hz).floor();
        bin as usize
    };
    (0..num_mels)
        .map(|filter| {
            let [low, peak, high] = [corner(filter), corner(filter + 1), corner(filter + 2)];
            let weight = |bin: usize| {
                if bin < peak {
                    (bin - low) as f64 / (peak - low) as f64
                } else {
                    (high - bin) as f64 / (high - peak) as f64
                }
            };
            Triangle {
                first: low,
                weights: (low..high).map(weight).collect(),
            }
        })
        .collect()
}

impl FeatureExtractor for CsrSpectrogram {
    fn num_features(&self) -> usize {
        self.bank.len()
    }

    fn push(&mut self, samples: &[f32], features: &mut Vec<f32>) {
        for &sample in samples {
            let sample = f64::from(sample) * self.input_scale;
            // Nothing stands before the first sample, so it stays as it is.
            self.pending.push(sample - PREEMPHASIS * self.previous);
            self.previous = sample;
            self.samples_received += 1;
            if self.pending.len() == self.length {
                self.emit(features);
            }
        }
    }

    fn samples_needed_for(&self, frames: u64) -> u64 {
        let Some(further) = frames.checked_sub(1) else {
            return 0;
        };
        let missing = (self.length - self.pending.len()) as u64;
        further.saturating_mul(self.shift as u64).saturating_add(missing)
    }

    fn frames_emitted(&self) -> u64 {
        self.frames_emitted
    }

    fn samples_received(&self) -> u64 {
        self.samples_received
    }

    fn reset(&mut self) {
        self.pending.clear();
        self.previous = 0.0;
        (self.frames_emitted, self.samples_received) = (0, 0);
    }

    fn state_bytes(&self) -> usize {
        let weights: usize = self.bank.iter().map(|triangle| triangle.weights.len()).sum();
        let complex = self.spectrum.len() + self.scratch.len();
        size_of_val(self)
            + (weights + self.input.len() + self.pending.capacity()) * size_of::<f64>()
            + self.bank.len() * size_of::<Triangle>()
            + complex * size_of::<Complex<f64>>()
    }

    /// Everything is made at once.
    fn max_state_bytes(&self) -> usize {
        self.state_bytes()
    }
}

impl std::fmt::Debug for CsrSpectrogram {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("CsrSpectrogram")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}
