//! The promises that a streaming encoder keeps, over the whole family: streaming equals the whole utterance (I2), neighbours
//! do not matter (I3), a reset state equals a fresh one (I4).

use candle_core::{Device, Tensor};
use proptest::prelude::*;
use serde_json::{Value, json};
use waxwing_model::encoder::StreamingEncoder;
use waxwing_model::encoder::fsmn::{
    CellStackConfig, DeepFsmnConfig, Fsmn, FunasrFsmnConfig, Program, Reference,
};
use waxwing_model::{ModelError, encoder::StepRow};

use crate::support::{Random, Session, alone, deviation, exact, features_for, random_weights, step, widen};

const TOLERANCE: f64 = 1e-4;

fn cell_stacks() -> impl Strategy<Value = Program> {
    let cells = prop::sample::select(vec!["sfsmn", "vfsmn", "csfsmn", "cvfsmn"]);
    let sizes = (0..=5usize, 1..=3usize, 1..=5usize);
    (cells, sizes, any::<[bool; 2]>()).prop_map(|(cell, (memory, layers, segment), [both, old])| {
        let old = old && cell == "cvfsmn" && memory > 0;
        let config = json!({
            "memory_size": memory, "input_size": 5, "hidden_size": 6, "output_size": 4, "n_layers": layers, "cell": cell,
            "d_ff": 7, "activation": if both { "silu" } else { "relu" }, "bidirectional": both,
            "table": if old { "n_plus_1" } else { "n_plus_2" }, "segment_length": segment,
        });
        serde_json::from_value::<CellStackConfig>(config).unwrap().program()
    })
}

fn funasr_encoders() -> impl Strategy<Value = Program> {
    let orders = (1..=6usize, 0..=3usize, 1..=3usize, 1..=3usize);
    (orders, 1..=3usize, 1..=5usize, any::<bool>()).prop_map(|(orders, layers, segment, softmax)| {
        let config = json!({
            "input_dim": 5, "input_affine_dim": 6, "fsmn_layers": layers, "linear_dim": 7, "proj_dim": 4, "lorder": orders.0,
            "rorder": orders.1, "lstride": orders.2, "rstride": orders.3, "output_affine_dim": 6, "output_dim": 5,
            "use_softmax": softmax, "segment_length": segment,
        });
        serde_json::from_value::<FunasrFsmnConfig>(config).unwrap().program()
    })
}

fn deep_networks() -> impl Strategy<Value = Program> {
    let layer = (1..=4usize, 0..=3usize, 1..=2usize, 1..=3usize, 0..=4usize);
    let layers = prop::collection::vec(layer, 1..=4);
    (layers, 1..=5usize, any::<[bool; 4]>()).prop_map(|(layers, segment, [norm, bias, stem, input_norm])| {
        let layers: Vec<Value> = layers
            .into_iter()
            .enumerate()
            .map(|(index, (left, right, left_stride, right_stride, skip))| {
                let mut layer = json!({
                    "hidden_dim": 6, "memory_dim": 5, "left_order": left, "right_order": right,
                    "left_stride": left_stride, "right_stride": right_stride,
                });
                if stem && index % 2 == 0 {
                    layer["memory_on"] = json!("hidden");
                }
                if skip <= index {
                    layer["skip_from"] = json!(skip);
                }
                layer
            })
            .collect();
        let mut config = json!({
            "input_dim": 5, "layers": layers, "projection_bias": bias, "layer_norm": norm, "input_norm": input_norm,
            "output_layers": [6], "output_dim": 4, "segment_length": segment,
        });
        if stem {
            config["input_dim"] = json!(15);
            config["stem"] = json!({"frames": 5, "convolutions": [
                {"taps": 2, "stride": 1, "dim": 4}, {"taps": 2, "stride": 2, "dim": 5}]});
        }
        serde_json::from_value::<DeepFsmnConfig>(config).unwrap().program()
    })
}

