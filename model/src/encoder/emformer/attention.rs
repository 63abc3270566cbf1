//! Attention of one session over its own rows and rings, in place: all heads in one call, nothing copied.
//!
//! The order of keys does not matter, so a ring of left-context rows is read where it lies, and only those rows
//! that have been written: nothing that an earlier owner or a NaN left behind can get in.

use crate::encoder::kernels::{softmax_rows, vectorised};

/// Queries that share the reading of a key or value.
const QUERIES: usize = 4;
/// Values of a vector register, in which the compiler keeps partial sums.
const LANES: usize = 8;

/// Sizes shared by all sessions of a layer.
pub(super) struct Attention {
    pub(super) dim: usize,
    pub(super) num_heads: usize,
    pub(super) negative_inf: f32,
}

/// One session's rows in one layer.
pub(super) struct AttentionRows<'a> {
    /// `(memories + right context + utterance [+ summary], 3 · dim)`: queries (scaled), keys, values side by side.
    pub(super) projected: &'a [f32],
    /// Row of the first query.
    pub(super) first_query: usize,
    /// Queries from there on; the last one is a summary's when `has_summary`.
    pub(super) num_queries: usize,
    /// Leading rows that are keys: memories, right context, utterance.
    pub(super) num_keys: usize,
    /// Leading keys that are memories, which a summary does not see.
    pub(super) num_memories: usize,
    /// Whether the last query is a summary's.
    pub(super) has_summary: bool,
    /// `(valid, dim)` keys of the left context.
    pub(super) left_keys: &'a [f32],
    /// `(valid, dim)` values of the left context.
    pub(super) left_values: &'a [f32],
}

impl Attention {
    /// Writes `(num_queries, dim)`, the heads side by side, before the output projection.
    pub(super) fn run(&self, rows: &AttentionRows<'_>, scores: &mut Vec<f32>, output: &mut [f32]) {
        let dim = self.dim;
        let stride = 3 * dim;
        let columns = rows.num_keys + rows.left_keys.len() / dim;
        scores.resize(rows.num_queries * columns, 0.0);
        let scores = &mut scores[..rows.num_queries * columns];
        let head_dim = dim / self.num_heads;
        for begin in (0..dim).step_by(head_dim) {
            let head = begin..begin + head_dim;
            let query = |index: usize| &rows.projected[(rows.first_query + index) * stride..][head.clone()];
            let own = rows.projected.chunks_exact(stride).take(rows.num_keys);
            let keys = own.clone().map(|row| &row[dim..]);
            let keys = keys
                .chain(rows.left_keys.chunks_exact(dim))
                .map(|row| &row[head.clone()]);
            let values = own.map(|row| &row[2 * dim..]);
            let values = values
                .chain(rows.left_values.chunks_exact(dim))
                .map(|row| &row[head.clone()]);

            vectorised(|| {
                by_queries(
                    rows.num_queries,
                    Scores {
                        query: &query,
                        keys,
                        columns,
                        scores,
                    },
                )
            });
            if rows.has_summary {
                let summary = (rows.num_queries - 1) * columns;
                scores[summary..][..rows.num_memories].fill(self.negative_inf);
            }
            softmax_rows(scores, columns);
            vectorised(|| {
                by_queries(
                    rows.num_queries,
                    Mixture {
                        weights: scores,
                        columns,
                        values,
                        output: &mut output[begin..],
                        stride: dim,
                        head_dim,
                    },
                )
            });
        }
    }
}

/// Something done for a few queries at once.
trait ForQueries {
    /// Does it for the `N` queries from `first` on.
    fn run<const N: usize>(&mut self, first: usize);
}

#[inline(always)]
fn by_queries(num_queries: usize, mut work: impl ForQueries) {
    let mut first = 0;
    while first + QUERIES <= num_queries {
        work.run::<QUERIES>(first);
        first += QUERIES;
    }
    match num_queries - first {
        0 => {}
        1 => work.run::<1>(first),
        2 => work.run::<2>(first),
        _ => work.run::<3>(first),
    }
}

/// Products of queries and keys.
struct Scores<'a, 's, Q, K> {
    query: &'a Q,
    /// One head's part of every key.
    keys: K,
    columns: usize,
    /// `(queries, columns)`.
    scores: &'s mut [f32],
}

impl<'a, Q: Fn(usize) -> &'a [f32], K: Iterator<Item = &'a [f32]> + Clone> ForQueries
    for Scores<'_, '_, Q, K>
{
    #[inline(always)]
    fn run<const N: usize>(&mut self, first: usize) {
        let queries: [&[f32]; N] = std::array::from_fn(|index| (self.query)(first + index));
        let scores = &mut self.scores[first * self.columns..][..N * self.columns];
        for (column, key) in self.keys.clone().enumerate() {
            let (chunks, rest) = key.as_chunks::<LANES>();
            let whole = chunks.len();
            let mut sums = [[0.0f32; LANES]; N];
            let queries_in_chunks: [&[[f32; LANES]]; N] =
                std::array::from_fn(|index| &queries[index].as_chunks::<LANES>().0[..whole]);
            for chunk in 0..whole {
                for (sums, query) in sums.iter_mut().zip(&queries_in_chunks) {
                    for lane in 0..LANES {
                        sums[lane] += query[chunk][lane] * chunks[chunk][lane];
                    }
                }
            }
            for (index, sums) in sums.iter().enumerate() {
                let tail = queries[index][whole * LANES..].iter().zip(rest);
                let fours: [f32; 4] = std::array::from_fn(|lane| sums[lane] + sums[lane + 4]);
                scores[index * self.columns + column] = (fours[0] + fours[2])
                    + (fours[1] + fours[3])
                    + tail.map(|(query, key)| query * key).sum::<f32>();
            }
        }
    }
}

