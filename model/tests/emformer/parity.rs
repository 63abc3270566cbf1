//! Equality with the originals: torchaudio's `Emformer` over the grid of its constructor, and the training code's
//! streaming reference of the whisper-emformer. The data is made by `tests/golden/*.py`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::support::{Session, max_difference, serialise, sizes, step};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use waxwing_model::architecture::expected_tensors;
use waxwing_model::encode::{Encoder, Mode};
use waxwing_model::encoder::emformer::{Emformer, Reference};
use waxwing_model::loader::Weights;
use waxwing_model::{Config, Model};

const F32_TOLERANCE: f64 = 1e-4;
const F64_TOLERANCE: f64 = 1e-10;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(name)
}

struct Grid {
    sizes: Value,
    cases: Vec<Value>,
    tensors: HashMap<String, Tensor>,
}

impl Grid {
    fn load() -> Self {
        let mut table: Value =
            serde_json::from_str(&std::fs::read_to_string(golden("emformer.json")).unwrap()).unwrap();
        let Value::Array(cases) = table["cases"].take() else {
            panic!("cases")
        };
        let tensors = candle_core::safetensors::load(golden("emformer.safetensors"), &Device::Cpu).unwrap();
        assert_eq!(cases.len(), 150);
        Self {
            sizes: table["sizes"].take(),
            cases,
            tensors,
        }
    }

    fn config(&self, case: &Value) -> Config {
        let mut encoder = self.sizes.clone();
        for name in [
            "left_context_length",
            "right_context_length",
            "max_memory_size",
            "tanh_on_mem",
            "activation",
            "negative_inf",
            "weight_init_scale_strategy",
        ] {
            encoder[name] = case[name].clone();
        }
        let config = json!({"format": 1, "id": "golden", "architecture": "emformer", "encoder": encoder});
        Config::from_json(&config.to_string()).unwrap()
    }

    fn weights(&self, config: &Config, dtype: DType) -> Weights {
        let tensors = self
            .tensors
            .iter()
            .filter_map(|(name, tensor)| {
                Some((
                    name.strip_prefix("weights.")?.to_owned(),
                    tensor.to_dtype(dtype).unwrap(),
                ))
            })
            .collect();
        Weights::from_safetensors(&serialise(&tensors), &expected_tensors(config, None)).unwrap()
    }

    /// `(batch, T + R, dim)` of a case.
    fn input(&self, case: &Value) -> Tensor {
        let frames = number(case, "frames") + number(case, "right_context_length");
        let input = self.tensors["input"].narrow(0, 0, number(case, "batch")).unwrap();
        input.narrow(1, 0, frames).unwrap()
    }

    fn segment(&self) -> usize {
        number(&self.sizes, "segment_length")
    }
}

fn number(value: &Value, name: &str) -> usize {
    usize::try_from(value[name].as_u64().unwrap()).unwrap()
}

fn lengths(case: &Value) -> Vec<usize> {
    case["lengths"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| usize::try_from(v.as_u64().unwrap()).unwrap())
        .collect()
}

fn deviation(actual: &Tensor, expected: &Tensor, what: &str) -> f64 {
    assert_eq!(
        (actual.dtype(), actual.dims()),
        (expected.dtype(), expected.dims()),
        "{what}"
    );
    let values = |tensor: &Tensor| -> Vec<f64> {
        tensor
            .to_dtype(DType::F64)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()
    };
    let difference = values(actual)
        .into_iter()
        .zip(values(expected))
        .map(|(a, e)| (a - e).abs());
    difference.fold(0.0, |most, d| if d <= most { most } else { d })
}

/// `rows` frames from `begin`, filled up with zeros.
fn frames(input: &Tensor, begin: usize, rows: usize) -> Tensor {
    let available = rows.min(input.dim(1).unwrap() - begin);
    input
        .narrow(1, begin, available)
        .unwrap()
        .pad_with_zeros(1, 0, rows - available)
        .unwrap()
}

