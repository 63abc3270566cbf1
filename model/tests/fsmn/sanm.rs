//! SAN-M encoders: equality with FunASR's (`tests/golden/sanm.py`), and the promises of the served one.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use serde_json::{Value, json};
use waxwing_model::encoder::sanm::{Reference, Sanm, SanmConfig};
use waxwing_model::encoder::{OfflineEncoder, StreamingEncoder};
use waxwing_model::loader::Weights;

use crate::support::{
    Random, Session, alone, deviation, exact, features_for, golden, random_weights, step, weights, widen,
};

const F32_TOLERANCE: f64 = 1e-4;
const F64_TOLERANCE: f64 = 1e-10;

struct Case {
    config: SanmConfig,
    lengths: Vec<usize>,
    tensors: HashMap<String, Tensor>,
}

impl Case {
    fn all() -> Vec<Self> {
        let table: Vec<Value> =
            serde_json::from_str(&std::fs::read_to_string(golden("sanm.json")).unwrap()).unwrap();
        let mut tensors: Vec<HashMap<String, Tensor>> = vec![HashMap::new(); table.len()];
        for (name, tensor) in
            candle_core::safetensors::load(golden("sanm.safetensors"), &Device::Cpu).unwrap()
        {
            let (index, name) = name.split_once('.').unwrap();
            tensors[index.parse::<usize>().unwrap()].insert(name.to_owned(), tensor);
        }
        let case = |(case, tensors): (Value, _)| Self {
            config: config(case["encoder"].clone()),
            lengths: serde_json::from_value(case["lengths"].clone()).unwrap(),
            tensors,
        };
        table.into_iter().zip(tensors).map(case).collect()
    }

    fn weights(&self, dtype: DType) -> Weights {
        let tensors = self
            .tensors
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix("weights.")?.to_owned(), tensor.clone())));
        weights(tensors, dtype, &self.config.expected_tensors())
    }
}

fn config(encoder: Value) -> SanmConfig {
    let config: SanmConfig = serde_json::from_value(encoder).unwrap();
    config.problems(&mut |holds, problem| assert!(holds, "{problem}"));
    config
}

#[test]
fn the_reference_equals_the_originals() {
    let mut greatest = HashMap::<&str, f64>::new();
    let cases = Case::all();
    for (index, case) in cases.iter().enumerate() {
        for (kind, dtype, tolerance) in [
            ("f32", DType::F32, F32_TOLERANCE),
            ("f64", DType::F64, F64_TOLERANCE),
        ] {
            let reference = Reference::new(&case.config, &case.weights(dtype), &Device::Cpu).unwrap();
            let output = reference.run(&case.tensors["input"], &case.lengths).unwrap();
            let expected = &case.tensors[kind];
            assert_eq!(
                (output.dtype(), output.dims()),
                (dtype, expected.dims()),
                "case {index}"
            );
            let found = deviation(&exact(&output), &exact(expected));
            assert!(found <= tolerance, "case {index}, {kind}: {found:e}");
            let most = greatest.entry(kind).or_default();
            *most = most.max(found);
        }
    }
    assert_eq!(cases.len(), 20 + 14);
    println!("greatest deviations: {greatest:?}");
}

#[test]
fn streaming_equals_the_originals_chunks() {
    let mut compared = 0;
    for (index, case) in Case::all()
        .iter()
        .enumerate()
        .filter(|(_, case)| case.config.chunk.is_some())
    {
        let encoder = Sanm::new(&case.config, &case.weights(DType::F32)).unwrap();
        for item in 0..case.lengths.len() {
            let features: Vec<f32> = case.tensors["input"]
                .get(item)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap();
            let heard = widen(&alone(&encoder, &features, 5));
            let found = deviation(&heard, &exact(&case.tensors["f32"].get(item).unwrap()));
            assert!(found <= F32_TOLERANCE, "case {index}: {found:e}");
            compared += 1;
        }
    }
    assert_eq!(compared, 28);
}

#[test]
fn an_encoder_of_whole_utterances_says_why_it_cannot_stream() {
    let case = &Case::all()[0];
    let Err(error) = Sanm::new(&case.config, &case.weights(DType::F32)) else {
        panic!("it streams")
    };
    assert!(error.to_string().contains("sees the whole utterance"), "{error}");
}

