//! Attention of one session over its own rows and rings, in place: all heads in one call, nothing copied.
//!
//! The order of keys does not matter, so a ring of left-context rows is read where it lies, and only those rows
//! that have been written: nothing that an earlier owner or a NaN left behind can get in.

use crate::encoder::kernels::{Instructions, Mixture, Rows, Scores, softmax_rows};

/// Sizes shared by all sessions of a layer.
pub(super) struct Attention {
    dim: usize,
    num_heads: usize,
    negative_inf: f32,
    instructions: Instructions,
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
    pub(super) fn new(dim: usize, num_heads: usize, negative_inf: f32) -> Self {
        Self {
            dim,
            num_heads,
            negative_inf,
            instructions: Instructions::detect(),
        }
    }

    /// Writes `(num_queries, dim)`, the heads side by side, before the output projection.
    pub(super) fn run(&self, rows: &AttentionRows<'_>, scores: &mut Vec<f32>, output: &mut [f32]) {
        let dim = self.dim;
        let stride = 3 * dim;
        let num_left = rows.left_keys.len() / dim;
        let columns = rows.num_keys + num_left;
        scores.resize(rows.num_queries * columns, 0.0);
        let scores = &mut scores[..rows.num_queries * columns];
        let head_dim = dim / self.num_heads;
        let projected = |from: usize, count: usize| Rows {
            data: &rows.projected[from.min(rows.projected.len())..],
            stride,
            count,
        };
        let left = |data| Rows {
            data,
            stride: dim,
            count: num_left,
        };
        for begin in (0..dim).step_by(head_dim) {
            self.instructions.run(Scores {
                queries: projected(rows.first_query * stride, rows.num_queries),
                keys: [projected(dim, rows.num_keys), left(rows.left_keys)],
                begin,
                head_dim,
                columns,
                scores,
            });
            if rows.has_summary {
                let summary = (rows.num_queries - 1) * columns;
                scores[summary..][..rows.num_memories].fill(self.negative_inf);
            }
            softmax_rows(scores, columns);
            self.instructions.run(Mixture {
                weights: scores,
                columns,
                values: [projected(2 * dim, rows.num_keys), left(rows.left_values)],
                begin,
                head_dim,
                output,
                stride: dim,
                num_queries: rows.num_queries,
            });
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
                let detected = Attention::new(dim, num_heads, -1e8);
                let plain = Attention {
                    instructions: Instructions::Plain,
                    ..Attention::new(dim, num_heads, -1e8)
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
                for attention in [detected, plain] {
                    let mut output = vec![f32::NAN; queries * dim];
                    attention.run(&rows, &mut vec![f32::NAN; 3], &mut output);
                    for (found, exact) in output.iter().zip(exact(&attention, &rows)) {
                        let off = (f64::from(*found) - exact).abs();
                        assert!(off < 1e-5, "{dim} {num_heads} {queries}: {off}");
                    }
                }
            }
        }
    }
}
