//! Attention of one session over its own rows and rings, in place.
//!
//! The order of keys does not matter, so a ring of left-context rows is read where it lies, and only those rows
//! that have been written: nothing that an earlier owner or a NaN left behind can get in.

use crate::encoder::kernels::{Matrix, product, softmax_rows};

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
        let head_dim = dim / self.num_heads;
        let stride = 3 * dim;
        let num_left = rows.left_keys.len() / dim;
        let columns = rows.num_keys + num_left;
        scores.resize(rows.num_queries * columns, 0.0);
        let scores = &mut scores[..rows.num_queries * columns];
        for head in 0..self.num_heads {
            let at = head * head_dim;
            let queries = Matrix::rows(&rows.projected[rows.first_query * stride + at..], stride);
            let keys = Matrix::rows(&rows.projected[dim + at..], stride);
            let values = Matrix::rows(&rows.projected[2 * dim + at..], stride);
            let shape = (rows.num_queries, rows.num_keys, head_dim);
            product(shape, scores, columns, queries, keys.transposed(), false);
            if num_left > 0 {
                let left = Matrix::rows(&rows.left_keys[at..], dim).transposed();
                let shape = (rows.num_queries, num_left, head_dim);
                product(shape, &mut scores[rows.num_keys..], columns, queries, left, false);
            }
            if rows.has_summary {
                let summary = (rows.num_queries - 1) * columns;
                scores[summary..][..rows.num_memories].fill(self.negative_inf);
            }
            softmax_rows(scores, columns);
            let shape = (rows.num_queries, head_dim, rows.num_keys);
            product(
                shape,
                &mut output[at..],
                dim,
                Matrix::rows(scores, columns),
                values,
                false,
            );
            if num_left > 0 {
                let left = Matrix::rows(&rows.left_values[at..], dim);
                let weights = Matrix::rows(&scores[rows.num_keys..], columns);
                let shape = (rows.num_queries, head_dim, num_left);
                product(shape, &mut output[at..], dim, weights, left, true);
            }
        }
    }
}
