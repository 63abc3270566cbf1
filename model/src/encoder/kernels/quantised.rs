//! Linear layers in whole numbers: weights of eight bits with a scale for each output, inputs of twelve bits with a scale for
//! each row, sums of 32 bits.
//!
//! AVX2 has no product of bytes that cannot overflow its 16-bit sums, but it multiplies pairs of 16-bit numbers and adds them
//! in 32 bits in one instruction: twice the products of a floating-point one. Since inputs are 16 bits wide there anyway, they
//! keep twelve bits, which makes their rounding negligible against the weights'. Sums are whole numbers, so they are exact:
//! every processor gives the same bits, and a row's result does not depend on its neighbours.

use super::tile::{COLUMNS, Instructions, Target};
use super::vectorised;

/// Greatest weight. −128 is not used, so that signs are alike.
const WEIGHT_LIMIT: f32 = 127.0;
/// Greatest input: with it, 8,192 products of the greatest weight fit 32 bits.
const INPUT_LIMIT: f32 = 2047.0;
/// Most inputs that a layer may have, by the limits above.
pub(super) const MOST_INPUTS: usize = 8192;

/// Weights of two inputs for the columns of a panel: column 0's two, column 1's two, …
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
pub(super) struct PanelPair(pub(super) [[i8; 2]; COLUMNS]);

/// A layer's weights.
pub(super) struct Quantised {
    /// For each panel of [`COLUMNS`] outputs: a row for each two inputs.
    weight: Vec<PanelPair>,
    /// Value of a weight's unit, for each output.
    scales: Vec<[f32; COLUMNS]>,
    inputs: usize,
    outputs: usize,
}

/// Inputs of a step in whole numbers; kept from step to step.
#[derive(Debug, Default)]
pub(super) struct QuantisedRows {
    /// `(rows, pairs)`: two inputs in each number, the first one in the low half.
    pairs: Vec<i32>,
    /// Value of an input's unit, for each row.
    scales: Vec<f32>,
}

impl Quantised {
    /// From PyTorch's layout, `(outputs, inputs)`.
    pub(super) fn new(weight: &[f32], inputs: usize) -> Self {
        let outputs = weight.len() / inputs;
        let panels = outputs.div_ceil(COLUMNS);
        let scale = |output: usize| {
            let row = &weight[output * inputs..][..inputs];
            row.iter().fold(0.0f32, |most, value| most.max(value.abs())) / WEIGHT_LIMIT
        };
        let scales: Vec<f32> = (0..outputs).map(scale).collect();
        let rounded = |output: usize, input: usize| -> i8 {
            if output < outputs && input < inputs && scales[output] > 0.0 {
                (weight[output * inputs + input] / scales[output]).round() as i8
            } else {
                0
            }
        };
        let pairs = inputs.div_ceil(2);
        let packed = (0..panels).flat_map(|panel| (0..pairs).map(move |pair| (panel, pair)));
        let packed = packed.map(|(panel, pair)| {
            PanelPair(std::array::from_fn(|column| {
                let output = panel * COLUMNS + column;
                [rounded(output, 2 * pair), rounded(output, 2 * pair + 1)]
            }))
        });
        Self {
            weight: packed.collect(),
            scales: (0..panels)
                .map(|panel| {
                    std::array::from_fn(|column| scales.get(panel * COLUMNS + column).copied().unwrap_or(0.0))
                })
                .collect(),
            inputs,
            outputs,
        }
    }

    /// Writes or adds `(rows, outputs)` for `input (rows, inputs)`. A row with a value that is not finite becomes NaN.
    pub(super) fn multiply(
        &self,
        instructions: Instructions,
        input: &[f32],
        bias: &[[f32; COLUMNS]],
        output: &mut [f32],
        keeps: bool,
        scratch: &mut QuantisedRows,
    ) {
        let pairs = self.inputs.div_ceil(2);
        scratch.fill(input, self.inputs);
        let rows = input.len() / self.inputs;
        for (panel, weights) in self.weight.chunks_exact(pairs.max(1)).enumerate() {
            let column = panel * COLUMNS;
            for (first, count) in super::linear::spread(rows) {
                instructions.multiply_whole(
                    count,
                    |row| &scratch.pairs[(first + row) * pairs..][..pairs],
                    weights,
                    &scratch.scales[first..first + count],
                    &self.scales[panel],
                    Target {
                        output: &mut output[first * self.outputs + column..],
                        stride: self.outputs,
                        columns: COLUMNS.min(self.outputs - column),
                        keeps,
                        bias: Some(&bias[panel]),
                    },
                );
            }
        }
    }
}

impl QuantisedRows {
    /// Rounds `(rows, inputs)`.
    fn fill(&mut self, input: &[f32], inputs: usize) {
        let pairs = inputs.div_ceil(2);
        let rows = input.len() / inputs;
        self.pairs.resize(rows * pairs, 0);
        self.scales.resize(rows, 0.0);
        let targets = self.pairs.chunks_exact_mut(pairs).zip(&mut self.scales);
        for (row, (pairs, scale)) in input.chunks_exact(inputs).zip(targets) {
            *scale = vectorised(|| round_row(row, pairs));
        }
    }
}

