//! The data of `tests/golden/rnnt.py`, and places to convert its checkpoints to.

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use waxwing_model::Config;
use waxwing_model::architecture::expected_tensors;
use waxwing_model::config::EncoderConfig;
use waxwing_model::convert::{KINDS, Kind, Options};
use waxwing_model::loader::Weights;
use waxwing_model::transducer::RnntConfig;

pub(crate) const F32_TOLERANCE: f64 = 1e-4;

pub(crate) const F64_TOLERANCE: f64 = 1e-10;

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/rnnt")
        .join(name)
}

pub(crate) struct Golden {
    pub(crate) table: Value,
    pub(crate) tensors: HashMap<String, Tensor>,
}

impl Golden {
    pub(crate) fn load() -> Self {
        let table = serde_json::from_str(&std::fs::read_to_string(golden("rnnt.json")).unwrap()).unwrap();
        let tensors = candle_core::safetensors::load(golden("rnnt.safetensors"), &Device::Cpu).unwrap();
        Self { table, tensors }
    }

    pub(crate) fn variants(&self) -> impl Iterator<Item = (usize, &Value)> {
        let variants = self.table["variants"].as_array().unwrap();
        assert_eq!(variants.len(), 4);
        variants.iter().enumerate()
    }

    pub(crate) fn config(&self, variant: &Value, beam: usize) -> Config {
        let mut encoder = self.table["sizes"].clone();
        for (name, value) in variant.as_object().unwrap() {
            if !["ragged", "searches"].contains(&name.as_str()) {
                encoder[name] = value.clone();
            }
        }
        encoder["search"] = json!({"beam_width": beam});
        let config =
            json!({"format": 1, "id": "golden", "architecture": "emformer-rnnt", "encoder": encoder});
        Config::from_json(&config.to_string()).unwrap()
    }

    pub(crate) fn weights(&self, index: usize, config: &Config, dtype: DType) -> Weights {
        let prefix = format!("{index}.weights.");
        let tensors: HashMap<String, Tensor> = self
            .tensors
            .iter()
            .filter_map(|(name, tensor)| {
                Some((
                    name.strip_prefix(&prefix)?.to_owned(),
                    tensor.to_dtype(dtype).unwrap(),
                ))
            })
            .collect();
        let bytes = safetensors::serialize(&tensors, None).unwrap();
        Weights::from_safetensors(&bytes, &expected_tensors(config, None)).unwrap()
    }

    pub(crate) fn tensor(&self, name: &str) -> Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{name}")).clone()
    }
}

pub(crate) fn sizes(config: &Config) -> &RnntConfig {
    match &config.encoder {
        EncoderConfig::EmformerRnnt(sizes) => sizes,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor
        .to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

pub(crate) fn deviation(actual: &Tensor, expected: &Tensor, what: &str) -> f64 {
    assert_eq!(
        (actual.dtype(), actual.dims()),
        (expected.dtype(), expected.dims()),
        "{what}"
    );
    let pairs = flat(actual).into_iter().zip(flat(expected));
    // `f64::max` would pass over a NaN.
    pairs
        .map(|(actual, expected)| (actual - expected).abs())
        .fold(0.0, |most, d| if d <= most { most } else { d })
}

pub(crate) fn numbers(values: &[i64]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

pub(crate) fn inputs(tensors: &[(&str, Tensor)]) -> BTreeMap<String, Tensor> {
    tensors
        .iter()
        .map(|(name, tensor)| ((*name).to_owned(), tensor.clone()))
        .collect()
}

pub(crate) fn kind(name: &str) -> &'static Kind {
    KINDS.iter().find(|kind| kind.name == name).unwrap()
}

pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("waxwing-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn small() -> Options {
    let set = json!({"transformer_num_heads": 2, "transformer_left_context_length": 6, "search": {"beam_width": 3}});
    Options {
        set: set.as_object().unwrap().clone(),
        id: Some("small".into()),
        ..Options::default()
    }
}

/// All parts stand in a text.
pub(crate) fn expect(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}
