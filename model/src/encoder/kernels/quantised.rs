//! Linear layers in whole numbers: weights of eight bits with a scale for each output, inputs of 16 or of 8 bits with a scale for each row's every block,
//! sums of 32 bits.
//!
//! Inputs of 16 bits ([`Pairs`]) are all but exact, what is lost is the rounding of weights; AVX2 and VNNI multiply pairs of them in one instruction, twice the products of a
//! floating-point one. Inputs of 8 bits ([`Bytes`]) are twice as fast once more where there is VNNI, and lose about one part in a hundred of each block's range.
//! They have no sign, as VNNI wants one factor of bytes to be: the least of a row's block becomes 0 and the greatest 255; what zero became is taken off again, as often as
//! the sum of an output's weights says. Sums are whole numbers, so they are exact:
//! every processor gives the same bits, and a row's result does not depend on its neighbours.

use std::array;
use std::ops::Range;

use pulp::bytemuck;

use super::lanes::{ByteQuad, COLUMNS, LANES, Lanes, WholePair};
use super::packed::{Kind, Packed, Unit};

/// Greatest weight. −128 is not used, so that signs are alike.
const WEIGHT_LIMIT: f32 = 127.0;
/// Mean square of what rounding loses, in units, that is the arithmetic's own error.
const EXACT: f32 = 1e-8;
/// Least value that a row's greatest weight may be given, unless a stored grid wants less.
const LEAST_GREATEST_WEIGHT: u8 = 112;
/// What the greatest weight becomes where a row was stored in six bits: 31 steps reach to it, or, in a row whose greatest weight is negative, 32.
const OF_SIX_BITS: [u8; 2] = [4 * 31, 3 * 32];
/// Greatest input of 16 bits: 256 products of it and the greatest weight, a block's, fit 32 bits.
const SHORT_LIMIT: f32 = 32_767.0;
/// Greatest input of 8 bits.
const BYTE_LIMIT: f32 = 255.0;

/// Weights of 8 bits, inputs of 16.
pub(super) struct Pairs;

/// Weights and inputs of 8 bits.
pub(super) struct Bytes;

/// A panel's outputs in a block.
pub(super) struct WholeColumns {
    /// Value of a weight's unit.
    units: [f32; COLUMNS],
    /// Sums of the block's weights.
    sums: [i32; COLUMNS],
}

/// Packs PyTorch's layout, `(outputs, inputs)`.
pub(super) fn pack<K: Kind<Weight = i8, Columns = WholeColumns>>(weight: &[f32], inputs: usize) -> Packed<K> {
    let outputs = weight.len() / inputs;
    let scales: Vec<f32> = weight.chunks_exact(inputs).map(best_scale).collect();
    let rounded = |output: usize, input: usize| -> i8 {
        if scales[output] > 0.0 {
            nearest(weight[output * inputs + input] / scales[output]) as i8
        } else {
            0
        }
    };
    let columns = |outputs: Range<usize>, block: Range<usize>| WholeColumns {
        units: array::from_fn(|column| scales[outputs.clone()].get(column).copied().unwrap_or(0.0)),
        sums: array::from_fn(|column| {
            let there = outputs.clone().nth(column);
            there.map_or(0, |output| {
                block.clone().map(|input| i32::from(rounded(output, input))).sum()
            })
        }),
    };
    Packed::new(outputs, inputs, rounded, columns)
}

impl WholeColumns {
    /// What sums stand for.
    #[inline(always)]
    fn value(&self, sums: [i32; COLUMNS], unit: Unit) -> [f32; COLUMNS] {
        let mut values = [0.0; COLUMNS];
        let columns = self.units.iter().zip(&self.sums);
        for ((value, sum), (column_unit, column_sum)) in values.iter_mut().zip(&sums).zip(columns) {
            *value = (sum - unit.zero * column_sum) as f32 * (unit.value * column_unit);
        }
        values
    }
}

impl Kind for Pairs {
    const INPUTS: usize = 2;
    type Weight = i8;
    type Row = WholePair;
    type Columns = WholeColumns;
    type Weights<L: Lanes> = L::PairWeights;
    type Sums<L: Lanes> = L::WholeSums;

