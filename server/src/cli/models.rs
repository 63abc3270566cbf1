//! `waxwing models`: what is in the binary or in directories.

use std::io::Write;

use clap::Args;

use super::Outcome;
use waxwing_model::device::Device;

use crate::catalog;

/// List the models, or show one
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Ids of built-in models or model directories to show; all built-in ones are listed without
    #[arg(value_name = "DIR|ID")]
    names: Vec<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let names = if arguments.names.is_empty() {
        catalog::built_in_ids().map(String::from).collect()
    } else {
        arguments.names.clone()
    };
    let mut out = std::io::stdout().lock();
    for model in catalog::load(&names, &Device::Cpu)? {
        let (geometry, latency) = (model.geometry(), catalog::latency(&model));
        let state_kib = model.new_state().host_bytes() / 1024;
        if arguments.json {
            let facts = serde_json::json!({
                "id": model.id(), "sample_rate": model.sample_rate_hz(), "tokens": model.tokens().len(),
                "latency_ms": latency, "state_kib": state_kib, "features": geometry.num_features,
                "streaming": model.cannot_stream().is_none(),
            });
            writeln!(out, "{facts}")?;
        } else if arguments.names.is_empty() {
            writeln!(out, "{}", model.id())?;
        } else if let Some(reason) = model.cannot_stream() {
            writeln!(
                out,
                "{}\n  rate     {} Hz\n  streams  no: {reason}; it takes whole recordings\n  tokens   {}",
                model.id(),
                model.sample_rate_hz(),
                model.tokens().len(),
            )?;
        } else {
            writeln!(
                out,
                "{}\n  rate     {} Hz\n  segment  {} ms, and {} ms of right context\n  tokens   {}\n  state    {state_kib} KiB a session",
                model.id(),
                model.sample_rate_hz(),
                latency.segment,
                latency.right_context,
                model.tokens().len(),
            )?;
        }
    }
    Ok(out.flush()?)
}
