//! Triangular mel filters, kept as runs of weights: a filter touches few of the spectrum's bins.

use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What an extractor only reads: the window of a frame and the filters of its spectrum.
#[derive(Debug)]
pub(crate) struct MelTables {
    pub(crate) window: Vec<f32>,
    pub(crate) bank: MelBank,
}

/// The tables of all sessions of the process: those with equal settings share one copy, which goes with the last of them.
pub(crate) struct SharedTables<K>(Mutex<Vec<(K, Weak<MelTables>)>>);

impl<K: PartialEq> SharedTables<K> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// The tables of these settings, made now if nobody holds them.
    pub(crate) fn get(&self, settings: K, make: impl FnOnce() -> MelTables) -> Arc<MelTables> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|(key, _)| *key == settings);
        if let Some(tables) = found.and_then(|(_, tables)| tables.upgrade()) {
            return tables;
        }
        known.retain(|(_, tables)| tables.strong_count() > 0);
        let tables = Arc::new(make());
        known.push((settings, Arc::downgrade(&tables)));
        tables
    }
}

/// The periodic Hann window of that many samples.
pub(crate) fn periodic_hann(length: usize) -> Vec<f32> {
    let angle = |index: usize| std::f64::consts::TAU * index as f64 / length as f64;
    (0..length)
        .map(|index| (0.5 - 0.5 * angle(index).cos()) as f32)
        .collect()
}

/// A bank of filters over the bins of a power spectrum.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MelBank {
    filters: Vec<Filter>,
    weights: Vec<f32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Filter {
    /// First bin with a weight.
    bin: usize,
    /// Where its weights are.
    weights_start: usize,
    weights_end: usize,
}

impl MelBank {
    /// Collects filters from dense rows, `(filters, bins) f32`.
    pub(crate) fn from_rows(rows: impl Iterator<Item = Vec<f32>>) -> Self {
        let mut bank = Self {
            filters: Vec::new(),
            weights: Vec::new(),
        };
        for row in rows {
            let bin = row.iter().position(|&weight| weight != 0.0).unwrap_or(0);
            let end = row
                .iter()
                .rposition(|&weight| weight != 0.0)
                .map_or(bin, |last| last + 1);
            let weights_start = bank.weights.len();
            bank.weights.extend_from_slice(&row[bin..end]);
            bank.filters.push(Filter {
                bin,
                weights_start,
                weights_end: bank.weights.len(),
            });
        }
        bank
    }

    /// Slaney's bank as Whisper and librosa have it: linear to 1 kHz, then logarithmic, each filter of unit area, from
    /// 0 Hz to half the rate. (M. Slaney, Auditory Toolbox, 1998.)
    pub(crate) fn slaney(rate_hz: u32, n_fft: usize, num_mels: usize) -> Self {
        let nyquist = f64::from(rate_hz) / 2.0;
        let top = slaney_mel(nyquist);
        let edge = |index: usize| slaney_hz(top * index as f64 / (num_mels + 1) as f64);
        let num_bins = n_fft / 2 + 1;
        let bin_hz = |bin: usize| bin as f64 * f64::from(rate_hz) / n_fft as f64;
        Self::from_rows((0..num_mels).map(|index| {
            let (left, centre, right) = (edge(index), edge(index + 1), edge(index + 2));
            let area = 2.0 / (right - left);
            (0..num_bins)
                .map(|bin| {
                    let rise = (bin_hz(bin) - left) / (centre - left);
                    let fall = (right - bin_hz(bin)) / (right - centre);
                    (rise.min(fall).max(0.0) * area) as f32
                })
                .collect()
        }))
    }

