//! The blocks of a pre-norm Transformer that reads whole sequences: what an [utterance encoder](crate::utterance_encoder) and a
//! [text decoder](crate::text_decoder) have in common.

use crate::config::Activation;
use crate::encoder::kernels::{Instructions, Linear, Mixture, Norm, Rows, Scores, activate, softmax_rows};
use crate::error::ModelError;
use crate::loader::{Expected, Weights};
use crate::precision::Precision;

/// Weights of one layer by the names of its parts.
pub(crate) struct Parts<'a> {
    pub(crate) weights: &'a Weights,
    /// What every name begins with, its last dot included.
    pub(crate) prefix: String,
    /// Whether the parts are called as those of an Emformer's layer.
    pub(crate) is_emformer: bool,
    pub(crate) precision: Precision,
}

/// What the parts of a layer are called here, and in an [Emformer](crate::encoder::emformer): the same pre-norm layer, but for what it sees.
const EMFORMER_NAMES: [(&str, &str); 7] = [
    ("self_norm", "layer_norm_input"),
    ("self_attention.query", "attention.emb_to_query"),
    ("self_attention.key_value", "attention.emb_to_key_value"),
    ("self_attention.out", "attention.out_proj"),
    ("ffn_norm", "pos_ff.0"),
    ("ffn.0", "pos_ff.1"),
    ("ffn.3", "pos_ff.4"),
];

impl Parts<'_> {
    fn values(&self, part: &str, kind: &str) -> Result<Vec<f32>, ModelError> {
        let other = EMFORMER_NAMES
            .iter()
            .find(|(name, _)| self.is_emformer && *name == part);
        let part = other.map_or(part, |(_, name)| name);
        self.weights.values(&format!("{}{part}.{kind}", self.prefix))
    }

    pub(crate) fn norm(&self, part: &str) -> Result<Norm, ModelError> {
        Ok(Norm::new(
            self.values(part, "weight")?,
            self.values(part, "bias")?,
        ))
    }

    pub(crate) fn linear(&self, part: &str, inputs: usize) -> Result<Linear, ModelError> {
        Ok(self.pack(self.values(part, "weight")?, self.values(part, "bias")?, inputs))
    }

    fn pack(&self, weight: Vec<f32>, bias: Vec<f32>, inputs: usize) -> Linear {
        Linear::with_precision(&weight, bias, inputs, self.precision)
    }

    /// Values of `query`, multiplied by what scores are to be scaled by.
    fn queries(&self, attention: &str, kind: &str, heads: &Heads) -> Result<Vec<f32>, ModelError> {
        let mut values = self.values(&format!("{attention}.query"), kind)?;
        let scale = (heads.head_dim as f32).powf(-0.5);
        values.iter_mut().for_each(|value| *value *= scale);
        Ok(values)
    }

    /// The queries alone, scaled.
    pub(crate) fn query(&self, attention: &str, heads: &Heads) -> Result<Linear, ModelError> {
        let (weight, bias) = (
            self.queries(attention, "weight", heads)?,
            self.queries(attention, "bias", heads)?,
        );
        Ok(self.pack(weight, bias, heads.dim))
    }
}

/// The attention of a sequence to itself.
pub(crate) struct SelfAttention {
    pub(crate) norm: Norm,
    /// Queries (already scaled), keys, values side by side.
    pub(crate) query_key_value: Linear,
    pub(crate) out: Linear,
}

impl SelfAttention {
    pub(crate) fn new(parts: &Parts<'_>, heads: &Heads) -> Result<Self, ModelError> {
        let joined = |kind: &str| -> Result<Vec<f32>, ModelError> {
            let mut joined = parts.queries("self_attention", kind, heads)?;
            joined.extend(parts.values("self_attention.key_value", kind)?);
            Ok(joined)
        };
        Ok(Self {
            norm: parts.norm("self_norm")?,
            query_key_value: parts.pack(joined("weight")?, joined("bias")?, heads.dim),
            out: parts.linear("self_attention.out", heads.dim)?,
        })
    }

