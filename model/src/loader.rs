//! Tensors of a model directory, checked before anything is built from them.
//!
//! Every problem is collected, so that one attempt to start says all that is wrong with a file: missing and
//! unexpected tensors, shapes, types, values that are not finite.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::error::ModelError;

/// Name of the weights' file in a model directory.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// Behind the name of a tensor of 8-bit integers: the name of its rows' scales.
const SCALE: &str = ".scale";

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
    /// A tensor of two dimensions or more may be stored as 8-bit integers: `NAME` of type I8 and, beside it, `NAME.scale`,
    /// F16 or F32 with one value for each of its rows (the first dimension). It becomes `f32`, each integer times its row's scale. A matrix may also be stored in
    /// 6 bits: type U8 and shape `(rows, columns / 4, 3)`, four integers from −32 to 31 in three bytes, each with 32 added, the lowest bits first.
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
            let is_packed = is_packed(&view, shape);
            if !is_packed && view.shape() != shape.as_slice() {
                problems.push(format!(
                    "{file_name}: {name}: expected shape {shape:?}, found {:?}",
                    view.shape()
                ));
                continue;
            }
            let tensor = match view.dtype() {
                Dtype::F16 => stored(&view, DType::F16)?,
                Dtype::BF16 => stored(&view, DType::BF16)?,
                Dtype::F32 => stored(&view, DType::F32)?,
                Dtype::F64 => stored(&view, DType::F64)?,
                Dtype::I8 | Dtype::U8 if is_packed || (view.dtype() == Dtype::I8 && shape.len() > 1) => {
                    match scaled(&file, name, &view) {
                        Ok(values) => Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?,
                        Err(problem) => {
                            problems.push(format!("{file_name}: {name}{SCALE}: {problem}"));
                            continue;
                        }
                    }
                }
                other => {
                    problems.push(format!(
                        "{file_name}: {name}: expected type F16, BF16, F32 or F64, found {other:?}"
                    ));
                    continue;
                }
            };
            let tensor = tensor.to_dtype(dtype)?;
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
            .filter(|name| !is_scale(&file, name))
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

/// A tensor of floating-point numbers as it is in the file.
fn stored(view: &TensorView<'_>, dtype: DType) -> Result<Tensor, ModelError> {
    Ok(Tensor::from_raw_buffer(
        view.data(),
        dtype,
        view.shape(),
        &Device::Cpu,
    )?)
}

/// Whether a tensor is the scale of one of 8-bit integers.
fn is_scale(file: &SafeTensors<'_>, name: &str) -> bool {
    let of = name.strip_suffix(SCALE).and_then(|of| file.tensor(of).ok());
    of.is_some_and(|of| match of.dtype() {
        Dtype::I8 => of.shape().len() > 1,
        Dtype::U8 => matches!(of.shape(), [_, _, BYTES_OF_FOUR]),
        _ => false,
    })
}

/// Bytes that hold four integers of 6 bits.
const BYTES_OF_FOUR: usize = 3;

/// Whether a tensor is a matrix of this shape in 6 bits.
fn is_packed(view: &TensorView<'_>, shape: &[usize]) -> bool {
    match shape {
        &[rows, columns] => {
            view.dtype() == Dtype::U8
                && columns % 4 == 0
                && view.shape() == [rows, columns / 4, BYTES_OF_FOUR]
        }
        _ => false,
    }
}

/// The integers of a tensor of 8 or 6 bits.
fn integers(view: &TensorView<'_>) -> Vec<i8> {
    if view.dtype() == Dtype::I8 {
        return view.data().iter().map(|&byte| byte as i8).collect();
    }
    let fours = view.data().as_chunks::<BYTES_OF_FOUR>().0.iter();
    let unpack = |&[low, middle, high]: &[u8; BYTES_OF_FOUR]| {
        let bits = u32::from_le_bytes([low, middle, high, 0]);
        [0, 6, 12, 18].map(|place| (bits >> place & 63) as i8 - 32)
    };
    fours.flat_map(unpack).collect()
}

