//! A checkpoint file as named tensors: PyTorch's zip format, read as data, or safetensors.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::pickle::{Id, Node, Pickle};
use super::zip::Archive;
use crate::error::ModelError;
use crate::loader;

/// Named tensors of a checkpoint, on the CPU, in the types that it holds them in.
pub type Tensors = BTreeMap<String, Tensor>;

/// Keys under which training programs keep the weights beside other things.
const WRAPPERS: [&str; 6] = [
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "generator",
    "module",
];

/// Reads a checkpoint: a `state_dict`, or a dictionary that holds one under a usual key.
///
/// # Errors
/// [`ModelError::Read`], or [`ModelError::Checkpoint`] saying what the file is and what to do.
pub fn read(path: &Path) -> Result<Tensors, ModelError> {
    let bytes = loader::read_bytes(path)?;
    from_bytes(&bytes).map_err(|problem| ModelError::Checkpoint {
        file: path.to_owned(),
        problems: vec![problem],
    })
}

fn from_bytes(bytes: &[u8]) -> Result<Tensors, String> {
    if bytes.starts_with(b"PK\x03\x04") {
        return from_zip(bytes);
    }
    // A safetensors file begins with the length of its header, which may be these two bytes as well.
    let is_safetensors = bytes.get(8) == Some(&b'{');
    if (bytes.starts_with(&[0x80, 0x02]) && !is_safetensors) || bytes.get(257..262) == Some(b"ustar") {
        return Err(
            "a PyTorch file of the format before 1.6 (or a bare pickle), which is not read; save it again with PyTorch: \
             python -c \"import torch; torch.save(torch.load('OLD.pt', map_location='cpu'), 'NEW.pt')\""
                .into(),
        );
    }
    if bytes.starts_with(b"version https://git-lfs") {
        return Err("a Git LFS pointer, not the file itself: get it with `git lfs pull`".into());
    }
    match safetensors::SafeTensors::deserialize(bytes) {
        Ok(_) => candle_core::safetensors::load_buffer(bytes, &Device::Cpu)
            .map(|tensors| tensors.into_iter().collect())
            .map_err(|error| error.to_string()),
        Err(error) if is_safetensors => Err(format!("not a whole safetensors file: {error}")),
        Err(_) => Err(format!(
            "expected a PyTorch file in zip format (torch.save since 1.6) or a safetensors file, found neither ({} bytes)",
            bytes.len()
        )),
    }
}

fn from_zip(bytes: &[u8]) -> Result<Tensors, String> {
    let archive = Archive::new(bytes)?;
    let pickle_name = archive
        .names()
        .find(|name| name.split('/').count() <= 2 && name.ends_with("data.pkl"));
    let Some(pickle_name) = pickle_name else {
        return Err("a zip file without `data.pkl`: not what torch.save writes".into());
    };
    let prefix = pickle_name.trim_end_matches("data.pkl").to_owned();
    if archive
        .names()
        .any(|name| name.strip_prefix(&prefix) == Some("constants.pkl"))
    {
        return Err(
            "a TorchScript program; save its weights alone: \
             python -c \"import torch; torch.save(torch.jit.load('OLD.pt', map_location='cpu').state_dict(), 'NEW.pt')\""
                .into(),
        );
    }
    if let Some(order) = archive.get(&format!("{prefix}byteorder"))?
        && order != b"little"
    {
        return Err(format!(
            "byte order: expected little, found {}",
            String::from_utf8_lossy(order)
        ));
    }
    let pickle = Pickle::read(archive.get(pickle_name)?.unwrap_or(&[]))?;
    let reader = StateDict {
        pickle: &pickle,
        archive: &archive,
        prefix: &prefix,
    };
    reader.read()
}

struct StateDict<'a> {
    pickle: &'a Pickle,
    archive: &'a Archive<'a>,
    prefix: &'a str,
}

