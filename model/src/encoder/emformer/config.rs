//! Sizes of an Emformer, as in `config.json`. Names follow the constructor of `torchaudio.models.Emformer`.

use serde::{Deserialize, Serialize};

use crate::config::{Activation, require_sizes};

/// Constructor of an Emformer. All lengths in encoder frames.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmformerConfig {
    /// Values of one input frame: features in front of a stem, else the width of the layers.
    pub input_dim: usize,
    /// Width of the layers; `input_dim` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dim: Option<usize>,
    /// Attention heads; divides the width.
    pub num_heads: usize,
    /// Width inside the feed-forward part.
    pub ffn_dim: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// Frames that one step advances by.
    pub segment_length: usize,
    /// Frames before a segment whose keys and values it sees.
    #[serde(default)]
    pub left_context_length: usize,
    /// Frames after a segment that it sees.
    #[serde(default)]
    pub right_context_length: usize,
    /// Segments before a segment whose summaries it sees.
    #[serde(default)]
    pub max_memory_size: usize,
    /// Between the two feed-forward products.
    #[serde(default)]
    pub activation: Activation,
    /// Squash summaries by tanh; else they are clamped to ±10.
    #[serde(default)]
    pub tanh_on_mem: bool,
    /// Score of a key that must not be seen.
    #[serde(default = "default_negative_inf")]
    pub negative_inf: f64,
    /// Where the output norm sits.
    #[serde(default)]
    pub output_norm: OutputNorm,
    /// Encoder frames after which the sinusoids of a whisper-emformer begin again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position_period: Option<usize>,
    /// Used while training only; kept so that a constructor's arguments can be written down whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// Used while training only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_init_scale_strategy: Option<WeightInitScaleStrategy>,
}

fn default_negative_inf() -> f64 {
    -1e8
}

/// Where the norm after attention and feed-forward sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputNorm {
    /// `emformer_layers.{i}.layer_norm_output` after every layer, as in torchaudio.
    #[default]
    PerLayer,
    /// One `layer_norm` after the last layer.
    Final,
}

/// How torchaudio scales a layer's first weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightInitScaleStrategy {
    /// By 1/√(layer + 1).
    Depthwise,
    /// By 1/√2.
    Constant,
}

impl EmformerConfig {
    /// Width of the layers.
    pub fn dim(&self) -> usize {
        self.dim.unwrap_or(self.input_dim)
    }

    /// Multiply-adds in the matrix products of one session's step, its left context full and its memory bank too; what nobody
    /// reads after the last layer is not computed and not counted.
    pub(super) fn products_per_step(&self) -> u64 {
        let (dim, ffn) = (self.dim(), self.ffn_dim);
        let (right, segment) = (self.right_context_length, self.segment_length);
        let summary = usize::from(self.max_memory_size > 0);
        let keys = self.max_memory_size + right + segment + self.left_context_length;
        let layers: usize = (0..self.num_layers)
            .map(|layer| {
                let is_last = layer + 1 == self.num_layers;
                let queries = if is_last {
                    segment
                } else {
                    right + segment + summary
                };
                let rows = if is_last { segment } else { right + segment };
                (self.max_memory_size + right + segment + summary) * 3 * dim * dim
                    + queries * (2 * keys * dim + dim * dim)
                    + rows * 2 * dim * ffn
            })
            .sum();
        let stem = match self.position_period {
            Some(_) => segment * super::STEM_TAPS * dim * (super::STEM_SUBSAMPLING * self.input_dim + dim),
            None => 0,
        };
        (layers + stem) as u64
    }

    /// Whether Whisper's stem and positions stand in front: what a `whisper-emformer` has and an `emformer` has not.
    pub fn has_stem(&self) -> bool {
        self.position_period.is_some()
    }

    /// Reports everything that contradicts the architecture, with or without a stem.
    pub(crate) fn problems(&self, with_stem: bool, require: &mut dyn FnMut(bool, String)) {
        let dim = self.dim();
        require_sizes(
            require,
            1,
            &[
                ("input_dim", self.input_dim),
                ("dim", dim),
                ("num_heads", self.num_heads),
                ("ffn_dim", self.ffn_dim),
                ("num_layers", self.num_layers),
                ("segment_length", self.segment_length),
            ],
        );
        require_sizes(
            require,
            0,
            &[
                ("left_context_length", self.left_context_length),
                ("right_context_length", self.right_context_length),
                ("max_memory_size", self.max_memory_size),
            ],
        );
        require(
            self.num_heads == 0 || dim.is_multiple_of(self.num_heads),
            format!(
                "encoder.num_heads: expected a divisor of dim ({dim}), found {}",
                self.num_heads
            ),
        );
        require(
            self.negative_inf.is_finite(),
            "encoder.negative_inf: expected a finite number".into(),
        );
        if with_stem {
            require(
                self.position_period.is_some_and(|period| period > 0),
                "encoder.position_period: expected at least 1 for a whisper-emformer".into(),
            );
            require(
                dim.is_multiple_of(2) && dim >= 4,
                format!("encoder.dim: expected an even number from 4 on, found {dim}"),
            );
        } else {
            require(
                dim == self.input_dim,
                format!(
                    "encoder.dim: expected input_dim ({}) for an emformer, found {dim}",
                    self.input_dim
                ),
            );
            require(
                self.position_period.is_none(),
                "encoder.position_period: an emformer has no positions".into(),
            );
        }
    }
}
