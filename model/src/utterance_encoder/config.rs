//! Sizes of an utterance encoder, and the tensors that follow from them.

use serde::{Deserialize, Serialize};

use crate::config::require_sizes_of;
use crate::loader::Expected;
use crate::transformer::{affine, expected_tensors as layer_tensors};

/// Sizes of an utterance encoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UtteranceEncoderConfig {
    /// Width of a frame.
    pub dim: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// Attention heads; divides `dim`.
    pub num_heads: usize,
    /// Width inside the feed-forward part.
    pub ffn_dim: usize,
    /// So many of the first layers, and with them the convolutions, are those of the streaming encoder in front: a `whisper-emformer` of the same width and heads
    /// whose first layers were not trained.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shared_layers: usize,
    /// Positions: the longest utterance in frames, its silence behind included.
    pub max_frames: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Beyond all sizes that make sense, far below what would make products of sizes overflow.
const MOST: usize = 1 << 16;

impl UtteranceEncoderConfig {
    /// Reports everything that contradicts itself.
    pub fn problems(&self, require: &mut dyn FnMut(bool, String)) {
        let sizes = [
            ("dim", self.dim, 4),
            ("num_layers", self.num_layers, 1),
            ("num_heads", self.num_heads, 1),
            ("ffn_dim", self.ffn_dim, 1),
            ("max_frames", self.max_frames, super::PADDING_FRAMES + 1),
        ];
        require_sizes_of("utterance_encoder", MOST, &sizes, require);
        require(
            self.shared_layers <= self.num_layers,
            format!(
                "utterance_encoder.shared_layers: expected at most {}, found {}",
                self.num_layers, self.shared_layers
            ),
        );
        let divides =
            self.num_heads > 0 && self.dim.is_multiple_of(self.num_heads) && self.dim.is_multiple_of(2);
        require(
            divides,
            format!(
                "utterance_encoder.num_heads: expected a divisor of dim ({}), which is even, found {}",
                self.dim, self.num_heads
            ),
        );
    }
}

/// Every tensor of an utterance encoder over frames of `num_features` values, with its shape, but for those of the streaming encoder that it shares.
pub fn expected_tensors(num_features: usize, config: &UtteranceEncoderConfig) -> Vec<Expected> {
    let dim = config.dim;
    let mut expected = Vec::new();
    let own_stem = [("conv1", num_features), ("conv2", dim)]
        .into_iter()
        .filter(|_| config.shared_layers == 0);
    for (conv, inputs) in own_stem {
        let [mut weight, bias] = affine(&name(conv), dim, Some(inputs));
        weight.1.push(super::TAPS);
        expected.extend([weight, bias]);
    }
    for index in config.shared_layers..config.num_layers {
        expected.extend(layer_tensors(&layer(index), dim, config.ffn_dim));
    }
    expected
}

/// A tensor's name in the file of the whole model.
pub(super) fn name(own: &str) -> String {
    format!("utterance_encoder.{own}")
}

/// What the names of a layer's tensors begin with.
pub(super) fn layer(index: usize) -> String {
    name(&format!("layers.{index}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: UtteranceEncoderConfig = UtteranceEncoderConfig {
        dim: 384,
        num_layers: 4,
        num_heads: 6,
        ffn_dim: 1536,
        shared_layers: 0,
        max_frames: 1500,
    };

    fn problems(config: &UtteranceEncoderConfig) -> String {
        let mut found = Vec::new();
        config.problems(&mut |holds, problem| {
            if !holds {
                found.push(problem);
            }
        });
        found.join("; ")
    }

    #[test]
    fn sizes_are_checked() {
        assert_eq!(problems(&TINY), "");
        let wrong = UtteranceEncoderConfig {
            num_heads: 7,
            num_layers: 0,
            shared_layers: 1,
            max_frames: 3,
            ..TINY
        };
        let found = problems(&wrong);
        for part in [
            "utterance_encoder.num_layers: expected 1 to 65536, found 0",
            "utterance_encoder.shared_layers: expected at most 0, found 1",
            "expected a divisor of dim (384), which is even, found 7",
            "utterance_encoder.max_frames: expected 26",
        ] {
            assert!(found.contains(part), "{part}: {found}");
        }
    }

    #[test]
    fn lists_the_tensors_of_whispers_tiny_encoder() {
        let expected = expected_tensors(80, &TINY);
        // Two convolutions; in each layer two norms, an attention of three layers, two of feed-forward.
        assert_eq!(expected.len(), 2 * 2 + 4 * 2 * (2 + 3 + 2));
        let shared = UtteranceEncoderConfig {
            shared_layers: 1,
            ..TINY
        };
        assert_eq!(expected_tensors(80, &shared).len(), 3 * 2 * (2 + 3 + 2));
        let shape = |wanted: &str| {
            expected
                .iter()
                .find(|(name, _)| name == wanted)
                .map(|(_, shape)| shape.as_slice())
        };
        assert_eq!(
            shape("utterance_encoder.conv2.weight"),
            Some([384, 384, 3].as_slice())
        );
        assert_eq!(
            shape("utterance_encoder.layers.3.self_attention.key_value.weight"),
            Some([768, 384].as_slice())
        );
    }
}
