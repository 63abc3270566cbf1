//! The second listener's phone head against the training code. The data is made by `tests/golden/phone_head.py`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "support/golden.rs"]
mod golden;

use std::collections::HashMap;

use candle_core::Tensor;
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

fn cases() -> Vec<Case> {
    let read = |case: golden::Case| Case {
        dim: case.size("dim"),
        encoder_layers: case.size("encoder_layers"),
        classes: case.size("classes"),
        config: serde_json::from_value(case.settings["config"].clone()).unwrap(),
        weights: case.weights(),
        behind: case.values("behind"),
        probabilities: case.values("probabilities"),
    };
    golden::cases("phone_head").into_iter().map(read).collect()
}

impl Case {
    fn build(&self) -> PhoneHead {
        let expected = expected_tensors((self.dim, self.encoder_layers), self.classes, &self.config);
        let weights = golden::read(&self.weights, &expected);
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