/// Values of a tensor of integers, each row times its scale; or what is wrong with the scale.
fn scaled(file: &SafeTensors<'_>, name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, String> {
    let rows = view.shape().first().copied().unwrap_or(0);
    let scale = file.tensor(&format!("{name}{SCALE}")).map_err(|_| {
        format!("missing, expected type F16 or F32 of shape [{rows}] beside a tensor of integers")
    })?;
    let dtype = match scale.dtype() {
        Dtype::F16 => Some(DType::F16),
        Dtype::F32 => Some(DType::F32),
        _ => None,
    };
    let Some(dtype) = dtype.filter(|_| scale.shape() == [rows]) else {
        let (dtype, shape) = (scale.dtype(), scale.shape());
        return Err(format!(
            "expected type F16 or F32 of shape [{rows}], found {dtype:?} of {shape:?}"
        ));
    };
    let scales =
        stored(&scale, dtype).and_then(|scales| Ok(scales.to_dtype(DType::F32)?.to_vec1::<f32>()?));
    let scales = scales.map_err(|error| error.to_string())?;
    let bad = scales.iter().filter(|scale| !scale.is_finite()).count();
    if bad > 0 {
        return Err(format!(
            "expected finite values, found {bad} that are infinite or not a number"
        ));
    }
    let integers = integers(view);
    let columns = integers.len() / rows.max(1);
    let mut values = Vec::with_capacity(integers.len());
    for (row, scale) in integers.chunks_exact(columns.max(1)).zip(scales) {
        values.extend(row.iter().map(|&integer| f32::from(integer) * scale));
    }
    Ok(values)
}

