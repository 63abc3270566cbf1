//! Golden files, random weights, and sessions that hear them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use waxwing_model::loader::{Expected, Weights};

#[path = "../support/random.rs"]
mod random;

#[path = "../support/session.rs"]
mod session;

pub(crate) use self::random::Random;
pub(crate) use self::session::{Session, alone, features_for, step};

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
