//! `waxwing encode`: the encoder of a model directory on tensors, for comparison with other implementations.

use std::path::PathBuf;

use clap::Args;
use waxwing_model::encode::{Mode, encode_file};

use super::Outcome;

/// Run a model's encoder on the tensors of a file
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Model directory
    #[arg(value_name = "DIR")]
    model: PathBuf,
    /// `features` (batch, frames + right context, features) f32 and `lengths` (batch) i64 without the right context
    #[arg(long, value_name = "FILE")]
    features: PathBuf,
    /// Step through the state cache instead of computing the whole utterance
    #[arg(long)]
    streaming: bool,
    /// Receives `output` (batch, frames, dims) f32 and `lengths` (batch) i64
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let mode = if arguments.streaming {
        Mode::Streaming
    } else {
        Mode::Whole
    };
    Ok(encode_file(
        &arguments.model,
        &arguments.features,
        mode,
        &arguments.output,
    )?)
}
