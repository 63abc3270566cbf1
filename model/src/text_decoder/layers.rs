//! The layers: what a token's row becomes, given the tokens before it and an utterance's frames.

use crate::encoder::kernels::{Linear, Norm, Rows, log_softmax_rows};
use crate::error::ModelError;
use crate::pauses::pause;
use crate::transformer::{FeedForward, Heads, Parts, SelfAttention};

use super::{GROUP_ROWS, Memory, TextDecoder};

/// Rows of log-probs that are made at a time: whole rows of thousands of classes.
const LOG_PROB_ROWS: usize = 32;

/// Nodes whose keys and values stay with idle buffers.
const NODES_KEPT: usize = 1024;

pub(super) struct Layer {
    attention: SelfAttention,
    cross_norm: Norm,
    /// Already scaled.
    cross_query: Linear,
    cross_key_value: Linear,
    cross_out: Linear,
    ffn: FeedForward,
}

impl Layer {
    pub(super) fn new(heads: &Heads, dim: usize, parts: &Parts<'_>) -> Result<Self, ModelError> {
        Ok(Self {
            attention: SelfAttention::new(parts, heads)?,
            cross_norm: parts.norm("cross_norm")?,
            cross_query: parts.query("cross_attention", heads)?,
            cross_key_value: parts.linear("cross_attention.key_value", dim)?,
            cross_out: parts.linear("cross_attention.out", dim)?,
            ffn: FeedForward::new(parts, dim)?,
        })
    }

    /// Writes keys and values `(rows, 2 · dim)` of frames that have been normed.
    pub(super) fn remember(&self, rows: usize, normed: &[f32], output: &mut [f32]) {
        self.cross_key_value.apply(rows, normed, output);
    }

    pub(super) fn products_per_frame(&self) -> u64 {
        self.cross_key_value.products() as u64
    }

    /// All but attention itself.
    pub(super) fn products_per_token(&self) -> u64 {
        let cross = self.cross_query.products() + self.cross_out.products();
        self.attention.products() + self.ffn.products() + cross as u64
    }
}

/// A token behind the tokens on the way to the root.
#[derive(Debug, Clone, Copy)]
struct Node {
    token: u32,
    parent: Option<usize>,
    /// Tokens before it.
    position: usize,
}

/// Texts that share their beginnings. A node's parent comes before it.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// For each layer `(nodes read, 2 · dim)`: keys and values of the self-attention side by side.
    layers: Vec<Vec<f32>>,
}

impl Tree {
    /// Forgets all texts.
    pub(super) fn clear(&mut self) {
        self.nodes.clear();
        self.layers.iter_mut().for_each(Vec::clear);
    }

    /// Puts a token behind a node, or in front of everything. Its position has to be below `max_tokens`.
    pub(super) fn push(&mut self, parent: Option<usize>, token: u32) -> usize {
        let position = parent.map_or(0, |parent| self.nodes[parent].position + 1);
        self.nodes.push(Node {
            token,
            parent,
            position,
        });
        self.nodes.len() - 1
    }
}

/// Buffers of a call, kept for later ones.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) tree: Tree,
    /// Nodes that have passed the layers.
    num_read: usize,
    /// `(rows, dim)`: the residual stream.
    stream: Vec<f32>,
    pub(super) normed: Vec<f32>,
    projected: Vec<f32>,
    /// Keys and values on the way to one node.
    path: Vec<f32>,
    scores: Vec<f32>,
    attended: Vec<f32>,
    hidden: Vec<f32>,
    log_probs: Vec<f32>,
}

impl Scratch {
    /// Ready for other texts.
    pub(super) fn begin(&mut self) {
        self.tree.clear();
        self.num_read = 0;
    }

    /// Gives back what only an extraordinary call needs.
    pub(super) fn end(&mut self, dim: usize) {
        let kept = NODES_KEPT * 2 * dim;
        if self.tree.layers.iter().any(|held| held.capacity() > kept) {
            self.begin();
            self.tree.layers.iter_mut().for_each(|held| held.shrink_to(kept));
            self.tree.nodes.shrink_to(NODES_KEPT);
        }
    }
}

