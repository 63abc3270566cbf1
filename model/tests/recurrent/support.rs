//! Golden files, and models in memory.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use waxwing_model::architecture;
use waxwing_model::config::Config;
use waxwing_model::encoder::Module;
use waxwing_model::loader::Weights;

#[path = "../support/random.rs"]
mod random;

#[path = "../support/scratch.rs"]
mod scratch;

pub(crate) use self::random::Random;
pub(crate) use self::scratch::Scratch;

pub(crate) const F32_TOLERANCE: f64 = 1e-5;
pub(crate) const F64_TOLERANCE: f64 = 1e-10;

pub(crate) fn golden_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

/// `tests/golden/NAME.safetensors` and `NAME.json`.
pub(crate) struct Golden {
    tensors: BTreeMap<String, Tensor>,
    pub(crate) table: Value,
}

impl Golden {
    pub(crate) fn read(name: &str) -> Self {
        let folder = golden_folder();
        let table = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        let tensors =
            candle_core::safetensors::load(folder.join(format!("{name}.safetensors")), &Device::Cpu).unwrap();
        Self {
            tensors: tensors.into_iter().collect(),
            table: serde_json::from_str(&table).unwrap(),
        }
    }

    /// One tensor.
    pub(crate) fn tensor(&self, name: &str) -> Tensor {
        self.tensors[name].clone()
    }

    /// The tensors below a prefix, without it.
    pub(crate) fn below(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let prefix = format!("{prefix}.");
        self.tensors
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_owned(), tensor.clone())))
            .collect()
    }

    /// A case's inputs: what is neither a result nor a weight.
    pub(crate) fn inputs(&self, case: &str) -> BTreeMap<String, Tensor> {
        let mut inputs = self.below(case);
        inputs.retain(|name, _| {
            !["f32.", "f64.", "weights."]
                .iter()
                .any(|part| name.starts_with(part))
        });
        inputs
    }

    /// A case's weights as the loader checks and holds them.
    pub(crate) fn weights(&self, case: &str, config: &Config, dtype: DType) -> Weights {
        let tensors: HashMap<String, Tensor> = self
            .below(&format!("{case}.weights"))
            .into_iter()
            .map(|(name, tensor)| (name, tensor.to_dtype(dtype).unwrap()))
            .collect();
        let bytes = safetensors::serialize(&tensors, None).unwrap();
        Weights::from_safetensors(&bytes, &architecture::expected_tensors(config, None)).unwrap()
    }

    /// Every case of a list of the table, in both types: the case's name, its configuration, its module, the results
    /// of the original, and the tolerance.
    pub(crate) fn each(
        &self,
        list: &str,
        architecture: &str,
        mut check: impl FnMut(&str, &Config, &dyn Module, &BTreeMap<String, Tensor>, f64),
    ) {
        let cases = self.table[list].as_array().unwrap();
        assert!(!cases.is_empty());
        for row in cases {
            let case = row["case"].as_str().unwrap();
            let config = config(architecture, &row["config"]);
            for (kind, dtype, tolerance) in [
                ("f32", DType::F32, F32_TOLERANCE),
                ("f64", DType::F64, F64_TOLERANCE),
            ] {
                let module = architecture::module(&config, &self.weights(case, &config, dtype)).unwrap();
                check(
                    case,
                    &config,
                    module.as_ref(),
                    &self.below(&format!("{case}.{kind}")),
                    tolerance,
                );
            }
        }
    }
}

pub(crate) fn config(architecture: &str, encoder: &Value) -> Config {
    let json =
        serde_json::json!({"format": 1, "id": "golden", "architecture": architecture, "encoder": encoder});
    Config::from_json(&json.to_string()).unwrap()
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    tensor
        .to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// Greatest absolute difference of two tensors of one shape; NaN on either side is infinite.
pub(crate) fn difference(left: &Tensor, right: &Tensor) -> f64 {
    assert_eq!(left.dims(), right.dims());
    values(left)
        .into_iter()
        .zip(values(right))
        .map(|(left, right)| (left - right).abs())
        .fold(0.0, |most, value| {
            if value <= most {
                most
            } else if value.is_nan() {
                f64::INFINITY
            } else {
                value
            }
        })
}

/// Greatest differences of one test, by type; printed at its end.
#[derive(Default)]
pub(crate) struct Worst(BTreeMap<String, f64>);

impl Worst {
    pub(crate) fn check(&mut self, what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
        let difference = difference(found, expected);
        assert!(difference <= tolerance, "{what}: {difference:e}");
        let most = self.0.entry(format!("{:?}", found.dtype())).or_default();
        *most = most.max(difference);
    }

    pub(crate) fn report(&self, what: &str) {
        for (kind, most) in &self.0 {
            println!("{what} {kind}: at most {most:.1e} from the original");
        }
    }
}

/// Weights at random; norms and variances stay near 1.
pub(crate) fn random_weights(config: &Config, classes: Option<usize>, seed: u64) -> Weights {
    let mut random = Random::new(seed);
    let expected = architecture::expected_tensors(config, classes);
    let tensors: HashMap<String, Tensor> = expected
        .iter()
        .map(|(name, shape)| {
            let positive =
                name.ends_with("running_var") || name.ends_with("norm.weight") || name.ends_with("gamma");
            let inputs: usize = shape.iter().skip(1).product();
            // States must not grow from frame to frame where nothing bounds them.
            let gain = if name.contains("_hh") || name.ends_with("u.weight") {
                0.5
            } else {
                1.5
            };
            let scale = if positive {
                0.2
            } else {
                gain / (inputs as f32).sqrt()
            };
            let offset = if positive { 1.0 } else { 0.0 };
            let values = random.values(shape.iter().product());
            let values = values.iter().map(|value| value * scale + offset).collect();
            let tensor = Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).unwrap();
            (name.clone(), tensor)
        })
        .collect();
    let bytes = safetensors::serialize(&tensors, None).unwrap();
    Weights::from_safetensors(&bytes, &expected).unwrap()
}
