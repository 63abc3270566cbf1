//! Linear layers in whole numbers: weights of eight bits with a scale for each output, inputs of twelve bits with a scale for
//! each row, sums of 32 bits.
//!
//! AVX2 has no product of bytes that cannot overflow its 16-bit sums, but it multiplies pairs of 16-bit numbers and adds them
//! in 32 bits in one instruction: twice the products of a floating-point one. Since inputs are 16 bits wide there anyway, they
//! keep twelve bits, which makes their rounding negligible against the weights'. Sums are whole numbers, so they are exact:
//! every processor gives the same bits, and a row's result does not depend on its neighbours.

use super::lanes::{COLUMNS, Instructions, Lanes, LanesWork, PanelPair};
use super::tile::{Outputs, Target, TileWork, apart, in_tiles, pack_pairs};
use super::vectorised;

/// Greatest weight. −128 is not used, so that signs are alike.
const WEIGHT_LIMIT: f32 = 127.0;
/// Mean square of what rounding loses, in units, that is the arithmetic's own error.
const EXACT: f32 = 1e-8;
/// Least value that a row's greatest weight may be given, unless a stored grid wants less.
const LEAST_GREATEST_WEIGHT: u8 = 112;
/// What the greatest weight becomes where a row was stored in six bits: 31 steps reach to it, or, in a row whose greatest weight is negative, 32.
const OF_SIX_BITS: [u8; 2] = [4 * 31, 3 * 32];
/// Greatest input: with it, 8,192 products of the greatest weight fit 32 bits.
const INPUT_LIMIT: f32 = 2047.0;
/// Most inputs that a layer may have, by the limits above.
pub(super) const MOST_INPUTS: usize = 8192;

/// A layer's weights.
pub(super) struct Quantised {
    /// For each panel of [`COLUMNS`] outputs: a row for each two inputs.
    weight: Vec<PanelPair>,
    /// Value of a weight's unit, for each output.
    scales: Vec<[f32; COLUMNS]>,
    inputs: usize,
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
        let scales: Vec<f32> = weight.chunks_exact(inputs).map(best_scale).collect();
        let rounded = |output: usize, input: usize| -> i8 {
            if scales[output] > 0.0 {
                nearest(weight[output * inputs + input] / scales[output]) as i8
            } else {
                0
            }
        };
        Self {
            weight: pack_pairs(outputs, inputs, rounded, PanelPair),
            scales: (0..outputs.div_ceil(COLUMNS))
                .map(|panel| {
                    std::array::from_fn(|column| scales.get(panel * COLUMNS + column).copied().unwrap_or(0.0))
                })
                .collect(),
            inputs,
        }
    }

    /// Writes or adds `(rows, outputs)` for `input (rows, inputs)`. A row with a value that is not finite becomes NaN.
    pub(super) fn multiply(
        &self,
        instructions: Instructions,
        input: &[f32],
        output: Outputs<'_>,
        scratch: &mut QuantisedRows,
    ) {
        let pairs = self.inputs.div_ceil(2);
        scratch.fill(input, self.inputs);
        let rows = input.len() / self.inputs;
        output.by_panels(rows, pairs * size_of::<i32>(), |begin, rows, panel, target| {
            instructions.run(WholePanel {
                pairs: &scratch.pairs[begin * pairs..],
                row_scales: &scratch.scales[begin..],
                rows,
                weights: &self.weight[panel * pairs..][..pairs],
                scales: &self.scales[panel],
                target,
            });
        });
    }
}

/// The nearest whole number, of two the even one, for units below 2^22: without a call where the processor's rounding is not at hand.
#[inline(always)]
fn nearest(units: f32) -> i32 {
    // Adding 1.5 · 2^23 rounds to a whole number and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    (units + ROUND)
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .cast_signed()
}