impl TextDecoder {
    /// Reads the nodes that have not been read, and gives the log-probs of what follows them, `(classes) f32`, for each
    /// one from node `first` on to `receive`, in order. The memory has to be this decoder's.
    pub(super) fn read(
        &self,
        memory: &Memory,
        scratch: &mut Scratch,
        first: usize,
        mut receive: impl FnMut(usize, &[f32]),
    ) {
        scratch.tree.layers.resize_with(self.layers.len(), Vec::new);
        while scratch.num_read < scratch.tree.nodes.len() {
            let begin = scratch.num_read;
            let end = scratch.tree.nodes.len().min(begin + GROUP_ROWS);
            self.pass(memory, scratch, begin, end);
            scratch.num_read = end;
            let wanted = first.clamp(begin, end);
            let stream = &mut scratch.stream[(wanted - begin) * self.dim..(end - begin) * self.dim];
            self.norm.apply_in_place(stream);
            let classes = self.classes.outputs();
            let mut node = wanted;
            for group in stream.chunks(LOG_PROB_ROWS * self.dim) {
                pause();
                let rows = group.len() / self.dim;
                scratch.log_probs.resize(rows * classes, 0.0);
                self.classes.apply(rows, group, &mut scratch.log_probs);
                log_softmax_rows(&mut scratch.log_probs, classes);
                for log_probs in scratch.log_probs.chunks_exact(classes) {
                    receive(node, log_probs);
                    node += 1;
                }
            }
        }
    }

    /// Takes nodes through all layers into `stream`.
    fn pass(&self, memory: &Memory, scratch: &mut Scratch, begin: usize, end: usize) {
        let (dim, rows) = (self.dim, end - begin);
        scratch.stream.clear();
        for node in &scratch.tree.nodes[begin..end] {
            let embedding = &self.embedding[node.token as usize * dim..][..dim];
            let position = &self.positions[node.position * dim..][..dim];
            let sums = embedding.iter().zip(position);
            scratch
                .stream
                .extend(sums.map(|(embedding, position)| embedding + position));
        }
        scratch.normed.resize(rows * dim, 0.0);
        scratch.attended.resize(rows * dim, 0.0);
        for (index, layer) in self.layers.iter().enumerate() {
            pause();
            layer.attention.norm.apply(&scratch.stream, &mut scratch.normed);
            self.attend_to_text(index, scratch, begin, rows);
            layer
                .attention
                .out
                .apply_adding(rows, &scratch.attended, &mut scratch.stream);
            layer.cross_norm.apply(&scratch.stream, &mut scratch.normed);
            self.attend_to_frames(index, memory, scratch, rows);
            layer
                .cross_out
                .apply_adding(rows, &scratch.attended, &mut scratch.stream);
            layer.ffn.apply(
                rows,
                &mut scratch.stream,
                &mut scratch.normed,
                &mut scratch.hidden,
            );
        }
    }

    /// From `normed` to `attended`: each node to itself and to those on the way to the root.
    fn attend_to_text(&self, index: usize, scratch: &mut Scratch, begin: usize, rows: usize) {
        let dim = self.dim;
        let held = &mut scratch.tree.layers[index];
        let projected = &mut scratch.projected;
        projected.resize(rows * 3 * dim, 0.0);
        let attention = &self.layers[index].attention;
        attention.query_key_value.apply(rows, &scratch.normed, projected);
        for row in projected.chunks_exact(3 * dim) {
            held.extend_from_slice(&row[dim..]);
        }
        for ((node, row), attended) in (begin..)
            .zip(projected.chunks_exact(3 * dim))
            .zip(scratch.attended.chunks_exact_mut(dim))
        {
            scratch.path.clear();
            let mut next = Some(node);
            while let Some(node) = next {
                scratch.path.extend_from_slice(&held[node * 2 * dim..][..2 * dim]);
                next = scratch.tree.nodes[node].parent;
            }
            let path = side_by_side(&scratch.path, dim);
            self.heads
                .attend((row, 3 * dim), path, &mut scratch.scores, attended);
        }
    }

    /// From `normed` to `attended`: all rows to the utterance's frames.
    fn attend_to_frames(&self, index: usize, memory: &Memory, scratch: &mut Scratch, rows: usize) {
        let projected = &mut scratch.projected;
        projected.resize(rows * self.dim, 0.0);
        self.layers[index]
            .cross_query
            .apply(rows, &scratch.normed, projected);
        let frames = side_by_side(&memory.layers[index], self.dim);
        let (scores, attended) = (&mut scratch.scores, &mut scratch.attended);
        self.heads.attend((projected, self.dim), frames, scores, attended);
    }
}

/// Keys and values `(rows, 2 · dim)`.
fn side_by_side(key_values: &[f32], dim: usize) -> Rows<'_> {
    Rows {
        data: key_values,
        stride: 2 * dim,
        count: key_values.len() / (2 * dim),
    }
}
