//! Tiny real models: every tensor that a configuration asks for, with random values that are the same in every run.

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use waxwing_model::architecture::expected_tensors;
use waxwing_model::config::Config;

/// A blank and letters that begin words or go on with them.
pub(super) const TOKENS: &str = "<blank>\n▁a\nb\n▁c\nd\n";

/// The weights of a model of this configuration, in the safetensors format.
pub(super) fn weights(config_json: &str) -> Vec<u8> {
    let config = Config::from_json(config_json).unwrap();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut value = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let expected = expected_tensors(&config, Some(TOKENS.lines().count()));
    let tensors: Vec<_> = expected
        .into_iter()
        .map(|(name, shape)| {
            let inputs: usize = shape.iter().skip(1).product();
            // A head that is sure of itself: no class is so near to another that rounding decides.
            let scale = if name == "head.weight" { 8.0 } else { 2.0 } / (inputs as f32).sqrt();
            let is_vector = shape.len() == 1;
            let is_factor = is_vector && (name.ends_with(".weight") || name.ends_with("running_var"));
            let values: Vec<f32> = (0..shape.iter().product())
                .map(|_| match (is_factor, is_vector) {
                    (true, _) => 1.0 + 0.2 * value(),
                    (false, true) => 0.2 * value(),
                    (false, false) => scale * value(),
                })
                .collect();
            (name, shape, bytes(&values))
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

/// As a tensor file holds them.
pub(super) fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
