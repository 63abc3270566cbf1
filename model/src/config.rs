//! `config.json` of a model directory.
//!
//! Unknown fields are refused, so that a misspelt or newer setting is never silently ignored. Names of the encoder's
//! fields follow the constructor of `torchaudio.models.Emformer`.

use serde::{Deserialize, Serialize};
use waxwing_frontend::features::FeatureConfig;

use crate::error::ModelError;

/// The value of `format` that this release reads.
pub const FORMAT: u32 = 1;

/// A model directory's `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Version of the directory's layout; [`FORMAT`].
    pub format: u32,
    /// Name under which the model is asked for.
    pub id: String,
    /// Which encoder the weights belong to.
    pub architecture: Architecture,
    /// BCP 47 tag of the language it transcribes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Rate of the audio that the features are made from, in Hz.
    #[serde(default = "default_sample_rate")]
    pub sample_rate: u32,
    /// How audio becomes features. A model without them can be run on features (`encode`), but not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<FeatureConfig>,
    /// Sizes of the encoder.
    pub encoder: EmformerConfig,
    /// Present when the model ends in a CTC head (tensors `head.weight` and `head.bias`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ctc: Option<CtcConfig>,
    /// SPDX expression for the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
}

fn default_sample_rate() -> u32 {
    16_000
}

/// The encoders that can be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    /// `torchaudio.models.Emformer` as it is: its input frames are already `dim` wide.
    Emformer,
    /// Whisper's convolutional stem and sinusoids in front of Emformer layers.
    WhisperEmformer,
}

/// The CTC head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CtcConfig {
    /// Class of the blank.
    pub blank: usize,
}

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

/// Element-wise function between the two feed-forward products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// max(x, 0)
    #[default]
    Relu,
    /// x Φ(x), by the error function rather than its tanh approximation.
    Gelu,
    /// x σ(x)
    Silu,
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

impl Config {
    /// Reads `config.json` and checks that its values make sense together.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for text that is not such a JSON object, and with every contradiction found.
    pub fn from_json(json: &str) -> Result<Self, ModelError> {
        let config: Self = serde_json::from_str(json).map_err(|error| ModelError::Invalid {
            problems: vec![format!("config.json: {error}")],
        })?;
        let problems = config.problems();
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ModelError::Invalid { problems })
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, what: String| {
            if !holds {
                problems.push(format!("config.json: {what}"));
            }
        };
        let encoder = &self.encoder;
        let dim = encoder.dim();
        require(
            self.format == FORMAT,
            format!("format: expected {FORMAT}, found {}", self.format),
        );
        require(
            !self.id.is_empty(),
            "id: expected a name, found an empty string".into(),
        );
        require(
            (8_000..=192_000).contains(&self.sample_rate),
            format!("sample_rate: expected 8000 to 192000, found {}", self.sample_rate),
        );
        let sizes = [
            ("input_dim", encoder.input_dim),
            ("dim", dim),
            ("num_heads", encoder.num_heads),
            ("ffn_dim", encoder.ffn_dim),
            ("num_layers", encoder.num_layers),
            ("segment_length", encoder.segment_length),
        ];
        for (name, size) in sizes {
            require(size > 0, format!("encoder.{name}: expected at least 1, found 0"));
        }
        let lengths = [
            ("left_context_length", encoder.left_context_length),
            ("right_context_length", encoder.right_context_length),
            ("max_memory_size", encoder.max_memory_size),
        ];
        for (name, size) in sizes.into_iter().chain(lengths) {
            // Far above any real model; keeps the products of sizes below from overflowing.
            require(
                size <= 1 << 20,
                format!("encoder.{name}: expected at most {}, found {size}", 1 << 20),
            );
        }
        require(
            encoder.num_heads == 0 || dim.is_multiple_of(encoder.num_heads),
            format!(
                "encoder.num_heads: expected a divisor of dim ({dim}), found {}",
                encoder.num_heads
            ),
        );
        require(
            encoder.negative_inf.is_finite(),
            "encoder.negative_inf: expected a finite number".into(),
        );
        match self.architecture {
            Architecture::Emformer => {
                require(
                    dim == encoder.input_dim,
                    format!(
                        "encoder.dim: expected input_dim ({}) for an emformer, found {dim}",
                        encoder.input_dim
                    ),
                );
                require(
                    encoder.position_period.is_none(),
                    "encoder.position_period: an emformer has no positions".into(),
                );
            }
            Architecture::WhisperEmformer => {
                require(
                    encoder.position_period.is_some_and(|period| period > 0),
                    "encoder.position_period: expected at least 1 for a whisper-emformer".into(),
                );
                require(
                    dim.is_multiple_of(2) && dim >= 4,
                    format!("encoder.dim: expected an even number from 4 on, found {dim}"),
                );
            }
        }
        problems
    }
}

impl EmformerConfig {
    /// Width of the layers.
    pub fn dim(&self) -> usize {
        self.dim.unwrap_or(self.input_dim)
    }
}
