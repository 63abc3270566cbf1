//! Equality with the originals: d5555's cells and stack, FunASR's encoder, the papers' formulas. The data is made by
//! `tests/golden/fsmn.py`.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use waxwing_model::encoder::StreamingEncoder;
use waxwing_model::encoder::fsmn::{
    CellStackConfig, DeepFsmnConfig, Fsmn, FunasrFsmnConfig, Program, Reference, TableRows,
};

use crate::support::{alone, deviation, exact, golden, weights, widen};

const F32_TOLERANCE: f64 = 1e-5;
const F64_TOLERANCE: f64 = 1e-10;

struct Case {
    architecture: String,
    encoder: Value,
    runs: Vec<Value>,
    /// Names without the case's number.
    tensors: HashMap<String, Tensor>,
}

impl Case {
    fn all() -> Vec<Self> {
        let table: Vec<Value> =
            serde_json::from_str(&std::fs::read_to_string(golden("fsmn.json")).unwrap()).unwrap();
        let mut tensors: Vec<HashMap<String, Tensor>> = vec![HashMap::new(); table.len()];
        for (name, tensor) in
            candle_core::safetensors::load(golden("fsmn.safetensors"), &Device::Cpu).unwrap()
        {
            let (index, name) = name.split_once('.').unwrap();
            tensors[index.parse::<usize>().unwrap()].insert(name.to_owned(), tensor);
        }
        table
            .into_iter()
            .zip(tensors)
            .map(|(case, tensors)| Self {
                architecture: case["architecture"].as_str().unwrap().to_owned(),
                encoder: case["encoder"].clone(),
                runs: case["runs"].as_array().unwrap().clone(),
                tensors,
            })
            .collect()
    }

    /// The network with a run's settings and any segment.
    fn program(&self, run: &Value, segment: usize) -> Program {
        let mut encoder = self.encoder.clone();
        encoder["segment_length"] = segment.into();
        if let Some(bidirectional) = run.get("bidirectional") {
            encoder["bidirectional"] = bidirectional.clone();
        }
        let mut problems = Vec::new();
        let mut require = |holds: bool, problem: String| {
            if !holds {
                problems.push(problem);
            }
        };
        let program = match self.architecture.as_str() {
            "fsmn" => {
                let config: CellStackConfig = serde_json::from_value(encoder).unwrap();
                config.problems(&mut require);
                config.program()
            }
            "funasr-fsmn" => {
                let config: FunasrFsmnConfig = serde_json::from_value(encoder).unwrap();
                config.problems(&mut require);
                config.program()
            }
            _ => {
                let config: DeepFsmnConfig = serde_json::from_value(encoder).unwrap();
                config.problems(&mut require);
                config.program()
            }
        };
        assert_eq!(problems, Vec::<String>::new());
        program
    }

    fn weights(&self, program: &Program, dtype: DType) -> waxwing_model::loader::Weights {
        let tensors = self
            .tensors
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix("weights.")?.to_owned(), tensor.clone())));
        weights(tensors, dtype, &program.expected_tensors())
    }

    fn is_masked(run: &Value) -> bool {
        run.get("masked").and_then(Value::as_bool).unwrap_or(false)
    }
}