impl StateDict<'_> {
    fn read(&self) -> Result<Tensors, String> {
        let root = match self.pickle.root() {
            Node::Dict(root) => root,
            Node::Call(callable, ..) => {
                return Err(format!(
                    "holds a whole object ({}), which only its own program can rebuild; save its weights there: \
                     torch.save(model.state_dict(), 'NEW.pt')",
                    self.class(*callable)
                ));
            }
            _ => return Err("holds no dictionary of tensors: expected a state_dict".into()),
        };
        if let Some(tensors) = self.tensors(root)? {
            return Ok(tensors);
        }
        let mut found = Vec::new();
        for wrapper in WRAPPERS {
            let value = root
                .iter()
                .find(|&&(key, _)| matches!(self.pickle.get(key), Node::Text(text) if text == wrapper))
                .map(|&(_, value)| self.pickle.get(value));
            match value {
                Some(Node::Dict(inner)) => {
                    if let Some(tensors) = self.tensors(inner)? {
                        return Ok(tensors);
                    }
                }
                Some(Node::Call(callable, ..)) => {
                    found.push(format!("`{wrapper}` is an object of {}", self.class(*callable)));
                }
                _ => {}
            }
        }
        let keys: Vec<&str> = root
            .iter()
            .filter_map(|&(key, _)| match self.pickle.get(key) {
                Node::Text(text) => Some(text.as_str()),
                _ => None,
            })
            .take(12)
            .collect();
        found.push(format!("its keys: {}", keys.join(", ")));
        Err(format!(
            "no tensors at the top or under {}; {}",
            WRAPPERS.join(", "),
            found.join("; ")
        ))
    }

    fn class(&self, id: Id) -> String {
        match self.pickle.get(id) {
            Node::Global(module, name) => format!("{module}.{name}"),
            _ => "an unnamed class".into(),
        }
    }

    /// The tensors of a dictionary, or `None` when it holds none.
    fn tensors(&self, dict: &[(Id, Id)]) -> Result<Option<Tensors>, String> {
        let mut tensors = Tensors::new();
        for &(key, value) in dict {
            if let Node::Text(name) = self.pickle.get(key)
                && let Some(tensor) = self
                    .tensor(value)
                    .map_err(|problem| format!("{name}: {problem}"))?
            {
                tensors.insert(name.clone(), tensor);
            }
        }
        Ok((!tensors.is_empty()).then_some(tensors))
    }

    /// `None` for a value that is no tensor.
    fn tensor(&self, id: Id) -> Result<Option<Tensor>, String> {
        let &Node::Call(callable, arguments, _) = self.pickle.get(id) else {
            return Ok(None);
        };
        let (Node::Global(module, name), Node::Tuple(arguments)) =
            (self.pickle.get(callable), self.pickle.get(arguments))
        else {
            return Ok(None);
        };
        match (module.as_str(), name.as_str(), arguments.as_slice()) {
            ("torch._utils", "_rebuild_parameter", [data, ..]) if *data < id => self.tensor(*data),
            (
                "torch._utils",
                "_rebuild_tensor_v2" | "_rebuild_tensor",
                [storage, offset, size, stride, ..],
            ) => self.strided(*storage, *offset, *size, *stride).map(Some),
            ("torch._utils", other, _) if other.starts_with("_rebuild") => Err(format!(
                "stored by {module}.{other}: expected a plain dense tensor (quantised and sparse ones cannot be converted)"
            )),
            _ => Ok(None),
        }
    }

    fn strided(&self, storage: Id, offset: Id, size: Id, stride: Id) -> Result<Tensor, String> {
        let (dtype, bytes) = self.storage(storage)?;
        let sizes = self.numbers(size)?;
        let strides = self.numbers(stride)?;
        let &Node::Int(offset) = self.pickle.get(offset) else {
            return Err("an offset that is no number".into());
        };
        let offset = usize::try_from(offset).map_err(|_| "a negative offset".to_owned())?;
        if sizes.len() != strides.len() || sizes.len() > 8 {
            return Err(format!("{} sizes, {} strides", sizes.len(), strides.len()));
        }
        let width = dtype.size_in_bytes();
        let available = bytes.len() / width;
        let count = sizes
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size));
        let last = sizes
            .iter()
            .zip(&strides)
            .try_fold(offset, |last, (&size, &stride)| {
                last.checked_add(size.saturating_sub(1).checked_mul(stride)?)
            });
        let (Some(count), Some(last)) = (count, last) else {
            return Err(format!("sizes {sizes:?} that no file can hold"));
        };
        if count > available || (count > 0 && last >= available) {
            return Err(format!(
                "sizes {sizes:?} reach beyond a storage of {available} values"
            ));
        }
        let mut contiguous = 1;
        let is_contiguous = sizes.iter().zip(&strides).rev().all(|(&size, &stride)| {
            let fits = size <= 1 || stride == contiguous;
            contiguous *= size;
            fits
        });
        let tensor = if is_contiguous {
            let bytes = &bytes[offset * width..][..count * width];
            Tensor::from_raw_buffer(bytes, dtype, &sizes, &Device::Cpu)
        } else {
            let mut gathered = Vec::with_capacity(count * width);
            let mut index = vec![0usize; sizes.len()];
            for _ in 0..count {
                let at: usize = offset
                    + index
                        .iter()
                        .zip(&strides)
                        .map(|(i, stride)| i * stride)
                        .sum::<usize>();
                gathered.extend_from_slice(&bytes[at * width..][..width]);
                for (value, &size) in index.iter_mut().zip(&sizes).rev() {
                    *value += 1;
                    if *value < size {
                        break;
                    }
                    *value = 0;
                }
            }
            Tensor::from_raw_buffer(&gathered, dtype, &sizes, &Device::Cpu)
        };
        tensor.map_err(|error| error.to_string())
    }

    /// `('storage', class, key, location, number of values)`.
    fn storage(&self, id: Id) -> Result<(DType, &[u8]), String> {
        let Node::Persistent(reference) = self.pickle.get(id) else {
            return Err("a tensor without a storage".into());
        };
        let Node::Tuple(parts) = self.pickle.get(*reference) else {
            return Err("a storage that is described in another way than torch.save does".into());
        };
        let nodes: Vec<&Node> = parts.iter().map(|&part| self.pickle.get(part)).collect();
        let [Node::Text(_), Node::Global(_, class), Node::Text(key), ..] = nodes.as_slice() else {
            return Err("a storage that is described in another way than torch.save does".into());
        };
        let dtype = match class.as_str() {
            "FloatStorage" => DType::F32,
            "DoubleStorage" => DType::F64,
            "HalfStorage" => DType::F16,
            "BFloat16Storage" => DType::BF16,
            "LongStorage" => DType::I64,
            "IntStorage" => DType::I32,
            "ShortStorage" => DType::I16,
            "ByteStorage" | "BoolStorage" => DType::U8,
            other => {
                return Err(format!(
                    "values of type {other}: expected numbers of 16 to 64 bits"
                ));
            }
        };
        let name = format!("{}data/{key}", self.prefix);
        let bytes = self
            .archive
            .get(&name)?
            .ok_or_else(|| format!("its storage `{name}` is not in the file"))?;
        Ok((dtype, bytes))
    }

    fn numbers(&self, id: Id) -> Result<Vec<usize>, String> {
        let Node::Tuple(items) = self.pickle.get(id) else {
            return Err("a shape that is no tuple".into());
        };
        items
            .iter()
            .map(|&item| match self.pickle.get(item) {
                &Node::Int(value) => usize::try_from(value).ok(),
                _ => None,
            })
            .collect::<Option<_>>()
            .ok_or_else(|| "a shape that is not made of whole numbers".into())
    }
}
