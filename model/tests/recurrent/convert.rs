//! Checkpoints of the originals become model directories that run to the originals' results.

use std::collections::HashMap;

use candle_core::{DType, Tensor};
use serde_json::{Map, Value};
use waxwing_model::config::Config;
use waxwing_model::convert::{KINDS, Options, convert_file};
use waxwing_model::{ModelError, module};

use crate::support::{F32_TOLERANCE, Golden, Scratch, Worst, config};

fn convert(
    kind: &str,
    tensors: HashMap<String, Tensor>,
    set: Map<String, Value>,
    scratch: &Scratch,
    case: &str,
) -> Result<Config, ModelError> {
    let checkpoint = scratch.0.join(format!("{case}.safetensors"));
    candle_core::safetensors::save(&tensors, &checkpoint).unwrap();
    let kind = KINDS.iter().find(|candidate| candidate.name == kind).unwrap();
    let options = Options {
        set,
        id: Some("golden".into()),
        ..Options::default()
    };
    convert_file(kind, &checkpoint, &options, &scratch.0.join(case))
}

/// What shapes do not tell.
fn settings(encoder: &Value) -> Map<String, Value> {
    const UNTOLD: [&str; 9] = [
        "nonlinearity",
        "output_gate",
        "zoneout",
        "segment_length",
        "scaling",
        "segment_size",
        "norm_type",
        "seg_overlap",
        "normalization",
    ];
    let mut set = encoder.as_object().unwrap().clone();
    let silent_direction = matches!(
        set.get("cell").and_then(Value::as_str),
        Some("ligru" | "quasirnn")
    );
    let memory = set.get("mem_type").and_then(Value::as_str);
    let silent_memory = matches!(memory, None | Some("id")) || set.get("num_blocks") == Some(&1.into());
    set.retain(|name, _| {
        UNTOLD.contains(&name.as_str())
            || (name == "bidirectional" && silent_direction)
            || (name == "mem_type" && silent_memory)
    });
    set
}

#[test]
fn every_golden_model_converts_to_its_configuration_and_results() {
    let scratch = Scratch::new("all");
    let mut count = 0;
    for (golden, list, kind) in [
        ("speechbrain", "encoders", "recurrent"),
        ("speechbrain", "cells", "recurrent-cells"),
        ("speechbrain", "decoders", "attentional-rnn-decoder"),
        ("skim", "skim", "skim"),
    ] {
        let golden = Golden::read(golden);
        for row in golden.table[list].as_array().unwrap() {
            let case = row["case"].as_str().unwrap();
            let mut tensors: HashMap<String, Tensor> =
                golden.below(&format!("{case}.weights")).into_iter().collect();
            if list == "encoders" && tensors.contains_key("rnn.0.u.weight") {
                // What LiGRU's state_dict holds besides weights.
                let buffer = tensors["rnn.0.norm.bias"].clone();
                tensors.insert("rnn.0.h_init".into(), buffer.clone());
                tensors.insert("rnn.0.drop_masks".into(), buffer);
            }
            let found = convert(kind, tensors, settings(&row["config"]), &scratch, case).unwrap();
            assert_eq!(found.encoder, config(kind, &row["config"]).encoder, "{case}");
            let loaded = module::load(&scratch.0.join(case)).unwrap();
            let expected = golden.below(&format!("{case}.f32"));
            if list == "decoders" {
                let found = loaded.run(&golden.inputs(case)).unwrap();
                Worst::default().check(case, &found["output"], &expected["output"], F32_TOLERANCE);
            }
            if list == "skim" {
                let mut inputs = golden.inputs(case);
                let (batch, frames, _) = inputs["features"].dims3().unwrap();
                let device = candle_core::Device::Cpu;
                let lengths = Tensor::new(vec![frames as i64; batch], &device).unwrap();
                inputs.insert("lengths".into(), lengths);
                let found = loaded.run(&inputs).unwrap();
                Worst::default().check(case, &found["output"], &expected["output"], F32_TOLERANCE);
            }
            count += 1;
        }
    }
    assert!(count > 80, "{count}");
}

#[test]
fn what_does_not_fit_is_named() {
    let scratch = Scratch::new("bad");
    let golden = Golden::read("speechbrain");
    let row = &golden.table["encoders"][0];
    let tensors = || -> HashMap<String, Tensor> { golden.below("encoder0.weights").into_iter().collect() };
    let set = || settings(&row["config"]);
    let fails = |kind: &str, tensors: HashMap<String, Tensor>, case: &str| {
        convert(kind, tensors, set(), &scratch, case)
            .unwrap_err()
            .to_string()
    };
    let other = fails("skim", tensors(), "other");
    assert!(other.contains("this looks like `recurrent`"), "{other}");
    let mut missing = tensors();
    missing.remove("rnn.bias_hh_l0");
    let missing = fails("recurrent", missing, "missing");
    assert!(missing.contains("rnn.bias_hh_l0: missing"), "{missing}");
    let mut extra = tensors();
    extra.insert("rnn.bias_hh_l7".into(), extra["rnn.bias_hh_l0"].clone());
    let extra = fails("recurrent", extra, "extra");
    assert!(extra.contains("rnn.bias_hh_l7"), "{extra}");
    let mut infinite = tensors();
    let nan = (infinite["rnn.bias_hh_l0"].zeros_like().unwrap() * f64::NAN).unwrap();
    infinite.insert("rnn.bias_hh_l0".into(), nan.to_dtype(DType::F32).unwrap());
    let infinite = fails("recurrent", infinite, "infinite");
    assert!(
        infinite.contains("rnn.bias_hh_l0: expected finite values"),
        "{infinite}"
    );
    let skim = Golden::read("skim");
    let silent = skim.table["skim"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["config"]["mem_type"] == "id" && row["config"]["num_blocks"] != 1)
        .unwrap();
    let tensors = skim.below(&format!("{}.weights", silent["case"].as_str().unwrap()));
    let silent = fails("skim", tensors.into_iter().collect(), "silent");
    assert!(silent.contains("--set mem_type=id"), "{silent}");
}