/// Value of a unit with which rounding a row of weights loses least, of those that use nearly all of the range.
///
/// Weights that were stored in fewer bits with a scale of their own, as the shipped models are, with 31 steps up and 32 down, lie on a grid; the greatest
/// of them as 127 would miss it, as 124 or 96 hits it exactly.
fn best_scale(row: &[f32]) -> f32 {
    let most = row.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    if most == 0.0 {
        return 0.0;
    }
    // The sum of squares that are lost, in units.
    let lost = |scale: f32| -> f32 {
        let units_each = 1.0 / scale;
        let mut sums = [0.0f32; 8];
        vectorised(|| {
            let mut lose = |lane: usize, value: f32| {
                let units = value * units_each;
                let off = units - units.round_ties_even();
                sums[lane] += off * off;
            };
            let (chunks, rest) = row.as_chunks::<8>();
            for chunk in chunks {
                for (lane, &value) in chunk.iter().enumerate() {
                    lose(lane, value);
                }
            }
            for (lane, &value) in rest.iter().enumerate() {
                lose(lane, value);
            }
        });
        sums.iter().sum()
    };
    let (mut least, mut best) = (f32::INFINITY, most / WEIGHT_LIMIT);
    for greatest in OF_SIX_BITS
        .into_iter()
        .chain((LEAST_GREATEST_WEIGHT..=WEIGHT_LIMIT as u8).rev())
    {
        let scale = most / f32::from(greatest);
        let units = lost(scale);
        if scale * scale * units < least {
            (least, best) = (scale * scale * units, scale);
        }
        // It lies on this grid: no other can lose less, and a model is loaded the sooner.
        if units < EXACT * row.len() as f32 {
            break;
        }
    }
    best
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
    let whole = |value: f32| -> u32 { nearest(value * factor).cast_unsigned() & 0xffff };
    let (twos, rest) = row.as_chunks::<2>();
    for (pair, &[low, high]) in pairs.iter_mut().zip(twos) {
        *pair = (whole(low) | whole(high) << 16) as i32;
    }
    if let ([last], Some(pair)) = (rest, pairs.last_mut()) {
        *pair = whole(*last) as i32;
    }
    most / INPUT_LIMIT + taint
}

/// All rows by one panel of whole weights.
struct WholePanel<'a> {
    /// `(rows, pairs)`.
    pairs: &'a [i32],
    /// Value of an input's unit, for each row.
    row_scales: &'a [f32],
    rows: usize,
    /// One for each pair of inputs.
    weights: &'a [PanelPair],
    /// Value of a weight's unit, for each column.
    scales: &'a [f32; COLUMNS],
    target: Target<'a>,
}

impl LanesWork for WholePanel<'_> {
    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let rows = self.rows;
        in_tiles(lanes, rows, L::ROWS, &mut self);
    }
}

impl TileWork for WholePanel<'_> {
    #[inline(always)]
    fn tile<L: Lanes, const N: usize>(&mut self, lanes: L, first: usize) {
        let pairs = self.weights.len();
        let rows = apart::<_, N>(std::array::from_fn(|row| &self.pairs[(first + row) * pairs..]));
        // Slices of one length, so that no index below needs a check.
        let rows: [&[i32]; N] = std::array::from_fn(|row| &rows[row][..pairs]);
        let mut sums = [lanes.no_whole_sums(); N];
        for pair in 0..pairs {
            let weights = lanes.whole_weights(&self.weights[pair]);
            for (sums, row) in sums.iter_mut().zip(&rows) {
                *sums = lanes.add_whole_products(*sums, row[pair], weights);
            }
        }
        let row_scales = &self.row_scales[first..][..N];
        let mut scaled = [[0.0; COLUMNS]; N];
        for ((scaled, sums), row_scale) in scaled.iter_mut().zip(sums).zip(row_scales) {
            *scaled = lanes.scaled(sums, *row_scale, self.scales);
        }
        self.target.take::<N>(first, scaled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_that_lie_on_a_grid_of_fewer_bits_are_kept_exactly() {
        for (least, greatest) in [
            (-7, 7),
            (-8, 7),
            (-15, 15),
            (-16, 15),
            (-31, 31),
            (-32, 31),
            (-63, 63),
        ] {
            let unit = 0.003_7;
            let row: Vec<f32> = (least..=greatest).map(|step| step as f32 * unit).collect();
            let scale = best_scale(&row);
            for value in &row {
                let kept = (value / scale).round() * scale;
                assert!(
                    (kept - value).abs() <= f32::EPSILON * value.abs(),
                    "{least} to {greatest}: {value} became {kept}"
                );
            }
        }
    }

    #[test]
    fn no_row_loses_more_than_by_its_greatest_weight_as_127() {
        for seed in 1..40_u32 {
            let row: Vec<f32> = (0..257_u32)
                .map(|index| ((index * seed * 2_654_435) % 10_007) as f32 / 5_000.0 - 1.0)
                .collect();
            let most = row.iter().fold(0.0f32, |most, value| most.max(value.abs()));
            let lost = |scale: f32| -> f32 {
                let kept = |value: f32| (value / scale).round() * scale;
                row.iter().map(|&value| (value - kept(value)).powi(2)).sum()
            };
            let scale = best_scale(&row);
            assert!(lost(scale) <= lost(most / WEIGHT_LIMIT) * 1.000_1);
            assert!(most / scale <= WEIGHT_LIMIT + 1e-3);
        }
        assert_eq!(best_scale(&[0.0; 4]), 0.0);
    }
}