    fn row(of: impl Fn(usize, usize) -> i8) -> WholePair {
        WholePair(array::from_fn(|column| array::from_fn(|input| of(column, input))))
    }

    #[inline(always)]
    fn fill<L: Lanes>(lanes: L, inputs: &[f32], words: &mut [u32]) -> Unit {
        round_to_shorts(lanes, inputs, bytemuck::cast_slice_mut(words))
    }

    #[inline(always)]
    fn no_sums<L: Lanes>(lanes: L) -> L::WholeSums {
        lanes.no_whole_sums()
    }

    #[inline(always)]
    fn weights<L: Lanes>(lanes: L, row: &WholePair) -> L::PairWeights {
        lanes.pair_weights(row)
    }

    #[inline(always)]
    fn add<L: Lanes>(lanes: L, sums: L::WholeSums, word: u32, weights: L::PairWeights) -> L::WholeSums {
        lanes.add_pair_products(sums, word, weights)
    }

    #[inline(always)]
    fn store<L: Lanes>(lanes: L, sums: L::WholeSums, unit: Unit, columns: &WholeColumns) -> [f32; COLUMNS] {
        columns.value(lanes.store_whole_sums(sums), unit)
    }
}

impl Kind for Bytes {
    const INPUTS: usize = 4;
    // A scale for 512 inputs loses half as much again; one for 128 makes the product a tenth slower.
    const DEPTH: usize = 64;
    type Weight = i8;
    type Row = ByteQuad;
    type Columns = WholeColumns;
    type Weights<L: Lanes> = L::ByteWeights;
    type Sums<L: Lanes> = L::WholeSums;

    fn row(of: impl Fn(usize, usize) -> i8) -> ByteQuad {
        ByteQuad(array::from_fn(|column| array::from_fn(|input| of(column, input))))
    }

    #[inline(always)]
    fn fill<L: Lanes>(lanes: L, inputs: &[f32], words: &mut [u32]) -> Unit {
        round_to_bytes(lanes, inputs, bytemuck::cast_slice_mut(words))
    }

    #[inline(always)]
    fn no_sums<L: Lanes>(lanes: L) -> L::WholeSums {
        lanes.no_whole_sums()
    }

    #[inline(always)]
    fn weights<L: Lanes>(lanes: L, row: &ByteQuad) -> L::ByteWeights {
        lanes.byte_weights(row)
    }

    #[inline(always)]
    fn add<L: Lanes>(lanes: L, sums: L::WholeSums, word: u32, weights: L::ByteWeights) -> L::WholeSums {
        lanes.add_byte_products(sums, word, weights)
    }

