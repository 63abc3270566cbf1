//! Cuts a stream of samples into overlapping frames, and the power spectrum of a frame.

use std::cell::RefCell;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

/// Samples that are taken into the frame buffer at once; bounds the buffer however much is pushed.
const CHUNK_SAMPLES: usize = 240;

/// The transform of one length, shared by all sessions of the process: twiddle factors are the larger part of it.
pub(crate) fn real_fft(length: usize) -> Arc<dyn RealToComplex<f32>> {
    static PLANNER: LazyLock<Mutex<RealFftPlanner<f32>>> =
        LazyLock::new(|| Mutex::new(RealFftPlanner::new()));
    PLANNER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .plan_fft_forward(length)
}

/// Overlapping frames of a stream: frame *t* is the samples `[shift·t − left, shift·t − left + length)`.
#[derive(Debug, Clone)]
pub(crate) struct FrameBuffer {
    length: usize,
    shift: usize,
    left: Left,
    /// Samples from the next frame's beginning on.
    buffer: Vec<f32>,
    /// Samples to drop before the next frame begins: not 0 only between frames that do not overlap.
    skip: usize,
    /// How many samples are missing before the left side of the first frame can be filled.
    reflection_missing: usize,
    /// Zeros that the buffer will begin with: it comes into being with the first sample, so that a silent client costs none.
    zeros_due: usize,
}

/// What stands in front of a stream's first sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// That many zeros.
    Zeros(usize),
    /// That many samples of the stream in reverse: sample −1 is sample 0, −2 is 1, and so on.
    Reflection(usize),
    /// That many samples are dropped instead.
    Drop(usize),
}

impl FrameBuffer {
    /// `length` and `shift` are at least 1; a reflection is shorter than a frame.
    pub(crate) fn new(length: usize, shift: usize, left: Left) -> Self {
        let mut frames = Self {
            length,
            shift,
            left,
            buffer: Vec::new(),
            skip: 0,
            reflection_missing: 0,
            zeros_due: 0,
        };
        frames.reset();
        frames
    }

    /// Takes `samples` and calls `each` with every frame `(length) f32` that they complete. Allocates its buffer with the
    /// first samples, and nothing else.
    pub(crate) fn push(&mut self, mut samples: &[f32], mut each: impl FnMut(&[f32])) {
        let dropped = self.skip.min(samples.len());
        self.skip -= dropped;
        samples = &samples[dropped..];
        if !samples.is_empty() {
            self.buffer
                .reserve_exact(self.max_buffered().saturating_sub(self.buffer.len()));
            let zeros = std::mem::take(&mut self.zeros_due);
            self.buffer.resize(self.buffer.len() + zeros, 0.0);
        }
        while !samples.is_empty() {
            let take = if self.reflection_missing > 0 {
                self.reflection_missing
            } else {
                CHUNK_SAMPLES
            };
            let (chunk, rest) = samples.split_at(take.min(samples.len()));
            samples = rest;
            self.buffer.extend_from_slice(chunk);
            if self.reflection_missing > 0 {
                self.reflection_missing -= chunk.len();
                if self.reflection_missing > 0 {
                    return;
                }
                let forward = self.buffer.len();
                self.buffer.extend_from_within(..);
                self.buffer[..forward].reverse();
            }
            let mut start = 0;
            while let Some(frame) = self.buffer.get(start..start + self.length) {
                each(frame);
                start += self.shift;
            }
            let kept = start.min(self.buffer.len());
            self.buffer.drain(..kept);
            let beyond = start - kept;
            let dropped = beyond.min(samples.len());
            self.skip = beyond - dropped;
            samples = &samples[dropped..];
        }
    }

