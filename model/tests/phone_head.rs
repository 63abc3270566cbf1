//! The second listener's phone head against the training code. The data is made by `tests/golden/phone_head.py`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::Value;
use waxwing_model::loader::Weights;
use waxwing_model::precision::Precision;
use waxwing_model::second_listener::phone_head::{PhoneHead, PhoneHeadConfig, Read, expected_tensors};

const TOLERANCE: f32 = 1e-5;

struct Case {
    dim: usize,
    encoder_layers: usize,
    classes: usize,
    config: PhoneHeadConfig,
    weights: HashMap<String, Tensor>,
    /// `(encoder layers, frames, dim)`.
    behind: Vec<f32>,
    probabilities: Vec<f32>,
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(name)
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn cases() -> Vec<Case> {
    let table = std::fs::read_to_string(golden("phone_head.json")).unwrap();
    let table: Vec<Value> = serde_json::from_str(&table).unwrap();
    let tensors = candle_core::safetensors::load(golden("phone_head.safetensors"), &Device::Cpu).unwrap();
    let read = |(index, case): (usize, Value)| {
        let prefix = format!("{index}.weights.");
        let own = |(name, tensor): (&String, &Tensor)| {
            Some((name.strip_prefix(&prefix)?.to_owned(), tensor.clone()))
        };
        let size = |name: &str| case[name].as_u64().unwrap() as usize;
        Case {
            dim: size("dim"),
            encoder_layers: size("encoder_layers"),
            classes: size("classes"),
            config: serde_json::from_value(case["config"].clone()).unwrap(),
            weights: tensors.iter().filter_map(own).collect(),
            behind: flat(&tensors[&format!("{index}.behind")]),
            probabilities: flat(&tensors[&format!("{index}.probabilities")]),
        }
    };
    table.into_iter().enumerate().map(read).collect()
}

impl Case {
    fn build(&self) -> PhoneHead {
        let expected = expected_tensors((self.dim, self.encoder_layers), self.classes, &self.config);
        let bytes = safetensors::serialize(&self.weights, None).unwrap();
        let weights = Weights::from_safetensors(&bytes, &expected).unwrap();
        PhoneHead::new(self.dim, &self.config, &weights, Precision::F32).unwrap()
    }

    fn say(&self, head: &PhoneHead) -> Vec<f32> {
        let mut read = Read::default();
        let layers = self.behind.chunks_exact(self.behind.len() / self.encoder_layers);
        for (layer, encoded) in layers.enumerate() {
            head.read(layer, encoded, &mut read);
        }
        head.probabilities(read)
    }
}

#[test]
fn equals_the_training_code() {
    let cases = cases();
    assert_eq!(cases.len(), 4);
    let mut most = 0.0f32;
    for case in &cases {
        let found = case.say(&case.build());
        assert_eq!(found.len(), case.probabilities.len());
        for (found, expected) in found.iter().zip(&case.probabilities) {
            most = most.max((found - expected).abs());
        }
    }
    println!("largest difference {most:.1e}");
    assert!(most < TOLERANCE, "{most}");
}

#[test]
fn a_frame_knows_its_neighbours_and_no_others() {
    let case = &cases()[0];
    let head = case.build();
    let expected = case.say(&head);
    let reach = case.config.num_layers * case.config.order;
    let frames = case.behind.len() / case.encoder_layers / case.dim;
    let mut other = Case {
        behind: case.behind.clone(),
        weights: HashMap::new(),
        config: case.config.clone(),
        probabilities: Vec::new(),
        ..*case
    };
    let (middle, layer) = (frames / 2, frames * case.dim);
    for encoded in other.behind.chunks_exact_mut(layer) {
        // Not all by the same: a norm would take that away.
        encoded[middle * case.dim] += 5.0;
    }
    let found = other.say(&head);
    let changed: Vec<usize> = (0..frames)
        .filter(|frame| {
            let classes = frame * case.classes..(frame + 1) * case.classes;
            found[classes.clone()] != expected[classes]
        })
        .collect();
    let (first, last) = (middle - reach, middle + reach);
    assert_eq!(changed, (first..=last).collect::<Vec<_>>());
}
