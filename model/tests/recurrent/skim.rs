//! SkiM and its parts against espnet.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use serde_json::json;
use waxwing_model::architecture;
use waxwing_model::config::EncoderConfig;
use waxwing_model::encode::{Encoder, Mode};
use waxwing_model::encoder::skim::{Reference, SkimConfig};

use crate::support::{F32_TOLERANCE, Golden, Worst, config, random_weights};

fn sizes(config: &waxwing_model::Config) -> &SkimConfig {
    match &config.encoder {
        EncoderConfig::Skim(sizes) => sizes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_variant_equals_the_original() {
    let golden = Golden::read("skim");
    let mut worst = Worst::default();
    let mut streamed = 0;
    golden.each("skim", "skim", |case, config, _, expected, tolerance| {
        let weights = golden.weights(case, config, expected["output"].dtype());
        let features = &golden.inputs(case)["features"];
        let output = Reference::new(sizes(config), &weights)
            .unwrap()
            .forward(features)
            .unwrap();
        worst.check(case, &output, &expected["output"], tolerance);
        if let Some(stream) = expected.get("stream") {
            worst.check(case, &output, stream, tolerance);
            streamed += 1;
        }
    });
    assert!(streamed >= 24, "{streamed}");
    worst.report("skim");
}

/// The executor that is served, at steps that divide segments and at steps that do not.
#[test]
fn the_live_executor_equals_the_original_too() {
    let golden = Golden::read("skim");
    let mut worst = Worst::default();
    golden.each("skim", "skim", |case, config, _, expected, tolerance| {
        let Some(stream) = expected.get("stream").filter(|_| tolerance == F32_TOLERANCE) else {
            return;
        };
        let weights = golden.weights(case, config, stream.dtype());
        let features = &golden.inputs(case)["features"];
        let (batch, frames, _) = features.dims3().unwrap();
        for step_length in [1, 4, 6, 15] {
            let mut config = config.clone();
            if let EncoderConfig::Skim(sizes) = &mut config.encoder {
                sizes.step_length = Some(step_length);
            }
            let encoder = Encoder::new(&config, &weights).unwrap();
            let encoded = encoder
                .encode(features, &vec![frames; batch], Mode::Streaming)
                .unwrap();
            worst.check(case, &encoded.output, stream, tolerance);
        }
    });
    worst.report("skim, live executor,");
}

#[test]
fn memories_equal_the_original_in_rows_and_in_steps() {
    let golden = Golden::read("skim");
    let mut worst = Worst::default();
    golden.each(
        "memory",
        "skim-mem-lstm",
        |case, _, module, expected, tolerance| {
            let mut inputs = golden.inputs(case);
            inputs.insert("segments".into(), Tensor::new(&[4i64], &Device::Cpu).unwrap());
            for (name, found) in module.run(&inputs).unwrap() {
                worst.check(case, &found, &expected[&name], tolerance);
            }
            inputs.remove("segments");
            if !expected.contains_key("step0_hidden") {
                let error = module.run(&inputs).unwrap_err().to_string();
                assert!(error.contains("bidirectional"), "{error}");
                return;
            }
            let mut state = BTreeMap::new();
            for step in 0..2 {
                let mut given: BTreeMap<String, Tensor> = inputs
                    .iter()
                    .map(|(name, tensor)| (name.clone(), tensor.narrow(1, step * 2, 2).unwrap()))
                    .collect();
                given.append(&mut state);
                for (name, found) in module.run(&given).unwrap() {
                    if name == "hidden" || name == "cell" {
                        worst.check(case, &found, &expected[&format!("step{step}_{name}")], tolerance);
                    } else {
                        state.insert(name, found);
                    }
                }
            }
            for (name, found) in &state {
                worst.check(case, found, &expected[name], tolerance);
            }
        },
    );
    worst.report("skim memories");
}

#[test]
fn segments_equal_the_original() {
    let golden = Golden::read("skim");
    let mut worst = Worst::default();
    golden.each(
        "segment",
        "skim-seg-lstm",
        |case, _, module, expected, tolerance| {
            let mut inputs = golden.inputs(case);
            for (name, found) in module.run(&inputs).unwrap() {
                worst.check(case, &found, &expected[&name], tolerance);
            }
            inputs.retain(|name, _| name == "features");
            worst.check(
                case,
                &module.run(&inputs).unwrap()["output"],
                &expected["fresh"],
                tolerance,
            );
        },
    );
    worst.report("skim segments");
}

#[test]
fn unequal_lengths_do_not_touch_one_another() {
    let json = json!({"input_size": 3, "hidden_size": 4, "output_size": 2, "segment_size": 5});
    let config = config("skim", &json);
    let weights = random_weights(&config, None, 2);
    let encoder = Encoder::new(&config, &weights).unwrap();
    let features = Tensor::randn(0f32, 1.0, (2, 13, 3), &Device::Cpu).unwrap();
    let both = encoder.encode(&features, &[13, 10], Mode::Whole).unwrap().output;
    let short = features.narrow(0, 1, 1).unwrap().narrow(1, 0, 10).unwrap();
    let alone = encoder.encode(&short, &[10], Mode::Whole).unwrap().output;
    let own = both.narrow(0, 1, 1).unwrap().narrow(1, 0, 10).unwrap();
    Worst::default().check("short", &own, &alone, F32_TOLERANCE);
}

#[test]
fn what_is_not_causal_says_why_it_cannot_stream() {
    for (change, reason) in [
        (json!({"bidirectional": true}), "bidirectional"),
        (json!({"norm_type": "gLN"}), "cLN would not"),
        (json!({"seg_overlap": true}), "overlap"),
        (json!({"mem_type": null}), "MemLSTM"),
    ] {
        let mut json = json!({"input_size": 3, "hidden_size": 4, "output_size": 2, "bidirectional": false, "norm_type": "cLN"});
        for (name, value) in change.as_object().unwrap() {
            json[name] = value.clone();
        }
        let config = config("skim", &json);
        let weights = random_weights(&config, None, 1);
        let error = architecture::streaming_encoder(&config, &weights, &Device::Cpu)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains(reason) && error.contains("cannot be served live"),
            "{error}"
        );
    }
}
