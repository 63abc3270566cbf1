//! Linear layers in `f32`.

use super::lanes::{COLUMNS, Lanes, PanelRow};
use super::packed::{Kind, Unit};

/// Numbers of 32 bits.
pub(super) struct Float;

impl Kind for Float {
    const INPUTS: usize = 1;
    type Weight = f32;
    type Row = PanelRow;
    type Columns = ();
    type Weights<L: Lanes> = L::Weights;
    type Sums<L: Lanes> = L::Sums;

    fn row(of: impl Fn(usize, usize) -> f32) -> PanelRow {
        PanelRow(std::array::from_fn(|column| of(column, 0)))
    }

    #[inline(always)]
    fn fill<L: Lanes>(_: L, inputs: &[f32], words: &mut [u32]) -> Unit {
        for (word, input) in words.iter_mut().zip(inputs) {
            *word = input.to_bits();
        }
        Unit::default()
    }

    #[inline(always)]
    fn no_sums<L: Lanes>(lanes: L) -> L::Sums {
        lanes.no_sums()
    }

    #[inline(always)]
    fn weights<L: Lanes>(lanes: L, row: &PanelRow) -> L::Weights {
        lanes.columns(&row.0)
    }

    #[inline(always)]
    fn add<L: Lanes>(lanes: L, sums: L::Sums, word: u32, weights: L::Weights) -> L::Sums {
        lanes.add_product(sums, f32::from_bits(word), weights)
    }

    #[inline(always)]
    fn store<L: Lanes>(lanes: L, sums: L::Sums, _: Unit, (): &()) -> [f32; COLUMNS] {
        lanes.store_sums(sums)
    }
}
