//! Any rate of 8 to 192 kHz to the model's.
//!
//! rubato's synchronous FFT resampler, fed with blocks of one fixed size, so that the output depends on the samples
//! only and never on how they were pushed. A block is 10 ms, or the next longer time in which both rates have a whole
//! number of samples: 20 ms from 22.05 kHz to 16 kHz, 40 ms from 11.025 kHz, at most 1 s for rates that share no
//! divisor. The resampler's delay of half a block is taken off the beginning of the output, so that output sample 0
//! lies on input sample 0 (to within half an output sample where a block has an odd number of input samples).

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler as _};

use crate::FrontendError;
use crate::error::check_rate;
use crate::pcm::finite;

/// Blocks in a second where the rates allow it.
const BLOCKS_PER_SECOND: usize = 100;

/// Resamples one mono stream.
pub struct Resampler {
    /// None: the rates are equal and samples pass through.
    blocks: Option<Blocks>,
    samples_received: u64,
    samples_emitted: u64,
}

/// What follows from the two rates, and how far the stream is.
struct Blocks {
    input_rate_hz: usize,
    output_rate_hz: usize,
    /// `None` until the first sample, so that a client that is silent costs none.
    tables: Option<Box<Tables>>,
    block_in: usize,
    block_out: usize,
    /// Output samples in front of the one that lies on input sample 0.
    delay: usize,
    /// How many of them are still to come.
    delay_left: usize,
}

/// What computes, and what it computes in.
struct Tables {
    /// `None` only where rubato refuses two rates that have been checked.
    fft: Option<Fft<f32>>,
    /// Input samples of the block that is filling.
    pending: Vec<f32>,
    /// One block of output.
    output: Vec<f32>,
}

impl Resampler {
    /// Makes a resampler between two rates.
    ///
    /// # Errors
    ///
    /// [`FrontendError::RateOutOfRange`] for a rate outside 8 to 192 kHz.
    pub fn new(input_rate_hz: u32, output_rate_hz: u32) -> Result<Self, FrontendError> {
        check_rate(input_rate_hz)?;
        check_rate(output_rate_hz)?;
        let blocks = (input_rate_hz != output_rate_hz)
            .then(|| Blocks::new(input_rate_hz as usize, output_rate_hz as usize));
        Ok(Self {
            blocks,
            samples_received: 0,
            samples_emitted: 0,
        })
    }

    /// Takes `samples` and appends what they complete to `out`, mono at the output rate. A value that is not finite
    /// counts as 0. Allocates its tables with the first samples; then only to grow `out`.
    pub fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        self.samples_received += samples.len() as u64;
        let before = out.len();
        match &mut self.blocks {
            None => out.extend_from_slice(samples),
            Some(blocks) => blocks.push(samples, out),
        }
        self.samples_emitted += (out.len() - before) as u64;
    }

    /// Input samples until `samples` more output samples are out. Exact; saturates.
    pub fn samples_needed_for(&self, samples: u64) -> u64 {
        match &self.blocks {
            None => samples,
            Some(_) if samples == 0 => 0,
            Some(blocks) => samples
                .saturating_add(blocks.delay_left as u64)
                .div_ceil(blocks.block_out as u64)
                .saturating_mul(blocks.block_in as u64)
                .saturating_sub(blocks.pending() as u64),
        }
    }

    /// Most output samples that one push of `samples` can give.
    pub(crate) fn max_output_for(&self, samples: usize) -> usize {
        self.blocks.as_ref().map_or(samples, |blocks| {
            (samples / blocks.block_in + 1) * blocks.block_out
        })
    }

    /// Input samples of one block; 1 when the rates are equal.
    pub fn block_samples(&self) -> usize {
        self.blocks.as_ref().map_or(1, |blocks| blocks.block_in)
    }

    /// Output samples that were taken off the beginning.
    pub fn delay_samples(&self) -> usize {
        self.blocks.as_ref().map_or(0, |blocks| blocks.delay)
    }

    /// Input samples that wait for their block to fill.
    pub fn samples_buffered(&self) -> usize {
        self.blocks.as_ref().map_or(0, Blocks::pending)
    }

    /// Input samples since the beginning or the last reset.
    pub fn samples_received(&self) -> u64 {
        self.samples_received
    }

    /// Output samples since the beginning or the last reset.
    pub fn samples_emitted(&self) -> u64 {
        self.samples_emitted
    }

    /// As new.
    pub fn reset(&mut self) {
        (self.samples_received, self.samples_emitted) = (0, 0);
        if let Some(blocks) = &mut self.blocks {
            if let Some(tables) = &mut blocks.tables {
                tables.fft.iter_mut().for_each(Fft::reset);
                tables.pending.clear();
            }
            blocks.delay_left = blocks.delay;
        }
    }

    /// Bytes held now: before the first sample no tables.
    pub fn state_bytes(&self) -> usize {
        let made = self.blocks.as_ref().filter(|blocks| blocks.tables.is_some());
        size_of_val(self) + made.map_or(0, Blocks::table_bytes)
    }

    /// The most bytes that it holds: all of them from the first sample on.
    pub fn max_state_bytes(&self) -> usize {
        size_of_val(self) + self.blocks.as_ref().map_or(0, Blocks::table_bytes)
    }
}