fn programs() -> impl Strategy<Value = Program> {
    prop_oneof![cell_stacks(), funasr_encoders(), deep_networks()]
}

fn executors(program: &Program, seed: u64) -> (Fsmn, Reference) {
    let weights = random_weights(&program.expected_tensors(), seed);
    (
        Fsmn::new(program, &weights).unwrap(),
        Reference::new(program, &weights, &Device::Cpu).unwrap(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn i2_streaming_equals_the_whole_utterance(program in programs(), num_steps in 1..7usize, seed: u32) {
        let (encoder, reference) = executors(&program, u64::from(seed));
        let features = features_for(&encoder, num_steps, &mut Random::new(7));
        let width = encoder.geometry().num_features;
        let input = Tensor::from_slice(&features, (1, features.len() / width, width), &Device::Cpu).unwrap();
        let frames = num_steps * encoder.geometry().segment_frames;
        let whole = exact(&reference.run(&input, None).unwrap().output.narrow(1, 0, frames).unwrap());
        let streamed = widen(&alone(&encoder, &features, num_steps));
        prop_assert!(deviation(&streamed, &whole) <= TOLERANCE);
    }

    #[test]
    fn i3_neighbours_of_any_age_do_not_matter(program in programs(), seed: u32) {
        const SESSIONS: usize = 20;
        const STEPS: usize = 5;
        let (encoder, _) = executors(&program, u64::from(seed));
        let mut random = Random::new(u64::from(seed));
        let features: Vec<Vec<f32>> = (0..SESSIONS).map(|_| features_for(&encoder, STEPS, &mut random)).collect();
        // One session hears nothing but NaN.
        let poison = vec![f32::NAN; features[0].len()];
        let mut sessions: Vec<Session<'_>> =
            features.iter().map(|features| Session::new(&encoder, features)).collect();
        sessions.insert(SESSIONS / 2, Session::new(&encoder, &poison));
        // Every round steps a random part of the sessions, in a random order, so their ages differ.
        while sessions.iter().any(|session| session.state.steps < STEPS as u64) {
            let mut batch: Vec<&mut Session<'_>> = sessions
                .iter_mut()
                .filter(|session| session.state.steps < STEPS as u64 && random.below(2) == 0)
                .collect();
            for index in (1..batch.len()).rev() {
                batch.swap(index, random.below(index + 1));
            }
            step(&encoder, &mut batch);
        }
        let poisoned = sessions.remove(SESSIONS / 2);
        for (session, features) in sessions.iter().zip(&features) {
            let expected = alone(&encoder, features, STEPS);
            prop_assert!(deviation(&widen(&session.heard), &widen(&expected)) <= TOLERANCE);
        }
        prop_assert!(poisoned.heard.iter().any(|value| value.is_nan()));
    }

    #[test]
    fn i4_a_reset_state_equals_a_fresh_one(program in programs(), seed: u32) {
        let (encoder, _) = executors(&program, u64::from(seed));
        let features = features_for(&encoder, 4, &mut Random::new(u64::from(seed)));
        let expected = alone(&encoder, &features, 4);
        let mut session = Session::new(&encoder, &features);
        session.state.values.fill(f32::NAN);
        session.state.steps = 3;
        encoder.reset(&mut session.state);
        prop_assert_eq!(&session.state, &encoder.new_state());
        // The counter alone makes a state fresh: what was there before is not read.
        session.state.values.fill(f32::NAN);
        for _ in 0..4 {
            step(&encoder, &mut [&mut session]);
        }
        prop_assert_eq!(&session.heard, &expected);
    }
}

#[test]
fn a_row_that_does_not_fit_changes_no_state() {
    let config = json!({"input_dim": 3, "layers": [{"hidden_dim": 4, "memory_dim": 3, "left_order": 3, "right_order": 2}],
        "output_dim": 2, "segment_length": 2});
    let program = serde_json::from_value::<DeepFsmnConfig>(config)
        .unwrap()
        .program();
    let (encoder, _) = executors(&program, 1);
    assert_eq!(encoder.geometry().lookahead_frames, 2);
    let (mut good, mut bad) = (encoder.new_state(), encoder.new_state());
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let features = [0.5; 4 * 3];
    let mut rows = [
        StepRow {
            state: &mut good,
            features: &features,
            output: &mut first,
        },
        StepRow {
            state: &mut bad,
            features: &features[1..],
            output: &mut second,
        },
    ];
    let error = encoder.step(&mut rows).unwrap_err();
    assert!(
        matches!(
            error,
            ModelError::FeatureCount {
                row: 1,
                expected: 12,
                actual: 11
            }
        ),
        "{error}"
    );
    bad.values = vec![0.0; 1].into_boxed_slice();
    let mut rows = [
        StepRow {
            state: &mut good,
            features: &features,
            output: &mut first,
        },
        StepRow {
            state: &mut bad,
            features: &features,
            output: &mut second,
        },
    ];
    let error = encoder.step(&mut rows).unwrap_err();
    assert!(
        matches!(
            error,
            ModelError::StateSize {
                row: 1,
                actual: 1,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(good, encoder.new_state());
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    type Require<'a> = &'a mut dyn FnMut(bool, String);
    let found = |config: &dyn Fn(Require<'_>)| {
        let mut problems = Vec::new();
        config(&mut |holds, problem| {
            if !holds {
                problems.push(problem);
            }
        });
        problems
    };
    let stack: CellStackConfig = serde_json::from_value(json!({
        "memory_size": 0, "input_size": 5, "hidden_size": 0, "output_size": 4, "n_layers": 1, "cell": "cvfsmn", "d_ff": 7,
        "table": "n_plus_1",
    }))
    .unwrap();
    let problems = found(&|require| stack.problems(require));
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0].contains("encoder.hidden_size: expected at least 1"),
        "{problems:?}"
    );
    assert!(
        problems[1].contains("encoder.memory_size: expected at least 1"),
        "{problems:?}"
    );

    let deep: DeepFsmnConfig = serde_json::from_value(json!({
        "input_dim": 5, "output_dim": 2,
        "layers": [{"hidden_dim": 4, "memory_dim": 3, "left_order": 1, "skip_from": 0},
            {"hidden_dim": 4, "memory_dim": 3, "left_order": 1, "skip_from": 2}],
    }))
    .unwrap();
    let problems = found(&|require| deep.problems(require));
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0].contains("layers.0.skip_from") && problems[0].contains("found one of 5"),
        "{problems:?}"
    );
    assert!(
        problems[1].contains("layers.1.skip_from") && problems[1].contains("no earlier output"),
        "{problems:?}"
    );
}

#[test]
fn stems_that_do_not_fit_their_frames_are_refused() {
    let problems = |frames: usize, taps: usize| {
        let config: DeepFsmnConfig = serde_json::from_value(json!({
            "input_dim": 12, "layers": [{"hidden_dim": 4, "memory_dim": 3, "left_order": 1}], "output_dim": 2,
            "stem": {"frames": frames, "convolutions": [
                {"taps": 2, "stride": 2, "dim": 4}, {"taps": taps, "stride": 1, "dim": 4}]},
        }))
        .unwrap();
        let mut problems = Vec::new();
        config.problems(&mut |holds, problem| {
            if !holds {
                problems.push(problem);
            }
        });
        problems
    };
    assert_eq!(problems(6, 3), Vec::<String>::new());
    assert_eq!(
        problems(6, 4),
        ["encoder.stem.convolutions.1.taps: expected at most the 3 frames that are left, found 4"]
    );
    let not_a_divisor = problems(5, 1);
    assert_eq!(
        not_a_divisor,
        ["encoder.stem.frames: expected a divisor of input_dim (12), found 5"]
    );
    assert!(!problems(0, 1).is_empty());
}
