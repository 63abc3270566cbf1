//! The checkpoints of `tests/golden/checkpoints`, and places to convert them to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::{Map, Value};
use waxwing_model::convert::{KINDS, Kind, Options, Tensors, checkpoint, convert_file};
use waxwing_model::{Config, ModelError};

#[path = "../support/scratch.rs"]
mod scratch;

pub(crate) use self::scratch::Scratch;

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints")
}

pub(crate) fn kind(name: &str) -> &'static Kind {
    KINDS.iter().find(|kind| kind.name == name).unwrap()
}

/// One checkpoint.
pub(crate) struct Case {
    pub(crate) row: Value,
    tensors: BTreeMap<String, Tensor>,
}

impl Case {
    pub(crate) fn all() -> Vec<Self> {
        let table = std::fs::read_to_string(folder().join("checkpoints.json")).unwrap();
        let table: Value = serde_json::from_str(&table).unwrap();
        let tensors =
            candle_core::safetensors::load(folder().join("checkpoints.safetensors"), &Device::Cpu).unwrap();
        let rows = table["checkpoints"].as_array().unwrap();
        let own = |row: &Value| {
            let prefix = format!("{}.", row["name"].as_str().unwrap());
            let own = tensors.iter();
            own.filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_owned(), tensor.clone())))
                .collect()
        };
        rows.iter()
            .map(|row| Self {
                tensors: own(row),
                row: row.clone(),
            })
            .collect()
    }

    /// The first one of a kind.
    pub(crate) fn first(kind: &str) -> Self {
        Self::all()
            .into_iter()
            .find(|case| case.row["kind"] == kind)
            .unwrap()
    }

    pub(crate) fn name(&self) -> &str {
        self.row["name"].as_str().unwrap()
    }

    pub(crate) fn kind(&self) -> &'static Kind {
        kind(self.row["kind"].as_str().unwrap())
    }

    pub(crate) fn file(&self) -> PathBuf {
        folder().join(format!("{}.pt", self.name()))
    }

    pub(crate) fn weights(&self) -> Tensors {
        checkpoint::read(&self.file()).unwrap()
    }

    pub(crate) fn tensor(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }

    /// The tensors below a prefix, without it.
    pub(crate) fn below(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let prefix = format!("{prefix}.");
        let below = self.tensors.iter();
        below
            .filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_owned(), tensor.clone())))
            .collect()
    }

    /// What is said besides the checkpoint.
    pub(crate) fn options(&self) -> Options {
        let beside = |name: &str| {
            let is_there = self.row["files"]
                .as_array()
                .unwrap()
                .iter()
                .any(|file| file == name);
            is_there.then(|| folder().join(format!("{}.{name}", self.name())))
        };
        Options {
            set: serde_json::from_value::<Map<String, Value>>(self.row["set"].clone()).unwrap(),
            normalisation: beside("normalisation"),
            original_config: beside("original_config"),
            ..Options::default()
        }
    }

    /// Converts it to `model` in a scratch directory.
    pub(crate) fn convert(&self, scratch: &Scratch) -> PathBuf {
        let model = scratch.0.join(self.name());
        convert_file(self.kind(), &self.file(), &self.options(), &model).unwrap();
        model
    }
}

/// Converts tensors in place of a file's.
pub(crate) fn convert(
    kind: &Kind,
    tensors: &Tensors,
    options: &Options,
    scratch: &Scratch,
) -> Result<Config, ModelError> {
    let file = scratch.0.join("checkpoint.safetensors");
    candle_core::safetensors::save(&tensors.clone().into_iter().collect(), &file).unwrap();
    let model = scratch.0.join("model");
    let _ = std::fs::remove_dir_all(&model);
    convert_file(kind, &file, options, &model)
}
