//! Encoders, cells and decoders against speechbrain.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use serde_json::json;
use waxwing_model::ModelError;
use waxwing_model::architecture;
use waxwing_model::config::EncoderConfig;
use waxwing_model::encode::{Encoder, Mode};
use waxwing_model::encoder::recurrent::{Cell, Hidden, RecurrentConfig, Reference, truncated_lengths};

use crate::support::{F32_TOLERANCE, Golden, Worst, config, random_weights, values};

fn sizes(config: &waxwing_model::Config) -> &RecurrentConfig {
    match &config.encoder {
        EncoderConfig::Recurrent(sizes) => sizes,
        other => panic!("{other:?}"),
    }
}

fn initial(inputs: &BTreeMap<String, Tensor>) -> Option<Hidden> {
    Some(Hidden {
        hidden: inputs.get("initial")?.clone(),
        cell: inputs.get("initial_cell").cloned(),
    })
}

#[test]
fn encoders_equal_the_original_with_its_mistakes() {
    let golden = Golden::read("speechbrain");
    let mut worst = Worst::default();
    golden.each("encoders", "recurrent", |case, config, _, expected, tolerance| {
        let dtype = expected["output"].dtype();
        let reference = Reference::new(sizes(config), &golden.weights(case, config, dtype)).unwrap();
        let inputs = golden.inputs(case);
        let relative: Option<Vec<f32>> = inputs
            .get("relative_lengths")
            .map(|relative| relative.to_vec1().unwrap());
        let (output, hidden) = reference
            .forward_as_original(
                &inputs["features"],
                relative.as_deref(),
                initial(&inputs).as_ref(),
            )
            .unwrap();
        worst.check(case, &output, &expected["output"], tolerance);
        worst.check(case, &hidden.hidden, &expected["hidden"], tolerance);
        match (&hidden.cell, expected.get("cell")) {
            (Some(cell), Some(expected)) => worst.check(case, cell, expected, tolerance),
            (found, expected) => assert_eq!(found.is_some(), expected.is_some()),
        }
    });
    worst.report("speechbrain encoders");
}

#[test]
fn the_module_takes_lengths_and_states_by_name() {
    let golden = Golden::read("speechbrain");
    golden.each(
        "encoders",
        "recurrent",
        |case, config, module, expected, tolerance| {
            if matches!(sizes(config).cell, Cell::Ligru | Cell::QuasiRnn) {
                return;
            }
            let mut inputs = golden.inputs(case);
            for (given, name) in [("initial", "hidden"), ("initial_cell", "cell")] {
                if let Some(state) = inputs.remove(given) {
                    inputs.insert(name.into(), state);
                }
            }
            let found = module.run(&inputs).unwrap();
            Worst::default().check(case, &found["output"], &expected["output"], tolerance);
            Worst::default().check(case, &found["hidden"], &expected["hidden"], tolerance);
        },
    );
}

/// What the originals return where states are wrong is no state: going on with ours equals running on.
#[test]
fn a_state_goes_on_where_it_ended() {
    for (cell, bidirectional) in [
        ("rnn", false),
        ("lstm", false),
        ("gru", false),
        ("ligru", false),
        ("quasirnn", false),
    ] {
        let json = json!({"cell": cell, "input_size": 3, "hidden_size": 4, "num_layers": 2, "bidirectional": bidirectional});
        let config = config("recurrent", &json);
        let reference = Reference::new(sizes(&config), &random_weights(&config, None, 3)).unwrap();
        let features = Tensor::randn(0f32, 1.0, (2, 9, 3), &Device::Cpu).unwrap();
        let part = |begin: usize, count: usize| features.narrow(1, begin, count).unwrap();
        let (whole, end) = reference.forward(&features, None, None).unwrap();
        let (first, middle) = reference.forward(&part(0, 5), None, None).unwrap();
        let (second, last) = reference.forward(&part(5, 4), None, Some(&middle)).unwrap();
        let joined = Tensor::cat(&[&first, &second], 1).unwrap();
        let mut worst = Worst::default();
        worst.check(cell, &joined, &whole, F32_TOLERANCE);
        worst.check(cell, &last.hidden, &end.hidden, F32_TOLERANCE);
    }
}

