//! Linear layers in bf16: weights and inputs rounded to the upper halves of `f32`, sums in `f32`.
//!
//! Where the processor has AVX-512 BF16 one instruction adds two products; elsewhere the halves are widened and multiplied as `f32`, at that speed,
//! but with half the weights to fetch. Sums are rounded, so processors differ in the last digits.

use super::lanes::{BrainPair, Instructions, Lanes, LanesWork};
use super::tile::{Outputs, Target, TileWork, apart, in_tiles, pack_pairs};
use super::vectorised;

/// A layer's weights.
pub(super) struct Brain {
    /// For each panel of [`COLUMNS`] outputs: a row for each two inputs.
    weight: Vec<BrainPair>,
    inputs: usize,
}

/// Inputs of a step in bf16, `(rows, pairs)`: two in each number, the first one in the low half. Kept from step to step.
#[derive(Debug, Default)]
pub(super) struct BrainRows(Vec<u32>);

/// The nearest number in bf16, of two the even one; NaN stays NaN.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if value.is_nan() { 0x7fc0 } else { nearest }
}

impl Brain {
    /// From PyTorch's layout, `(outputs, inputs)`.
    pub(super) fn new(weight: &[f32], inputs: usize) -> Self {
        let outputs = weight.len() / inputs;
        let half = |output: usize, input: usize| rounded(weight[output * inputs + input]) as u16;
        Self {
            weight: pack_pairs(outputs, inputs, half, BrainPair),
            inputs,
        }
    }

    /// Writes or adds `(rows, outputs)` for `input (rows, inputs)`.
    pub(super) fn multiply(
        &self,
        instructions: Instructions,
        input: &[f32],
        output: Outputs<'_>,
        scratch: &mut BrainRows,
    ) {
        let pairs = self.inputs.div_ceil(2);
        scratch.fill(input, self.inputs);
        let rows = input.len() / self.inputs;
        output.by_panels(rows, pairs * size_of::<u32>(), |begin, rows, panel, target| {
            instructions.run(BrainPanel {
                pairs: &scratch.0[begin * pairs..],
                rows,
                weights: &self.weight[panel * pairs..][..pairs],
                target,
            });
        });
    }
}

impl BrainRows {
    /// Rounds `(rows, inputs)`.
    fn fill(&mut self, input: &[f32], inputs: usize) {
        let pairs = inputs.div_ceil(2);
        self.0.resize(input.len() / inputs * pairs, 0);
        for (row, pairs) in input.chunks_exact(inputs).zip(self.0.chunks_exact_mut(pairs)) {
            vectorised(|| {
                let (twos, rest) = row.as_chunks::<2>();
                for (pair, &[low, high]) in pairs.iter_mut().zip(twos) {
                    *pair = rounded(low) | rounded(high) << 16;
                }
                if let ([last], Some(pair)) = (rest, pairs.last_mut()) {
                    *pair = rounded(*last);
                }
            });
        }
    }
}

/// All rows by one panel of weights in bf16.
struct BrainPanel<'a> {
    /// `(rows, pairs)`.
    pairs: &'a [u32],
    rows: usize,
    /// One for each pair of inputs.
    weights: &'a [BrainPair],
    target: Target<'a>,
}

impl LanesWork for BrainPanel<'_> {
    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let rows = self.rows;
        in_tiles(lanes, rows, L::ROWS, &mut self);
    }
}

impl TileWork for BrainPanel<'_> {
    #[inline(always)]
    fn tile<L: Lanes, const N: usize>(&mut self, lanes: L, first: usize) {
        let pairs = self.weights.len();
        let rows = apart::<_, N>(std::array::from_fn(|row| &self.pairs[(first + row) * pairs..]));
        // Slices of one length, so that no index below needs a check.
        let rows: [&[u32]; N] = std::array::from_fn(|row| &rows[row][..pairs]);
        let mut sums = [lanes.no_sums(); N];
        for pair in 0..pairs {
            let weights = lanes.brain_weights(&self.weights[pair]);
            for (sums, row) in sums.iter_mut().zip(&rows) {
                *sums = lanes.add_brain_products(*sums, row[pair], weights);
            }
        }
        self.target.take(first, sums.map(|sums| lanes.store_sums(sums)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        for step in 0..200_000_u32 {
            let value = f32::from_bits(step.wrapping_mul(21_474_787));
            let (found, expected) = (rounded(value) as u16, half::bf16::from_f32(value));
            if value.is_nan() {
                assert!(half::bf16::from_bits(found).is_nan(), "{value}");
            } else {
                assert_eq!(found, expected.to_bits(), "{value}");
            }
        }
    }
}