impl Blocks {
    fn new(input_rate_hz: usize, output_rate_hz: usize) -> Self {
        // As rubato chooses them: the shortest multiple of what is whole on both sides, and not below what is wanted.
        let divisor = greatest_common_divisor(input_rate_hz, output_rate_hz);
        let (shortest_in, shortest_out) = (input_rate_hz / divisor, output_rate_hz / divisor);
        let multiple = wanted_block(input_rate_hz).div_ceil(shortest_in);
        let (block_in, block_out) = (multiple * shortest_in, multiple * shortest_out);
        // The filter's centre is tap `block_in / 2`, rounded down.
        let delay = ((block_in / 2) * block_out + block_in / 2) / block_in;
        Self {
            input_rate_hz,
            output_rate_hz,
            tables: None,
            block_in,
            block_out,
            delay,
            delay_left: delay,
        }
    }

    /// Input samples that wait for their block to fill.
    fn pending(&self) -> usize {
        self.tables.as_ref().map_or(0, |tables| tables.pending.len())
    }

    /// Bytes of the tables: buffers as sized by rubato 5 for one channel and one block, with its two plans' twiddle factors.
    fn table_bytes(&self) -> usize {
        let (input, output) = (self.block_in, self.block_out);
        // pending, output; then in rubato: input and output blocks (2 each), spectra and filter (complex, 1 + 1 + 1),
        // overlap, scratch of two blocks each; then scratch and twiddles of each plan (complex, about 1 + 1).
        size_of::<Tables>()
            + size_of::<f32>()
                * (input + output + 2 * input + 2 * output + 4 * input + 2 * output + 3 * output + 2 * input)
            + 2 * size_of::<f32>() * (2 * input + 2 * output)
    }

    fn push(&mut self, mut samples: &[f32], out: &mut Vec<f32>) {
        while !samples.is_empty() {
            let (input, output) = (self.input_rate_hz, self.output_rate_hz);
            let (block_in, block_out) = (self.block_in, self.block_out);
            let tables = self.tables.get_or_insert_with(|| {
                Box::new(Tables {
                    fft: fft(input, output),
                    pending: Vec::with_capacity(block_in),
                    output: vec![0.0; block_out],
                })
            });
            let room = block_in - tables.pending.len();
            let (head, rest) = samples.split_at(room.min(samples.len()));
            // rubato panics when a NaN reaches its inverse transform.
            tables.pending.extend(head.iter().map(|&sample| finite(sample)));
            samples = rest;
            if tables.pending.len() == block_in {
                tables.process();
                let skipped = self.delay_left.min(block_out);
                self.delay_left -= skipped;
                out.extend_from_slice(&tables.output[skipped..]);
                tables.pending.clear();
            }
        }
    }
}

impl Tables {
    fn process(&mut self) {
        let (block_in, block_out) = (self.pending.len(), self.output.len());
        let input = InterleavedSlice::new(&self.pending, 1, block_in);
        let output = InterleavedSlice::new_mut(&mut self.output, 1, block_out);
        let done = match (&mut self.fft, input, output) {
            (Some(fft), Ok(input), Ok(mut output)) => {
                fft.process_into_buffer(&input, &mut output, None).is_ok()
            }
            _ => false,
        };
        debug_assert!(done, "both blocks have the sizes that the resampler asked for");
    }
}

/// rubato's resampler of two rates; `None` where it refuses them, which it does only for rates of 0.
fn fft(input_rate_hz: usize, output_rate_hz: usize) -> Option<Fft<f32>> {
    Fft::new_custom(
        input_rate_hz,
        output_rate_hz,
        // Rounded up by rubato to the shortest block that is whole on both sides.
        wanted_block(input_rate_hz),
        1,
        1,
        // In so short a block rubato's default, the square of this window, would cut telephony at 3.2 kHz.
        rubato::WindowFunction::BlackmanHarris,
        FixedSync::Both,
    )
    .ok()
}

/// Input samples of a block where the rates allow it.
fn wanted_block(input_rate_hz: usize) -> usize {
    input_rate_hz.div_ceil(BLOCKS_PER_SECOND)
}

fn greatest_common_divisor(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl std::fmt::Debug for Resampler {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Resampler")
            .field("block_samples", &self.block_samples())
            .field("delay_samples", &self.delay_samples())
            .field("samples_received", &self.samples_received)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "resample_tests.rs"]
mod tests;