/// Rounds one row and gives the value of its unit; NaN for a row that holds a value that is not finite.
#[inline(always)]
fn round_row(row: &[f32], pairs: &mut [i32]) -> f32 {
    // Adding 1.5 · 2^23 rounds to a whole number and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let (chunks, rest) = row.as_chunks::<8>();
    let (mut most, mut taint) = ([0.0f32; 8], [0.0f32; 8]);
    let mut look = |lane: usize, value: f32| {
        let size = value.abs();
        most[lane] = if size > most[lane] { size } else { most[lane] };
        // 0 for a finite value, NaN for any other.
        taint[lane] += value * 0.0;
    };
    for chunk in chunks {
        for (lane, &value) in chunk.iter().enumerate() {
            look(lane, value);
        }
    }
    rest.iter()
        .enumerate()
        .for_each(|(lane, &value)| look(lane, value));
    let most = most.iter().fold(0.0f32, |most, &value| most.max(value));
    let taint: f32 = taint.iter().sum();
    let factor = if most > 0.0 && taint == 0.0 {
        INPUT_LIMIT / most
    } else {
        0.0
    };
    let whole =
        |value: f32| -> u32 { (value * factor + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) & 0xffff };
    let (twos, rest) = row.as_chunks::<2>();
    for (pair, &[low, high]) in pairs.iter_mut().zip(twos) {
        *pair = (whole(low) | whole(high) << 16) as i32;
    }
    if let ([last], Some(pair)) = (rest, pairs.last_mut()) {
        *pair = whole(*last) as i32;
    }
    most / INPUT_LIMIT + taint
}

impl Instructions {
    /// Multiplies 1 to [`super::tile::ROWS`] rows of `panel.len()` pairs of inputs by a panel.
    fn multiply_whole<'a>(
        self,
        rows: usize,
        row: impl Fn(usize) -> &'a [i32],
        panel: &[PanelPair],
        row_scales: &[f32],
        scales: &[f32; COLUMNS],
        target: Target<'_>,
    ) {
        let values = (panel, row_scales, scales);
        match rows {
            1 => self.whole_tile::<1>(std::array::from_fn(row), values, target),
            2 => self.whole_tile::<2>(std::array::from_fn(row), values, target),
            3 => self.whole_tile::<3>(std::array::from_fn(row), values, target),
            4 => self.whole_tile::<4>(std::array::from_fn(row), values, target),
            5 => self.whole_tile::<5>(std::array::from_fn(row), values, target),
            _ => self.whole_tile::<{ super::tile::ROWS }>(std::array::from_fn(row), values, target),
        }
    }

    fn whole_tile<const N: usize>(
        self,
        rows: [&[i32]; N],
        (panel, row_scales, scales): (&[PanelPair], &[f32], &[f32; COLUMNS]),
        target: Target<'_>,
    ) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.vectorize(avx2::Tile {
                simd,
                rows,
                panel,
                row_scales,
                scales,
                target,
            }),
            Self::Plain => {
                let mut sums = [[0i32; COLUMNS]; N];
                for (pair, PanelPair(weights)) in panel.iter().enumerate() {
                    for (sums, row) in sums.iter_mut().zip(&rows) {
                        let (low, high) = (i32::from(row[pair] as i16), row[pair] >> 16);
                        for (sum, weights) in sums.iter_mut().zip(weights) {
                            *sum += low * i32::from(weights[0]) + high * i32::from(weights[1]);
                        }
                    }
                }
                target.take(&scaled(&sums, row_scales, scales));
            }
        }
    }
}

#[inline(always)]
fn scaled<const N: usize>(
    sums: &[[i32; COLUMNS]; N],
    row_scales: &[f32],
    scales: &[f32; COLUMNS],
) -> [[f32; COLUMNS]; N] {
    let row_scales = &row_scales[..N];
    std::array::from_fn(|row| {
        std::array::from_fn(|column| sums[row][column] as f32 * (row_scales[row] * scales[column]))
    })
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::__m128i;

    use pulp::x86::V3;
    use pulp::{NullaryFnOnce, cast};

    use super::{COLUMNS, PanelPair, Target, scaled};

    pub(super) struct Tile<'a, const N: usize> {
        pub(super) simd: V3,
        pub(super) rows: [&'a [i32]; N],
        pub(super) panel: &'a [PanelPair],
        pub(super) row_scales: &'a [f32],
        pub(super) scales: &'a [f32; COLUMNS],
        pub(super) target: Target<'a>,
    }

    impl<const N: usize> NullaryFnOnce for Tile<'_, N> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let (avx, avx2) = (self.simd.avx, self.simd.avx2);
            let pairs = self.panel.len();
            // Slices of one length, so that no index below needs a check.
            let rows: [&[i32]; N] = std::array::from_fn(|row| &self.rows[row][..pairs]);
            let mut sums = [[avx._mm256_setzero_si256(); 2]; N];
            for pair in 0..pairs {
                let [low, high]: [__m128i; 2] = cast(self.panel[pair].0);
                let (low, high) = (avx2._mm256_cvtepi8_epi16(low), avx2._mm256_cvtepi8_epi16(high));
                for (sums, row) in sums.iter_mut().zip(&rows) {
                    let value = avx._mm256_set1_epi32(row[pair]);
                    sums[0] = avx2._mm256_add_epi32(sums[0], avx2._mm256_madd_epi16(value, low));
                    sums[1] = avx2._mm256_add_epi32(sums[1], avx2._mm256_madd_epi16(value, high));
                }
            }
            let sums = sums.map(|sums| -> [i32; COLUMNS] { cast(sums) });
            self.target.take(&scaled(&sums, self.row_scales, self.scales));
        }
    }
}
