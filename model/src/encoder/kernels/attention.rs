//! The two products of attention, head by head, over rows that stay where they lie.

use super::{LANES, Lanes, LanesWork};

/// Queries that share the reading of a key or value.
const QUERIES: usize = 4;

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
        let num_queries = self.queries.count;
        let mut first = 0;
        while first + QUERIES <= num_queries {
            self.some::<L, QUERIES>(lanes, first);
            first += QUERIES;
        }
        for first in first..num_queries {
            self.some::<L, 1>(lanes, first);
        }
    }
}

impl Scores<'_> {
    #[inline(always)]
    fn some<L: Lanes, const N: usize>(&mut self, lanes: L, first: usize) {
        let whole = self.head_dim / LANES;
        let queries: [&[f32]; N] =
            std::array::from_fn(|index| self.queries.part(first + index, self.begin, self.head_dim));
        let in_chunks: [&[[f32; LANES]]; N] =
            std::array::from_fn(|index| &queries[index].as_chunks::<LANES>().0[..whole]);
        let scores = &mut self.scores[first * self.columns..][..N * self.columns];
        let mut column = 0;
        for keys in &self.keys {
            for index in 0..keys.count {
                let key = keys.part(index, self.begin, self.head_dim);
                let (chunks, rest) = key.as_chunks::<LANES>();
                let chunks = &chunks[..whole];
                let mut sums = [lanes.splat(0.0); N];
                for chunk in 0..whole {
                    let key = lanes.load(&chunks[chunk]);
                    for (sum, query) in sums.iter_mut().zip(&in_chunks) {
                        *sum = lanes.mul_add(lanes.load(&query[chunk]), key, *sum);
                    }
                }
                for (query, sum) in sums.into_iter().enumerate() {
                    let sum = lanes.store(sum);
                    let fours: [f32; 4] = std::array::from_fn(|lane| sum[lane] + sum[lane + 4]);
                    let mut score = (fours[0] + fours[2]) + (fours[1] + fours[3]);
                    for (query, key) in queries[query][whole * LANES..].iter().zip(rest) {
                        score += query * key;
                    }
                    scores[query * self.columns + column] = score;
                }
                column += 1;
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
        let mut first = 0;
        while first + QUERIES <= self.num_queries {
            self.some::<L, QUERIES>(lanes, first);
            first += QUERIES;
        }
        for first in first..self.num_queries {
            self.some::<L, 1>(lanes, first);
        }
    }
}

impl Mixture<'_> {
    #[inline(always)]
    fn some<L: Lanes, const N: usize>(&mut self, lanes: L, first: usize) {
        let end = self.begin + self.head_dim;
        let mut at = self.begin;
        while at + 2 * LANES <= end {
            self.panel::<L, N, 2>(lanes, first, at);
            at += 2 * LANES;
        }
        if at + LANES <= end {
            self.panel::<L, N, 1>(lanes, first, at);
            at += LANES;
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

    /// `N` queries by `WIDTH` registers of values.
    #[inline(always)]
    fn panel<L: Lanes, const N: usize, const WIDTH: usize>(&mut self, lanes: L, first: usize, at: usize) {
        let weights: [&[f32]; N] =
            std::array::from_fn(|index| &self.weights[(first + index) * self.columns..][..self.columns]);
        let mut sums = [[lanes.splat(0.0); WIDTH]; N];
        let mut column = 0;
        for values in &self.values {
            for row in 0..values.count {
                let chunks = values.part(row, at, WIDTH * LANES).as_chunks::<LANES>().0;
                let value: [L::Eight; WIDTH] = std::array::from_fn(|index| lanes.load(&chunks[index]));
                for (sums, weights) in sums.iter_mut().zip(&weights) {
                    let weight = lanes.splat(weights[column]);
                    for (sum, value) in sums.iter_mut().zip(value) {
                        *sum = lanes.mul_add(weight, value, *sum);
                    }
                }
                column += 1;
            }
        }
        for (index, sums) in sums.into_iter().enumerate() {
            let output = &mut self.output[(first + index) * self.stride + at..][..WIDTH * LANES];
            for (chunk, sum) in output.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
                *chunk = lanes.store(sum);
            }
        }
    }
}