fn count_non_finite(tensor: &Tensor) -> Result<usize, ModelError> {
    let values: Vec<f64> = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    Ok(values.iter().filter(|value| !value.is_finite()).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of<T, const N: usize>(values: &[T], bytes: impl Fn(&T) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(bytes).collect()
    }

    /// A file with tensors of a type, a shape and bytes.
    fn file(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> Vec<u8> {
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap())
        });
        safetensors::serialize(views, None).unwrap()
    }

    fn bytes_of_integers(values: &[i8]) -> Vec<u8> {
        bytes_of(values, |value| value.to_le_bytes())
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        bytes_of(values, |value| value.to_le_bytes())
    }

    const INTEGERS: [i8; 6] = [-128, -1, 0, 1, 64, 127];

    fn expected() -> Vec<Expected> {
        vec![("a.weight".into(), vec![2, 3]), ("a.bias".into(), vec![2])]
    }

    #[test]
    fn eight_bits_are_read_as_the_floats_that_they_stand_for() {
        let bias = ("a.bias", Dtype::F32, [2].as_slice(), floats(&[1.0, 2.0]));
        let bytes = file(&[
            ("a.weight", Dtype::I8, &[2, 3], bytes_of_integers(&INTEGERS)),
            ("a.weight.scale", Dtype::F32, &[2], floats(&[0.5, -0.25])),
            bias.clone(),
        ]);
        let weights = Weights::from_safetensors(&bytes, &expected()).unwrap();
        assert_eq!(weights.dtype(), DType::F32);
        assert_eq!(
            weights.values("a.weight").unwrap(),
            [-64.0, -0.5, 0.0, -0.25, -16.0, -31.75]
        );
        assert_eq!(weights.tensor("a.weight").unwrap().dims(), [2, 3]);
        assert!(weights.tensor("a.weight.scale").is_err());

        // A convolution's rows are its outputs; beside an f64 all tensors are f64.
        let bytes = file(&[
            ("a.weight", Dtype::I8, &[2, 1, 3], bytes_of_integers(&INTEGERS)),
            ("a.weight.scale", Dtype::F32, &[2], floats(&[0.5, -0.25])),
            (
                "a.bias",
                Dtype::F64,
                &[2],
                bytes_of(&[1.0f64, 2.0], |value| value.to_le_bytes()),
            ),
        ]);
        let expected = [("a.weight".into(), vec![2, 1, 3]), ("a.bias".into(), vec![2])];
        let weights = Weights::from_safetensors(&bytes, &expected).unwrap();
        assert_eq!(weights.tensor("a.weight").unwrap().dtype(), DType::F64);
        assert_eq!(
            weights.values("a.weight").unwrap(),
            [-64.0, -0.5, 0.0, -0.25, -16.0, -31.75]
        );

        // Nothing is divided by where there is nothing.
        let bytes = file(&[
            ("a", Dtype::I8, &[0, 3], Vec::new()),
            ("a.scale", Dtype::F32, &[0], Vec::new()),
            ("b", Dtype::I8, &[2, 0], Vec::new()),
            ("b.scale", Dtype::F32, &[2], floats(&[1.0, 1.0])),
        ]);
        let expected = [("a".into(), vec![0, 3]), ("b".into(), vec![2, 0])];
        assert!(
            Weights::from_safetensors(&bytes, &expected)
                .unwrap()
                .values("b")
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn six_bits_are_read_as_the_floats_that_they_stand_for() {
        let pack = |four: [u32; 4]| {
            let bits = (0..4).fold(0, |bits, index| bits | four[index] << (6 * index));
            bits.to_le_bytes()[..3].to_vec()
        };
        let bytes = [pack([0, 63, 32, 33]), pack([1, 2, 3, 4])].concat();
        let load = |shape: &[usize], expected: &[usize]| {
            let file = file(&[
                ("a", Dtype::U8, shape, bytes.clone()),
                (
                    "a.scale",
                    Dtype::F16,
                    &[2],
                    bytes_of(&[0x3800_u16, 0xBC00], |half| half.to_le_bytes()),
                ),
            ]);
            Weights::from_safetensors(&file, &[("a".into(), expected.to_vec())])
        };
        let weights = load(&[2, 1, 3], &[2, 4]).unwrap();
        assert_eq!(
            weights.values("a").unwrap(),
            [-16.0, 15.5, 0.0, 0.5, 31.0, 30.0, 29.0, 28.0]
        );
        for (shape, expected) in [
            (vec![2, 1, 3], vec![2, 3]),
            (vec![2, 3], vec![2, 4]),
            (vec![1, 2, 3], vec![2, 4]),
        ] {
            let error = load(&shape, &expected).unwrap_err().to_string();
            assert!(error.contains("a: expected shape"), "{error}");
        }
    }

    #[test]
    fn every_problem_of_eight_bits_is_named() {
        let weight = |shape: &'static [usize]| ("a.weight", Dtype::I8, shape, bytes_of_integers(&INTEGERS));
        let bias = ("a.bias", Dtype::F32, [2].as_slice(), floats(&[1.0, 2.0]));
        let scale = |dtype, shape: &'static [usize], bytes| ("a.weight.scale", dtype, shape, bytes);
        let ones = |count: usize| floats(&vec![1.0; count]);
        for (tensors, problems) in [
            (
                vec![weight(&[2, 3]), bias.clone()],
                vec!["a.weight.scale: missing, expected type F16 or F32 of shape [2]"],
            ),
            (
                vec![weight(&[2, 3]), scale(Dtype::F32, &[3], ones(3)), bias.clone()],
                vec!["a.weight.scale: expected type F16 or F32 of shape [2], found F32 of [3]"],
            ),
            (
                vec![weight(&[2, 3]), scale(Dtype::F32, &[2, 1], ones(2)), bias.clone()],
                vec!["a.weight.scale: expected type F16 or F32 of shape [2], found F32 of [2, 1]"],
            ),
            (
                vec![
                    weight(&[2, 3]),
                    scale(Dtype::BF16, &[2], vec![0; 4]),
                    bias.clone(),
                ],
                vec!["a.weight.scale: expected type F16 or F32 of shape [2], found BF16 of [2]"],
            ),
            (
                vec![
                    weight(&[2, 3]),
                    scale(Dtype::F32, &[2], floats(&[f32::NAN, f32::INFINITY])),
                    bias.clone(),
                ],
                vec!["a.weight.scale: expected finite values, found 2"],
            ),
            (
                vec![weight(&[3, 2]), scale(Dtype::F32, &[3], ones(3)), bias.clone()],
                vec!["a.weight: expected shape [2, 3], found [3, 2]"],
            ),
            (
                vec![
                    ("a.weight", Dtype::F32, &[2, 3], ones(6)),
                    scale(Dtype::F32, &[2], ones(2)),
                    bias.clone(),
                ],
                vec!["a.weight.scale: not a tensor of this architecture"],
            ),
            (
                vec![
                    weight(&[2, 3]),
                    scale(Dtype::F32, &[2], ones(2)),
                    ("a.bias", Dtype::I8, &[2], bytes_of_integers(&[1, 2])),
                    ("a.bias.scale", Dtype::F32, &[2], ones(2)),
                ],
                vec![
                    "a.bias: expected type F16, BF16, F32 or F64, found I8",
                    "a.bias.scale: not a tensor of this architecture",
                ],
            ),
            (
                vec![
                    ("a.weight", Dtype::U8, &[2, 3], vec![0; 6]),
                    scale(Dtype::F32, &[2], ones(2)),
                    bias.clone(),
                ],
                vec!["a.weight: expected type F16, BF16, F32 or F64, found U8"],
            ),
        ] {
            let error = Weights::from_safetensors(&file(&tensors), &expected())
                .unwrap_err()
                .to_string();
            for problem in problems {
                assert!(error.contains(problem), "{problem}: {error}");
            }
        }
    }
}
