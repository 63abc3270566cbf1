//! The promises of a served encoder: streaming equals whole utterances (I2), neighbours do not matter (I3), a reset
//! state equals a fresh one (I4), threads share the weights.

use crate::support::{Random, Session, Whole, alone, executors, features_for, flat, max_difference, step};
use candle_core::{Device, Tensor};
use proptest::prelude::*;
use serde_json::json;
use waxwing_model::encoder::{StepRow, StreamingEncoder};
use waxwing_model::{Config, ModelError};

pub(crate) const TOLERANCE: f32 = 1e-4;

/// Any small model.
pub(crate) fn configs() -> impl Strategy<Value = Config> {
    let sizes = (1..=5usize, 0..=9usize, 0..=7usize, 0..=3usize, 1..=3usize);
    let choices = (
        prop::sample::select(vec!["relu", "gelu", "silu"]),
        prop::sample::select(vec!["per_layer", "final"]),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    (sizes, choices).prop_map(
        |((segment, left, right, memory, layers), (activation, norm, tanh, stem, ctc))| {
            let mut config = json!({
                "format": 1, "id": "random",
                "architecture": if stem { "whisper-emformer" } else { "emformer" },
                "encoder": {
                    "input_dim": if stem { 5 } else { 12 }, "dim": 12, "num_heads": 3, "ffn_dim": 20,
                    "num_layers": layers, "segment_length": segment, "left_context_length": left,
                    "right_context_length": right, "max_memory_size": memory, "activation": activation,
                    "tanh_on_mem": tanh, "output_norm": norm,
                }
            });
            if stem {
                config["encoder"]["position_period"] = json!(11);
            }
            if ctc {
                config["ctc"] = json!({"blank": 0});
            }
            Config::from_json(&config.to_string()).unwrap()
        },
    )
}

/// The same features through the reference executor, whole.
fn whole(encoder: &dyn StreamingEncoder, whole: &Whole, features: &[f32], num_steps: usize) -> Vec<f32> {
    let width = encoder.geometry().num_features;
    let features = Tensor::from_slice(features, (1, features.len() / width, width), &Device::Cpu).unwrap();
    let embedded = whole.reference.embed(&features).unwrap();
    let encoded = whole
        .reference
        .forward(&embedded, &[num_steps * encoder.geometry().output_frames()])
        .unwrap();
    flat(&whole.log_probs(encoded))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn i2_streaming_equals_the_whole_utterance(config in configs(), num_steps in 1..7usize, seed: u32) {
        let (encoder, reference) = executors(&config, u64::from(seed));
        let features = features_for(encoder.as_ref(), num_steps, &mut Random::new(7));
        let streamed = alone(encoder.as_ref(), &features, num_steps);
        let expected = whole(encoder.as_ref(), &reference, &features, num_steps);
        prop_assert!(max_difference(&streamed, &expected) <= TOLERANCE);
    }

    #[test]
    fn i3_neighbours_of_any_age_do_not_matter(config in configs(), seed: u32) {
        const SESSIONS: usize = 11;
        const STEPS: usize = 6;
        let (encoder, _) = executors(&config, u64::from(seed));
        let mut random = Random::new(u64::from(seed));
        let features: Vec<Vec<f32>> =
            (0..SESSIONS).map(|_| features_for(encoder.as_ref(), STEPS, &mut random)).collect();
        // One session hears nothing but NaN.
        let poison = vec![f32::NAN; features[0].len()];
        let mut sessions: Vec<Session<'_>> =
            features.iter().map(|features| Session::new(encoder.as_ref(), features)).collect();
        sessions.push(Session::new(encoder.as_ref(), &poison));
        // Every round steps a random part of the sessions, in a random order, so their ages differ.
        for _ in 0..200 {
            let mut batch: Vec<&mut Session<'_>> = sessions
                .iter_mut()
                .filter(|session| session.state.steps < STEPS as u64 && random.below(2) == 0)
                .collect();
            for index in (1..batch.len()).rev() {
                batch.swap(index, random.below(index + 1));
            }
            step(encoder.as_ref(), &mut batch);
        }
        for (session, features) in sessions.iter().zip(&features) {
            prop_assert_eq!(session.state.steps, STEPS as u64);
            prop_assert!(max_difference(&session.heard, &alone(encoder.as_ref(), features, STEPS)) <= TOLERANCE);
        }
        prop_assert!(sessions[SESSIONS].heard.iter().all(|value| value.is_nan()));
    }

    #[test]
    fn i4_a_reset_state_equals_a_fresh_one(config in configs(), seed: u32) {
        let (encoder, _) = executors(&config, u64::from(seed));
        let features = features_for(encoder.as_ref(), 4, &mut Random::new(u64::from(seed)));
        let expected = alone(encoder.as_ref(), &features, 4);
        let mut session = Session::new(encoder.as_ref(), &features);
        session.state.values.fill(f32::NAN);
        session.state.steps = 3;
        encoder.reset(&mut session.state);
        prop_assert_eq!(&session.state, &encoder.new_state());
        for _ in 0..4 {
            step(encoder.as_ref(), &mut [&mut session]);
        }
        prop_assert_eq!(&session.heard, &expected);

        // Rows of rings that no step has written are not read either: the counter alone makes a state fresh.
        let mut session = Session::new(encoder.as_ref(), &features);
        session.state.values.fill(f32::NAN);
        for _ in 0..4 {
            step(encoder.as_ref(), &mut [&mut session]);
        }
        prop_assert_eq!(&session.heard, &expected);
    }
}

pub(crate) fn small() -> Config {
    let config = json!({
        "format": 1, "id": "small", "architecture": "whisper-emformer",
        "encoder": {"input_dim": 8, "dim": 24, "num_heads": 3, "ffn_dim": 40, "num_layers": 2, "segment_length": 4,
            "left_context_length": 8, "right_context_length": 2, "max_memory_size": 2, "activation": "gelu",
            "output_norm": "final", "position_period": 50},
        "ctc": {"blank": 0}
    });
    Config::from_json(&config.to_string()).unwrap()
}

#[test]
fn threads_share_one_encoder() {
    let (encoder, _) = executors(&small(), 3);
    let mut random = Random::new(4);
    let features: Vec<Vec<f32>> = (0..8)
        .map(|_| features_for(encoder.as_ref(), 12, &mut random))
        .collect();
    let expected: Vec<Vec<f32>> = features
        .iter()
        .map(|features| alone(encoder.as_ref(), features, 12))
        .collect();
    std::thread::scope(|scope| {
        let workers: Vec<_> = features
            .iter()
            .map(|features| scope.spawn(|| alone(encoder.as_ref(), features, 12)))
            .collect();
        for (worker, expected) in workers.into_iter().zip(&expected) {
            assert_eq!(&worker.join().unwrap(), expected);
        }
    });
}

#[test]
fn positions_go_on_past_their_period() {
    let (encoder, reference) = executors(&small(), 5);
    let features = features_for(encoder.as_ref(), 40, &mut Random::new(6));
    let streamed = alone(encoder.as_ref(), &features, 40);
    assert!(max_difference(&streamed, &whole(encoder.as_ref(), &reference, &features, 40)) <= TOLERANCE);
}

#[test]
fn a_refused_batch_changes_no_state() {
    let (encoder, _) = executors(&small(), 8);
    let features = features_for(encoder.as_ref(), 1, &mut Random::new(9));
    let (mut good, mut bad) = (encoder.new_state(), encoder.new_state());
    let (mut output, mut other) = (Vec::new(), Vec::new());
    let mut rows = [
        StepRow {
            state: &mut good,
            features: &features,
            output: &mut output,
        },
        StepRow {
            state: &mut bad,
            features: &features[1..],
            output: &mut other,
        },
    ];
    let error = encoder.step(&mut rows).unwrap_err();
    assert!(
        matches!(error, ModelError::FeatureCount { row: 1, expected, actual } if expected == actual + 1),
        "{error}"
    );
    bad.values = vec![0.0; 3].into();
    let mut rows = [
        StepRow {
            state: &mut good,
            features: &features,
            output: &mut output,
        },
        StepRow {
            state: &mut bad,
            features: &features,
            output: &mut other,
        },
    ];
    let error = encoder.step(&mut rows).unwrap_err();
    assert!(
        matches!(
            error,
            ModelError::StateSize {
                row: 1,
                actual: 3,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(good, encoder.new_state());
}
