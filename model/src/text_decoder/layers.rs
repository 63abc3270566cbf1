//! The layers: what a token's row becomes, given the tokens before it and an utterance's frames.

use crate::config::Activation;
use crate::encoder::kernels::{
    Instructions, Linear, Mixture, Norm, Rows, Scores, activate, log_softmax_rows, softmax_rows,
};
use crate::error::ModelError;
use crate::loader::Weights;
use crate::precision::Precision;

use super::config::{TextDecoderConfig, name};
use super::{GROUP_ROWS, Memory, TextDecoder, norm};

/// Rows of log-probs that are made at a time: whole rows of thousands of classes.
const LOG_PROB_ROWS: usize = 32;

/// Nodes whose keys and values stay with idle buffers.
const NODES_KEPT: usize = 1024;

pub(super) struct Layer {
    self_norm: Norm,
    /// Queries (already scaled), keys, values side by side.
    query_key_value: Linear,
    self_out: Linear,
    cross_norm: Norm,
    /// Already scaled.
    cross_query: Linear,
    cross_key_value: Linear,
    cross_out: Linear,
    ffn_norm: Norm,
    expand: Linear,
    contract: Linear,
}

impl Layer {
    pub(super) fn new(
        config: &TextDecoderConfig,
        dim: usize,
        index: usize,
        weights: &Weights,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let own = |part: &str| format!("layers.{index}.{part}");
        let values = |part: &str, kind: &str| weights.values(&name(&format!("{}.{kind}", own(part))));
        let scale = ((dim / config.num_heads) as f32).powf(-0.5);
        let queries = |attention: &str, kind: &str| -> Result<Vec<f32>, ModelError> {
            let mut values = values(&format!("{attention}.query"), kind)?;
            values.iter_mut().for_each(|value| *value *= scale);
            Ok(values)
        };
        let joined = |kind: &str| -> Result<Vec<f32>, ModelError> {
            let mut joined = queries("self_attention", kind)?;
            joined.extend(values("self_attention.key_value", kind)?);
            Ok(joined)
        };
        let pack = |weight: Vec<f32>, bias: Vec<f32>, inputs: usize| {
            Linear::with_precision(&weight, bias, inputs, precision)
        };
        let linear = |part: &str, inputs: usize| -> Result<Linear, ModelError> {
            Ok(pack(values(part, "weight")?, values(part, "bias")?, inputs))
        };
        Ok(Self {
            self_norm: norm(weights, &own("self_norm"))?,
            query_key_value: pack(joined("weight")?, joined("bias")?, dim),
            self_out: linear("self_attention.out", dim)?,
            cross_norm: norm(weights, &own("cross_norm"))?,
            cross_query: pack(
                queries("cross_attention", "weight")?,
                queries("cross_attention", "bias")?,
                dim,
            ),
            cross_key_value: linear("cross_attention.key_value", dim)?,
            cross_out: linear("cross_attention.out", dim)?,
            ffn_norm: norm(weights, &own("ffn_norm"))?,
            expand: linear("ffn.0", dim)?,
            contract: linear("ffn.3", config.ffn_dim)?,
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
        let linears = [
            &self.query_key_value,
            &self.self_out,
            &self.cross_query,
            &self.cross_out,
            &self.expand,
            &self.contract,
        ];
        linears.iter().map(|linear| linear.products() as u64).sum()
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
            layer.self_norm.apply(&scratch.stream, &mut scratch.normed);
            self.attend_to_text(index, scratch, begin, rows);
            layer
                .self_out
                .apply_adding(rows, &scratch.attended, &mut scratch.stream);
            layer.cross_norm.apply(&scratch.stream, &mut scratch.normed);
            self.attend_to_frames(index, memory, scratch, rows);
            layer
                .cross_out
                .apply_adding(rows, &scratch.attended, &mut scratch.stream);
            layer.ffn_norm.apply(&scratch.stream, &mut scratch.normed);
            scratch.hidden.resize(rows * self.config.ffn_dim, 0.0);
            layer.expand.apply(rows, &scratch.normed, &mut scratch.hidden);
            activate(&mut scratch.hidden, Activation::Gelu);
            layer
                .contract
                .apply_adding(rows, &scratch.hidden, &mut scratch.stream);
        }
    }

    /// From `normed` to `attended`: each node to itself and to those on the way to the root.
    fn attend_to_text(&self, index: usize, scratch: &mut Scratch, begin: usize, rows: usize) {
        let dim = self.dim;
        let held = &mut scratch.tree.layers[index];
        let projected = &mut scratch.projected;
        projected.resize(rows * 3 * dim, 0.0);
        self.layers[index]
            .query_key_value
            .apply(rows, &scratch.normed, projected);
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
            self.heads()
                .attend(&row[..dim], &scratch.path, &mut scratch.scores, attended);
        }
    }

    /// From `normed` to `attended`: all rows to the utterance's frames.
    fn attend_to_frames(&self, index: usize, memory: &Memory, scratch: &mut Scratch, rows: usize) {
        let projected = &mut scratch.projected;
        projected.resize(rows * self.dim, 0.0);
        self.layers[index]
            .cross_query
            .apply(rows, &scratch.normed, projected);
        self.heads().attend(
            projected,
            &memory.layers[index],
            &mut scratch.scores,
            &mut scratch.attended,
        );
    }

    fn heads(&self) -> Heads {
        Heads {
            dim: self.dim,
            head_dim: self.dim / self.config.num_heads,
            instructions: self.instructions,
        }
    }
}

/// Softmax attention of several heads.
struct Heads {
    dim: usize,
    head_dim: usize,
    instructions: Instructions,
}

impl Heads {
    /// Writes `(rows, dim)`, the heads side by side, for `queries (rows, dim)`, scaled, and
    /// `key_values (at least one, 2 · dim)`.
    fn attend(&self, queries: &[f32], key_values: &[f32], scores: &mut Vec<f32>, output: &mut [f32]) {
        let dim = self.dim;
        let (rows, columns) = (queries.len() / dim, key_values.len() / (2 * dim));
        // The kernels take keys of two places; here there is one.
        let none = Rows {
            data: &[],
            stride: 0,
            count: 0,
        };
        let from = |begin: usize| Rows {
            data: &key_values[begin..],
            stride: 2 * dim,
            count: columns,
        };
        let queries = Rows {
            data: queries,
            stride: dim,
            count: rows,
        };
        scores.resize(rows * columns, 0.0);
        for begin in (0..dim).step_by(self.head_dim) {
            self.instructions.run(Scores {
                queries,
                keys: [from(0), none],
                begin,
                head_dim: self.head_dim,
                columns,
                scores,
            });
            softmax_rows(scores, columns);
            self.instructions.run(Mixture {
                weights: scores,
                columns,
                values: [from(dim), none],
                begin,
                head_dim: self.head_dim,
                output,
                stride: dim,
                num_queries: rows,
            });
        }
    }
}
