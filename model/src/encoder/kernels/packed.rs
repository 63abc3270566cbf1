//! Products of rows with packed weights, a block of inputs after another, whatever kind of numbers they are.
//!
//! Inputs become words of 32 bits that hold one, two or four of them. A block of weights for two panels of outputs has [`DEPTH`] words at most: half of the
//! innermost cache of common processors, so that it stays there while all rows pass it. Two panels at once halve the words that are read. The
//! rows' words are written side by side first: at a distance that is a power of two, as rows of a model mostly have, the twelve of a tile
//! fall into the same few places of the caches and push each other out.
//!
//! Each output is summed in the same order whatever the number of rows, so a row does not depend on its neighbours by even a bit.

use std::marker::PhantomData;
use std::ops::Range;

use super::lanes::{COLUMNS, Instructions, Lanes, LanesWork};
use super::tile::{TileWork, in_tiles};

/// Most words of a block.
const DEPTH: usize = 128;

/// Words from a row to the next: one cache line more than a block.
const STRIDE: usize = DEPTH + 16;

/// Most rows whose words are written at once: with them, a block stays in the second-level cache.
const ROWS: usize = 256;

/// A kind of numbers to multiply.
pub(super) trait Kind: Sized {
    /// Inputs in a word.
    const INPUTS: usize;
    /// Words of a block, at most [`DEPTH`].
    const DEPTH: usize = DEPTH;
    /// A weight.
    type Weight: Copy + Default;
    /// Weights of a word's inputs for the outputs of a panel.
    type Row;
    /// What is to be known of a panel's outputs in a block besides their weights.
    type Columns;
    type Weights<L: Lanes>: Copy;
    /// A sum for each output of a panel.
    type Sums<L: Lanes>: Copy;

    /// Packs weights: `of(output, input)` within the panel and the word.
    fn row(of: impl Fn(usize, usize) -> Self::Weight) -> Self::Row;
    /// Writes a row's inputs of a block as words; the last one is filled up with anything.
    fn fill<L: Lanes>(lanes: L, inputs: &[f32], words: &mut [u32]) -> Unit;
    fn no_sums<L: Lanes>(lanes: L) -> Self::Sums<L>;
    fn weights<L: Lanes>(lanes: L, row: &Self::Row) -> Self::Weights<L>;
    /// Adds the products of a word.
    fn add<L: Lanes>(lanes: L, sums: Self::Sums<L>, word: u32, weights: Self::Weights<L>) -> Self::Sums<L>;
    /// What the sums of a block stand for.
    fn store<L: Lanes>(lanes: L, sums: Self::Sums<L>, unit: Unit, columns: &Self::Columns) -> [f32; COLUMNS];
}

/// How a row's words of a block are to be read, where they are whole numbers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Unit {
    /// Value of one; NaN if an input was not finite.
    pub(super) value: f32,
    /// What stands for zero.
    pub(super) zero: i32,
}

/// Rows as words, kept from product to product so that a step at work allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Words {
    words: Vec<[u32; STRIDE]>,
    units: Vec<Unit>,
}

impl Words {
    /// Room for so many rows.
    fn reserve(&mut self, rows: usize) {
        if self.words.len() < rows {
            self.words.resize(rows, [0; STRIDE]);
            self.units.resize(rows, Unit::default());
        }
    }
}

/// Some inputs of each row of `(rows, inputs)`, to be written as words.
struct Fill<'a, K> {
    input: &'a [f32],
    inputs: usize,
    some: Range<usize>,
    words: &'a mut Words,
    kind: PhantomData<K>,
}

impl<K: Kind> LanesWork for Fill<'_, K> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let targets = self.words.words.iter_mut().zip(&mut self.words.units);
        for (row, (words, unit)) in self.input.chunks_exact(self.inputs).zip(targets) {
            let words = &mut words[..self.some.len().div_ceil(K::INPUTS)];
            *unit = K::fill(lanes, &row[self.some.clone()], words);
        }
    }
}

/// A layer's weights.
pub(super) struct Packed<K: Kind> {
    /// For each block, for each two panels, for each word: a row for each of the two.
    rows: Vec<K::Row>,
    /// For each block, for each panel.
    columns: Vec<K::Columns>,
    inputs: usize,
    outputs: usize,
}