/// Values, weighted and summed for each query.
struct Mixture<'s, 'o, V> {
    /// `(queries, columns)`.
    weights: &'s [f32],
    columns: usize,
    /// One head's part of every value.
    values: V,
    /// One head's part of the first query's row.
    output: &'o mut [f32],
    stride: usize,
    head_dim: usize,
}

impl<'a, V: Iterator<Item = &'a [f32]> + Clone> Mixture<'_, '_, V> {
    #[inline(always)]
    fn panel<const N: usize, const WIDTH: usize>(&mut self, first: usize, begin: usize) {
        let weights: [&[f32]; N] =
            std::array::from_fn(|index| &self.weights[(first + index) * self.columns..][..self.columns]);
        let mut sums = [[0.0f32; WIDTH]; N];
        for (column, value) in self.values.clone().take(self.columns).enumerate() {
            let value = &value[begin..begin + WIDTH];
            for (sums, weights) in sums.iter_mut().zip(&weights) {
                let weight = weights[column];
                for lane in 0..WIDTH {
                    sums[lane] += weight * value[lane];
                }
            }
        }
        for (index, sums) in sums.iter().enumerate() {
            self.output[(first + index) * self.stride + begin..][..WIDTH].copy_from_slice(sums);
        }
    }
}

impl<'a, V: Iterator<Item = &'a [f32]> + Clone> ForQueries for Mixture<'_, '_, V> {
    #[inline(always)]
    fn run<const N: usize>(&mut self, first: usize) {
        let mut begin = 0;
        while begin + 2 * LANES <= self.head_dim {
            self.panel::<N, { 2 * LANES }>(first, begin);
            begin += 2 * LANES;
        }
        if begin + LANES <= self.head_dim {
            self.panel::<N, LANES>(first, begin);
            begin += LANES;
        }
        for begin in begin..self.head_dim {
            self.panel::<N, 1>(first, begin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Softmax attention, one number after the other in `f64`.
    fn exact(attention: &Attention, rows: &AttentionRows<'_>) -> Vec<f64> {
        let (dim, stride) = (attention.dim, 3 * attention.dim);
        let head_dim = dim / attention.num_heads;
        let left = rows.left_keys.len() / dim;
        let mut output = vec![0.0; rows.num_queries * dim];
        for (query, output) in output.chunks_mut(dim).enumerate() {
            for head in 0..attention.num_heads {
                let at = head * head_dim;
                let row = |index: usize, part: usize| {
                    &rows.projected[index * stride + part * dim + at..][..head_dim]
                };
                let left_row =
                    |values: &'_ [f32], index: usize| values[index * dim + at..][..head_dim].to_vec();
                let keys = (0..rows.num_keys).map(|key| row(key, 1).to_vec());
                let keys = keys.chain((0..left).map(|key| left_row(rows.left_keys, key)));
                let values = (0..rows.num_keys).map(|key| row(key, 2).to_vec());
                let values = values.chain((0..left).map(|key| left_row(rows.left_values, key)));
                let scores: Vec<f64> = keys
                    .enumerate()
                    .map(|(key, values)| {
                        let is_summary = rows.has_summary && query + 1 == rows.num_queries;
                        if is_summary && key < rows.num_memories {
                            return f64::from(attention.negative_inf);
                        }
                        let products = row(rows.first_query + query, 0).iter().zip(&values);
                        products.map(|(&q, &k)| f64::from(q) * f64::from(k)).sum()
                    })
                    .collect();
                let most = scores.iter().copied().fold(f64::MIN, f64::max);
                let total: f64 = scores.iter().map(|score| (score - most).exp()).sum();
                for (score, value) in scores.iter().zip(values) {
                    for (output, value) in output[at..].iter_mut().zip(value) {
                        *output += (score - most).exp() / total * f64::from(value);
                    }
                }
            }
        }
        output
    }

    #[test]
    fn equals_the_exact_one_for_any_number_of_queries_and_width_of_heads() {
        let noise = |count: usize, seed: usize| -> Vec<f32> {
            (0..count)
                .map(|index| ((index * 37 + seed * 101) as f32 * 0.7).sin())
                .collect()
        };
        for (dim, num_heads) in [(6, 2), (24, 3), (32, 1), (64, 4), (75, 3), (96, 2)] {
            for (num_memories, context, queries, left, has_summary) in [
                (0, 0, 1, 0, false),
                (2, 3, 5, 0, true),
                (0, 1, 4, 7, false),
                (4, 4, 13, 32, true),
            ] {
                let num_keys = num_memories + queries.max(1 + context) - usize::from(has_summary);
                let projected = noise((num_keys + queries) * 3 * dim, dim);
                let (left_keys, left_values) = (noise(left * dim, 2), noise(left * dim, 3));
                let attention = Attention {
                    dim,
                    num_heads,
                    negative_inf: -1e8,
                };
                let rows = AttentionRows {
                    projected: &projected,
                    first_query: num_keys.min(num_memories),
                    num_queries: queries,
                    num_keys,
                    num_memories,
                    has_summary,
                    left_keys: &left_keys,
                    left_values: &left_values,
                };
                let mut output = vec![f32::NAN; queries * dim];
                attention.run(&rows, &mut vec![f32::NAN; 3], &mut output);
                for (found, exact) in output.iter().zip(exact(&attention, &rows)) {
                    assert!(
                        (f64::from(*found) - exact).abs() < 1e-5,
                        "{dim} {num_heads} {queries}"
                    );
                }
            }
        }
    }
}
