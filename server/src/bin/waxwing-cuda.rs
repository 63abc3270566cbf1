//! The command `waxwing-cuda`: `waxwing`, linked to the driver of NVIDIA GPUs.

use std::process::ExitCode;

fn main() -> ExitCode {
    waxwing_server::cli::run(std::env::args_os())
}
