//! The two products of attention, head by head, over rows that stay where they lie.

use super::lanes::{COLUMNS, LANES, Lanes, LanesWork};
use super::tile::{TileWork, apart, in_tiles};

/// Queries that share the reading of keys: with as many as four keys at a time their sums stay in registers.
const SCORED_QUERIES: usize = 2;
/// Queries that share the reading of a value.
const MIXED_QUERIES: usize = 6;

/// Rows that begin `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) count: usize,
}

impl<'a> Rows<'a> {
    /// `width` values of a row, from its `begin`th on.
    #[inline(always)]
    fn part(&self, row: usize, begin: usize, width: usize) -> &'a [f32] {
        &self.data[row * self.stride + begin..][..width]
    }
}

/// Products of one head's queries and keys.
pub(crate) struct Scores<'a> {
    pub(crate) queries: Rows<'a>,
    pub(crate) keys: [Rows<'a>; 2],
    pub(crate) begin: usize,
    pub(crate) head_dim: usize,
    pub(crate) columns: usize,
    /// `(queries, columns)`.
    pub(crate) scores: &'a mut [f32],
}

impl LanesWork for Scores<'_> {
    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let count = self.queries.count;
        in_tiles(lanes, count, SCORED_QUERIES, &mut self);
    }
}

/// The part of a head that fills registers.
#[inline(always)]
fn whole_chunks(values: &[f32], count: usize) -> &[[f32; LANES]] {
    &values.as_chunks::<LANES>().0[..count]
}

impl<'a> Scores<'a> {
    #[inline(always)]
    fn key(&self, index: usize) -> &'a [f32] {
        let [own, left] = &self.keys;
        match index.checked_sub(own.count) {
            None => own.part(index, self.begin, self.head_dim),
            Some(index) => left.part(index, self.begin, self.head_dim),
        }
    }
}

impl TileWork for Scores<'_> {
    #[inline(always)]
    fn tile<L: Lanes, const N: usize>(&mut self, lanes: L, first: usize) {
        let whole = self.head_dim / LANES;
        let count = self.keys[0].count + self.keys[1].count;
        let queries: [&[f32]; N] =
            std::array::from_fn(|index| self.queries.part(first + index, self.begin, self.head_dim));
        let query_chunks: [&[[f32; LANES]]; N] = queries.map(|query| whole_chunks(query, whole));
        for column in (0..count).step_by(4) {
            // Behind the last key it is taken again, and its scores are dropped.
            let key = |index: usize| self.key((column + index).min(count - 1));
            let keys = [key(0), key(1), key(2), key(3)];
            let chunks = [
                whole_chunks(keys[0], whole),
                whole_chunks(keys[1], whole),
                whole_chunks(keys[2], whole),
                whole_chunks(keys[3], whole),
            ];
            let mut sums = [[lanes.splat(0.0); 4]; N];
            // By indices: arrays' own iterators would be written to memory.
            for chunk in 0..whole {
                let four = [
                    lanes.load(&chunks[0][chunk]),
                    lanes.load(&chunks[1][chunk]),
                    lanes.load(&chunks[2][chunk]),
                    lanes.load(&chunks[3][chunk]),
                ];
                for index in 0..N {
                    let query = lanes.load(&query_chunks[index][chunk]);
                    for key in 0..4 {
                        sums[index][key] = lanes.mul_add(query, four[key], sums[index][key]);
                    }
                }
            }
            for index in 0..N {
                let mut four = lanes.sums(sums[index]);
                if whole * LANES < self.head_dim {
                    for (score, key) in four.iter_mut().zip(keys) {
                        let rest = queries[index].iter().zip(key).skip(whole * LANES);
                        *score += rest.map(|(query, key)| query * key).sum::<f32>();
                    }
                }
                let scores = &mut self.scores[(first + index) * self.columns + column..];
                let there = scores.len().min(count - column).min(4);
                if there == 4 {
                    scores[..4].copy_from_slice(&four);
                } else {
                    scores[..there].copy_from_slice(&four[..there]);
                }
            }
        }
    }
}

/// One head's values, weighted and summed for each query.
pub(crate) struct Mixture<'a> {
    /// `(queries, columns)`.
    pub(crate) weights: &'a [f32],
    pub(crate) columns: usize,
    pub(crate) values: [Rows<'a>; 2],
    pub(crate) begin: usize,
    pub(crate) head_dim: usize,
    /// `(queries, stride)`, all heads.
    pub(crate) output: &'a mut [f32],
    pub(crate) stride: usize,
    pub(crate) num_queries: usize,
}

impl LanesWork for Mixture<'_> {
    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let count = self.num_queries;
        in_tiles(lanes, count, MIXED_QUERIES, &mut self);
    }
}

impl TileWork for Mixture<'_> {
    #[inline(always)]
    fn tile<L: Lanes, const N: usize>(&mut self, lanes: L, first: usize) {
        let end = self.begin + self.head_dim;
        let mut at = self.begin;
        // Six queries by four panels are 24 of the 32 registers of AVX-512, six by one twelve of AVX2's sixteen.
        if L::ROWS_OF_TWO > 0 {
            while at + 4 * COLUMNS <= end {
                self.panels::<L, N, 4>(lanes, first, at);
                at += 4 * COLUMNS;
            }
        }
        while at + COLUMNS <= end {
            self.panels::<L, N, 1>(lanes, first, at);
            at += COLUMNS;
        }
        for at in at..end {
            for query in first..first + N {
                let weights = &self.weights[query * self.columns..][..self.columns];
                let [own, left] = &self.values;
                let values = (0..own.count).map(|row| own.part(row, at, 1)[0]);
                let values = values.chain((0..left.count).map(|row| left.part(row, at, 1)[0]));
                self.output[query * self.stride + at] = weights
                    .iter()
                    .zip(values)
                    .map(|(weight, value)| weight * value)
                    .sum();
            }
        }
    }
}

impl Mixture<'_> {
    /// `N` queries by `WIDTH` panels of values.
    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "iterators over arrays of registers may go through memory"
    )]
    fn panels<L: Lanes, const N: usize, const WIDTH: usize>(&mut self, lanes: L, first: usize, at: usize) {
        let mut sums = [[lanes.no_sums(); WIDTH]; N];
        let mut column = 0;
        for values in &self.values {
            // Slices of one length, so that no index below needs a check.
            let weights = apart::<_, N>(std::array::from_fn(|index| {
                &self.weights[(first + index) * self.columns + column..]
            }));
            let weights: [&[f32]; N] = std::array::from_fn(|index| &weights[index][..values.count]);
            for row in 0..values.count {
                let panels = values.part(row, at, WIDTH * COLUMNS).as_chunks::<COLUMNS>().0;
                let mut value = [lanes.columns(&panels[0]); WIDTH];
                for panel in 1..WIDTH {
                    value[panel] = lanes.columns(&panels[panel]);
                }
                for query in 0..N {
                    let weight = weights[query][row];
                    for panel in 0..WIDTH {
                        sums[query][panel] = lanes.add_product(sums[query][panel], weight, value[panel]);
                    }
                }
            }
            column += values.count;
        }
        for query in 0..N {
            let output = &mut self.output[(first + query) * self.stride + at..][..WIDTH * COLUMNS];
            let output = output.as_chunks_mut::<COLUMNS>().0;
            for panel in 0..WIDTH {
                output[panel] = lanes.store_sums(sums[query][panel]);
            }
        }
    }
}