/// Where a product goes.
pub(super) struct Target<'a> {
    /// `(rows, outputs)`.
    pub(super) output: &'a mut [f32],
    /// Added, for each panel.
    pub(super) bias: &'a [[f32; COLUMNS]],
    /// Whether to add to what is there, too.
    pub(super) keeps: bool,
}

impl<K: Kind> Packed<K> {
    /// Packs `weight(output, input)`; `columns` says the rest of a panel for a block's inputs.
    pub(super) fn new(
        outputs: usize,
        inputs: usize,
        weight: impl Fn(usize, usize) -> K::Weight,
        columns: impl Fn(Range<usize>, Range<usize>) -> K::Columns,
    ) -> Self {
        let panels = outputs.div_ceil(COLUMNS);
        let (mut rows, mut all_columns) = (Vec::new(), Vec::new());
        for block in blocks::<K>(inputs) {
            for first in (0..panels).step_by(2) {
                for begin in block.clone().step_by(K::INPUTS) {
                    rows.extend((first..panels.min(first + 2)).map(|panel| {
                        K::row(|column, index| {
                            let (output, input) = (panel * COLUMNS + column, begin + index);
                            if output < outputs && input < inputs {
                                weight(output, input)
                            } else {
                                K::Weight::default()
                            }
                        })
                    }));
                }
            }
            all_columns.extend((0..panels).map(|panel| {
                let begin = panel * COLUMNS;
                columns(begin..outputs.min(begin + COLUMNS), block.clone())
            }));
        }
        Self {
            rows,
            columns: all_columns,
            inputs,
            outputs,
        }
    }

    /// Multiplies `input (rows, inputs)`.
    pub(super) fn multiply(
        &self,
        instructions: Instructions,
        input: &[f32],
        target: Target<'_>,
        words: &mut Words,
    ) {
        let panels = self.outputs.div_ceil(COLUMNS);
        let parts = input.chunks(ROWS * self.inputs);
        for (input, output) in parts.zip(target.output.chunks_mut(ROWS * self.outputs)) {
            let rows = input.len() / self.inputs;
            let (mut later, mut columns) = (self.rows.as_slice(), self.columns.as_slice());
            for block in blocks::<K>(self.inputs) {
                words.reserve(rows);
                instructions.run(Fill::<K> {
                    input,
                    inputs: self.inputs,
                    some: block.clone(),
                    words,
                    kind: PhantomData,
                });
                let depth = block.len().div_ceil(K::INPUTS);
                for first in (0..panels).step_by(2) {
                    let some = first..panels.min(first + 2);
                    let (weights, rest) = later.split_at(depth * some.len());
                    let is_first = block.start == 0;
                    let begin = first * COLUMNS;
                    let sums = Sums {
                        output: &mut output[begin..],
                        stride: self.outputs,
                        columns: self.outputs - begin,
                        bias: is_first.then_some(&target.bias[some.clone()]),
                        keeps: target.keeps || !is_first,
                    };
                    let (words, units) = (&words.words[..rows], &words.units[..rows]);
                    let columns = &columns[some.clone()];
                    if some.len() == 2 {
                        instructions.run(Product::<K, 2> {
                            words,
                            units,
                            weights: weights.as_chunks().0,
                            columns,
                            sums,
                        });
                    } else {
                        instructions.run(Product::<K, 1> {
                            words,
                            units,
                            weights: weights.as_chunks().0,
                            columns,
                            sums,
                        });
                    }
                    later = rest;
                }
                columns = &columns[panels..];
            }
        }
    }
}

/// Inputs of each block.
fn blocks<K: Kind>(inputs: usize) -> impl Iterator<Item = Range<usize>> {
    let most = K::DEPTH * K::INPUTS;
    (0..inputs)
        .step_by(most)
        .map(move |begin| begin..inputs.min(begin + most))
}

/// All rows by `WIDTH` panels of a block.
struct Product<'a, K: Kind, const WIDTH: usize> {
    words: &'a [[u32; STRIDE]],
    units: &'a [Unit],
    /// For each word.
    weights: &'a [[K::Row; WIDTH]],
    columns: &'a [K::Columns],
    sums: Sums<'a>,
}

