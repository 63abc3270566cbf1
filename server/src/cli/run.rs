//! `waxwing run`: the module of a model directory on named tensors, for comparison with other implementations.

use std::path::PathBuf;

use clap::Args;
use waxwing_model::module::run_file;

use super::Outcome;

/// Run any module of a model directory on the tensors of a file
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Model directory
    #[arg(value_name = "DIR")]
    model: PathBuf,
    /// Tensors by the names that the module takes
    #[arg(long, value_name = "FILE")]
    inputs: PathBuf,
    /// Receives the module's results
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    Ok(run_file(&arguments.model, &arguments.inputs, &arguments.output)?)
}
