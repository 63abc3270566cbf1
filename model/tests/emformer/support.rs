//! Models with random weights, in memory.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use waxwing_model::Config;
use waxwing_model::architecture::{expected_tensors, streaming_encoder};
use waxwing_model::config::EncoderConfig;
use waxwing_model::encoder::StreamingEncoder;
use waxwing_model::encoder::emformer::{EmformerConfig, Reference};
use waxwing_model::encoder::head::CtcHead;
use waxwing_model::loader::Weights;

#[path = "../support/random.rs"]
mod random;

#[path = "../support/session.rs"]
mod session;

pub(crate) use self::random::Random;
pub(crate) use self::session::{Session, alone, features_for, step};

pub(crate) fn serialise(tensors: &HashMap<String, Tensor>) -> Vec<u8> {
    safetensors::serialize(tensors, None).unwrap()
}

pub(crate) fn random_tensors(config: &Config, classes: Option<usize>, seed: u64) -> HashMap<String, Tensor> {
    let mut random = Random::new(seed);
    expected_tensors(config, classes)
        .into_iter()
        .map(|(name, shape)| {
            let is_norm = name.ends_with("weight") && shape.len() == 1;
            // Scaled by the width, so that deep and wide models stay in a sensible range.
            let inputs: usize = shape.iter().skip(1).product();
            let scale = if shape.len() == 1 {
                0.2
            } else {
                1.2 / (inputs as f32).sqrt()
            };
            let offset = if is_norm { 1.0 } else { 0.0 };
            let values = random
                .values(shape.iter().product())
                .iter()
                .map(|v| v * scale + offset)
                .collect();
            (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
        })
        .collect()
}

/// The sizes, with or without a stem.
pub(crate) fn sizes(config: &Config) -> &EmformerConfig {
    match &config.encoder {
        EncoderConfig::Emformer(sizes) | EncoderConfig::WhisperEmformer(sizes) => sizes,
        other => panic!("{other:?}"),
    }
}

/// The reference executor and the head, if there is one.
pub(crate) struct Whole {
    pub(crate) reference: Reference,
    head: Option<CtcHead>,
}

impl Whole {
    pub(crate) fn log_probs(&self, encoded: Tensor) -> Tensor {
        match &self.head {
            Some(head) => head.log_probs(&encoded).unwrap(),
            None => encoded,
        }
    }
}

/// Both executors of one random model.
pub(crate) fn executors(config: &Config, seed: u64) -> (Box<dyn StreamingEncoder>, Whole) {
    let classes = config.ctc.as_ref().map(|_| 9);
    let bytes = serialise(&random_tensors(config, classes, seed));
    let weights = Weights::from_safetensors(&bytes, &expected_tensors(config, classes)).unwrap();
    let whole = Whole {
        reference: Reference::new(sizes(config), &weights, &Device::Cpu).unwrap(),
        head: classes.map(|_| CtcHead::new(&weights).unwrap()),
    };
    (streaming_encoder(config, &weights, &Device::Cpu).unwrap(), whole)
}

pub(crate) fn max_difference(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    // `f32::max` would pass over a NaN.
    left.iter()
        .zip(right)
        .map(|(l, r)| (l - r).abs())
        .fold(0.0, |most, d| if d <= most { most } else { d })
}

pub(crate) fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor
        .to_dtype(DType::F32)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}
