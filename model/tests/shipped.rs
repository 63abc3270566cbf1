//! The shipped models on real speech: features and log-probs equal the training code's (`tests/golden/shipped.py`), and streaming equals the whole
//! utterance (I2). Rounding errors of trained weights depend on what they hear, so random ones would not do.

#![expect(clippy::unwrap_used, reason = "a helper of tests may fail as a test does")]

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use waxwing_frontend::container::{AudioFile, DecodeLimits};
use waxwing_frontend::pcm::ChannelSelection;
use waxwing_frontend::{Frontend, FrontendConfig};
use waxwing_model::Model;
use waxwing_model::encode::{Encoder, Mode};
use waxwing_model::encoder::StepRow;

const MODELS: [&str; 2] = ["en-emformer", "en-fsmn"];
/// Of `tests/golden/shipped.py`.
const SECONDS: f64 = 2.56;
const TOLERANCE: f32 = 1e-4;
/// Of probabilities that come of products in whole numbers of 8 and 16 bits.
const WHOLE_NUMBERS: f32 = 2e-3;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn golden() -> HashMap<String, Tensor> {
    candle_core::safetensors::load(repository("tests/golden/shipped.safetensors"), &Device::Cpu).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn max_difference(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    left.iter()
        .zip(right)
        .map(|(left, right)| (left - right).abs())
        .fold(0.0, f32::max)
}

/// What the model hears in the first `seconds` of the page's sample and the silence behind it that brings all of it out, `(1, frames, features)`,
/// and the frames without the look-ahead.
fn heard(model: &Model, seconds: f64) -> (Tensor, usize) {
    let limits = DecodeLimits::default();
    let clip = File::open(repository("web/sample.flac")).unwrap();
    let mut audio = AudioFile::open(clip, limits, ChannelSelection::Mix).unwrap();
    let mut samples = Vec::new();
    while audio.next_block(&mut samples).unwrap() {}
    let rate = model.sample_rate_hz();
    assert_eq!(audio.rate_hz(), rate);
    samples.truncate((seconds * f64::from(rate)) as usize);
    let features = model.features().clone();
    let geometry = model.geometry();
    let segment = features.frame_shift_samples(rate) * geometry.segment_frames;
    let length = samples.len().div_ceil(segment) * geometry.segment_frames;
    let mut frontend = Frontend::new(FrontendConfig {
        input_rate_hz: rate,
        model_rate_hz: rate,
        features,
    })
    .unwrap();
    let mut values = Vec::new();
    samples.resize(samples.len() + 2 * rate as usize, 0.0);
    frontend.push(&samples, &mut values);
    let frames = length + geometry.lookahead_frames;
    values.truncate(frames * geometry.num_features);
    let shape = (1, frames, geometry.num_features);
    (Tensor::from_vec(values, shape, &Device::Cpu).unwrap(), length)
}

#[test]
fn features_and_log_probs_equal_the_training_codes() {
    let golden = golden();
    for name in MODELS {
        let directory = repository("model/pretrained").join(name);
        let model = Model::load(&directory).unwrap();
        let (features, length) = heard(&model, SECONDS);
        let expected = flat(&golden[&format!("{name}.features")]);
        let off = max_difference(&flat(&features), &expected);
        println!("{name}: features differ by {off:.2e}");
        assert!(off <= TOLERANCE, "{name}: features differ by {off}");
        let encoder = Encoder::load(&directory).unwrap();
        let streamed = encoder.encode(&features, &[length], Mode::Streaming).unwrap();
        let streamed = streamed.log_probs.unwrap().squeeze(0).unwrap();
        let expected = &golden[&format!("{name}.log_probs")];
        let off = max_difference(&flat(&streamed), &flat(expected));
        println!("{name}: log-probs differ by {off:.2e}");
        // Features that differ in the fifth digit go through all layers.
        assert!(off <= 10.0 * TOLERANCE, "{name}: log-probs differ by {off}");
        let best = |log_probs: &Tensor| log_probs.argmax(1).unwrap().to_vec1::<u32>().unwrap();
        assert_eq!(best(&streamed), best(expected), "{name}");
    }
}

/// What is said beside the classes, as it is served.
#[test]
fn phones_equal_the_training_codes() {
    let (golden, name) = (golden(), "en-fsmn");
    let model = Model::load(&repository("model/pretrained").join(name)).unwrap();
    let (features, length) = heard(&model, SECONDS);
    let (features, geometry) = (flat(&features), model.geometry());
    let (mut state, mut rest) = (model.new_state(), features.as_slice());
    let (mut classes, mut phones) = (Vec::new(), Vec::new());
    for _ in 0..length / geometry.segment_frames {
        let (now, later) = rest.split_at(geometry.frames_needed(state.steps) * geometry.num_features);
        rest = later;
        let mut output = Vec::new();
        let row = StepRow {
            state: &mut state,
            features: now,
            output: &mut output,
        };
        model.step(&mut [row]).unwrap();
        for frame in output.chunks_exact(geometry.output_dim) {
            classes.extend_from_slice(&frame[..model.tokens().len()]);
            phones.extend_from_slice(&frame[model.tokens().len()..]);
        }
    }
    assert_eq!(rest.len(), 0);
    for (kind, said) in [("log_probs", classes), ("phones", phones)] {
        let off = max_difference(&said, &flat(&golden[&format!("{name}.{kind}")]));
        println!("{name}: {kind} differ by {off:.2e}");
        assert!(off <= 10.0 * TOLERANCE, "{name}: {kind} differ by {off}");
    }
}

/// Of the second listener, whose products are in whole numbers.
#[test]
fn the_second_listeners_phones_equal_the_training_codes() {
    let (golden, name) = (golden(), "en-emformer");
    let model = Model::load(&repository("model/pretrained").join(name)).unwrap();
    let listener = model.second_listener().unwrap();
    let (features, length) = heard(&model, SECONDS);
    let said = listener.phones(&flat(&features)[..length * model.geometry().num_features]);
    let expected = &golden[&format!("{name}.phones")];
    let off = max_difference(&said, &flat(expected));
    println!("{name}: probabilities of phones differ by {off:.2e}");
    assert!(off <= WHOLE_NUMBERS, "{name}: {off}");
}

#[test]
fn they_stream_as_they_run_whole() {
    for name in MODELS {
        let directory = repository("model/pretrained").join(name);
        let (features, length) = heard(&Model::load(&directory).unwrap(), 5.0);
        let encoder = Encoder::load(&directory).unwrap();
        let run = |mode| {
            flat(
                &encoder
                    .encode(&features, &[length], mode)
                    .unwrap()
                    .log_probs
                    .unwrap(),
            )
        };
        let off = max_difference(&run(Mode::Whole), &run(Mode::Streaming));
        println!("{name}, streaming against whole: {off:.2e}");
        assert!(off <= TOLERANCE, "{name}: {off}");
    }
}

#[test]
fn they_are_small_enough_for_the_repository() {
    let size = |name: &str, file: &str| {
        std::fs::metadata(repository("model/pretrained").join(name).join(file)).map_or(0, |found| found.len())
    };
    let files = ["model.safetensors", "tokens.txt", "text_tokens.txt"];
    let bytes: u64 = MODELS
        .iter()
        .flat_map(|name| files.map(|file| size(name, file)))
        .sum();
    // 24 MiB: git keeps every version of them.
    assert!(
        (20_000_000..=24 << 20).contains(&bytes),
        "{bytes} bytes of weights"
    );
}