#[test]
fn padding_does_not_matter_in_either_direction() {
    for cell in ["rnn", "lstm", "gru", "ligru", "quasirnn"] {
        let json =
            json!({"cell": cell, "input_size": 3, "hidden_size": 4, "num_layers": 2, "bidirectional": true});
        let config = config("recurrent", &json);
        let reference = Reference::new(sizes(&config), &random_weights(&config, None, 5)).unwrap();
        let features = Tensor::randn(0f32, 1.0, (2, 9, 3), &Device::Cpu).unwrap();
        let (batched, ends) = reference.forward(&features, Some(&[9, 6]), None).unwrap();
        let short = features.narrow(0, 1, 1).unwrap().narrow(1, 0, 6).unwrap();
        let (alone, end) = reference.forward(&short, None, None).unwrap();
        let mut worst = Worst::default();
        let own = batched.narrow(0, 1, 1).unwrap();
        worst.check(cell, &own.narrow(1, 0, 6).unwrap(), &alone, F32_TOLERANCE);
        worst.check(
            cell,
            &ends.hidden.narrow(1, 1, 1).unwrap(),
            &end.hidden,
            F32_TOLERANCE,
        );
        assert!(
            values(&own.narrow(1, 6, 3).unwrap())
                .iter()
                .all(|&value| value == 0.0)
        );
    }
}

#[test]
fn relative_lengths_lose_a_frame_as_the_original_s() {
    assert_eq!(
        truncated_lengths(&[13.0 / 22.0, 1.0, 0.5], 22).unwrap(),
        [12, 22, 11]
    );
    for bad in [0.0, 0.01, 1.5, -1.0, f32::NAN, f32::INFINITY] {
        let error = truncated_lengths(&[bad], 22).unwrap_err();
        assert!(matches!(error, ModelError::Input { .. }), "{error}");
    }
}

#[test]
fn cells_equal_the_original_step_by_step() {
    let golden = Golden::read("speechbrain");
    let mut worst = Worst::default();
    golden.each(
        "cells",
        "recurrent-cells",
        |case, _, module, expected, tolerance| {
            let input = &golden.inputs(case)["input"];
            let first = BTreeMap::from([("input".to_owned(), input.get(0).unwrap())]);
            let mut between = module.run(&first).unwrap();
            between.remove("output");
            for (name, state) in &between {
                worst.check(case, state, &expected[&format!("between_{name}")], tolerance);
            }
            between.insert("input".into(), input.get(1).unwrap());
            for (name, found) in module.run(&between).unwrap() {
                worst.check(case, &found, &expected[&name], tolerance);
            }
        },
    );
    worst.report("speechbrain cells");
}

#[test]
fn the_live_executor_equals_the_original_too() {
    let golden = Golden::read("speechbrain");
    let mut worst = Worst::default();
    let mut count = 0;
    golden.each("encoders", "recurrent", |case, config, _, expected, tolerance| {
        let inputs = golden.inputs(case);
        let special = inputs.contains_key("relative_lengths") || inputs.contains_key("initial");
        if tolerance != F32_TOLERANCE || special || sizes(config).bidirectional {
            return;
        }
        let weights = golden.weights(case, config, expected["output"].dtype());
        let encoder = Encoder::new(config, &weights).unwrap();
        let (batch, frames, _) = inputs["features"].dims3().unwrap();
        let encoded = encoder
            .encode(&inputs["features"], &vec![frames; batch], Mode::Streaming)
            .unwrap();
        worst.check(case, &encoded.output, &expected["output"], tolerance);
        count += 1;
    });
    assert!(count >= 5, "{count}");
    worst.report("speechbrain encoders, live executor,");
}