/// What the sums of panels are added to.
struct Sums<'a> {
    /// The first row's first column.
    output: &'a mut [f32],
    /// Values from one row to the next.
    stride: usize,
    /// Columns that are there, of this panel and those behind it.
    columns: usize,
    bias: Option<&'a [[f32; COLUMNS]]>,
    keeps: bool,
}

impl<K: Kind, const WIDTH: usize> LanesWork for Product<'_, K, WIDTH> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let rows = self.words.len();
        if L::ROWS_OF_TWO > 0 {
            let most = if WIDTH == 2 { L::ROWS_OF_TWO } else { L::ROWS };
            in_tiles(lanes, rows, most, &mut Tiles::<K, WIDTH, WIDTH>(self, 0));
        } else {
            let mut tiles = Tiles::<K, WIDTH, 1>(self, 0);
            for panel in 0..WIDTH {
                tiles.1 = panel;
                in_tiles(lanes, rows, L::ROWS, &mut tiles);
            }
        }
    }
}

/// A product's tiles of `TILE` panels, from a panel on.
struct Tiles<'a, K: Kind, const WIDTH: usize, const TILE: usize>(Product<'a, K, WIDTH>, usize);

impl<K: Kind, const WIDTH: usize, const TILE: usize> TileWork for Tiles<'_, K, WIDTH, TILE> {
    #[inline(always)]
    fn tile<L: Lanes, const N: usize>(&mut self, lanes: L, first: usize) {
        let Self(product, begin) = self;
        let begin = if TILE == WIDTH { 0 } else { *begin };
        let Some((words, _)) = product.words[first..].split_first_chunk::<N>() else {
            unreachable!("a tile is within the rows")
        };
        let mut sums = [[K::no_sums(lanes); TILE]; N];
        // A block has no more words than a row, which the compiler is told here.
        for (index, rows) in product.weights.iter().take(K::DEPTH).enumerate() {
            let mut weights = [K::weights(lanes, &rows[begin]); TILE];
            for panel in 1..TILE {
                weights[panel] = K::weights(lanes, &rows[begin + panel]);
            }
            for row in 0..N {
                let word = words[row][index];
                for panel in 0..TILE {
                    sums[row][panel] = K::add(lanes, sums[row][panel], word, weights[panel]);
                }
            }
        }
        let Some((units, _)) = product.units[first..].split_first_chunk::<N>() else {
            unreachable!("a tile is within the rows")
        };
        let sums_of = &mut product.sums;
        // By indices: an array's own iterator would first be written to memory, whole. Two loops: one that asks inside costs bytes 1 %.
        if sums_of.columns >= WIDTH * COLUMNS {
            for index in 0..N {
                for panel in 0..TILE {
                    let sums = K::store(
                        lanes,
                        sums[index][panel],
                        units[index],
                        &product.columns[begin + panel],
                    );
                    sums_of.take_whole(first + index, begin + panel, sums);
                }
            }
        } else {
            for index in 0..N {
                for panel in 0..TILE {
                    let sums = K::store(
                        lanes,
                        sums[index][panel],
                        units[index],
                        &product.columns[begin + panel],
                    );
                    sums_of.take_part(first + index, begin + panel, sums);
                }
            }
        }
    }
}

impl Sums<'_> {
    /// Takes one row's sums of a panel all of whose columns are there.
    #[inline(always)]
    fn take_whole(&mut self, row: usize, panel: usize, mut sums: [f32; COLUMNS]) {
        let there = &mut self.output[row * self.stride + panel * COLUMNS..][..COLUMNS];
        if let Some(bias) = self.bias {
            for (sum, bias) in sums.iter_mut().zip(&bias[panel]) {
                *sum += bias;
            }
        }
        if self.keeps {
            for (sum, there) in sums.iter_mut().zip(&*there) {
                *sum += there;
            }
        }
        there.copy_from_slice(&sums);
    }

    /// Takes one row's sums of a panel.
    #[inline(always)]
    fn take_part(&mut self, row: usize, panel: usize, sums: [f32; COLUMNS]) {
        let begin = panel * COLUMNS;
        let there = &mut self.output[row * self.stride + begin..][..COLUMNS.min(self.columns - begin)];
        for (column, (there, sum)) in there.iter_mut().zip(sums).enumerate() {
            let bias = self.bias.map_or(0.0, |bias| bias[panel][column]);
            *there = if self.keeps {
                sum + bias + *there
            } else {
                sum + bias
            };
        }
    }
}
