//! The devices that an encoder can run on: the CPU, NVIDIA GPUs when the crate is built with `cuda`, and Apple's when it is built with `metal`.

use candle_core::Tensor;

pub use candle_core::Device;

use crate::error::ModelError;

/// Opens an NVIDIA GPU by its number.
///
/// # Errors
/// [`ModelError::Tensor`] with the driver's message, or that this build has no CUDA.
pub fn cuda(ordinal: usize) -> Result<Device, ModelError> {
    Ok(Device::new_cuda(ordinal)?)
}

/// Opens an Apple GPU by its number. It runs the same operations as the CUDA executor; nobody has tried it yet.
///
/// # Errors
/// [`ModelError::Tensor`] with the system's message, or that this build has no Metal.
pub fn metal(ordinal: usize) -> Result<Device, ModelError> {
    Ok(Device::new_metal(ordinal)?)
}

/// Computes a small product on a device and looks at the result: whether its libraries and kernels work.
///
/// # Errors
/// [`ModelError::Tensor`] when they do not; [`ModelError::Input`] when they work and err.
pub fn check(device: &Device) -> Result<(), ModelError> {
    let ones = Tensor::ones((16, 32), candle_core::DType::F32, device)?;
    let product = ones.matmul(&ones.t()?)?.gelu_erf()?;
    let sum: f32 = product.mean_all()?.to_scalar()?;
    if (sum - 32.0).abs() < 1e-3 {
        return Ok(());
    }
    Err(ModelError::Input {
        name: "product of ones on the device",
        expected: "32".into(),
        actual: sum.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_computes() {
        check(&Device::Cpu).unwrap();
    }
}
