//! The networks with their states, as `run`, `encode` and the server compute them.

use candle_core::{DType, Tensor};
use std::collections::BTreeMap;
use waxwing_model::ModelError;
use waxwing_model::architecture::module;
use waxwing_model::encode::{Encoder, Mode};

use crate::support::{F32_TOLERANCE, F64_TOLERANCE, Golden, deviation, expect, inputs, numbers, sizes};

/// Every network with its states through what `run` runs.
fn check_networks(dtype: DType, kind: &str, tolerance: f64) {
    let golden = Golden::load();
    let (mut greatest, mut compared) = (0f64, 0);
    for (index, variant) in golden.variants() {
        let config = golden.config(variant, 3);
        let sizes = sizes(&config);
        let module = module(&config, &golden.weights(index, &config, dtype)).unwrap();
        let mut check = |name: &str, actual: &Tensor| {
            let what = format!("variant {index}, {kind} {name}");
            let deviation = deviation(actual, &golden.tensor(&format!("{index}.{kind}.{name}")), &what);
            assert!(deviation <= tolerance, "{deviation} {what}");
            greatest = greatest.max(deviation);
            compared += 1;
        };
        let source = golden.tensor(&format!("{index}.source"));
        let frames = (source.dim(1).unwrap() - sizes.right_context_length) as i64;
        let ragged = variant["ragged"].as_i64().unwrap();
        let out = module
            .run(&inputs(&[
                ("features", source.clone()),
                ("lengths", numbers(&[frames, frames - ragged])),
            ]))
            .unwrap();
        check("transcribe", &out["output"]);
        check("transcribe.lengths", &out["lengths"]);
        let encoded = out["output"].clone();

        let window = sizes.segment_length + sizes.right_context_length;
        let (mut states, mut pieces) = (BTreeMap::new(), Vec::new());
        let last = frames as usize - sizes.segment_length;
        for begin in (0..=last).step_by(sizes.segment_length) {
            states.insert("window".into(), source.narrow(1, begin, window).unwrap());
            states.insert("lengths".into(), numbers(&[window as i64; 2]));
            states = module.run(&states).unwrap();
            pieces.push(states.remove("output").unwrap());
        }
        check("stream", &Tensor::cat(&pieces, 1).unwrap());
        for (name, tensor) in &states {
            if name.starts_with("state.") {
                check(&format!("stream.{name}"), tensor);
            }
        }
        let expected = golden.tensors.keys();
        let expected = expected
            .filter(|name| name.starts_with(&format!("{index}.{kind}.stream.state")))
            .count();
        assert_eq!(
            states.keys().filter(|name| name.starts_with("state.")).count(),
            expected
        );

        let tokens = golden.tensor(&format!("{index}.tokens"));
        let first = module
            .run(&inputs(&[("tokens", tokens.narrow(1, 0, 3).unwrap())]))
            .unwrap();
        let mut second = first.clone();
        second.insert("tokens".into(), tokens.narrow(1, 3, 2).unwrap());
        let second = module.run(&second).unwrap();
        let predicted = Tensor::cat(&[&first["output"], &second["output"]], 1).unwrap();
        check("predict", &predicted);
        for (name, tensor) in second.iter().filter(|(name, _)| name.starts_with("state.")) {
            check(&format!("predict.{name}"), tensor);
        }
        let out = module
            .run(&inputs(&[("source", encoded), ("target", predicted)]))
            .unwrap();
        check("join", &out["logits"]);
    }
    assert!(compared > 45, "only {compared} tensors were compared");
    println!("RNN-T networks, {kind}: {compared} tensors, greatest deviation {greatest:.2e}");
}

#[test]
fn the_networks_equal_torchaudio_in_f32() {
    check_networks(DType::F32, "f32", F32_TOLERANCE);
}

#[test]
fn the_networks_equal_torchaudio_in_f64() {
    check_networks(DType::F64, "f64", F64_TOLERANCE);
}

#[test]
fn the_served_transcriber_equals_torchaudio_and_encode() {
    let golden = Golden::load();
    let mut greatest = 0f64;
    for (index, variant) in golden.variants() {
        let config = golden.config(variant, 3);
        let weights = golden.weights(index, &config, DType::F32);
        let expected = golden.tensor(&format!("{index}.f32.stream"));
        let encoder = Encoder::new(&config, &weights).unwrap();
        let source = golden.tensor(&format!("{index}.source"));
        let frames = expected.dim(1).unwrap() * 4;
        let source = source
            .narrow(1, 0, frames + sizes(&config).right_context_length)
            .unwrap();
        for mode in [Mode::Whole, Mode::Streaming] {
            let encoded = encoder.encode(&source, &[frames, frames], mode).unwrap();
            assert_eq!(encoded.lengths, [frames / 4; 2]);
            let what = format!("variant {index}, {mode:?}");
            let deviation = deviation(&encoded.output, &expected, &what);
            assert!(deviation <= F32_TOLERANCE, "{deviation} {what}");
            greatest = greatest.max(deviation);
        }
    }
    println!("RNN-T transcriber, served and whole: greatest deviation {greatest:.2e}");
}

#[test]
fn wrong_inputs_are_named() {
    let golden = Golden::load();
    let (index, variant) = golden.variants().next().unwrap();
    let config = golden.config(variant, 3);
    let module = module(&config, &golden.weights(index, &config, DType::F32)).unwrap();
    let source = golden.tensor("0.source");
    for (tensors, parts) in [
        (
            inputs(&[("features", source.clone())]),
            &["lengths: expected a tensor of that name, found features"][..],
        ),
        (
            inputs(&[("tokens", numbers(&[11]).unsqueeze(0).unwrap())]),
            &["tokens: expected classes below 11, found 11"],
        ),
        (
            inputs(&[
                ("features", source.narrow(2, 0, 7).unwrap()),
                ("lengths", numbers(&[4, 4])),
            ]),
            &["features: expected frames of 8 values, found 7"],
        ),
        (
            inputs(&[("features", source.clone()), ("lengths", numbers(&[1000, 4]))]),
            &["lengths: expected at most 24, found 250"],
        ),
        (
            inputs(&[("features", source), ("beam", numbers(&[11]))]),
            &["beam: expected 1 to 10, found 11"],
        ),
    ] {
        let error = module.run(&tensors).unwrap_err();
        assert!(matches!(error, ModelError::Input { .. }), "{error}");
        expect(&error.to_string(), parts);
    }
}