    /// Samples until `frames` more frames are complete. Exact; saturates.
    pub(crate) fn samples_needed_for(&self, frames: u64) -> u64 {
        let Some(further) = frames.checked_sub(1) else {
            return 0;
        };
        let span = further
            .saturating_mul(self.shift as u64)
            .saturating_add(self.length as u64);
        let missing = match self.left {
            // Nothing of the mirrored side is in the buffer yet, but it will come with the samples.
            Left::Reflection(mirrored) if self.reflection_missing > 0 => span
                .saturating_sub((self.buffer.len() + mirrored) as u64)
                .max(self.reflection_missing as u64),
            _ => span.saturating_sub((self.buffer.len() + self.zeros_due) as u64),
        };
        missing.saturating_add(self.skip as u64)
    }

    /// As new.
    pub(crate) fn reset(&mut self) {
        self.buffer.clear();
        (self.skip, self.reflection_missing, self.zeros_due) = (0, 0, 0);
        match self.left {
            Left::Zeros(count) => self.zeros_due = count,
            Left::Reflection(count) => self.reflection_missing = count,
            Left::Drop(count) => self.skip = count,
        }
    }

    /// The most samples that are in the buffer at once.
    fn max_buffered(&self) -> usize {
        2 * self.length + CHUNK_SAMPLES
    }

    /// Bytes held now.
    pub(crate) fn state_bytes(&self) -> usize {
        size_of_val(self) + self.buffer.capacity() * size_of::<f32>()
    }

    /// The most bytes that it holds: all of them from the first sample on.
    pub(crate) fn max_state_bytes(&self) -> usize {
        size_of_val(self) + self.max_buffered() * size_of::<f32>()
    }
}

/// |FFT|² of frames of one length. What it computes in belongs to the thread that computes, so that a session holds none of it.
#[derive(Debug)]
pub(crate) struct PowerSpectrum {
    length: usize,
}

/// A thread's buffers for transforms of one length.
pub(crate) struct SpectrumBuffers {
    fft: Arc<dyn RealToComplex<f32>>,
    input: Vec<f32>,
    spectrum: Vec<Complex<f32>>,
    scratch: Vec<Complex<f32>>,
    power: Vec<f32>,
}

thread_local! {
    /// One for each length that this thread has met.
    static BUFFERS: RefCell<Vec<SpectrumBuffers>> = const { RefCell::new(Vec::new()) };
}

impl PowerSpectrum {
    /// For transforms of `length` samples.
    pub(crate) fn new(length: usize) -> Self {
        Self { length }
    }

    /// Lends this thread's buffers; `compute` must not ask for them again.
    pub(crate) fn with<R>(&self, compute: impl FnOnce(&mut SpectrumBuffers) -> R) -> R {
        BUFFERS.with_borrow_mut(|all| {
            let known = all.iter().position(|buffers| buffers.input.len() == self.length);
            let index = known.unwrap_or_else(|| {
                all.push(SpectrumBuffers::new(self.length));
                all.len() - 1
            });
            compute(&mut all[index])
        })
    }
}

impl SpectrumBuffers {
    fn new(length: usize) -> Self {
        let fft = real_fft(length);
        let spectrum = fft.make_output_vec();
        Self {
            input: fft.make_input_vec(),
            power: vec![0.0; spectrum.len()],
            scratch: fft.make_scratch_vec(),
            spectrum,
            fft,
        }
    }

    /// Where the frame goes, `(length) f32`; its content is unspecified at first and after [`compute`](Self::compute).
    pub(crate) fn input(&mut self) -> &mut [f32] {
        &mut self.input
    }

    /// Transforms what is in [`input`](Self::input): `(length / 2 + 1) f32`.
    pub(crate) fn compute(&mut self) -> &mut [f32] {
        let done = self
            .fft
            .process_with_scratch(&mut self.input, &mut self.spectrum, &mut self.scratch);
        debug_assert!(done.is_ok(), "all lengths come from the plan");
        for (power, bin) in self.power.iter_mut().zip(&self.spectrum) {
            *power = bin.re * bin.re + bin.im * bin.im;
        }
        &mut self.power
    }
}