#[test]
fn the_reference_equals_the_originals() {
    let mut greatest: HashMap<(String, &str), f64> = HashMap::new();
    let mut compared = 0;
    for (index, case) in Case::all().iter().enumerate() {
        for (number, run) in case.runs.iter().enumerate() {
            let program = case.program(run, 1);
            for (kind, dtype) in [("f32", DType::F32), ("f64", DType::F64)] {
                let reference =
                    Reference::new(&program, &case.weights(&program, dtype), &Device::Cpu).unwrap();
                let mask = Case::is_masked(run).then(|| &case.tensors["mask"]);
                let result = reference.run(&case.tensors["input"], mask).unwrap();
                let tensor = |name: &str| case.tensors.get(&format!("{number}.{kind}.{name}"));
                let mut pairs = vec![(&result.output, &case.tensors[&format!("{number}.{kind}.output")])];
                pairs.extend(tensor("cell").map(|cell| (&result.inner["cells.0"], cell)));
                pairs.extend(tensor("chunked").map(|chunked| (&result.output, chunked)));
                for (actual, expected) in pairs {
                    assert_eq!((actual.dtype(), actual.dims()), (dtype, expected.dims()));
                    let found = deviation(&exact(actual), &exact(expected));
                    let tolerance = if dtype == DType::F32 {
                        F32_TOLERANCE
                    } else {
                        F64_TOLERANCE
                    };
                    assert!(found <= tolerance, "model {index}, run {run}, {kind}: {found:e}");
                    let most = greatest.entry((case.architecture.clone(), kind)).or_default();
                    *most = most.max(found);
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, 2 * (2 * 38 * 4 + 6 + 2 + 7));
    println!("greatest deviations: {greatest:?}");
}

#[test]
fn streaming_equals_the_originals() {
    let mut compared = 0;
    for (index, case) in Case::all().iter().enumerate() {
        let input = &case.tensors["input"];
        let (batch, frames, width) = input.dims3().unwrap();
        for (number, run) in case
            .runs
            .iter()
            .enumerate()
            .filter(|(_, run)| !Case::is_masked(run))
        {
            for segment in 1..=4 {
                let program = case.program(run, segment);
                let encoder = Fsmn::new(&program, &case.weights(&program, DType::F32)).unwrap();
                let geometry = encoder.geometry().clone();
                // The original ends with the input; past `known` frames its memories saw zeros where a stream goes on.
                let known = frames.saturating_sub(geometry.lookahead_frames);
                let num_steps = known.div_ceil(segment);
                let expected = &case.tensors[&format!("{number}.f32.output")];
                for item in 0..batch {
                    let mut features: Vec<f32> =
                        input.get(item).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                    features.resize((num_steps * segment + geometry.lookahead_frames) * width, 0.0);
                    let heard = widen(&alone(&encoder, &features, num_steps));
                    let count = known * geometry.output_dim;
                    let expected = exact(&expected.get(item).unwrap());
                    let found = deviation(&heard[..count], &expected[..count]);
                    assert!(
                        found <= F32_TOLERANCE,
                        "model {index}, run {run}, segment {segment}: {found:e}"
                    );
                    compared += count;
                }
            }
        }
    }
    assert!(compared > 10_000, "{compared}");
}

#[test]
fn rows_that_the_original_overwrites_do_not_matter() {
    for case in Case::all() {
        let Some(table) = case.tensors.get("weights.fsmn_layers.0.embeddings_table") else {
            continue;
        };
        let config: CellStackConfig = serde_json::from_value(case.encoder.clone()).unwrap();
        let program = case.program(&case.runs[0], 1);
        let mut rows: Vec<Vec<f32>> = table.to_vec2().unwrap();
        rows[0].fill(7.0);
        if rows.len() == config.memory_size + 2 {
            rows.last_mut().unwrap().fill(-3.0);
        }
        let spoilt = Tensor::new(rows, &Device::Cpu).unwrap();
        let run = |table: &Tensor| {
            let tensors = case.tensors.iter().filter_map(|(name, tensor)| {
                let name = name.strip_prefix("weights.")?;
                let tensor = if name == "fsmn_layers.0.embeddings_table" {
                    table
                } else {
                    tensor
                };
                Some((name.to_owned(), tensor.clone()))
            });
            let weights = weights(tensors, DType::F32, &program.expected_tensors());
            let reference = Reference::new(&program, &weights, &Device::Cpu).unwrap();
            exact(&reference.run(&case.tensors["input"], None).unwrap().output)
        };
        assert_eq!(run(table), run(&spoilt));
    }
}

#[test]
fn a_table_is_known_by_its_rows() {
    let config: CellStackConfig = serde_json::from_value(Case::all()[0].encoder.clone()).unwrap();
    let config = CellStackConfig {
        memory_size: 3,
        ..config
    };
    assert_eq!(config.table_of_rows(5), Some(TableRows::NPlus2));
    assert_eq!(config.table_of_rows(4), Some(TableRows::NPlus1));
    assert_eq!(config.table_of_rows(3), None);
    assert_eq!(config.table_of_rows(2), None);
}