fn check_reference(dtype: DType, kind: &str, tolerance: f64) {
    let grid = Grid::load();
    let (mut greatest, mut compared) = (0f64, 0);
    for (index, case) in grid.cases.iter().enumerate() {
        let config = grid.config(case);
        let reference = Reference::new(sizes(&config), &grid.weights(&config, dtype), &Device::Cpu).unwrap();
        let input = grid.input(case).to_dtype(dtype).unwrap();
        let mut check = |name: &str, actual: &Tensor| {
            let what = format!("case {index}, {kind} {name}: {case}");
            let deviation = deviation(actual, &grid.tensors[&format!("{index}.{kind}.{name}")], &what);
            assert!(deviation <= tolerance, "{deviation} {what}");
            greatest = greatest.max(deviation);
            compared += 1;
        };
        check("forward", &reference.forward(&input, &lengths(case)).unwrap());

        let (segment, right) = (grid.segment(), number(case, "right_context_length"));
        let (mut states, mut outputs) = (Vec::new(), Vec::new());
        for begin in (0..number(case, "frames")).step_by(segment) {
            let real: Vec<usize> = lengths(case)
                .iter()
                .map(|length| {
                    let ragged = case["ragged"].as_bool().unwrap();
                    right
                        + if ragged {
                            length.saturating_sub(begin).min(segment)
                        } else {
                            segment
                        }
                })
                .collect();
            let window = frames(&input, begin, segment + right);
            outputs.push(reference.infer(&window, &real, &mut states).unwrap().0);
        }
        check("infer", &Tensor::cat(&outputs, 1).unwrap());
        for (layer, state) in states.iter().enumerate() {
            for (name, tensor) in [
                ("memory", &state.memory),
                ("key", &state.key),
                ("value", &state.value),
            ] {
                let name = format!("state.{layer}.{name}");
                let is_expected = grid.tensors.contains_key(&format!("{index}.{kind}.{name}"));
                assert_eq!(tensor.is_some(), is_expected, "case {index}, {name}");
                tensor.iter().for_each(|tensor| check(&name, tensor));
            }
        }
    }
    assert!(compared > 900, "only {compared} tensors were compared");
    println!("{kind}: {compared} tensors, greatest deviation {greatest:.2e}");
}

#[test]
fn the_reference_equals_torchaudio_in_f32() {
    check_reference(DType::F32, "f32", F32_TOLERANCE);
}

#[test]
fn the_reference_equals_torchaudio_in_f64() {
    check_reference(DType::F64, "f64", F64_TOLERANCE);
}

/// The last `valid` rows written to a ring of `capacity` rows after `written` of them, oldest first.
fn ring_tail(ring: &[f32], dim: usize, capacity: usize, written: usize) -> Vec<f32> {
    (written.saturating_sub(capacity)..written)
        .flat_map(|row| ring[row % capacity * dim..][..dim].to_vec())
        .collect()
}