    /// Multiply-adds of a row, attention itself not counted.
    pub(crate) fn products(&self) -> u64 {
        (self.query_key_value.products() + self.out.products()) as u64
    }
}

/// Two layers with a GELU between.
pub(crate) struct FeedForward {
    norm: Norm,
    expand: Linear,
    contract: Linear,
}

impl FeedForward {
    pub(crate) fn new(parts: &Parts<'_>, dim: usize) -> Result<Self, ModelError> {
        let expand = parts.linear("ffn.0", dim)?;
        Ok(Self {
            norm: parts.norm("ffn_norm")?,
            contract: parts.linear("ffn.3", expand.outputs())?,
            expand,
        })
    }

    /// Adds its output to `stream (rows, dim)`.
    pub(crate) fn apply(&self, rows: usize, stream: &mut [f32], normed: &mut [f32], hidden: &mut Vec<f32>) {
        self.norm.apply(stream, normed);
        hidden.resize(rows * self.expand.outputs(), 0.0);
        self.expand.apply(rows, normed, hidden);
        activate(hidden, Activation::Gelu);
        self.contract.apply_adding(rows, hidden, stream);
    }

    /// Multiply-adds of a row.
    pub(crate) fn products(&self) -> u64 {
        (self.expand.products() + self.contract.products()) as u64
    }
}

/// The tensors of a layer's self-attention and feed-forward part.
pub(crate) fn expected_tensors(prefix: &str, dim: usize, ffn_dim: usize) -> Vec<Expected> {
    let mut expected = Vec::new();
    for norm in ["self_norm", "ffn_norm"] {
        expected.extend(affine(&format!("{prefix}{norm}"), dim, None));
    }
    expected.extend(attention_tensors(&format!("{prefix}self_attention"), dim));
    expected.extend(affine(&format!("{prefix}ffn.0"), ffn_dim, Some(dim)));
    expected.extend(affine(&format!("{prefix}ffn.3"), dim, Some(ffn_dim)));
    expected
}

/// The tensors of an attention of this name.
pub(crate) fn attention_tensors(name: &str, dim: usize) -> Vec<Expected> {
    [("query", dim), ("key_value", 2 * dim), ("out", dim)]
        .into_iter()
        .flat_map(|(part, outputs)| affine(&format!("{name}.{part}"), outputs, Some(dim)))
        .collect()
}

/// Weight and bias of a linear layer, or of a norm where there are no inputs.
pub(crate) fn affine(name: &str, outputs: usize, inputs: Option<usize>) -> [Expected; 2] {
    let shape = [Some(outputs), inputs].into_iter().flatten().collect();
    [
        (format!("{name}.weight"), shape),
        (format!("{name}.bias"), vec![outputs]),
    ]
}

/// Softmax attention of several heads.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    dim: usize,
    head_dim: usize,
    instructions: Instructions,
}

impl Heads {
    pub(crate) fn new(dim: usize, num_heads: usize) -> Self {
        Self {
            dim,
            head_dim: dim / num_heads,
            instructions: Instructions::detect(),
        }
    }

    /// Writes `(rows, dim)`, the heads side by side, for `queries`, scaled, the first `dim` of each `stride` values, and `key_values (at least one, 2 · dim)`.
    pub(crate) fn attend(
        &self,
        (queries, stride): (&[f32], usize),
        key_values: Rows<'_>,
        scores: &mut Vec<f32>,
        output: &mut [f32],
    ) {
        let dim = self.dim;
        let (rows, columns) = (output.len() / dim, key_values.count);
        // The kernels take keys of two places; here there is one.
        let none = Rows {
            data: &[],
            stride: 0,
            count: 0,
        };
        let from = |begin: usize| Rows {
            data: &key_values.data[begin..],
            stride: key_values.stride,
            count: columns,
        };
        let queries = Rows {
            data: queries,
            stride,
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
