//! Sizes of a text decoder, and the tensors that follow from them.

use serde::{Deserialize, Serialize};

use crate::config::require_sizes_of;
use crate::loader::Expected;
use crate::transformer::{affine, attention_tensors, expected_tensors as layer_tensors};

/// Sizes of a text decoder. Its width is the encoder's, its classes are the vocabulary's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextDecoderConfig {
    /// Number of layers.
    pub num_layers: usize,
    /// Attention heads; divides the encoder's width.
    pub num_heads: usize,
    /// Width inside the feed-forward part.
    pub ffn_dim: usize,
    /// Positions: the two that begin a transcript and one for each token of its text.
    pub max_tokens: usize,
}

/// What stands in front of every text.
pub(super) const PROMPT_TOKENS: usize = 2;

/// Beyond all sizes that make sense, far below what would make products of sizes overflow.
const MOST: usize = 1 << 20;

impl TextDecoderConfig {
    /// Tokens of the longest text that has positions.
    pub fn max_text_tokens(&self) -> usize {
        self.max_tokens.saturating_sub(PROMPT_TOKENS)
    }

    /// Reports everything that contradicts itself, or an encoder whose frames are `dim` wide.
    pub fn problems(&self, dim: usize, require: &mut dyn FnMut(bool, String)) {
        let sizes = [
            ("num_layers", self.num_layers, 1),
            ("num_heads", self.num_heads, 1),
            ("ffn_dim", self.ffn_dim, 1),
            ("max_tokens", self.max_tokens, PROMPT_TOKENS + 1),
        ];
        require_sizes_of("text_decoder", MOST, &sizes, require);
        require(
            self.num_heads == 0 || (dim > 0 && dim.is_multiple_of(self.num_heads)),
            format!(
                "text_decoder.num_heads: expected a divisor of the encoder's width ({dim}), found {}",
                self.num_heads
            ),
        );
    }
}

/// Every tensor of a text decoder with its shape.
pub fn expected_tensors(dim: usize, classes: usize, config: &TextDecoderConfig) -> Vec<Expected> {
    let mut expected = vec![
        (name("embedding.weight"), vec![classes, dim]),
        (name("positions"), vec![config.max_tokens, dim]),
    ];
    for norm in ["input_norm", "norm"] {
        expected.extend(affine(&name(norm), dim, None));
    }
    for index in 0..config.num_layers {
        let layer = name(&format!("layers.{index}."));
        expected.extend(layer_tensors(&layer, dim, config.ffn_dim));
        expected.extend(affine(&format!("{layer}cross_norm"), dim, None));
        expected.extend(attention_tensors(&format!("{layer}cross_attention"), dim));
    }
    expected
}

/// A tensor's name in the file of the whole model.
pub(super) fn name(own: &str) -> String {
    format!("text_decoder.{own}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(config: &TextDecoderConfig, dim: usize) -> String {
        let mut found = Vec::new();
        config.problems(dim, &mut |holds, problem| {
            if !holds {
                found.push(problem);
            }
        });
        found.join("; ")
    }

    #[test]
    fn sizes_are_checked_and_unknown_fields_refused() {
        let json = r#"{"num_layers": 4, "num_heads": 6, "ffn_dim": 1536, "max_tokens": 448}"#;
        let config: TextDecoderConfig = serde_json::from_str(json).unwrap();
        assert_eq!(problems(&config, 384), "");
        assert_eq!(config.max_text_tokens(), 446);
        assert!(problems(&config, 385).contains("expected a divisor of the encoder's width (385), found 6"));
        let wrong = TextDecoderConfig {
            num_layers: 0,
            num_heads: 0,
            ffn_dim: usize::MAX,
            max_tokens: 2,
        };
        let found = problems(&wrong, 384);
        for part in [
            "text_decoder.num_layers: expected 1 to 1048576, found 0",
            "text_decoder.num_heads: expected 1",
            "text_decoder.ffn_dim: expected 1 to 1048576, found 18446744073709551615",
            "text_decoder.max_tokens: expected 3",
        ] {
            assert!(found.contains(part), "{part}: {found}");
        }
        let misspelt = json.replace("ffn_dim", "ffn");
        let error = serde_json::from_str::<TextDecoderConfig>(&misspelt).unwrap_err();
        assert!(error.to_string().contains("unknown field `ffn`"), "{error}");
    }

    #[test]
    fn lists_the_tensors_of_whispers_tiny_decoder() {
        let config = TextDecoderConfig {
            num_layers: 4,
            num_heads: 6,
            ffn_dim: 1536,
            max_tokens: 448,
        };
        let expected = expected_tensors(384, 5003, &config);
        // Embedding, positions, two norms; in each layer three norms, two attentions of three layers, two of feed-forward.
        assert_eq!(expected.len(), 2 + 2 * 2 + 4 * 2 * (3 + 2 * 3 + 2));
        let shape = |wanted: &str| {
            expected
                .iter()
                .find(|(name, _)| name == wanted)
                .unwrap()
                .1
                .as_slice()
        };
        assert_eq!(shape("text_decoder.embedding.weight"), [5003, 384]);
        assert_eq!(
            shape("text_decoder.layers.0.cross_attention.key_value.weight"),
            [768, 384]
        );
        assert_eq!(shape("text_decoder.layers.3.ffn.3.weight"), [384, 1536]);
        assert_eq!(shape("text_decoder.layers.3.self_norm.bias"), [384]);
    }
}