#[test]
fn the_served_emformer_equals_torchaudio_with_its_states() {
    let grid = Grid::load();
    let (segment, dim) = (grid.segment(), number(&grid.sizes, "input_dim"));
    let (mut greatest, mut compared) = (0f32, 0);
    for (index, case) in grid
        .cases
        .iter()
        .enumerate()
        .filter(|(_, case)| case["ragged"] == false)
    {
        let config = grid.config(case);
        let encoder = Emformer::new(sizes(&config), &grid.weights(&config, DType::F32)).unwrap();
        let right = number(case, "right_context_length");
        let steps = number(case, "frames").div_ceil(segment);
        let padded = frames(&grid.input(case), 0, steps * segment + right);
        let features: Vec<Vec<f32>> = padded.flatten_from(1).unwrap().to_vec2().unwrap();
        let mut sessions: Vec<Session<'_>> = features
            .iter()
            .map(|features| Session::new(&encoder, features))
            .collect();
        for _ in 0..steps {
            step(&encoder, &mut sessions.iter_mut().collect::<Vec<_>>());
        }
        let expected = |name: &str, item: usize| -> Option<Vec<f32>> {
            let tensor = grid.tensors.get(&format!("{index}.f32.{name}"))?;
            Some(
                tensor
                    .get(item)
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .to_vec1()
                    .unwrap(),
            )
        };
        for (item, session) in sessions.iter().enumerate() {
            let mut check = |name: &str, actual: &[f32]| {
                let deviation = max_difference(actual, &expected(name, item).unwrap_or_default());
                assert!(
                    f64::from(deviation) <= F32_TOLERANCE,
                    "{deviation} case {index}, {name}: {case}"
                );
                greatest = greatest.max(deviation);
                compared += 1;
            };
            check("infer", &session.heard);
            let (left, memory) = (
                number(case, "left_context_length"),
                number(case, "max_memory_size"),
            );
            let mut state = &session.state.values[right * dim..];
            for layer in 0..number(&grid.sizes, "num_layers") {
                for (name, capacity, written) in [
                    ("key", left, steps * segment),
                    ("value", left, steps * segment),
                    ("memory", memory, steps),
                ] {
                    let (ring, rest) = state.split_at(capacity * dim);
                    state = rest;
                    check(
                        &format!("state.{layer}.{name}"),
                        &ring_tail(ring, dim, capacity, written),
                    );
                }
            }
        }
    }
    assert!(compared > 1000, "only {compared} tensors were compared");
    println!("served f32: {compared} tensors, greatest deviation {greatest:.2e}");
}

/// `(log-probs of the reference program, features)`.
fn whisper_data() -> (Tensor, Tensor) {
    let tensors =
        candle_core::safetensors::load(golden("whisper_emformer.safetensors"), &Device::Cpu).unwrap();
    (tensors["log_probs"].clone(), tensors["features"].clone())
}

#[test]
fn the_whisper_emformer_equals_the_training_codes_reference() {
    let (expected, features) = whisper_data();
    let encoder = Encoder::load(&golden("whisper_emformer")).unwrap();
    let length = features.dim(1).unwrap() - encoder.geometry().lookahead_frames;
    for mode in [Mode::Whole, Mode::Streaming] {
        let encoded = encoder.encode(&features, &[length], mode).unwrap();
        assert_eq!(encoded.lengths, [expected.dim(1).unwrap()]);
        let deviation = deviation(&encoded.log_probs.unwrap(), &expected, "log_probs");
        println!("whisper-emformer, {mode:?}: {deviation:.2e}");
        assert!(deviation <= F32_TOLERANCE, "{deviation} {mode:?}");
    }
}

#[test]
fn a_loaded_model_steps_to_the_same_log_probs() {
    let (expected, features) = whisper_data();
    let model = Model::load(&golden("whisper_emformer")).unwrap();
    assert_eq!(
        (model.id(), model.tokens().len(), model.geometry().output_dim),
        ("tiny", 7, 7)
    );
    assert_eq!(model.latency().segment.as_millis(), 80);
    assert_eq!(model.latency().right_context.as_millis(), 70);
    assert!((model.output_frame_seconds() - 0.02).abs() < 1e-12);
    let mut features = features.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (mut state, mut output, mut heard) = (model.new_state(), Vec::new(), Vec::new());
    while !features.is_empty() {
        let needed = model.geometry().frames_needed(state.steps) * model.geometry().num_features;
        let rest = features.split_off(needed);
        let row = waxwing_model::encoder::StepRow {
            state: &mut state,
            features: &features,
            output: &mut output,
        };
        model.step(&mut [row]).unwrap();
        heard.extend_from_slice(&output);
        features = rest;
    }
    assert!(max_difference(&heard, &expected.flatten_all().unwrap().to_vec1().unwrap()) <= 1e-4);
}
