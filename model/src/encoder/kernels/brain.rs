//! Linear layers in bf16: weights and inputs rounded to the upper halves of `f32`, sums in `f32`.
//!
//! Where the processor has AVX-512 BF16 one instruction adds two products; elsewhere the halves are widened and multiplied as `f32`, at that speed,
//! but with half the weights to fetch. Sums are rounded, so processors differ in the last digits.

use super::lanes::{BrainPair, COLUMNS, Lanes};
use super::packed::{Kind, Unit};

/// Numbers of 16 bits: the upper halves of those of 32.
pub(super) struct Brain;

/// The nearest number in bf16, of two the even one; NaN stays NaN.
#[inline(always)]
pub(super) fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if value.is_nan() { 0x7fc0 } else { nearest }
}

impl Kind for Brain {
    const INPUTS: usize = 2;
    type Weight = u16;
    type Row = BrainPair;
    type Columns = ();
    type Weights<L: Lanes> = L::BrainWeights;
    type Sums<L: Lanes> = L::Sums;

    fn row(of: impl Fn(usize, usize) -> u16) -> BrainPair {
        BrainPair(std::array::from_fn(|column| {
            std::array::from_fn(|input| of(column, input))
        }))
    }

    #[inline(always)]
    fn fill<L: Lanes>(_: L, inputs: &[f32], words: &mut [u32]) -> Unit {
        let (twos, rest) = inputs.as_chunks::<2>();
        for (word, &[low, high]) in words.iter_mut().zip(twos) {
            *word = rounded(low) | rounded(high) << 16;
        }
        if let ([last], Some(word)) = (rest, words.last_mut()) {
            *word = rounded(*last);
        }
        Unit::default()
    }

    #[inline(always)]
    fn no_sums<L: Lanes>(lanes: L) -> L::Sums {
        lanes.no_sums()
    }

    #[inline(always)]
    fn weights<L: Lanes>(lanes: L, row: &BrainPair) -> L::BrainWeights {
        lanes.brain_weights(row)
    }

    #[inline(always)]
    fn add<L: Lanes>(lanes: L, sums: L::Sums, word: u32, weights: L::BrainWeights) -> L::Sums {
        lanes.add_brain_products(sums, word, weights)
    }

    #[inline(always)]
    fn store<L: Lanes>(lanes: L, sums: L::Sums, _: Unit, (): &()) -> [f32; COLUMNS] {
        lanes.store_sums(sums)
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
