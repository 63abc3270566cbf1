//! Sizes of an Emformer RNN-T, as in `config.json`. Names follow `torchaudio.models.emformer_rnnt_model`.

use serde::{Deserialize, Serialize};

use crate::config::{Activation, require_sizes};
use crate::encoder::emformer::{EmformerConfig, OutputNorm};

/// Constructor of an RNN-T and its search. Lengths in feature frames, unless said otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RnntConfig {
    /// Values of one feature frame.
    pub input_dim: usize,
    /// Width at which transcriber and predictor meet.
    pub encoding_dim: usize,
    /// Classes, the blank included. The blank is the last one: torchaudio's search takes it to be.
    pub num_symbols: usize,
    /// Feature frames that a step advances by; a multiple of the stride.
    pub segment_length: usize,
    /// Feature frames after a segment that it sees; a multiple of the stride.
    pub right_context_length: usize,
    /// Width of a feature frame before time reduction.
    pub time_reduction_input_dim: usize,
    /// Feature frames that become one encoder frame.
    pub time_reduction_stride: usize,
    /// Attention heads.
    pub transformer_num_heads: usize,
    /// Width inside the feed-forward part.
    pub transformer_ffn_dim: usize,
    /// Emformer layers.
    pub transformer_num_layers: usize,
    /// Encoder frames, not feature frames, before a segment that it sees.
    pub transformer_left_context_length: usize,
    /// Between the feed-forward products.
    #[serde(default)]
    pub transformer_activation: Activation,
    /// Segments before a segment whose summaries it sees.
    #[serde(default)]
    pub transformer_max_memory_size: usize,
    /// Squash summaries by tanh; else they are clamped to ±10.
    #[serde(default)]
    pub transformer_tanh_on_mem: bool,
    /// Width of an embedded token and of the predictor's LSTM layers.
    pub symbol_embedding_dim: usize,
    /// LSTM layers of the predictor.
    pub num_lstm_layers: usize,
    /// Whether gates and cells are normed.
    #[serde(default)]
    pub lstm_layer_norm: bool,
    /// Added to variances of those norms.
    #[serde(default = "default_epsilon")]
    pub lstm_layer_norm_epsilon: f64,
    /// How the tokens are searched.
    #[serde(default)]
    pub search: SearchConfig,
}

fn default_epsilon() -> f64 {
    1e-5
}

/// `torchaudio.models.RNNTBeamSearch`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchConfig {
    /// Hypotheses kept after each encoder frame.
    pub beam_width: usize,
    /// Divides the joiner's scores.
    pub temperature: f32,
    /// Tokens that one encoder frame may add to a hypothesis.
    pub step_max_tokens: usize,
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self {
            beam_width: 10,
            temperature: 1.0,
            step_max_tokens: 100,
        }
    }
}

impl RnntConfig {
    /// The transcriber's Emformer: lengths in encoder frames.
    pub fn emformer(&self) -> EmformerConfig {
        let stride = self.time_reduction_stride.max(1);
        EmformerConfig {
            input_dim: self.time_reduction_input_dim * self.time_reduction_stride,
            dim: None,
            num_heads: self.transformer_num_heads,
            ffn_dim: self.transformer_ffn_dim,
            num_layers: self.transformer_num_layers,
            segment_length: self.segment_length / stride,
            left_context_length: self.transformer_left_context_length,
            right_context_length: self.right_context_length / stride,
            max_memory_size: self.transformer_max_memory_size,
            activation: self.transformer_activation,
            tanh_on_mem: self.transformer_tanh_on_mem,
            negative_inf: -1e8,
            output_norm: OutputNorm::PerLayer,
            position_period: None,
            dropout: None,
            weight_init_scale_strategy: None,
        }
    }

    /// Class of the blank.
    pub fn blank(&self) -> u32 {
        u32::try_from(self.num_symbols.saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// Reports everything that contradicts the architecture.
    pub(crate) fn problems(&self, require: &mut dyn FnMut(bool, String)) {
        require_sizes(
            require,
            1,
            &[
                ("input_dim", self.input_dim),
                ("encoding_dim", self.encoding_dim),
                ("segment_length", self.segment_length),
                ("time_reduction_input_dim", self.time_reduction_input_dim),
                ("time_reduction_stride", self.time_reduction_stride),
                ("symbol_embedding_dim", self.symbol_embedding_dim),
                ("num_lstm_layers", self.num_lstm_layers),
                ("search.beam_width", self.search.beam_width),
                ("search.step_max_tokens", self.search.step_max_tokens),
            ],
        );
        require_sizes(require, 2, &[("num_symbols", self.num_symbols)]);
        require_sizes(require, 0, &[("right_context_length", self.right_context_length)]);
        let stride = self.time_reduction_stride.max(1);
        for (name, length) in [
            ("segment_length", self.segment_length),
            ("right_context_length", self.right_context_length),
        ] {
            require(
                length.is_multiple_of(stride),
                format!(
                    "encoder.{name}: expected a multiple of time_reduction_stride ({stride}), found {length}"
                ),
            );
        }
        require(
            self.search.beam_width < self.num_symbols,
            format!(
                "encoder.search.beam_width: expected fewer than num_symbols ({}), found {}",
                self.num_symbols, self.search.beam_width
            ),
        );
        for (name, value) in [
            ("search.temperature", f64::from(self.search.temperature)),
            ("lstm_layer_norm_epsilon", self.lstm_layer_norm_epsilon),
        ] {
            require(
                value.is_finite() && value > 0.0,
                format!("encoder.{name}: expected a number above 0, found {value}"),
            );
        }
        if self.time_reduction_input_dim.saturating_mul(stride) <= 1 << 20 {
            self.emformer().problems(false, require);
        }
    }
}
