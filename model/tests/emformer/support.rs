//! Models with random weights, in memory.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use waxwing_model::Config;
use waxwing_model::architecture::{expected_tensors, streaming_encoder};
use waxwing_model::config::EncoderConfig;
use waxwing_model::encoder::emformer::{EmformerConfig, Reference};
use waxwing_model::encoder::head::CtcHead;
use waxwing_model::encoder::{StateCache, StepRow, StreamingEncoder};
use waxwing_model::loader::Weights;

/// A small deterministic generator (xorshift64*), so that a failure repeats.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.bits() >> 33) as usize % limit
    }

    /// Uniform, with variance 1.
    pub(crate) fn value(&mut self) -> f32 {
        ((self.bits() >> 40) as f32 / (1 << 24) as f32 - 0.5) * 12f32.sqrt()
    }

    pub(crate) fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }
}

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

/// A session and the features that it will hear.
pub(crate) struct Session<'a> {
    pub(crate) state: StateCache,
    pub(crate) output: Vec<f32>,
    /// All outputs so far.
    pub(crate) heard: Vec<f32>,
    features: &'a [f32],
}

impl<'a> Session<'a> {
    pub(crate) fn new(encoder: &dyn StreamingEncoder, features: &'a [f32]) -> Self {
        Self {
            state: encoder.new_state(),
            output: Vec::new(),
            heard: Vec::new(),
            features,
        }
    }
}

/// Steps the sessions as one batch.
pub(crate) fn step(encoder: &dyn StreamingEncoder, sessions: &mut [&mut Session<'_>]) {
    let width = encoder.geometry().num_features;
    let mut rows: Vec<StepRow<'_>> = sessions
        .iter_mut()
        .map(|session| {
            let needed = encoder.geometry().frames_needed(session.state.steps) * width;
            let (features, rest) = session.features.split_at(needed);
            session.features = rest;
            StepRow {
                state: &mut session.state,
                features,
                output: &mut session.output,
            }
        })
        .collect();
    encoder.step(&mut rows).unwrap();
    drop(rows);
    for session in sessions {
        session.heard.extend_from_slice(&session.output);
    }
}

/// What a session that is alone in every step hears in `num_steps` steps.
pub(crate) fn alone(encoder: &dyn StreamingEncoder, features: &[f32], num_steps: usize) -> Vec<f32> {
    let mut session = Session::new(encoder, features);
    for _ in 0..num_steps {
        step(encoder, &mut [&mut session]);
    }
    session.heard
}

/// Feature values for `num_steps` steps.
pub(crate) fn features_for(
    encoder: &dyn StreamingEncoder,
    num_steps: usize,
    random: &mut Random,
) -> Vec<f32> {
    let geometry = encoder.geometry();
    random.values((num_steps * geometry.segment_frames + geometry.lookahead_frames) * geometry.num_features)
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
