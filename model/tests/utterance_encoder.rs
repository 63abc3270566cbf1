//! The utterance encoder against OpenAI's, and its promises. The data is made by `tests/golden/utterance_encoder.py`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "support/golden.rs"]
mod golden;

use std::collections::HashMap;

use candle_core::Tensor;
use waxwing_model::loader::Expected;
use waxwing_model::precision::Precision;
use waxwing_model::utterance_encoder::{
    PADDING_FRAMES, UtteranceEncoder, UtteranceEncoderConfig, expected_tensors,
};

const TOLERANCE: f32 = 1e-5;

struct Case {
    config: UtteranceEncoderConfig,
    num_features: usize,
    weights: HashMap<String, Tensor>,
    features: Vec<f32>,
    encoded: Vec<f32>,
}

fn cases() -> Vec<Case> {
    let read = |case: golden::Case| Case {
        num_features: case.size("features"),
        config: serde_json::from_value(case.settings["config"].clone()).unwrap(),
        weights: case.weights(),
        features: case.values("features"),
        encoded: case.values("encoded"),
    };
    golden::cases("utterance_encoder").into_iter().map(read).collect()
}

impl Case {
    fn build(
        &self,
        config: &UtteranceEncoderConfig,
        others: &[Expected],
        precision: Precision,
    ) -> UtteranceEncoder {
        let mut expected = expected_tensors(self.num_features, config);
        expected.extend_from_slice(others);
        let weights = golden::read(&self.weights, &expected);
        UtteranceEncoder::new(config, self.num_features, 0.0, &weights, precision).unwrap()
    }
}

#[test]
fn equals_openais_encoder_over_the_utterance_and_half_a_second_of_silence() {
    let cases = cases();
    assert_eq!(cases.len(), 3);
    let mut most = 0.0f32;
    for case in &cases {
        let found = case
            .build(&case.config, &[], Precision::F32)
            .encode(&case.features);
        assert_eq!(found.len(), case.encoded.len());
        for (found, expected) in found.iter().zip(&case.encoded) {
            most = most.max((found - expected).abs() / expected.abs().max(1.0));
        }
    }
    println!("largest difference {most:.1e}");
    assert!(most < TOLERANCE, "{most}");
}

#[test]
fn shared_layers_are_read_under_the_streaming_encoders_names() {
    for mut case in cases() {
        let expected = case
            .build(&case.config, &[], Precision::F32)
            .encode(&case.features);
        let names = [
            ("self_norm", "layer_norm_input"),
            ("self_attention.query", "attention.emb_to_query"),
            ("self_attention.key_value", "attention.emb_to_key_value"),
            ("self_attention.out", "attention.out_proj"),
            ("ffn_norm", "pos_ff.0"),
            ("ffn.0", "pos_ff.1"),
            ("ffn.3", "pos_ff.4"),
        ];
        let mut lent = Vec::new();
        for kind in ["weight", "bias"] {
            let stem = ["conv1", "conv2"].map(|conv| {
                (
                    format!("utterance_encoder.{conv}.{kind}"),
                    format!("stem.{conv}.{kind}"),
                )
            });
            let layer = names.map(|(own, other)| {
                (
                    format!("utterance_encoder.layers.0.{own}.{kind}"),
                    format!("emformer_layers.0.{other}.{kind}"),
                )
            });
            for (own, other) in stem.into_iter().chain(layer) {
                let tensor = case.weights.remove(&own).unwrap();
                lent.push((other.clone(), tensor.dims().to_vec()));
                case.weights.insert(other, tensor);
            }
        }
        let shared = UtteranceEncoderConfig {
            shared_layers: 1,
            ..case.config.clone()
        };
        let found = case.build(&shared, &lent, Precision::F32).encode(&case.features);
        assert_eq!(found, expected);
    }
}

#[test]
fn whole_numbers_are_nearly_as_exact() {
    for case in cases() {
        let found = case
            .build(&case.config, &[], Precision::Int8)
            .encode(&case.features);
        let error: f32 = found
            .iter()
            .zip(&case.encoded)
            .map(|(found, exact)| (found - exact).powi(2))
            .sum();
        let power: f32 = case.encoded.iter().map(|exact| exact.powi(2)).sum();
        assert!(error < 2e-3 * power, "{}", error / power);
    }
}

#[test]
fn what_cannot_be_heard_gives_nothing() {
    for case in cases() {
        let encoder = case.build(&case.config, &[], Precision::F32);
        assert!(encoder.encode(&[]).is_empty());
        assert!(
            encoder
                .encode(&case.features[..encoder.values_per_frame() - 1])
                .is_empty()
        );
        // One frame more than there are positions.
        let longer = [case.features.clone(), vec![0.0; encoder.values_per_frame()]].concat();
        assert!(encoder.encode(&longer).is_empty());
        // Part of a frame is not read.
        let ragged = [case.features.clone(), vec![0.5]].concat();
        assert_eq!(encoder.encode(&ragged), encoder.encode(&case.features));
        let rows = case.features.len() / encoder.values_per_frame() + PADDING_FRAMES;
        assert_eq!(encoder.encode(&case.features).len(), rows * case.config.dim);
    }
}

#[test]
fn what_lies_eight_decades_below_the_loudest_is_raised() {
    for case in cases() {
        let encoder = case.build(&case.config, &[], Precision::F32);
        let loudest = case.features.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let raised: Vec<f32> = case
            .features
            .iter()
            .map(|value| value.max(loudest - 2.0))
            .collect();
        assert_ne!(raised, case.features);
        assert_eq!(encoder.encode(&raised), encoder.encode(&case.features));
    }
}