#[test]
fn the_queries_frames_are_not_the_utterances() {
    for case in Case::all().iter().filter(|case| !case.config.queries.is_empty()) {
        let reference = Reference::new(&case.config, &case.weights(DType::F32), &Device::Cpu).unwrap();
        let (output, lengths) = reference.forward(&case.tensors["input"], &case.lengths).unwrap();
        let all = &case.tensors["f32"];
        let expected = all.narrow(1, 4, all.dim(1).unwrap() - 4).unwrap();
        assert_eq!(lengths, case.lengths);
        assert!(deviation(&exact(&output), &exact(&expected)) <= F32_TOLERANCE);
    }
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    let config: SanmConfig = serde_json::from_value(json!({
        "input_size": 7, "output_size": 8, "attention_heads": 3, "linear_units": 4, "num_blocks": 1, "kernel_size": 5,
        "sanm_shfit": 3, "embed_rows": 2, "queries": [2], "chunk": {"size": [1, 0, 0], "look_back": 1},
    }))
    .unwrap();
    let mut problems = Vec::new();
    config.problems(&mut |holds, problem| {
        if !holds {
            problems.push(problem);
        }
    });
    let expected = [
        "encoder.input_size: expected an even number from 4 on, found 7",
        "encoder.attention_heads: expected a divisor of output_size (8), found 3",
        "encoder.sanm_shfit: expected at most 2, found 3",
        "encoder.queries: expected rows below embed_rows (2), found [2]",
        "encoder.chunk.size[1]: expected at least 1, found 0",
        "encoder.chunk.size[2]: expected at least 1 with a look_back",
        "encoder.queries: expected none in chunks",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.starts_with(expected), "{problem}");
    }
}

fn configs() -> impl Strategy<Value = SanmConfig> {
    let sizes = (0..=4usize, 1..=4usize, 1..=3usize, 0..=4usize);
    let layers = (1..=2usize, 0..=1usize, 1..=6usize, any::<bool>());
    (sizes, layers).prop_map(|((before, frames, after, look_back), (blocks, tp_blocks, kernel, shifted))| {
        config(json!({
            "input_size": 6, "output_size": 12, "attention_heads": 3, "linear_units": 10, "num_blocks": blocks,
            "tp_blocks": tp_blocks, "tp_norm": tp_blocks > 0, "kernel_size": kernel,
            "sanm_shfit": if shifted { kernel / 2 } else { 0 },
            "chunk": {"size": [before, frames, after], "look_back": look_back},
        }))
    })
}

fn executors(config: &SanmConfig, seed: u64) -> (Sanm, Reference) {
    let weights = random_weights(&config.expected_tensors(), seed);
    (
        Sanm::new(config, &weights).unwrap(),
        Reference::new(config, &weights, &Device::Cpu).unwrap(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn i2_streaming_equals_the_whole_utterance(config in configs(), num_steps in 1..7usize, seed: u32) {
        let (encoder, reference) = executors(&config, u64::from(seed));
        let features = features_for(&encoder, num_steps, &mut Random::new(7));
        let frames = features.len() / 6;
        let input = Tensor::from_slice(&features, (1, frames, 6), &Device::Cpu).unwrap();
        let whole = exact(&reference.run(&input, &[frames]).unwrap());
        let streamed = widen(&alone(&encoder, &features, num_steps));
        prop_assert!(deviation(&streamed, &whole) <= F32_TOLERANCE);
    }

    #[test]
    fn i3_and_i4_neither_neighbours_nor_the_past_matter(config in configs(), seed: u32) {
        const SESSIONS: usize = 10;
        const STEPS: usize = 5;
        let (encoder, _) = executors(&config, u64::from(seed));
        let mut random = Random::new(u64::from(seed));
        let features: Vec<Vec<f32>> = (0..SESSIONS).map(|_| features_for(&encoder, STEPS, &mut random)).collect();
        let poison = vec![f32::NAN; features[0].len()];
        let mut sessions: Vec<Session<'_>> = features.iter().map(|features| Session::new(&encoder, features)).collect();
        // The counter alone makes a state fresh: what was there before is not read.
        for session in &mut sessions {
            session.state.values.fill(f32::NAN);
            session.state.steps = 7;
            encoder.reset(&mut session.state);
            assert_eq!(session.state, encoder.new_state());
            session.state.values.fill(f32::NAN);
        }
        sessions.insert(3, Session::new(&encoder, &poison));
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
        let poisoned = sessions.remove(3);
        for (session, features) in sessions.iter().zip(&features) {
            let expected = alone(&encoder, features, STEPS);
            prop_assert!(deviation(&widen(&session.heard), &widen(&expected)) <= F32_TOLERANCE);
        }
        prop_assert!(poisoned.heard.iter().all(|value| value.is_nan()));
    }
}
