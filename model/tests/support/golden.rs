//! Golden data of several cases: a table of their settings, `NAME.json`, and `NAME.safetensors` with the tensors of case `N` as `N.…`, the weights among them as `N.weights.…`.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::Value;
use waxwing_model::loader::{Expected, Weights};

/// One case.
pub(crate) struct Case {
    pub(crate) settings: Value,
    tensors: HashMap<String, Tensor>,
}

/// All cases of `tests/golden/NAME.…`.
pub(crate) fn cases(name: &str) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let table = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
    let table: Vec<Value> = serde_json::from_str(&table).unwrap();
    let tensors =
        candle_core::safetensors::load(folder.join(format!("{name}.safetensors")), &Device::Cpu).unwrap();
    let read = |(index, settings): (usize, Value)| {
        let prefix = format!("{index}.");
        let own = |(name, tensor): (&String, &Tensor)| {
            Some((name.strip_prefix(&prefix)?.to_owned(), tensor.clone()))
        };
        Case {
            settings,
            tensors: tensors.iter().filter_map(own).collect(),
        }
    };
    table.into_iter().enumerate().map(read).collect()
}

impl Case {
    /// Values of one of its tensors.
    pub(crate) fn values(&self, name: &str) -> Vec<f32> {
        self.tensors[name].flatten_all().unwrap().to_vec1().unwrap()
    }

    /// A setting that is a size.
    pub(crate) fn size(&self, name: &str) -> usize {
        self.settings[name].as_u64().unwrap() as usize
    }

    /// Its weights by name.
    pub(crate) fn weights(&self) -> HashMap<String, Tensor> {
        let own = |(name, tensor): (&String, &Tensor)| {
            Some((name.strip_prefix("weights.")?.to_owned(), tensor.clone()))
        };
        self.tensors.iter().filter_map(own).collect()
    }
}

/// A model file of some weights, read as one.
pub(crate) fn read(weights: &HashMap<String, Tensor>, expected: &[Expected]) -> Weights {
    Weights::from_safetensors(&safetensors::serialize(weights, None).unwrap(), expected).unwrap()
}