    #[inline(always)]
    fn store<L: Lanes>(lanes: L, sums: L::WholeSums, unit: Unit, columns: &WholeColumns) -> [f32; COLUMNS] {
        columns.value(lanes.store_whole_sums(sums), unit)
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
    let (mut least, mut best) = (f32::INFINITY, most / WEIGHT_LIMIT);
    for greatest in OF_SIX_BITS
        .into_iter()
        .chain((LEAST_GREATEST_WEIGHT..=WEIGHT_LIMIT as u8).rev())
    {
        let scale = most / f32::from(greatest);
        let units = units_lost(row, 1.0 / scale);
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

vectorised! {
    /// The sum of squares that rounding a row of weights loses, in units.
    fn units_lost(row: &[f32], units_each: f32) -> f32 {
        let mut sums = [0.0f32; LANES];
        let (chunks, rest) = row.as_chunks::<LANES>();
        for chunk in chunks {
            for (sum, value) in sums.iter_mut().zip(chunk) {
                *sum += square_lost(value * units_each);
            }
        }
        for (sum, value) in sums.iter_mut().zip(rest) {
            *sum += square_lost(value * units_each);
        }
        sums.iter().sum()
    }
}

#[inline(always)]
fn square_lost(units: f32) -> f32 {
    let off = units - nearest(units) as f32;
    off * off
}

/// A block of a row, as many numbers at a time as are rounded at once; the last ones filled up with zeros.
struct Block<'a> {
    chunks: &'a [[f32; AT_ONCE]],
    last: [f32; AT_ONCE],
}

/// Least and greatest number of a block, zero among them, and 0, or NaN if one is not finite.
struct Extent {
    least: f32,
    most: f32,
    taint: f32,
}

impl<'a> Block<'a> {
    #[inline(always)]
    fn new(inputs: &'a [f32]) -> Self {
        let (chunks, rest) = inputs.as_chunks();
        let mut last = [0.0; AT_ONCE];
        last[..rest.len()].copy_from_slice(rest);
        Self { chunks, last }
    }

    #[inline(always)]
    fn extent<L: Lanes>(&self, lanes: L) -> Extent {
        let nothing = lanes.splat(0.0);
        let (mut least, mut most, mut taint) = ([nothing; 2], [nothing; 2], [nothing; 2]);
        for chunk in self.chunks.iter().chain([&self.last]) {
            let values = halves(lanes, chunk);
            for half in 0..2 {
                least[half] = lanes.lesser(least[half], values[half]);
                most[half] = lanes.greater(most[half], values[half]);
                taint[half] = lanes.mul_add(values[half], nothing, taint[half]);
            }
        }
        let all = |halves: [L::Eight; 2]| halves.map(|half| lanes.store(half)).into_iter().flatten();
        Extent {
            least: all(least).fold(0.0, f32::min),
            most: all(most).fold(0.0, f32::max),
            taint: all(taint).sum(),
        }
    }

    /// Writes every number, rounded; `rounded` may be given more than one of them.
    #[inline(always)]
    fn write<T: Copy>(&self, numbers: &mut [T], rounded: impl Fn(&[f32; AT_ONCE]) -> [T; AT_ONCE]) {
        let (targets, rest) = numbers.as_chunks_mut();
        // The last chunk is a whole one where the numbers are filled up to it, as a word's may be.
        for (target, chunk) in targets.iter_mut().zip(self.chunks.iter().chain([&self.last])) {
            *target = rounded(chunk);
        }
        let count = rest.len();
        rest.copy_from_slice(&rounded(&self.last)[..count]);
    }
}

/// Numbers that are rounded at once.
const AT_ONCE: usize = 2 * LANES;

#[inline(always)]
fn halves<L: Lanes>(lanes: L, chunk: &[f32; AT_ONCE]) -> [L::Eight; 2] {
    let (halves, _) = chunk.as_chunks();
    [lanes.load(&halves[0]), lanes.load(&halves[1])]
}

/// Units in one, with which the greatest becomes `limit`; 0 where there is nothing to round, or what is no number.
fn factor(extent: &Extent, limit: f32, range: f32) -> f32 {
    if range > 0.0 && extent.taint == 0.0 {
        limit / range
    } else {
        0.0
    }
}

#[inline(always)]
fn round_to_shorts<L: Lanes>(lanes: L, inputs: &[f32], shorts: &mut [i16]) -> Unit {
    let block = Block::new(inputs);
    let extent = block.extent(lanes);
    let range = extent.most.max(-extent.least);
    let factors = lanes.splat(factor(&extent, SHORT_LIMIT, range));
    block.write(shorts, |chunk| {
        let [low, high] = halves(lanes, chunk);
        lanes.shorts([lanes.mul(low, factors), lanes.mul(high, factors)])
    });
    Unit {
        value: range / SHORT_LIMIT + extent.taint,
        zero: 0,
    }
}

#[inline(always)]
fn round_to_bytes<L: Lanes>(lanes: L, inputs: &[f32], bytes: &mut [u8]) -> Unit {
    let block = Block::new(inputs);
    let extent = block.extent(lanes);
    let range = extent.most - extent.least;
    let factor = factor(&extent, BYTE_LIMIT, range);
    let zero = nearest(-extent.least * factor);
    let factors = lanes.splat(factor);
    block.write(bytes, |chunk| {
        let [low, high] = halves(lanes, chunk);
        lanes.bytes([lanes.mul(low, factors), lanes.mul(high, factors)], zero)
    });
    Unit {
        value: range / BYTE_LIMIT + extent.taint,
        zero,
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
