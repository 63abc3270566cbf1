//! Which device computes. A program that is linked to the GPU driver's library does not start where there is none, so there are two
//! binaries of one source: `waxwing`, and `waxwing-cuda` beside it, to which the first hands over where that one can run.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context;
use waxwing_model::device::Device;

/// The setting `device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// A GPU where one can be used, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU, or an error.
    Cuda,
    /// An Apple GPU, or an error.
    Metal,
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            "metal" => Ok(Self::Metal),
            "gpu" | "nvidia" => {
                Err("is spelt cuda: an NVIDIA GPU; auto takes one where it can be used".into())
            }
            "apple" | "mps" => {
                Err("is spelt metal: an Apple GPU; auto takes one where it can be used".into())
            }
            _ => Err("is none of auto, cpu, cuda (an NVIDIA GPU) and metal (an Apple GPU)".into()),
        }
    }
}

/// The binary for NVIDIA GPUs.
const CUDA_BINARY: &str = "waxwing-cuda";
/// Asks a binary whether its device works; it prints the device's name and exits 0, or the reason and exits 1.
pub const PROBE_FLAG: &str = "--probe";

/// The device to load models on. Where a GPU is wanted that only the other binary can use, this does not return: the other
/// binary takes this process over, with the same arguments.
///
/// # Errors
/// When a GPU is insisted on and cannot be used, with the reason.
pub fn resolve(choice: DeviceChoice) -> anyhow::Result<Device> {
    match choice {
        DeviceChoice::Cpu => return Ok(Device::Cpu),
        DeviceChoice::Metal => {
            return probe_metal().map_err(|reason| {
                anyhow::anyhow!(
                    "no Apple GPU can be used: {reason:#}\n\nhint: `--device cpu` serves on the CPU; on a Mac, `cargo build --release --features metal` builds for its GPU"
                )
            });
        }
        DeviceChoice::Auto if cfg!(feature = "metal") => {
            return Ok(probe_metal().unwrap_or_else(|reason| {
                tracing::info!(reason = format!("{reason:#}"), "computing on the CPU");
                Device::Cpu
            }));
        }
        DeviceChoice::Auto | DeviceChoice::Cuda => {}
    }
    let reason = match probe() {
        Ok(device) => return Ok(device),
        Err(_) if !cfg!(feature = "cuda") => match probe_other() {
            Ok(binary) => hand_over(&binary),
            Err(reason) => reason,
        },
        Err(reason) => reason,
    };
    match choice {
        DeviceChoice::Cuda => Err(anyhow::anyhow!(
            "no NVIDIA GPU can be used: {reason:#}\n\nhint: `--device cpu` serves on the CPU"
        )),
        _ => {
            tracing::info!(reason = format!("{reason:#}"), "computing on the CPU");
            Ok(Device::Cpu)
        }
    }
}

/// Opens this binary's GPU and computes something on it.
///
/// # Errors
/// The driver's own message.
pub fn probe() -> anyhow::Result<Device> {
    let device = waxwing_model::device::cuda(0)?;
    waxwing_model::device::check(&device)?;
    Ok(device)
}

/// Opens this machine's Apple GPU and computes something on it.
fn probe_metal() -> anyhow::Result<Device> {
    let device = waxwing_model::device::metal(0)?;
    waxwing_model::device::check(&device)?;
    Ok(device)
}

/// What `doctor` says of GPUs.
///
/// # Errors
/// Why none is used.
pub fn describe() -> anyhow::Result<String> {
    if cfg!(feature = "cuda") {
        return probe().map(|_| "an NVIDIA GPU".to_string());
    }
    if cfg!(feature = "metal") {
        return probe_metal().map(|_| "an Apple GPU".to_string());
    }
    probe_other().map(|binary| format!("an NVIDIA GPU, by {}", binary.display()))
}

/// The path of the other binary, if it says that its GPU works.
fn probe_other() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let binary = own.with_file_name(CUDA_BINARY);
    anyhow::ensure!(
        binary.is_file(),
        "this binary computes on the CPU, and {} is not there",
        binary.display()
    );
    let output = Command::new(&binary)
        .arg(PROBE_FLAG)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} cannot be started", binary.display()))?;
    if output.status.success() {
        return Ok(binary);
    }
    let message = String::from_utf8_lossy(&output.stderr);
    anyhow::bail!("{}: {}", binary.display(), message.trim())
}

/// Becomes the other binary. Returns the reason when that fails.
fn hand_over(binary: &std::path::Path) -> anyhow::Error {
    use std::os::unix::process::CommandExt;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let error = Command::new(binary).args(arguments).exec();
    anyhow::Error::new(error).context(format!("{} cannot be started", binary.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_needs_no_probe() {
        assert!(matches!(resolve(DeviceChoice::Cpu), Ok(Device::Cpu)));
    }

    #[cfg(not(feature = "metal"))]
    #[test]
    fn insisting_on_metal_says_how_to_build_for_it() {
        let error = format!("{:#}", resolve(DeviceChoice::Metal).unwrap_err());
        assert!(error.contains("--features metal"), "{error}");
        assert!(error.contains("--device cpu"), "{error}");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn insisting_on_a_gpu_that_is_not_there_says_why_and_what_to_do() {
        let error = format!("{:#}", resolve(DeviceChoice::Cuda).unwrap_err());
        assert!(error.contains("no NVIDIA GPU can be used"), "{error}");
        assert!(error.contains("--device cpu"), "{error}");
        assert!(matches!(resolve(DeviceChoice::Auto), Ok(Device::Cpu)));
    }
}