#[test]
fn a_bidirectional_model_says_why_it_cannot_stream() {
    let json = json!({"cell": "gru", "input_size": 3, "hidden_size": 4, "bidirectional": true});
    let config = config("recurrent", &json);
    let weights = random_weights(&config, None, 1);
    let error = architecture::streaming_encoder(&config, &weights, &Device::Cpu)
        .err()
        .unwrap();
    let message = error.to_string();
    assert!(
        message.contains("bidirectional") && message.contains("waxwing encode"),
        "{message}"
    );
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let json = json!({"cell": "lstm", "input_size": 3, "hidden_size": 4});
    let config = config("recurrent", &json);
    let reference = Reference::new(sizes(&config), &random_weights(&config, None, 1)).unwrap();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    let hidden = |cell: Option<Tensor>| Hidden {
        hidden: zeros(&[1, 2, 4]),
        cell,
    };
    let fails = |features: &[usize], lengths: Option<&[usize]>, initial: Option<Hidden>| {
        reference
            .forward(&zeros(features), lengths, initial.as_ref())
            .unwrap_err()
            .to_string()
    };
    assert!(fails(&[2, 5, 4], None, None).starts_with("features: expected (batch, frames, 3)"));
    assert!(fails(&[2, 0, 3], None, None).starts_with("features"));
    assert!(fails(&[2, 5], None, None).starts_with("features: expected 3 dimensions"));
    assert!(fails(&[2, 5, 3], Some(&[5]), None).starts_with("lengths: expected 2 values up to 5"));
    assert!(fails(&[2, 5, 3], Some(&[6, 1]), None).starts_with("lengths"));
    assert!(fails(&[2, 5, 3], None, Some(hidden(None))).starts_with("cell"));
    assert!(fails(&[2, 5, 3], None, Some(hidden(Some(zeros(&[1, 1, 4]))))).starts_with("hidden"));
}

#[test]
fn decoders_equal_the_original() {
    let golden = Golden::read("speechbrain");
    let mut worst = Worst::default();
    golden.each(
        "decoders",
        "attentional-rnn-decoder",
        |case, _, module, expected, tolerance| {
            let found = module.run(&golden.inputs(case)).unwrap();
            for name in ["output", "attention"] {
                worst.check(case, &found[name], &expected[name], tolerance);
            }
        },
    );
    worst.report("speechbrain decoders");
}

#[test]
fn utterances_decode_together_and_apart_to_the_same() {
    for attention in ["content", "location", "keyvalue"] {
        let json = json!({"rnn_type": "gru", "attn_type": attention, "hidden_size": 5, "attn_dim": 6, "num_layers": 2,
            "enc_dim": 7, "input_size": 3, "channels": 3, "kernel_size": 2});
        let config = config("attentional-rnn-decoder", &json);
        let module = architecture::module(&config, &random_weights(&config, None, 4)).unwrap();
        let inputs = Tensor::randn(0f32, 1.0, (2, 4, 3), &Device::Cpu).unwrap();
        let encoded = Tensor::randn(0f32, 1.0, (2, 9, 7), &Device::Cpu).unwrap();
        let run = |inputs: &Tensor, encoded: &Tensor, lengths: &[i64]| {
            let lengths = Tensor::new(lengths, &Device::Cpu).unwrap();
            module.run(&BTreeMap::from([
                ("inputs".to_owned(), inputs.clone()),
                ("encoder_output".to_owned(), encoded.clone()),
                ("lengths".to_owned(), lengths),
            ]))
        };
        let both = run(&inputs, &encoded, &[9, 6]).unwrap()["output"].clone();
        let short = encoded.narrow(0, 1, 1).unwrap().narrow(1, 0, 6).unwrap();
        let alone = run(&inputs.narrow(0, 1, 1).unwrap(), &short, &[6]).unwrap()["output"].clone();
        Worst::default().check(attention, &both.narrow(0, 1, 1).unwrap(), &alone, F32_TOLERANCE);
        for (bad, expected) in [
            (
                [9, 0],
                "lengths: expected at least 1 frame of every item, found 0",
            ),
            ([10, 1], "lengths: expected 2 values from 1 to 9"),
        ] {
            let error = run(&inputs, &encoded, &bad).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        let error = Encoder::new(&config, &random_weights(&config, None, 4))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("not an encoder of features"), "{error}");
    }
}
