//! Golden files, random weights, and sessions that hear them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use waxwing_model::encoder::{StateCache, StepRow, StreamingEncoder};
use waxwing_model::loader::{Expected, Weights};

/// A small deterministic generator (xorshift64*), so that a failure repeats.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.bits() >> 33) as usize % limit
    }

    /// Uniform, with variance 1.
    pub(crate) fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| ((self.bits() >> 40) as f32 / (1 << 24) as f32 - 0.5) * 12f32.sqrt())
            .collect()
    }
}

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(name)
}

/// `tensors` as a model file's, in one type.
pub(crate) fn weights(
    tensors: impl IntoIterator<Item = (String, Tensor)>,
    dtype: DType,
    expected: &[Expected],
) -> Weights {
    let tensors: HashMap<String, Tensor> = tensors
        .into_iter()
        .map(|(name, tensor)| (name, tensor.to_dtype(dtype).unwrap()))
        .collect();
    Weights::from_safetensors(&safetensors::serialize(&tensors, None).unwrap(), expected).unwrap()
}

/// Random ones, scaled so that deep models stay in a sensible range.
pub(crate) fn random_tensors(expected: &[Expected], seed: u64) -> HashMap<String, Tensor> {
    let mut random = Random::new(seed);
    expected
        .iter()
        .map(|(name, shape)| {
            let inputs: usize = shape.iter().skip(1).product();
            let scale = if shape.len() == 1 {
                0.2
            } else {
                0.8 / (inputs as f32).sqrt()
            };
            let offset = if name.contains("norm") && name.ends_with("weight") {
                1.0
            } else {
                0.0
            };
            let values = random.values(shape.iter().product());
            let values: Vec<f32> = values.iter().map(|value| value * scale + offset).collect();
            (
                name.clone(),
                Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).unwrap(),
            )
        })
        .collect()
}

/// As [`random_tensors`], as a model file's.
pub(crate) fn random_weights(expected: &[Expected], seed: u64) -> Weights {
    weights(random_tensors(expected, seed), DType::F32, expected)
}

/// A session and the features that it will hear.
pub(crate) struct Session<'a> {
    pub(crate) state: StateCache,
    output: Vec<f32>,
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

/// Greatest |actual − expected| / max(1, |expected|); NaN where either is.
pub(crate) fn deviation(actual: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    actual
        .iter()
        .zip(expected)
        .map(|(a, e)| (a - e).abs() / e.abs().max(1.0))
        // `f64::max` would pass over a NaN.
        .fold(0.0, |most, d| if d <= most { most } else { d })
}

pub(crate) fn exact(tensor: &Tensor) -> Vec<f64> {
    tensor
        .to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

pub(crate) fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}