    /// torchaudio's default bank: triangles of height 1 that are straight in Hz, with corners on the HTK scale
    /// 2595·log10(1 + f/700), from 0 Hz to half the rate.
    pub(crate) fn htk(rate_hz: u32, n_fft: usize, num_mels: usize) -> Self {
        let nyquist = f64::from(rate_hz) / 2.0;
        let top = 2_595.0 * (1.0 + nyquist / 700.0).log10();
        let edge = |index: usize| {
            let mel = top * index as f64 / (num_mels + 1) as f64;
            700.0 * (10f64.powf(mel / 2_595.0) - 1.0)
        };
        let num_bins = n_fft / 2 + 1;
        // torchaudio spreads the bins evenly up to half the rate, also where `n_fft` is odd.
        let bin_hz = |bin: usize| nyquist * bin as f64 / (num_bins - 1) as f64;
        Self::from_rows((0..num_mels).map(|index| {
            let (left, centre, right) = (edge(index), edge(index + 1), edge(index + 2));
            (0..num_bins)
                .map(|bin| {
                    let rise = (bin_hz(bin) - left) / (centre - left);
                    let fall = (right - bin_hz(bin)) / (right - centre);
                    rise.min(fall).max(0.0) as f32
                })
                .collect()
        }))
    }

    /// Kaldi's bank: triangles whose slopes are straight on the scale 1127·ln(1 + f/700), of height 1, over the bins below
    /// half the rate.
    pub(crate) fn kaldi(rate_hz: u32, n_fft: usize, num_mels: usize, low_hz: f32, high_hz: f32) -> Self {
        let (low, high) = (kaldi_mel(f64::from(low_hz)), kaldi_mel(f64::from(high_hz)));
        let edge = |index: usize| low + (high - low) * index as f64 / (num_mels + 1) as f64;
        let bin_mel = |bin: usize| kaldi_mel(bin as f64 * f64::from(rate_hz) / n_fft as f64);
        Self::from_rows((0..num_mels).map(|index| {
            let (left, centre, right) = (edge(index), edge(index + 1), edge(index + 2));
            (0..n_fft / 2)
                .map(|bin| {
                    let rise = (bin_mel(bin) - left) / (centre - left);
                    let fall = (right - bin_mel(bin)) / (right - centre);
                    rise.min(fall).max(0.0) as f32
                })
                .collect()
        }))
    }

    /// Filters of the bank.
    pub(crate) fn len(&self) -> usize {
        self.filters.len()
    }

    /// The energies of a power spectrum `(bins) f32`, one for each filter.
    pub(crate) fn energies<'a>(&'a self, power: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
        self.filters.iter().map(move |filter| {
            let weights = &self.weights[filter.weights_start..filter.weights_end];
            dot(weights, &power[filter.bin..filter.bin + weights.len()])
        })
    }
}

/// A sum in a fixed order, so that equal spectra give equal energies everywhere.
fn dot(weights: &[f32], power: &[f32]) -> f32 {
    weights
        .iter()
        .zip(power)
        .map(|(weight, power)| weight * power)
        .sum()
}

fn kaldi_mel(hz: f64) -> f64 {
    1_127.0 * (hz / 700.0).ln_1p()
}

const SLANEY_HZ_PER_MEL: f64 = 200.0 / 3.0;
const SLANEY_LINEAR_TO_HZ: f64 = 1_000.0;
const SLANEY_LINEAR_TO_MEL: f64 = SLANEY_LINEAR_TO_HZ / SLANEY_HZ_PER_MEL;

/// 6.4 is reached in 27 mels.
fn slaney_log_step() -> f64 {
    6.4f64.ln() / 27.0
}

fn slaney_mel(hz: f64) -> f64 {
    if hz < SLANEY_LINEAR_TO_HZ {
        hz / SLANEY_HZ_PER_MEL
    } else {
        SLANEY_LINEAR_TO_MEL + (hz / SLANEY_LINEAR_TO_HZ).ln() / slaney_log_step()
    }
}

fn slaney_hz(mel: f64) -> f64 {
    if mel < SLANEY_LINEAR_TO_MEL {
        mel * SLANEY_HZ_PER_MEL
    } else {
        SLANEY_LINEAR_TO_HZ * ((mel - SLANEY_LINEAR_TO_MEL) * slaney_log_step()).exp()
    }
}
