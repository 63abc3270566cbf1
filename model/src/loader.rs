//! Tensors of a model directory, checked before anything is built from them.
//!
//! Every problem is collected, so that one attempt to start says all that is wrong with a file: missing and
//! unexpected tensors, shapes, types, values that are not finite.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};

use crate::error::ModelError;

/// Name of the weights' file in a model directory.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// Reads one text file of a model directory.
///
/// # Errors
/// [`ModelError::Read`].
pub fn read_text(path: &Path) -> Result<String, ModelError> {
    fs::read_to_string(path).map_err(|source| ModelError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Reads one binary file of a model directory.
///
/// # Errors
/// [`ModelError::Read`].
pub fn read_bytes(path: &Path) -> Result<Vec<u8>, ModelError> {
    fs::read(path).map_err(|source| ModelError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Named tensors on the CPU, all `f32` or all `f64`, known to have the expected shapes and finite values.
#[derive(Debug, Clone)]
pub struct Weights {
    tensors: BTreeMap<String, Tensor>,
    dtype: DType,
}

/// A tensor's name and shape.
pub type Expected = (String, Vec<usize>);

impl Weights {
    /// Reads a safetensors file that must hold exactly the expected tensors. Half-precision weights become `f32`;
    /// the file is `f64` if any of its tensors is.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] naming every tensor that is missing, unexpected, of another shape or type, or not
    /// finite.
    pub fn from_safetensors(bytes: &[u8], expected: &[Expected]) -> Result<Self, ModelError> {
        Self::check(WEIGHTS_FILE, bytes, expected)
    }

    /// As [`Weights::from_safetensors`], for a file that is called `file_name` in errors.
    ///
    /// # Errors
    /// As [`Weights::from_safetensors`].
    pub fn check(file_name: &str, bytes: &[u8], expected: &[Expected]) -> Result<Self, ModelError> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| ModelError::Invalid {
            problems: vec![format!(
                "{file_name}: not a whole safetensors file ({} bytes): {error}",
                bytes.len()
            )],
        })?;
        let is_f64 = file.iter().any(|(_, view)| view.dtype() == Dtype::F64);
        let dtype = if is_f64 { DType::F64 } else { DType::F32 };
        let mut problems = Vec::new();
        let mut tensors = BTreeMap::new();
        for (name, shape) in expected {
            let Ok(view) = file.tensor(name) else {
                problems.push(format!("{file_name}: {name}: missing, expected shape {shape:?}"));
                continue;
            };
            if view.shape() != shape.as_slice() {
                problems.push(format!(
                    "{file_name}: {name}: expected shape {shape:?}, found {:?}",
                    view.shape()
                ));
                continue;
            }
            let stored = match view.dtype() {
                Dtype::F16 => DType::F16,
                Dtype::BF16 => DType::BF16,
                Dtype::F32 => DType::F32,
                Dtype::F64 => DType::F64,
                other => {
                    problems.push(format!(
                        "{file_name}: {name}: expected type F16, BF16, F32 or F64, found {other:?}"
                    ));
                    continue;
                }
            };
            let tensor =
                Tensor::from_raw_buffer(view.data(), stored, shape, &Device::Cpu)?.to_dtype(dtype)?;
            let bad = count_non_finite(&tensor)?;
            if bad > 0 {
                problems.push(format!(
                    "{file_name}: {name}: expected finite values, found {bad} that are infinite or not a number"
                ));
                continue;
            }
            tensors.insert(name.clone(), tensor);
        }
        let mut unexpected: Vec<&str> = file
            .names()
            .into_iter()
            .filter(|name| !expected.iter().any(|(known, _)| known == name))
            .collect();
        unexpected.sort_unstable();
        for name in unexpected {
            problems.push(format!(
                "{file_name}: {name}: not a tensor of this architecture and configuration"
            ));
        }
        if problems.is_empty() {
            Ok(Self { tensors, dtype })
        } else {
            Err(ModelError::Invalid { problems })
        }
    }

    /// Shape of a tensor in a safetensors file, if both can be read: lets a loader take a size that the
    /// configuration does not state, such as the number of classes.
    pub fn shape_of(bytes: &[u8], name: &str) -> Option<Vec<usize>> {
        Some(
            SafeTensors::deserialize(bytes)
                .ok()?
                .tensor(name)
                .ok()?
                .shape()
                .to_vec(),
        )
    }

    /// The tensors whose names begin with `prefix`, under the rest of their names: a part of a larger model.
    pub fn under(&self, prefix: &str) -> Self {
        let tensors = self.tensors.iter();
        Self {
            tensors: tensors
                .filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone())))
                .collect(),
            dtype: self.dtype,
        }
    }

    /// Type of all tensors: `f32` or `f64`.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// A tensor by name, in the file's layout.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when it was not among the expected ones.
    pub fn tensor(&self, name: &str) -> Result<Tensor, ModelError> {
        self.tensors
            .get(name)
            .cloned()
            .ok_or_else(|| ModelError::Invalid {
                problems: vec![format!("{WEIGHTS_FILE}: {name}: missing")],
            })
    }

    /// A tensor's values as `f32`, row-major.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        Ok(self
            .tensor(name)?
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1()?)
    }
}

fn count_non_finite(tensor: &Tensor) -> Result<usize, ModelError> {
    let values: Vec<f64> = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    Ok(values.iter().filter(|value| !value.is_finite()).count())
}
